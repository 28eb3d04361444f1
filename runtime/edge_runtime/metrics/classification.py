"""How good class decisions and scores are, and votes of many frames of one patient."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ConfigError

__all__ = [
    "accuracy",
    "auroc",
    "average_precision",
    "balanced_accuracy",
    "class_labels",
    "confusion_matrix",
    "grouped_vote",
    "mean_auroc",
]

Labels = npt.NDArray[Any]
Floats = npt.NDArray[Any]


def confusion_matrix(truth: Labels, predicted: Labels, classes: int) -> npt.NDArray[np.int64]:
    """(K, K) counts, row the true class and column the predicted one, of two (N,) integer arrays with 0 <= label < K.

    Raises `ConfigError` for unequal lengths, labels that are not integers, or labels outside the classes.
    """
    a, b = class_labels(truth, classes, "true"), class_labels(predicted, classes, "predicted")
    if len(a) != len(b):
        raise ConfigError(f"{len(a)} true and {len(b)} predicted labels; one of each an item is needed")
    return np.bincount(a * classes + b, minlength=classes * classes).reshape(classes, classes)


def accuracy(truth: Labels, predicted: Labels, classes: int) -> float:
    """Share of right decisions; NaN without items. Errors as `confusion_matrix`."""
    counts = confusion_matrix(truth, predicted, classes)
    return float(np.trace(counts) / counts.sum()) if counts.sum() else math.nan


def balanced_accuracy(truth: Labels, predicted: Labels, classes: int) -> float:
    """Mean of the recalls of those classes that occur in the truth; NaN without items. Brodersen et al., ICPR 2010.

    Errors as `confusion_matrix`.
    """
    counts = confusion_matrix(truth, predicted, classes)
    present = counts.sum(axis=1) > 0
    if not present.any():
        return math.nan
    return float((np.diag(counts)[present] / counts.sum(axis=1)[present]).mean())


def auroc(scores: Floats, positive: Labels) -> float:
    """Area under the ROC curve: the chance that a positive item scores above a negative one, ties counted half.

    From the mid-ranks of Mann and Whitney (1947). `scores` (N,), `positive` (N,) booleans or 0 and 1. NaN unless both
    kinds occur. Raises `ConfigError` for unequal lengths, other labels, or scores that are NaN.
    """
    values, wanted = _scored(scores, positive)
    n, p = len(wanted), int(wanted.sum())
    if p in (0, n):
        return math.nan
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    middle_rank = np.cumsum(counts) - (counts - 1) / 2
    return float((middle_rank[inverse][wanted].sum() - p * (p + 1) / 2) / (p * (n - p)))


def mean_auroc(scores: Floats, truth: Labels) -> float:
    """Mean over the classes of the `auroc` of one class against the rest; `scores` (N, K), `truth` (N,) class indices.

    Classes that do not occur, or occur alone, are left out; NaN when none is left.
    """
    if scores.ndim != 2:
        raise ConfigError(f"class scores have shape {scores.shape}; (N, K) is needed")
    labels = class_labels(truth, scores.shape[1], "true")
    found = [auroc(scores[:, k], labels == k) for k in range(scores.shape[1])]
    kept = [value for value in found if not math.isnan(value)]
    return float(np.mean(kept)) if kept else math.nan


def average_precision(scores: Floats, positive: Labels) -> float:
    """Area under the precision-recall curve as the sum of precision times the step in recall, without interpolation.

    Items of equal score are taken at once. As scikit-learn's `average_precision_score`. NaN without a positive item.
    Errors as `auroc`.
    """
    values, wanted = _scored(scores, positive)
    if not wanted.any():
        return math.nan
    order = np.argsort(-values, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(values[order])), len(order) - 1)
    hits = np.cumsum(wanted[order])[ends]
    steps = np.diff(hits, prepend=0) / hits[-1]
    return float((steps * hits / (ends + 1)).sum())


def grouped_vote(
    probabilities: Floats, groups: Sequence[Hashable], *, by: str = "mean"
) -> tuple[list[Hashable], npt.NDArray[np.float64]]:
    """One distribution a group (patient, exam, clip) from those of its frames.

    Args:
        probabilities: (N, K) class probabilities of the frames.
        groups: (N,) the group of each frame.
        by: "mean" averages the probabilities; "majority" gives the shares of frames whose most probable class it is.

    Returns:
        The G groups in order of first appearance, and (G, K) float64.

    Raises:
        ConfigError: shapes that do not fit, or another `by`.
    """
    if probabilities.ndim != 2 or len(probabilities) != len(groups):
        raise ConfigError(f"probabilities {probabilities.shape} for {len(groups)} group keys; (N, K) and N are needed")
    if by not in ("mean", "majority"):
        raise ConfigError(f"a vote by {by!r}; 'mean' or 'majority'")
    votes = probabilities.astype(np.float64)
    if by == "majority" and len(votes):
        votes = np.eye(votes.shape[1])[votes.argmax(axis=1)]
    names = list(dict.fromkeys(groups))
    place = {name: i for i, name in enumerate(names)}
    index = np.array([place[group] for group in groups], np.intp)
    sums = np.zeros((len(names), probabilities.shape[1]))
    np.add.at(sums, index, votes)
    return names, sums / np.bincount(index, minlength=len(names))[:, None]


def class_labels(labels: Labels, classes: int, name: str) -> npt.NDArray[np.int64]:
    """(N,) class indices as int64; `ConfigError` naming `name` when they are not integers in 0 to `classes` - 1."""
    if labels.ndim != 1 or labels.dtype.kind not in "biu":
        raise ConfigError(f"{name} labels are {labels.dtype} {labels.shape}; integers (N,) are needed")
    if labels.size and not (labels.min() >= 0 and labels.max() < classes):
        raise ConfigError(
            f"{name} labels run from {labels.min()} to {labels.max()}; 0 to {classes - 1} are the classes"
        )
    return labels.astype(np.int64)


def _scored(scores: Floats, positive: Labels) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    if scores.ndim != 1 or scores.shape != positive.shape:
        raise ConfigError(f"scores {scores.shape} and labels {positive.shape}; two arrays (N,) are needed")
    values = scores.astype(np.float64)
    if np.isnan(values).any():
        raise ConfigError(f"{int(np.isnan(values).sum())} of {len(values)} scores are NaN")
    return values, class_labels(positive, 2, "positive") == 1
