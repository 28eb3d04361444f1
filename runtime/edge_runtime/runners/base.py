"""The contract of a runner: one loaded variant of one model on one backend."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import TracebackType

import numpy as np
import numpy.typing as npt

from edge_runtime.bundle.manifest import InputSpec, OutputSpec
from edge_runtime.errors import ConfigError, InferenceError, InputContractError, ModelRefusedError, RunnerError

__all__ = ["Arrays", "Interface", "Runner", "require_limits"]

Arrays = Mapping[str, npt.NDArray[np.float32]]
Interface = Mapping[str, tuple[tuple[int, ...], str]]  # name -> shape and dtype, as a backend tells them


def require_limits(threads: int, timeout_s: float | None) -> None:
    """Raise `ConfigError` unless `threads` is at least 1 and `timeout_s` above 0 or None."""
    if threads < 1 or (timeout_s is not None and not timeout_s > 0):
        raise ConfigError(f"threads is {threads} and timeout_s {timeout_s}; at least 1 and above 0 are needed")


class Runner(ABC):
    """A context manager around a loaded model.

    `infer` may be called between `__enter__` and `__exit__`, by any thread, by one at a time: a second call at the same
    time is an error. Two runners may run at once. The arrays it returns belong to the runner: they are valid until the
    next `infer`. `with` may be nested and repeated: the outermost one loads and frees the model. Subclasses write
    `_activate`, `_infer` and `_deactivate`.
    """

    def __init__(self, *, name: str, variant: str, input: InputSpec, outputs: tuple[OutputSpec, ...]) -> None:
        self.name = name
        self.variant = variant
        self.input = input
        self._dtype = np.dtype(input.dtype)
        self.outputs = outputs
        self._active = 0  # depth of `with`
        self._in_use = threading.Lock()

    def __enter__(self) -> Runner:
        if self._active == 0:
            self._activate()
        self._active += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._active == 0:
            return  # a restart that failed has freed the model
        self._active -= 1
        if self._active == 0:
            self._deactivate()

    def restart(self) -> None:
        """Free the model and load it again, inside `with runner:`.

        Raises what loading raises, and the runner is not active then; and `RunnerError` when it is not active, or is
        held open in a second place: it stays loaded then.
        """
        self._require_active()
        if self._active > 1:
            raise RunnerError(
                f"runner {self.name!r} cannot be restarted: it is open in a second place (another branch, or a `with` "
                "of the program). Give each branch a runner of its own."
            )
        self._active = 0
        self._deactivate()
        self._activate()
        self._active = 1

    def infer(self, inputs: Arrays, *, check: bool = True) -> dict[str, npt.NDArray[np.float32]]:
        """Outputs by name for `inputs` by name, shapes and dtypes as in the manifest.

        `check=False` skips the check of the inputs in a loop that has done it once. Raises
        `InputContractError`, `InferenceError`, or `RunnerError` outside the context manager and during a call of
        another thread, which goes on.
        """
        self._require_active()
        if check:
            self._check(inputs)
        if not self._in_use.acquire(blocking=False):
            raise RunnerError(
                f"runner {self.name!r} of variant {self.variant!r} is in a call of another thread; "
                "give each pipeline a load() of its own"
            )
        try:
            return self._infer(inputs)
        finally:
            self._in_use.release()

    def _require_active(self) -> None:
        if self._active == 0:
            raise RunnerError(f"runner {self.name!r} is not active; use it inside `with runner:`")

    def _require_manifest(self, inputs: Interface, outputs: Interface) -> None:
        """Raise `ModelRefusedError` unless the loaded model has exactly the inputs and outputs of the manifest."""
        wanted_in = {self.input.name: (self.input.shape, self.input.dtype)}
        wanted_out = {spec.name: (spec.shape, spec.dtype) for spec in self.outputs}
        for what, found, wanted in (("inputs", inputs, wanted_in), ("outputs", outputs, wanted_out)):
            if found != wanted:
                raise ModelRefusedError(f"variant {self.variant!r}: its {what} are {found}, the manifest says {wanted}")

    def _too_long(self, limit_s: float) -> InferenceError:
        return InferenceError(f"variant {self.variant!r} ran longer than {limit_s:g} s and was ended")

    def _check(self, inputs: Arrays) -> None:
        array = inputs.get(self.input.name)
        if array is None or len(inputs) != 1:
            raise InputContractError(f"inputs are {sorted(inputs)}; exactly [{self.input.name!r}] is needed")
        if array.shape != self.input.shape or array.dtype != self._dtype:
            raise InputContractError(
                f"input {self.input.name!r} is {array.dtype} {array.shape}; "
                f"the bundle wants {self.input.dtype} {self.input.shape}"
            )

    @abstractmethod
    def _activate(self) -> None:
        """Load the model and allocate what a call needs; when this raises, nothing is held."""

    @abstractmethod
    def _infer(self, inputs: Arrays) -> dict[str, npt.NDArray[np.float32]]:
        """Run one inference; the returned arrays are reused by the next call."""

    @abstractmethod
    def _deactivate(self) -> None:
        """Free the model; must not raise."""
