"""The model card that travels in a bundle: Markdown under Hugging Face's model-card metadata."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from edge_export._lower import LoweringReport
from edge_export.agree import AgreementReport
from edge_export.verify import VerificationReport
from edge_runtime.bundle.manifest import OutputSpec
from edge_runtime.bundle.manifest_reading import EnergyGate

__all__ = ["ModelCard", "render_card"]

_PIPELINES = {
    "mask_logits": "image-segmentation",
    "class_logits": "image-classification",
    "boxes": "object-detection",
    "image": "image-to-image",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """The parts of the card that only the author knows, as Markdown text.

    `intended_use` what it is for; `training_data` what was learned from, real and simulated named apart; `limits` where
    it must not be used or is known to fail; `license` of the weights (Hugging Face's identifiers, "cc-by-4.0"), `tags`
    beside those that are always there, `held_out` the name of the data that the figures are of.
    """

    intended_use: str
    training_data: str
    limits: str
    license: str = "other"
    tags: tuple[str, ...] = ()
    held_out: str = "held-out frames"


def render_card(
    name: str,
    version: str,
    card: ModelCard,
    report: LoweringReport,
    verification: VerificationReport | AgreementReport | None,
    output_specs: tuple[OutputSpec, ...],
) -> str:
    """Markdown with the metadata, the author's parts, the table of variants and the measured scores."""
    lines = [
        *_front_matter(name, card, report, verification, output_specs),
        f"# {name} {version}",
        "",
        "**Not a medical device. Not for diagnosis or treatment.**",
        "",
        "## Intended use",
        "",
        card.intended_use,
        "",
        "## Training data",
        "",
        card.training_data,
        "",
        "## Variants",
        "",
        "| variant | opset | bytes | of fp32 | multiply-adds | TensorRT-RTX |",
        "|---|---|---|---|---|---|",
    ]
    for row in report.variants:
        share = f"{100 * row.size_ratio:.0f} %"
        lines.append(f"| {row.id} | {row.opset} | {row.file_bytes} | {share} | {row.macs} | {row.rtx.status} |")
    lines += ["", "## Metrics", "", *_metrics(verification), ""]
    lines += [line for spec in output_specs for line in _unlike(spec)]
    lines += ["## Limits", "", card.limits, ""]
    return "\n".join(lines)


def _front_matter(
    name: str,
    card: ModelCard,
    report: LoweringReport,
    verification: VerificationReport | AgreementReport | None,
    output_specs: tuple[OutputSpec, ...],
) -> list[str]:
    """YAML between rules, its values in YAML's JSON form; keys as huggingface_hub's `ModelCardData` has them."""
    kind = next((_PIPELINES[spec.kind] for spec in output_specs if spec.kind in _PIPELINES), "other")
    precisions = sorted({row.precision for row in report.variants})
    values: dict[str, Any] = {
        "license": card.license,
        "library_name": "pocus-edge",
        "tags": list(dict.fromkeys(("ultrasound", "medical", "onnx", *precisions, *card.tags))),
    }
    if kind != "other":
        values["pipeline_tag"] = kind
    results = _results(verification, kind, card.held_out)
    if results:
        values["model-index"] = [{"name": name, "results": results}]
    return ["---", *(f"{key}: {json.dumps(value)}" for key, value in values.items()), "---", ""]


def _results(
    verification: VerificationReport | AgreementReport | None, kind: str, held_out: str
) -> list[dict[str, Any]]:
    metrics: list[dict[str, Any]] = []
    if isinstance(verification, VerificationReport):
        for row in verification.scores:
            metrics.append({"type": "dice", "name": f"Dice, {row.variant} on {row.runner}", "value": row.dice})
    elif verification is not None:
        for score in verification.scores:
            title = f"Decisions equal to the student's, {score.variant} on {score.runner}"
            metrics.append({"type": "agreement", "name": title, "value": score.least})
    if not metrics:
        return []
    return [{"task": {"type": kind}, "dataset": {"type": "held-out", "name": held_out}, "metrics": metrics}]


def _metrics(verification: VerificationReport | AgreementReport | None) -> list[str]:
    if verification is None:
        return ["Not verified against labels."]
    if isinstance(verification, AgreementReport):
        return _agreement(verification)
    lines = [
        f"Student's Dice {verification.student_dice:.4f}{_between(verification.student_interval)} on "
        f"{verification.n_frames} held-out frames. A point is a percentage point of Dice; in brackets the ends of 95 % "
        "bootstrap intervals.",
        "",
        "| variant | runner | Dice | drop, points | drop, FP16 rounded | allowed | SQNR, dB | pixels changed | gate |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for score in verification.scores:
        sqnr = "equal" if score.sqnr_db is None else f"{score.sqnr_db:.1f}"
        lines.append(
            f"| {score.variant} | {score.runner} | {score.dice:.4f}{_between(score.dice_interval)} "
            f"| {score.drop_points:.3f}{_between(score.drop_interval, 3)} | {score.typed_drop_points:.3f} "
            f"| {score.allowed_points:g} | {sqnr} | {100 * score.flips:.3f} % "
            f"| {_gate(score.passed, score.override, score.divergence)} |"
        )
    return lines


def _unlike(spec: OutputSpec) -> list[str]:
    """What the gate of an output says of a frame; nothing without one."""
    gate = spec.gate
    if gate is None:
        return []
    energy = isinstance(gate, EnergyGate)
    score = f"energy of {spec.name}" if energy else f"Mahalanobis distance of {spec.name}"
    return [
        "## Frames unlike those of training",
        "",
        f"A frame whose {score} exceeds {gate.threshold:.4g} is marked as out of distribution, as were "
        f"{100 * gate.false_alarm:.1f} % of {gate.n} frames it was fitted on ({gate.over}).",
        "",
    ]


def _between(interval: tuple[float, float] | None, digits: int = 4) -> str:
    return "" if interval is None else f" ({interval[0]:.{digits}f} to {interval[1]:.{digits}f})"


def _gate(passed: bool, override: str, why: str) -> str:
    if passed:
        return "passed"
    return f"**failed**, overridden: {_cell(override)}" + (f" ({_cell(why)})" if why else "")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "/")


def _agreement(report: AgreementReport) -> list[str]:
    lines = [
        f"Variants against the student on {report.n_frames} frames; what the student is worth stands under Limits "
        "and in the evidence.",
        "",
        "| variant | runner | equal decisions | SQNR, dB | largest difference | gate |",
        "|---|---|---|---|---|---|",
    ]
    for score in report.scores:
        shares = ", ".join(
            f"{name} {share:.4f}{_between(score.agreement_interval.get(name))}"
            for name, share in score.agreement.items()
        )
        sqnr = ", ".join(f"{name} {'equal' if db is None else f'{db:.1f}'}" for name, db in score.sqnr_db.items())
        gate = _gate(not score.failures, score.override, "; ".join((*score.failures, score.divergence)))
        lines.append(
            f"| {score.variant} | {score.runner} | {shares or 'none decides'} | {sqnr} | {score.max_abs:.3g} | {gate} |"
        )
    return lines
