"""Typed FP16: explicit Casts at the borders, FP16 constants, float32 islands where FP16 is not safe."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto

from edge_export._graph import GraphView, attribute
from edge_export._retype import retype, smallest_half
from edge_export.ranges import Ranges, collect_ranges
from edge_runtime.errors import ConfigError

__all__ = ["DATA_MAX", "half_nodes", "islands", "to_fp16"]

DATA_MAX = 4096.0  # 16 times below the largest FP16 number, 65504: room for frames that were not seen

# long sums, exponentials and variances lose or overflow in FP16 although their inputs and outputs fit
_FLOAT32_OPERATORS = frozenset(
    {
        "BatchNormalization",
        "CumSum",
        "Exp",
        "GroupNormalization",
        "InstanceNormalization",
        "LayerNormalization",
        "LpNormalization",
        "Pow",
        "ReduceL2",
        "ReduceLogSumExp",
        "ReduceMean",
        "ReduceSum",
        "ReduceSumSquare",
        "Softplus",
    }
)


def to_fp16(
    model: onnx.ModelProto,
    calibration_inputs: Sequence[npt.NDArray[np.float32]] | None = None,
    *,
    ranges: Ranges | None = None,
    data_max: float = DATA_MAX,
    grouped_in_fp16: bool = False,
    keep_fp32: Iterable[str] = (),
) -> onnx.ModelProto:
    """The typed FP16 form of a tidy float32 `model`; inputs and outputs stay float32.

    A node stays in float32 (an island, with Casts around it) when `islands` says so. Ranges come from `ranges`, or from
    running the model on `calibration_inputs` (float32 tensors of the input's shape); without either, only operators and
    constants are looked at. Raises `ConfigError` and `LoweringError`.
    """
    if ranges is None and calibration_inputs is not None:
        ranges = collect_ranges(model, calibration_inputs)
    return retype(model, half=half_nodes(model, ranges, data_max, grouped_in_fp16, keep_fp32))


def half_nodes(
    model: onnx.ModelProto,
    ranges: Ranges | None,
    data_max: float = DATA_MAX,
    grouped_in_fp16: bool = False,
    keep_fp32: Iterable[str] = (),
) -> frozenset[str]:
    """Names of the nodes that compute in FP16: all but the islands and `keep_fp32`. Raises `ConfigError`."""
    if not 0 < data_max <= 65504:
        raise ConfigError(f"data_max is {data_max}; it must lie in (0, 65504], the range of FP16")
    names = {node.name for node in model.graph.node}
    unknown = sorted(set(keep_fp32) - names)
    if unknown:
        raise ConfigError(f"keep_fp32 names {unknown}, which the model does not have; its nodes are {sorted(names)}")
    return frozenset(names - set(islands(model, ranges, data_max, grouped_in_fp16)) - set(keep_fp32))


def islands(
    model: onnx.ModelProto, ranges: Ranges | None, data_max: float = DATA_MAX, grouped_in_fp16: bool = False
) -> dict[str, str]:
    """Node name -> why it stays in float32.

    Reasons: an operator with long sums or exponentials; a grouped or depthwise convolution (TensorRT 11.2.1 has no
    strongly typed FP16 kernel for it); a constant outside FP16 or wholly below 2^-14; an input or output larger
    than `data_max` in `ranges`.
    """
    view = GraphView(model)
    found = {}
    for node in view.nodes:
        reason = _reason(view, node, ranges, data_max, grouped_in_fp16)
        if reason:
            found[node.name] = reason
    return found


def _reason(view: GraphView, node: NodeProto, ranges: Ranges | None, data_max: float, grouped_in_fp16: bool) -> str:
    if node.op_type in _FLOAT32_OPERATORS:
        return f"{node.op_type} sums or exponentiates beyond FP16"
    if node.op_type in ("Conv", "ConvTranspose") and attribute(node, "group", 1) != 1 and not grouped_in_fp16:
        return "grouped convolution: no FP16 kernel on TensorRT 11.2.1"
    for name in node.input:
        array = view.array(name)
        if array is not None and array.dtype == np.float32 and array.size:
            top = float(np.abs(array.astype(np.float64)).max())
            if top > 65504 or 0 < top < smallest_half:
                return f"constant {name} has magnitude {top:.3g}, outside FP16"
    for name in [*node.input, *node.output]:
        top = ranges.absmax.get(name, 0.0) if ranges else 0.0
        if top > data_max:
            return f"{name} reaches {top:.3g}, over {data_max:g}"
    return ""
