"""Compression audit: does a smaller model lose more in one subgroup than in the rest?

For a system, a subgroup g and its rest r the quantity is a difference in differences: the mean paired loss (reference
minus system, image by image, so that hard images cancel) inside g minus that outside. It is tested one-sidedly against
a margin by a permutation of the studentised (Welch) statistic, which is exact when losses do not depend on the
subgroup and holds asymptotically when only their spread does (Janssen, Stat. Probab. Lett. 36, 1997; Chung and Romano,
Ann. Stat. 41, 2013). All tests of all systems and columns are one family, corrected by Holm (Scand. J. Stat. 6, 1979).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ConfigError
from edge_sdk.evaluate.bands import levels_of
from edge_sdk.evaluate.config import METRICS, AuditConfig

__all__ = ["Audit", "Finding", "audit", "holm"]

Floats = npt.NDArray[np.float64]
_CHUNK = 2000


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One system in one subgroup.

    `reference` and `score` are mean scores of the group's images, `loss` the mean paired loss per unit (positive:
    worse than the reference), `rest_loss` that outside, `excess` their difference with its 95 % interval `low` to
    `high` (not corrected for the number of groups; None where losses are so equal that it has no end), `worst` the
    largest loss of one image; all in the metric's own unit. `p` is one-sided, `p_holm` corrected. `detectable` is the
    smallest excess that would be flagged with the stated power in a group of this size and spread, None when none
    would be. A group that is too small has `reason` set and no test.
    """

    system: str
    column: str
    level: str
    images: int
    units: int
    rest_units: int
    reference: float
    score: float
    loss: float
    rest_loss: float | None = None
    excess: float | None = None
    low: float | None = None
    high: float | None = None
    worst: float = 0.0
    p: float | None = None
    p_holm: float | None = None
    detectable: float | None = None
    flagged: bool = False
    reason: str = ""


class Audit(msgspec.Struct, frozen=True, kw_only=True):
    """All findings, and the family that they were corrected in: `tests` of them, `permutations` each."""

    reference: str
    metric: str
    alpha: float
    margin: float
    power: float
    min_group: int
    unit: str
    tests: int
    permutations: int
    findings: tuple[Finding, ...]

    @property
    def flagged(self) -> tuple[Finding, ...]:
        """The findings that lose significantly more than the rest."""
        return tuple(finding for finding in self.findings if finding.flagged)


@dataclass(frozen=True, slots=True)
class _Cell:
    """A column's units: (exam, level) pairs, or images; `of` (N,) is the unit of each image."""

    column: str
    level_of: tuple[str, ...]
    of: npt.NDArray[np.intp]
    levels: tuple[str, ...]


def audit(
    scores: Mapping[str, Sequence[float] | Floats],
    columns: Mapping[str, Sequence[str | float | None] | Sequence[float] | Sequence[str]],
    *,
    reference: str,
    clusters: Sequence[str] | None = None,
    config: AuditConfig | None = None,
) -> Audit:
    """Audit every system of `scores` (N values each, in the metric of `config`) against `reference`.

    `columns` holds N values by column name; see `levels_of` for how they become groups. With `clusters` (N exam or
    patient names) the units that are averaged and permuted are the images of one exam in one group. Every
    system has the same permutations. Raises `ConfigError` for lengths that differ, values that are not finite, and a
    reference that is not there.
    """
    config = config or AuditConfig()
    losses, truth = _losses(scores, reference, config)
    n = len(truth)
    _check(columns, clusters, n)
    cells = [_cells(name, values, clusters, config.bands) for name, values in columns.items()]
    plan = [(system, cell, level) for system in losses for cell in cells for level in cell.levels]
    sizes = [(_count(cell, level), len(cell.level_of) - _count(cell, level)) for _, cell, level in plan]
    tests = sum(min(size) >= config.min_group for size in sizes)
    draws = _Relabellings(max(config.permutations, math.ceil(20 * tests / config.alpha)), config.seed)
    findings = []
    for (system, cell, level), size in zip(plan, sizes, strict=True):
        inside = np.array([cell.level_of[k] == level for k in cell.of])
        finding = _describe(system, cell, level, losses[system], truth, np.asarray(scores[system], float), inside, size)
        if min(size) >= config.min_group:
            finding = _tested(finding, losses[system], cell, config, draws, tests)
        else:
            few = "the group" if size[0] <= size[1] else "the rest"
            reason = f"{few} has {min(size)} units; {config.min_group} are needed for a test"
            finding = msgspec.structs.replace(finding, reason=reason)
        findings.append(finding)
    return Audit(
        reference=reference,
        metric=config.metric,
        alpha=config.alpha,
        margin=config.effective_margin,
        power=config.power,
        min_group=config.min_group,
        unit="image" if clusters is None else "exam within the group",
        tests=tests,
        permutations=draws.draws,
        findings=_corrected(findings, config.alpha),
    )


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p values, in the order given."""
    order = np.argsort(np.asarray(p, float), kind="stable")
    adjusted, running = [0.0] * len(p), 0.0
    for rank, k in enumerate(order):
        running = max(running, min(1.0, (len(p) - rank) * float(p[k])))
        adjusted[int(k)] = running
    return adjusted


def _losses(
    scores: Mapping[str, Sequence[float] | Floats], reference: str, config: AuditConfig
) -> tuple[dict[str, Floats], Floats]:
    if reference not in scores:
        raise ConfigError(f"reference {reference!r} is not among the systems {sorted(scores)}")
    arrays = {name: np.asarray(values, np.float64) for name, values in scores.items()}
    truth = arrays[reference]
    for name, values in arrays.items():
        if values.shape != truth.shape or values.ndim != 1 or not len(values):
            raise ConfigError(f"{name}: scores of shape {values.shape}, {reference}: {truth.shape}; equal (N,) needed")
        if not np.isfinite(values).all():
            bad = int(np.argmin(np.isfinite(values)))
            raise ConfigError(f"{name}: score {bad} is {values[bad]}; an audit needs a finite {config.metric} of each")
    sign = 1.0 if METRICS[config.metric] else -1.0
    return {name: sign * (truth - values) for name, values in arrays.items() if name != reference}, truth


def _check(columns: Mapping[str, Sequence[object]], clusters: Sequence[str] | None, n: int) -> None:
    for name, values in (*columns.items(), *((("clusters", clusters),) if clusters is not None else ())):
        if len(values) != n:
            raise ConfigError(f"{name} has {len(values)} values for {n} images; equal numbers are needed")


def _cells(name: str, values: Sequence[str | float | None], clusters: Sequence[str] | None, bands: int) -> _Cell:
    levels = levels_of(values, bands, name=name)
    keys = [(level, k if clusters is None else clusters[k]) for k, level in enumerate(levels)]
    units = {key: at for at, key in enumerate(dict.fromkeys(keys))}
    return _Cell(
        column=name,
        level_of=tuple(key[0] for key in units),
        of=np.array([units[key] for key in keys], np.intp),
        levels=tuple(sorted(set(levels), key=lambda level: _first_number(level))),
    )


def _first_number(level: str) -> tuple[float, str]:
    try:
        return float(level.split(" to ")[0]), level
    except ValueError:
        return math.inf, level


def _count(cell: _Cell, level: str) -> int:
    return sum(each == level for each in cell.level_of)


def _unit_means(losses: Floats, cell: _Cell) -> Floats:
    return np.asarray(np.bincount(cell.of, losses) / np.bincount(cell.of), np.float64)


def _describe(
    system: str,
    cell: _Cell,
    level: str,
    losses: Floats,
    truth: Floats,
    scores: Floats,
    inside: npt.NDArray[np.bool_],
    size: tuple[int, int],
) -> Finding:
    chosen = np.array([each == level for each in cell.level_of])
    return Finding(
        system=system,
        column=cell.column,
        level=level,
        images=int(inside.sum()),
        units=size[0],
        rest_units=size[1],
        reference=float(truth[inside].mean()),
        score=float(scores[inside].mean()),
        loss=float(_unit_means(losses, cell)[chosen].mean()),
        worst=float(losses[inside].max()),
    )


def _tested(
    finding: Finding, losses: Floats, cell: _Cell, config: AuditConfig, draws: _Relabellings, tests: int
) -> Finding:
    values = _unit_means(losses, cell)
    inside = np.array([each == finding.level for each in cell.level_of])
    ordered = np.concatenate([values[inside], values[~inside]])
    size = int(inside.sum())
    margin = config.effective_margin
    excess = float(ordered[:size].mean() - ordered[size:].mean())
    shift = np.where(np.arange(len(ordered)) < size, 1.0, 0.0)
    shifted = ordered - margin * shift
    null = draws.statistics(shifted - shifted.mean(), size)
    observed = _welch(shifted - shifted.mean(), size)
    p = (1 + int((null >= observed - 1e-9).sum())) / (draws.draws + 1)
    centred = ordered - ordered.mean() - excess * shift
    spread = draws.statistics(centred - centred.mean(), size)
    error = math.sqrt(_variance_of_contrast(ordered, size))
    low, high = (excess - _quantile(spread, q) * error if error else excess for q in (0.975, 0.025))
    return msgspec.structs.replace(
        finding,
        rest_loss=float(ordered[size:].mean()),
        excess=excess,
        low=low if math.isfinite(low) else None,
        high=high if math.isfinite(high) else None,
        p=p,
        detectable=_detectable(centred, size, spread, config, tests),
    )


def _welch(values: Floats, size: int) -> float:
    """The contrast of the first `size` of (U,) values against the others, over its standard error."""
    return float(_statistics(values[:size].sum(), (values[:size] ** 2).sum(), values, size))


def _statistics(total: Any, squares: Any, values: Floats, size: int) -> Floats:
    """Welch's statistic of groups of `size` out of `values` (U,) with these sums and sums of squares."""
    rest = len(values) - size
    other, other_squares = values.sum() - total, (values**2).sum() - squares
    contrast = total / size - other / rest
    variance = np.maximum(squares - total**2 / size, 0) / ((size - 1) * size)
    variance = variance + np.maximum(other_squares - other**2 / rest, 0) / ((rest - 1) * rest)
    flat = variance <= 1e-20
    t = contrast / np.sqrt(np.where(flat, 1.0, variance))
    return np.asarray(np.where(flat, np.where(np.abs(contrast) <= 1e-10, 0.0, np.copysign(np.inf, contrast)), t))


def _quantile(values: Floats, share: float) -> float:
    """The value that a share of `values` (infinite ones among them) does not exceed, one of the values itself."""
    return float(np.quantile(values, share, method="inverted_cdf"))


def _variance_of_contrast(values: Floats, size: int) -> float:
    return float(values[:size].var(ddof=1) / size + values[size:].var(ddof=1) / (len(values) - size))


class _Relabellings:
    """The same `draws` random orders of any number of units for all tests."""

    def __init__(self, draws: int, seed: int) -> None:
        self.draws = draws
        self._seed = seed
        self._orders: dict[int, npt.NDArray[np.uint32]] = {}

    def statistics(self, values: Floats, size: int) -> Floats:
        """(draws,) Welch statistics of groups of `size` drawn out of `values` (U,) without replacement."""
        orders = self._of(len(values))
        smaller = min(size, len(values) - size)
        sums, squares = np.empty(self.draws), np.empty(self.draws)
        for start in range(0, self.draws, _CHUNK):
            part = values[orders[start : start + _CHUNK, :smaller]]
            sums[start : start + _CHUNK] = part.sum(axis=1)
            squares[start : start + _CHUNK] = (part**2).sum(axis=1)
        found = _statistics(sums, squares, values, smaller)
        return found if smaller == size else -found

    def _of(self, n: int) -> npt.NDArray[np.uint32]:
        if n not in self._orders:
            rng = np.random.default_rng((self._seed, n))
            parts = [rng.random((min(_CHUNK, self.draws - k), n)) for k in range(0, self.draws, _CHUNK)]
            self._orders[n] = np.concatenate([part.argsort(axis=1).astype(np.uint32) for part in parts])
        return self._orders[n]


def _detectable(centred: Floats, size: int, spread: Floats, config: AuditConfig, tests: int) -> float | None:
    """Smallest excess that Holm's first, hardest step would find with the power asked for, by a normal approximation
    around the permutation's own critical value; None when even the rarest relabelling is not rare enough."""
    level = config.alpha / tests
    if 1 / math.comb(len(centred), size) > level:
        return None
    rest = len(centred) - size
    pooled = ((centred[:size].var() * size) + (centred[size:].var() * rest)) / (len(centred) - 2)
    critical = _quantile(spread, 1 - level)
    error = math.sqrt(pooled * (1 / size + 1 / rest))
    if not math.isfinite(critical):
        return None
    return config.effective_margin + (critical + NormalDist().inv_cdf(config.power)) * error


def _corrected(findings: Sequence[Finding], alpha: float) -> tuple[Finding, ...]:
    adjusted = iter(holm([finding.p for finding in findings if finding.p is not None]))
    done = []
    for finding in findings:
        if finding.p is not None:
            value = next(adjusted)
            finding = msgspec.structs.replace(finding, p_holm=value, flagged=value <= alpha)
        done.append(finding)
    return tuple(done)
