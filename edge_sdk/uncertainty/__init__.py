"""What a model does not know: calibrated probabilities, a teacher's spread, and whether withholding helps.

Names are imported when first used, so that the calibration half needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge_sdk.uncertainty.band import boundary_band, boundary_distance
    from edge_sdk.uncertainty.calibration import CalibrationReport, calibration_report, manifest_calibration
    from edge_sdk.uncertainty.distilled import (
        SpreadLoss,
        SpreadStudent,
        spread_fields,
        spread_student,
        spread_target,
    )
    from edge_sdk.uncertainty.figures import reliability_figure, risk_figure
    from edge_sdk.uncertainty.risk import (
        RiskCoverage,
        dice_risk,
        falls_monotonically,
        frame_uncertainty,
        risk_coverage,
        spearman,
    )
    from edge_sdk.uncertainty.spread import (
        Spread,
        add_dropout,
        dropout_probabilities,
        ensemble_spread,
        monte_carlo_dropout,
        spread_of,
    )
    from edge_sdk.uncertainty.temperature import (
        TemperatureFit,
        fit_temperature,
        negative_log_likelihood,
        scaled_probabilities,
    )

_MODULES = {
    "band": ("boundary_band", "boundary_distance"),
    "calibration": ("CalibrationReport", "calibration_report", "manifest_calibration"),
    "figures": ("reliability_figure", "risk_figure"),
    "risk": (
        "RiskCoverage",
        "dice_risk",
        "falls_monotonically",
        "frame_uncertainty",
        "risk_coverage",
        "spearman",
    ),
    "spread": (
        "Spread",
        "add_dropout",
        "dropout_probabilities",
        "ensemble_spread",
        "monte_carlo_dropout",
        "spread_of",
    ),
    "distilled": ("SpreadLoss", "SpreadStudent", "spread_fields", "spread_student", "spread_target"),
    "temperature": ("TemperatureFit", "fit_temperature", "negative_log_likelihood", "scaled_probabilities"),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "CalibrationReport",
    "RiskCoverage",
    "Spread",
    "SpreadLoss",
    "SpreadStudent",
    "TemperatureFit",
    "add_dropout",
    "boundary_band",
    "boundary_distance",
    "calibration_report",
    "dice_risk",
    "dropout_probabilities",
    "ensemble_spread",
    "falls_monotonically",
    "fit_temperature",
    "frame_uncertainty",
    "manifest_calibration",
    "monte_carlo_dropout",
    "negative_log_likelihood",
    "reliability_figure",
    "risk_coverage",
    "risk_figure",
    "scaled_probabilities",
    "spearman",
    "spread_fields",
    "spread_of",
    "spread_student",
    "spread_target",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'edge_sdk.uncertainty' has no attribute {name!r}")
    value = getattr(import_module(f"edge_sdk.uncertainty.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
