"""Small parts for pipelines under test: a source, a preprocessor, a postprocessor, and a clock shared in lockstep."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edge_runtime.clock import Clock, ManualClock, MonotonicClock
from edge_runtime.errors import CorruptFrameError
from edge_runtime.frame import Frame
from edge_runtime.result import Area
from edge_runtime.runners.base import Runner
from edge_runtime.streaming import Branch, Rung

SIZE = (16, 24)


@dataclass
class Prepared:
    tensor: npt.NDArray[np.float32]


class Scale:
    """The image as (1, 1, 64, 64) float32 in 0..1, cut or padded; one buffer, as the real one has."""

    def __init__(self) -> None:
        self.buffer = np.zeros((1, 1, 64, 64), np.float32)
        self.resets = 0

    def __call__(self, frame: Frame) -> Prepared:
        rows, columns = frame.shape
        self.buffer[0, 0, :rows, :columns] = frame.image[:64, :64] / np.float32(255)
        return Prepared(self.buffer)

    def reset(self) -> None:
        self.resets += 1


@dataclass
class Segmentation:
    mask: npt.NDArray[np.uint8] | None
    probability: npt.NDArray[np.float32] | None
    areas: tuple[Area, ...]
    uncertainty: float | None = None


class Positive:
    """Mask where the logit is positive, written into the buffers that it is given."""

    def __call__(
        self,
        outputs: dict[str, npt.NDArray[np.float32]],
        prepared: Any,
        frame: Frame,
        *,
        mask_out: npt.NDArray[np.uint8] | None,
        probability_out: npt.NDArray[np.float32] | None,
    ) -> Segmentation:
        logits = outputs["mask"][0, 0]
        mask = np.empty(frame.shape, np.uint8) if mask_out is None else mask_out
        probability = np.empty(logits.shape, np.float32) if probability_out is None else probability_out
        np.copyto(mask, logits[: frame.shape[0], : frame.shape[1]] > 0)
        np.copyto(probability, 1 / (1 + np.exp(-logits)))
        return Segmentation(mask, probability, (Area(label="target", pixels=int(mask.sum()), mm2=None, withheld="-"),))


class Frames:
    """`n` random frames as fast as they are taken; frame k fails to decode for k in `corrupt`."""

    name = "frames"
    fps: float | None = None

    def __init__(
        self,
        n: int,
        *,
        live: bool = False,
        corrupt: Collection[int] = (),
        clock: Clock | None = None,
        before: Callable[[int], None] = lambda index: None,
    ) -> None:
        self.n, self.live, self.corrupt, self.before = n, live, corrupt, before
        self.clock = clock or MonotonicClock()
        self.next = 0

    def image(self, index: int) -> npt.NDArray[np.uint8]:
        return np.random.default_rng(index).integers(0, 256, SIZE, np.uint8)

    def read(self) -> Frame | None:
        index, self.next = self.next, self.next + 1
        if index >= self.n:
            return None
        self.before(index)
        if index in self.corrupt:
            raise CorruptFrameError(f"frame {index} cannot be decoded", index)
        return Frame(image=self.image(index), index=index, arrival_ns=self.clock.now_ns())


class Lockstep:
    """A live source of a fixed period on a `ManualClock` that it and the runner (`serve_ns`) move in turn.

    Time passes only while the model works, or to the next frame while the pipeline is idle; the model's time stops
    at each arrival until the frame is in the mailbox. So a run is the same each time, and takes no real time.
    """

    name = "lockstep"
    live = True

    def __init__(self, n: int, period_ns: int, clock: ManualClock) -> None:
        self.n, self.period_ns, self.clock = n, period_ns, clock
        self.fps = 1e9 / period_ns
        self.idle: Callable[[], bool] = lambda: True
        self._asked = -1
        self._start_ns = 0
        self._changed = threading.Condition()

    def read(self) -> Frame | None:
        with self._changed:
            self._asked += 1
            index = self._asked
            if index == 0:
                self._start_ns = self.clock.now_ns()
            self._changed.notify_all()
        if index >= self.n:
            return None
        due_ns = self._start_ns + index * self.period_ns
        while self.clock.now_ns() < due_ns:
            if self.idle():
                self.clock.sleep_until_ns(due_ns)
            else:
                with self._changed:
                    self._changed.wait(0.001)
        return Frame(image=np.full(SIZE, 200, np.uint8), index=index, arrival_ns=due_ns)

    def serve_ns(self, duration_ns: int) -> None:
        """The model works for this long."""
        end_ns = self.clock.now_ns() + duration_ns
        while self._asked >= 0 and (now_ns := self.clock.now_ns()) < end_ns:
            passed = (now_ns - self._start_ns) // self.period_ns
            self.clock.sleep_until_ns(min(end_ns, self._start_ns + (passed + 1) * self.period_ns))
            arrived = min((self.clock.now_ns() - self._start_ns) // self.period_ns, self.n - 1)
            with self._changed:
                self._changed.notify_all()
                self._changed.wait_for(lambda arrived=arrived: self._asked > arrived, 10)  # type: ignore[misc]
        self.clock.sleep_until_ns(end_ns)


def branch(*runners: Runner, **options: Any) -> Branch:
    """A branch with the fakes above."""
    rungs = tuple(Rung(runner=runner, postprocess=Positive()) for runner in runners)
    return Branch(preprocess=Scale(), rungs=rungs, **options)


@pytest.fixture
def frames() -> type[Frames]:
    return Frames


@pytest.fixture
def lockstep() -> type[Lockstep]:
    return Lockstep


@pytest.fixture
def make_branch() -> Callable[..., Branch]:
    return branch
