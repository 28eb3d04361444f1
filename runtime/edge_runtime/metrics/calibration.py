"""Whether probabilities mean what they say: reliability, expected calibration error, Brier score and log loss.

Functions of class probabilities take (N, K) with the true class (N,), or (N,) probabilities of the positive class
with (N,) booleans. Pixels are items like any other: pass them flat.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ConfigError
from edge_runtime.metrics.classification import class_labels

__all__ = ["Binning", "Reliability", "brier", "expected_calibration_error", "log_loss", "reliability", "top_label"]

Binning = Literal["width", "mass"]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reliability:
    """A reliability diagram as numbers, over the bins that hold items, from low to high.

    `low` and `high` (B,) are the borders, `count` (B,) the items, `confidence` (B,) their mean probability and
    `observed` (B,) the share that came true.
    """

    low: Floats
    high: Floats
    count: npt.NDArray[np.int64]
    confidence: Floats
    observed: Floats

    @property
    def ece(self) -> float:
        """Expected calibration error: mean over items of |confidence - observed| of their bin; NaN without items."""
        n = self.count.sum()
        return float((self.count * np.abs(self.confidence - self.observed)).sum() / n) if n else math.nan

    @property
    def mce(self) -> float:
        """The largest |confidence - observed| of any bin; NaN without items."""
        return float(np.abs(self.confidence - self.observed).max()) if len(self.count) else math.nan


def reliability(
    probabilities: npt.NDArray[Any], came_true: npt.NDArray[Any], *, bins: int = 15, binning: Binning = "width"
) -> Reliability:
    """The reliability of (N,) probabilities of events that came true or not, (N,) booleans or 0 and 1.

    `binning` "width" cuts 0 to 1 into equal parts, each open below and closed above (0 joins the first), as in Guo et
    al., ICML 2017; "mass" cuts at the quantiles, so that the bins hold about equally many items, and equal
    probabilities stay together (Nixon et al., CVPR workshops 2019). For the confidence of the most probable class see
    `top_label`.

    Raises:
        ConfigError: shapes that do not fit, probabilities outside 0 to 1, fewer than 1 bin, unknown binning.
    """
    p, y = _binary(probabilities, came_true)
    if bins < 1 or binning not in ("width", "mass"):
        raise ConfigError(f"{bins} bins of equal {binning!r}; at least 1, of equal 'width' or 'mass'")
    if not len(p):
        none = np.empty(0)
        return Reliability(low=none, high=none, count=np.empty(0, np.int64), confidence=none, observed=none)
    shares = np.linspace(0, 1, bins + 1)
    # a quantile that is an item itself, not a mean of two: rounding must not part equal probabilities
    edges = shares if binning == "width" else np.unique(np.quantile(p, shares, method="inverted_cdf"))
    if len(edges) == 1:
        edges = np.repeat(edges, 2)
    index = np.searchsorted(edges[1:-1], p, side="left")
    n = len(edges) - 1
    count = np.bincount(index, minlength=n)
    held = count > 0
    confidence = np.bincount(index, weights=p, minlength=n)[held] / count[held]
    observed = np.bincount(index, weights=y, minlength=n)[held] / count[held]
    return Reliability(
        low=edges[:-1][held], high=edges[1:][held], count=count[held], confidence=confidence, observed=observed
    )


def expected_calibration_error(
    probabilities: npt.NDArray[Any], truth: npt.NDArray[Any], *, bins: int = 15, binning: Binning = "width"
) -> float:
    """ECE of (N, K) class probabilities, by the confidence of the most probable class (Naeini et al., AAAI 2015), or
    of (N,) probabilities of the positive class. Arguments and errors as `reliability`; NaN without items.
    """
    if probabilities.ndim == 2:
        probabilities, truth = top_label(probabilities, truth)
    return reliability(probabilities, truth, bins=bins, binning=binning).ece


def top_label(
    probabilities: npt.NDArray[Any], truth: npt.NDArray[Any]
) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
    """(N,) probability of the most probable class and (N,) whether it is the true one; the first of equals is taken."""
    if probabilities.ndim != 2 or len(probabilities) != len(truth):
        raise ConfigError(f"probabilities {probabilities.shape} for {len(truth)} labels; (N, K) and (N,) are needed")
    labels = class_labels(truth, probabilities.shape[1], "true")
    best = probabilities.argmax(axis=1)
    return np.take_along_axis(probabilities, best[:, None], axis=1)[:, 0], best == labels


def brier(probabilities: npt.NDArray[Any], truth: npt.NDArray[Any]) -> float:
    """Mean squared error of probabilities; Brier, Monthly Weather Review 78 (1950). NaN without items.

    (N, K): summed over the classes, 0 to 2, as Brier wrote it. (N,): of the positive class alone, 0 to 1, which is half
    of the sum over the two classes. Errors as `reliability`.
    """
    if probabilities.ndim == 2:
        p, labels = _multi(probabilities, truth)
        if not len(p):
            return math.nan
        p[np.arange(len(p)), labels] -= 1
        return float((p * p).sum(axis=1).mean())
    p, y = _binary(probabilities, truth)
    return float(np.mean((p - y) ** 2)) if len(p) else math.nan


def log_loss(probabilities: npt.NDArray[Any], truth: npt.NDArray[Any], *, floor: float = 1e-12) -> float:
    """Mean of -ln(probability of what happened), in nats; probabilities below `floor` count as it. NaN without items.

    (N, K) with class indices or (N,) with booleans. Errors as `reliability`.
    """
    if probabilities.ndim == 2:
        p, labels = _multi(probabilities, truth)
        happened = p[np.arange(len(p)), labels]
    else:
        p, y = _binary(probabilities, truth)
        happened = np.where(y == 1, p, 1 - p)
    return float(-np.log(np.maximum(happened, floor)).mean()) if len(happened) else math.nan


def _in_range(probabilities: npt.NDArray[Any]) -> Floats:
    p: Floats = probabilities.astype(np.float64)
    if p.size and not (p.min() >= 0 and p.max() <= 1 + 1e-6):  # NaN fails here too
        raise ConfigError(f"probabilities run from {p.min()} to {p.max()}; 0 to 1 is needed (logits? scale them first)")
    return p


def _binary(probabilities: npt.NDArray[Any], came_true: npt.NDArray[Any]) -> tuple[Floats, Floats]:
    if probabilities.ndim != 1 or probabilities.shape != came_true.shape:
        raise ConfigError(f"probabilities {probabilities.shape} for labels {came_true.shape}; two (N,) are needed")
    return _in_range(probabilities), class_labels(came_true, 2, "binary").astype(np.float64)


def _multi(probabilities: npt.NDArray[Any], truth: npt.NDArray[Any]) -> tuple[Floats, npt.NDArray[np.int64]]:
    if len(probabilities) != len(truth):
        raise ConfigError(f"probabilities {probabilities.shape} for {len(truth)} labels; (N, K) and (N,) are needed")
    return _in_range(probabilities), class_labels(truth, probabilities.shape[1], "true")
