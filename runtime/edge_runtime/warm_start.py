"""Every compiled kernel run once on a few pixels, so that numba compiles it and keeps the machine code on disk.

A process that then uses any of them loads the code in milliseconds and compiles nothing. The code is made anew when the
kernels, numba or the processor change.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import MissingDependencyError
from edge_runtime.frame import FrameGeometry
from edge_runtime.optional import require
from edge_runtime.reconstruct import (
    Compounder,
    CompoundKernel,
    CompoundMode,
    FillMethod,
    LabelCompounder,
    LiveCompounder,
    UncertaintyCompounder,
    Volume,
    VolumeGrid,
    WeightedCompounder,
    fill_holes,
    isosurface,
    measure_volume,
    turntable,
)

__all__ = ["Warmed", "machine_code", "warm_everything"]

U8 = npt.NDArray[np.uint8]

GEOMETRY = FrameGeometry(row_mm=1.0, column_mm=1.0, origin="user", trusted=True)
SIDE = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Warmed:
    """One group of kernels: time spent, versions of machine code compiled and loaded from disk; or why it was not run.

    `skipped` is empty, or the line that says which package to install.
    """

    name: str
    seconds: float
    compiled: int
    loaded: int
    skipped: str = ""


def warm_everything() -> list[Warmed]:
    """Compile all kernels of the runtime, or load them: compounding, live, holes, mesh, measures, preprocessing, SLAM.

    A group whose other packages are missing is skipped and says so. Raises `MissingDependencyError` without numba.
    """
    require("numba", "to compile kernels")
    found = []
    for name, run in _groups():
        began, (compiled, loaded), skipped = time.perf_counter(), _counts(), ""
        try:
            run()
        except MissingDependencyError as error:
            skipped = str(error)
        after = _counts()
        found.append(
            Warmed(
                name=name,
                seconds=time.perf_counter() - began,
                compiled=after[0] - compiled,
                loaded=after[1] - loaded,
                skipped=skipped,
            )
        )
    return found


def machine_code() -> dict[str, tuple[str, ...]]:
    """For each kernel whose module is imported, `module.name` and the argument types that there is machine code for."""
    return {name: tuple(sorted(str(s) for s in kernel.signatures)) for name, kernel in _kernels()}


def _kernels() -> Iterator[tuple[str, Any]]:
    for module_name, module in sorted(sys.modules.items()):
        if not module_name.startswith("edge_runtime."):
            continue
        for name, value in sorted(vars(module).items()):
            if hasattr(value, "py_func") and value.py_func.__module__ == module_name:
                yield f"{module_name}.{name}", value


def _counts() -> tuple[int, int]:
    """Versions compiled and versions loaded by this process."""
    stats = [kernel.stats for _, kernel in _kernels()]
    return sum(sum(s.cache_misses.values()) for s in stats), sum(sum(s.cache_hits.values()) for s in stats)


def _groups() -> Iterator[tuple[str, Callable[[], None]]]:
    for kernel in get_args(CompoundKernel):
        for mode in get_args(CompoundMode):
            yield f"{kernel} {mode}", partial(_compound, mode, kernel)
    yield "averaging", _averaging
    yield "weights and variance", _weighted
    yield "labels", _labels
    yield "position error", _uncertainty
    for method in get_args(FillMethod):
        yield f"holes {method}", partial(_holes, method)
    yield "mesh", lambda: _with_volume(lambda volume: isosurface(volume, 100))
    yield "measures", lambda: _with_volume(lambda volume: measure_volume(volume, level=100))
    yield "turntable", lambda: _with_volume(lambda volume: turntable(volume, views=1))
    yield "speckle reduction", _srad
    yield "pose graph", _pose_graph
    yield "registration", _registration
    yield "lattice", _lattice


def _images() -> Iterator[U8]:
    """An image to write to and one that is read-only, as from a file: numba compiles for each."""
    for writable in (True, False):
        image = np.full((SIDE, SIDE), 100, np.uint8)
        image.setflags(write=writable)
        yield image


def _grid() -> VolumeGrid:
    return VolumeGrid(shape=(2, SIDE, SIDE), spacing_mm=(1.0, 1.0, 1.0), T_world_volume=np.eye(4))


def _compound(mode: CompoundMode, kernel: CompoundKernel) -> None:
    for image in _images():
        for threads in (1, 2):
            with Compounder(_grid(), mode=mode, kernel=kernel, threads=threads) as fixed:
                fixed.insert(image, np.eye(4), GEOMETRY)
                if mode == "mean":
                    fixed.remove(image, np.eye(4), GEOMETRY)
        LiveCompounder(1.0, mode=mode, kernel=kernel).insert(image, np.eye(4), GEOMETRY)


def _averaging() -> None:
    for image in _images():
        for kernel in get_args(CompoundKernel):
            for side in (2, 3):
                Compounder(_grid(), kernel=kernel, average=side).insert(image, np.eye(4), GEOMETRY)


def _weighted() -> None:
    for image in _images():
        for weights in (None, *_images()):
            WeightedCompounder(_grid()).insert(image, np.eye(4), GEOMETRY, weights)


def _labels() -> None:
    for image in _images():
        LabelCompounder(_grid(), 100).insert(image, np.eye(4), GEOMETRY)


def _uncertainty() -> None:
    UncertaintyCompounder(_grid()).insert((SIDE, SIDE), np.eye(4), GEOMETRY, np.eye(6) * 1e-4)


def _with_volume(run: Callable[[Volume], object]) -> None:
    """`run` on a cube with holes in it, writable and read-only."""
    for writable in (True, False):
        data = np.zeros((SIDE,) * 3, np.uint8)
        data[3:9, 3:9, 3:9] = 200
        weight = (data > 0).astype(np.float32)
        weight[4:8:2, 4:8:2, 4:8:2] = 0
        data.setflags(write=writable)
        run(Volume(data=data, weight=weight, spacing_mm=(1.0, 1.0, 1.0), T_world_volume=np.eye(4)))


def _holes(method: FillMethod) -> None:
    _with_volume(lambda volume: fill_holes(volume, method, limit_mm=2.0))


def _srad() -> None:
    from edge_runtime.preprocess import Srad
    from edge_runtime.preprocess._filters import make_filter

    require("cv2", "for the step srad")
    image = np.full((SIDE, SIDE), 100, np.uint8)
    make_filter(Srad(), (SIDE, SIDE))(image, np.empty_like(image), True)


def _pose_graph() -> None:
    from edge_runtime.slam.graph import warm_up

    require("scipy", "for the pose graph")
    warm_up()


def _registration() -> None:
    from edge_runtime.slam._sample_kernels import sample_gradient

    field, points = np.zeros((SIDE,) * 3, np.float32), np.ones((4, 3))
    sample_gradient(field, np.ascontiguousarray(np.eye(4)[:3]), points, np.empty(4), np.empty((4, 3)))


def _lattice() -> None:
    from edge_runtime.slam._lattice_kernels import sample_smooth

    sample_smooth(np.zeros((SIDE,) * 3), np.ones((3, 4)), np.ones(4), np.empty(4), np.empty((3, 4)))
