"""Quantization-aware training with distillation: fake-quantization that exports to the same Q/DQ file.

Names are imported when first used, so that `QatConfig` needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge_sdk.qat.config import QatConfig
    from edge_sdk.qat.network import Emit, FakeQuantNetwork
    from edge_sdk.qat.training import QatResult, qat

__all__ = ["Emit", "FakeQuantNetwork", "QatConfig", "QatResult", "qat"]

_HOME = {
    "Emit": "edge_sdk.qat.network",
    "FakeQuantNetwork": "edge_sdk.qat.network",
    "QatConfig": "edge_sdk.qat.config",
    "QatResult": "edge_sdk.qat.training",
    "qat": "edge_sdk.qat.training",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'edge_sdk.qat' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
