"""Several teachers as one: probabilities averaged, or weighted by each member's confidence at each pixel."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from edge_runtime.errors import ConfigError
from edge_sdk.teachers.forms import OutputForm, OutputKind
from edge_sdk.teachers.teacher import Teacher

__all__ = ["Ensemble", "Flip", "Weighting", "ensemble", "with_flips"]

Weighting = Literal["mean", "confidence", "max-probability"] | Sequence[float]
Flip = Literal["left-right", "up-down"]
_LEAST_CONFIDENCE = 1e-6  # members that are all undecided count alike
_AXIS = {"left-right": -1, "up-down": -2}


@dataclass(frozen=True, kw_only=True, eq=False)
class Ensemble(Teacher):
    """A teacher that asks `members` and joins their answers by `weighting`; made by `ensemble` or `with_flips`."""

    members: tuple[Teacher, ...]
    weighting: Weighting = "mean"

    def member_answers(self, frames: Tensor) -> Tensor:
        """(M, ...) float32: every member's checked answer (logits or values) to (N, C, H, W) frames."""
        return torch.stack([member(frames) for member in self.members])

    def spread(self, frames: Tensor) -> Tensor:
        """How far the members differ: (N, H, W) for planes, (N,) for vectors, float32.

        The largest standard deviation over the members (population form) among the classes' probabilities, 0 to
        0.5, or among the channels of values that are not of classes.
        """
        answers = self.member_answers(frames)
        if _single(self).values == "logits":
            answers = torch.sigmoid(answers) if self.classes == 1 else answers.softmax(dim=2)
        return answers.std(dim=0, correction=0).amax(dim=1)


def ensemble(teachers: Sequence[Teacher], *, weighting: Weighting = "mean", name: str = "") -> Ensemble:
    """One teacher out of several whose outputs have one form; its answer is logits of the joined probabilities.

    `weighting`: "mean" averages the members' probabilities. "confidence" weighs each member at each pixel (each
    frame for vectors) by 1 - H / log K, with H the entropy of its probabilities over K classes;
    "max-probability" by its largest probability. A sequence of numbers gives each member a constant weight.

    Confidence-aware weighting of teachers is CA-MKD (Zhang, Chen and Wang, ICASSP 2022, arXiv 2201.00007), which
    weighs by the cross-entropy with the label; by the entropy no label is needed, so a member that is sure and
    wrong counts in full. Everything is computed from log-probabilities, so a sure answer is not cut short.

    Values that are not of classes (a denoiser's) are averaged, or weighted by constants. Raises `ConfigError` for
    no members, forms that differ, several outputs, and weights that do not fit.
    """
    members = tuple(teachers)
    if not members:
        raise ConfigError("an ensemble of no teachers was asked for; give at least one")
    form = _common_form(members)
    weights = _check_weighting(members, weighting, form)
    label = name or "ensemble of " + ", ".join(member.name for member in members)

    def forward(frames: Tensor) -> Tensor:
        answers = torch.stack([member(frames) for member in members])
        return _join(answers, form, weighting if weights is None else weights)

    return Ensemble(
        name=label,
        forward=forward,
        form=form,
        sha256=_identity(members, form, weighting),
        members=members,
        weighting=weighting,
    )


def with_flips(teacher: Teacher, flips: Sequence[Flip] = ("left-right",), *, weighting: Weighting = "mean") -> Ensemble:
    """The teacher asked about each frame as it is and flipped, the answers flipped back and joined (`ensemble`).

    "up-down" turns the depth axis over, which no probe does: use it only for a teacher that was trained so. Raises
    `ConfigError` for outputs that cannot be flipped back (rows, several outputs, a vector that is not of classes).
    """
    form = _single(teacher)
    unknown = [flip for flip in flips if flip not in _AXIS]
    if unknown or not flips:
        raise ConfigError(f"flips are {list(flips)}; one or more of {sorted(_AXIS)} are needed")
    if form.layout == "rows" or (form.layout == "vector" and form.values == "values"):
        raise ConfigError(f"teacher {teacher.name}: an output of {form.layout} {form.values} cannot be flipped back")
    members = [teacher, *(_flipped(teacher, form, flip) for flip in flips)]
    return ensemble(members, weighting=weighting, name=f"{teacher.name} with flips")


def _flipped(teacher: Teacher, form: OutputForm, flip: Flip) -> Teacher:
    axis = _AXIS[flip]

    def forward(frames: Tensor) -> Tensor:
        answer = teacher(frames.flip(axis))
        return answer.flip(axis) if form.layout == "planes" else answer

    sha256 = hashlib.sha256(f"{teacher.sha256}|{flip}".encode()).hexdigest() if teacher.sha256 else ""
    return Teacher(name=f"{teacher.name}, {flip}", forward=forward, form=_answered(form), sha256=sha256)


def _single(teacher: Teacher) -> OutputForm:
    if not isinstance(teacher.form, OutputForm):
        raise ConfigError(f"teacher {teacher.name} gives {sorted(teacher.forms)}; only single outputs can be joined")
    return teacher.form


def _answered(form: OutputForm) -> OutputForm:
    """The form of what a teacher of `form` answers: probabilities have become logits, resizing is done."""
    values: OutputKind = "values" if form.values == "values" else "logits"
    stride, enlarge = (1, 1) if form.resize else (form.stride, form.enlarge)
    return OutputForm(channels=form.channels, layout=form.layout, values=values, stride=stride, enlarge=enlarge)


def _common_form(members: Sequence[Teacher]) -> OutputForm:
    forms = [_answered(_single(member)) for member in members]
    for member, form in zip(members, forms, strict=True):
        if form != forms[0]:
            raise ConfigError(
                f"teacher {member.name} answers {form}, and {members[0].name} answers {forms[0]}; "
                "the members of an ensemble need one form"
            )
    if forms[0].layout == "rows":
        raise ConfigError("answers of rows cannot be averaged; join the boxes after decoding them")
    return forms[0]


def _check_weighting(members: Sequence[Teacher], weighting: Weighting, form: OutputForm) -> Tensor | None:
    """Constant weights (M,) that sum to 1, or None for weights by confidence."""
    if isinstance(weighting, str):
        if weighting not in ("mean", "confidence", "max-probability"):
            raise ConfigError(
                f"weighting {weighting!r} is unknown; 'mean', 'confidence', 'max-probability' or one weight per member"
            )
        if weighting == "mean":
            return torch.full((len(members),), 1 / len(members))
        if form.values == "values":
            raise ConfigError(f"weighting {weighting!r} needs probabilities; the members' answers are plain values")
        return None
    weights = [float(weight) for weight in weighting]
    if len(weights) != len(members) or not all(0 <= w < math.inf for w in weights) or not sum(weights) > 0:
        raise ConfigError(f"weights {weights} for {len(members)} members; one each, zero or more, not all zero")
    return torch.tensor(weights) / sum(weights)


def _identity(members: Sequence[Teacher], form: OutputForm, weighting: Weighting) -> str:
    if not all(member.sha256 for member in members):
        return ""
    how: Any = weighting if isinstance(weighting, str) else [float(weight) for weight in weighting]
    parts = [(member.sha256, repr(sorted(member.forms.items())), member.output_name) for member in members]
    return hashlib.sha256(repr([parts, form, how]).encode()).hexdigest()


def _join(answers: Tensor, form: OutputForm, weighting: Tensor | str | Sequence[float]) -> Tensor:
    """(M, N, C, ...) answers -> (N, C, ...): the log of the weighted mean probability, as logits."""
    if isinstance(weighting, Tensor):
        log_weights = weighting.log().view(-1, *[1] * (answers.ndim - 1))
        if form.values == "values":
            return (log_weights.exp() * answers).sum(dim=0)
    if form.channels == 1:
        log_p = torch.stack([F.logsigmoid(-answers[:, :, 0]), F.logsigmoid(answers[:, :, 0])], dim=2)
    else:
        log_p = answers.log_softmax(dim=2)
    if not isinstance(weighting, Tensor):
        confidence = _confidence(log_p, str(weighting))
        log_weights = (confidence / confidence.sum(dim=0, keepdim=True)).log()
    joined = torch.logsumexp(log_p + log_weights, dim=0)
    return joined[:, 1:] - joined[:, :1] if form.channels == 1 else joined


def _confidence(log_p: Tensor, weighting: str) -> Tensor:
    """(M, N, K, ...) log-probabilities -> (M, N, 1, ...) weights above zero, not normalised over the members."""
    p = log_p.exp()
    if weighting == "max-probability":
        return p.amax(dim=2, keepdim=True)
    entropy = -(p * log_p).sum(dim=2, keepdim=True) / math.log(log_p.shape[2])
    return (1 - entropy).clamp(min=0) + _LEAST_CONFIDENCE
