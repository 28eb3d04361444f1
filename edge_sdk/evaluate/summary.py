"""Means with bootstrap intervals over images or whole exams, and paired differences between systems.

Percentile intervals (Efron and Tibshirani 1993, chapter 13) of the ratio of sums over clusters drawn with replacement:
images of one exam stay together. Every metric and system uses the same draws, so differences are paired.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ConfigError
from edge_sdk.evaluate.config import METRICS
from edge_sdk.evaluate.result import Difference, ImageScores, Interval, Summary

__all__ = ["ClusterBootstrap", "cluster_names", "differences", "summaries", "values_of"]

Floats = npt.NDArray[np.float64]
_SHOWN = (*METRICS, "quantity")


class ClusterBootstrap:
    """`draws` resamplings of the clusters (N names, one an image); `seed` fixes them."""

    def __init__(self, clusters: Sequence[str], *, draws: int = 4000, seed: int = 0) -> None:
        names, self._of = np.unique(np.asarray(clusters, dtype=str), return_inverse=True)
        self.clusters = len(names)
        rng = np.random.default_rng(seed)
        n = self.clusters
        self._weights = rng.multinomial(n, np.full(n, 1 / n), size=draws).astype(np.float64) if n else np.empty((0, 0))

    def interval(self, values: Floats, level: float = 0.95) -> tuple[float, float] | None:
        """Ends of the interval of the mean of (N,) values, NaN ones left out; None for fewer than two clusters."""
        known = np.isfinite(values)
        sums = np.bincount(self._of[known], values[known], minlength=self.clusters)
        counts = np.bincount(self._of[known], minlength=self.clusters).astype(np.float64)
        if (counts > 0).sum() < 2:
            return None
        drawn = self._weights @ counts
        kept = drawn > 0
        means = (self._weights @ sums)[kept] / drawn[kept]
        low, high = np.quantile(means, ((1 - level) / 2, (1 + level) / 2))
        return float(low), float(high)


def summaries(rows: Sequence[ImageScores], *, draws: int, seed: int) -> list[Summary]:
    """One `Summary` for each cohort and system, in the order of `rows`; clusters are the rows' groups."""
    found = []
    for cohort in _in_order(row.cohort for row in rows):
        inside = [row for row in rows if row.cohort == cohort]
        for system in _in_order(row.system for row in inside):
            mine = [row for row in inside if row.system == system]
            bootstrap = ClusterBootstrap(cluster_names(mine), draws=draws, seed=seed)
            metrics = {}
            for metric in _SHOWN:
                values = values_of(mine, metric)
                if np.isfinite(values).any():
                    metrics[metric] = _interval(values, bootstrap, larger_is_better=METRICS.get(metric, True))
            missed = sum(row.missed for row in mine)
            found.append(Summary(system=system, cohort=cohort, images=len(mine), missed=missed, metrics=metrics))
    return found


def differences(
    rows: Sequence[ImageScores], *, draws: int, seed: int, metrics: Sequence[str] = ("dice", "hd95", "quantity_error")
) -> list[Difference]:
    """Every pair of systems on every cohort, the one that comes later minus the earlier; `ConfigError` when two
    systems were scored on different images."""
    found = []
    for cohort in _in_order(row.cohort for row in rows):
        inside = [row for row in rows if row.cohort == cohort]
        by_system = {
            name: [row for row in inside if row.system == name] for name in _in_order(r.system for r in inside)
        }
        for first, second in combinations(by_system, 2):
            a, b = by_system[first], by_system[second]
            if [row.image for row in a] != [row.image for row in b]:
                raise ConfigError(f"cohort {cohort!r}: {first} and {second} were scored on different images")
            bootstrap = ClusterBootstrap(cluster_names(a), draws=draws, seed=seed)
            for metric in metrics:
                values = values_of(b, metric) - values_of(a, metric)
                known = np.isfinite(values)
                if known.any():
                    ends = bootstrap.interval(values)
                    found.append(
                        Difference(
                            cohort=cohort,
                            first=first,
                            second=second,
                            metric=metric,
                            mean=float(values[known].mean()),
                            low=ends[0] if ends else None,
                            high=ends[1] if ends else None,
                            n=int(known.sum()),
                        )
                    )
    return found


def values_of(rows: Sequence[ImageScores], metric: str) -> Floats:
    """(N,) a metric of each row, NaN where it is not defined."""
    found = [row.values.get(metric) for row in rows]
    return np.array([np.nan if value is None else value for value in found], np.float64)


def cluster_names(rows: Sequence[ImageScores]) -> list[str]:
    """What is resampled together: the group, or the image itself where none is known."""
    return [f"group {row.group}" if row.group else f"image {row.cohort}/{row.image}" for row in rows]


def _in_order(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _interval(values: Floats, bootstrap: ClusterBootstrap, *, larger_is_better: bool) -> Interval:
    known = values[np.isfinite(values)]
    ends = bootstrap.interval(values)
    return Interval(
        mean=float(known.mean()),
        low=ends[0] if ends else None,
        high=ends[1] if ends else None,
        n=len(known),
        std=float(known.std()),
        median=float(np.median(known)),
        worst=float(known.min() if larger_is_better else known.max()),
    )
