"""Does withholding what is uncertain lower the error? Risk-coverage curves, and one uncertainty for a whole frame.

El-Yaniv and Wiener (JMLR 2010) for the curve; Geifman and El-Yaniv (NeurIPS 2017) for the area under it; Geifman,
Uziel and El-Yaniv (ICLR 2019) for its excess over the best order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ConfigError

__all__ = [
    "COVERAGES",
    "FrameScore",
    "RiskCoverage",
    "dice_risk",
    "falls_monotonically",
    "frame_uncertainty",
    "risk_coverage",
    "spearman",
]

COVERAGES = (1.0, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5)
FrameScore = Literal["area", "boundary"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class RiskCoverage:
    """`risk[k]` is the mean loss of the `coverage[k]` share of `n` items of least uncertainty, in the unit of the loss.

    `aurc` is the mean risk over all coverages 1/n .. 1 of this order, `aurc_best` of the order by the loss itself;
    a random order has the risk at coverage 1 everywhere. `gain` is the share of that way which the order goes: 1 as
    good as knowing the losses, 0 as good as chance, negative worse.
    """

    coverage: tuple[float, ...]
    risk: tuple[float, ...]
    aurc: float
    aurc_best: float
    gain: float
    n: int


def risk_coverage(
    uncertainty: npt.NDArray[Any], loss: npt.NDArray[Any], *, coverages: Sequence[float] = COVERAGES
) -> RiskCoverage:
    """The risk of keeping the least uncertain of n items, pixels (loss 0 or 1) or frames (1 - Dice).

    `uncertainty` and `loss` (n,) numbers; any increasing change of the uncertainty gives the same curve. Items of
    equal uncertainty are kept or withheld in random order, and the curve is the expectation over it. Raises
    `ConfigError` for shapes that differ, nothing in them, NaN or infinity, and coverages outside (0, 1].
    """
    u, values = _pair(uncertainty, loss)
    wanted = np.asarray(coverages, np.float64)
    if wanted.size == 0 or not ((wanted > 0) & (wanted <= 1)).all():
        raise ConfigError(f"coverages are {list(coverages)}; shares in (0, 1] are allowed")
    n = len(u)
    risks = _cumulative(u, values) / np.arange(1, n + 1)
    best = _cumulative(values, values) / np.arange(1, n + 1)
    kept = np.maximum(1, np.rint(wanted * n).astype(np.int64))
    aurc, aurc_best, whole = float(risks.mean()), float(best.mean()), float(risks[-1])
    way = whole - aurc_best
    return RiskCoverage(
        coverage=tuple(wanted.tolist()),
        risk=tuple(risks[kept - 1].tolist()),
        aurc=aurc,
        aurc_best=aurc_best,
        gain=(whole - aurc) / way if way > 0 else 0.0,
        n=n,
    )


def _pair(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> tuple[Floats, Floats]:
    if a.ndim != 1 or a.shape != b.shape or not a.size:
        raise ConfigError(f"uncertainty and loss have shapes {a.shape} and {b.shape}; equal (n,), n > 0, are needed")
    first, second = a.astype(np.float64), b.astype(np.float64)
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ConfigError("uncertainty or loss holds NaN or infinity; finite numbers are needed")
    return first, second


def _cumulative(order: Floats, values: Floats) -> Floats:
    """(n,) expected sums of the k least by `order`, equals in random order: straight lines across a group of equals."""
    levels, group = np.unique(order, return_inverse=True)
    sizes = np.bincount(group, minlength=len(levels))
    sums = np.bincount(group, weights=values, minlength=len(levels))
    ends = np.concatenate([[0], np.cumsum(sizes)])
    expected: Floats = np.interp(np.arange(1, len(order) + 1), ends, np.concatenate([[0.0], np.cumsum(sums)]))
    return expected


def falls_monotonically(risk: Sequence[float], *, tolerance: float = 0.0) -> bool:
    """Whether `risk`, from full coverage down, never rises by more than `tolerance`, and ends below its start."""
    steps = np.diff(np.asarray(risk, np.float64))
    if not len(steps):
        raise ConfigError(f"{len(risk)} risks; at least 2 are needed")
    return bool((steps <= tolerance).all() and risk[-1] < risk[0])


def dice_risk(predicted: npt.NDArray[np.bool_], truth: npt.NDArray[np.bool_], kept: npt.NDArray[np.bool_]) -> float:
    """1 - Dice over the `kept` pixels alone, all three (..., H, W) bool and pooled; 0 when neither mask is left."""
    if not predicted.shape == truth.shape == kept.shape:
        raise ConfigError(f"shapes are {predicted.shape}, {truth.shape} and {kept.shape}; equal ones are needed")
    both = int((predicted & truth & kept).sum())
    size = int((predicted & kept).sum()) + int((truth & kept).sum())
    return 1 - 2 * both / size if size else 0.0


def frame_uncertainty(
    uncertainty: npt.NDArray[np.floating[Any]], predicted: npt.NDArray[Any], per: FrameScore = "area"
) -> Floats:
    """(N,) one number a frame: the sum of `uncertainty` (N, H, W) over its pixels, per pixel of the predicted mask.

    `predicted` (N, H, W) is non-zero inside. "area" divides by the mask's pixels: of a calibrated error probability
    that is the expected number of wrong pixels over the mask's size, which 1 - Dice grows with. "boundary" divides by
    the number of pixel edges of the mask's outline: the mean width in pixels of the uncertain border. An empty
    mask counts as one pixel, so a frame in which nothing is found, but much is doubted, is the most uncertain.
    Raises `ConfigError` for shapes that differ and for another `per`.
    """
    if per not in get_args(FrameScore):
        raise ConfigError(f"per is {per!r}; {', '.join(get_args(FrameScore))} are allowed")
    if uncertainty.ndim != 3 or uncertainty.shape != predicted.shape:
        raise ConfigError(
            f"uncertainty is {uncertainty.shape}, the masks {predicted.shape}; equal (N, H, W) are needed"
        )
    inside = predicted != 0
    size = inside.sum(axis=(1, 2)) if per == "area" else _outline(inside)
    total: Floats = uncertainty.sum(axis=(1, 2), dtype=np.float64) / np.maximum(size, 1)
    return total


def _outline(inside: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """(N,) edges between a pixel inside and one outside, beyond the image being outside."""
    padded = np.pad(inside, ((0, 0), (1, 1), (1, 1)))
    across = (padded[:, :, 1:] != padded[:, :, :-1]).sum(axis=(1, 2))
    down = (padded[:, 1:] != padded[:, :-1]).sum(axis=(1, 2))
    return np.asarray(across + down, np.int64)


def spearman(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> float:
    """Spearman's rank correlation of two (n,) series, equals sharing their mean rank; NaN when one is constant.

    Spearman, American Journal of Psychology 15 (1904). Raises `ConfigError` as `risk_coverage`.
    """
    from scipy.stats import rankdata

    first, second = (rankdata(values) for values in _pair(a, b))
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return float("nan")
    return float(np.corrcoef(first, second)[0, 1])
