"""Host side: a torch module or an ONNX file becomes typed ONNX variants and a verified, signed `.edge` bundle.

Names are imported on first use (PEP 562), so that `import edge_export` loads neither onnx nor torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge_export.fp16 import islands, to_fp16
    from edge_export.gate import GateError, GateReport, check_model, rtx_gate, run_model
    from edge_export.int8 import to_int8
    from edge_export._lint import Finding, lint, require_clean, rule_table
    from edge_export.macs import count_macs
    from edge_export.ranges import Ranges, collect_ranges
    from edge_export._tidy import convert_opset, tidy
    from edge_export.torch_export import export_torch, torch_parity

__version__ = "0.1.0"
__all__ = [
    "Finding",
    "GateError",
    "GateReport",
    "Ranges",
    "__version__",
    "check_model",
    "collect_ranges",
    "convert_opset",
    "count_macs",
    "export_torch",
    "islands",
    "lint",
    "require_clean",
    "rtx_gate",
    "rule_table",
    "run_model",
    "tidy",
    "to_fp16",
    "to_int8",
    "torch_parity",
]

_HOMES = {
    "Finding": "_lint",
    "GateError": "gate",
    "GateReport": "gate",
    "Ranges": "ranges",
    "check_model": "gate",
    "collect_ranges": "ranges",
    "convert_opset": "_tidy",
    "count_macs": "macs",
    "export_torch": "torch_export",
    "islands": "fp16",
    "lint": "_lint",
    "require_clean": "_lint",
    "rtx_gate": "gate",
    "rule_table": "_lint",
    "run_model": "gate",
    "tidy": "_tidy",
    "to_fp16": "fp16",
    "to_int8": "int8",
    "torch_parity": "torch_export",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
