"""Hold every variant against labels and against the student it came from, through the device's own runners."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from edge_export._graph import GraphView
from edge_export._masks import class_map, frame_dice
from edge_export._run import DEFAULT_RUNNER, check_runners, run_variant, runners_of
from edge_export._simulate import simulate_types
from edge_export.divergence import decibels, explain_divergence
from edge_export.gate import run_model
from edge_runtime.bundle.manifest import InputSpec, OutputSpec
from edge_runtime.errors import ConfigError, LoweringError
from edge_runtime.metrics.bootstrap import Interval, bootstrap_mean, paired_difference

__all__ = [
    "ADVICE",
    "MAX_DROP_POINTS",
    "NOT_FINITE",
    "WORST_DB",
    "Ends",
    "VariantScore",
    "VerificationReport",
    "check_overrides",
    "ends",
    "largest_difference",
    "sqnr_db",
    "verify_variants",
]

Float32 = npt.NDArray[np.float32]
Masks = list[npt.NDArray[np.uint8]]
Student = Callable[[Float32], Float32]
Ends = tuple[float, float] | None

# Dice points (percentage points) that a variant may lose against the student
MAX_DROP_POINTS = {"fp32": 0.01, "fp16": 0.05, "int8": 0.5, "int8-cpu": 0.5}
ADVICE = (
    "Use more or better frames for quantization calibration, another method, exclude sensitive convolutions, or "
    "override the gate by name with a reason."
)
NOT_FINITE = "its outputs are not finite"
WORST_DB = -300.0
_LOOKED_AT = 2  # frames on which the first tensor that diverges is looked for


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantScore:
    """One variant on one runner on the held-out frames.

    `dice` in [0, 1], mean over frames; `drop_points` = 100 (student's dice - dice), negative when better; both with the
    ends of their 95 % bootstrap interval (None for fewer than two groups of frames); `sqnr_db` =
    10 log10(sum student^2 / sum (student - variant)^2) over all logits, None when equal; `max_abs` the largest
    difference of a logit; `flips` the share of pixels whose class differs from the student's.
    `typed_drop_points` is the drop with every FP16 tensor rounded to FP16, which CPU backends do not do
    (`simulate_types`); that of the runner where the file holds none. `allowed_points` is the gate on the larger of both
    drops, and logits that are not finite never pass; `override` the reason given for letting a failure pass;
    `divergence` says of a failure where the variant leaves the fp32 file.
    """

    variant: str
    runner: str = DEFAULT_RUNNER
    dice: float
    dice_interval: Ends = None
    drop_points: float
    drop_interval: Ends = None
    typed_drop_points: float
    sqnr_db: float | None
    max_abs: float
    flips: float
    file_bytes: int
    allowed_points: float
    passed: bool
    override: str = ""
    divergence: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerificationReport:
    """Scores by variant and runner; `student_dice` is the reference, `n_frames` held-out frames were used."""

    student_dice: float
    n_frames: int
    student_interval: Ends = None
    scores: tuple[VariantScore, ...] = field(default=())

    def score(self, variant: str) -> VariantScore:
        """The row of that variant, of several runners the one with the lowest Dice. Raises `ConfigError` if none."""
        rows = [item for item in self.scores if item.variant == variant]
        if not rows:
            raise ConfigError(f"no variant {variant!r} in the report; it has {[s.variant for s in self.scores]}")
        return min(rows, key=lambda item: item.dice)

    @property
    def failed(self) -> tuple[VariantScore, ...]:
        """The rows whose gate is neither met nor overridden."""
        return tuple(item for item in self.scores if not item.passed and not item.override)

    def require_passed(self) -> None:
        """Raise `LoweringError` naming every failed gate and where the variant diverges."""
        if self.failed:
            shown = "; ".join(
                f"{s.variant} loses {max(s.drop_points, s.typed_drop_points):.3f} Dice points on {s.runner}, allowed "
                f"{s.allowed_points:g}{'' if math.isfinite(s.max_abs) else f', and {NOT_FINITE}'}"
                f"{': ' if s.divergence else ''}{s.divergence}"
                for s in self.failed
            )
            raise LoweringError(f"{shown}. {ADVICE}")

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)


def verify_variants(
    models: Mapping[str, bytes],
    *,
    inputs: Sequence[Float32],
    labels: Sequence[npt.NDArray[np.uint8]],
    student: Student | bytes,
    input_spec: InputSpec,
    output_specs: tuple[OutputSpec, ...],
    max_drop_points: Mapping[str, float] = MAX_DROP_POINTS,
    overrides: Mapping[str, str] | None = None,
    runners: Sequence[str] = (DEFAULT_RUNNER,),
    targets: Mapping[str, Sequence[str]] | None = None,
    groups: Sequence[Hashable] | None = None,
    refuse: bool = True,
) -> VerificationReport:
    """Score `models` (ONNX bytes by variant id) on `inputs` (float32, `input_spec.shape`, from the Preprocessor).

    `labels` are (H, W) uint8 class maps at network size, one per input. `student` maps an input to the logits of the
    first output, (1, C, H, W) float32 (the torch module, wrapped), or is the fp32 ONNX file. Each variant runs on every
    one of `runners` that its `targets` allow (all when it has none; see `LoweredVariant.targets`), and must keep its
    Dice within `max_drop_points` of the student's (points are percentage points). `groups` keys frames of one patient
    or exam, which the intervals draw together. A failure raises `LoweringError` naming the first tensor that
    diverges, unless `overrides` names the variant with a reason, which the report then carries; `refuse=False` reports
    it alone. Raises `ConfigError` on inputs that do not fit, a runner that cannot be used here, a variant without
    a gate, or an override without a reason.
    """
    reasons = dict(overrides or {})
    _check_arguments(models, inputs, labels, output_specs, max_drop_points, reasons)
    check_runners(runners)
    spec = output_specs[0]
    if isinstance(student, bytes):
        wanted = _first(run_variant(student, "student", inputs, input_spec, output_specs), spec)
    else:
        wanted = [np.asarray(student(sample), np.float32).copy() for sample in inputs]
    held_out = _HeldOut(list(labels), wanted, spec, groups)
    reference = student if isinstance(student, bytes) else models.get("fp32")
    scores = []
    for name, data in models.items():
        typed = _typed_dice(data, inputs, held_out)
        for runner in runners_of(name, runners, targets or {}):
            if runner == DEFAULT_RUNNER and data == student:
                found = wanted  # the very file that the student is, already run
            else:
                found = _first(run_variant(data, name, inputs, input_spec, output_specs, runner=runner), spec)
            score = held_out.score(name, runner, data, found, typed, max_drop_points[name])
            if not score.passed:
                override, why = reasons.get(name, ""), _divergence(score, reference, data, inputs)
                score = replace(score, override=override, divergence=why)
            scores.append(score)
    report = VerificationReport(
        student_dice=float(held_out.student.mean()),
        n_frames=len(inputs),
        student_interval=ends(bootstrap_mean(held_out.student, groups=groups)),
        scores=tuple(scores),
    )
    if refuse:
        report.require_passed()
    return report


class _HeldOut:
    """The frames, what is true of them and what the student says."""

    def __init__(
        self,
        labels: Masks,
        wanted: list[Float32],
        spec: OutputSpec,
        groups: Sequence[Hashable] | None,
    ) -> None:
        self.labels, self.wanted, self.spec, self.groups = labels, wanted, spec, groups
        self.masks = [class_map(logits, spec) for logits in wanted]
        self.student = frame_dice(self.masks, labels)

    def dice(self, masks: Masks) -> npt.NDArray[np.float64]:
        return frame_dice(masks, self.labels)

    def score(
        self,
        name: str,
        runner: str,
        data: bytes,
        found: list[Float32],
        typed: float | None,
        allowed: float,
    ) -> VariantScore:
        classes = [class_map(logits, self.spec) for logits in found]
        each = self.dice(classes)
        drop = 100.0 * float(self.student.mean() - each.mean())
        typed_drop = drop if typed is None else 100.0 * (float(self.student.mean()) - typed)
        worst = largest_difference(self.wanted, found)
        return VariantScore(
            variant=name,
            runner=runner,
            dice=float(each.mean()),
            dice_interval=ends(bootstrap_mean(each, groups=self.groups)),
            drop_points=drop,
            drop_interval=ends(paired_difference(100.0 * self.student, 100.0 * each, groups=self.groups)),
            typed_drop_points=typed_drop,
            sqnr_db=sqnr_db(self.wanted, found),
            max_abs=worst,
            flips=float(np.mean([np.mean(a != b) for a, b in zip(self.masks, classes, strict=True)])),
            file_bytes=len(data),
            allowed_points=allowed,
            passed=max(drop, typed_drop) <= allowed and math.isfinite(worst),
        )


def ends(interval: Interval) -> Ends:
    """(low, high) of an interval, None where there is none."""
    return None if math.isnan(interval.low) else (interval.low, interval.high)


def _divergence(score: VariantScore, reference: bytes | None, data: bytes, inputs: Sequence[Float32]) -> str:
    """Where a variant that failed leaves the fp32 file; empty without one."""
    if reference is None:
        return ""
    frames = inputs[:_LOOKED_AT]
    if score.drop_points <= score.allowed_points and math.isfinite(
        score.max_abs
    ):  # it fails in FP16's rounding alone, which the runner does not show
        typed = simulate_types(onnx.load_model_from_string(data))
        return explain_divergence(reference, typed, frames)
    return explain_divergence(reference, data, frames, runners=(DEFAULT_RUNNER, score.runner))


def _typed_dice(data: bytes, inputs: Sequence[Float32], held_out: _HeldOut) -> float | None:
    """Dice with FP16 tensors rounded to FP16; None for a file without any."""
    model, spec = onnx.load_model_from_string(data), held_out.spec
    if all(item.elem != onnx.TensorProto.FLOAT16 for item in GraphView(model).types.values()):
        return None
    outputs = run_model(simulate_types(model), inputs, optimize=False)
    return float(held_out.dice([class_map(found[spec.name], spec) for found in outputs]).mean())


def _first(outputs: list[dict[str, Float32]], spec: OutputSpec) -> list[Float32]:
    return [item[spec.name] for item in outputs]


def _check_arguments(
    models: Mapping[str, bytes],
    inputs: Sequence[Float32],
    labels: Sequence[npt.NDArray[np.uint8]],
    output_specs: tuple[OutputSpec, ...],
    gates: Mapping[str, float],
    reasons: Mapping[str, str],
) -> None:
    if not inputs or len(inputs) != len(labels):
        raise ConfigError(f"{len(inputs)} inputs and {len(labels)} labels; as many of both are needed, at least one")
    if not output_specs or output_specs[0].kind != "mask_logits":
        raise ConfigError(
            "the first output must be of kind mask_logits to be scored by Dice; verify_agreement is for others"
        )
    missing = sorted(set(models) - set(gates))
    if missing:
        raise ConfigError(f"variants {missing} have no gate; add them to max_drop_points")
    check_overrides(models, reasons)
    height, width = output_specs[0].shape[2:]
    for index, label in enumerate(labels):
        if label.shape != (height, width):
            raise ConfigError(f"label {index} has shape {label.shape}; the network's output is {(height, width)}")


def check_overrides(models: Mapping[str, bytes], reasons: Mapping[str, str]) -> None:
    """Raise `ConfigError` unless every override names one of `models` and carries a reason."""
    empty = sorted(name for name, reason in reasons.items() if not reason.strip())
    if empty or set(reasons) - set(models):
        raise ConfigError(f"overrides {sorted(reasons)}: each names one of {sorted(models)} and carries a reason")


def sqnr_db(wanted: Sequence[Float32], found: Sequence[Float32]) -> float | None:
    """10 log10(sum wanted^2 / sum (wanted - found)^2) over all arrays; None when they are equal.

    `WORST_DB` stands for what has no such number: `found` is not finite, or `wanted` is all 0 and `found` is not.
    """
    signal = sum(float((a.astype(np.float64) ** 2).sum()) for a in wanted)
    noise = sum(float(((a.astype(np.float64) - b) ** 2).sum()) for a, b in zip(wanted, found, strict=True))
    found_db = decibels(signal, noise)
    return None if found_db == math.inf else max(found_db, WORST_DB)


def largest_difference(wanted: Iterable[Float32], found: Iterable[Float32]) -> float:
    """max |wanted - found| over all arrays; NaN or infinite where `found` is not finite."""
    return float(np.max([np.abs(a - b).max() for a, b in zip(wanted, found, strict=True)]))
