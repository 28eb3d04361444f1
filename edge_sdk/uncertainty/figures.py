"""Pictures of calibration and of risk against coverage, as PNG files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edge_runtime.atomic import replacing
from edge_sdk.uncertainty.calibration import CalibrationReport
from edge_sdk.uncertainty.risk import RiskCoverage

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["reliability_figure", "risk_figure"]


def reliability_figure(path: Path, before: CalibrationReport, after: CalibrationReport) -> None:
    """Write reliability diagrams of `before` and `after` scaling, with how many items each bin holds, to `path` (PNG).

    A bar is how often the most probable class was right, the diagonal what its probability promised; the line is the
    foreground's probability over the whole of [0, 1] (DeGroot and Fienberg, 1983).
    """
    figure = _figure(8.0, 4.8)
    titles = ("as trained", f"temperature {after.temperature:.2f}")
    for column, (report, title) in enumerate(zip((before, after), titles, strict=True)):
        upper = figure.add_axes((0.09 + 0.48 * column, 0.34, 0.40, 0.56))
        lower = figure.add_axes((0.09 + 0.48 * column, 0.12, 0.40, 0.17))
        _diagram(upper, report)
        upper.set_title(f"{title}: ECE {report.ece:.3f}, Brier {report.brier:.3f}", fontsize=10)
        table = report.table
        lower.bar(table.low, table.count / table.count.sum(), table.high - table.low, align="edge", color="#9aa7b5")
        lower.set(xlim=(0, 1), xlabel="probability of the most probable class")
        if column == 0:
            upper.set_ylabel("share that came true")
            lower.set_ylabel("share")
    _save(figure, path)


def _diagram(axes: Axes, report: CalibrationReport) -> None:
    table = report.table
    width = table.high - table.low
    axes.bar(table.low, table.observed, width, align="edge", color="#3b6ea5", edgecolor="white", linewidth=0.5)
    axes.plot([0, 1], [0, 1], color="black", linewidth=0.8)
    other = report.foreground
    axes.plot(other.confidence, other.observed, "o-", color="#c1462e", markersize=3, linewidth=1, label="foreground")
    axes.legend(frameon=False, loc="upper left", fontsize=8)
    axes.set(xlim=(0, 1), ylim=(0, 1), xticklabels=[])


def risk_figure(path: Path, curves: Mapping[str, RiskCoverage], *, loss: str) -> None:
    """Write risk against coverage of each of `curves`, named, to `path` (PNG); `loss` labels the risk."""
    figure = _figure(5.6, 4.0)
    axes = figure.add_axes((0.15, 0.14, 0.80, 0.80))
    for name, curve in curves.items():
        order = np.argsort(curve.coverage)
        coverage, risk = np.asarray(curve.coverage)[order], np.asarray(curve.risk)[order]
        axes.plot(coverage, risk, marker="o", markersize=3, label=f"{name} (AURC {curve.aurc:.4f})")
    axes.set(xlabel="share kept, the least uncertain first", ylabel=loss)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    _save(figure, path)


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure  # no pyplot: no global state, no display

    return Figure(figsize=(width, height), dpi=120)


def _save(figure: Figure, path: Path) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})
