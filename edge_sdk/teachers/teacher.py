"""A teacher: a frozen network behind one callable, with the form of its answers declared and checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edge_runtime.errors import ConfigError, InferenceError
from edge_sdk.teachers.forms import OutputForm, OutputKind
from edge_sdk.teachers.identity import module_identity

__all__ = ["ANSWER", "Teacher", "forms_of", "teacher_from_module"]

ANSWER = "answer"
"""The name of a single output."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Teacher:
    """A frozen network: (N, C_in, H, W) float32 frames -> float32 outputs of a declared form, without gradient.

    With `classes` alone the output is (N, classes, H, W) logits, or probabilities by `output`. `form` declares
    anything else: one `OutputForm` (a classifier, a denoiser), or one for each named output (a detector; `forward`
    then gives a mapping of tensors, or a tuple in the order of the forms).

    `name` stands in messages and reports. `sha256` identifies what is computed; without it answers are not cached.
    `output_name` chooses one output of a `forward` that gives several: a key, or an index into a tuple.
    """

    name: str
    forward: Callable[[Tensor], Any]
    classes: int = 0
    sha256: str = ""
    output: OutputKind = "logits"
    form: OutputForm | Mapping[str, OutputForm] | None = None
    output_name: str | int | None = None

    def __post_init__(self) -> None:
        if self.form is None:
            object.__setattr__(self, "form", OutputForm(channels=self.classes, values=self.output))
            return
        if isinstance(self.form, OutputForm):
            if self.classes not in (0, self.form.channels):
                raise ConfigError(
                    f"teacher {self.name}: classes is {self.classes} and its form has {self.form.channels} channels; "
                    "give one of them"
                )
            object.__setattr__(self, "classes", self.form.channels)
            object.__setattr__(self, "output", self.form.values)
        elif not self.form:
            raise ConfigError(f"teacher {self.name}: no output form is declared; give at least one")
        elif self.output_name is not None:
            raise ConfigError(f"teacher {self.name}: output_name chooses one output; declare one form with it")

    @property
    def forms(self) -> dict[str, OutputForm]:
        """The form of every output by its name; a single output is called "answer"."""
        return forms_of(self.form)

    def __call__(self, frames: Tensor) -> Tensor:
        """The answer to `frames`: logits, or the values of a form that is not of classes.

        Raises `ConfigError` for a teacher with several outputs (see `outputs`), `InferenceError` for an answer of
        another shape or that is not finite.
        """
        if not isinstance(self.form, OutputForm):
            raise ConfigError(f"teacher {self.name} gives {sorted(self.forms)}; ask for them with `outputs`")
        return self.outputs(frames)[ANSWER]

    def outputs(self, frames: Tensor) -> dict[str, Tensor]:
        """Every output for `frames` by its name, each checked against its form; raises as `__call__` does."""
        with torch.inference_mode():
            found = self.forward(frames)
            named = {ANSWER: self._choose(found)} if isinstance(self.form, OutputForm) else self._by_name(found)
            label = f"teacher {self.name}"
            return {
                name: form.accept(named[name], frames, label if name == ANSWER else f"{label}, output {name!r}")
                for name, form in self.forms.items()
            }

    def _choose(self, found: Any) -> Any:
        if self.output_name is None:
            return found
        if isinstance(found, Mapping):
            names: list[Any] = list(found)
        elif isinstance(found, tuple | list):
            names = list(range(len(found)))
        else:
            names = []
        if self.output_name not in names:
            raise InferenceError(f"teacher {self.name}: it has no output {self.output_name!r}; it gives {names}")
        return found[self.output_name]

    def _by_name(self, found: Any) -> Mapping[str, Any]:
        names = list(self.forms)
        if isinstance(found, tuple | list) and len(found) == len(names):
            return dict(zip(names, found, strict=True))
        if not isinstance(found, Mapping):
            size = f" of {len(found)}" if isinstance(found, tuple | list) else ""
            raise InferenceError(f"teacher {self.name}: it gives a {type(found).__name__}{size}; {names} are declared")
        missing = [name for name in names if name not in found]
        if missing:
            raise InferenceError(f"teacher {self.name}: outputs {missing} are missing; it gives {list(found)}")
        return found


def forms_of(form: OutputForm | Mapping[str, OutputForm] | None) -> dict[str, OutputForm]:
    """`form` as a mapping by output name."""
    if form is None:
        return {}
    return {ANSWER: form} if isinstance(form, OutputForm) else dict(form)


def teacher_from_module(
    module: nn.Module,
    *,
    classes: int = 0,
    name: str = "",
    output: OutputKind = "logits",
    form: OutputForm | Mapping[str, OutputForm] | None = None,
    output_name: str | int | None = None,
) -> Teacher:
    """A teacher from a module, which is put into evaluation mode and asked for no gradients.

    Its `sha256` is `module_identity` of the module: weights, structure and code.
    """
    module.eval().requires_grad_(False)
    return Teacher(
        name=name or type(module).__name__,
        forward=module,
        classes=classes,
        sha256=module_identity(module),
        output=output,
        form=form,
        output_name=output_name,
    )
