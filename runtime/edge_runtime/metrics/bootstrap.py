"""Bootstrap intervals: of a mean, of any statistic of items, and of paired differences, by groups where items of one
patient or exam belong together.

Percentile and bias-corrected accelerated (BCa) intervals after Efron, "Better bootstrap confidence intervals", JASA 82
(1987). With groups, whole groups are drawn (Davison and Hinkley 1997, section 3.8).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ConfigError

__all__ = ["Interval", "bootstrap_mean", "bootstrap_statistic", "paired_difference"]

Method = Literal["percentile", "bca"]
Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]
Groups = Sequence[Hashable] | npt.NDArray[Any] | None
_BLOCK = 1 << 22  # drawn group numbers at a time: 32 MB


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """`value` of the statistic on the items as they are, and its interval `low` to `high` at `level` (0.95).

    `n` items in `groups` groups were drawn `resamples` times. `low` and `high` are NaN for fewer than 2 groups.
    """

    value: float
    low: float
    high: float
    level: float
    n: int
    groups: int
    resamples: int

    @property
    def excludes_zero(self) -> bool:
        """Whether the whole interval lies on one side of 0."""
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        return f"{self.value:.4g} ({100 * self.level:g} % interval {self.low:.4g} to {self.high:.4g}, n {self.n})"


def bootstrap_mean(
    values: npt.NDArray[Any],
    *,
    groups: Groups = None,
    resamples: int = 4000,
    level: float = 0.95,
    method: Method = "bca",
    seed: int = 0,
) -> Interval:
    """The mean of (N,) values with its interval; all resamples at once.

    Args:
        values: finite numbers, one an item.
        groups: (N,) keys; items of one key are drawn together. None: every item for itself.
        resamples: how often the groups are drawn with replacement, as many as there are.
        level: share of resamples inside, 0 to 1.
        method: "bca" or "percentile".
        seed: same seed, same interval.

    Raises:
        ConfigError: no values, values that are not finite, unequal lengths, settings out of range.
    """
    items = _finite(values)
    members = _members(len(items), groups)
    sums = np.array([items[m].sum() for m in members])
    sizes = np.array([len(m) for m in members], np.float64)
    _check(resamples, level, method)
    drawn = np.empty(resamples)
    rng = np.random.default_rng(seed)
    step = max(1, _BLOCK // len(members))
    for start in range(0, resamples, step):
        picks = rng.integers(len(members), size=(min(step, resamples - start), len(members)))
        drawn[start : start + step] = sums[picks].sum(axis=1) / sizes[picks].sum(axis=1)
    value = float(items.mean())
    without = np.empty(0)
    if len(members) > 1:
        without = (sums.sum() - sums) / (sizes.sum() - sizes)
    return _interval(value, drawn, without, len(items), len(members), level, method)


def bootstrap_statistic(
    statistic: Callable[[Indices], float],
    n: int,
    *,
    groups: Groups = None,
    resamples: int = 2000,
    level: float = 0.95,
    method: Method = "percentile",
    seed: int = 0,
) -> Interval:
    """The interval of any statistic of `n` items: `statistic` gets the (k,) indices drawn, repeats included.

    Resamples in which the statistic is NaN (an AUROC of one class alone) are left out; `resamples` of the interval says
    how many counted. "bca" calls the statistic once more for every group left out. The other arguments, and errors,
    as `bootstrap_mean`.
    """
    members = _members(n, groups)
    _check(resamples, level, method)
    rng = np.random.default_rng(seed)
    value = float(statistic(np.arange(n, dtype=np.intp)))
    drawn = np.empty(resamples)
    for i in range(resamples):
        picks = rng.integers(len(members), size=len(members))
        drawn[i] = statistic(np.concatenate([members[k] for k in picks]))
    without = np.empty(0)
    if method == "bca" and len(members) > 1:
        kept = (np.concatenate(members[:k] + members[k + 1 :]) for k in range(len(members)))
        without = np.array([statistic(np.sort(indices)) for indices in kept])
    return _interval(value, drawn, without, n, len(members), level, method)


def paired_difference(
    a: npt.NDArray[Any],
    b: npt.NDArray[Any],
    *,
    groups: Groups = None,
    resamples: int = 4000,
    level: float = 0.95,
    method: Method = "bca",
    seed: int = 0,
) -> Interval:
    """The mean of a - b over the same (N,) items, as `bootstrap_mean` of the differences."""
    if a.shape != b.shape:
        raise ConfigError(f"pairs of shapes {a.shape} and {b.shape}; one value of each an item is needed")
    difference = a.astype(np.float64) - b.astype(np.float64)
    return bootstrap_mean(difference, groups=groups, resamples=resamples, level=level, method=method, seed=seed)


def _finite(values: npt.NDArray[Any]) -> Floats:
    if values.ndim != 1:
        raise ConfigError(f"values of shape {values.shape} for a bootstrap; (N,) is needed, one value an item")
    items: Floats = values.astype(np.float64)
    if not np.isfinite(items).all():
        bad = int(np.flatnonzero(~np.isfinite(items))[0])
        raise ConfigError(f"value {bad} is {items[bad]}; give only finite values, and say how many were left out")
    return items


def _members(n: int, groups: Groups) -> list[Indices]:
    """The item indices of every group, groups in order of first appearance."""
    if n < 1:
        raise ConfigError("no items for a bootstrap; at least 1 is needed")
    if groups is None:
        return [np.array([i], np.intp) for i in range(n)]
    if len(groups) != n:
        raise ConfigError(f"{len(groups)} group keys for {n} items; one each is needed")
    found: dict[Hashable, list[int]] = {}
    for i, key in enumerate(groups):
        found.setdefault(key, []).append(i)
    return [np.array(indices, np.intp) for indices in found.values()]


def _check(resamples: int, level: float, method: str) -> None:
    if resamples < 1 or not 0 < level < 1 or method not in ("percentile", "bca"):
        raise ConfigError(
            f"a bootstrap of {resamples} resamples at level {level} by {method!r}; at least 1, a level between 0 and 1 "
            "and 'percentile' or 'bca' are needed"
        )


def _interval(
    value: float, drawn: Floats, without: Floats, n: int, groups: int, level: float, method: Method
) -> Interval:
    kept = drawn[~np.isnan(drawn)]
    low = high = math.nan
    if groups > 1 and len(kept):
        shares = ((1 - level) / 2, (1 + level) / 2)
        if method == "bca":
            shares = _bca_shares(value, kept, without, shares)
        low, high = (float(q) for q in np.quantile(kept, shares))
    return Interval(value=value, low=low, high=high, level=level, n=n, groups=groups, resamples=len(kept))


def _bca_shares(value: float, drawn: Floats, without: Floats, shares: tuple[float, float]) -> tuple[float, float]:
    """Efron's equation 6.8: the shares corrected for bias z0 and acceleration a (jackknife, equation 6.6).

    Resamples equal to the value count half for z0, so that a statistic of few values is not taken as biased.
    """
    normal = NormalDist()
    n = len(drawn)
    below = (np.count_nonzero(drawn < value) + np.count_nonzero(drawn <= value)) / (2 * n)
    z0 = normal.inv_cdf(min(max(below, 0.5 / n), 1 - 0.5 / n))
    known = without[~np.isnan(without)]
    apart = known.mean() - known if len(known) else known
    spread = float((apart**2).sum()) ** 1.5
    a = float((apart**3).sum()) / (6 * spread) if spread > 0 else 0.0

    def corrected(share: float) -> float:
        z = z0 + normal.inv_cdf(share)
        return normal.cdf(z0 + z / (1 - a * z))

    return corrected(shares[0]), corrected(shares[1])
