"""Compounding into a volume whose extent nobody knows beforehand: frames come one by one and the region grows.

The lattice is cut into bricks, made when a pixel first falls into them, so growing never copies what is there. Bricks
that no frame has met for long are packed: the sums of their touched voxels alone, without loss, a few at each call.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ConfigError, ReconstructionError
from edge_runtime.frame import FrameGeometry
from edge_runtime.geometry import PoseOrigin
from edge_runtime.reconstruct._sums import CompoundKernel, CompoundMode, Placed, Sums
from edge_runtime.reconstruct.grid import MAX_VOXELS, VolumeGrid
from edge_runtime.reconstruct.volume import Volume

__all__ = ["SIDE", "LiveCompounder", "LiveState"]

I64 = npt.NDArray[np.int64]
Key = tuple[int, int, int]  # (x, y, z) in bricks
Met = dict[Key, slice]  # bricks that a frame meets, and the part of its runs that does

SIDE = 32  # voxels; 256 KiB of sums for nearest
MIB = 1 << 20
PACKED_AT_ONCE = 16  # bricks packed in one call: about a millisecond
LAST_SEQUENCE = (1 << 23) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveState:
    """Frames in the volume, bricks open and packed, and the bytes that they take, with the limit."""

    frames: int
    open_bricks: int
    packed_bricks: int
    bytes: int
    max_bytes: int


@dataclass(frozen=True, slots=True, eq=False)
class _Packed:
    """A brick without its empty voxels."""

    touched: npt.NDArray[np.uint8]
    values: npt.NDArray[np.signedinteger]

    @property
    def bytes(self) -> int:
        return self.touched.nbytes + self.values.nbytes


class LiveCompounder:
    """A volume that grows with what it is given. Safe to call from several threads.

    `spacing_mm` is one number or (z, y, x); the centre of voxel (0, 0, 0) is the origin of `T_world_volume` (4, 4)
    (default: the world), and the lattice has no end. `mode` and `kernel`: see `Compounder`. `max_mib` bounds the sums;
    `open_mib` (default: a quarter) of it is for bricks that are not packed. Raises as `Compounder`.
    """

    def __init__(
        self,
        spacing_mm: float | tuple[float, float, float],
        *,
        mode: CompoundMode = "mean",
        kernel: CompoundKernel = "nearest",
        T_world_volume: npt.NDArray[np.float64] | None = None,
        pose_origin: PoseOrigin = "tracker",
        max_mib: int = 2048,
        open_mib: int | None = None,
    ) -> None:
        spacing = (spacing_mm,) * 3 if isinstance(spacing_mm, int | float) else spacing_mm
        T = np.eye(4) if T_world_volume is None else T_world_volume.copy()
        self._lattice = VolumeGrid(shape=(1, 1, 1), spacing_mm=spacing, T_world_volume=T)
        self._sums = Sums(mode, kernel)
        reach = SIDE + self._sums.overlap
        self._shape = np.full(3, reach, np.int64)
        self._box = np.array([[0] * 3, [SIDE] * 3], np.int64)
        self._brick = (reach**3, *self._sums.moments)
        self._brick_bytes = 8 * int(np.prod(self._brick))
        open_mib = max(1, max_mib // 4) if open_mib is None else open_mib
        if not 1 <= open_mib <= max_mib:
            raise ConfigError(f"max_mib {max_mib} with open_mib {open_mib}: 1 <= open_mib <= max_mib is needed")
        self._max_bytes = max_mib * MIB
        self._max_open = max(1, open_mib * MIB // self._brick_bytes)
        self.mode, self.kernel, self.pose_origin = mode, kernel, pose_origin
        self._lock = threading.Lock()
        self._clear()

    def _clear(self) -> None:
        self._open: OrderedDict[Key, I64] = OrderedDict()  # the one met last stands last
        self._packed: dict[Key, _Packed] = {}
        self._spare: list[I64] = []
        self._packed_bytes = self._frames = self._sequence = 0
        self._dirty: set[Key] = set()

    def clear(self) -> None:
        """Forget all frames and give the memory back."""
        with self._lock:
            held = set(self._open) | set(self._packed) | self._dirty
            self._clear()
            self._dirty = held  # they are empty now

    @property
    def state(self) -> LiveState:
        """How large it is now."""
        with self._lock:
            return LiveState(
                frames=self._frames,
                open_bricks=len(self._open),
                packed_bricks=len(self._packed),
                bytes=self._bytes(),
                max_bytes=self._max_bytes,
            )

    def insert(
        self,
        image: npt.NDArray[np.uint8],
        T_world_image: npt.NDArray[np.float64],
        geometry: FrameGeometry,
        *,
        sequence: int | None = None,
    ) -> int:
        """Add a frame, as `Compounder.insert`; the number of its pixels.

        Raises `ReconstructionError`, and changes nothing, when it would need more memory than `max_mib` or lies more
        than a million voxels from the origin.
        """
        placed = self._place(image, T_world_image, geometry)
        with self._lock:
            order = self._sequence + 1 if sequence is None else sequence
            if not 1 <= order <= LAST_SEQUENCE:
                raise ConfigError(f"sequence {order}: 1 to {LAST_SEQUENCE} is allowed")
            keys = self._met(placed)
            self._ensure(list(keys))
            self._sequence = max(self._sequence, order)
            self._frames += 1
            used = self._splat(placed, keys, 1, order)
            self._pack_some()
            return used

    def remove(
        self, image: npt.NDArray[np.uint8], T_world_image: npt.NDArray[np.float64], geometry: FrameGeometry
    ) -> int:
        """Take out, to the bit, a frame that was inserted with the same arguments; a mean alone can be undone."""
        placed = self._undoable(image, T_world_image, geometry)
        with self._lock:
            return self._take(placed)

    def move(
        self,
        image: npt.NDArray[np.uint8],
        T_before: npt.NDArray[np.float64],
        T_after: npt.NDArray[np.float64],
        geometry: FrameGeometry,
    ) -> int:
        """Take out a frame inserted at `T_before` and put it in at `T_after`, in one step; its number of pixels.

        The volume is then, to the bit, as if the frame had been inserted at `T_after` alone. Raises as `insert` and
        `remove`, and changes nothing then.
        """
        old, new = self._undoable(image, T_before, geometry), self._place(image, T_after, geometry)
        with self._lock:
            keys = self._met(new)
            self._ensure([*keys, *(key for key in self._check_there(old) if key not in keys)])
            self._take(old)
            self._frames += 1
            used = self._splat(new, keys, 1, 0)
            self._pack_some()
            return used

    def take_dirty(self) -> tuple[tuple[int, int, int], ...]:
        """Lowest voxel (z, y, x) of each brick of 32 voxels a side that changed since the last call, after a `clear`
        too. `LiveVolume` keeps a filled volume up to date with it."""
        with self._lock:
            found, self._dirty = self._dirty, set()
        return tuple(sorted((z * SIDE, y * SIDE, x * SIDE) for x, y, z in self._with_next(found)))

    def brick(self, lowest: tuple[int, int, int]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
        """Grey levels and weights, (32, 32, 32) (z, y, x) both, of the brick with this lowest voxel (z, y, x); zeros
        where nothing was seen. Raises `ConfigError` for a voxel that begins no brick."""
        if any(n % SIDE for n in lowest):
            raise ConfigError(f"voxel {lowest} begins no brick; multiples of {SIDE} do")
        return self._levels((lowest[2] // SIDE, lowest[1] // SIDE, lowest[0] // SIDE))

    @property
    def lattice(self) -> VolumeGrid:
        """Spacing and place of voxel (0, 0, 0); the lattice has no end, its shape says nothing."""
        return self._lattice

    def _with_next(self, keys: set[Key]) -> set[Key]:
        """`keys` and those whose first planes share in what fell into them."""
        steps = (0, 1) if self._sums.overlap else (0,)
        return {(x + i, y + j, z + k) for x, y, z in keys for i, j, k in product(steps, repeat=3)}

    def _levels(self, key: Key) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
        with self._lock:
            acc = self._whole(key)
        data, weight = self._sums.levels(acc)
        return data.reshape((SIDE,) * 3), weight.reshape((SIDE,) * 3)

    def volume(self, *, max_voxels: int = MAX_VOXELS) -> Volume:
        """The volume as it stands, on the smallest lattice that holds what was seen; frames may go on coming in.

        Brick by brick, so a frame waits for one brick at most; each brick holds whole frames. Raises
        `ReconstructionError` when nothing was seen, or when the volume would exceed `max_voxels`.
        """
        with self._lock:
            own = set(self._open) | set(self._packed)
        found = {}
        for key in sorted(self._with_next(own)):
            data, weight = self._levels(key)
            if weight.any():
                found[key] = (data, weight)
        if not found:
            raise ReconstructionError("no voxel has been seen yet; insert frames first")
        return self._joined(found, max_voxels)

    def _joined(
        self, found: dict[Key, tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]], max_voxels: int
    ) -> Volume:
        """One volume of the bricks' grey levels and weights, cut to what was seen."""
        lows, highs = [], []
        for key, (_, weight) in found.items():
            seen = np.argwhere(weight > 0) + np.array(key[::-1]) * SIDE
            lows.append(seen.min(axis=0))
            highs.append(seen.max(axis=0))
        low, high = np.min(lows, axis=0), np.max(highs, axis=0) + 1
        sides = tuple(int(n) for n in high - low)
        spacing = self._lattice.spacing_mm
        if np.prod([float(n) for n in sides]) > max_voxels:
            factor = (np.prod([float(n) for n in sides]) / max_voxels) ** (1 / 3) * 1.01
            raise ReconstructionError(
                f"the volume has {' x '.join(map(str, sides))} voxels (z, y, x), the cap is {max_voxels}; a spacing of "
                f"({', '.join(f'{s * factor:.3g}' for s in spacing)}) mm would fit, or raise max_voxels"
            )
        data, weight = np.zeros(sides, np.uint8), np.zeros(sides, np.float32)
        for key, parts in found.items():
            start = np.array(key[::-1]) * SIDE - low
            there = tuple(slice(max(0, int(s)), max(0, int(s) + SIDE)) for s in start)
            here = tuple(slice(max(0, -int(s)), min(SIDE, n - int(s))) for s, n in zip(start, sides, strict=True))
            data[there], weight[there] = parts[0][here], parts[1][here]
        T = self._lattice.T_world_volume.copy()
        T[:3, 3] = self._lattice.to_world(low)
        return Volume(data=data, weight=weight, spacing_mm=spacing, T_world_volume=T, pose_origin=self.pose_origin)

    def _place(
        self, image: npt.NDArray[np.uint8], T_world_image: npt.NDArray[np.float64], geometry: FrameGeometry
    ) -> Placed:
        lattice = self._lattice
        placed = self._sums.place(image, T_world_image, geometry, lattice.T_world_volume, lattice.spacing_mm)
        if placed is None:
            raise ReconstructionError(
                f"the frame at {T_world_image[:3, 3]} mm lies more than a million voxels of {lattice.spacing_mm} mm "
                "from the origin; give T_world_volume near the sweep, or a coarser spacing"
            )
        return placed

    def _undoable(
        self, image: npt.NDArray[np.uint8], T_world_image: npt.NDArray[np.float64], geometry: FrameGeometry
    ) -> Placed:
        if self.mode != "mean":
            raise ReconstructionError(
                f"mode {self.mode!r} cannot be undone from its sums; EditableCompounder keeps frames and can, or use "
                "mode 'mean'"
            )
        return self._place(image, T_world_image, geometry)

    def _met(self, placed: Placed) -> Met:
        """The bricks that hold a pixel of the frame, each with its runs."""
        low, high = (bound // SIDE for bound in placed.bounds())
        found = self._sums.kernels.met_bricks(placed.runs, placed.address, low, high, SIDE).tolist()
        return {(x, y, z): slice(start, end) for x, y, z, start, end in found}

    def _ensure(self, keys: list[Key]) -> None:
        """Open the bricks `keys`; nothing is changed when there is no room for them."""
        packed = [key for key in keys if key in self._packed]
        fresh = sum(key not in self._open and key not in self._packed for key in keys)
        more = (fresh + len(packed)) * self._brick_bytes - sum(self._packed[key].bytes for key in packed)
        more -= len(self._spare) * self._brick_bytes
        if more > 0 and self._bytes() + more > self._max_bytes:
            raise ReconstructionError(
                f"the frame needs {more / MIB:.1f} MiB more than the {self._bytes() / MIB:.0f} MiB in use, max_mib is "
                f"{self._max_bytes // MIB}; take a coarser spacing, raise max_mib, or end the sweep here"
            )
        for key in keys:
            if key in self._open:
                self._open.move_to_end(key)
                continue
            if self._spare:
                acc = self._spare.pop()
                acc.fill(0)
            else:
                acc = np.zeros(self._brick, np.int64)
            if key in self._packed:
                brick = self._packed.pop(key)
                self._packed_bytes -= brick.bytes
                acc[_touched(brick, len(acc))] = brick.values
            self._open[key] = acc

    def _check_there(self, placed: Placed) -> Met:
        keys = self._met(placed)
        if self._frames == 0 or any(key not in self._open and key not in self._packed for key in keys):
            raise ReconstructionError("the frame is not in the volume; only what was inserted can be removed")
        return keys

    def _take(self, placed: Placed) -> int:
        keys = self._check_there(placed)
        self._ensure(list(keys))
        self._frames -= 1
        return self._splat(placed, keys, -1, 0)

    def _splat(self, placed: Placed, keys: Met, sign: int, order: int) -> int:
        used = 0
        for key, part in keys.items():
            at = placed.moved([SIDE * n for n in key], part)
            used += self._sums.splat(at, self._shape, self._box, self._open[key], sign, order)
        self._dirty.update(keys)
        return used

    def _pack_some(self) -> None:
        """Pack the bricks met longest ago, beyond those that may stay open, but not many at once."""
        for _ in range(min(PACKED_AT_ONCE, len(self._open) - self._max_open)):
            key, acc = self._open.popitem(last=False)
            brick = _pack(acc)
            self._packed[key] = brick
            self._packed_bytes += brick.bytes
            self._spare.append(acc)
        if self._bytes() > self._max_bytes:
            self._spare.clear()

    def _bytes(self) -> int:
        return (len(self._open) + len(self._spare)) * self._brick_bytes + self._packed_bytes

    def _sums_of(self, key: Key) -> I64 | None:
        """Sums of a brick with the planes that overlap the next ones, (z, y, x[, 2]); None when there is none."""
        acc = self._open.get(key)
        if acc is None:
            brick = self._packed.get(key)
            if brick is None:
                return None
            acc = np.zeros(self._brick, np.int64)
            acc[_touched(brick, len(acc))] = brick.values
        side = SIDE + self._sums.overlap
        return acc.reshape(side, side, side, *self._sums.moments)

    def _whole(self, key: Key) -> I64:
        """A copy of the sums of a brick's own voxels, flat, with what the bricks before it put there."""
        total = np.zeros((SIDE, SIDE, SIDE, *self._sums.moments), np.int64)
        steps = (0, 1) if self._sums.overlap else (0,)
        for i, j, k in product(steps, repeat=3):
            acc = self._sums_of((key[0] - i, key[1] - j, key[2] - k))
            if acc is None:
                continue
            to = tuple(slice(0, 1) if n else slice(0, SIDE) for n in (k, j, i))
            part = acc[tuple(slice(SIDE, SIDE + 1) if n else slice(0, SIDE) for n in (k, j, i))]
            if self.mode == "mean":
                total[to] += part
            else:
                np.maximum(total[to], part, out=total[to])
        return total.reshape(SIDE**3, *self._sums.moments)


def _pack(acc: I64) -> _Packed:
    touched = acc != 0 if acc.ndim == 1 else (acc != 0).any(axis=1)
    return _Packed(np.packbits(touched), acc[touched])


def _touched(brick: _Packed, count: int) -> npt.NDArray[np.bool_]:
    return np.unpackbits(brick.touched, count=count).view(np.bool_)
