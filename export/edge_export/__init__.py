"""Host side: a torch module or an ONNX file becomes typed ONNX variants and a verified, signed `.edge` bundle.

Names are imported on first use (PEP 562), so that `import edge_export` loads neither onnx nor torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge_export._card import ModelCard
    from edge_export._lint import Finding, lint, require_clean, rule_table
    from edge_export._lower import LoweredVariant, LoweringReport, lower
    from edge_export._package import Parity, measure_parity, package, self_test
    from edge_export._run import check_runners, run_variant
    from edge_export._sbom import Origin
    from edge_export._tidy import convert_opset, tidy
    from edge_export.agree import AgreementReport, AgreementScore, verify_agreement
    from edge_export.cpu_int8 import to_cpu_int8
    from edge_export.divergence import Divergence, first_divergence
    from edge_export.fp16 import islands, to_fp16
    from edge_export.frame_choice import choose_frames
    from edge_export.gate import GateError, GateReport, check_model, rtx_gate, run_model
    from edge_export.int8 import to_int8
    from edge_export.macs import count_macs
    from edge_export.mixed import mixed_precision
    from edge_export.ranges import Ranges, collect_ranges
    from edge_export.sensitivity import measure_sensitivity
    from edge_export.torch_export import export_torch, torch_parity
    from edge_export.verify import VariantScore, VerificationReport, verify_variants

__version__ = "0.1.0"
__all__ = [
    "AgreementReport",
    "AgreementScore",
    "Divergence",
    "Finding",
    "GateError",
    "GateReport",
    "LoweredVariant",
    "LoweringReport",
    "ModelCard",
    "Origin",
    "Parity",
    "Ranges",
    "VariantScore",
    "VerificationReport",
    "__version__",
    "check_model",
    "check_runners",
    "choose_frames",
    "collect_ranges",
    "convert_opset",
    "count_macs",
    "export_torch",
    "first_divergence",
    "islands",
    "lint",
    "lower",
    "measure_parity",
    "measure_sensitivity",
    "mixed_precision",
    "package",
    "require_clean",
    "rtx_gate",
    "rule_table",
    "run_model",
    "run_variant",
    "self_test",
    "tidy",
    "to_cpu_int8",
    "to_fp16",
    "to_int8",
    "torch_parity",
    "verify_agreement",
    "verify_variants",
]

_HOMES = {
    "AgreementReport": "agree",
    "AgreementScore": "agree",
    "Divergence": "divergence",
    "Finding": "_lint",
    "GateError": "gate",
    "GateReport": "gate",
    "LoweredVariant": "_lower",
    "LoweringReport": "_lower",
    "ModelCard": "_card",
    "Origin": "_sbom",
    "Parity": "_package",
    "Ranges": "ranges",
    "VariantScore": "verify",
    "VerificationReport": "verify",
    "check_model": "gate",
    "check_runners": "_run",
    "choose_frames": "frame_choice",
    "collect_ranges": "ranges",
    "convert_opset": "_tidy",
    "count_macs": "macs",
    "export_torch": "torch_export",
    "first_divergence": "divergence",
    "islands": "fp16",
    "lint": "_lint",
    "lower": "_lower",
    "measure_parity": "_package",
    "measure_sensitivity": "sensitivity",
    "mixed_precision": "mixed",
    "package": "_package",
    "require_clean": "_lint",
    "rtx_gate": "gate",
    "rule_table": "_lint",
    "run_model": "gate",
    "run_variant": "_run",
    "self_test": "_package",
    "tidy": "_tidy",
    "to_cpu_int8": "cpu_int8",
    "to_fp16": "fp16",
    "to_int8": "int8",
    "torch_parity": "torch_export",
    "verify_agreement": "agree",
    "verify_variants": "verify",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
