"""One call from a float32 model to its typed variants, each linted and passed through the gates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import onnx

from edge_export._graph import default_opset
from edge_export._lint import Finding, LintTarget, require_clean
from edge_export._retype import QdqForm
from edge_export._tidy import convert_opset, tidy
from edge_export.admit import admit
from edge_export.cpu_int8 import to_cpu_int8
from edge_export.fp16 import islands, to_fp16
from edge_export.gate import GateReport, check_model, rtx_gate
from edge_export.int8 import to_int8
from edge_export.macs import count_macs
from edge_export.ranges import Method, Ranges, collect_ranges
from edge_runtime.bundle.manifest import Target
from edge_runtime.errors import ConfigError, LoweringError

__all__ = ["ALL_VARIANTS", "DEFAULT_TARGETS", "PRECISIONS", "LoweredVariant", "LoweringReport", "Precision", "lower"]

Precision = Literal["fp32", "fp16", "int8", "int8-cpu"]  # ids of variants; "int8-cpu" is INT8 in another form
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
ALL_VARIANTS: tuple[Precision, ...] = get_args(Precision)
DEFAULT_TARGETS: tuple[LintTarget, ...] = get_args(LintTarget)

# The manifest's targets that a variant is written for. The two TensorRT forms run on ONNX Runtime as well, which the
# self-test of a bundle uses, though not faster than fp32.
_WRITTEN_FOR: dict[Precision, tuple[Target, ...]] = {
    "fp32": ("ort-cpu", "openvino", "tensorrt"),
    "fp16": ("ort-cpu", "tensorrt"),
    "int8": ("ort-cpu", "tensorrt"),
    "int8-cpu": ("ort-cpu", "openvino"),
}
OLD_GOES_TO = 17  # where a model older than opset 13, the first with per-channel Q/DQ, is converted to
_NOT_NVIDIA = ("ort-cpu", "openvino")  # lint targets of the same name; all others are NVIDIA's


@dataclass(frozen=True, slots=True, kw_only=True)
class LoweredVariant:
    """One row of the report: what was written, and what the lint (warnings) and the RTX gate said.

    `targets` are the manifest's targets that the file is written for; it is linted for these alone. `size_ratio` is the
    file's bytes over the fp32 file's; `operators` counts nodes by operator; `islands` maps a node that stayed in
    float32 to the reason.
    """

    id: str
    precision: Literal["fp32", "fp16", "int8"]
    targets: tuple[Target, ...]
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
    """The table of `lower`: variants in the order of `ALL_VARIANTS`, the lint targets, the ranges that were used."""

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
    reduce_range: bool = False,
    targets: Sequence[LintTarget] = DEFAULT_TARGETS,
    rtx: bool = True,
    require_rtx: bool = False,
) -> tuple[dict[str, bytes], LoweringReport]:
    """Write the typed variants of a float32 `model` and put each through lint, onnx.checker, ONNX Runtime and RTX.

    `calibration_inputs` are preprocessed frames (float32, the model's input shape): the quantization calibration set.
    Returns the files by variant id (fp32 is always among them; "int8-cpu" is the INT8 form for x86, `to_cpu_int8`,
    which takes `reduce_range`) and the report. The ranges are collected once and used by all. Each variant is
    linted for those of `targets` that it is written for, and only what is written for TensorRT goes through the RTX
    gate. A gate that cannot be tried is reported as such, and is an error only with `require_rtx`. Every file is read
    back from its bytes: its opset must be the one meant, its weights inside, its axes fixed or named. Raises
    `LoweringError` on a lint error, a refusal or a crash of a gate, and `ConfigError` on bad arguments.
    """
    _check_wanted(precisions, targets)
    if require_rtx and not rtx:
        raise ConfigError("require_rtx=True needs rtx=True")
    base = _ready(model)
    for target in _lint_targets("fp32", targets):  # before anything runs it
        require_clean(base, target)
    ranges = collect_ranges(base, calibration_inputs, method=method, percentile=percentile)
    left_out = tuple(exclude)
    made: dict[Precision, onnx.ModelProto] = {"fp32": base}
    if "fp16" in precisions:
        made["fp16"] = to_fp16(base, ranges=ranges)
    if "int8" in precisions:
        made["int8"] = to_int8(
            base,
            ranges=ranges,
            qdq_form=qdq_form,
            exclude=left_out,
            exclude_first=exclude_first,
            exclude_head=exclude_head,
        )
    if "int8-cpu" in precisions:
        made["int8-cpu"] = to_cpu_int8(
            base, ranges=ranges, reduce_range=reduce_range, exclude=left_out, exclude_head=exclude_head
        )
    kept = {} if set(made) == {"fp32"} else islands(base, ranges)
    rows = [
        _examine(name, item, base, kept if name in ("fp16", "int8") else {}, targets, rtx, require_rtx)
        for name, item in made.items()
    ]
    report = LoweringReport(variants=tuple(rows), targets=tuple(targets), qdq_form=qdq_form, ranges=ranges)
    return {name: item.SerializeToString() for name, item in made.items()}, report


def _check_wanted(precisions: Sequence[Precision], targets: Sequence[LintTarget]) -> None:
    unknown = sorted(set(precisions) - set(ALL_VARIANTS))
    if unknown:
        raise ConfigError(f"precisions {unknown} are not known; choose from {list(ALL_VARIANTS)}")
    for name in precisions:
        if not _lint_targets(name, targets):
            raise ConfigError(f"{name} is written for {_WRITTEN_FOR[name]}; none of targets {list(targets)} is that")


def _ready(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model of any origin, admitted, at an opset that knows per-channel Q/DQ, and tidy."""
    admitted = admit(model)
    return tidy(convert_opset(admitted, OLD_GOES_TO) if default_opset(admitted) < 13 else admitted)


def _lint_targets(name: Precision, targets: Sequence[LintTarget]) -> list[LintTarget]:
    """Those of `targets` that the variant is written for."""
    return [target for target in targets if (target if target in _NOT_NVIDIA else "tensorrt") in _WRITTEN_FOR[name]]


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
    opset = _read_back(name, data, default_opset(model))
    warnings = [item for target in _lint_targets(name, targets) for item in require_clean(model, target)]
    check_model(model)
    return LoweredVariant(
        id=name,
        precision="int8" if name == "int8-cpu" else name,
        targets=_WRITTEN_FOR[name],
        opset=opset,
        macs=count_macs(model),
        file_bytes=len(data),
        size_ratio=len(data) / base.ByteSize(),
        operators=dict(Counter(node.op_type for node in model.graph.node)),
        islands=kept,
        warnings=tuple(dict.fromkeys(warnings)),
        rtx=_gate(name, data, rtx, require_rtx),
    )


def _read_back(name: str, data: bytes, opset: int) -> int:
    """The opset of a written file. Raises `LoweringError` when it is not `opset` or the file is not whole in itself."""
    written = onnx.load_model_from_string(data)
    if default_opset(written) != opset:
        raise LoweringError(f"the {name} file was meant to have opset {opset} and has {default_opset(written)}")
    outside = [item.name for item in written.graph.initializer if item.data_location == onnx.TensorProto.EXTERNAL]
    if outside:
        raise LoweringError(f"the {name} file keeps {outside[0]!r} in another file; load the model with its data")
    for item in [*written.graph.input, *written.graph.output]:
        for axis, size in enumerate(item.type.tensor_type.shape.dim):
            if not size.dim_value and not size.dim_param:
                raise LoweringError(f"the {name} file leaves axis {axis} of {item.name!r} without a size and a name")
    return opset


def _gate(name: Precision, data: bytes, rtx: bool, require_rtx: bool) -> GateReport:
    if "tensorrt" not in _WRITTEN_FOR[name]:
        return GateReport(status="not tried", reason=f"{name} is not written for TensorRT")
    report = rtx_gate(data) if rtx else GateReport(status="not tried", reason="switched off by rtx=False")
    if report.status in ("refused", "crashed") or (require_rtx and report.status != "accepted"):
        first = (
            f"; {report.errors[0].node} ({report.errors[0].operator}): {report.errors[0].text}" if report.errors else ""
        )
        raise LoweringError(f"TensorRT-RTX {report.status} the {name} variant: {report.reason}{first}")
    return report
