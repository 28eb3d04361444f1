"""Progress for a person: one line a task on a terminal, plain lines elsewhere; always on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from edge_sdk.progress import Progress, ProgressEvent

__all__ = ["show_progress"]

_EVERY_S = 5.0


@contextmanager
def show_progress() -> Iterator[Progress]:
    """A listener that shows what it hears: bars on a terminal, else a line a task now and then."""
    if not sys.stderr.isatty():
        yield _Lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description:24}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bars(*columns, TextColumn("{task.fields[note]}"), console=Console(stderr=True)) as bars:
        tasks: dict[str, object] = {}

        def show(event: ProgressEvent) -> None:
            if event.task not in tasks:
                tasks[event.task] = bars.add_task(event.task, total=event.total, note="")
            note = describe(event)
            bars.update(tasks[event.task], completed=event.step, total=event.total, note=note)  # type: ignore[arg-type]

        yield show


class _Lines:
    """A line when a task starts and ends, and every five seconds between."""

    def __init__(self) -> None:
        self._shown: dict[str, float] = {}

    def __call__(self, event: ProgressEvent) -> None:
        now = time.monotonic()
        done = event.step >= event.total
        if not done and event.task in self._shown and now - self._shown[event.task] < _EVERY_S:
            return
        self._shown[event.task] = now
        sys.stderr.write(f"{event.task:24} {event.step}/{event.total} {describe(event)}".rstrip() + "\n")
        sys.stderr.flush()


def describe(event: ProgressEvent) -> str:
    """Note, loss and time left of an event, as far as known."""
    parts = [event.note] if event.note else []
    if event.loss is not None:
        parts.append(f"loss {event.loss:.4f}")
    if event.eta_s is not None and event.step < event.total:
        parts.append(f"{event.eta_s:.0f} s left")
    return ", ".join(parts)
