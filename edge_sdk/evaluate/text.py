"""Tables of an evaluation for people, as rows of text; the page and the terminal show the same ones."""

from __future__ import annotations

from collections.abc import Sequence

from edge_sdk.evaluate.auditing import Audit, Finding
from edge_sdk.evaluate.result import Evaluation, Interval
from edge_sdk.report import Table

__all__ = ["audit_note", "audit_table", "difference_table", "render", "scale_of", "score_table", "verdict"]

_TITLES = {
    "dice": "Dice",
    "jaccard": "Jaccard",
    "hd95": "HD95",
    "assd": "ASSD",
    "precision": "precision",
    "recall": "recall",
    "f1": "F1 (= Dice)",
    "ap": "AP",
    "auroc": "AUROC",
    "ece": "ECE",
    "ece_border": "ECE at the border",
    "quantity": "measured",
    "quantity_error": "error",
}


def scale_of(metric: str) -> tuple[float, str]:
    """(factor, unit) in which differences of a metric are shown: points (percentage points) for shares."""
    return (1.0, "") if metric in ("hd95", "assd", "quantity", "quantity_error") else (100.0, "points")


def score_table(evaluation: Evaluation, cohort: str, metrics: Sequence[str] = ()) -> Table:
    """Metrics by system on one cohort, means with their intervals."""
    mine = [summary for summary in evaluation.summaries if summary.cohort == cohort]
    shown = [name for name in metrics or _TITLES if any(name in summary.metrics for summary in mine)]
    facts = next(item for item in evaluation.cohorts if item.name == cohort)
    head = ("system", *(_title(name, facts.unit, evaluation) for name in shown), "missed")
    rows = tuple((s.system, *(_interval(s.metrics.get(name), name) for name in shown), str(s.missed)) for s in mine)
    split = f", split {facts.split}" if facts.split else ""
    caption = (
        f"{cohort}: {facts.images} images of {facts.groups} exams or images of their own{split}. Mean [95 % bootstrap "
        f"interval, {evaluation.bootstrap} resamplings of whole exams]. Distances in {facts.unit}"
        + ("" if facts.unit == "mm" else " (no pixel size is known)")
        + ". Missed: images with a class in only one of truth and prediction; their distance is the image's diagonal."
    )
    return Table(head=head, rows=rows, caption=caption)


def _title(metric: str, unit: str, evaluation: Evaluation) -> str:
    if metric in ("hd95", "assd"):
        return f"{_TITLES[metric]}, {unit}"
    if metric.startswith("quantity"):
        what = evaluation.quantity.removesuffix("_mm").removesuffix("_mm2").replace("_", " ")
        return f"{what}{', abs. error' if metric == 'quantity_error' else ''}, {evaluation.quantity_unit}"
    return _TITLES[metric]


def _interval(value: Interval | None, metric: str) -> str:
    if value is None:
        return "-"
    digits = 2 if scale_of(metric)[0] == 1.0 else 4
    ends = "" if value.low is None or value.high is None else f" [{value.low:.{digits}f}, {value.high:.{digits}f}]"
    return f"{value.mean:.{digits}f}{ends}"


def difference_table(evaluation: Evaluation, cohort: str) -> Table:
    """Paired differences between systems on one cohort."""
    rows = []
    for item in evaluation.differences:
        if item.cohort != cohort:
            continue
        factor, unit = scale_of(item.metric)
        facts = next(each for each in evaluation.cohorts if each.name == cohort)
        unit = unit or (facts.unit if item.metric == "hd95" else evaluation.quantity_unit)
        ends = "-"
        if item.low is not None and item.high is not None:
            ends = f"{factor * item.low:+.3f} to {factor * item.high:+.3f}"
        label = _title(item.metric, facts.unit, evaluation).split(",")[0]
        rows.append(
            (f"{item.second} - {item.first}", f"{label}, {unit}", f"{factor * item.mean:+.3f}", ends, str(item.n))
        )
    head = ("systems", "metric", "mean difference", "95 % interval", "images")
    return Table(head=head, rows=tuple(rows), caption=f"{cohort}: image by image, then averaged.")


def audit_table(audit: Audit) -> Table:
    """One row for each system and subgroup."""
    factor, unit = scale_of(audit.metric)
    rows = tuple(_finding(finding, factor) for finding in audit.findings)
    head = (
        "system",
        "subgroup",
        "images (units)",
        f"{audit.reference}",
        "system's",
        f"loss{', ' + unit if unit else ''}",
        "more than the rest [95 %]",
        "p (Holm)",
        "could have found",
        "",
    )
    return Table(head=head, rows=rows, caption=audit_note(audit))


def _finding(finding: Finding, factor: float) -> tuple[str, ...]:
    first = (
        finding.system,
        f"{finding.column}: {finding.level}",
        f"{finding.images} ({finding.units})",
        f"{finding.reference:.4f}",
        f"{finding.score:.4f}",
        f"{factor * finding.loss:+.2f}",
    )
    if finding.excess is None:
        return (*first, "not tested", "-", "-", finding.reason)
    low, high = ("open" if end is None else f"{factor * end:+.2f}" for end in (finding.low, finding.high))
    excess = f"{factor * finding.excess:+.2f} [{low}, {high}]"
    found = "nothing" if finding.detectable is None else f"{factor * finding.detectable:.2f}"
    return (*first, excess, f"{finding.p_holm:.3f}", found, "FLAGGED" if finding.flagged else "")


def audit_note(audit: Audit) -> str:
    """How the audit was made, in three sentences."""
    factor, unit = scale_of(audit.metric)
    return (
        f"Loss: {audit.metric} of {audit.reference} against the system's, image by image, positive when worse"
        f"{', in ' + unit if unit else ''}. Flagged: the group loses more than all other images by over "
        f"{factor * audit.margin:g}, one-sided studentised permutation test ({audit.permutations} relabellings of "
        f"units; a unit is an {audit.unit}), Holm-corrected over {audit.tests} tests, p <= {audit.alpha:g}. Groups or "
        f'rests with fewer than {audit.min_group} units are not tested. "Could have found" is the smallest excess that '
        f"would be flagged with a power of {100 * audit.power:g} %: a group without a flag may lose up to about that. "
        "Intervals are not corrected for the number of groups."
    )


def verdict(audit: Audit) -> str:
    """One sentence: what was flagged, or how large a harm could have gone unseen."""
    if audit.flagged:
        names = [f"{f.system} in {f.column} {f.level}" for f in audit.flagged]
        return f"{len(names)} subgroup(s) lose significantly more than the rest: {'; '.join(names)}."
    sizes = [finding.detectable for finding in audit.findings if finding.detectable is not None]
    blind = sum(finding.detectable is None for finding in audit.findings)
    factor, unit = scale_of(audit.metric)
    if not sizes:
        return "No subgroup was large enough to be tested: nothing can be said about subgroups."
    more = f" {blind} group(s) were too small for any finding." if blind else ""
    return (
        f"No subgroup loses significantly more than the rest; an excess of {factor * min(sizes):.2f} to "
        f"{factor * max(sizes):.2f} {unit} could have been found, depending on the group.{more}"
    )


def render(evaluation: Evaluation) -> str:
    """The tables as aligned text for a terminal."""
    head = ("dice", "hd95", "assd", "precision", "recall")
    rest = ("ap", "auroc", "ece", "ece_border", "quantity_error")
    parts = []
    for cohort in evaluation.cohorts:
        parts += [_aligned(score_table(evaluation, cohort.name, names), k == 1) for k, names in enumerate((head, rest))]
        if (table := difference_table(evaluation, cohort.name)).rows:
            parts.append(_aligned(table, True))
    if evaluation.audit is not None:
        parts += [_aligned(audit_table(evaluation.audit), True), verdict(evaluation.audit) + "\n"]
    return "\n".join(parts)


def _aligned(table: Table, caption: bool) -> str:
    lines = [table.head, *table.rows]
    widths = [max(len(line[k]) for line in lines) for k in range(len(table.head))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    text.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join([*text, *([table.caption] if caption and table.caption else [])]) + "\n"
