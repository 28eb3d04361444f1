"""Hold every variant of a model without masks against the student it came from: equal decisions, small differences."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_export._run import DEFAULT_RUNNER, check_runners, run_variant, runners_of
from edge_export.divergence import explain_divergence
from edge_export.verify import ADVICE, NOT_FINITE, Ends, check_overrides, ends, largest_difference, sqnr_db
from edge_runtime.bundle.manifest import InputSpec, OutputSpec
from edge_runtime.errors import ConfigError, LoweringError
from edge_runtime.metrics.bootstrap import bootstrap_mean
from edge_runtime.postprocess import agreement

__all__ = ["MIN_AGREEMENT", "MIN_SQNR_DB", "AgreementReport", "AgreementScore", "verify_agreement"]

Float32 = npt.NDArray[np.float32]
Student = Callable[[Float32], Mapping[str, Float32]]

# mean share of equal decisions (classes, boxes, mask pixels) that a variant must keep
MIN_AGREEMENT = {"fp32": 0.999, "fp16": 0.99, "int8": 0.9, "int8-cpu": 0.9}
# signal over noise of the outputs that decide nothing (pictures, uncertainties, raw numbers)
MIN_SQNR_DB = {"fp32": 80.0, "fp16": 40.0, "int8": 20.0, "int8-cpu": 20.0}
_DECIDING = ("mask_logits", "class_logits", "boxes")


@dataclass(frozen=True, slots=True, kw_only=True)
class AgreementScore:
    """One variant on one runner on the frames.

    `agreement` by deciding output, mean over frames of `edge_runtime.postprocess.agreement`, and
    `agreement_interval` the ends of its 95 % bootstrap interval (None for fewer than two frames); `sqnr_db` by output,
    10 log10(sum student^2 / sum (student - variant)^2), None when equal; `max_abs` the largest difference of any
    output. `failures` are the gates that were not met, in words; `override` the reason given for letting them pass;
    `divergence` says of a failure where the variant leaves the fp32 file.
    """

    variant: str
    runner: str = DEFAULT_RUNNER
    agreement: dict[str, float]
    agreement_interval: dict[str, Ends] = field(default_factory=dict)
    sqnr_db: dict[str, float | None]
    max_abs: float
    file_bytes: int
    failures: tuple[str, ...] = ()
    override: str = ""
    divergence: str = ""

    @property
    def least(self) -> float:
        """The lowest agreement of any output; 1 when none decides."""
        return min(self.agreement.values(), default=1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class AgreementReport:
    """Scores by variant and runner on `n_frames` frames. The student is the reference: nothing is said of the truth."""

    n_frames: int
    scores: tuple[AgreementScore, ...] = field(default=())

    def score(self, variant: str) -> AgreementScore:
        """The row of that variant, of several runners the one that agrees least. Raises `ConfigError` if none."""
        rows = [item for item in self.scores if item.variant == variant]
        if not rows:
            raise ConfigError(f"no variant {variant!r} in the report; it has {[s.variant for s in self.scores]}")
        return min(rows, key=lambda item: (item.least, -item.max_abs))

    @property
    def failed(self) -> tuple[AgreementScore, ...]:
        """The rows whose gates are neither met nor overridden."""
        return tuple(item for item in self.scores if item.failures and not item.override)

    def require_passed(self) -> None:
        """Raise `LoweringError` naming every failed gate and where the variant diverges."""
        if self.failed:
            shown = "; ".join(
                f"{s.variant}: {', '.join(s.failures)}, on {s.runner}{'; ' if s.divergence else ''}{s.divergence}"
                for s in self.failed
            )
            raise LoweringError(f"{shown}. {ADVICE}")

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)


def verify_agreement(
    models: Mapping[str, bytes],
    *,
    inputs: Sequence[Float32],
    student: Student | bytes,
    input_spec: InputSpec,
    output_specs: tuple[OutputSpec, ...],
    min_agreement: Mapping[str, float] = MIN_AGREEMENT,
    min_sqnr_db: Mapping[str, float] = MIN_SQNR_DB,
    overrides: Mapping[str, str] | None = None,
    runners: Sequence[str] = (DEFAULT_RUNNER,),
    targets: Mapping[str, Sequence[str]] | None = None,
    refuse: bool = True,
) -> AgreementReport:
    """Compare `models` (ONNX bytes by variant id) with `student` on `inputs` (float32, `input_spec.shape`).

    For classifiers, detectors, restorers and networks of several tasks, where Dice says nothing: `verify_variants` is
    for masks. `student` maps an input to all outputs by name (the torch module, wrapped), or is the fp32 ONNX file.
    Outputs that decide must keep `min_agreement` in the mean, the others `min_sqnr_db`. `runners`, `targets`,
    `overrides` and `refuse` as for `verify_variants`. Raises `LoweringError` for a gate that is not met, `ConfigError`
    for no inputs, a runner that cannot be used here, a variant without a gate, or an override without a reason.
    """
    reasons = dict(overrides or {})
    if not inputs or not output_specs:
        raise ConfigError(f"{len(inputs)} inputs and {len(output_specs)} outputs; at least one of both is needed")
    check_overrides(models, reasons)
    check_runners(runners)
    missing = sorted(set(models) - (set(min_agreement) & set(min_sqnr_db)))
    if missing:
        raise ConfigError(f"variants {missing} have no gate; add them to min_agreement and min_sqnr_db")
    if isinstance(student, bytes):
        wanted = run_variant(student, "student", inputs, input_spec, output_specs)
    else:
        wanted = [{k: np.array(v, np.float32) for k, v in student(sample).items()} for sample in inputs]
    reference = student if isinstance(student, bytes) else models.get("fp32")
    scores = []
    for name, data in models.items():
        for runner in runners_of(name, runners, targets or {}):
            if runner == DEFAULT_RUNNER and data == student:
                found = wanted  # the very file that the student is, already run
            else:
                found = run_variant(data, name, inputs, input_spec, output_specs, runner=runner)
            score = _score(name, runner, data, found, wanted, output_specs)
            failures = tuple(_failures(score, min_agreement[name], min_sqnr_db[name]))
            if failures:
                why = ""
                if reference is not None:
                    why = explain_divergence(reference, data, inputs[:2], runners=(DEFAULT_RUNNER, runner))
                score = replace(score, failures=failures, override=reasons.get(name, ""), divergence=why)
            scores.append(score)
    report = AgreementReport(n_frames=len(inputs), scores=tuple(scores))
    if refuse:
        report.require_passed()
    return report


def _score(
    name: str,
    runner: str,
    data: bytes,
    found: list[dict[str, Float32]],
    wanted: list[dict[str, Float32]],
    output_specs: tuple[OutputSpec, ...],
) -> AgreementScore:
    pairs = {
        spec.name: [(f[spec.name], w[spec.name]) for f, w in zip(found, wanted, strict=True)] for spec in output_specs
    }
    shares = {
        spec.name: bootstrap_mean(np.array([agreement(f, w, spec) for f, w in pairs[spec.name]]))
        for spec in output_specs
        if spec.kind in _DECIDING
    }
    return AgreementScore(
        variant=name,
        runner=runner,
        agreement={key: share.value for key, share in shares.items()},
        agreement_interval={key: ends(share) for key, share in shares.items()},
        sqnr_db={key: sqnr_db([w for _, w in each], [f for f, _ in each]) for key, each in pairs.items()},
        max_abs=largest_difference(*zip(*(pair for each in pairs.values() for pair in each), strict=True)),
        file_bytes=len(data),
    )


def _failures(score: AgreementScore, least: float, least_db: float) -> list[str]:
    failed = [] if math.isfinite(score.max_abs) else [NOT_FINITE]
    failed += [
        f"{name} agrees in {share:.4f} of its decisions, {least:g} is needed"
        for name, share in score.agreement.items()
        if share < least
    ]
    return failed + [
        f"{name} has {noise:.1f} dB of signal over noise, {least_db:g} is needed"
        for name, noise in score.sqnr_db.items()
        if name not in score.agreement and noise is not None and noise < least_db
    ]
