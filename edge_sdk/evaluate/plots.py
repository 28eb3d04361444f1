"""Plots of an evaluation: subgroups, agreement of the clinical quantity, reliability. PNG, drawn without a display."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edge_runtime.atomic import replacing
from edge_sdk.evaluate.auditing import Audit, Finding
from edge_sdk.evaluate.result import Evaluation
from edge_sdk.evaluate.text import scale_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_bland_altman", "plot_forest", "plot_reliability"]

INK, ACCENT, BAD, SOFT = "#17202a", "#0b5a8a", "#a32018", "#8b98a5"
SERIES = ("#0b5a8a", "#c77d11", "#3b7d4f", "#7b4fa3", "#5b6773", "#b0457b")


def plot_forest(path: Path, audit: Audit) -> None:
    """Excess loss of every subgroup over the rest with its interval, one panel a system; flagged groups in red.

    The short upright mark is the smallest excess that would have been found with the stated power.
    """
    systems = list(dict.fromkeys(finding.system for finding in audit.findings))
    rows = [(f.column, f.level) for f in audit.findings if f.system == systems[0]]
    figure, axes = _figure(2.6 + 3.4 * len(systems), 1.2 + 0.3 * len(rows), len(systems), share=True)
    factor, unit = scale_of(audit.metric)
    for axis, system in zip(axes, systems, strict=True):
        mine = {(f.column, f.level): f for f in audit.findings if f.system == system}
        axis.axvline(0, color=INK, linewidth=0.8)
        for at, key in enumerate(rows):
            _forest_row(axis, mine[key], at, factor)
        axis.set_title(system, fontsize=9, loc="left", color=INK)
        axis.set_xlabel(f"loss against {audit.reference}, group minus rest, {unit or audit.metric}", fontsize=8)
    counts = {(f.column, f.level): f.images for f in audit.findings if f.system == systems[0]}
    axes[0].set_yticks(range(len(rows)), [f"{c}: {level}  (n={counts[c, level]})" for c, level in rows], fontsize=8)
    axes[0].set_ylim(len(rows) - 0.4, -0.6)
    _save(figure, path)


def _forest_row(axis: Axes, finding: Finding, at: int, factor: float) -> None:
    if finding.excess is None:
        axis.annotate(
            "too small to test", (0, at), fontsize=7, color=SOFT, ha="center", va="center", backgroundcolor="w"
        )
        return
    colour = BAD if finding.flagged else ACCENT
    if finding.low is not None and finding.high is not None:
        axis.plot([factor * finding.low, factor * finding.high], [at, at], color=colour, linewidth=1.6)
    axis.plot(factor * finding.excess, at, "s" if finding.flagged else "o", color=colour, markersize=5)
    if finding.detectable is not None:
        axis.plot(factor * finding.detectable, at, "|", color=SOFT, markersize=9, markeredgewidth=1.6)


def plot_bland_altman(path: Path, evaluation: Evaluation) -> bool:
    """Difference of the measured quantity from the reference against their mean (Bland and Altman, Lancet 1986), with
    bias and limits of agreement (1.96 standard deviations); False, and no file, when no quantity was measured."""
    panels = []
    for system in evaluation.systems:
        found = [row.values for row in evaluation.images if row.system == system.name and not row.missed]
        pairs = [(v["quantity"], v["quantity_truth"]) for v in found if v.get("quantity_truth") is not None]
        if len(pairs) >= 2:
            panels.append((system.name, np.array(pairs, np.float64)))
    if not panels:
        return False
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    figure, axes = _figure(3.9 * columns, 2.9 * lines, columns, rows=lines, share=True)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    for axis, (name, both) in zip(axes, panels, strict=False):
        difference = both[:, 0] - both[:, 1]
        bias, spread = float(difference.mean()), 1.96 * float(difference.std(ddof=1))
        axis.plot(both.mean(axis=1), difference, ".", color=ACCENT, markersize=5)
        axis.axhline(0, color=SOFT, linewidth=0.8)
        for level, text in ((bias, "bias"), (bias + spread, "+1.96 SD"), (bias - spread, "-1.96 SD")):
            dashed = "--" if text != "bias" else "-"
            axis.axhline(level, color=INK if text == "bias" else BAD, linewidth=1, linestyle=dashed)
            axis.annotate(
                f"{text} {level:+.2f}", (1, level), xycoords=("axes fraction", "data"), fontsize=7, ha="right",
                va="bottom", color=INK, bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.6},
            )  # fmt: skip
        axis.set_title(name, fontsize=9, loc="left", color=INK)
        axis.set_xlabel(f"mean of measured and reference, {evaluation.quantity_unit}", fontsize=8)
    for k in range(0, len(panels), columns):
        axes[k].set_ylabel(f"measured minus reference, {evaluation.quantity_unit}", fontsize=8)
    _save(figure, path)
    return True


def plot_reliability(path: Path, evaluation: Evaluation) -> None:
    """Share of pixels that are in the class against the probability given, near the true border, one line a system."""
    figure, (axis,) = _figure(4.4, 4.0, 1)
    axis.plot([0, 1], [0, 1], color=SOFT, linewidth=0.9, linestyle="--", label="perfect")
    for k, (name, points) in enumerate(evaluation.reliability.items()):
        table = np.asarray(points)
        marker = "os^vD*"[k % 6]
        axis.plot(table[:, 0], table[:, 1], marker + "-", color=SERIES[k % 6], markersize=4, linewidth=1.2, label=name)
    axis.set_xlim(0, 1)
    axis.set_ylim(0, 1)
    axis.set_aspect("equal")
    axis.set_xlabel("mean probability in the bin", fontsize=8)
    axis.set_ylabel("share of pixels truly inside", fontsize=8)
    axis.set_title(f"pixels within {evaluation.border_px:g} px of the true border", fontsize=9, loc="left", color=INK)
    axis.legend(fontsize=7, frameon=False, loc="upper left")
    _save(figure, path)


def _figure(
    width: float, height: float, columns: int, *, rows: int = 1, share: bool = False
) -> tuple[Figure, Sequence[Axes]]:
    from matplotlib.figure import Figure  # no pyplot: no global state, no display

    figure = Figure(figsize=(width, height), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharex=share, sharey=share)
    axes: list[Axes] = list(grid.ravel())
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(colors=INK, labelsize=8)
        axis.grid(True, color="#e3e7eb", linewidth=0.6)
        axis.set_axisbelow(True)
    return figure, axes


def _save(figure: Figure, path: Path) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
