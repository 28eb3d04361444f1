"""What a stream tells while it runs: plain records, for a trace, a log or a counter.

`Pipeline(observe=...)` gets each of them in the thread where it happens, `Pipeline(on_event=...)` the events alone, in
a thread of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec

from edge_runtime.streaming.ledger import Outcome
from edge_runtime.streaming.policy import Action, Point

__all__ = [
    "DecisionRecord",
    "EventKind",
    "FrameRecord",
    "Lap",
    "LossRecord",
    "Observer",
    "SinkRecord",
    "StreamEvent",
    "StreamRecord",
]

EventKind = Literal[
    "absurd_time", "bad_frame", "callback_failed", "cap", "colour", "corrupt_frame", "geometry", "growing_age",
    "growing_memory", "hook_failed", "recovered", "resolution", "rolled_back", "scheduling", "silent_source",
    "sink_failed", "source_lost", "stage_failed", "stage_restarted", "stuck", "swap_failed", "swapped", "timestamps",
    "told",
]  # fmt: skip


class StreamEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Something that a reader of the report must be able to find: what, when (host monotonic ns), and why in words.

    `branch` and `frame` (index in the source) where there is one; `told` is an event of the program's own
    (`Pipeline.tell`).
    """

    kind: EventKind
    time_ns: int
    message: str
    branch: str = ""
    frame: int | None = None


class DecisionRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One decision: on which frame, before which stage, with how much slack and which prediction, and why.

    `predicted_ns` is what was predicted when the policy was asked: for a decision that holds, once.

    At the point `cap` no frame is decided upon (`frame` is -1): from then on `rung` is the best that may be used.
    """

    frame: int
    point: Point
    action: Action
    rung: int
    reason: str
    slack_ns: int | None
    predicted_ns: int
    time_ns: int = 0
    branch: str = ""


class Lap(msgspec.Struct, frozen=True):
    """A part of a frame's time, host monotonic ns; the laps of a frame follow each other without a gap."""

    name: str
    start_ns: int
    end_ns: int
    wait: bool


class FrameRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What one branch did with one frame; `laps` go from its arrival to `done_ns`."""

    branch: str
    frame: int
    arrival_ns: int
    deadline_ns: int | None
    done_ns: int
    outcome: Outcome
    reason: str
    missed: bool
    variant: str
    laps: tuple[Lap, ...]


class LossRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A frame of the source that no branch saw: dropped (`replaced`, `stopped`) or failed; `number` counts from 0."""

    number: int
    time_ns: int
    outcome: Outcome
    reason: str


class SinkRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A result and a sink: written from `start_ns` to `end_ns`, or lost there (both the same then)."""

    sink: str
    branch: str
    frame: int
    start_ns: int
    end_ns: int
    outcome: Outcome
    reason: str


StreamRecord = StreamEvent | DecisionRecord | FrameRecord | LossRecord | SinkRecord
Observer = Callable[[StreamRecord], None]
