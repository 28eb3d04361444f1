"""Hold every variant against labels and against the student it came from, through the device's own runner."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from edge_export._masks import class_map, mean_dice
from edge_export._run import run_variant
from edge_export._simulate import simulate_types
from edge_export.gate import run_model
from edge_runtime.bundle.manifest import InputSpec, OutputSpec
from edge_runtime.errors import ConfigError, LoweringError

__all__ = [
    "MAX_DROP_POINTS",
    "VariantScore",
    "VerificationReport",
    "check_overrides",
    "run_variant",
    "sqnr_db",
    "verify_variants",
]

Float32 = npt.NDArray[np.float32]
Student = Callable[[Float32], Float32]

# Dice points (percentage points) that a variant may lose against the student
MAX_DROP_POINTS = {"fp32": 0.01, "fp16": 0.05, "int8": 0.5}


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantScore:
    """One variant on the held-out frames.

    `dice` in [0, 1], mean over frames; `drop_points` = 100 (student's dice - dice), negative when better; `sqnr_db` =
    10 log10(sum student^2 / sum (student - variant)^2) over all logits, None when equal; `max_abs` the largest
    difference of a logit; `flips` the share of pixels whose class differs from the student's. These are the
    runner's. `typed_drop_points` is the drop with every FP16 tensor rounded to FP16, which ONNX Runtime's CPU backend
    does not do (`simulate_types`). `allowed_points` is the gate on the larger of both drops; `override`
    the reason given for letting a failure pass.
    """

    variant: str
    dice: float
    drop_points: float
    typed_drop_points: float
    sqnr_db: float | None
    max_abs: float
    flips: float
    file_bytes: int
    allowed_points: float
    passed: bool
    override: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerificationReport:
    """Scores by variant; `student_dice` is the reference, `n_frames` held-out frames were used."""

    student_dice: float
    n_frames: int
    scores: tuple[VariantScore, ...] = field(default=())

    def score(self, variant: str) -> VariantScore:
        """The row of that variant. Raises `ConfigError` when there is none."""
        for item in self.scores:
            if item.variant == variant:
                return item
        raise ConfigError(f"no variant {variant!r} in the report; it has {[s.variant for s in self.scores]}")

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
) -> VerificationReport:
    """Score `models` (ONNX bytes by variant id) on `inputs` (float32, `input_spec.shape`, from the Preprocessor).

    `labels` are (H, W) uint8 class maps at network size, one per input. `student` maps an input to the logits of the
    first
    output, (1, C, H, W) float32 (the torch module, wrapped), or is the fp32 ONNX file. Every variant must keep its Dice
    within `max_drop_points` of the student's (points are percentage points). A failure raises `LoweringError`,
    unless `overrides` names the variant with a reason, which the report then carries. Raises `ConfigError` on
    inputs that do not fit, a variant without a gate, or an override without a reason.
    """
    reasons = dict(overrides or {})
    _check_arguments(models, inputs, labels, output_specs, max_drop_points, reasons)
    spec = output_specs[0]
    if isinstance(student, bytes):
        wanted = _first(run_variant(student, "student", inputs, input_spec, output_specs), spec)
    else:
        wanted = [np.asarray(student(sample), np.float32).copy() for sample in inputs]
    masks = [class_map(logits, spec) for logits in wanted]
    reference = mean_dice(masks, labels)
    runs = {key: _first(run_variant(data, key, inputs, input_spec, output_specs), spec) for key, data in models.items()}
    scores = []
    for name, data in models.items():
        classes = [class_map(logits, spec) for logits in runs[name]]
        dice, typed = mean_dice(classes, labels), mean_dice(_typed_masks(data, inputs, spec), labels)
        drops = 100.0 * (reference - dice), 100.0 * (reference - typed)
        passed = max(drops) <= max_drop_points[name]
        scores.append(
            VariantScore(
                variant=name,
                dice=dice,
                drop_points=drops[0],
                typed_drop_points=drops[1],
                sqnr_db=sqnr_db(wanted, runs[name]),
                max_abs=max(float(np.abs(a - b).max()) for a, b in zip(wanted, runs[name], strict=True)),
                flips=float(np.mean([np.mean(a != b) for a, b in zip(masks, classes, strict=True)])),
                file_bytes=len(data),
                allowed_points=max_drop_points[name],
                passed=passed,
                override="" if passed else reasons.get(name, ""),
            )
        )
    report = VerificationReport(student_dice=reference, n_frames=len(inputs), scores=tuple(scores))
    _raise_failures(report)
    return report


def _typed_masks(data: bytes, inputs: Sequence[Float32], spec: OutputSpec) -> list[npt.NDArray[np.uint8]]:
    simulated = simulate_types(onnx.load_model_from_string(data))
    return [class_map(found[spec.name], spec) for found in run_model(simulated, inputs, optimize=False)]


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
    """10 log10(sum wanted^2 / sum (wanted - found)^2) over all arrays; None when they are equal or wanted is all 0."""
    signal = sum(float((a.astype(np.float64) ** 2).sum()) for a in wanted)
    noise = sum(float(((a.astype(np.float64) - b) ** 2).sum()) for a, b in zip(wanted, found, strict=True))
    return 10.0 * math.log10(signal / noise) if noise > 0 and signal > 0 else None


def _raise_failures(report: VerificationReport) -> None:
    failed = [score for score in report.scores if not score.passed and not score.override]
    if failed:
        shown = "; ".join(
            f"{s.variant} loses {max(s.drop_points, s.typed_drop_points):.3f} Dice points, allowed {s.allowed_points:g}"
            for s in failed
        )
        raise LoweringError(
            f"{shown}. Use more or better frames for quantization calibration, another method, exclude sensitive "
            "convolutions, or override the gate by name with a reason."
        )
