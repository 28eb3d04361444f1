"""A volume whose frames can be taken out and moved in every mode, because it keeps them."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ReconstructionError
from edge_runtime.frame import FrameGeometry
from edge_runtime.geometry import PoseOrigin
from edge_runtime.reconstruct._sums import CompoundKernel, CompoundMode, Placed, Sums
from edge_runtime.reconstruct.grid import MAX_VOXELS, VolumeGrid
from edge_runtime.reconstruct.on_grid import place_on, room_on, volume_on
from edge_runtime.reconstruct.volume import Volume

__all__ = ["EditableCompounder"]

SIDE = 16  # voxels of a brick that is emptied and filled anew

I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class _Kept:
    image: npt.NDArray[np.uint8]
    geometry: FrameGeometry
    placed: Placed | None  # None: far from the grid


class EditableCompounder:
    """`Compounder` on a fixed grid that can `remove` and `move` frames in every mode. Safe to call from many threads.

    A mean is undone by subtraction. The largest or latest pixel of a voxel cannot be: what lay behind it is not in the
    sums. So the frames are kept (by reference: the caller must not write into them), the bricks of 16 voxels that an
    edited frame meets are emptied, and every kept frame is put into them again in its own order. The volume is then,
    to the bit, that of the remaining frames alone. Raises as `Compounder`.
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
        self._sums = Sums(mode, kernel)
        self._acc, self._sides, self._box = room_on(grid, self._sums, max_voxels)
        self.grid, self.mode, self.kernel, self.pose_origin = grid, mode, kernel, pose_origin
        self._frames: dict[int, _Kept] = {}
        self._keys = count(1)
        self._lock = threading.Lock()

    @property
    def frames(self) -> tuple[int, ...]:
        """Keys of the frames in the volume, in the order they came."""
        with self._lock:
            return tuple(self._frames)

    def insert(
        self, image: npt.NDArray[np.uint8], T_world_image: npt.NDArray[np.float64], geometry: FrameGeometry
    ) -> int:
        """Add a frame, as `Compounder.insert`; the key to `remove` or `move` it by."""
        placed = place_on(self.grid, self._sums, image, T_world_image, geometry)
        with self._lock:
            key = next(self._keys)
            self._frames[key] = _Kept(image, geometry, placed)
            self._splat(placed, 1, key, self._box)
            return key

    def remove(self, key: int) -> None:
        """Take out the frame that `insert` gave `key` for; `ReconstructionError` when it is not in the volume."""
        with self._lock:
            gone = self._get(key)
            del self._frames[key]
            self._take([gone])

    def move(self, poses: Mapping[int, npt.NDArray[np.float64]]) -> None:
        """Put the frames of the keys of `poses` at these `T_world_image` (4, 4), in one step, each in its own order.

        The volume is then, to the bit, as if they had been inserted there. Raises as `insert` and `remove`, and changes
        nothing then.
        """
        with self._lock:
            old = {key: self._get(key) for key in poses}
            new = {
                key: place_on(self.grid, self._sums, old[key].image, T, old[key].geometry) for key, T in poses.items()
            }
            for key, kept in old.items():
                self._frames[key] = _Kept(kept.image, kept.geometry, None)
            self._take(list(old.values()))
            for key, placed in new.items():
                self._frames[key] = _Kept(old[key].image, old[key].geometry, placed)
                self._splat(placed, 1, key, self._box)

    def volume(self) -> Volume:
        """The volume as it stands, a copy, as `Compounder.volume`."""
        with self._lock:
            data, weight = self._sums.levels(self._acc)
        return volume_on(self.grid, data, weight, self.pose_origin)

    def _get(self, key: int) -> _Kept:
        if key not in self._frames:
            raise ReconstructionError(f"frame {key} is not in the volume; insert() gives the keys of those that are")
        return self._frames[key]

    def _splat(self, placed: Placed | None, sign: int, key: int, box: I64) -> None:
        if placed is not None:
            self._sums.splat(placed, self._sides, box, self._acc, sign, key)

    def _take(self, gone: list[_Kept]) -> None:
        """Undo frames that are no longer in `_frames`, or stand there without a place."""
        places = [frame.placed for frame in gone if frame.placed is not None]
        if self.mode == "mean":
            for placed in places:
                self._splat(placed, -1, 0, self._box)
            return
        boxes = self._met(places)
        lattice = self._acc.reshape(self.grid.shape)
        for low, high in boxes:
            high = np.minimum(high + self._sums.overlap, self._sides)  # cells also write the voxels after their own
            lattice[low[2] : high[2], low[1] : high[1], low[0] : high[0]] = 0
        for key, kept in self._frames.items():
            if kept.placed is None:
                continue
            first, last = kept.placed.bounds()
            for low, high in boxes:
                part = np.stack([low - self._sums.overlap, high + self._sums.overlap])
                part = np.clip(part, self._box[0], self._box[1])
                if (first < part[1]).all() and (last >= part[0]).all():
                    self._splat(kept.placed, 1, key, part)

    def _met(self, places: list[Placed]) -> list[tuple[I64, I64]]:
        """First voxels and ends (x, y, z) of the bricks that hold a pixel of `places`, within the grid."""
        found: set[tuple[int, int, int]] = set()
        for placed in places:
            low, high = (np.clip(bound, 0, self._sides - 1) // SIDE for bound in placed.bounds())
            met = self._sums.kernels.met_bricks(placed.runs, placed.address, low, high, SIDE)
            found.update((x, y, z) for x, y, z in met[:, :3].tolist())
        starts = [np.array(key, np.int64) * SIDE for key in sorted(found)]
        return [(start, np.minimum(start + SIDE, self._sides)) for start in starts]
