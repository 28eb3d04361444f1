"""Rows without a rival: recovery from a stall, endurance, lossless equality on every clip, the ledger under abuse."""

from __future__ import annotations

import hashlib
import os
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from benchmarks.figures import Figure
from edge_runtime.errors import CorruptFrameError, EdgeError, PipelineError
from edge_runtime.frame import Frame
from edge_runtime.loading import load
from edge_runtime.postprocess import MaskPostprocessor
from edge_runtime.preprocess import Letterbox, Normalize, Preprocessor, PreprocessSpec
from edge_runtime.result import Result
from edge_runtime.runners.fake import FakeRunner
from edge_runtime.sinks import CallbackSink, JsonlSink, Sink
from edge_runtime.sources import ArraySource, Fault, FaultSource, PacedSource, Source, open_source
from edge_runtime.streaming import Branch, ErrorPolicy, Pipeline, Rung, StreamReport
from edge_runtime.streaming.failing import OnError
from edge_runtime.streaming.watchdog import resident_bytes

__all__ = ["measure_endurance", "measure_ledger_property", "measure_lossless", "measure_stall"]

BUNDLE = Path(__file__).parents[2] / "examples" / "fetal_head" / "fetal_head.edge"
SMALL = BUNDLE.parents[2] / "tests" / "data" / "v1.edge"
STALL_MS = 500.0
FPS = 30.0
IN_FLIGHT = 32  # at the very end the capture thread has gone already


def _student() -> Branch:
    """The shipped student, its first rung, one thread."""
    return load(BUNDLE, variant="fp32", verify=False).branch()


def _small() -> Branch:
    """The network of the bundle that every version must read: quick, so that it is the streaming that is tried."""
    return load(SMALL, variant="fp32", verify=False).branch()


def _speckle(n: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (n, 240, 320), np.uint8)


def measure_stall(repeats: int = 12) -> list[Figure]:
    """One stall of 500 ms, in the model and in the source: how many results follow it that are older than before.

    A result is as before when its age, arrival to delivery, is at most the 95th percentile of the 30 before the stall
    plus half a frame.
    """
    figures = []
    for where in ("model", "source"):
        counts, lost, ages = [], [], []
        for _ in range(repeats):
            found = _one_stall(where)
            counts.append(found["older"])
            lost.append(found["dropped"])
            ages.append(found["usual_ms"])
        figures.append(
            Figure(
                name=f"results older than before, after {STALL_MS:.0f} ms in the {where}",
                value=float(statistics.median(counts)),
                goal="<= 2 frames",
                unit="frames",
                n=repeats,
                met=statistics.median(counts) <= 2,
                spread=f"{min(counts)} to {max(counts)}",
                detail={"dropped": lost, "usual_age_ms": [round(age, 2) for age in ages], "older": counts},
            )
        )
    return figures


def _one_stall(where: str) -> dict[str, Any]:
    at, ages = 45, list[tuple[int, float]]()

    def stall(result: Result) -> None:
        if where == "model" and result.frame.index == at:
            time.sleep(STALL_MS / 1e3)

    def note(result: Result) -> None:
        ages.append((result.frame.index, (time.monotonic_ns() - result.frame.arrival_ns) / 1e6))

    source: Source = PacedSource(ArraySource(_speckle(90), fps=FPS))
    if where == "source":
        source = FaultSource(source, [Fault(kind="stall", at=at, ms=STALL_MS)])
    branch = replace(_student(), refine=stall)
    report = Pipeline({"seg": branch}, sinks={"age": CallbackSink(note, capacity=90)}).run(source)
    if not report.balances:
        raise PipelineError(f"the ledger does not balance after a stall in the {where}")
    before = [age for index, age in ages if 15 <= index < at]
    usual = float(np.percentile(before, 95)) + 500 / FPS
    after = [age for index, age in ages if index > at]
    older = next((k for k, age in enumerate(after) if age <= usual), len(after))
    dropped = sum(report.branches["seg"].ledger.dropped.values())
    return {"older": older, "dropped": dropped, "usual_ms": float(np.median(before))}


class _Endless(Source):
    """`n` frames out of a few in memory, as fast as they are taken."""

    def __init__(self, n: int) -> None:
        super().__init__(name="endless", frame_count=n)
        self._images, self._n, self._index = _speckle(8), n, 0

    def _next(self) -> Frame | None:
        index, self._index = self._index, self._index + 1
        if index >= self._n:
            return None
        return Frame(image=self._images[index % 8].copy(), index=index, arrival_ns=self._clock.now_ns())


def measure_endurance(frames: int = 100_000) -> list[Figure]:
    """Unpaced frames through a small network, a record and a callback: memory, descriptors and threads every 1 %.

    Slopes are least squares over the last four fifths.
    """
    looks: list[tuple[int, int, int, int]] = []
    step = max(1, frames // 100)

    def look(result: Result) -> None:
        if result.frame.index % step == 0 and result.frame.index < frames - IN_FLIGHT:
            looks.append((result.frame.index, resident_bytes() or 0, _descriptors(), threading.active_count()))

    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        sinks: dict[str, Sink] = {
            "record": JsonlSink(Path(folder) / "r.jsonl", sync_every=1000),
            "look": CallbackSink(look),
        }
        report = Pipeline({"seg": _small()}, sinks=sinks).run(_Endless(frames))
    late = np.array(looks[len(looks) // 5 :], np.float64)
    n, seconds = report.branches["seg"].ledger.fresh, time.monotonic() - start
    memory = np.polyfit(late[:, 0] / 1e3, late[:, 1] / 1024, 1)[0]
    descriptors = np.polyfit(late[:, 0] / 1e3, late[:, 2], 1)[0]
    threads = {int(count) for count in late[:, 3]}
    grown = (late[-1, 1] - late[0, 1]) / 2**20
    whole = n == frames and report.balances
    detail = {"mib": [round(row[1] / 2**20, 2) for row in looks[::10]], "seconds": round(seconds, 1)}
    common: dict[str, Any] = {"n": n, "detail": detail}
    return [
        Figure(
            name="slope of the resident memory",
            value=float(memory),
            goal="flat: <= 10 KiB per 1,000 frames",
            unit="KiB per 1,000 frames",
            met=bool(whole and memory <= 10),
            spread=f"{grown:+.2f} MiB over the last 80 %",
            **common,
        ),
        Figure(
            name="slope of the file descriptors",
            value=float(descriptors),
            goal="flat: 0",
            unit="per 1,000 frames",
            met=bool(whole and abs(descriptors) < 1e-6),
            spread=f"{int(late[:, 2].min())} to {int(late[:, 2].max())} open",
            **common,
        ),
        Figure(
            name="thread count constant",
            value=len(threads) == 1,
            goal="yes",
            unit="",
            met=bool(whole and len(threads) == 1),
            spread=f"{sorted(threads)} threads",
            **common,
        ),
    ]


def _descriptors() -> int:
    """Open files of this process, without those through which it looks at itself."""
    count = 0
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # closed in the meantime
            count += not os.readlink(f"/proc/self/fd/{name}").startswith("/proc/")
    return count


def clips(root: Path) -> Iterator[Path]:
    """Every file under `root` that opens as more than one frame."""
    for path in sorted(item for item in root.rglob("*") if item.is_file() and item.suffix not in (".png", ".jpg")):
        try:
            with open_source(path) as source:
                several = source.frame_count is None or source.frame_count > 1
        except EdgeError:
            continue
        if several:
            yield path


def measure_lossless(root: Path | None = None) -> list[Figure]:
    """Mask, probability and areas of every frame of every clip of the data, pipeline against a plain loop."""
    where = root or (Path(os.environ["POCUS_DATA"]) if "POCUS_DATA" in os.environ else None)
    goal = "bit-equal on every clip"
    if where is None:
        reason = "POCUS_DATA is not set"
        return [Figure(name="clips that differ", value=None, goal=goal, unit="clips", n=0, met=None, reason=reason)]
    differ, frames, seen = list[str](), 0, 0
    for path in clips(where):
        with open_source(path) as source:
            wanted = _plain_loop(_small(), source)
        with open_source(path) as source:
            found = _streamed(_small(), source)
        seen, frames = seen + 1, frames + len(wanted)
        if found != wanted:
            differ.append(str(path.relative_to(where)))
    value, met = (float(len(differ)), not differ) if frames else (None, None)
    reason, spread = "" if frames else "no clip could be read", f"{frames} frames"
    detail: dict[str, object] = {"differ": differ}
    return [
        Figure(
            name="clips that differ", value=value, goal=goal, unit="clips", n=seen, met=met, spread=spread,
            reason=reason, detail=detail,
        )
    ]  # fmt: skip


def _digest(index: int, mask: Any, probability: Any, areas: object) -> tuple[int, str]:
    digest = hashlib.sha256(repr(areas).encode())
    for array in (mask, probability):
        digest.update(b"none" if array is None else np.ascontiguousarray(array).tobytes())
    return index, digest.hexdigest()


def _plain_loop(branch: Branch, source: Source) -> list[tuple[int, str]]:
    """One frame after the other, without the streaming core; a frame that cannot be decoded or worked on has none."""
    rung, found = branch.rungs[0], list[tuple[int, str]]()
    branch.preprocess.reset()
    with rung.runner:
        while True:
            try:
                frame = source.read()
            except CorruptFrameError:
                continue
            if frame is None:
                return found
            try:
                prepared = branch.preprocess(frame)
                outputs = rung.runner.infer({rung.runner.input.name: prepared.tensor})
                done = rung.postprocess(outputs, prepared, frame, mask_out=None, probability_out=None)
            except EdgeError:
                found.append((frame.index, "failed"))
            else:
                found.append(_digest(frame.index, done.mask, done.probability, done.areas))


def _streamed(branch: Branch, source: Source) -> list[tuple[int, str]]:
    pipeline = Pipeline({"seg": branch}, warm_up_runs=0, freeze_gc=False)
    return [
        (r.frame.index, "failed") if r.state == "failed" else _digest(r.frame.index, r.mask, r.probability, r.areas)
        for r in pipeline.stream(source)
    ]


def _fake_branch(*runners: FakeRunner, **options: Any) -> Branch:
    spec = PreprocessSpec(steps=(Letterbox(height=64, width=64), Normalize()))
    rungs = tuple(Rung(runner=runner, postprocess=MaskPostprocessor(runner.outputs[0])) for runner in runners)
    return Branch(preprocess=Preprocessor(spec), rungs=rungs, **options)


def measure_ledger_property(runs: int = 1000, *, limit_s: float = 30.0) -> list[Figure]:
    """Random runs: stalls, corrupt frames, lost sources, failing models, slow and failing sinks, stops at any moment.

    A run that has not ended after `limit_s`, or that a bug ended, counts as hung. Seeds are 0, 1, ...
    """
    unbalanced, hung, open_frames, arrived = list[int](), list[int](), list[int](), 0
    for seed in range(runs):
        box: list[StreamReport] = []
        thread = threading.Thread(target=_into, args=(box, seed), daemon=True)
        thread.start()
        thread.join(limit_s)
        if not box:
            hung.append(seed)
            continue
        branches, sinks = box[0].branches.values(), box[0].sinks.values()
        arrived += sum(branch.ledger.arrived for branch in branches)
        if not box[0].balances:
            unbalanced.append(seed)
        in_flight = sum(b.ledger.in_flight for b in branches) + sum(sink.ledger.in_flight for sink in sinks)
        if in_flight or any(branch.pool_held for branch in branches):
            open_frames.append(seed)
    bad = len({*unbalanced, *hung, *open_frames})
    return [
        Figure(
            name="runs whose ledger does not balance, leaves a frame open, or that hang",
            value=float(bad),
            goal="0 of 1,000 runs",
            unit="runs",
            n=runs,
            met=bad == 0,
            spread=f"{arrived} arrivals",
            detail={"unbalanced": unbalanced, "hung": hung, "left_open": open_frames},
        )
    ]


def _into(box: list[StreamReport], seed: int) -> None:
    box.append(random_run(seed))


def random_run(seed: int) -> StreamReport:
    """One run as `seed` says; its report, whatever ended it."""
    rng = random.Random(seed)
    n = rng.randint(1, 60)
    source: Source = ArraySource(_speckle(8)[np.arange(n) % 8, :160, :160], fps=1000.0)
    if rng.random() < 0.6:
        source = PacedSource(source)
    source = FaultSource(source, _faults(rng, n), seed=seed)
    runners = [
        FakeRunner(
            latency_ms=[rng.choice((0.0, 0.0, 1.0, 3.0)) for _ in range(n + 1)],
            fail_at=[k for k in range(n) if rng.random() < 0.1],
            variant=f"rung{k}",
        )
        for k in range(rng.randint(1, 3))
    ]
    answers: tuple[OnError, ...] = ("skip", "substitute", "restart", "raise")
    errors = ErrorPolicy(infer=rng.choice(answers), give_up_after=rng.choice((None, None, 3)))
    branches = {"seg": _fake_branch(*runners, budget_ms=rng.choice((None, 2.0, 5.0)), errors=errors)}
    if rng.random() < 0.5:
        branches["slow"] = _fake_branch(FakeRunner(), cadence=rng.randint(1, 7))
    pipeline = Pipeline(
        branches,
        sinks={f"sink{k}": _random_sink(rng) for k in range(rng.randint(0, 3))},
        warm_up_runs=0,
        freeze_gc=False,
        queue=rng.randint(1, 4),
        pool_slots=rng.choice((None, None, 2)),
    )
    _drive(pipeline, source, rng)
    return pipeline.report


def _faults(rng: random.Random, n: int) -> list[Fault]:
    kinds: tuple[Literal["stall", "burst", "corrupt", "duplicate", "resolution", "lost"], ...] = (
        "stall", "burst", "corrupt", "duplicate", "resolution", "lost",
    )  # fmt: skip
    chosen = [kind for kind in kinds if rng.random() < 0.3]
    return [Fault(kind=kind, at=rng.randrange(n), ms=rng.uniform(0, 10), count=rng.randint(1, 4)) for kind in chosen]


def _random_sink(rng: random.Random) -> Sink:
    nap_s, fails_at = rng.choice((0.0, 0.0, 0.002, 0.005)), rng.choice((None, None, rng.randrange(40)))
    calls = iter(range(10**9))

    def write(result: Result) -> None:
        time.sleep(nap_s)
        if next(calls) == fails_at:
            raise OSError("no space left")

    return CallbackSink(write, capacity=rng.randint(1, 4))


def _drive(pipeline: Pipeline, source: Source, rng: random.Random) -> None:
    """Run to the end, stop from another thread, leave the loop early, or poll and close."""
    how: Callable[[], object] = rng.choice(
        (
            lambda: pipeline.run(source),
            lambda: _stopped(pipeline, source, rng.uniform(0, 0.05)),
            lambda: [None for _, _ in zip(range(rng.randint(1, 30)), pipeline.stream(source), strict=False)],
            lambda: _polled(pipeline, source, rng.randint(0, 20)),
        )
    )
    with suppress(EdgeError):  # a lost source or a stage that ends the stream; the ledger must balance all the same
        how()


def _stopped(pipeline: Pipeline, source: Source, after_s: float) -> None:
    timer = threading.Timer(after_s, pipeline.stop)
    timer.start()
    try:
        pipeline.run(source)
    finally:
        timer.cancel()
        timer.join()


def _polled(pipeline: Pipeline, source: Source, n: int) -> None:
    pipeline.start(source)
    try:
        for _ in range(n):
            pipeline.poll(1.0)
    finally:
        pipeline.close()
