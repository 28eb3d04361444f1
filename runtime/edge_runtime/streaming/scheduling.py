"""CPU affinity and the real-time scheduler for the threads on the way of a frame, and whether they were granted."""

from __future__ import annotations

import os
from dataclasses import dataclass

import msgspec

from edge_runtime.errors import ConfigError

__all__ = ["Grant", "Scheduling", "apply_scheduling"]


class Scheduling(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the capture and compute threads ask of the kernel (Linux); what is refused is an event and in the report.

    `cpus` are the processors that they may run on; `fifo_priority` 1 to 99 asks for SCHED_FIFO, which needs
    CAP_SYS_NICE or an rtprio limit. Leave one processor to the rest of the system: a real-time thread that does not
    wait keeps it from working. Threads that a backend has started already are not reached.
    """

    cpus: tuple[int, ...] | None = None
    fifo_priority: int | None = None

    def __post_init__(self) -> None:
        if self.cpus is not None and (not self.cpus or min(self.cpus) < 0):
            raise ConfigError(f"cpus are {self.cpus}; numbers of processors from 0 are needed, or None for all")
        if self.fifo_priority is not None and not 1 <= self.fifo_priority <= 99:
            raise ConfigError(f"fifo_priority is {self.fifo_priority}; 1 to 99, or None for the usual scheduler")


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What was asked for one thread and whether the kernel gave it; `detail` is what it runs with, or the refusal."""

    thread: str
    what: str
    granted: bool
    detail: str


def apply_scheduling(settings: Scheduling, thread: str) -> list[Grant]:
    """Ask for the calling thread, and read back what it got; nothing is raised."""
    grants = []
    if settings.cpus is not None:
        what = f"processors {', '.join(map(str, settings.cpus))}"
        grants.append(_ask(thread, what, lambda: _pin(set(settings.cpus or ()))))
    if settings.fifo_priority is not None:
        priority = settings.fifo_priority
        grants.append(_ask(thread, f"SCHED_FIFO {priority}", lambda: _fifo(priority)))
    return grants


def _ask(thread: str, what: str, attempt: object) -> Grant:
    assert callable(attempt)
    try:
        detail, granted = attempt()
    except (OSError, AttributeError, ValueError) as error:  # AttributeError: not a Linux system
        return Grant(thread=thread, what=what, granted=False, detail=f"{type(error).__name__}: {error}")
    return Grant(thread=thread, what=what, granted=granted, detail=detail)


def _pin(cpus: set[int]) -> tuple[str, bool]:
    os.sched_setaffinity(0, cpus)  # 0 is the calling thread alone
    got = os.sched_getaffinity(0)
    return f"runs on {', '.join(map(str, sorted(got)))}", got == cpus


def _fifo(priority: int) -> tuple[str, bool]:
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))
    got, param = os.sched_getscheduler(0), os.sched_getparam(0)
    return f"policy {got}, priority {param.sched_priority}", got == os.SCHED_FIFO and param.sched_priority == priority
