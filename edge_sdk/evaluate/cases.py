"""Labelled images of a cohort: which files, whose exam, how many millimetres a pixel, and the manifest's columns."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ConfigError
from edge_runtime.frame import Frame, FrameGeometry
from edge_sdk.evaluate.config import CohortConfig, QuantityConfig
from edge_sdk.evaluate.folds import check_groups, read_rows
from edge_sdk.pairs import PairPaths, find_pairs, read_image, read_labels

__all__ = ["COMPUTED", "Case", "computed_columns", "read_case", "read_cohort"]

COMPUTED = ("brightness", "anatomy_size", "depth", "anatomy_depth", "cohort")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One labelled image: `name` is the file's, `group` its exam or patient ("" when none is known), `row` the
    manifest's columns, `truth` the reference of the clinical quantity (None when none is given).

    `geometry` is trusted when the manifest has the pixel's size.
    """

    name: str
    cohort: str
    image: Path
    mask: Path
    mask_values: tuple[int, ...]
    group: str
    geometry: FrameGeometry
    row: Mapping[str, str]
    truth: float | None

    @property
    def spacing(self) -> tuple[float, float] | None:
        """(row, column) in mm, None when unknown."""
        return self.geometry.require_mm() if self.geometry.trusted else None


def read_cohort(
    config: CohortConfig, base: Path, *, group: str = "", quantity: QuantityConfig | None = None
) -> list[Case]:
    """The cases of a cohort in the order of their names; images are read later (`read_case`).

    `base` is the folder that the paths are relative to. Raises `ConfigError` naming the file for a missing mask or
    row, a number that is none, and a group in two splits.
    """
    pairs = find_pairs(base / config.images, base / config.masks, manifest=None, hold_out_every=2)
    if not config.manifest:
        _need_no_manifest(config, group, quantity)
        return [_case(pair, config, {}, "", None) for pair in pairs]
    manifest = base / config.manifest
    rows = read_rows(manifest)
    _check_columns(rows, manifest, config, group, quantity)
    if group and rows and "split" in rows[0]:
        check_groups(rows, group=group, split="split", origin=str(manifest))
    by_stem = {Path(row["file"]).stem: row for row in rows}
    files = {pair.image.stem: pair for pair in pairs}
    for stem, pair in files.items():
        if stem not in by_stem:
            raise ConfigError(f"{manifest} has no row for {pair.image.name}; add it, or take the image away")
    chosen = {stem: row for stem, row in by_stem.items() if not config.split or row["split"] == config.split}
    if not chosen:
        raise ConfigError(f"{manifest}: no row with split {config.split!r}; it has {_values(rows, 'split')}")
    for stem, row in chosen.items():
        if stem not in files:
            raise ConfigError(f"{manifest} names {row['file']}, which is not in {base / config.images}")
    return [
        _case(files[stem], config, row, row[group].strip() if group else "", _quantity(row, quantity, manifest))
        for stem, row in sorted(chosen.items())
    ]


def _need_no_manifest(config: CohortConfig, group: str, quantity: QuantityConfig | None) -> None:
    wanted = [name for name in (group, quantity.column if quantity else "") if name]
    if wanted:
        raise ConfigError(
            f"cohort {config.name!r} has no manifest; the columns {wanted} are asked for: name a CSV file"
        )


def _check_columns(
    rows: Sequence[Mapping[str, str]],
    manifest: Path,
    config: CohortConfig,
    group: str,
    quantity: QuantityConfig | None,
) -> None:
    if not rows:
        raise ConfigError(f"{manifest} has no rows")
    wanted = [group, quantity.column if quantity else "", "split" if config.split else ""]
    missing = [name for name in wanted if name and name not in rows[0]]
    if missing:
        raise ConfigError(f"{manifest} has no column {missing[0]!r}; it has {sorted(rows[0])}")


def _values(rows: Sequence[Mapping[str, str]], column: str) -> list[str]:
    return sorted({row[column] for row in rows})[:8]


def _case(pair: PairPaths, config: CohortConfig, row: Mapping[str, str], group: str, truth: float | None) -> Case:
    return Case(
        name=pair.image.name,
        cohort=config.name,
        image=pair.image,
        mask=pair.mask,
        mask_values=config.mask_values,
        group=group,
        geometry=_geometry(row, pair.image.name),
        row=row,
        truth=truth,
    )


def _geometry(row: Mapping[str, str], name: str) -> FrameGeometry:
    size = _number(row, "pixel_size_mm", name)
    row_mm, column_mm = _number(row, "row_mm", name), _number(row, "column_mm", name)
    if (row_mm is None) != (column_mm is None):
        raise ConfigError(f"{name}: only one of row_mm and column_mm is given; give both, or pixel_size_mm")
    row_mm, column_mm = (size, size) if row_mm is None else (row_mm, column_mm)
    if row_mm is None or column_mm is None:
        return FrameGeometry(reason=f"no pixel size of {name} is known")
    return FrameGeometry(row_mm=row_mm, column_mm=column_mm, origin="user", trusted=True, reason="")


def _number(row: Mapping[str, str], column: str, name: str) -> float | None:
    text = row.get(column, "").strip()
    if not text:
        return None
    try:
        value = float(text)
    except ValueError as error:
        raise ConfigError(f"{name}: {column} is {text!r}; a positive number is needed") from error
    if not (math.isfinite(value) and value > 0):
        raise ConfigError(f"{name}: {column} is {text!r}; a positive number is needed")
    return value


def _quantity(row: Mapping[str, str], quantity: QuantityConfig | None, manifest: Path) -> float | None:
    return None if quantity is None else _number(row, quantity.column, f"{manifest}, {row['file']}")


def read_case(case: Case, index: int = 0) -> tuple[Frame, npt.NDArray[np.uint8]]:
    """The image as a frame with the case's geometry, and its (H, W) uint8 labels; errors as in `edge_sdk.pairs`."""
    image = read_image(case.image)
    labels = read_labels(case.mask, case.mask_values, image.shape, case.image)
    return Frame(image=np.ascontiguousarray(image), index=index, arrival_ns=0, geometry=case.geometry), labels


def computed_columns(case: Case, frame: Frame, labels: npt.NDArray[np.uint8]) -> dict[str, float | str | None]:
    """Columns for the audit that an image itself gives, where the manifest has none of that name.

    `brightness`: mean grey value (channels averaged). `anatomy_size`: area of all true classes, in mm² or pixels.
    `depth`: height of the image, `anatomy_depth`: mean row of the truth, in mm or pixels. None without anatomy.
    """
    row_mm, column_mm = case.spacing or (1.0, 1.0)
    rows = np.nonzero(labels)[0]
    return {
        "brightness": float(frame.image.mean()),
        "anatomy_size": len(rows) * row_mm * column_mm,
        "depth": frame.shape[0] * row_mm,
        "anatomy_depth": float(rows.mean()) * row_mm if len(rows) else None,
        "cohort": case.cohort,
    }
