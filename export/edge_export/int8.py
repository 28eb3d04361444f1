"""Typed INT8: explicit symmetric Q/DQ in the form that TensorRT reads, the rest in FP16."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import onnx

from edge_export._graph import GraphView, default_opset
from edge_export._placement import plan_int8
from edge_export._retype import QdqForm, WeightForm, retype
from edge_export._tidy import convert_opset
from edge_export.fp16 import DATA_MAX, half_nodes
from edge_export.ranges import Method, Ranges, collect_ranges
from edge_runtime.errors import ConfigError, LoweringError

__all__ = ["to_int8"]


def to_int8(
    model: onnx.ModelProto,
    calibration_inputs: Sequence[npt.NDArray[np.float32]] | None = None,
    *,
    ranges: Ranges | None = None,
    method: Method = "minmax",
    percentile: float = 99.99,
    weights_as: WeightForm = "int8",
    qdq_form: QdqForm = "opset17",
    exclude: Iterable[str] = (),
    exclude_first: bool = True,
    exclude_head: bool = True,
    data_max: float = DATA_MAX,
) -> onnx.ModelProto:
    """The typed INT8 form of a tidy float32 `model`; inputs and outputs stay float32.

    Activations are int8 per tensor, weights int8 per output channel, all zero points 0, biases are not quantized; the
    inputs of a Concat share one scale; ConvTranspose is FP16; grouped convolutions are float32 islands (`islands`).
    `qdq_form="opset17"` writes float32 Q/DQ between Casts, legal from opset 13 and the one for JetPack 6; `"opset19"`
    lifts the model to opset 19 where needed and writes float16 scales. `weights_as="int8"` stores int8 constants
    and a DQ; `"float"` stores the float constant with Q and DQ (larger, for tools that want to see weights).

    `exclude` names convolutions that stay FP16, `exclude_first` and `exclude_head` do so for those at the ends. Ranges
    come from `ranges` or from `calibration_inputs` by `method` (see `collect_ranges`); one of the two is
    needed: int8 with invented ranges is silently wrong. Raises `ConfigError` and `LoweringError` (nothing to quantize).
    """
    if qdq_form not in ("opset17", "opset19") or weights_as not in ("int8", "float"):
        raise ConfigError(f"qdq_form={qdq_form!r}, weights_as={weights_as!r}; allowed: opset17|opset19, int8|float")
    if ranges is None:
        if calibration_inputs is None:
            raise ConfigError(
                "to_int8 needs ranges or calibration_inputs: preprocessed frames like those on the device"
            )
        ranges = collect_ranges(model, calibration_inputs, method=method, percentile=percentile)
    if default_opset(model) < 13:
        raise LoweringError(f"opset {default_opset(model)} has no per-channel Q/DQ; export at 17 or later")
    if qdq_form == "opset19" and default_opset(model) < 19:
        model = convert_opset(model, 19)
    plan = plan_int8(
        GraphView(model), ranges.clip, exclude=exclude, exclude_first=exclude_first, exclude_head=exclude_head
    )
    if not plan.weights:
        raise LoweringError("no convolution or matrix product can be quantized; allow more, or ship fp16 alone")
    return retype(model, half=half_nodes(model, ranges, data_max), plan=plan, form=qdq_form, weights_as=weights_as)
