"""`Beside`: poses and inertial samples beside the image path, handed on with each result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edge_runtime.buffers import ImuBuffer, ImuSamples, InterpolatedPose, PoseBuffer, PoseRefusal
from edge_runtime.errors import ConfigError
from edge_runtime.frame import Frame
from edge_runtime.result import Result

__all__ = ["Beside", "imu_of", "pose_of"]


@dataclass(slots=True, kw_only=True)
class Beside:
    """Buffers that other threads fill while the stream runs.

    `time` says which time of a frame the poses are asked for: `arrival` (host monotonic) or `device` (that of the
    recording, for a file that is not paced); None: `arrival` on a live source and `device` on any other.
    `max_gap_ms` bounds how far apart the samples may lie. The inertial samples of a result are those since the result
    before on its branch. Asked after the model has run, when the samples after the frame have had time to come.
    """

    poses: PoseBuffer | None = None
    imu: ImuBuffer | None = None
    time: Literal["arrival", "device"] | None = None
    max_gap_ms: float = 100.0

    def __post_init__(self) -> None:
        if not 0 < self.max_gap_ms < float("inf"):
            raise ConfigError(f"max_gap_ms is {self.max_gap_ms}; it must be a number above 0")

    def attach(self, result: Result, *, live: bool, since: Frame | None) -> None:
        """Put the pose and the inertial samples of the frame into the result (`tracked`, `imu`)."""
        time_ns = self._time(result.frame, live)
        if self.poses is not None:
            found = PoseRefusal(reason="empty", gap_ns=0)
            pose = found if time_ns is None else self.poses.at(time_ns, round(self.max_gap_ms * 1e6))
            result.tracked = pose
        if self.imu is not None and time_ns is not None:
            before_ns = None if since is None else self._time(since, live)
            start_ns = time_ns - round(self.max_gap_ms * 1e6) if before_ns is None else min(before_ns, time_ns)
            result.imu = self.imu.between(start_ns, time_ns)

    def _time(self, frame: Frame, live: bool) -> int | None:
        by = self.time or ("arrival" if live else "device")
        return frame.arrival_ns if by == "arrival" else frame.device_ns


def pose_of(result: Result) -> InterpolatedPose | PoseRefusal | None:
    """`Result.tracked`: `T_world_image` for the frame's time, or why it is not known; None when the stream has no
    poses."""
    return result.tracked


def imu_of(result: Result) -> ImuSamples | None:
    """`Result.imu`: the inertial samples from the result before to this one; None when the stream has none."""
    return result.imu
