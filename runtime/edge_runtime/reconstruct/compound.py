"""Compounding: many posed frames into one volume, exactly, frame by frame.

Nearest: each pixel falls into the voxel that holds it. Linear: each pixel is shared by the eight voxels around
it, by trilinear weights (pixel nearest neighbour and its linear form: Gobbi and Peters, MICCAI 2002; Solberg et
al., Ultrasound in Med. & Biol. 33, 2007). All sums are integers, so the mean does not depend on the order of the
frames, has no running rounding, and `remove` undoes `insert` to the bit.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ConfigError, ReconstructionError
from edge_runtime.frame import FrameGeometry
from edge_runtime.geometry import PoseOrigin
from edge_runtime.reconstruct._sums import CompoundKernel, CompoundMode, Placed, Sums
from edge_runtime.reconstruct.grid import MAX_VOXELS, VolumeGrid, grid_of_sweep
from edge_runtime.reconstruct.on_grid import place_on, room_on, volume_on
from edge_runtime.reconstruct.sweep import Sweep
from edge_runtime.reconstruct.volume import Volume

__all__ = ["CompoundKernel", "CompoundMode", "Compounder", "compound", "warm_up"]

MAX_THREADS = 64
BATCH = 32  # frames that threads take together
LAST_SEQUENCE = (1 << 23) - 1


class Compounder:
    """A volume that grows frame by frame, so it can run beside a stream. Safe to call from several threads.

    `mode`: `mean` of the pixels of a voxel, rounded half up; `max`; or `latest` (the largest `sequence` wins, then
    the last pixel in raster order). With kernel `linear`, `max` and `latest` take the pixels whose weight at the
    voxel is at least 1/8. `average` above 1: squares of so many pixels are averaged first, which is faster and less
    exact, for a mean. `threads`: 1 to 64, for each frame; the volume is the same to the bit. Raises `ConfigError` for
    an unknown mode or kernel, `ReconstructionError` when the grid exceeds `max_voxels`, and `MissingDependencyError`
    without numba. A context manager, which ends its threads.
    """

    def __init__(
        self,
        grid: VolumeGrid,
        *,
        mode: CompoundMode = "mean",
        kernel: CompoundKernel = "nearest",
        pose_origin: PoseOrigin = "tracker",
        max_voxels: int = MAX_VOXELS,
        threads: int = 1,
        average: int = 1,
    ) -> None:
        self._sums = Sums(mode, kernel, average)
        if not 1 <= threads <= MAX_THREADS:
            raise ConfigError(f"threads {threads}: 1 to {MAX_THREADS} is allowed")
        self._acc, self._sides, self._box = room_on(grid, self._sums, max_voxels)
        self.grid, self.mode, self.kernel, self.pose_origin = grid, mode, kernel, pose_origin
        self._frames = 0
        self._sequence = 0
        self._lock = threading.Lock()
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads - 1, "compounding") if threads > 1 else None

    def __enter__(self) -> Compounder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown()

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
        return self.insert_many([(image, T_world_image, geometry)], sequence=sequence)

    def insert_many(
        self,
        frames: Sequence[tuple[npt.NDArray[np.uint8], npt.NDArray[np.float64], FrameGeometry]],
        *,
        sequence: int | None = None,
    ) -> int:
        """Add frames (image, T_world_image, geometry) as `insert` does, in one step: threads then share them best.

        `sequence` is that of the first frame; the others follow it. Raises as `insert`, and adds nothing then.
        """
        placed = [place_on(self.grid, self._sums, *frame) for frame in frames]
        with self._lock:
            first = self._sequence + 1 if sequence is None else sequence
            if not 1 <= first <= LAST_SEQUENCE + 1 - len(frames):
                raise ConfigError(f"sequence {first}: 1 to {LAST_SEQUENCE} is allowed")
            self._sequence = max(self._sequence, first + len(frames) - 1)
            self._frames += len(frames)
            return self._splat([(one, first + k) for k, one in enumerate(placed) if one is not None], 1)

    def remove(
        self, image: npt.NDArray[np.uint8], T_world_image: npt.NDArray[np.float64], geometry: FrameGeometry
    ) -> int:
        """Take out a frame that was inserted with the same arguments; the number of pixels that fell inside.

        Only a mean can be undone: `ReconstructionError` for the other modes, or when no frame is in the volume.
        """
        if self.mode != "mean":
            raise ReconstructionError(
                f"mode {self.mode!r} cannot be undone from its sums; EditableCompounder keeps frames and can, or use "
                "mode 'mean'"
            )
        placed = place_on(self.grid, self._sums, image, T_world_image, geometry)
        with self._lock:
            if self._frames == 0:
                raise ReconstructionError("no frame is in the volume; only what was inserted can be removed")
            self._frames -= 1
            return 0 if placed is None else self._splat([(placed, 0)], -1)

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
            data, weight = self._sums.levels(self._acc)
        return volume_on(self.grid, data, weight, self.pose_origin)

    def mean(self) -> npt.NDArray[np.float64]:
        """(Z, Y, X) float64 means before they are rounded to grey levels, NaN where nothing was seen.

        Raises `ReconstructionError` for another mode than `mean`, and as `volume`.
        """
        if self.mode != "mean":
            raise ReconstructionError(f"mode {self.mode!r} has no mean; use mode 'mean'")
        with self._lock:
            return self._sums.means(self._acc).reshape(self.grid.shape)

    def _splat(self, frames: Sequence[tuple[Placed, int]], sign: int) -> int:
        """Put frames, each with its order, into the sums or take them out; how many pixels they had inside."""
        if not frames:
            return 0
        if self._pool is None:
            common = (self._sides, self._box, self._acc, sign)
            return sum([self._sums.splat(placed, *common, order) for placed, order in frames])
        return self._sums.splat_in_slabs(frames, self._sides, self._box, self._acc, sign, self._pool, self._threads)


def compound(
    sweep: Sweep,
    spacing_mm: float | tuple[float, float, float] | None = None,
    mode: CompoundMode = "mean",
    kernel: CompoundKernel = "nearest",
    *,
    grid: VolumeGrid | None = None,
    max_voxels: int = MAX_VOXELS,
    threads: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Volume:
    """The volume of a whole sweep, on `grid`, or on the smallest one with `spacing_mm` (one number or (z, y, x)).

    `threads`: see `Compounder`. `progress(done, all)` is called as frames are done.

    Raises `ReconstructionError` when no pixel falls inside or the volume would exceed `max_voxels`, `GeometryError`
    when millimetres are not trusted, `MissingDependencyError` without numba.
    """
    if (grid is None) == (spacing_mm is None):
        raise ConfigError("give either spacing_mm or grid to compound()")
    if grid is None:
        assert spacing_mm is not None
        grid = grid_of_sweep(sweep, spacing_mm, max_voxels=max_voxels)
    used = 0
    with Compounder(
        grid, mode=mode, kernel=kernel, pose_origin=sweep.pose_origin, max_voxels=max_voxels, threads=threads
    ) as target:
        step = BATCH if threads > 1 else 1
        for start in range(0, len(sweep), step):
            rows = range(start, min(start + step, len(sweep)))
            used += target.insert_many([(sweep.image(k), sweep.T_world_image[k], sweep.geometry_of(k)) for k in rows])
            if progress is not None:
                progress(rows[-1] + 1, len(sweep))
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
