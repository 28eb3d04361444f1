"""What a fixed and a growing volume share: where a frame lies, its splatting into integer sums, and grey levels."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from itertools import pairwise
from types import ModuleType
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ConfigError, ReconstructionError
from edge_runtime.frame import FrameGeometry
from edge_runtime.geometry import invert_rigid, is_rigid
from edge_runtime.optional import require
from edge_runtime.reconstruct.scan import image_from_pixel, scan_runs
from edge_runtime.reconstruct.sweep import RIGID_TOLERANCE

__all__ = ["CompoundKernel", "CompoundMode", "Placed", "Sums", "load_kernels"]

CompoundMode = Literal["mean", "max", "latest"]
CompoundKernel = Literal["nearest", "linear"]

I64 = npt.NDArray[np.int64]

MIN_WEIGHT = 1 / 8  # a voxel with less summed trilinear weight is not seen
FAR_VOXELS = 1 << 20  # fixed-point addresses hold 2^22 voxels; beyond this a frame is outside anyway
MAX_AREA = 8
ALL = slice(None)


def load_kernels() -> ModuleType:
    """The compiled kernels; `MissingDependencyError` without numba."""
    require("numba", "to compound a volume")
    from edge_runtime.reconstruct import _kernels

    return _kernels


@dataclass(frozen=True, slots=True, eq=False)
class Placed:
    """An image on a lattice: its pixels, the runs to use, and `address` (3, 3), see `_kernels`."""

    image: npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
    runs: I64
    address: I64

    def moved(self, voxels: Sequence[int], part: slice = ALL) -> Placed:
        """The same image as seen from the voxel at (x, y, z) `voxels`, `part` of its runs alone."""
        address = self.address.copy()
        address[0] -= np.array(voxels, np.int64) << 40
        return Placed(self.image, self.runs[part], address)

    def bounds(self) -> tuple[I64, I64]:
        """Voxels (x, y, z) between which the rectangle around its runs lies, both inclusive."""
        (y0, x0), (y1, x1) = self.runs[:, :2].min(axis=0), self.runs[:, [0, 2]].max(axis=0) - (0, 1)
        corners = np.array([(x0, y0), (x1, y0), (x0, y1), (x1, y1)], np.int64)
        at = (self.address[0] + corners[:, :1] * self.address[1] + corners[:, 1:] * self.address[2]) >> 40
        return at.min(axis=0), at.max(axis=0)


class Sums:
    """How pixels become integer sums, and sums grey levels, for one mode, kernel and side of area averages."""

    def __init__(self, mode: CompoundMode, kernel: CompoundKernel, area: int = 1) -> None:
        if mode not in get_args(CompoundMode) or kernel not in get_args(CompoundKernel):
            raise ConfigError(
                f"mode {mode!r} with kernel {kernel!r}: modes are {', '.join(get_args(CompoundMode))}; "
                f"kernels are {', '.join(get_args(CompoundKernel))}"
            )
        if not 1 <= area <= MAX_AREA or (area > 1 and mode != "mean"):
            raise ConfigError(f"average {area} with mode {mode!r}: 1 to {MAX_AREA} pixels, and more than 1 for a mean")
        self.mode, self.kernel, self.area = mode, kernel, area
        self.kernels = load_kernels()
        self.moments = (2,) if (mode, kernel) == ("mean", "linear") else ()
        self.overlap = int(kernel == "linear")  # planes that a cell reaches beyond its own voxel

    def place(
        self,
        image: npt.NDArray[np.uint8],
        T_world_image: npt.NDArray[np.float64],
        geometry: FrameGeometry,
        T_world_volume: npt.NDArray[np.float64],
        spacing_mm: tuple[float, float, float],
    ) -> Placed | None:
        """Where `image` lies; None when it is far from the lattice."""
        if image.ndim != 2 or image.dtype != np.uint8 or 0 in image.shape:
            raise ConfigError(f"the image has shape {image.shape} and dtype {image.dtype}; (H, W) uint8 is needed")
        if not is_rigid(T_world_image, RIGID_TOLERANCE):
            raise ConfigError(
                "T_world_image is not a rigid 4x4 matrix in mm; the pixel scale belongs into FrameGeometry"
            )
        T = invert_rigid(T_world_volume) @ T_world_image
        step = np.array(spacing_mm[::-1])
        axes = (T[:3, :2] @ image_from_pixel(geometry)) / step[:, None]
        origin = T[:3, 3] / step + (0.5 if self.kernel == "nearest" else 0.0)
        reach = np.abs(origin) + np.abs(axes) @ (image.shape[1], image.shape[0])
        if reach.max() > FAR_VOXELS:
            return None
        runs = scan_runs(geometry.scan_area, (image.shape[0], image.shape[1]), self.area)
        pixels: npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
        if self.area == 1:
            pixels = np.ascontiguousarray(image)
        else:
            origin = origin + axes.sum(axis=1) * (self.area - 1) / 2
            axes = axes * self.area
            pixels = self._averaged(image)
        fixed = np.rint(np.stack([origin, axes[:, 0], axes[:, 1]]) * float(self.kernels.ONE)).astype(np.int64)
        return Placed(pixels, runs, fixed)

    def _averaged(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint16]:
        """Sums of squares of `area` pixels; pairs are added as the two bytes of a word, which is faster."""
        if self.area != 2:
            return np.asarray(self.kernels.area_sums(np.ascontiguousarray(image), self.area))
        even = np.ascontiguousarray(image[:, : image.shape[1] // 2 * 2])
        return np.asarray(self.kernels.pair_sums(even.view(np.uint16)))

    def splat(self, placed: Placed, shape: I64, box: I64, acc: I64, sign: int, order: int) -> int:
        """Put the pixels inside `box` (2, 3) into `acc` of a lattice of `shape` (x, y, z); how many they were."""
        k, common = self.kernels, (placed.image, placed.runs, placed.address, shape, box, acc)
        if self.mode == "mean":
            kernel = k.nearest_mean if self.kernel == "nearest" else k.linear_mean
            return int(kernel(*common, sign, self.area**2))
        if self.kernel == "linear":
            return int(k.linear_key(*common, order, self.mode == "max"))
        return int(k.nearest_max(*common) if self.mode == "max" else k.nearest_key(*common, order))

    def splat_in_slabs(
        self,
        frames: Sequence[tuple[Placed, int]],
        shape: I64,
        box: I64,
        acc: I64,
        sign: int,
        pool: Executor,
        slabs: int,
    ) -> int:
        """As `splat` for each of `frames` with its order, in `slabs` slabs that no two threads write at once.

        The same integers are added, so the bits are the same. The slabs lie along the axis that the columns of the
        images follow most. A cell of the linear kernel also writes the plane after its own, so the last layer of cells
        of each slab waits until all slabs are done.
        """

        def fill(part: I64) -> int:
            return sum([self.splat(placed, shape, part, acc, sign, order) for placed, order in frames])

        axis = int(np.argmax(sum(np.abs(placed.address[2]) for placed, _ in frames)))
        bounds = [placed.bounds() for placed, _ in frames]
        low = max(min(int(first[axis]) for first, _ in bounds), int(box[0, axis]))
        high = min(max(int(last[axis]) for _, last in bounds) + 1, int(box[1, axis]))
        boxes: list[I64] = []
        layers: list[I64] = []
        for start, end in pairwise(low + (high - low) * k // slabs for k in range(slabs + 1)):
            last = end - self.overlap if end < high else end
            for edges, found in (((start, last), boxes), ((last, end), layers)):
                if edges[0] < edges[1]:
                    part = box.copy()
                    part[:, axis] = edges
                    found.append(part)
        jobs = [pool.submit(fill, part) for part in boxes[1:]]
        used = [fill(part) for part in boxes[:1]]
        used += [job.result() for job in jobs]
        return sum(used + [fill(part) for part in layers])

    def levels(self, acc: I64) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
        """Grey levels and weights, flat, from the sums; `ReconstructionError` when they cannot be of whole frames."""
        bits = self.kernels.SUM_BITS
        if self.mode == "mean" and self.kernel == "nearest":
            touched = np.flatnonzero(acc)
            total, weight = acc[touched] & ((1 << bits) - 1), acc[touched] >> bits
            unit, low = 1, 1
        elif self.mode == "mean":
            touched = np.flatnonzero(acc[:, 1])
            total, weight = acc[touched, 0], acc[touched, 1]
            unit = 1 << self.kernels.WEIGHT_BITS
            low = int(MIN_WEIGHT * unit)
        elif (self.mode, self.kernel) == ("max", "nearest"):
            return (acc >> bits).astype(np.uint8), (acc & ((1 << bits) - 1)).astype(np.float32)
        else:
            return (acc & 255).astype(np.uint8), (acc > 0).astype(np.float32)
        self._check(total, weight, unit)
        seen = weight >= low
        where, total, weight = touched[seen], total[seen], weight[seen]
        data, share = np.zeros(len(acc), np.uint8), np.zeros(len(acc), np.float32)
        data[where] = np.minimum((total + (weight >> 1)) // weight, 255)
        share[where] = weight / unit
        return data, share

    def means(self, acc: I64) -> npt.NDArray[np.float64]:
        """Means, flat, before they are rounded to grey levels; NaN where nothing was seen."""
        linear, bits = self.kernel == "linear", self.kernels.SUM_BITS
        total, weight = (acc[:, 0], acc[:, 1]) if linear else (acc & ((1 << bits) - 1), acc >> bits)
        unit = 1 << self.kernels.WEIGHT_BITS if linear else 1
        self._check(total, weight, unit)
        seen = weight >= (MIN_WEIGHT * unit if linear else 1)
        return np.asarray(np.where(seen, total / np.where(seen, weight, 1), np.nan))

    def _check(self, total: I64, weight: I64, unit: int) -> None:
        """Values and weights of the linear kernel are cut to integers apart: room for both, 2^-10 and one of a hit."""
        room = unit if self.kernel == "linear" else 0
        if (weight < -(room >> 10)).any() or (total > 255 * weight + room).any():
            raise ReconstructionError("a frame was removed that is not in the volume; clear() and insert anew")
