"""What a long call tells its caller while it works: one event type, so that one display serves all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Progress", "ProgressEvent", "ignore_progress"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgressEvent:
    """`step` of `total` steps of `task` are done; `eta_s` is the predicted rest of the task in seconds.

    `loss` is the mean training loss of the epoch just ended; `note` is a short text for a person
    (for example "cached" for a stage that was not run again).
    """

    task: str
    step: int
    total: int
    loss: float | None = None
    eta_s: float | None = None
    note: str = ""


Progress = Callable[[ProgressEvent], None]


def ignore_progress(event: ProgressEvent) -> None:
    """The default listener."""
