"""The model card that travels in a bundle."""

from __future__ import annotations

from dataclasses import dataclass

from edge_export._lower import LoweringReport
from edge_export.agree import AgreementReport
from edge_export.verify import VerificationReport

__all__ = ["ModelCard", "render_card"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """The parts of the card that only the author knows, as Markdown text.

    `intended_use` what it is for; `training_data` what was learned from, real and simulated named apart; `limits`
    where it
    must not be used or is known to fail.
    """

    intended_use: str
    training_data: str
    limits: str


def render_card(
    name: str,
    version: str,
    card: ModelCard,
    report: LoweringReport,
    verification: VerificationReport | AgreementReport | None,
) -> str:
    """Markdown with the author's parts, the table of variants and the measured scores."""
    lines = [
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
    lines += ["", "## Metrics", "", *_metrics(verification), "", "## Limits", "", card.limits, ""]
    return "\n".join(lines)


def _metrics(verification: VerificationReport | AgreementReport | None) -> list[str]:
    if verification is None:
        return ["Not verified against labels."]
    if isinstance(verification, AgreementReport):
        return _agreement(verification)
    lines = [
        f"Student's Dice {verification.student_dice:.4f} on {verification.n_frames} held-out frames. "
        "A point is a percentage point of Dice.",
        "",
        "| variant | Dice | drop, points | drop with FP16 rounding | allowed | SQNR, dB | pixels changed | gate |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for score in verification.scores:
        sqnr = "equal" if score.sqnr_db is None else f"{score.sqnr_db:.1f}"
        gate = "passed" if score.passed else f"overridden: {score.override}"
        lines.append(
            f"| {score.variant} | {score.dice:.4f} | {score.drop_points:.3f} | {score.typed_drop_points:.3f} "
            f"| {score.allowed_points:g} | {sqnr} | {100 * score.flips:.3f} % | {gate} |"
        )
    return lines


def _agreement(report: AgreementReport) -> list[str]:
    lines = [
        f"Variants against the student on {report.n_frames} frames; what the student is worth stands under Limits "
        "and in the evidence.",
        "",
        "| variant | equal decisions | SQNR, dB | largest difference | gate |",
        "|---|---|---|---|---|",
    ]
    for score in report.scores:
        shares = ", ".join(f"{name} {share:.4f}" for name, share in score.agreement.items()) or "none decides"
        sqnr = ", ".join(f"{name} {'equal' if db is None else f'{db:.1f}'}" for name, db in score.sqnr_db.items())
        gate = "passed" if not score.failures else f"overridden: {score.override}"
        lines.append(f"| {score.variant} | {shares} | {sqnr} | {score.max_abs:.3g} | {gate} |")
    return lines
