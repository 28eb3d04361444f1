"""Loops: places seen again, recognised, verified step by step, with the reason for each candidate that fell.

    descriptor alike -> in-plane registration -> decorrelation distance -> three in a row -> Mahalanobis gate -> PCM

The last two are in `consistency`. Repetitive anatomy makes false candidates the norm, so no single test is trusted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ConfigError
from edge_runtime.frame import FrameGeometry
from edge_runtime.slam.consistency import CHI2_99_OF_6, LoopFactor, OdometryChain, consistent, gate_error
from edge_runtime.slam.keyframes import thumbnail
from edge_runtime.slam.overlay import overlay

__all__ = ["LoopFinder", "LoopSettings", "PlaceIndex", "Rejected"]

F64 = npt.NDArray[np.float64]
Image = npt.NDArray[np.uint8]
Distance = Callable[[Image, Image], "tuple[float, float] | None"]

TOP = 3  # candidates that are verified for one keyframe
NEXT = 2  # places that successive matches may lie apart
SIGMAS = 3.0
MAX_LOOPS = 128  # kept for the pairwise test, the latest
SHIFT_FLOOR = 0.2  # mm; least doubt about a registration in plane: tissue is no rigid body
TURN_FLOOR = 1e-2  # rad


class LoopSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """When two keyframes are one place.

    `similarity`: least cosine of the descriptors; `window_ms`: keyframes nearer in time are no loop; `ncc`: least
    correlation once registered in plane; `row`: successive keyframes that must match; `capacity`: places kept;
    `max_elevation_mm`: doubt about the elevational distance where no distance is measured; `tilt_deg`: doubt about
    turns out of the plane, which one picture does not show. Raises `ConfigError` for a value out of range.
    """

    similarity: float = 0.9
    window_ms: float = 3000.0
    ncc: float = 0.6
    row: int = 3
    capacity: int = 1024
    max_elevation_mm: float = 1.0
    tilt_deg: float = 3.0

    def __post_init__(self) -> None:
        if not (-1 < self.similarity < 1 and -1 < self.ncc < 1):
            raise ConfigError(f"similarity {self.similarity}, ncc {self.ncc}: above -1 and below 1 are allowed")
        if not (1 <= self.row <= 16 and 2 <= self.capacity <= 1 << 20):
            raise ConfigError(f"row {self.row}, capacity {self.capacity}: 1 to 16 and 2 to 2^20 are allowed")
        for name in ("window_ms", "max_elevation_mm", "tilt_deg"):
            if not 0 < getattr(self, name) < np.inf:
                raise ConfigError(f"{name} is {getattr(self, name)}; a positive number is needed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """A candidate (keyframes `i` and `j`) that is no loop, and why; `score`: the cosine, or the NCC once registered."""

    i: int
    j: int
    score: float
    reason: str


class PlaceIndex:
    """Descriptors of keyframes, at most `capacity`: when full, every second of the older half is forgotten.

    So memory is bounded, recent places are dense and old ones sparse, and none of the sweep is lost.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._descriptors: npt.NDArray[np.float32] | None = None
        self._keys: list[int] = []
        self._times: list[int] = []

    @property
    def keys(self) -> tuple[int, ...]:
        """Keyframes that are known, oldest first."""
        return tuple(self._keys)

    def add(self, key: int, time_ns: int, descriptor: npt.NDArray[np.floating]) -> tuple[int, ...]:
        """Remember a place; which were forgotten for it.

        `descriptor` (D,), of the same D each time; its length does not matter. Raises `ConfigError` for another shape,
        or one that is not finite.
        """
        unit = self._unit(descriptor)
        if self._descriptors is None:
            self._descriptors = np.zeros((self._capacity, len(unit)), np.float32)
        gone: tuple[int, ...] = ()
        if len(self._keys) == self._capacity:
            gone = self._thin(self._descriptors)
        self._descriptors[len(self._keys)] = unit
        self._keys.append(key)
        self._times.append(time_ns)
        return gone

    def _thin(self, descriptors: npt.NDArray[np.float32]) -> tuple[int, ...]:
        n = len(self._keys)
        drop = set(range(1, max(2, n // 2), 2))
        gone = tuple(self._keys[k] for k in sorted(drop))
        keep = [k for k in range(n) if k not in drop]
        descriptors[: len(keep)] = descriptors[keep]
        self._keys, self._times = [self._keys[k] for k in keep], [self._times[k] for k in keep]
        return gone

    def alike(
        self, descriptor: npt.NDArray[np.floating], time_ns: int, similarity: float, window_ns: int
    ) -> list[tuple[int, float]]:
        """(keyframe, cosine) of the places at least `similarity` alike and `window_ns` older, best first, at most 3.

        Raises `ConfigError` for a descriptor of another shape than those before, or one that is not finite.
        """
        unit = self._unit(descriptor)
        old = int(np.searchsorted(self._times, time_ns - window_ns, side="right"))
        if self._descriptors is None or old == 0:
            return []
        cosine = self._descriptors[:old] @ unit
        best = np.argsort(-cosine, kind="stable")[:TOP]
        return [(self._keys[k], float(cosine[k])) for k in best if cosine[k] >= similarity]

    def _unit(self, descriptor: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
        known = descriptor.shape if self._descriptors is None else self._descriptors.shape[1:]
        if descriptor.ndim != 1 or descriptor.size == 0 or descriptor.shape != known:
            raise ConfigError(f"descriptor has shape {descriptor.shape}, those before {known}; one (D,) is needed")
        if not np.isfinite(descriptor).all():
            raise ConfigError("descriptor is not finite; leave the keyframe out")
        norm = float(np.linalg.norm(descriptor))
        return np.asarray(descriptor / norm if norm > 0 else descriptor, np.float32)


class LoopFinder:
    """Keyframe after keyframe in, loop factors out.

    `geometry`: of all images. `chain`: the odometry; the caller appends a keyframe's motion to it before `add`.
    `distance(image_i, image_j)`: elevational distance by speckle decorrelation of two images of one place, as
    (mm, sigma in mm), or None where it is out of range; without it nothing is asked. `rejected` holds the last
    `settings.capacity` candidates that fell. Not thread-safe.
    """

    def __init__(
        self,
        geometry: FrameGeometry,
        chain: OdometryChain,
        settings: LoopSettings | None = None,
        *,
        distance: Distance | None = None,
    ) -> None:
        geometry.require_mm()
        self.settings = settings or LoopSettings()
        self.rejected: deque[Rejected] = deque(maxlen=self.settings.capacity)
        self._geometry, self._chain, self._distance = geometry, chain, distance
        self._places = PlaceIndex(self.settings.capacity)
        self._images: dict[int, Image] = {}
        self._row: list[LoopFactor] = []
        self._passed: list[LoopFactor] = []
        self._next, self._last_ns = 0, -(1 << 62)

    @property
    def places(self) -> tuple[int, ...]:
        """Keyframes that are remembered."""
        return self._places.keys

    def add(self, image: Image, time_ns: int, descriptor: npt.NDArray[np.floating] | None = None) -> int:
        """Take the next keyframe, (H, W) uint8; how many loops it confirmed.

        `descriptor` (D,): a feature of the student, of the same kind each time; without one, the thumbnail. Raises
        `ConfigError` for a wrong image or descriptor, time that goes back, or a chain that does not end at this
        keyframe; nothing is taken then.
        """
        j = self._next
        if len(self._chain) != j + 1:
            raise ConfigError(
                f"the chain has {len(self._chain)} keyframes, this is number {j + 1}; append its motion first"
            )
        if time_ns < self._last_ns:
            raise ConfigError(f"time_ns {time_ns} of keyframe {j} lies before {self._last_ns}; give keyframes in order")
        if image.ndim != 2 or image.dtype != np.uint8 or any(image.shape != i.shape for i in self._images.values()):
            raise ConfigError(f"keyframe {j}: image {image.shape} {image.dtype}; (H, W) uint8, one shape, is needed")
        area = self._geometry.scan_area
        mask = None if area is None else area.mask((image.shape[0], image.shape[1]))
        found = thumbnail(image, mask) if descriptor is None else descriptor
        window_ns = round(self.settings.window_ms * 1e6)
        alike = self._places.alike(found, time_ns, self.settings.similarity, window_ns)
        confirmed = self._extend_row(self._best_match(j, image, alike))
        for gone in self._places.add(j, time_ns, found):
            del self._images[gone]
        self._images[j] = image.copy()
        self._next, self._last_ns = j + 1, time_ns
        return confirmed

    def _best_match(self, j: int, image: Image, alike: list[tuple[int, float]]) -> LoopFactor | None:
        """The candidate with the highest NCC of those that register and whose decorrelation agrees."""
        best: LoopFactor | None = None
        for i, cosine in alike:
            match = self._match(i, j, image, cosine)
            if isinstance(match, Rejected):
                self.rejected.append(match)
                continue
            loser = match
            if best is None or match.score > best.score:
                best, loser = match, best or match
            if loser is not best:
                reason = f"keyframe {best.i} matches better (NCC {best.score:.2f} over {loser.score:.2f})"
                self.rejected.append(Rejected(i=loser.i, j=j, score=loser.score, reason=reason))
        return best

    def _match(self, i: int, j: int, image: Image, cosine: float) -> LoopFactor | Rejected:
        laid = overlay(self._images[i], image, self._geometry)
        if not laid.ncc >= self.settings.ncc:
            reason = f"registered NCC {laid.ncc:.2f} is under {self.settings.ncc:g}"
            return Rejected(i=i, j=j, score=cosine, reason=reason)
        elevation = self.settings.max_elevation_mm
        if self._distance is not None:
            apart = self._distance(self._images[i], image)
            if apart is None:
                return Rejected(i=i, j=j, score=cosine, reason="decorrelated: farther apart than can be measured")
            T, covariance = self._chain.between(i, j)
            spare = abs(apart[0]) - abs(T[2, 3])
            sigma = float(np.sqrt(apart[1] ** 2 + covariance[5, 5]))
            if abs(spare) > SIGMAS * sigma:
                reason = f"decorrelation says {apart[0]:.1f} mm, the odometry {abs(T[2, 3]):.1f} mm (sigma {sigma:.1f})"
                return Rejected(i=i, j=j, score=cosine, reason=reason)
            elevation = float(np.hypot(*apart))  # its sign is not known, so it is doubt and not a shift
        tilt = np.radians(self.settings.tilt_deg)
        covariance = laid.covariance + np.diag(
            [tilt**2, tilt**2, TURN_FLOOR**2, SHIFT_FLOOR**2, SHIFT_FLOOR**2, elevation**2]
        )
        return LoopFactor(i=i, j=j, T_i_j=laid.T_i_j, covariance=covariance, score=laid.ncc)

    def _extend_row(self, match: LoopFactor | None) -> int:
        """Put the match of the newest keyframe to the row; how many loops it confirms (the whole row at first)."""
        if match is not None and self._row and self._follows(self._row[-1], match):
            self._row.append(match)
        else:
            self._drop_row()
            self._row = [] if match is None else [match]
        need = self.settings.row
        if len(self._row) < need:
            return 0
        confirmed = self._row if len(self._row) == need else self._row[-1:]
        return sum([self._gate(loop) for loop in confirmed])

    def _follows(self, last: LoopFactor, match: LoopFactor) -> bool:
        """Whether `match` is of the next keyframe and of a place next to the last one's, in either direction."""
        rank = {key: k for k, key in enumerate(self._places.keys)}
        here, there = rank.get(match.i), rank.get(last.i)
        return match.j == last.j + 1 and here is not None and there is not None and abs(here - there) <= NEXT

    def _drop_row(self) -> None:
        if 0 < len(self._row) < self.settings.row:
            reason = f"{len(self._row)} in a row, {self.settings.row} are needed"
            self.rejected.extend(Rejected(i=m.i, j=m.j, score=m.score, reason=reason) for m in self._row)

    def _gate(self, loop: LoopFactor) -> bool:
        error = gate_error(loop, self._chain)
        if error > CHI2_99_OF_6:
            reason = f"Mahalanobis distance^2 {error:.1f} from the odometry is above {CHI2_99_OF_6:.1f} (99 %)"
            self.rejected.append(Rejected(i=loop.i, j=loop.j, score=loop.score, reason=reason))
            return False
        self._passed.append(loop)
        del self._passed[:-MAX_LOOPS]
        return True

    def loops(self) -> tuple[tuple[LoopFactor, ...], tuple[Rejected, ...]]:
        """The largest set of confirmed loops that agree with each other, and the others with the reason."""
        kept = set(consistent(self._passed, self._chain))
        out = [loop for k, loop in enumerate(self._passed) if k not in kept]
        reason = f"no closed circle with the {len(kept)} loops that agree pairwise"
        return (
            tuple(self._passed[k] for k in sorted(kept)),
            tuple(Rejected(i=loop.i, j=loop.j, score=loop.score, reason=reason) for loop in out),
        )
