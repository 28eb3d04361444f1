"""What the compression audit finds in a test split of 55 images: a planted harm, and nothing where there is none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

import numpy as np
import numpy.typing as npt

from benchmarks.distill.cases import HC18
from benchmarks.distill.stored import load_records
from benchmarks.figures import Figure
from edge_runtime.errors import ConfigError
from edge_sdk.evaluate import AuditConfig, audit, levels_of

__all__ = ["measure_audit_power"]

N = 55
RESAMPLINGS = 200
HARM = 0.05
SIZES = (6, 11, 18)
SYSTEMS = ("student", "fp16", "int8")
CONFIG = AuditConfig(permutations=2000)
Floats = npt.NDArray[np.float64]
Columns = Mapping[str, list[float]]
World = Callable[[np.random.Generator], dict[str, Floats]]


def measure_audit_power() -> list[Figure]:
    """False flags and detection rates with simulated losses, and with the stored students' own."""
    figures = _figures("simulated losses", _simulated, _plain_columns)
    try:
        losses, columns = _stored_losses(), _real_columns()
    except ConfigError as error:
        missing = [_unmeasured("false", str(error)), _unmeasured("found", str(error))]
        return [*figures, *missing]
    return [*figures, *_figures("stored students' losses", lambda rng: _drawn(rng, losses), lambda _: columns)]


def _unmeasured(kind: str, reason: str) -> Figure:
    name, goal = _NAMES[kind]
    return Figure(
        name=f"{name} (stored students' losses)", value=None, goal=goal, unit="%", n=0, met=None, reason=reason
    )


_NAMES = {
    "false": ("any false flag, nothing planted", "<= 5 %"),
    "found": (f"5 points planted in one band of three, {N} images", "flagged (>= 95 %)"),
    "sizes": ("5 points planted in a group of", "reported"),
}


def _figures(label: str, world: World, columns_of: Callable[[np.random.Generator], Columns]) -> list[Figure]:
    false = found = 0
    detectable = []
    sizes = dict.fromkeys(SIZES, 0)
    for seed in range(RESAMPLINGS):
        rng = np.random.default_rng(seed)
        scores, columns = world(rng), columns_of(rng)
        false += bool(audit(scores, columns, reference="teacher", config=CONFIG).flagged)
        name = sorted(columns)[seed % len(columns)]
        levels = levels_of(columns[name], CONFIG.bands)
        level = sorted(set(levels))[seed % len(set(levels))]
        hit = np.array([each == level for each in levels])
        result = audit(_harmed(scores, hit), columns, reference="teacher", config=CONFIG)
        finding = next(f for f in result.findings if (f.system, f.column, f.level) == ("int8", name, level))
        found += finding.flagged
        detectable.append(np.nan if finding.detectable is None else finding.detectable)
        for size in sizes if label.startswith("simulated") else ():
            hit = rng.permutation(N) < size
            site: dict[str, list[float] | list[str]] = {
                **columns,
                "site": ["small" if inside else "other" for inside in hit],
            }
            result = audit(_harmed(scores, hit), site, reference="teacher", config=CONFIG)
            sizes[size] += any(f.flagged and (f.system, f.level) == ("int8", "small") for f in result.findings)
    spread = f"{RESAMPLINGS} resamplings, {len(SYSTEMS)} systems x {len(columns)} columns in {CONFIG.bands} bands"
    power = f"detectable excess stated: median {100 * float(np.nanmedian(detectable)):.1f} points"
    figures = [_share("false", label, false, false / RESAMPLINGS <= 0.05, spread)]
    figures.append(_share("found", label, found, found / RESAMPLINGS >= 0.95, power))
    if label.startswith("simulated"):
        figures += [_share("sizes", label, hits, None, spread, f" {size}") for size, hits in sizes.items()]
    return figures


def _share(kind: str, label: str, count: int, met: bool | None, spread: str, more: str = "") -> Figure:
    name, goal = _NAMES[kind]
    return Figure(
        name=f"{name}{more} ({label})",
        value=100 * count / RESAMPLINGS,
        goal=goal,
        unit="%",
        n=RESAMPLINGS,
        met=met,
        spread=spread,
    )


def _harmed(scores: Mapping[str, Floats], hit: npt.NDArray[np.bool_]) -> dict[str, Floats]:
    return {**scores, "int8": np.clip(scores["int8"] - HARM * hit, 0, 1)}


def _simulated(rng: np.random.Generator) -> dict[str, Floats]:
    """Dice around 0.975 with a long tail; losses of 0.3 points with t noise of 3 degrees of freedom, and one image in
    25 lost by 5 points more; int8 and fp16 lose what the student loses and a little of their own."""
    teacher = 1 - np.minimum(0.5, rng.lognormal(np.log(0.022), 0.6, N))
    loss = 0.003 + 0.004 * rng.standard_t(3, N) + np.where(rng.random(N) < 0.04, rng.exponential(0.05, N), 0)
    own = {"student": 0.0, "fp16": 1e-5, "int8": 1e-3}
    return {"teacher": teacher, **{k: np.clip(teacher - loss - s * rng.standard_t(3, N), 0, 1) for k, s in own.items()}}


def _plain_columns(rng: np.random.Generator) -> Columns:
    return {name: rng.normal(size=N).tolist() for name in ("brightness", "pixel_size", "anatomy_size")}


def _stored_losses() -> Floats:
    """(M,) losses of the stored students, all images of all seeds."""
    records = load_records(HC18.name)
    return np.concatenate([record.array("teacher.dice") - record.array("student.dice") for record in records])


@cache
def _real_columns() -> Columns:
    """Columns in which every band can be tested; all but two of the images have one width and height."""
    images = HC18.read("test")
    found = {name: images.facts[name].tolist() for name in ("pixel_size_mm", "head_circumference_mm")}
    found["brightness"] = [float(frame.image.mean()) for frame in images.labelled.frames]
    return found


def _drawn(rng: np.random.Generator, losses: Floats) -> dict[str, Floats]:
    """55 losses drawn from the stored ones, so that they belong to no subgroup; their tails are real."""
    n = len(next(iter(_real_columns().values())))
    loss = rng.choice(losses, n)
    own = {"student": 0.0, "fp16": 1e-5, "int8": 1e-3}
    return {"teacher": np.full(n, 0.97), **{k: 0.97 - loss - s * rng.standard_t(3, n) for k, s in own.items()}}
