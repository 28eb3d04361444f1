"""A loss put together from weighted terms, with the value of each term at hand."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

import msgspec
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edge_runtime.errors import ConfigError
from edge_sdk.batch import Batch
from edge_sdk.losses import features, soft, task
from edge_sdk.losses.capturing import capture, check_layer
from edge_sdk.losses.terms import LossTerm

__all__ = ["DistillLoss", "compose"]


def compose(
    terms: Sequence[LossTerm],
    *,
    student: nn.Module | None = None,
    teacher: nn.Module | None = None,
    example: Tensor | None = None,
) -> DistillLoss:
    """A loss for `fit` that is the sum of `terms`, each times its weight.

    Feature terms need `student` and `teacher`, and "hint" terms `example` (1, C, H, W) float32 besides, from which the
    adapters' shapes are taken. `live` terms need `teacher`. The teacher is put into evaluation mode and sees the
    augmented inputs. Use the result as a context manager while training when there are feature terms; its hooks come
    off at the end. Raises `ConfigError` for no terms, terms of one name, unknown layers (with the nearest names), and
    what a term needs and did not get.
    """
    return DistillLoss(terms, student=student, teacher=teacher, example=example)


class DistillLoss(nn.Module):
    """See `compose`. `parts` holds every term's value of the last call, before its weight, detached.

    The adapters of "hint" terms are parameters of this module: `fit` trains them with the student and keeps them in
    the checkpoint; they are no part of the student.
    """

    def __init__(
        self,
        terms: Sequence[LossTerm],
        *,
        student: nn.Module | None = None,
        teacher: nn.Module | None = None,
        example: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.terms = tuple(terms)
        self.parts: dict[str, Tensor] = {}
        self._check_terms(student, teacher)
        # in a tuple: neither network is a submodule, so neither gets into this loss's parameters or checkpoint
        self._networks = (student, teacher)
        self._stack: ExitStack | None = None
        self._own: Mapping[str, Tensor] = {}
        self._others: Mapping[str, Tensor] = {}
        self.adapters = nn.ModuleList()
        self._adapter_of: dict[str, int] = {}
        if teacher is not None:
            teacher.eval()
        self._make_adapters(example)

    def _check_terms(self, student: nn.Module | None, teacher: nn.Module | None) -> None:
        labels = [term.label for term in self.terms]
        if not labels:
            raise ConfigError("a loss needs at least one term; give for example LossTerm(kind='dice_ce')")
        twice = sorted({label for label in labels if labels.count(label) > 1})
        if twice:
            raise ConfigError(f"loss terms {', '.join(twice)} are there twice; give each a name of its own")
        for term in self.terms:
            if term.family == "feature":
                if student is None or teacher is None:
                    raise ConfigError(f"loss term {term.label} compares features; student and teacher are needed")
                check_layer(student, term.student_layer, "the student")
                check_layer(teacher, term.teacher_layer, "the teacher")
            elif term.live and teacher is None:
                raise ConfigError(f"loss term {term.label} is live; a teacher is needed")

    @property
    def _featured(self) -> tuple[LossTerm, ...]:
        return tuple(term for term in self.terms if term.family == "feature")

    def _make_adapters(self, example: Tensor | None) -> None:
        hints = [term for term in self.terms if term.kind == "hint"]
        if not hints:
            return
        student, teacher = self._networks
        assert student is not None  # checked with the terms
        assert teacher is not None
        if example is None:
            raise ConfigError(f"loss term {hints[0].label} needs an example input (1, C, H, W) for its adapter's shape")
        own = _shapes(student, [term.student_layer for term in hints], example, "the student")
        other = _shapes(teacher, [term.teacher_layer for term in hints], example, "the teacher")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            for term in hints:
                self._adapter_of[term.label] = len(self.adapters)
                self.adapters.append(features.Adapter(own[term.student_layer], other[term.teacher_layer]))

    @property
    def fingerprint(self) -> str:
        """Hash of the terms and of the weights of a teacher that is asked live: what a checkpoint belongs to."""
        digest = hashlib.sha256(msgspec.json.encode(self.terms))
        if self._networks[1] is not None:
            for name, value in self._networks[1].state_dict().items():
                digest.update(name.encode())
                digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def __enter__(self) -> Self:
        if self._stack is not None:
            raise ConfigError("this loss is in use already; compose another one")
        student, teacher = self._networks
        with ExitStack() as stack:
            if self._featured:
                assert student is not None  # checked with the terms
                assert teacher is not None
                names = [term.student_layer for term in self._featured]
                self._own = stack.enter_context(capture(student, names, "the student"))
                names = [term.teacher_layer for term in self._featured]
                self._others = stack.enter_context(capture(teacher, names, "the teacher"))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stack, self._stack = self._stack, None
        if stack is not None:
            stack.close()
        self.parts = {}

    def forward(self, outputs: Any, batch: Batch) -> Tensor:
        """Scalar loss of a network's `outputs` on `batch`; float32."""
        if self._featured and self._stack is None:
            raise ConfigError(
                "a loss with feature terms hooks into the networks: use it as `with compose(...) as loss`"
            )
        answer = self._ask_teacher(batch)
        total = torch.zeros((), device=batch.inputs.device)
        parts: dict[str, Tensor] = {}
        for term in self.terms:
            rows = _rows(term, batch)
            if rows is not None and not bool(rows.any()):
                parts[term.label] = torch.zeros((), device=batch.inputs.device)
                continue
            value = self._value(term, outputs, batch, answer, rows)
            if rows is not None:
                value = value * rows.float().mean()
            parts[term.label] = value.detach()
            total = total + term.weight * value
        self.parts = parts
        # a batch without any covered sample still needs a graph to walk back
        return total if total.requires_grad else total + 0 * _first(outputs).float().sum()

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        # the teacher is no submodule, yet follows this loss to another device
        if self._networks[1] is not None:
            self._networks[1]._apply(fn)  # type: ignore[no-untyped-call]
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def _ask_teacher(self, batch: Batch) -> Any:
        teacher = self._networks[1]
        if teacher is None or not any(term.live or term.family == "feature" for term in self.terms):
            return None
        with torch.no_grad():
            return teacher(batch.inputs)

    def _value(self, term: LossTerm, outputs: Any, batch: Batch, answer: Any, rows: Tensor | None) -> Tensor:
        if term.family == "feature":
            return self._feature_value(term, rows)
        if term.family == "task":
            return _task_value(term, outputs, _pick(batch.target(term.target), rows), rows)
        logits = _pick(_output(outputs, term.output, term.label), rows)
        options: dict[str, Any] = dict(term.options())
        if term.kind == "multi_teacher_kd":
            answers = [_fit_size(_pick(batch.soft_target(name), rows), logits) for name in term.teachers]
            return soft.multi_teacher_kd(logits, answers, **options)
        # a teacher of one output needs no name for it
        name = "" if isinstance(answer, Tensor) else term.output
        stored = _output(answer, name, term.label) if term.live else batch.soft_target(term.target)
        teacher = _fit_size(_pick(stored, rows), logits)
        if term.kind == "boundary_kd":
            labels = _pick(batch.target(term.target), rows) if term.truth_boundary else None
            return soft.boundary_kd(logits, teacher, labels, **options)
        function: Callable[..., Tensor] = getattr(soft, term.kind)
        return function(logits, teacher, **options)

    def _feature_value(self, term: LossTerm, rows: Tensor | None) -> Tensor:
        for layer, found, whose in (
            (term.student_layer, self._own, "student"),
            (term.teacher_layer, self._others, "teacher"),
        ):
            if layer not in found:
                raise ConfigError(f"layer {layer!r} of the {whose} did not run in the forward pass; choose another")
        own, other = _pick(self._own[term.student_layer], rows), _pick(self._others[term.teacher_layer], rows)
        if term.kind == "hint":
            own = self.adapters[self._adapter_of[term.label]](own)
        function: Callable[..., Tensor] = getattr(features, term.kind)
        return function(own, other.detach(), **term.options())


def _shapes(module: nn.Module, names: Sequence[str], example: Tensor, whose: str) -> dict[str, tuple[int, ...]]:
    """Shapes without the batch of the outputs of the layers, from one pass in evaluation mode."""
    training = module.training
    module.eval()
    try:
        with torch.no_grad(), capture(module, names, whose) as found:
            module(example)
            return {name: tuple(value.shape[1:]) for name, value in found.items()}
    finally:
        module.train(training)


def _rows(term: LossTerm, batch: Batch) -> Tensor | None:
    """Which samples a term covers; None for all."""
    if term.on == "unlabelled":
        return ~batch.labelled
    if term.on == "labelled" or term.family == "task":
        return None if bool(batch.labelled.all()) else batch.labelled
    return None


def _pick(values: Tensor, rows: Tensor | None) -> Tensor:
    return values if rows is None else values[rows]


def _output(outputs: Any, name: str, label: str) -> Tensor:
    """One output of a network by key, index, or as it is."""
    if isinstance(outputs, Tensor) and not name:
        return outputs
    found: Any = None
    if isinstance(outputs, Mapping):
        found, there = outputs.get(name), sorted(outputs)
    elif isinstance(outputs, (list, tuple)):
        there = [str(k) for k in range(len(outputs))]
        found = outputs[int(name)] if name in there else None
    else:
        there = ["'' (one tensor)"]
    if not isinstance(found, Tensor):
        raise ConfigError(f"loss term {label}: output {name!r} is not there; the network returns {there}")
    return found


def _first(outputs: Any) -> Tensor:
    """Some tensor of the outputs."""
    while not isinstance(outputs, Tensor):
        outputs = next(iter(outputs.values() if isinstance(outputs, Mapping) else outputs))
    return outputs


def _fit_size(teacher: Tensor, student: Tensor) -> Tensor:
    """Dense logits brought to the student's size, bilinearly; anything else as it is."""
    if teacher.dim() == 4 and student.dim() == 4 and teacher.shape[2:] != student.shape[2:]:
        return F.interpolate(teacher.float(), size=student.shape[2:], mode="bilinear", align_corners=False)
    return teacher


def _task_value(term: LossTerm, outputs: Any, labels: Tensor, rows: Tensor | None) -> Tensor:
    function: Callable[..., Tensor] = getattr(task, term.kind)
    options: dict[str, Any] = dict(term.options())
    if not term.levels:
        return function(_pick(_output(outputs, term.output, term.label), rows), labels, **options)
    levels = outputs.get(term.output) if isinstance(outputs, Mapping) else outputs
    if not isinstance(levels, (list, tuple)):
        raise ConfigError(f"loss term {term.label} has levels; the network must return a list of logits, finest first")
    return task.deep_supervision(
        [_pick(level, rows) for level in levels], labels, lambda x, y: function(x, y, **options), term.levels
    )
