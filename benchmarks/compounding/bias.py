"""`bias`: the mean that the runtime keeps, before rounding to 8 bits, against the exact double-precision mean."""

from __future__ import annotations

from functools import partial
from typing import get_args

import numpy as np
import numpy.typing as npt

from benchmarks.compounding.cases import Pixels, nwire_pixels, spine_pixels, sweep_of
from benchmarks.figures import Figure
from edge_runtime.errors import ReconstructionError
from edge_runtime.frame import FrameGeometry
from edge_runtime.reconstruct import Compounder, CompoundKernel, VolumeGrid

__all__ = ["exact_mean", "measure_bias"]

LOW_WEIGHT = 0.5  # a linear voxel counts from this weight on
HITS = 1 << 24

F64 = npt.NDArray[np.float64]


def exact_mean(pixels: Pixels, to_voxels: F64, shape: tuple[int, int, int], kernel: CompoundKernel) -> tuple[F64, F64]:
    """Mean and weight (Z, Y, X) in double precision, from the same pixels: no fixed point anywhere."""
    total, weight = np.zeros(np.prod(shape)), np.zeros(np.prod(shape))
    top = np.array(shape[::-1])
    y, x = np.mgrid[: pixels.frames.shape[1], : pixels.frames.shape[2]].reshape(2, -1).astype(np.float64)
    for frame, T in zip(pixels.frames, to_voxels, strict=True):
        p = T[:3, 3] + x[:, None] * T[:3, 0] + y[:, None] * T[:3, 1]
        value = frame.reshape(-1).astype(np.float64)
        low = np.floor(p + 0.5 if kernel == "nearest" else p)
        inside = ((low >= 0) & (low + (kernel == "linear") < top)).all(axis=1)
        p, low, value = p[inside], low[inside].astype(np.int64), value[inside]
        part = p - low
        for c in range(1 if kernel == "nearest" else 8):
            bits = np.array([c & 1, (c >> 1) & 1, c >> 2])
            share = np.ones(len(p)) if kernel == "nearest" else np.where(bits, part, 1 - part).prod(axis=1)
            i, j, k = (low + bits).T
            at = (k * shape[1] + j) * shape[2] + i
            weight += np.bincount(at, share, len(weight))
            total += np.bincount(at, share * value, len(total))
    with np.errstate(invalid="ignore"):
        return (total / weight).reshape(shape), weight.reshape(shape)


def _compare(name: str, pixels: Pixels, kernel: CompoundKernel) -> list[Figure]:
    origin, shape = pixels.extent()
    matrices = pixels.to_voxels(origin)
    truth, weight = exact_mean(pixels, matrices, shape, kernel)
    sweep, grid = sweep_of(pixels.frames, matrices, shape)
    target = Compounder(grid, mode="mean", kernel=kernel)
    for k in range(len(sweep)):
        target.insert(sweep.image(k), sweep.T_world_image[k], sweep.geometry_of(k))
    mean = target.mean()
    seen = weight >= (LOW_WEIGHT if kernel == "linear" else 1)
    off = (mean - truth)[seen]
    off = off[np.isfinite(off)]
    bias, rmse = float(off.mean()), float(np.sqrt((off**2).mean()))
    spread = f"worst {np.abs(off).max():.3g}, other voxels seen {int(seen.sum()) - len(off)}"
    figure = partial(Figure, unit="grey level", n=len(off), spread=spread)
    return [
        figure(name=f"{name}, {kernel} mean: bias", value=bias, goal="size < 0.001", met=abs(bias) < 1e-3),
        figure(name=f"{name}, {kernel} mean: rmse", value=rmse, goal="< 0.05", met=rmse < 0.05),
    ]


def _saturation() -> Figure:
    """One voxel, hit 2^24 times by frames of 255: the mean must stay 255 and the weight count every hit."""
    grid = VolumeGrid(shape=(3, 3, 3), spacing_mm=(1.0, 1.0, 1.0), T_world_volume=np.eye(4))
    side = 512
    geometry = FrameGeometry(row_mm=1e-4, column_mm=1e-4, origin="user", trusted=True)
    T = np.eye(4)
    T[:3, 3] = 1.0
    frame = np.full((side, side), 255, np.uint8)
    wrong, said = 0, []
    for kernel in get_args(CompoundKernel):
        target = Compounder(grid, mode="mean", kernel=kernel)
        for _ in range(HITS // side**2):
            target.insert(frame, T, geometry)
        try:
            seen = target.mean()[target.volume().swept]
            count = int((np.abs(seen - 255) > 1e-3).sum()) + int(seen.size == 0)
        except ReconstructionError as error:
            count = 1
            said.append(f"{kernel}: {error}")
        wrong += count
    return Figure(
        name="2^24 hits of 255 in one voxel: means that are wrong",
        value=float(wrong),
        goal="0",
        unit="",
        n=HITS,
        met=wrong == 0,
        spread="; ".join(["nearest and linear", *said]),
    )


def measure_bias() -> list[Figure]:
    """Bias and rmse of nearest and linear means on two sweeps, and saturation."""
    figures = []
    for name, pixels in (("spine", spine_pixels()), ("N-wire", nwire_pixels())):
        for kernel in ("nearest", "linear"):
            figures += _compare(name, pixels, kernel)
    return [*figures, _saturation()]
