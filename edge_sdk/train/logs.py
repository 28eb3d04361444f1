"""Logs of a run in a folder: a table as CSV and JSON lines, curves as PNG, and TensorBoard's event files."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

from edge_runtime.atomic import replacing, write_bytes
from edge_runtime.optional import require
from edge_sdk.train.record import FitReport

__all__ = ["RunLog", "draw_curves"]


class RunLog:
    """`log.csv` and `log.jsonl` with a row per epoch, `curves.png`, and events in `events/` when asked for.

    Table and curves are written whole from the report after every epoch, so that a resumed run leaves those of an
    uninterrupted one but for its seconds. TensorBoard's scalars carry the step: a resumed run marks what it repeats.
    Raises `MissingDependencyError` without the tensorboard package.
    """

    def __init__(self, folder: Path, *, tensorboard: bool, first_step: int) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._writer: Any = None
        if tensorboard:
            require("tensorboard", "to write TensorBoard logs")
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(folder / "events"), purge_step=first_step)

    def step(self, step: int, values: dict[str, float], rate: float) -> None:
        """Scalars of a training step (from 0), to TensorBoard alone."""
        if self._writer is not None:
            for name, value in values.items():
                group = "train" if name in ("loss", "grad_norm") else "terms"
                self._writer.add_scalar(f"{group}/{name}", value, step)
            self._writer.add_scalar("train/learning_rate", rate, step)

    def epoch(self, report: FitReport, step: int) -> None:
        """Everything after an epoch whose last step was `step`."""
        rows = table(report)
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        write_bytes(self.folder / "log.jsonl", lines.encode())
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(rows[-1]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: "" if v is None else v for k, v in row.items()} for row in rows)
        write_bytes(self.folder / "log.csv", text.getvalue().encode())
        if self._writer is not None:
            metric = report.metrics[-1]
            if metric is not None:
                self._writer.add_scalar("held_out/metric", metric, step)
            self._writer.flush()

    def close(self, report: FitReport) -> None:
        """Draw the curves and close the event file."""
        if report.losses:
            draw_curves(report, self.folder / "curves.png")
        self.stop()

    def stop(self) -> None:
        """Close the event file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def table(report: FitReport) -> list[dict[str, float | None]]:
    """One row per epoch; what was not measured is None."""
    rows = []
    for k, loss in enumerate(report.losses):
        row: dict[str, float | None] = {"epoch": k + 1, "loss": loss}
        row.update({f"term.{name}": values[k] for name, values in report.terms.items()})
        row["learning_rate"] = report.rates[k]
        row["grad_norm"] = report.grad_norms[k]
        row["metric"] = report.metrics[k]
        row["seconds"] = round(report.seconds[k], 3)
        rows.append({name: value if value is None or math.isfinite(value) else None for name, value in row.items()})
    return rows


def draw_curves(report: FitReport, path: Path) -> None:
    """Loss and its terms, the held-out metric, learning rate and gradient norm over epochs, as a PNG file."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    epochs = list(range(1, len(report.losses) + 1))
    measured = [(epoch, value) for epoch, value in zip(epochs, report.metrics, strict=True) if value is not None]
    panels = 3 if measured else 2
    figure = Figure(figsize=(4.2 * panels, 3.4), layout="constrained")
    axes = figure.subplots(1, panels)
    marker = "o" if len(epochs) < 3 else None
    axes[0].plot(epochs, report.losses, label="loss", linewidth=2, marker=marker)
    for name, values in report.terms.items():
        axes[0].plot(epochs, values, label=name, linewidth=1, linestyle="--", marker=marker)
    positive = all(value > 0 for values in (report.losses, *report.terms.values()) for value in values)
    axes[0].set(title="Training loss and its unweighted terms", yscale="log" if positive else "linear")
    axes[0].legend(fontsize=8)
    if measured:
        x, y = zip(*measured, strict=True)
        axes[1].plot(x, y, linewidth=2, marker="o", markersize=3)
        if report.best_epoch is not None:
            axes[1].axvline(report.best_epoch, color="0.5", linestyle=":", label=f"best: epoch {report.best_epoch}")
            axes[1].legend(fontsize=8)
        axes[1].set(title="Held-out metric")
    last = axes[-1]
    lines = last.plot(epochs, report.rates, color="tab:green", label="learning rate", marker=marker)
    if any(math.isfinite(value) for value in report.grad_norms):
        other = last.twinx()
        lines += other.plot(
            epochs, report.grad_norms, color="tab:red", linewidth=1, label="gradient norm (right)", marker=marker
        )
    last.legend(lines, [line.get_label() for line in lines], fontsize=8)
    last.set(title="Learning rate, gradient norm")
    for axis in axes:
        axis.set_xlabel("epoch")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
