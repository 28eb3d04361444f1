"""The camera and the notebook of every system: the same frames at the same times, and when each was delivered."""

from __future__ import annotations

import argparse
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.peers.work import Work

__all__ = ["Delivered", "Feed", "Job", "frame_id", "run_job"]

Image = npt.NDArray[np.uint8]
_ID_BYTES = 4
_LEAD_NS = 200_000_000  # from the first call to the first frame


@dataclass(frozen=True, kw_only=True)
class Job:
    """One block: `clip` is an .npy file (n, H, W) uint8 shown in a loop at `fps` for `seconds`.

    `work` is "none", "sleep" (of `work_ms`) or "onnx" (`models`, the first of them; more are the rungs of a ladder for
    the system that has one). `mode` chooses among the settings of a system. `wanted` (n, H, W) uint8 are the masks that
    those of the results are compared with.
    """

    clip: str
    fps: float
    seconds: float
    work: str
    work_ms: float = 0.0
    models: tuple[str, ...] = ()
    mode: str = ""
    budget_ms: float | None = None
    wanted: str = ""

    @property
    def frames(self) -> int:
        """How many frames are due."""
        return int(self.fps * self.seconds)


@dataclass(frozen=True, kw_only=True)
class Delivered:
    """A frame at the sink: CLOCK_MONOTONIC ns; `arrival_ns` is when it was due, however late it was read."""

    id: int
    arrival_ns: int
    delivered_ns: int
    state: str = "fresh"
    dice: float | None = None


def frame_id(image: npt.NDArray[Any]) -> int:
    """The number that `Feed` wrote into the first pixels."""
    return int.from_bytes(bytes(image.reshape(-1)[:_ID_BYTES].tolist()), "little")


class Feed:
    """Open loop: frame i is due at start + i / fps whatever the reader does, and counted from then.

    A reader that is late gets the frames it is owed at once. The feed ends with the last frame, or `seconds` after the
    first however many were read: what was due and not read then is never delivered.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.clip = np.load(job.clip)
        self.delivered: list[Delivered] = []
        self.read = 0
        self._start_ns: int | None = None
        self._lock = threading.Lock()

    def due_ns(self, index: int) -> int:
        """When frame `index` is due; the first call starts the clock."""
        with self._lock:
            if self._start_ns is None:
                self._start_ns = time.monotonic_ns() + _LEAD_NS
        return self._start_ns + round(index * 1e9 / self.job.fps)

    def next(self) -> Image | None:
        """Wait for the next frame and take it, with its number in its first pixels; None at the end. One thread."""
        index = self.read
        due_ns = self.due_ns(index)
        if index >= self.job.frames or time.monotonic_ns() > self.due_ns(self.job.frames):
            return None
        while (left_ns := due_ns - time.monotonic_ns()) > 0:
            time.sleep(left_ns / 1e9)
        image: Image = self.clip[index % len(self.clip)].copy()
        image.reshape(-1)[:_ID_BYTES] = np.frombuffer(index.to_bytes(_ID_BYTES, "little"), np.uint8)
        self.read += 1
        return image

    def record(self, index: int, state: str = "fresh") -> None:
        """Frame `index` has reached the sink now."""
        now_ns = time.monotonic_ns()
        due_ns = self.due_ns(index)
        self.delivered.append(Delivered(id=index, arrival_ns=due_ns, delivered_ns=now_ns, state=state))

    def write(self, path: Path, **facts: object) -> None:
        """JSON lines: one for each frame delivered, then one of facts."""
        lines = [json.dumps(vars(one)) for one in self.delivered]
        lines.append(json.dumps({"due": self.job.frames, "read": self.read, **facts}))
        path.write_text("\n".join(lines) + "\n")


def run_job(run: Callable[[Job, Feed, Work], dict[str, object] | None]) -> None:
    """The command line of a driver: `JOB.json OUT.jsonl`. `run` returns when the last frame has been dealt with."""
    parser = argparse.ArgumentParser(description=run.__doc__)
    parser.add_argument("job", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    content = json.loads(arguments.job.read_text())
    job = Job(**{**content, "models": tuple(content["models"])})
    feed, work = Feed(job), Work(job.work, sleep_ms=job.work_ms, model=job.models[0] if job.models else "")
    facts = run(job, feed, work) or {}
    feed.write(arguments.out, service_ns=work.service_ns, **facts)
