"""Calibration of dense and class logits at one temperature, over chosen pixels: the numbers of a reliability plot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ConfigError
from edge_runtime.metrics.calibration import Reliability, brier, reliability, top_label
from edge_sdk.uncertainty.temperature import negative_log_likelihood, scaled_probabilities

__all__ = ["CalibrationReport", "calibration_report"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CalibrationReport:
    """Calibration of `n` items at `temperature`.

    `ece` is the expected calibration error of `table`: for one sigmoid plane the foreground's probability against how
    often a pixel is foreground, for a softmax the confidence of the most probable class against how often it is right.
    `ece_confidence` is the latter for both; for a sigmoid it is never the larger one, because errors of the two
    sides of the boundary may cancel in it. `gap` is mean confidence less accuracy: positive is over-confident. `brier`
    is the squared error (of the foreground for a sigmoid, summed over classes for a softmax), `nll` in nats.
    """

    temperature: float
    ece: float
    ece_confidence: float
    gap: float
    brier: float
    nll: float
    n: int
    table: Reliability

    def numbers(self) -> dict[str, float | int]:
        """The scalars by name, for a report in JSON."""
        names = ("temperature", "ece", "ece_confidence", "gap", "brier", "nll", "n")
        return {name: getattr(self, name) for name in names}


def calibration_report(
    logits: npt.NDArray[np.floating[Any]],
    labels: npt.NDArray[Any],
    *,
    temperature: float = 1.0,
    where: npt.NDArray[np.bool_] | None = None,
    bins: int = 15,
) -> CalibrationReport:
    """How well probabilities at `temperature` match what came true, over the items of `where` (all without it).

    `logits`, `labels`, `where` and the errors raised are those of `fit_temperature`; `bins` equal widths of
    probability, an even number of them for `ece_confidence` of a sigmoid to use the same borders.
    """
    nll = negative_log_likelihood(logits, labels, temperature=temperature, where=where)
    chosen = np.ones(labels.shape, np.bool_) if where is None else where
    p = np.moveaxis(scaled_probabilities(logits, temperature), 1, -1)[chosen].astype(np.float64)
    truth = labels[chosen].astype(np.int64)
    if bins < 1:
        raise ConfigError(f"bins is {bins}; at least 1 is needed")
    both = np.concatenate([1 - p, p], axis=1) if p.shape[1] == 1 else p
    confidence, right = top_label(both, truth)
    by_confidence = reliability(confidence, right, bins=bins)
    if p.shape[1] == 1:
        table, squared = reliability(p[:, 0], truth, bins=bins), brier(p[:, 0], truth)
    else:
        table, squared = by_confidence, brier(p, truth)
    return CalibrationReport(
        temperature=temperature,
        ece=table.ece,
        ece_confidence=by_confidence.ece,
        gap=float(confidence.mean() - right.mean()),
        brier=squared,
        nll=nll,
        n=len(truth),
        table=table,
    )
