"""Timestamped rings beside the image path: poses and inertial samples, asked for by the time of an image.

Samples keep the time of the device that made them; one `offset_ns` per buffer (host = device + offset) turns it
into host monotonic time, and may be corrected at any moment. A time that does not follow the last one is refused
and counted. So that one bad time cannot lock out all later samples, `RESTART_AFTER` refused samples in a row that
follow each other are believed: the ring is emptied and starts anew with them.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import deque
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ConfigError
from edge_runtime.geometry import Pose, interpolate_rigid

__all__ = [
    "BufferCounters",
    "ImuBuffer",
    "ImuSample",
    "ImuSamples",
    "InterpolatedPose",
    "PoseBuffer",
    "PoseRefusal",
    "Refusal",
]

RESTART_AFTER = 10
TIME_LIMIT_NS = 1 << 62

Refusal = Literal["empty", "too early", "too late", "gap"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BufferCounters:
    """What became of the samples.

    Every sample is `accepted` or refused: `duplicate` (same time as the newest), `out_of_order` (before it) or `jump`
    (more than the allowed step after it). Of the accepted ones, `dropped` were the oldest of a full ring and `cleared`
    went when it restarted; the others are held. `restarts`: times the device's clock had moved for good; the samples
    that showed it count as accepted from then on.
    """

    accepted: int = 0
    dropped: int = 0
    cleared: int = 0
    duplicate: int = 0
    out_of_order: int = 0
    jump: int = 0
    restarts: int = 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class InterpolatedPose:
    """A pose for the time of an image.

    `pose` has `time_ns` in host time. `covariance` (6, 6) as in `Pose`, grown with the distance to the samples, or None
    when the samples have none. `gap_ns`: time between the two samples used, 0 at a sample; when `held`, the time
    to the single sample that was taken as it is, because the other side is missing.
    """

    pose: Pose
    covariance: npt.NDArray[np.float64] | None
    gap_ns: int
    held: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PoseRefusal:
    """Why no pose is given: the buffer is empty, the time lies outside the samples, or between two too far apart."""

    reason: Refusal
    gap_ns: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ImuSample:
    """One inertial sample: rate (3,) in rad/s and specific force (3,) in m/s^2 in the sensor's axes, device time.

    Raises `ConfigError` for other shapes and values that are not finite.
    """

    time_ns: int
    gyro_rad_s: npt.NDArray[np.float64]
    accel_m_s2: npt.NDArray[np.float64]

    def __post_init__(self) -> None:
        for name in ("gyro_rad_s", "accel_m_s2"):
            value = np.asarray(getattr(self, name))
            if value.shape != (3,) or not np.isfinite(value).all():
                raise ConfigError(f"{name} is {value}; three finite numbers are needed")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ImuSamples:
    """N samples in host time: `times_ns` (N,) int64, `gyro_rad_s` (N, 3), `accel_m_s2` (N, 3) float64."""

    times_ns: npt.NDArray[np.int64]
    gyro_rad_s: npt.NDArray[np.float64]
    accel_m_s2: npt.NDArray[np.float64]


class _Timed(Protocol):
    @property
    def time_ns(self) -> int: ...


T = TypeVar("T", bound=_Timed)


class _Ring(Generic[T]):
    """Samples in order of device time; not locked."""

    def __init__(self, capacity: int, max_step_ns: int) -> None:
        if capacity < 2 or max_step_ns <= 0:
            raise ConfigError(f"capacity {capacity}, max_step_ns {max_step_ns}: at least 2 samples and 1 ns are needed")
        self.times: deque[int] = deque(maxlen=capacity)
        self.samples: deque[T] = deque(maxlen=capacity)
        self.suspects: list[tuple[T, str]] = []
        self.max_step_ns = max_step_ns
        self.counts = dict.fromkeys(BufferCounters.__dataclass_fields__, 0)

    def append(self, sample: T) -> bool:
        """Take `sample` if its time follows; False when it was refused."""
        time_ns = sample.time_ns
        if isinstance(time_ns, bool) or not isinstance(time_ns, int | np.integer) or abs(time_ns) >= TIME_LIMIT_NS:
            raise ConfigError(f"time_ns is {time_ns!r}; an integer number of nanoseconds under 2^62 is needed")
        fault = self._fault(int(time_ns))
        if fault is None:
            self.suspects.clear()
            self._take(sample)
            return True
        self.counts[fault] += 1
        if fault == "duplicate":
            return False
        if self.suspects and not 0 < time_ns - self.suspects[-1][0].time_ns <= self.max_step_ns:
            self.suspects.clear()
        self.suspects.append((sample, fault))
        return len(self.suspects) >= RESTART_AFTER and self._restart()

    def _fault(self, time_ns: int) -> str | None:
        step = time_ns - self.times[-1] if self.times else 1
        if step == 0:
            return "duplicate"
        if step < 0:
            return "out_of_order"
        return "jump" if step > self.max_step_ns else None

    def _take(self, sample: T) -> None:
        self.counts["accepted"] += 1
        self.counts["dropped"] += len(self.times) == self.times.maxlen
        self.times.append(int(sample.time_ns))
        self.samples.append(sample)

    def _restart(self) -> bool:
        """The device's clock has moved for good: forget the old samples, believe the suspects."""
        self.counts["restarts"] += 1
        self.counts["cleared"] += len(self.times)
        self.times.clear()
        self.samples.clear()
        for sample, fault in self.suspects:
            self.counts[fault] -= 1
            self._take(sample)
        self.suspects.clear()
        return True


class _Buffer(Generic[T]):
    """Lock, clock offset and counters around a ring."""

    def __init__(self, *, capacity: int, offset_ns: int, max_step_ns: int) -> None:
        self._ring: _Ring[T] = _Ring(capacity, max_step_ns)
        self._offset_ns = offset_ns
        self._lock = threading.Lock()

    def append(self, sample: T) -> bool:
        """Add a sample with device time; False when its time was refused (see `counters`).

        Raises `ConfigError` when the time is not an integer.
        """
        with self._lock:
            return self._ring.append(sample)

    @property
    def offset_ns(self) -> int:
        """Host time less device time, in ns."""
        with self._lock:
            return self._offset_ns

    @offset_ns.setter
    def offset_ns(self, value: int) -> None:
        with self._lock:
            self._offset_ns = int(value)

    @property
    def counters(self) -> BufferCounters:
        """A snapshot of the counters."""
        with self._lock:
            return BufferCounters(**self._ring.counts)

    def __len__(self) -> int:
        with self._lock:
            return len(self._ring.times)

    @property
    def span_ns(self) -> tuple[int, int] | None:
        """Host times of the oldest and newest sample, or None when empty."""
        with self._lock:
            times = self._ring.times
            return (times[0] + self._offset_ns, times[-1] + self._offset_ns) if times else None


class PoseBuffer(_Buffer[Pose]):
    """A ring of poses with device time; thread-safe.

    `rotation_density` (rad^2/s) and `translation_density` (mm^2/s) say how fast the doubt grows away from the samples:
    the motion between them is taken as a random walk. The defaults are 0.02 rad and 1 mm after 0.1 s, an
    unhurried hand. Raises `ConfigError` for a capacity under 2 or a step or density out of range.
    """

    def __init__(
        self,
        *,
        capacity: int = 1024,
        offset_ns: int = 0,
        max_step_ns: int = 5_000_000_000,
        rotation_density: float = 4e-3,
        translation_density: float = 10.0,
    ) -> None:
        super().__init__(capacity=capacity, offset_ns=offset_ns, max_step_ns=max_step_ns)
        if not (0 <= rotation_density < np.inf and 0 <= translation_density < np.inf):
            raise ConfigError(f"densities {rotation_density}, {translation_density}: numbers of at least 0 are needed")
        self._density = np.diag([rotation_density] * 3 + [translation_density] * 3)

    def at(self, time_ns: int, max_gap_ns: int) -> InterpolatedPose | PoseRefusal:
        """The pose at host time `time_ns`, or why there is none; a stream often lacks one, so that raises nothing.

        Between two samples no more than `max_gap_ns` apart: linear translation, spherical rotation. Before the first or
        after the last sample by no more than `max_gap_ns`: that sample as it is, `held`; motion is never extrapolated.
        Covariance between samples a and b at share u: (1-u) A + u B, which bounds the truth however their errors
        are correlated, plus the variance u (1-u) (t_b - t_a) Q of a Brownian bridge; when held, A + |t - t_a| Q.
        """
        with self._lock:
            device_ns, offset_ns = int(time_ns) - self._offset_ns, self._offset_ns
            times, poses = self._ring.times, self._ring.samples
            if not times:
                return PoseRefusal(reason="empty", gap_ns=0)
            k = bisect_left(times, device_ns)
            if k < len(times) and times[k] == device_ns:
                a = b = poses[k]
            else:
                a, b = poses[max(0, k - 1)], poses[min(k, len(times) - 1)]
        if a is b:
            return self._hold(a, device_ns, offset_ns, max_gap_ns)
        if b.time_ns - a.time_ns > max_gap_ns:
            return PoseRefusal(reason="gap", gap_ns=b.time_ns - a.time_ns)
        return self._between(a, b, device_ns, offset_ns)

    def _hold(self, a: Pose, device_ns: int, offset_ns: int, max_gap_ns: int) -> InterpolatedPose | PoseRefusal:
        away = device_ns - a.time_ns
        if abs(away) > max_gap_ns:
            return PoseRefusal(reason="too late" if away > 0 else "too early", gap_ns=abs(away))
        covariance = None if a.covariance is None else a.covariance + abs(away) * 1e-9 * self._density
        pose = Pose(
            T_world_image=a.T_world_image, time_ns=device_ns + offset_ns, covariance=covariance, origin=a.origin
        )
        return InterpolatedPose(pose=pose, covariance=covariance, gap_ns=abs(away), held=away != 0)

    def _between(self, a: Pose, b: Pose, device_ns: int, offset_ns: int) -> InterpolatedPose:
        gap = b.time_ns - a.time_ns
        share = (device_ns - a.time_ns) / gap
        T = interpolate_rigid(a.T_world_image, b.T_world_image, share)
        covariance = None
        if a.covariance is not None and b.covariance is not None:
            bridge = share * (1 - share) * gap * 1e-9 * self._density
            covariance = (1 - share) * _carried(a, T) + share * _carried(b, T) + bridge
        origin = max(a.origin, b.origin, key=("tracker", "imu+image", "image").index)  # the less trusted
        pose = Pose(T_world_image=T, time_ns=device_ns + offset_ns, covariance=covariance, origin=origin)
        return InterpolatedPose(pose=pose, covariance=covariance, gap_ns=gap, held=False)


def _carried(sample: Pose, T_world_image: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Covariance of `sample`, turned from its own axes into those of `T_world_image`."""
    assert sample.covariance is not None
    turn = np.zeros((6, 6))
    turn[:3, :3] = turn[3:, 3:] = T_world_image[:3, :3].T @ sample.T_world_image[:3, :3]
    return np.asarray(turn @ sample.covariance @ turn.T)


class ImuBuffer(_Buffer[ImuSample]):
    """A ring of inertial samples with device time; thread-safe. `ConfigError` for a capacity or step out of range."""

    def __init__(self, *, capacity: int = 8192, offset_ns: int = 0, max_step_ns: int = 1_000_000_000) -> None:
        super().__init__(capacity=capacity, offset_ns=offset_ns, max_step_ns=max_step_ns)

    def between(self, start_ns: int, end_ns: int) -> ImuSamples:
        """Samples with `start_ns <= time < end_ns` in host time, oldest first; `ConfigError` when the end is first."""
        if end_ns < start_ns:
            raise ConfigError(f"start_ns {start_ns} lies after end_ns {end_ns}; give the earlier time first")
        with self._lock:
            offset_ns, times = self._offset_ns, self._ring.times
            low, high = bisect_left(times, start_ns - offset_ns), bisect_left(times, end_ns - offset_ns)
            found = [self._ring.samples[k] for k in range(low, high)]
        return ImuSamples(
            times_ns=np.array([s.time_ns + offset_ns for s in found], np.int64),
            gyro_rad_s=np.array([s.gyro_rad_s for s in found], np.float64).reshape(-1, 3),
            accel_m_s2=np.array([s.accel_m_s2 for s in found], np.float64).reshape(-1, 3),
        )
