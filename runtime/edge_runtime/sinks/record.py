"""A record of results as JSON lines, without pixels and without patient strings.

One JSON object a line; the first is the header with the schema. While it is written the file is called
`NAME.partial` (`PartialFile`); it is flushed to the system after each record and synced to the disk every `sync_every`
records, so after a crash all but the last records can be read, and a last line that was cut off is recognized. At
`close` it takes its name.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from edge_runtime.buffers import InterpolatedPose, PoseRefusal
from edge_runtime.errors import ConfigError, SourceFormatError
from edge_runtime.result import Result
from edge_runtime.sinks.base import Sink
from edge_runtime.sinks.partial_file import PartialFile

__all__ = ["JsonlSink", "Record", "read_jsonl", "result_fields"]

SCHEMA = "edge-runtime.results/1"
_IMU = ("times_ns", "gyro_rad_s", "accel_m_s2")


class JsonlSink(Sink):
    """Writes one line a result: frame, times, state, reason, all numbers and words of the outputs, hashes.

    Arrays and `extra` are left out.
    """

    def __init__(
        self, path: str | Path, *, sync_every: int = 30, branch: str | None = None, capacity: int = 16
    ) -> None:
        super().__init__(branch=branch, capacity=capacity)
        if sync_every < 1:
            raise ConfigError(f"sync_every is {sync_every}; it counts records and must be at least 1")
        self._file = PartialFile(path)
        self._sync_every = sync_every
        self._written = 0

    @property
    def path(self) -> Path:
        """Where the record is to be."""
        return self._file.path

    def open(self) -> None:
        """Raises `ConfigError` for a folder that is not there."""
        self._file.open()
        self._written = 0
        self._line({"schema": SCHEMA})

    def write(self, result: Result) -> None:
        self._line(result_fields(result))
        self._written += 1
        if self._written % self._sync_every == 0:
            self._file.sync()

    def _line(self, content: dict[str, Any]) -> None:
        self._file.write(msgspec.json.encode(content) + b"\n")

    def close(self) -> None:
        self._file.close()


def result_fields(result: Result) -> dict[str, Any]:
    """What is recorded of a result: frame, times, state, outputs in numbers and words, hashes; no pixels or `extra`."""
    frame = result.frame
    return {
        "branch": result.branch,
        "frame": frame.index,
        "state": result.state,
        "reason": result.reason,
        "missed": result.missed,
        "outputs_from": result.outputs_from,
        "arrival_ns": frame.arrival_ns,
        "device_ns": frame.device_ns,
        "deadline_ns": result.deadline_ns,
        "done_ns": result.done_ns,
        "stages_ns": result.stages_ns,
        "waits_ns": result.waits_ns,
        "areas": msgspec.to_builtins(result.areas),
        "classes": msgspec.to_builtins(result.classes),
        "detections": msgspec.to_builtins(result.detections),
        "objects": msgspec.to_builtins(result.objects),
        "measurements": msgspec.to_builtins(result.measurements),
        "findings": msgspec.to_builtins(result.findings),
        "gates": [{**msgspec.to_builtins(gate), "beyond": gate.beyond} for gate in result.gates],
        "uncertainty": result.uncertainty,
        "pose": _tracked_fields(result.tracked),
        "imu": None if result.imu is None else {k: getattr(result.imu, k).tolist() for k in _IMU},
        "variant": result.variant,
        "runner": result.runner,
        "bundle_sha256": result.bundle_sha256,
        "preprocess_sha256": result.preprocess_sha256,
    }


def _tracked_fields(tracked: InterpolatedPose | PoseRefusal | None) -> dict[str, Any] | None:
    """The pose as rows of `T_world_image` (mm), or the reason why there is none."""
    if tracked is None:
        return None
    if isinstance(tracked, PoseRefusal):
        return {"refused": tracked.reason, "gap_ns": tracked.gap_ns}
    pose = tracked.pose
    return {
        "T_world_image": pose.T_world_image.tolist(),
        "time_ns": pose.time_ns,
        "covariance": None if tracked.covariance is None else tracked.covariance.tolist(),
        "origin": pose.origin,
        "gap_ns": tracked.gap_ns,
        "held": tracked.held,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What `read_jsonl` found; `truncated` when the last line was cut off."""

    results: tuple[dict[str, Any], ...]
    truncated: bool


def read_jsonl(path: str | Path) -> Record:
    """The results of a record, complete or `.partial`. A last line that was cut off is left out and reported.

    Raises `SourceFormatError` for another kind of file and for a bad line that is not the last.
    """
    lines = Path(path).read_bytes().split(b"\n")
    whole, rest = lines[:-1], lines[-1]
    objects = [_object(path, number, line) for number, line in enumerate(whole, start=1)]
    schema = objects[0].get("schema") if objects else None
    if schema != SCHEMA:
        raise SourceFormatError(f"{path}: the schema is {schema!r} and {SCHEMA!r} is read; is it a record of results?")
    return Record(results=tuple(objects[1:]), truncated=bool(rest))


def _object(path: str | Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(line, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SourceFormatError(f"{path}, line {number}: not a JSON object ({error})") from error
