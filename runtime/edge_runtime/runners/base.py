"""The contract of a runner: one loaded variant of one model on one backend."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import TracebackType

import numpy as np
import numpy.typing as npt

from edge_runtime.bundle.manifest import InputSpec, OutputSpec
from edge_runtime.errors import InputContractError, RunnerError

__all__ = ["Arrays", "Runner"]

Arrays = Mapping[str, npt.NDArray[np.float32]]


class Runner(ABC):
    """A context manager around a loaded model.

    `infer` may be called between `__enter__` and `__exit__`, by any thread, by one at a time; two runners may run at
    once. The arrays it returns belong to the runner: they are valid until the next `infer`. `with` may be nested and
    repeated: the outermost one loads and frees the model. Subclasses write `_activate`, `_infer` and `_deactivate`.
    """

    def __init__(self, *, name: str, variant: str, input: InputSpec, outputs: tuple[OutputSpec, ...]) -> None:
        self.name = name
        self.variant = variant
        self.input = input
        self.outputs = outputs
        self._active = 0  # depth of `with`

    def __enter__(self) -> Runner:
        if self._active == 0:
            self._activate()
        self._active += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._active -= 1
        if self._active == 0:
            self._deactivate()

    def infer(self, inputs: Arrays, *, check: bool = True) -> dict[str, npt.NDArray[np.float32]]:
        """Outputs by name for `inputs` by name, shapes and dtypes as in the manifest.

        `check=False` skips the check of the inputs in a loop that has done it once. Raises
        `InputContractError`, `InferenceError`, or `RunnerError` outside the context manager.
        """
        if self._active == 0:
            raise RunnerError(f"runner {self.name!r} is not active; use it inside `with runner:`")
        if check:
            self._check(inputs)
        return self._infer(inputs)

    def _check(self, inputs: Arrays) -> None:
        if set(inputs) != {self.input.name}:
            raise InputContractError(f"inputs are {sorted(inputs)}; exactly [{self.input.name!r}] is needed")
        array = inputs[self.input.name]
        if array.shape != self.input.shape or array.dtype != np.dtype(self.input.dtype):
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
