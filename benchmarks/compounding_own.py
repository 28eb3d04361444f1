"""Rows of compounding about speed: insertion against `np.bincount`, threads, a live sweep that grows, first calls."""

from __future__ import annotations

import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.figures import Figure
from edge_runtime.geometry import invert_rigid
from edge_runtime.reconstruct import (
    Compounder,
    CompoundKernel,
    CompoundMode,
    LiveCompounder,
    Sweep,
    VolumeGrid,
    grid_of_sweep,
    sweep_of_sequence,
)
from edge_runtime.reconstruct.scan import image_from_pixel
from edge_runtime.sources import read_sequence

__all__ = ["measure_insertion_ratio", "measure_live", "measure_threads", "measure_warm_start"]

SPACING_MM = 0.5
LIVE_SPACING_MM = 0.3
LIVE_FPS = 30.0
BRIGHT = 5
REPEATS = 4  # of the sweep, in a call of several threads

Insert = Callable[[], object]
MODES: tuple[tuple[CompoundMode, CompoundKernel, float], ...] = (
    ("mean", "nearest", 18),
    ("latest", "nearest", 17),
    ("mean", "linear", 4),
    ("max", "linear", 3.2),
)


@cache
def spine() -> Sweep:
    """The 21 frames of `plus_spine`, 820x616, in the frame of its reference sensor."""
    folder = Path(os.environ["POCUS_DATA"]) / "sweeps" / "plus_spine"
    element = ElementTree.parse(folder / "Config_SpinePhantom_NN_MEAN.xml").find(".//Transform[@From='Image']")
    assert element is not None
    matrix = np.array((element.get("Matrix") or "").split(), float).reshape(4, 4)
    recorded = sweep_of_sequence(
        read_sequence(folder / "SpinePhantomFreehand.igs.mha"), constants={"ImageToProbe": matrix}
    )
    return recorded.sweep


def bincount_mean(sweep: Sweep, grid: VolumeGrid) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Sums and hits (Z*Y*X,) of a nearest mean, written with `np.bincount`: the yardstick."""
    total, hits = np.zeros(grid.voxels), np.zeros(grid.voxels)
    y, x = np.mgrid[: sweep.image(0).shape[0], : sweep.image(0).shape[1]]
    T_volume_world = invert_rigid(grid.T_world_volume)
    for k in range(len(sweep)):
        T = T_volume_world @ sweep.T_world_image[k]
        step = np.array(grid.spacing_mm[::-1])
        axes = (T[:3, :2] @ image_from_pixel(sweep.geometry_of(k))) / step[:, None]
        start = T[:3, 3] / step + 0.5
        i, j, n = (np.floor(start[a] + axes[a, 0] * x + axes[a, 1] * y).astype(np.int64) for a in range(3))
        flat = ((n * grid.shape[1] + j) * grid.shape[2] + i).ravel()
        total += np.bincount(flat, sweep.image(k).ravel(), grid.voxels)
        hits += np.bincount(flat, minlength=grid.voxels)
    return total, hits


def _inserter(sweep: Sweep, target: Compounder, *, together: bool = False) -> Insert:
    frames = [(sweep.image(k), sweep.T_world_image[k], sweep.geometry_of(k)) for k in range(len(sweep))]

    def insert() -> None:
        target.clear()
        if together:
            target.insert_many(frames * REPEATS)
            return
        for frame in frames:
            target.insert(*frame)

    insert()  # compiles
    return insert


def _interleaved(jobs: dict[str, Insert], rounds: int) -> dict[str, list[float]]:
    """Seconds of each job in each round; the jobs take turns, so that the load of the machine meets them all."""
    spent: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, job in jobs.items():
            began = time.perf_counter()
            job()
            spent[name].append(time.perf_counter() - began)
    return spent


def measure_insertion_ratio(rounds: int = 9) -> list[Figure]:
    """Time of `np.bincount` over ours, one thread, clearing included, for each mode; medians over the rounds."""
    sweep = spine()
    grid = grid_of_sweep(sweep, SPACING_MM)
    jobs: dict[str, Insert] = {"np.bincount": lambda: bincount_mean(sweep, grid)}
    for mode, kernel, _ in MODES:
        jobs[f"{kernel} {mode}"] = _inserter(sweep, Compounder(grid, mode=mode, kernel=kernel))
    averaged = Compounder(grid, kernel="linear", average=2)
    jobs["linear mean of 2x2 averages"] = _inserter(sweep, averaged)
    spent = _interleaved(jobs, rounds)
    goals = {f"{kernel} {mode}": goal for mode, kernel, goal in MODES} | {"linear mean of 2x2 averages": 8.0}
    figures = [_ratio(name, goal, spent, len(sweep)) for name, goal in goals.items()]
    exact = Compounder(grid, kernel="linear")
    _inserter(sweep, exact)
    return [*figures, _rmse(exact, averaged)]


def _ratio(name: str, goal: float, spent: dict[str, list[float]], frames: int) -> Figure:
    ratios = [theirs / ours for theirs, ours in zip(spent["np.bincount"], spent[name], strict=True)]
    value = statistics.median(ratios)
    best = {n: min(spent[n]) / frames * 1e3 for n in ("np.bincount", name)}
    return Figure(
        name=f"{name}: times as fast as nearest mean by np.bincount",
        value=value,
        goal=f">= {goal:g}",
        unit="x",
        n=len(ratios),
        met=value >= goal,
        spread=f"{min(ratios):.1f} to {max(ratios):.1f}",
        detail={"ms_per_frame": round(best[name], 3), "bincount_ms_per_frame": round(best["np.bincount"], 3)},
    )


def _rmse(exact: Compounder, averaged: Compounder) -> Figure:
    one, other, weight = exact.mean(), averaged.mean(), exact.volume().weight
    assert weight is not None
    both = (weight >= 0.5) & (one >= BRIGHT) & np.isfinite(other)
    off = other[both] - one[both]
    value = float(np.sqrt((off**2).mean()))
    return Figure(
        name="linear mean of 2x2 averages: rmse on bright voxels",
        value=value,
        goal="<= 0.55",
        unit="grey levels",
        n=int(both.sum()),
        met=value <= 0.55,
        spread=f"bias {off.mean():+.3f}, largest {np.abs(off).max():.0f}",
    )


def measure_threads(rounds: int = 9) -> list[Figure]:
    """Two threads: the speed-up of nearest and linear mean, and whether every mode gives the same bits."""
    sweep = spine()
    grid = grid_of_sweep(sweep, SPACING_MM)
    figures, equal, tried = [], 0, 0
    for mode, kernel in [(m, k) for k in ("nearest", "linear") for m in ("mean", "max", "latest")]:
        with (
            Compounder(grid, mode=mode, kernel=kernel) as single,  # type: ignore[arg-type]
            Compounder(grid, mode=mode, kernel=kernel, threads=2) as double,  # type: ignore[arg-type]
        ):
            jobs = {name: _inserter(sweep, c, together=True) for name, c in (("one", single), ("two", double))}
            one, two = single.volume(), double.volume()
            tried += 1
            assert one.weight is not None
            assert two.weight is not None
            equal += int(np.array_equal(one.data, two.data) and np.array_equal(one.weight, two.weight))
            if mode == "mean":
                figures.append(_speed_up(kernel, _interleaved(jobs, rounds)))
    same = Figure(
        name="modes whose volume is the same to the bit",
        value=float(equal),
        goal="all",
        unit=f"of {tried}",
        n=tried,
        met=equal == tried,
    )
    return [*figures, same]


def _speed_up(kernel: str, spent: dict[str, list[float]]) -> Figure:
    ratios = [one / two for one, two in zip(spent["one"], spent["two"], strict=True)]
    value = min(spent["one"]) / min(spent["two"])
    return Figure(
        name=f"{kernel} mean: two threads over one, best rounds",
        value=value,
        goal=">= 1.6",
        unit="x",
        n=len(ratios),
        met=value >= 1.6,
        spread=f"rounds {min(ratios):.2f} to {max(ratios):.2f}",
        detail={"load_1min": os.getloadavg()[0], "cores": os.cpu_count()},
    )


def _play(target: LiveCompounder, sweep: Sweep, count: int, paced: bool) -> tuple[list[float], list[float]]:
    """Wall and processor time of each insertion in ms, the sweep shifted by its length at each turn."""
    way = sweep.T_world_image[-1][:3, 3] - sweep.T_world_image[0][:3, 3]
    shift = way * len(sweep) / (len(sweep) - 1)
    spent: list[float] = []
    busy: list[float] = []
    began = time.perf_counter()
    for n in range(count):
        if paced:
            time.sleep(max(0.0, began + n / LIVE_FPS - time.perf_counter()))
        loop, k = divmod(n, len(sweep))
        T = sweep.T_world_image[k].copy()
        T[:3, 3] += loop * shift
        start, before = time.perf_counter(), time.thread_time()
        target.insert(sweep.image(k), T, sweep.geometry_of(k))
        spent.append((time.perf_counter() - start) * 1e3)
        busy.append((time.thread_time() - before) * 1e3)
    return spent, busy


def measure_live(seconds: float = 600.0, *, paced: bool = True, max_mib: int = 12288) -> list[Figure]:
    """The spine sweep again and again, each time shifted by its length, at 30 frames/s into 0.3 mm voxels.

    Without `paced` the frames follow each other at once: the same work, sooner.
    """
    sweep = spine()
    target = LiveCompounder(LIVE_SPACING_MM, max_mib=max_mib)
    target.insert(sweep.image(0), sweep.T_world_image[0], sweep.geometry_of(0))
    target.clear()
    spent, busy = _play(target, sweep, int(seconds * LIVE_FPS), paced)
    count = len(spent)
    state = target.state
    tenth = max(1, count // 10)
    p99 = float(np.percentile(spent, 99))
    first, last = float(np.percentile(spent[:tenth], 99)), float(np.percentile(spent[-tenth:], 99))
    played = "at 30 frames/s" if paced else "as fast as they go"
    live = Figure(
        name=f"p99 of insertion, {count / LIVE_FPS:.0f} s of frames {played}",
        value=p99,
        goal="< 10 ms over 600 s",
        unit="ms",
        n=count,
        met=p99 < 10 if paced and seconds >= 600 else None,
        spread=f"median {statistics.median(spent):.2f}, largest {max(spent):.2f}",
        detail={
            "p99_cpu_ms": round(float(np.percentile(busy, 99)), 2),  # without waiting for a processor
            "load_1min": os.getloadavg()[0],
            "open_bricks": state.open_bricks,
            "packed_bricks": state.packed_bricks,
            "max_mib": max_mib,
        },
    )
    growth = Figure(
        name="p99 of the last tenth over that of the first",
        value=last / first,
        goal="<= 1.5: no stall as the region grows",
        unit="x",
        n=tenth,
        met=last / first <= 1.5,
        spread=f"{first:.2f} to {last:.2f} ms",
    )
    memory = Figure(
        name="memory of the sums at the end",
        value=state.bytes / 2**20,
        goal="stated",
        unit="MiB",
        n=count,
        met=None,
        spread=f"{state.bytes / count / 1024:.0f} KiB a frame",
    )
    del target
    gc.collect()
    return [live, growth, memory]


WARM = """
import json, time
from edge_runtime.reconstruct import warm_up, _kernels
began = time.perf_counter()
warm_up("mean", "linear")
first = time.perf_counter() - began
before = len(_kernels.linear_mean.signatures)
began = time.perf_counter()
warm_up("mean", "linear")
print(json.dumps({"first": first, "next": time.perf_counter() - began,
    "compiled": len(_kernels.linear_mean.signatures) - before}))
"""


def _fresh_process(code: str, cache_folder: str) -> dict[str, float]:
    environment = {**os.environ, "NUMBA_CACHE_DIR": cache_folder, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return {name: float(value) for name, value in json.loads(done.stdout).items()}


def measure_warm_start(rounds: int = 3) -> list[Figure]:
    """First call of linear mean in a new process: with an empty cache, then with the one that was left."""
    with tempfile.TemporaryDirectory() as folder:
        cold = _fresh_process(WARM, folder)
        warm = [_fresh_process(WARM, folder) for _ in range(rounds)]
    value = statistics.median(run["first"] for run in warm)
    new = sum(run["compiled"] for run in [cold, *warm])
    return [
        Figure(
            name="first call of a process, kernels cached",
            value=value,
            goal="a third of compiling, or less",
            unit="s",
            n=rounds,
            met=value <= cold["first"] / 3,
            spread=f"{_span([run['first'] for run in warm])}; compiling takes {cold['first']:.1f} s",
        ),
        Figure(
            name="kernels compiled after the first call",
            value=new,
            goal="0",
            unit="",
            n=rounds + 1,
            met=new == 0,
            spread=f"next call {_span([1e3 * run['next'] for run in warm])} ms",
        ),
    ]


def _span(values: Sequence[float]) -> str:
    return f"{min(values):.2f} to {max(values):.2f}"
