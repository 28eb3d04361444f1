"""Compounding: many posed frames into one volume, exactly, frame by frame.

Nearest: each pixel falls into the voxel that holds it. Linear: each pixel is shared by the eight voxels around
it, by trilinear weights (pixel nearest neighbour and its linear form: Gobbi and Peters, MICCAI 2002; Solberg et
al., Ultrasound in Med. & Biol. 33, 2007). All sums are integers, so the mean does not depend on the order of the
frames, has no running rounding, and `remove` undoes `insert` to the bit.
"""

from __future__ import annotations

import threading
from types import ModuleType
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ConfigError, ReconstructionError
from edge_runtime.frame import FrameGeometry
from edge_runtime.geometry import PoseOrigin, invert_rigid, is_rigid
from edge_runtime.optional import require
from edge_runtime.reconstruct.grid import MAX_VOXELS, VolumeGrid, grid_of_sweep
from edge_runtime.reconstruct.scan import image_from_pixel, scan_runs
from edge_runtime.reconstruct.sweep import RIGID_TOLERANCE, Sweep
from edge_runtime.reconstruct.volume import Volume

__all__ = ["CompoundKernel", "CompoundMode", "Compounder", "compound", "warm_up"]

CompoundMode = Literal["mean", "max", "latest"]
CompoundKernel = Literal["nearest", "linear"]

MIN_WEIGHT = 1 / 8  # a voxel with less summed trilinear weight is not seen
FAR_VOXELS = 1 << 20  # fixed-point addresses hold 2^22 voxels; beyond this a frame is outside anyway


class Compounder:
    """A volume that grows frame by frame, so it can run beside a stream. Safe to call from several threads.

    `mode`: `mean` of the pixels of a voxel, rounded half up; `max`; or `latest` (the largest `sequence` wins, then
    the last pixel in raster order). With kernel `linear`, `max` and `latest` take the pixels whose weight at the
    voxel is at least 1/8. Raises `ConfigError` for an unknown mode or kernel, `ReconstructionError` when the grid
    exceeds `max_voxels`, and `MissingDependencyError` without numba.
    """

    def __init__(
        self,
        grid: VolumeGrid,
        *,
        mode: CompoundMode = "mean",
        kernel: CompoundKernel = "nearest",
        pose_origin: PoseOrigin = "tracker",
        max_voxels: int = MAX_VOXELS,
    ) -> None:
        if mode not in get_args(CompoundMode) or kernel not in get_args(CompoundKernel):
            raise ConfigError(
                f"mode {mode!r} with kernel {kernel!r}: modes are {', '.join(get_args(CompoundMode))}; "
                f"kernels are {', '.join(get_args(CompoundKernel))}"
            )
        if grid.voxels > max_voxels:
            raise ReconstructionError(
                f"the grid has {grid.voxels} voxels {grid.shape}, the cap is {max_voxels}; take a coarser spacing or "
                "raise max_voxels"
            )
        self.grid, self.mode, self.kernel, self.pose_origin = grid, mode, kernel, pose_origin
        self._kernels = _load_kernels()
        moments = (2,) if (mode, kernel) == ("mean", "linear") else ()
        self._acc = np.zeros((grid.voxels, *moments), np.int64)
        self._sides = np.array(grid.shape[::-1], np.int64)
        self._frames = 0
        self._sequence = 0
        self._lock = threading.Lock()

    @property
    def frames(self) -> int:
        """Frames that are in the volume now: inserted less removed."""
        with self._lock:
            return self._frames

    def insert(
        self,
        image: npt.NDArray[np.uint8],
        T_world_image: npt.NDArray[np.float64],
        geometry: FrameGeometry,
        *,
        sequence: int | None = None,
    ) -> int:
        """Add the scan area of `image` (H, W) uint8 at `T_world_image` (4, 4); the number of pixels that fell inside.

        `sequence` (1 to 2^23 - 1) orders frames for mode `latest`; without it the order of the calls counts. Raises
        `ConfigError` for a bad image or pose and `GeometryError` when the millimetres are not trusted.
        """
        address = self._address(image, T_world_image, geometry)
        with self._lock:
            order = self._sequence + 1 if sequence is None else sequence
            if not 1 <= order < 1 << 23:
                raise ConfigError(f"sequence {order}: 1 to {(1 << 23) - 1} is allowed")
            self._sequence = max(self._sequence, order)
            self._frames += 1
            return 0 if address is None else self._splat(image, address, 1, order)

    def remove(
        self, image: npt.NDArray[np.uint8], T_world_image: npt.NDArray[np.float64], geometry: FrameGeometry
    ) -> int:
        """Take out a frame that was inserted with the same arguments; the number of pixels that fell inside.

        Only a mean can be undone: `ReconstructionError` for the other modes, or when no frame is in the volume.
        """
        if self.mode != "mean":
            raise ReconstructionError(f"mode {self.mode!r} cannot be undone; rebuild the volume, or use mode 'mean'")
        address = self._address(image, T_world_image, geometry)
        with self._lock:
            if self._frames == 0:
                raise ReconstructionError("no frame is in the volume; only what was inserted can be removed")
            self._frames -= 1
            return 0 if address is None else self._splat(image, address, -1, 0)

    def clear(self) -> None:
        """Forget all frames."""
        with self._lock:
            self._acc.fill(0)
            self._frames = self._sequence = 0

    def volume(self) -> Volume:
        """The volume as it stands; a copy, so frames can go on coming in.

        `weight` holds hits (nearest mean and max), summed trilinear weight (linear mean), or 1 for a seen voxel.
        Raises `ReconstructionError` when a frame was removed that had not been inserted.
        """
        with self._lock:
            data, weight = self._levels()
        return Volume(
            data=data.reshape(self.grid.shape),
            weight=weight.reshape(self.grid.shape),
            spacing_mm=self.grid.spacing_mm,
            T_world_volume=self.grid.T_world_volume.copy(),
            pose_origin=self.pose_origin,
        )

    def _address(
        self, image: npt.NDArray[np.uint8], T_world_image: npt.NDArray[np.float64], geometry: FrameGeometry
    ) -> tuple[npt.NDArray[np.int64], ...] | None:
        """Runs and the fixed-point origin, step across and step down of an image; None when far outside."""
        if image.ndim != 2 or image.dtype != np.uint8 or 0 in image.shape:
            raise ConfigError(f"the image has shape {image.shape} and dtype {image.dtype}; (H, W) uint8 is needed")
        if not is_rigid(T_world_image, RIGID_TOLERANCE):
            raise ConfigError(
                "T_world_image is not a rigid 4x4 matrix in mm; the pixel scale belongs into FrameGeometry"
            )
        T = invert_rigid(self.grid.T_world_volume) @ T_world_image
        step = np.array(self.grid.spacing_mm[::-1])
        axes = (T[:3, :2] @ image_from_pixel(geometry)) / step[:, None]
        half = 0.5 if self.kernel == "nearest" else 0.5 / self._kernels.SCALE
        origin = T[:3, 3] / step + half
        reach = np.abs(origin) + np.abs(axes) @ (image.shape[1], image.shape[0])
        if reach.max() > FAR_VOXELS:
            return None
        fixed = np.rint(np.column_stack([origin, axes]) * float(self._kernels.ONE)).astype(np.int64)
        return scan_runs(geometry.scan_area, (image.shape[0], image.shape[1])), fixed[:, 0], fixed[:, 1], fixed[:, 2]

    def _splat(
        self, image: npt.NDArray[np.uint8], address: tuple[npt.NDArray[np.int64], ...], sign: int, order: int
    ) -> int:
        runs, *steps = (np.ascontiguousarray(a) for a in address)
        k, common = self._kernels, (np.ascontiguousarray(image), runs, *steps, self._sides, self._acc)
        if self.mode == "mean":
            return int((k.nearest_mean if self.kernel == "nearest" else k.linear_mean)(*common, sign))
        if self.kernel == "linear":
            return int(k.linear_key(*common, order, self.mode == "max"))
        return int(k.nearest_max(*common) if self.mode == "max" else k.nearest_key(*common, order))

    def _levels(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
        """Grey levels and weights, flat, from the sums."""
        acc, bits = self._acc, self._kernels.SUM_BITS
        if self.mode == "mean" and self.kernel == "nearest":
            touched = np.flatnonzero(acc)
            total, weight = acc[touched] & ((1 << bits) - 1), acc[touched] >> bits
            unit, low = 1.0, 1
        elif self.mode == "mean":
            touched = np.flatnonzero(acc[:, 1])
            total, weight = acc[touched, 0], acc[touched, 1]
            unit = float(self._kernels.SCALE3)
            low = int(MIN_WEIGHT * unit)
        elif (self.mode, self.kernel) == ("max", "nearest"):
            return (acc >> bits).astype(np.uint8), (acc & ((1 << bits) - 1)).astype(np.float32)
        else:
            return (acc & 255).astype(np.uint8), (acc > 0).astype(np.float32)
        if (weight < 0).any() or (total > 255 * weight).any():
            raise ReconstructionError("a frame was removed that is not in the volume; clear() and insert anew")
        seen = weight >= low
        where, total, weight = touched[seen], total[seen], weight[seen]
        data, share = np.zeros(len(acc), np.uint8), np.zeros(len(acc), np.float32)
        data[where] = (total + (weight >> 1)) // weight
        share[where] = weight / unit
        return data, share


def compound(
    sweep: Sweep,
    spacing_mm: float | tuple[float, float, float] | None = None,
    mode: CompoundMode = "mean",
    kernel: CompoundKernel = "nearest",
    *,
    grid: VolumeGrid | None = None,
    max_voxels: int = MAX_VOXELS,
) -> Volume:
    """The volume of a whole sweep, on `grid`, or on the smallest one with `spacing_mm` (one number or (z, y, x)).

    Raises `ReconstructionError` when no pixel falls inside or the volume would exceed `max_voxels`,
    `GeometryError` when millimetres are not trusted, `MissingDependencyError` without numba.
    """
    if (grid is None) == (spacing_mm is None):
        raise ConfigError("give either spacing_mm or grid to compound()")
    if grid is None:
        assert spacing_mm is not None
        grid = grid_of_sweep(sweep, spacing_mm, max_voxels=max_voxels)
    target = Compounder(grid, mode=mode, kernel=kernel, pose_origin=sweep.pose_origin, max_voxels=max_voxels)
    used = 0
    for k in range(len(sweep)):
        used += target.insert(sweep.image(k), sweep.T_world_image[k], sweep.geometry_of(k))
    if used == 0:
        raise ReconstructionError(
            f"none of the {len(sweep)} frames meets the grid {grid.shape} at {grid.spacing_mm} mm; "
            "check its T_world_volume"
        )
    return target.volume()


def warm_up(mode: CompoundMode = "mean", kernel: CompoundKernel = "nearest") -> None:
    """Compile what `Compounder(mode, kernel)` runs, or load it from the cache, so that no frame waits for it."""
    grid = VolumeGrid(shape=(2, 2, 2), spacing_mm=(1.0, 1.0, 1.0), T_world_volume=np.eye(4))
    geometry = FrameGeometry(row_mm=1.0, column_mm=1.0, origin="user", trusted=True)
    Compounder(grid, mode=mode, kernel=kernel).insert(np.zeros((1, 1), np.uint8), np.eye(4), geometry)


def _load_kernels() -> ModuleType:
    require("numba", "to compound a volume")
    from edge_runtime.reconstruct import _kernels

    return _kernels
