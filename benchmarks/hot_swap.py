"""Age of the frames of a 30 fps stream while its bundle is exchanged: prepared in a process of its own, or in this one.

    python -m benchmarks.hot_swap FILE.edge [--rounds 10]

Both ways and a stretch without an exchange take turns in one stream. Prints n, median, p99 and maximum of the age.
"""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from edge_runtime import (
    ArraySource,
    CallbackSink,
    FixedPolicy,
    PacedSource,
    Pipeline,
    PipelineError,
    load,
    swap_bundle,
)

__all__ = ["main"]

_AFTER_NS = 70_000_000  # frames that arrive so long after an exchange still belong to it


def measure(path: Path, rounds: int) -> dict[str, tuple[list[float], list[float]]]:
    """For each way the ages in ms of the frames meanwhile, and how long it took in ms each time."""
    seen: list[tuple[int, int]] = []
    images = np.random.default_rng(0).integers(0, 256, (30, 600, 800), np.uint8)
    pipeline = Pipeline(
        {"seg": load(path).branch(budget_ms=33.3, policy=FixedPolicy)},
        sinks={
            "ages": CallbackSink(lambda result: seen.append((result.frame.arrival_ns, result.done_ns)), capacity=64)
        },
    )
    stream = threading.Thread(target=lambda: pipeline.run(PacedSource(ArraySource(images), fps=30, loop_s=3600)))
    ways: dict[str, Callable[[], object]] = {
        "none": lambda: time.sleep(0.7),
        "in this process": lambda: pipeline.swap("seg", lambda: load(path).branch(policy=FixedPolicy), trial_frames=0),
        "in its own": lambda: swap_bundle(pipeline, "seg", path, trial_frames=0),
    }
    spans: dict[str, list[tuple[int, int]]] = {name: [] for name in ways}
    stream.start()
    try:
        while len(seen) < 60:
            time.sleep(0.05)
            if not stream.is_alive():
                raise PipelineError("the stream ended before anything was measured")
        for _ in range(rounds):
            for name, way in ways.items():
                time.sleep(0.5)
                start_ns = time.monotonic_ns()
                way()
                spans[name].append((start_ns, time.monotonic_ns()))
        time.sleep(0.2)
    finally:
        pipeline.stop()
        stream.join()
    return {
        name: (
            [(done - at) / 1e6 for at, done in seen if any(a <= done and at <= b + _AFTER_NS for a, b in found)],
            [(b - a) / 1e6 for a, b in found],
        )
        for name, found in spans.items()
    }


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--rounds", type=int, default=10)
    asked = parser.parse_args()
    print(f"{'exchange':16}{'frames':>8}{'p50 ms':>8}{'p99 ms':>8}{'max ms':>8}{'over 33.3':>10}{'takes ms':>10}")
    for name, (ages, took) in measure(asked.file, asked.rounds).items():
        p50, p99 = np.percentile(ages, [50, 99])
        late = sum(age > 33.3 for age in ages)
        print(f"{name:16}{len(ages):8}{p50:8.1f}{p99:8.1f}{max(ages):8.1f}{late:10}{np.median(took):10.0f}")


if __name__ == "__main__":
    main()
