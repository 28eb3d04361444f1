"""Calibration of dense and class logits at one temperature, over chosen pixels: the numbers of a reliability plot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.bundle.manifest import Calibration
from edge_runtime.errors import ConfigError
from edge_runtime.metrics.calibration import Reliability, brier, reliability, top_label
from edge_sdk.uncertainty.temperature import negative_log_likelihood, scaled_probabilities

__all__ = ["CalibrationReport", "calibration_report", "manifest_calibration"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CalibrationReport:
    """Calibration of `n` items at `temperature`.

    `ece` is the expected calibration error as Guo et al. define it: the confidence of the most probable class (never
    below 1/2 for two classes) against how often that class is right; `table` holds its bins. `ece_foreground` and
    `foreground` are the same of the probability of anything but class 0, over the whole of [0, 1]. It sees one thing
    more, a boundary that lies systematically too far in or out, whose errors on its two sides cancel in the confidence;
    no temperature mends that. `gap` is mean confidence less accuracy: positive is over-confident. `brier` is the
    squared error (of the foreground for a sigmoid, summed over classes for a softmax), `nll` in nats.
    """

    temperature: float
    ece: float
    ece_foreground: float
    gap: float
    brier: float
    nll: float
    n: int
    table: Reliability
    foreground: Reliability

    def numbers(self) -> dict[str, float | int]:
        """The scalars by name, for a report in JSON."""
        names = ("temperature", "ece", "ece_foreground", "gap", "brier", "nll", "n")
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
    probability, 15 as in Guo et al.
    """
    nll = negative_log_likelihood(logits, labels, temperature=temperature, where=where)
    chosen = np.ones(labels.shape, np.bool_) if where is None else where
    p = np.moveaxis(scaled_probabilities(logits, temperature), 1, -1)[chosen].astype(np.float64)
    truth = labels[chosen].astype(np.int64)
    if bins < 1:
        raise ConfigError(f"bins is {bins}; at least 1 is needed")
    both = np.concatenate([1 - p, p], axis=1) if p.shape[1] == 1 else p
    confidence, right = top_label(both, truth)
    table = reliability(confidence, right, bins=bins)
    foreground = reliability(np.clip(1 - both[:, 0], 0, 1), truth > 0, bins=bins)
    return CalibrationReport(
        temperature=temperature,
        ece=table.ece,
        ece_foreground=foreground.ece,
        gap=float(confidence.mean() - right.mean()),
        brier=brier(p[:, 0], truth) if p.shape[1] == 1 else brier(p, truth),
        nll=nll,
        n=len(truth),
        table=table,
        foreground=foreground,
    )


def manifest_calibration(
    before: CalibrationReport, after: CalibrationReport, *, over: str, bins: int = 15
) -> Calibration:
    """What a bundle's `OutputSpec` says beside its `temperature`: both reports' figures and what they are over.

    `over` names the items in words, such as "pixels within 10 px of the true boundary". Raises `ConfigError` for
    reports of different items.
    """
    if before.n != after.n:
        raise ConfigError(f"the reports are over {before.n} and {after.n} items; the same ones are needed")
    return Calibration(
        over=over,
        n=after.n,
        ece_before=before.ece,
        ece_after=after.ece,
        bins=bins,
        brier_before=before.brier,
        brier_after=after.brier,
    )
