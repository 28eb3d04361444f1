"""One call from a float32 model to its typed variants, each linted and passed through the gates."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx

from edge_export._graph import default_opset
from edge_export._lint import Finding, LintTarget, require_clean
from edge_export._retype import QdqForm
from edge_export._tidy import tidy
from edge_export.fp16 import islands, to_fp16
from edge_export.gate import GateReport, check_model, rtx_gate
from edge_export.int8 import to_int8
from edge_export.macs import count_macs
from edge_export.ranges import Method, Ranges, collect_ranges
from edge_runtime.errors import ConfigError, LoweringError

__all__ = ["DEFAULT_TARGETS", "PRECISIONS", "LoweredVariant", "LoweringReport", "Precision", "lower"]

Precision = Literal["fp32", "fp16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
DEFAULT_TARGETS: tuple[LintTarget, ...] = ("jetpack6", "tensorrt11", "rtx", "ort-cpu")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoweredVariant:
    """One row of the report: what was written, and what the lint (warnings) and the RTX gate said.

    `size_ratio` is the file's bytes over the fp32 file's; `operators` counts nodes by operator; `islands` maps a node
    that
    stayed in float32 to the reason.
    """

    id: str
    precision: Precision
    opset: int
    macs: int
    file_bytes: int
    size_ratio: float
    operators: dict[str, int]
    islands: dict[str, str]
    warnings: tuple[Finding, ...]
    rtx: GateReport


@dataclass(frozen=True, slots=True, kw_only=True)
class LoweringReport:
    """The table of `lower`: variants in the order fp32, fp16, int8, the lint targets, the ranges that were used."""

    variants: tuple[LoweredVariant, ...]
    targets: tuple[str, ...]
    qdq_form: QdqForm
    ranges: Ranges

    def variant(self, id: str) -> LoweredVariant:
        """The row of that variant. Raises `ConfigError` when there is none."""
        for item in self.variants:
            if item.id == id:
                return item
        raise ConfigError(f"no variant {id!r} in the report; it has {[v.id for v in self.variants]}")

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "variants": [asdict(item) for item in self.variants],
            "targets": list(self.targets),
            "qdq_form": self.qdq_form,
            "ranges": self.ranges.to_dict(),
        }


def lower(
    model: onnx.ModelProto,
    calibration_inputs: Sequence[npt.NDArray[np.float32]],
    *,
    precisions: Sequence[Precision] = PRECISIONS,
    method: Method = "minmax",
    percentile: float = 99.99,
    qdq_form: QdqForm = "opset17",
    exclude: Iterable[str] = (),
    exclude_first: bool = True,
    exclude_head: bool = True,
    targets: Sequence[LintTarget] = DEFAULT_TARGETS,
    rtx: bool = True,
    require_rtx: bool = False,
) -> tuple[dict[str, bytes], LoweringReport]:
    """Write the typed variants of a float32 `model` and put each through lint, onnx.checker, ONNX Runtime and RTX.

    `calibration_inputs` are preprocessed frames (float32, the model's input shape): the quantization calibration set.
    Returns
    the files by variant id (the ids are the precisions; fp32 is always among them) and the report. The ranges are
    collected once and used by both lowerings. An RTX gate that cannot be tried is reported as such, and is an
    error only with `require_rtx`. Raises `LoweringError` on a lint error, a refusal or a crash of a gate, and
    `ConfigError` on bad arguments.
    """
    unknown = sorted(set(precisions) - set(PRECISIONS))
    if unknown:
        raise ConfigError(f"precisions {unknown} are not known; choose from {list(PRECISIONS)}")
    base = tidy(model)
    ranges = collect_ranges(base, calibration_inputs, method=method, percentile=percentile)
    made: dict[Precision, onnx.ModelProto] = {"fp32": base}
    if "fp16" in precisions:
        made["fp16"] = to_fp16(base, ranges=ranges)
    if "int8" in precisions:
        made["int8"] = to_int8(
            base,
            ranges=ranges,
            qdq_form=qdq_form,
            exclude=exclude,
            exclude_first=exclude_first,
            exclude_head=exclude_head,
        )
    kept = {} if set(made) == {"fp32"} else islands(base, ranges)
    rows = [
        _examine(name, item, base, kept if name != "fp32" else {}, targets, rtx, require_rtx)
        for name, item in made.items()
    ]
    report = LoweringReport(variants=tuple(rows), targets=tuple(targets), qdq_form=qdq_form, ranges=ranges)
    return {name: item.SerializeToString() for name, item in made.items()}, report


def _examine(
    name: Precision,
    model: onnx.ModelProto,
    base: onnx.ModelProto,
    kept: dict[str, str],
    targets: Sequence[LintTarget],
    rtx: bool,
    require_rtx: bool,
) -> LoweredVariant:
    data = model.SerializeToString()
    warnings = [item for target in targets for item in require_clean(model, target)]
    check_model(model)
    operators: dict[str, int] = {}
    for node in model.graph.node:
        operators[node.op_type] = operators.get(node.op_type, 0) + 1
    return LoweredVariant(
        id=name,
        precision=name,
        opset=default_opset(model),
        macs=count_macs(model),
        file_bytes=len(data),
        size_ratio=len(data) / base.ByteSize(),
        operators=operators,
        islands=kept,
        warnings=tuple(dict.fromkeys(warnings)),
        rtx=_gate(name, data, rtx, require_rtx),
    )


def _gate(name: str, data: bytes, rtx: bool, require_rtx: bool) -> GateReport:
    if not rtx and require_rtx:
        raise ConfigError("require_rtx=True needs rtx=True")
    report = rtx_gate(data) if rtx else GateReport(status="not tried", reason="switched off by rtx=False")
    if report.status in ("refused", "crashed") or (require_rtx and report.status != "accepted"):
        first = (
            f"; {report.errors[0].node} ({report.errors[0].operator}): {report.errors[0].text}" if report.errors else ""
        )
        raise LoweringError(f"TensorRT-RTX {report.status} the {name} variant: {report.reason}{first}")
    return report
