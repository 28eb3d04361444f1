"""Settings of an evaluation, as msgspec structs without torch or NumPy; unknown fields are errors."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from edge_runtime.errors import ConfigError
from edge_runtime.preprocess.spec import PreprocessSpec
from edge_runtime.settings_file import parse_yaml, read_text, to_struct
from edge_sdk.config import NetworkConfig
from edge_sdk.settings import Settings, check

__all__ = [
    "METRICS",
    "AuditConfig",
    "CohortConfig",
    "EvaluateConfig",
    "QuantityConfig",
    "SystemConfig",
    "load_config",
]

# metric -> whether a larger value is better
METRICS = {
    "dice": True,
    "jaccard": True,
    "precision": True,
    "recall": True,
    "f1": True,
    "ap": True,
    "auroc": True,
    "hd95": False,
    "assd": False,
    "ece": False,
    "ece_border": False,
    "quantity_error": False,
}
_MARGINS = {"hd95": 0.1, "assd": 0.1, "quantity_error": 0.1}


class CohortConfig(Settings, frozen=True, kw_only=True):
    """Images with masks of the same file names, and a CSV with a row for each.

    Of the `manifest`, column `file` names the image, `split` (when given, that value alone is scored) its split,
    `pixel_size_mm` the side of a pixel (or `row_mm` and `column_mm`). `mask_values[k]` is the value of class k in the
    masks, background first. Paths are relative to the settings' file.
    """

    name: str = "images"
    images: str
    masks: str
    manifest: str = ""
    split: str = ""
    mask_values: tuple[int, ...] = (0, 255)

    def __post_init__(self) -> None:
        values = self.mask_values
        ok = len(values) >= 2 and len(set(values)) == len(values) and all(0 <= value <= 255 for value in values)
        check(ok, "mask_values", list(values), "two or more different values in 0..255 are needed")
        check(bool(self.name), "name", self.name, "a cohort has a name")
        if self.split and not self.manifest:
            raise ConfigError(
                f"cohort {self.name!r}: split {self.split!r} is asked for without a manifest that says it"
            )


class SystemConfig(Settings, frozen=True, kw_only=True):
    """One thing to be scored, from the file `path`: `.edge` (every variant, or those in `variants`), `.onnx`,
    TorchScript, or a state dict of a `network`.

    `name` defaults to the file's stem; a variant is called `NAME/VARIANT`. All but `.edge` need a `preprocess`,
    their own or that of the settings. `output` says what the file gives. `{fold}` in `path` stands for the fold in
    which an image is held out (`EvaluateConfig.folds`).
    """

    path: str
    name: str = ""
    preprocess: PreprocessSpec | None = None
    network: NetworkConfig | None = None
    output: Literal["logits", "probabilities"] = "logits"
    threshold: float = 0.5
    temperature: float = 1.0
    variants: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check(0 < self.threshold < 1, "threshold", self.threshold, "a probability in (0, 1) is allowed")
        check(0 < self.temperature <= 100, "temperature", self.temperature, "above 0 and up to 100 is allowed")

    @property
    def label(self) -> str:
        """The name that stands in tables."""
        return self.name or Path(self.path).stem

    @property
    def is_bundle(self) -> bool:
        """Whether the file is a `.edge` bundle."""
        return self.path.lower().endswith(".edge")


class QuantityConfig(Settings, frozen=True, kw_only=True):
    """What a clinician reads off the mask of class `label`, held against a column of the manifest.

    `kind` "ellipse_circumference" in mm, or "area" in mm^2. `offset_px` moves the fitted ellipse outwards by so many
    source pixels, where masks are drawn on another line than the reference was measured on.
    """

    column: str
    kind: Literal["ellipse_circumference", "area"] = "ellipse_circumference"
    label: int = 1
    offset_px: float = 0.0

    def __post_init__(self) -> None:
        check(bool(self.column), "column", self.column, "the manifest's column with the reference is needed")
        check(self.label >= 1, "label", self.label, "1 or more (0 is the background) is needed")

    @property
    def unit(self) -> str:
        """mm or mm²."""
        return "mm" if self.kind == "ellipse_circumference" else "mm²"


class AuditConfig(Settings, frozen=True, kw_only=True):
    """The compression audit: does a system lose more against the reference in one subgroup than in the rest?

    `columns` are columns of the manifest or computed ones (`brightness`, `anatomy_size`, `depth`, `anatomy_depth`,
    `cohort`); numeric ones are cut at quantiles into `bands`. A group with fewer than `min_group` units (exams, where
    a group column is given) is listed and not tested. A group is flagged when the corrected one-sided p value of "it
    loses more than the rest by over `margin`" is at most `alpha`. `margin` is in the unit of `metric`; by default 0.001
    (a tenth of a Dice point), or 0.1 for distances and quantities. `power` is that for which the smallest detectable
    harm is told.
    """

    columns: tuple[str, ...] = ("brightness", "anatomy_size", "depth")
    metric: str = "dice"
    bands: int = 3
    min_group: int = 5
    margin: float | None = None
    alpha: float = 0.05
    power: float = 0.8
    permutations: int = 10_000
    seed: int = 0

    def __post_init__(self) -> None:
        check(self.metric in METRICS, "metric", self.metric, f"one of {', '.join(METRICS)} is allowed")
        check(2 <= self.bands <= 10, "bands", self.bands, "2 to 10 are allowed")
        check(self.min_group >= 3, "min_group", self.min_group, "at least 3 are needed for a standard error")
        check(0 < self.alpha <= 0.2, "alpha", self.alpha, "above 0 and up to 0.2 is allowed")
        check(0.5 <= self.power < 1, "power", self.power, "0.5 to below 1 is allowed")
        check(self.permutations >= 200, "permutations", self.permutations, "at least 200 are needed")
        check(self.margin is None or self.margin >= 0, "margin", self.margin, "zero or more is needed")
        check(self.seed >= 0, "seed", self.seed, "zero or more is needed")

    @property
    def effective_margin(self) -> float:
        """`margin`, or the default of the metric."""
        return _MARGINS.get(self.metric, 0.001) if self.margin is None else self.margin


class EvaluateConfig(Settings, frozen=True, kw_only=True):
    """A whole evaluation: `systems` on `cohorts`, the first system (or `reference`) being what others are held
    against.

    `group` is the manifest's column that names the exam or patient: intervals resample whole groups, and a group in
    two splits is refused. `classes` names the foreground classes. `border_px` is the half width, in source pixels, of
    the band around the true border in which `ece_border` is counted. `folds` > 0 holds every image out in one of so
    many folds by `group` (`seed`).
    """

    cohorts: tuple[CohortConfig, ...]
    systems: tuple[SystemConfig, ...]
    classes: tuple[str, ...] = ("object",)
    reference: str = ""
    group: str = ""
    preprocess: PreprocessSpec | None = None
    quantity: QuantityConfig | None = None
    audit: AuditConfig | None = AuditConfig()
    border_px: float = 10.0
    bootstrap: int = 4000
    folds: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        check(bool(self.cohorts), "cohorts", [], "at least one is needed")
        check(bool(self.systems), "systems", [], "at least one is needed")
        for what, names in (("cohorts", [c.name for c in self.cohorts]), ("systems", [s.label for s in self.systems])):
            check(len(set(names)) == len(names), what, names, "different names are needed")
        ok = bool(self.classes) and len(set(self.classes)) == len(self.classes)
        check(ok, "classes", list(self.classes), "one or more different names are needed")
        for cohort in self.cohorts:
            if len(cohort.mask_values) != len(self.classes) + 1:
                raise ConfigError(
                    f"cohort {cohort.name!r}: mask_values has {len(cohort.mask_values)} values; background and "
                    f"{len(self.classes)} classes need {len(self.classes) + 1}"
                )
        check(self.border_px > 0, "border_px", self.border_px, "above 0 is needed")
        check(self.bootstrap >= 200, "bootstrap", self.bootstrap, "at least 200 resamplings are needed")
        check(self.folds == 0 or self.folds >= 2, "folds", self.folds, "0, or 2 or more are allowed")
        if self.quantity is not None and self.quantity.label > len(self.classes):
            raise ConfigError(f"quantity: label is {self.quantity.label}; there are {len(self.classes)} classes")


def load_config(path: Path) -> EvaluateConfig:
    """The settings in the YAML file `path`; `ConfigError` naming the file for anything that is wrong with them."""
    return to_struct(parse_yaml(read_text(path, "evaluation"), str(path)), EvaluateConfig, str(path))
