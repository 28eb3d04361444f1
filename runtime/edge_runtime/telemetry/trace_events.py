"""What a stream tells, as events of the Trace Event Format (Google, "Trace Event Format", JSON Array Format).

Used of it: complete events `X`, instants `i`, flows `s`, `t`, `f`, counters `C`, metadata `M`; times in microseconds.
The complete events of one track must not overlap, so what may (several frames wait at once) is spread over tracks
"NAME", "NAME (2)", ...
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

from edge_runtime.streaming.records import (
    DecisionRecord,
    FrameRecord,
    LossRecord,
    SinkRecord,
    StreamEvent,
    StreamRecord,
)
from edge_runtime.telemetry.gc_pauses import GcPause

__all__ = ["Event", "TraceEvents"]

Event = dict[str, Any]

_PROCESS = 1
_ABREAST = 16  # tracks of one name
_REMEMBERED = 256  # frames whose result may still reach a sink


class TraceEvents:
    """Turns records into events, in the order they come; keeps little more than the names of the tracks.

    Tracks: for each branch "frames" (from arrival to result), one a stage or wait, and "decisions"; one for each sink;
    "lost", "events" and "garbage collection". An arrow (flow) joins the stages of a frame, another leads to each sink.
    `left_out` counts slices for which there was no room, as more than 16 of a kind overlap.
    """

    def __init__(self, origin_ns: int) -> None:
        self.left_out = 0
        self._origin_ns = origin_ns
        self._tracks: dict[str, int] = {}
        self._busy_until: dict[str, int] = {}
        self._flows = 0
        self._ends: OrderedDict[tuple[str, int], tuple[int, int]] = OrderedDict()  # (branch, frame) -> (track, ns)

    def of(self, record: StreamRecord | GcPause) -> Iterator[Event]:
        """The events of one record; those that name a new track come first."""
        if isinstance(record, FrameRecord):
            yield from self._frame(record)
        elif isinstance(record, SinkRecord):
            yield from self._sink(record)
        elif isinstance(record, DecisionRecord):
            yield from self._decision(record)
        elif isinstance(record, LossRecord):
            what = f"{record.outcome}: {record.reason}"
            yield from self._instant("lost", what, record.time_ns, {"number": record.number})
        elif isinstance(record, StreamEvent):
            told = {"message": record.message, "branch": record.branch, "frame": record.frame}
            yield from self._instant("events", record.kind, record.time_ns, told)
        else:
            args = {"collected": record.collected}
            name = f"generation {record.generation}"
            yield from self._slice("garbage collection", name, record.start_ns, record.end_ns, args)

    def named(self) -> Event:
        """The name of the process: the first event of a trace."""
        return {"ph": "M", "name": "process_name", "pid": _PROCESS, "args": {"name": "edge-runtime"}}

    def note(self, text: str, time_ns: int, args: dict[str, Any]) -> Event:
        """An instant across all tracks."""
        return {"ph": "i", "s": "g", "name": text, "pid": _PROCESS, "tid": 0, "ts": self._us(time_ns), "args": args}

    def _frame(self, record: FrameRecord) -> Iterator[Event]:
        name = f"{record.branch}: frames"
        shown = {
            "outcome": record.outcome,
            "reason": record.reason,
            "missed": record.missed,
            "variant": record.variant,
            "deadline_ms": None if record.deadline_ns is None else (record.deadline_ns - record.arrival_ns) / 1e6,
        }
        yield from self._slice(name, f"frame {record.frame}", record.arrival_ns, record.done_ns, shown)
        self._flows += 1
        laps = [lap for lap in record.laps if lap.end_ns > lap.start_ns]
        for number, lap in enumerate(laps):
            args = {"frame": record.frame, "wait": lap.wait}
            track = None
            for event in self._slice(f"{record.branch}: {lap.name}", lap.name, lap.start_ns, lap.end_ns, args):
                track = event["tid"]
                yield event
            if track is not None and len(laps) > 1:
                phase = "s" if number == 0 else "f" if number == len(laps) - 1 else "t"
                yield self._flow(phase, "frame", self._flows, track, lap.start_ns)
                self._remember((record.branch, record.frame), (track, lap.start_ns))
        yield self._counter(f"{record.branch}: age", record.done_ns, record.done_ns - record.arrival_ns)

    def _remember(self, frame: tuple[str, int], end: tuple[int, int]) -> None:
        self._ends[frame] = end
        self._ends.move_to_end(frame)
        if len(self._ends) > _REMEMBERED:
            self._ends.popitem(last=False)

    def _sink(self, record: SinkRecord) -> Iterator[Event]:
        name, args = f"sink {record.sink}", {"frame": record.frame, "outcome": record.outcome, "reason": record.reason}
        if record.end_ns == record.start_ns:
            yield from self._instant(name, f"{record.outcome}: {record.reason}", record.start_ns, args)
            return
        track = None
        for event in self._slice(name, f"{record.branch} {record.frame}", record.start_ns, record.end_ns, args):
            track = event["tid"]
            yield event
        begin = self._ends.get((record.branch, record.frame))
        if track is not None and begin is not None:
            self._flows += 1
            yield self._flow("s", "result", self._flows, *begin)
            yield self._flow("f", "result", self._flows, track, record.start_ns)

    def _decision(self, record: DecisionRecord) -> Iterator[Event]:
        args = {
            "before": record.point,
            "frame": record.frame,
            "rung": record.rung,
            "reason": record.reason,
            "slack_ms": None if record.slack_ns is None else record.slack_ns / 1e6,
            "predicted_ms": record.predicted_ns / 1e6,
        }
        what = f"{record.action} at rung {record.rung}: {record.reason}"
        yield from self._instant(f"{record.branch}: decisions", what, record.time_ns, args)

    def _slice(self, track: str, name: str, start_ns: int, end_ns: int, args: dict[str, Any]) -> Iterator[Event]:
        """A complete event on the first track of that name that is free by then, or nothing when none is."""
        for number in range(1, _ABREAST + 1):
            place = track if number == 1 else f"{track} ({number})"
            if self._busy_until.get(place, start_ns) <= start_ns:
                break
        else:
            self.left_out += 1
            return
        self._busy_until[place] = max(start_ns, end_ns)
        yield from self._introduced(place)
        yield {
            "ph": "X",
            "name": name,
            "pid": _PROCESS,
            "tid": self._tracks[place],
            "ts": self._us(start_ns),
            "dur": max(0, end_ns - start_ns) / 1e3,
            "args": args,
        }

    def _instant(self, track: str, name: str, time_ns: int, args: dict[str, Any]) -> Iterator[Event]:
        yield from self._introduced(track)
        tid, ts = self._tracks[track], self._us(time_ns)
        yield {"ph": "i", "s": "t", "name": name, "pid": _PROCESS, "tid": tid, "ts": ts, "args": args}

    def _flow(self, phase: str, kind: str, flow: int, track: int, time_ns: int) -> Event:
        """An end of an arrow; it binds to the slice of `track` that begins at `time_ns`."""
        event = {"ph": phase, "cat": kind, "name": kind, "id": flow, "pid": _PROCESS, "tid": track}
        return {**event, "ts": self._us(time_ns), **({"bp": "e"} if phase == "f" else {})}

    def _counter(self, name: str, time_ns: int, value_ns: int) -> Event:
        return {"ph": "C", "name": name, "pid": _PROCESS, "ts": self._us(time_ns), "args": {"ms": value_ns / 1e6}}

    def _introduced(self, track: str) -> Iterator[Event]:
        """The metadata of a track, the first time it is used."""
        if track in self._tracks:
            return
        tid = self._tracks[track] = len(self._tracks) + 1
        yield {"ph": "M", "name": "thread_name", "pid": _PROCESS, "tid": tid, "args": {"name": track}}
        yield {"ph": "M", "name": "thread_sort_index", "pid": _PROCESS, "tid": tid, "args": {"sort_index": tid}}

    def _us(self, time_ns: int) -> float:
        return (time_ns - self._origin_ns) / 1e3
