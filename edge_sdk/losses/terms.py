"""Settings of one term of a composed loss, as a msgspec struct without torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

import msgspec

from edge_runtime.errors import ConfigError

__all__ = ["KINDS", "Family", "KindSpec", "LossTerm"]

Family = Literal["soft", "feature", "task"]


@dataclass(frozen=True, slots=True, kw_only=True)
class KindSpec:
    """What a kind compares, and its options with (default, low, high), both ends allowed."""

    family: Family
    options: Mapping[str, tuple[float | None, float, float]]


_T = (2.0, 0.01, 100.0)
_GAMMA = (2.0, 0.0, 10.0)

KINDS: dict[str, KindSpec] = {
    "logit_kd": KindSpec(family="soft", options={"temperature": _T}),
    "pixelwise_kd": KindSpec(family="soft", options={"temperature": _T}),
    "channelwise_kd": KindSpec(family="soft", options={"temperature": (4.0, 0.01, 100.0)}),
    "boundary_kd": KindSpec(
        family="soft", options={"temperature": _T, "width": (5.0, 0.1, 1e3), "gain": (4.0, 0.0, 1e3)}
    ),
    "multi_teacher_kd": KindSpec(family="soft", options={"temperature": _T}),
    "label_free_kd": KindSpec(
        family="soft", options={"temperature": (1.0, 0.01, 100.0), "threshold": (0.8, 0.0, 0.9999)}
    ),
    "hint": KindSpec(family="feature", options={}),
    "attention_transfer": KindSpec(family="feature", options={"power": (2.0, 1.0, 8.0)}),
    "relation_distance": KindSpec(family="feature", options={}),
    "relation_angle": KindSpec(family="feature", options={}),
    "similarity_preserving": KindSpec(family="feature", options={}),
    "dice": KindSpec(family="task", options={}),
    "generalised_dice": KindSpec(family="task", options={}),
    "cross_entropy": KindSpec(family="task", options={"smoothing": (0.0, 0.0, 0.999)}),
    "focal": KindSpec(family="task", options={"gamma": _GAMMA, "alpha": (None, 0.0, 1.0)}),
    "dice_ce": KindSpec(family="task", options={}),
    "dice_focal": KindSpec(family="task", options={"gamma": _GAMMA}),
    "boundary_distance": KindSpec(family="task", options={}),
}
_OPTIONS = sorted({name for spec in KINDS.values() for name in spec.options})


class LossTerm(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One weighted term of a loss; `kind` is the name of a function of `edge_sdk.losses`.

    - `on`: the samples of a batch that it covers. A term is the mean over them, times their share of the batch, so
      that a sum of terms is a mean over the batch. Task terms cover labelled samples at most.
    - `target`: the name of the batch's truth (task terms, `boundary_kd`) and of its soft targets.
    - `output`: which output of the network: a key of a dict, an index of a tuple ("0"), "" for a single tensor.
    - `live`: soft terms ask the teacher in every step instead of reading the batch's stored answers.
    - `teachers`: the soft targets of `multi_teacher_kd`.
    - `truth_boundary`: `boundary_kd` takes the boundary of the truth; otherwise the teacher's.
    - `student_layer`, `teacher_layer`: module names of a feature term.
    - `levels`: weights of deep supervision, one for each output of the network, finest first (task terms).
    - the numbers temperature, width, gain, threshold, power, smoothing, gamma, alpha: options of the function; one
      that `kind` does not have is refused, and None means the function's default.

    `name` is what the term is logged as (`kind` if empty). Raises `ConfigError` for a value out of range.
    """

    kind: str
    weight: float = 1.0
    name: str = ""
    on: Literal["all", "labelled", "unlabelled"] = "all"
    target: str = "mask"
    output: str = ""
    live: bool = False
    teachers: tuple[str, ...] = ()
    truth_boundary: bool = False
    student_layer: str = ""
    teacher_layer: str = ""
    levels: tuple[float, ...] = ()
    temperature: float | None = None
    width: float | None = None
    gain: float | None = None
    threshold: float | None = None
    power: float | None = None
    smoothing: float | None = None
    gamma: float | None = None
    alpha: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            near = get_close_matches(self.kind, KINDS, n=3, cutoff=0.4) or sorted(KINDS)
            raise ConfigError(f"loss kind {self.kind!r} is not known; near it: {', '.join(near)}")
        if not (self.weight >= 0 and math.isfinite(self.weight)):
            raise ConfigError(f"weight of {self.label} is {self.weight}; zero or more is needed")
        self._check_options()
        self._check_fields()

    @property
    def label(self) -> str:
        """The name that the term is logged as."""
        return self.name or self.kind

    @property
    def family(self) -> Family:
        """Whether the term compares soft outputs, features, or the output with the truth."""
        return KINDS[self.kind].family

    def options(self) -> dict[str, float | None]:
        """The function's numbers, defaults filled in."""
        given = {name: getattr(self, name) for name in KINDS[self.kind].options}
        return {
            name: spec[0] if given[name] is None else given[name] for name, spec in KINDS[self.kind].options.items()
        }

    def _check_options(self) -> None:
        allowed = KINDS[self.kind].options
        for name in _OPTIONS:
            value = getattr(self, name)
            if value is None:
                continue
            if name not in allowed:
                raise ConfigError(f"{name} is no option of {self.kind}; it has {', '.join(allowed) or 'none'}")
            _, low, high = allowed[name]
            if not low <= value <= high or (name == "gamma" and 0 < value < 1):
                extra = ", but nothing between 0 and 1" if name == "gamma" else ""
                raise ConfigError(f"{name} of {self.label} is {value}; {low:g} to {high:g} is allowed{extra}")

    def _check_fields(self) -> None:
        layers = bool(self.student_layer) + bool(self.teacher_layer)
        task = self.family == "task"
        for wrong, what in (
            (
                layers != (2 if self.family == "feature" else 0),
                "student_layer and teacher_layer belong to feature terms, and each of those needs both",
            ),
            (
                bool(self.teachers) != (self.kind == "multi_teacher_kd"),
                "teachers names two or more soft targets of multi_teacher_kd, and of that alone",
            ),
            (self.truth_boundary and self.kind != "boundary_kd", "truth_boundary belongs to boundary_kd"),
            (
                self.live and (self.family != "soft" or self.kind == "multi_teacher_kd"),
                "live belongs to soft terms of one teacher",
            ),
            (bool(self.levels) and not task, "levels belongs to task terms"),
            (task and self.on == "unlabelled", "a task term has no truth on unlabelled samples"),
            (self.truth_boundary and self.on != "labelled", "truth_boundary needs on: labelled"),
            (not all(0 <= w < math.inf for w in self.levels), f"levels are {self.levels}; weights >= 0 are needed"),
        ):
            if wrong:
                raise ConfigError(f"loss term {self.label}: {what}")
