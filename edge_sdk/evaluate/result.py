"""What an evaluation gives: one row for each image and system, summaries, differences and the audit, as JSON values."""

from __future__ import annotations

from typing import Any

import msgspec

from edge_sdk.evaluate.auditing import Audit

__all__ = ["SCHEMA", "CohortFacts", "Difference", "Evaluation", "ImageScores", "Interval", "Summary", "SystemFacts"]

SCHEMA = "edge-sdk.evaluation/1"


class _Struct(msgspec.Struct, frozen=True, kw_only=True):
    """Immutable, compared by value."""


class ImageScores(_Struct, frozen=True, kw_only=True):
    """One image and system: `values` by metric, None where one is not defined; `columns` are what the audit groups
    by; `missed` tells of a class that is in only one of truth and prediction.
    """

    image: str
    cohort: str
    group: str
    system: str
    missed: bool
    values: dict[str, float | None]
    columns: dict[str, str | float | None]


class Interval(_Struct, frozen=True, kw_only=True):
    """Mean over `n` images with its 95 % bootstrap interval (None for one group alone), and their spread."""

    mean: float
    low: float | None
    high: float | None
    n: int
    std: float
    median: float
    worst: float


class Summary(_Struct, frozen=True, kw_only=True):
    """One system on one cohort; `missed` images have a class in only one of truth and prediction."""

    system: str
    cohort: str
    images: int
    missed: int
    metrics: dict[str, Interval]


class Difference(_Struct, frozen=True, kw_only=True):
    """Mean over images of `second` minus `first`, image by image, in the metric's own unit, with its 95 % interval."""

    cohort: str
    first: str
    second: str
    metric: str
    mean: float
    low: float | None
    high: float | None
    n: int


class CohortFacts(_Struct, frozen=True, kw_only=True):
    """How many images and groups were scored, and the unit of distances ("mm" or "px")."""

    name: str
    images: int
    groups: int
    unit: str
    split: str = ""


class SystemFacts(_Struct, frozen=True, kw_only=True):
    """Name, file name, identity of what was computed, and the hash of the preprocessing."""

    name: str
    file: str
    sha256: str
    preprocess_sha256: str


class Evaluation(_Struct, frozen=True, kw_only=True):
    """Everything that was found; `reliability` holds (probability, share that came true, pixels) of each bin of the
    border band by system.
    """

    schema: str
    reference: str
    classes: tuple[str, ...]
    quantity: str
    quantity_unit: str
    cohorts: tuple[CohortFacts, ...]
    systems: tuple[SystemFacts, ...]
    images: tuple[ImageScores, ...]
    summaries: tuple[Summary, ...]
    differences: tuple[Difference, ...]
    reliability: dict[str, tuple[tuple[float, float, float], ...]]
    border_px: float
    bootstrap: int
    audit: Audit | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        found: dict[str, Any] = msgspec.to_builtins(self)
        return found

    def scores(self, metric: str, system: str) -> list[float | None]:
        """A metric of every image of one system, in the order of the images."""
        return [row.values.get(metric) for row in self.images if row.system == system]
