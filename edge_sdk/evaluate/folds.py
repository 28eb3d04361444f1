"""Splits that keep an exam or patient on one side."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ConfigError

__all__ = ["check_groups", "check_split", "grouped_folds", "read_rows"]

Indices = npt.NDArray[np.intp]


def grouped_folds(groups: Sequence[str], k: int, seed: int, strata: Sequence[str] | None = None) -> list[Indices]:
    """`k` folds of the indices of `groups` (N exam or patient names), each index in one fold and each group whole.

    Returns the held-out indices of each fold, ascending; the rest is what to train on. Groups are shuffled by `seed`
    and dealt largest first to the fold where they leave the sizes, and with `strata` (N texts) the share of each
    stratum, most equal (greedy, as stratified group k-fold in public packages). Raises `ConfigError` for
    fewer groups than folds, an empty name, and lengths that differ.
    """
    if strata is not None and len(strata) != len(groups):
        raise ConfigError(f"{len(groups)} groups and {len(strata)} strata; equal numbers are needed")
    empty = [at for at, name in enumerate(groups) if not str(name).strip()]
    if empty:
        raise ConfigError(f"group {empty[0]} has no name; every image needs its exam or patient")
    names = sorted(set(groups))
    if not 2 <= k <= len(names):
        raise ConfigError(f"{k} folds of {len(names)} groups; 2 to {len(names)} folds are possible")
    kinds = sorted(set(strata)) if strata is not None else [""]
    counts = np.zeros((len(names), len(kinds)))
    for at, name in enumerate(groups):
        counts[names.index(name), kinds.index(strata[at]) if strata is not None else 0] += 1
    order = np.random.default_rng(seed).permutation(len(names))
    order = order[np.argsort(-counts[order].sum(axis=1), kind="stable")]
    fold_of = _dealt(counts, order, k)
    belongs = np.array([fold_of[names.index(name)] for name in groups])
    return [np.flatnonzero(belongs == fold) for fold in range(k)]


def _dealt(counts: npt.NDArray[np.float64], order: Indices, k: int) -> Indices:
    """(groups,) fold of each group; `counts` (groups, strata)."""
    share = counts / np.maximum(counts.sum(axis=0), 1)
    size = counts.sum(axis=1) / counts.sum()
    held, load = np.zeros((k, counts.shape[1])), np.zeros(k)
    fold_of = np.full(len(counts), -1, np.intp)
    for rank, group in enumerate(order):
        waiting = len(order) - rank
        empty = [fold for fold in range(k) if not (fold_of == fold).any()]
        # as many groups as empty folds are left: every fold must get one
        choices = empty if len(empty) >= waiting else range(k)
        cost = []
        for fold in choices:
            after, weight = held.copy(), load.copy()
            after[fold] += share[group]
            weight[fold] += size[group]
            cost.append((float(after.std(axis=0).mean() + weight.std()), float(weight[fold]), fold))
        best = min(cost)[2]
        held[best] += share[group]
        load[best] += size[group]
        fold_of[group] = best
    return fold_of


def read_rows(manifest: Path) -> list[dict[str, str]]:
    """The rows of a CSV file with a header and a column `file`; `ConfigError` naming file and line for others."""
    try:
        with Path(manifest).open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
            columns = list(reader.fieldnames or ())
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{manifest} cannot be read: {error}") from error
    if "file" not in columns:
        raise ConfigError(f"{manifest} has the columns {columns}; a column file with the images' names is needed")
    seen: dict[str, int] = {}
    for line, row in enumerate(rows, start=2):
        if None in row or None in row.values() or not row["file"]:
            raise ConfigError(f"{manifest}, line {line}: {len(columns)} values, the first column's name among them")
        stem = Path(row["file"]).stem
        if stem in seen:
            raise ConfigError(f"{manifest}, line {line}: {row['file']} is in line {seen[stem]} already; keep one")
        seen[stem] = line
    return rows


def check_split(manifest: Path, *, group: str, split: str = "split") -> None:
    """Raise `ConfigError` when one exam or patient (column `group`) of the CSV `manifest` is in two splits.

    The message names the group and a file on each side. An empty group is refused too: it could be anyone.
    """
    rows = read_rows(manifest)
    check_groups(rows, group=group, split=split, origin=str(manifest))


def check_groups(rows: Sequence[Mapping[str, str]], *, group: str, split: str, origin: str) -> None:
    """`check_split` on rows that were read already; `origin` stands in messages."""
    for name in (group, split):
        if rows and name not in rows[0]:
            raise ConfigError(f"{origin} has no column {name!r}; it has {sorted(rows[0])}")
    sides: dict[str, Mapping[str, str]] = {}
    for row in rows:
        key = row[group].strip()
        if not key:
            raise ConfigError(
                f"{origin}: {row['file']} has no {group}; every image needs one, or two splits may share it"
            )
        first = sides.setdefault(key, row)
        if first[split] != row[split]:
            raise ConfigError(
                f"{origin}: {group} {key!r} is in two splits, {first['file']} in {first[split]!r} and {row['file']} in "
                f"{row[split]!r}; keep every {group} on one side, or scores are too good"
            )
