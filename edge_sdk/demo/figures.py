"""The demonstration's plots, as SVG files that need nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edge_runtime.atomic import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_areas", "plot_curves", "plot_latency", "write_montage"]

INK, ACCENT, BUDGET, SECOND = "#17202a", "#0b5a8a", "#a32018", "#c77d11"
FloatArray = npt.NDArray[np.float64]


def _figure(width: float, height: float, columns: int = 1) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure  # no pyplot: no global state, no display

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = [figure.add_subplot(1, columns, k + 1) for k in range(columns)]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(colors=INK, labelsize=8)
        axis.grid(True, color="#e3e7eb", linewidth=0.6)
        axis.set_axisbelow(True)
    return figure, axes


def _save(figure: Figure, path: Path) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, format="svg", metadata={"Date": None})


def plot_curves(path: Path, curves: Sequence[tuple[str, Sequence[float]]]) -> None:
    """Training loss by epoch, one panel for each named curve (each has a loss of its own)."""
    figure, axes = _figure(8.0, 2.6, len(curves))
    for axis, (name, losses) in zip(axes, curves, strict=True):
        axis.plot(np.arange(1, len(losses) + 1), losses, color=ACCENT, linewidth=1.6)
        axis.set_title(name, fontsize=9, loc="left", color=INK)
        axis.set_xlabel("epoch", fontsize=8)
        axis.set_ylabel("training loss", fontsize=8)
        axis.set_ylim(bottom=0)
    _save(figure, path)


def plot_latency(path: Path, arrival_s: FloatArray, latency_ms: FloatArray, budget_ms: float) -> None:
    """Latency of every result against its arrival, with the budget, and the distribution beside it."""
    figure, (line, bars) = _figure(8.0, 2.8, 2)
    line.plot(arrival_s, latency_ms, ".", markersize=2.5, color=ACCENT)
    line.axhline(budget_ms, color=BUDGET, linewidth=1.2)
    line.annotate(
        f"budget {budget_ms:g} ms", (0, budget_ms), xytext=(2, 3), textcoords="offset points", fontsize=8, color=BUDGET
    )
    line.set_xlabel("arrival of the frame, s", fontsize=8)
    line.set_ylabel("arrival to result, ms", fontsize=8)
    line.set_ylim(0, max(budget_ms, float(latency_ms.max())) * 1.15)
    edges = np.geomspace(max(latency_ms.min(), 0.1), max(latency_ms.max(), budget_ms) * 1.05, 50)
    bars.hist(latency_ms, bins=edges.tolist(), color=ACCENT)
    bars.axvline(budget_ms, color=BUDGET, linewidth=1.2)
    bars.set_xscale("log")
    shown = [t for t in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if edges[0] <= t <= edges[-1]]
    bars.set_xticks(shown, [f"{t:g}" for t in shown])
    bars.set_xticks([], minor=True)
    bars.set_xlabel("arrival to result, ms (log)", fontsize=8)
    bars.set_ylabel("frames", fontsize=8)
    _save(figure, path)


def plot_areas(path: Path, time_s: FloatArray, truth_mm2: FloatArray, measured_mm2: FloatArray) -> None:
    """Measured and true anechoic area of a cine over time."""
    figure, (axis,) = _figure(8.0, 2.6)
    axis.plot(time_s, truth_mm2, color=INK, linewidth=1.4, label="truth")
    axis.plot(time_s, measured_mm2, ".", color=SECOND, markersize=4, label="measured")
    axis.set_xlabel("time in the cine, s", fontsize=8)
    axis.set_ylabel("anechoic area, mm²", fontsize=8)
    axis.set_ylim(0, 1.2 * float(max(truth_mm2.max(), measured_mm2.max())))
    axis.legend(fontsize=8, frameon=False)
    _save(figure, path)


def write_montage(
    path: Path, images: npt.NDArray[np.uint8], masks: npt.NDArray[np.uint8] | None = None, columns: int = 6
) -> None:
    """PNG grid of `images` (N, H, W) uint8, doubled in size; contours of `masks` (N, H, W) where given."""
    import cv2

    tiles = []
    for k, image in enumerate(images):
        tile: Any = cv2.resize(
            cv2.cvtColor(image, cv2.COLOR_GRAY2BGR), None, fx=2, fy=2, interpolation=cv2.INTER_LINEAR
        )
        if masks is not None:
            large = cv2.resize(masks[k], None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
            contours, _ = cv2.findContours((large > 0).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
            cv2.drawContours(tile, contours, -1, (80, 200, 255), 1, cv2.LINE_AA)
        tiles.append(cv2.copyMakeBorder(tile, 2, 2, 2, 2, cv2.BORDER_CONSTANT, value=(30, 30, 30)))
    while len(tiles) % columns:
        tiles.append(np.full_like(tiles[0], 30))
    rows = [np.hstack(tiles[k : k + columns]) for k in range(0, len(tiles), columns)]
    with replacing(path) as temporary:
        cv2.imwrite(str(temporary), np.vstack(rows))
