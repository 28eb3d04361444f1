"""The training loop on Lightning Fabric: deterministic by seed, resumable to the same bits on a CPU, one device or
several by arguments alone. Names are imported when first used, so that `settings` needs no torch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge_sdk.batch import TrainingSet
    from edge_sdk.train.loop import Loss, Validate, fit
    from edge_sdk.train.record import FitReport
    from edge_sdk.train.schedule import learning_rate
    from edge_sdk.train.settings import LoopConfig

__all__ = ["FitReport", "LoopConfig", "Loss", "TrainingSet", "Validate", "fit", "learning_rate"]

_HOME = {
    "FitReport": "edge_sdk.train.record",
    "LoopConfig": "edge_sdk.train.settings",
    "Loss": "edge_sdk.train.loop",
    "TrainingSet": "edge_sdk.batch",
    "Validate": "edge_sdk.train.loop",
    "fit": "edge_sdk.train.loop",
    "learning_rate": "edge_sdk.train.schedule",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'edge_sdk.train' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
