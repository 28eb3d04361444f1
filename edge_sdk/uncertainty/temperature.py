"""Temperature scaling: one number that makes a network's probabilities mean what they say.

Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks" (ICML 2017), section 4.2. The logits are
divided by T > 0, which changes no argmax and no mask at probability one half. With b = 1 / T the mean negative
log-likelihood is convex in b, and its derivative rises with b, so the best T is the root of one monotone function.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ConfigError

__all__ = [
    "TemperatureFit",
    "fit_temperature",
    "negative_log_likelihood",
    "scaled_probabilities",
]

_LARGEST = 100.0  # and its inverse is the smallest
_ITERATIONS = 100  # bisection alone needs 60 to exhaust float64 on the bracket

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class TemperatureFit:
    """`temperature` divides the logits; `nll_before` and `nll_after` are mean negative log-likelihoods in nats at
    temperature 1 and at the fitted one, over the `n` items (pixels, or frames of a classifier) of the fit."""

    temperature: float
    nll_before: float
    nll_after: float
    n: int


def fit_temperature(
    logits: npt.NDArray[np.floating[Any]],
    labels: npt.NDArray[Any],
    *,
    where: npt.NDArray[np.bool_] | None = None,
) -> TemperatureFit:
    """The temperature of least negative log-likelihood.

    `logits` (N, C) of classes or (N, C, H, W) of masks, any float dtype; C = 1 is a sigmoid, more a softmax.
    `labels` (N,) or (N, H, W) integers in 0..C-1 (0..1 for C = 1). `where`, shaped like `labels`, chooses the items;
    with `boundary_band` the fit is made where a segmentation is in doubt. The logits must come from data that
    neither trained the network nor test it. Newton's method on the derivative, kept inside a bracket, to float64
    precision. Raises `ConfigError` for shapes, labels and values that do not fit, and where no finite temperature is
    best: the logits separate these labels without an error, or are no better than none.
    """
    rows, truth = _rows(logits, labels, where)
    derivative = _sigmoid_derivative(rows[:, 0], truth) if rows.shape[1] == 1 else _softmax_derivative(rows, truth)
    inverse = _root(derivative, 1 / _LARGEST, _LARGEST)
    return TemperatureFit(
        temperature=1 / inverse,
        nll_before=_mean_nll(rows, truth),
        nll_after=_mean_nll(rows * inverse, truth),
        n=len(rows),
    )


def negative_log_likelihood(
    logits: npt.NDArray[np.floating[Any]],
    labels: npt.NDArray[Any],
    *,
    temperature: float = 1.0,
    where: npt.NDArray[np.bool_] | None = None,
) -> float:
    """Mean negative log-likelihood in nats of `labels` under `logits / temperature`; arguments and errors as in
    `fit_temperature`."""
    _check_temperature(temperature)
    rows, truth = _rows(logits, labels, where)
    return _mean_nll(rows / temperature, truth)


def scaled_probabilities(logits: npt.NDArray[np.floating[Any]], temperature: float = 1.0) -> npt.NDArray[np.float32]:
    """Probabilities of `logits` (N, C, ...) at `temperature`, same shape: the sigmoid for C = 1, else the softmax over
    axis 1. Raises `ConfigError` for a temperature that is not positive and finite."""
    _check_temperature(temperature)
    if logits.ndim < 2:
        raise ConfigError(f"logits have shape {logits.shape}; (N, C) or (N, C, H, W) is needed")
    z = np.asarray(logits, np.float32) / np.float32(temperature)
    if z.shape[1] == 1:
        small = np.exp(-np.abs(z))  # the sigmoid without overflow
        p: npt.NDArray[np.float32] = np.where(z >= 0, 1 / (1 + small), small / (1 + small))
    else:
        weights = np.exp(z - z.max(axis=1, keepdims=True))
        p = weights / weights.sum(axis=1, keepdims=True)
    return p


def _check_temperature(temperature: float) -> None:
    if not 0 < temperature < float("inf"):
        raise ConfigError(f"temperature is {temperature}; a positive, finite number is needed")


def _rows(
    logits: npt.NDArray[np.floating[Any]], labels: npt.NDArray[Any], where: npt.NDArray[np.bool_] | None
) -> tuple[Floats, npt.NDArray[np.int64]]:
    """(M, C) float64 logits and (M,) labels of the chosen items; everything is checked here."""
    if logits.ndim < 2 or labels.shape != (logits.shape[0], *logits.shape[2:]):
        raise ConfigError(
            f"logits have shape {logits.shape} and labels {labels.shape}; (N, C) with (N,), or (N, C, H, W) with "
            "(N, H, W), is needed"
        )
    if labels.dtype.kind not in "biu":
        raise ConfigError(f"labels are {labels.dtype}; integers are needed")
    if where is not None and (where.shape != labels.shape or where.dtype != np.bool_):
        raise ConfigError(f"where is {where.dtype} {where.shape}; bool {labels.shape}, as the labels, is needed")
    chosen = np.ones(labels.shape, np.bool_) if where is None else where
    rows = np.moveaxis(logits, 1, -1)[chosen].astype(np.float64)
    truth = labels[chosen].astype(np.int64)
    if not len(rows):
        raise ConfigError("no items are chosen; at least one pixel or frame is needed")
    if not np.isfinite(rows).all():
        raise ConfigError(f"{int((~np.isfinite(rows)).sum())} of {rows.size} logits are NaN or infinite")
    top = max(1, rows.shape[1] - 1)
    if truth.min() < 0 or truth.max() > top:
        raise ConfigError(f"labels span {truth.min()} to {truth.max()}; 0 to {top} are allowed for these logits")
    return rows, truth


def _mean_nll(rows: Floats, truth: npt.NDArray[np.int64]) -> float:
    if rows.shape[1] == 1:
        return float(np.logaddexp(0.0, np.where(truth == 1, -rows[:, 0], rows[:, 0])).mean())
    top = rows.max(axis=1)
    partition = top + np.log(np.exp(rows - top[:, None]).sum(axis=1))
    return float((partition - rows[np.arange(len(rows)), truth]).mean())


Derivative = Callable[[float], tuple[float, float]]


def _sigmoid_derivative(z: Floats, truth: npt.NDArray[np.int64]) -> Derivative:
    """b -> first and second derivative of the mean negative log-likelihood of sigmoid(b z)."""

    def derivative(b: float) -> tuple[float, float]:
        p = 0.5 * (1 + np.tanh(0.5 * b * z))
        return float((z * (p - truth)).mean()), float((z * z * p * (1 - p)).mean())

    return derivative


def _softmax_derivative(z: Floats, truth: npt.NDArray[np.int64]) -> Derivative:
    """b -> the same of softmax(b z): mean of E[z] - z_truth, and mean of Var[z] under the softmax."""
    own = z[np.arange(len(z)), truth]
    shifted = z - z.max(axis=1, keepdims=True)

    def derivative(b: float) -> tuple[float, float]:
        weights = np.exp(b * shifted)
        weights /= weights.sum(axis=1, keepdims=True)
        mean = (weights * z).sum(axis=1)
        return float((mean - own).mean()), float(((weights * z * z).sum(axis=1) - mean**2).mean())

    return derivative


def _root(derivative: Derivative, low: float, high: float) -> float:
    """The b in [low, high] at which the rising `derivative` is 0: Newton's steps, or halves where they leave it."""
    if derivative(high)[0] <= 0:
        raise ConfigError(
            f"no temperature down to {1 / high:g} is best: the logits separate these labels without an error. "
            "Fit on more data, or on the pixels near the boundary"
        )
    if derivative(low)[0] >= 0:
        raise ConfigError(
            f"no temperature up to {1 / low:g} is best: the logits say less about these labels than none would. "
            "Check that logits and labels belong together"
        )
    b = 1.0
    for _ in range(_ITERATIONS):
        slope, curvature = derivative(b)
        low, high = (b, high) if slope < 0 else (low, b)
        step = slope / curvature if curvature > 0 else float("inf")
        if min(abs(step), high - low) <= 1e-13 * b:
            return b
        b = b - step if low < b - step < high else 0.5 * (low + high)
    return b
