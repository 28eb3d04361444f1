"""Score systems on labelled images, summarise and audit."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edge_runtime.errors import ConfigError
from edge_sdk.evaluate.auditing import Audit, audit
from edge_sdk.evaluate.cases import COMPUTED, Case, computed_columns, read_case, read_cohort
from edge_sdk.evaluate.config import AuditConfig, CohortConfig, EvaluateConfig, QuantityConfig
from edge_sdk.evaluate.folds import grouped_folds
from edge_sdk.evaluate.measuring import Bins, measure
from edge_sdk.evaluate.result import SCHEMA, CohortFacts, Evaluation, ImageScores, SystemFacts
from edge_sdk.evaluate.summary import cluster_names, differences, summaries, values_of
from edge_sdk.evaluate.systems import System, open_systems
from edge_sdk.progress import Progress, ProgressEvent, ignore_progress

__all__ = ["audit_rows", "evaluate", "score_cases"]


def evaluate(config: EvaluateConfig, *, base: Path = Path(), progress: Progress = ignore_progress) -> Evaluation:
    """Run the whole evaluation of `config`; its paths are relative to `base`.

    Raises `ConfigError` naming the file for anything about data or settings that does not fit (before any network is
    loaded, as far as it can be known), `InferenceError` naming image and system for outputs that are not finite
    or of another shape, and what opening a bundle raises.
    """
    by_cohort = {c.name: read_cohort(c, base, group=config.group, quantity=config.quantity) for c in config.cohorts}
    cases = [case for group in by_cohort.values() for case in group]
    _check_columns(config, cases)
    cohorts = tuple(_cohort(item, by_cohort[item.name]) for item in config.cohorts)
    rows: list[ImageScores] = []
    bins: dict[str, Bins] = {}
    facts: list[SystemFacts] = []
    for fold, chosen in _folds(config, cases):
        with open_systems(config, base, fold=fold) as systems:
            reference = _reference(config, systems)
            part, more = score_cases(
                chosen,
                systems,
                border_px=config.border_px,
                quantity=config.quantity,
                columns=config.audit.columns if config.audit else (),
                progress=progress,
            )
            rows += part
            bins = {name: bins[name].plus(found) if name in bins else found for name, found in more.items()}
            facts = [_facts(system) for system in systems]
    place = {(case.cohort, case.name): at for at, case in enumerate(cases)}
    rows.sort(key=lambda row: place[row.cohort, row.image])
    found = audit_rows(rows, reference, config.audit) if config.audit and len(facts) > 1 else None
    return Evaluation(
        schema=SCHEMA,
        reference=reference,
        classes=config.classes,
        quantity=config.quantity.column if config.quantity else "",
        quantity_unit=config.quantity.unit if config.quantity else "",
        cohorts=cohorts,
        systems=tuple(facts),
        images=tuple(rows),
        summaries=tuple(summaries(rows, draws=config.bootstrap, seed=config.seed)),
        differences=tuple(differences(rows, draws=config.bootstrap, seed=config.seed)),
        reliability={name: _reliability(item) for name, item in bins.items()},
        border_px=config.border_px,
        bootstrap=config.bootstrap,
        audit=found,
    )


def score_cases(
    cases: Sequence[Case],
    systems: Sequence[System],
    *,
    border_px: float = 10.0,
    quantity: QuantityConfig | None = None,
    columns: Sequence[str] = (),
    progress: Progress = ignore_progress,
) -> tuple[list[ImageScores], dict[str, Bins]]:
    """One `ImageScores` for each case and system, case by case, and each system's reliability near the true borders.

    `columns` are those that the rows carry for an audit, from the manifest or computed. Errors as `evaluate`.
    """
    rows: list[ImageScores] = []
    bins: dict[str, Bins] = {}
    unit = {case.spacing is not None for case in cases} == {True}
    began = time.monotonic()
    for step, case in enumerate(cases, start=1):
        frame, labels = read_case(case, step - 1)
        own = computed_columns(case, frame, labels)
        if not unit and case.spacing is not None:  # sizes in mm beside sizes in pixels cannot be compared
            own = {name: None if name in ("anatomy_size", "depth", "anatomy_depth") else own[name] for name in own}
        held = {name: case.row[name] if name in case.row else own.get(name) for name in columns}
        for system in systems:
            if (top := int(labels.max())) > system.classes:
                raise ConfigError(f"{case.mask}: label {top}; system {system.name} knows 0 to {system.classes}")
            prediction = system(frame, file=str(case.image))
            measured = measure(prediction, labels, case, border_px=border_px, quantity=quantity)
            values = {name: None if math.isnan(value) else value for name, value in measured.values.items()}
            rows.append(
                ImageScores(
                    image=case.name,
                    cohort=case.cohort,
                    group=case.group,
                    system=system.name,
                    missed=measured.missed,
                    values=values,
                    columns=held,
                )
            )
            old = bins.get(system.name)
            bins[system.name] = measured.border if old is None else old.plus(measured.border)
        left = (time.monotonic() - began) / step * (len(cases) - step)
        progress(ProgressEvent(task="evaluate", step=step, total=len(cases), eta_s=left))
    return rows, bins


def audit_rows(rows: Sequence[ImageScores], reference: str, config: AuditConfig) -> Audit:
    """The audit of rows from `score_cases`; exams are the units when every row has a group."""
    names = list(dict.fromkeys(row.system for row in rows))
    mine = [row for row in rows if row.system == reference]
    scores = {name: values_of([row for row in rows if row.system == name], config.metric).tolist() for name in names}
    cohorts = {row.cohort for row in rows}
    wanted = [*config.columns, *(["cohort"] if len(cohorts) > 1 and "cohort" not in config.columns else [])]
    columns = {
        name: [row.cohort if name == "cohort" and name not in row.columns else row.columns.get(name) for row in mine]
        for name in wanted
    }
    clusters = cluster_names(mine) if all(row.group for row in mine) else None
    return audit(scores, columns, reference=reference, clusters=clusters, config=config)


def _check_columns(config: EvaluateConfig, cases: Sequence[Case]) -> None:
    if config.audit is None:
        return
    known = {name for case in cases for name in case.row} | set(COMPUTED)
    missing = [name for name in config.audit.columns if name not in known]
    if missing:
        raise ConfigError(f"audit: no column {missing[0]!r}; the manifests and images give {sorted(known)}")


def _folds(config: EvaluateConfig, cases: list[Case]) -> list[tuple[int | None, list[Case]]]:
    if not config.folds:
        return [(None, cases)]
    folds = grouped_folds([case.group or case.name for case in cases], config.folds, config.seed)
    return [(k, [cases[i] for i in held_out]) for k, held_out in enumerate(folds)]


def _reference(config: EvaluateConfig, systems: Sequence[System]) -> str:
    names = [system.name for system in systems]
    wanted = config.reference or names[0]
    if wanted not in names:
        raise ConfigError(f"reference is {wanted!r}; the systems are {names}")
    return wanted


def _facts(system: System) -> SystemFacts:
    return SystemFacts(
        name=system.name,
        file=Path(system.origin).name,
        sha256=system.sha256,
        preprocess_sha256=system.preprocess.sha256,
    )


def _cohort(config: CohortConfig, cases: Sequence[Case]) -> CohortFacts:
    known = {case.spacing is not None for case in cases}
    if len(known) > 1:
        first = next(case.name for case in cases if case.spacing is None)
        raise ConfigError(
            f"cohort {config.name!r}: {first} has no pixel size and others have; distances would be mixed"
        )
    groups = len({case.group or case.name for case in cases})
    unit = "mm" if known == {True} else "px"
    return CohortFacts(name=config.name, images=len(cases), groups=groups, unit=unit, split=config.split)


def _reliability(bins: Bins) -> tuple[tuple[float, float, float], ...]:
    held = np.flatnonzero(bins.count)
    return tuple(
        (float(bins.probability[k] / bins.count[k]), float(bins.true[k] / bins.count[k]), float(bins.count[k]))
        for k in held
    )
