"""A filled volume that follows a `LiveCompounder`: only what changed is read and filled again."""

from __future__ import annotations

import threading

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ReconstructionError
from edge_runtime.reconstruct.grid import MAX_VOXELS
from edge_runtime.reconstruct.holes import FillMethod, fill_holes, reach_of
from edge_runtime.reconstruct.live import SIDE, LiveCompounder
from edge_runtime.reconstruct.volume import Box, Volume

__all__ = ["LiveVolume"]

I64 = npt.NDArray[np.int64]


class LiveVolume:
    """The volume of `source` for a display, refreshed when asked. Safe to call from several threads.

    `fill` and `limit_mm`: as `fill_holes`; None leaves holes empty. The lattice is that of `source`, in whole bricks
    of 32 voxels around all that was seen. One `LiveVolume` for a compounder: it takes the list of dirty bricks.
    """

    def __init__(
        self,
        source: LiveCompounder,
        *,
        fill: FillMethod | None = "gaussian",
        limit_mm: float | None = None,
        max_voxels: int = MAX_VOXELS,
    ) -> None:
        self._source, self._fill, self._limit_mm, self._max_voxels = source, fill, limit_mm, max_voxels
        # beyond this a changed voxel does not reach: the closing looks twice as far as the filling, and one further
        self._margin = 2 * np.array(reach_of(source.lattice.spacing_mm, limit_mm), np.int64) + 1
        self._low: I64 | None = None  # voxel of the lattice that is (0, 0, 0) here, (z, y, x)
        self._waiting: set[tuple[int, int, int]] = set()
        self._lock = threading.Lock()
        self._data = np.zeros((0, 0, 0), np.uint8)
        self._weight = np.zeros((0, 0, 0), np.float32)
        self._filled = np.zeros((0, 0, 0), np.bool_)

    def refresh(self) -> Volume:
        """The volume as it stands, in arrays of its own; it costs by the bricks that changed since the last call.

        Raises `ReconstructionError` when nothing was seen yet, or when the volume would exceed `max_voxels`.
        """
        with self._lock:
            self._waiting.update(self._source.take_dirty())
            bricks = np.array(sorted(self._waiting), np.int64).reshape(-1, 3)
            self._make_room(bricks)
            for brick in bricks:
                self._copy(brick)
            if self._fill is not None:
                for region in self._regions(bricks):
                    self._refill(region)
            self._waiting.clear()
            return self._volume(copy=True)

    def _make_room(self, bricks: I64) -> None:
        """Enlarge the arrays so that `bricks` lie in them."""
        before = self._low
        if before is None and not len(bricks):
            raise ReconstructionError("no voxel has been seen yet; insert frames first")
        ends = bricks + SIDE
        if before is not None:
            bricks, ends = np.vstack([bricks, before]), np.vstack([ends, before + self._data.shape])
        low, sides = bricks.min(axis=0), ends.max(axis=0) - bricks.min(axis=0)
        if before is not None and tuple(sides) == self._data.shape:
            return
        if np.prod(sides.astype(np.float64)) > self._max_voxels:
            raise ReconstructionError(
                f"the volume has {' x '.join(map(str, sides))} voxels (z, y, x), the cap is {self._max_voxels}; take a "
                "coarser spacing, or raise max_voxels"
            )
        for name in ("_data", "_weight", "_filled"):
            old = getattr(self, name)
            new = np.zeros(tuple(sides), old.dtype)
            if before is not None:
                new[_box(before - low, old.shape)] = old
            setattr(self, name, new)
        self._low = low

    def _copy(self, brick: I64) -> None:
        box = self._here(brick, (SIDE,) * 3)
        z, y, x = brick.tolist()
        self._data[box], self._weight[box] = self._source.brick((z, y, x))
        self._filled[box] = False

    def _regions(self, bricks: I64) -> list[Box]:
        """What `bricks` may change by filling: brick by brick, or one box where that is less to do."""
        lows, highs = bricks - self._margin, bricks + SIDE + self._margin
        if not len(bricks):
            return []
        whole = np.prod((highs.max(axis=0) - lows.min(axis=0)).astype(np.float64))
        if whole <= len(bricks) * np.prod(SIDE + 2.0 * self._margin):
            lows, highs = lows.min(axis=0, keepdims=True), highs.max(axis=0, keepdims=True)
        return [self._here(low, high - low) for low, high in zip(lows, highs, strict=True)]

    def _refill(self, region: Box) -> None:
        invented = self._filled[region]
        self._data[region][invented] = 0
        self._filled[region] = False
        if self._fill is not None:
            fill_holes(self._volume(), self._fill, limit_mm=self._limit_mm, region=region, in_place=True)

    def _here(self, low: I64, shape: tuple[int, ...] | I64) -> Box:
        """The part inside the arrays of the box of the lattice that begins at `low`."""
        start = low - (np.zeros(3, np.int64) if self._low is None else self._low)
        inside = np.clip(np.stack([start, start + shape]), 0, self._data.shape)
        return _box(inside[0], inside[1] - inside[0])

    def _volume(self, *, copy: bool = False) -> Volume:
        lattice = self._source.lattice
        T = lattice.T_world_volume.copy()
        T[:3, 3] = lattice.to_world(np.zeros(3) if self._low is None else self._low)
        return Volume(
            data=self._data.copy() if copy else self._data,
            weight=self._weight.copy() if copy else self._weight,
            filled=self._filled.copy() if copy else self._filled,
            spacing_mm=lattice.spacing_mm,
            T_world_volume=T,
            pose_origin=self._source.pose_origin,
        )


def _box(start: I64, shape: tuple[int, ...] | I64) -> Box:
    z, y, x = (slice(int(a), int(a + n)) for a, n in zip(start, shape, strict=True))
    return z, y, x
