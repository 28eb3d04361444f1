"""The pictures of `docs/uncertainty.md`, from the stored students: `python -m benchmarks.distill.calibration_pictures`.

It needs the real data (POCUS_DATA) and writes docs/images/reliability.png and docs/images/risk_coverage.png.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.distill.calibration import ROW, answers, boundary_items
from benchmarks.distill.calibration_train import told_student
from benchmarks.distill.cases import HC18
from benchmarks.distill.stored import load_records, load_weights
from edge_sdk.uncertainty import calibration_report, fit_temperature, reliability_figure, risk_coverage, risk_figure

__all__ = ["draw"]

IMAGES = Path(__file__).resolve().parents[2] / "docs" / "images"


def draw(folder: Path = IMAGES) -> None:
    """Both pictures, into `folder`, of the distilled student of seed 0 on the test split."""
    module = load_weights(ROW, "told", told_student())
    _, held = HC18.read("train").halves()
    test = HC18.read("test")
    fit = fit_temperature(*boundary_items(answers(module, held).logits, held))
    rows, labels = boundary_items(answers(module, test).logits, test)
    scaled = calibration_report(rows, labels, temperature=fit.temperature)
    reliability_figure(folder / "reliability.png", calibration_report(rows, labels), scaled)
    record = load_records(ROW)[0]
    loss = 1 - record.array("told.dice")
    coverages = tuple((np.arange(len(loss), 0, -1) / len(loss)).tolist())
    names = {"spread told in the one pass": "told.spread", "entropy of the scaled mask": "told.entropy"}
    curves = {name: risk_coverage(record.array(key), loss, coverages=coverages) for name, key in names.items()}
    risk_figure(folder / "risk_coverage.png", curves, loss="1 - Dice of the frames kept")


if __name__ == "__main__":
    draw()
