"""CPU time of hole filling in the spine phantom, against the yardstick that the reference was measured with."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import numpy as np

from benchmarks.compounding_own import bincount_mean, spine
from benchmarks.figures import Figure
from edge_runtime.reconstruct import FillMethod, compound, fill_holes, grid_of_sweep

__all__ = ["measure_hole_filling"]

ROUNDS = 7
YARDSTICK = 28.3  # ms, on the machine on which the reference was measured
# CPU ms of the reference there (PLUS/IGSIO, both its threads together), and times faster that are asked for
CASES: tuple[tuple[str, FillMethod, float, float, float | None], ...] = (
    ("gaussian 5^3", "gaussian", 1.0, 829.0, 20.0),
    ("inverse distance 5^3", "inverse-distance", 1.0, 806.0, None),
    ("nearest 7^3", "nearest", 1.5, 1266.0, None),
    ("sticks of 9 voxels", "stick", 2.0, 606.0, None),
)


def measure_hole_filling() -> list[Figure]:
    """Times less CPU than the reference; the yardstick is the nearest mean of a frame by `np.bincount`, same run."""
    sweep = spine()
    grid = grid_of_sweep(sweep, 0.5)
    volume = compound(sweep, grid=grid)
    runs: dict[str, Callable[[], object]] = {"yardstick": partial(bincount_mean, sweep, grid)}
    for name, method, limit, _, _ in CASES:
        runs[name] = partial(fill_holes, volume, method, limit_mm=limit)
    spent: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            began = time.process_time()
            run()
            spent[name].append(1e3 * (time.process_time() - began))
    least = {name: min(times) for name, times in spent.items()}
    least["yardstick"] /= len(sweep)
    found = []
    for name, _, _, theirs, wanted in CASES:
        ratio = (theirs / YARDSTICK) / (least[name] / least["yardstick"])
        found.append(
            Figure(
                name=f"{name}: times less CPU than the reference",
                value=ratio,
                goal="stated, no goal" if wanted is None else f">= {wanted:g}",
                unit="times",
                n=ROUNDS,
                met=None if wanted is None else ratio >= wanted,
                spread=f"{least[name]:.1f} ms, median {np.median(spent[name]):.1f}, of {volume.data.size} voxels; "
                f"yardstick {least['yardstick']:.1f} ms",
            )
        )
    return found
