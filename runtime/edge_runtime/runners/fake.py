"""A runner without a backend, shipped so that users can test their own pipelines."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt

from edge_runtime.bundle.manifest import InputSpec, OutputSpec
from edge_runtime.clock import Clock, ManualClock, MonotonicClock
from edge_runtime.errors import InferenceError
from edge_runtime.runners.base import Arrays, Runner

__all__ = ["FakeRunner"]

Compute = Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]


class FakeRunner(Runner):
    """Answers `compute(input)` (by default the input's first channel as logits) after `latency_ms`.

    `latency_ms` is one number, or an iterable taken one value a call (the last value stays). A call whose
    number (from 0) is in `fail_at` raises `InferenceError`. With a `ManualClock` the latency moves that clock. As
    with every runner the next call writes over the outputs of this one, so a test sees what was kept too long.
    """

    def __init__(
        self,
        *,
        shape: tuple[int, int] = (64, 64),
        latency_ms: float | Iterable[float] = 0.0,
        compute: Compute | None = None,
        fail_at: Iterable[int] = (),
        clock: Clock | None = None,
        variant: str = "fake",
        classes: tuple[str, ...] = ("target",),
    ) -> None:
        super().__init__(
            name="fake",
            variant=variant,
            input=InputSpec(name="image", shape=(1, 1, *shape)),
            outputs=(OutputSpec(name="mask", shape=(1, len(classes), *shape), kind="mask_logits", classes=classes),),
        )
        self._latency = iter((latency_ms,)) if isinstance(latency_ms, (int, float)) else iter(latency_ms)
        self._last_ms = 0.0
        self._compute = compute or (lambda x: np.repeat(x[:, :1], len(classes), axis=1) * 8 - 4)
        self._fail_at = frozenset(fail_at)
        self._mask = np.empty(self.outputs[0].shape, np.float32)
        self._clock = clock or MonotonicClock()
        self.calls = 0

    def _activate(self) -> None:
        self.calls = 0

    def _infer(self, inputs: Arrays) -> dict[str, npt.NDArray[np.float32]]:
        call, self.calls = self.calls, self.calls + 1
        self._last_ms = next(self._latency, self._last_ms)
        if isinstance(self._clock, ManualClock):
            self._clock.advance_ns(int(self._last_ms * 1e6))
        else:
            self._clock.sleep_until_ns(self._clock.now_ns() + int(self._last_ms * 1e6))
        if call in self._fail_at:
            raise InferenceError(f"fake runner: call {call} was asked to fail")
        np.copyto(self._mask, self._compute(inputs[self.input.name]))
        return {"mask": self._mask}

    def _deactivate(self) -> None:
        return None
