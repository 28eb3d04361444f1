"""The one pass that writes precision into a graph: element types by node, Casts and Q/DQ pairs by edge.

Both lowerings use it: FP16 is the case without quantized edges. A tensor keeps the type of the node that makes it;
where a reader wants another type, one Cast is put between and shared by all readers that want the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, helper

from edge_export._graph import GraphView, attribute, default_opset
from edge_export._writer import GraphWriter
from edge_runtime.errors import LoweringError

__all__ = ["QdqForm", "QuantPlan", "WeightForm", "quantize_weight", "retype", "round_weight", "smallest_half"]

QdqForm = Literal["opset17", "opset19"]
WeightForm = Literal["int8", "float"]

smallest_half = float(np.finfo(np.float16).tiny)  # below 2^-14 an FP16 number loses digits

# float inputs that the operator's own definition keeps in float32 (Resize: roi and scales)
_FLOAT32_INPUTS = {"Resize": frozenset({1, 2})}


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantPlan:
    """Which edges carry int8. Edges are (node name, input index).

    `scales`: tensor name -> scale of its int8 form, in the tensor's unit per step; `edges`: activations that pass
    through a Q/DQ pair; `weights`: edges whose constant is stored in int8 -> axis of the output channels.
    """

    scales: Mapping[str, float] = field(default_factory=dict)
    edges: frozenset[tuple[str, int]] = frozenset()
    weights: Mapping[tuple[str, int], int] = field(default_factory=dict)


def quantize_weight(
    weight: npt.NDArray[np.float32], axis: int, scale_dtype: type[np.floating] = np.float32, *, levels: int = 127
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.floating]]:
    """Symmetric int8 of `weight`, one scale per index of `axis`: q = clip(rint(w / s), -L, L), s = max|w| / L.

    L is `levels`, at most 127. The scales are rounded to `scale_dtype` BEFORE the division, so that q * s is the best
    with the scale that is stored. A channel of zeros has scale 1; no scale is below what the type holds (float32:
    without subnormals, which some devices take for zero).
    """
    others = tuple(i for i in range(weight.ndim) if i != axis)
    top = np.abs(weight.astype(np.float64)).max(axis=others)
    limits = np.finfo(scale_dtype)
    least = limits.tiny if limits.bits > 16 else limits.smallest_subnormal
    scale = np.where(top > 0, np.maximum(top / levels, least), 1.0).astype(scale_dtype)
    return round_weight(weight, scale, axis, levels), scale


def round_weight(
    weight: npt.NDArray[np.float32], scale: npt.NDArray[np.floating], axis: int, levels: int = 127
) -> npt.NDArray[np.int8]:
    """`weight` in steps of `scale`, (channels,) along `axis`, within +-`levels`."""
    shape = [1] * weight.ndim
    shape[axis] = -1
    steps = np.rint(weight.astype(np.float64) / scale.astype(np.float64).reshape(shape))
    return np.clip(steps, -levels, levels).astype(np.int8)


def retype(
    model: onnx.ModelProto,
    *,
    half: frozenset[str],
    plan: QuantPlan | None = None,
    form: QdqForm = "opset17",
    weights_as: WeightForm = "int8",
) -> onnx.ModelProto:
    """`model` (float32, tidy) with the nodes named in `half` computed in FP16 and the edges of `plan` in int8.

    Inputs and outputs stay float32. With form `opset17` all Q/DQ are float32 with float32 scales; with `opset19` a Q
    takes its input as it is and a DQ gives what its reader wants, the scales being of that type.
    """
    if form == "opset19" and default_opset(model) < 19:
        raise LoweringError(f"float16 Q/DQ needs opset 19; the model has {default_opset(model)}: convert it first")
    return _Writer(GraphView(model), half, plan or QuantPlan(), form, weights_as).write()


class _Writer(GraphWriter):
    def __init__(
        self, view: GraphView, half: frozenset[str], plan: QuantPlan, form: QdqForm, weights_as: WeightForm
    ) -> None:
        super().__init__(view)
        self.half = half
        self.plan = plan
        self.form = form
        self.weights_as = weights_as
        self.native: dict[str, int] = dict.fromkeys(view.inputs, TensorProto.FLOAT)

    def write(self) -> onnx.ModelProto:
        for node in self.view.nodes:
            self._node(node)
        return self.finish()

    def _node(self, node: NodeProto) -> None:
        kind = TensorProto.FLOAT16 if node.name in self.half else TensorProto.FLOAT
        copy = NodeProto()
        copy.CopyFrom(node)
        for index, name in enumerate(node.input):
            if name:
                copy.input[index] = self._feed(node, index, name, kind)
        if node.op_type == "Cast" and attribute(node, "to") == TensorProto.FLOAT:
            kind = TensorProto.FLOAT
        finals: list[NodeProto] = []
        for index, name in enumerate(node.output):
            if self.view.is_float(name):
                self.native[name] = kind
                if name in self.view.outputs and kind == TensorProto.FLOAT16:
                    copy.output[index] = self._rename_output(name)
                    finals.append(self._cast_node(copy.output[index], name, TensorProto.FLOAT))
        self.nodes += [copy, *finals]

    def _rename_output(self, name: str) -> str:
        """The FP16 tensor behind a float32 graph output; inner readers take it directly."""
        inner = self.fresh("y")
        self.made[("alias", name)] = inner
        return inner

    def _feed(self, node: NodeProto, index: int, name: str, kind: int) -> str:
        """The tensor that input `index` of `node` reads, made on the way if need be."""
        tensor = self.view.constants.get(name)
        if tensor is not None and tensor.data_type != TensorProto.FLOAT:
            return self.keep(tensor)
        if not self.view.is_float(name):
            return name
        wanted = TensorProto.FLOAT if index in _FLOAT32_INPUTS.get(node.op_type, ()) else kind
        edge = (node.name, index)
        if edge in self.plan.weights:
            return self._int8_weight(name, self.plan.weights[edge], wanted)
        if tensor is not None:
            return self.keep(tensor) if wanted == TensorProto.FLOAT else self._half_constant(name)
        if edge in self.plan.edges:
            return self._int8_activation(name, wanted)
        return self._cast(self.made.get(("alias", name), name), self.native[name], wanted)

    def _half_constant(self, name: str) -> str:
        key = ("half", name)
        if key not in self.made:
            value = self.view.array(name)
            assert value is not None
            with np.errstate(over="ignore"):
                lowered = value.astype(np.float16)
            if not np.isfinite(lowered).all():
                raise LoweringError(f"constant {name!r} does not fit FP16 (above 65504); keep its node in float32")
            self.made[key] = self.store("h", lowered)
        return self.made[key]

    def _int8_activation(self, name: str, wanted: int) -> str:
        scale = self.plan.scales[name]
        native = self.native[name]
        source = self.made.get(("alias", name), name)
        kind = TensorProto.FLOAT
        if self.form == "opset19" and native == TensorProto.FLOAT16 and scale >= smallest_half:
            kind = TensorProto.FLOAT16
        key = ("q", name)
        if key not in self.made:
            source = self._cast(source, native, kind)
            self.made[key] = self.emit("QuantizeLinear", "q", [source, self._scale(scale, kind), self._zero(())])
        return self._dequantize(self.made[key], scale, wanted)

    def _dequantize(self, quantized: str, scale: float, wanted: int) -> str:
        direct = wanted == TensorProto.FLOAT or (self.form == "opset19" and scale >= smallest_half)
        kind = wanted if direct else TensorProto.FLOAT
        key = ("dq", quantized, kind)
        if key not in self.made:
            inputs = [quantized, self._scale(scale, kind), self._zero(())]
            self.made[key] = self.emit("DequantizeLinear", "d", inputs)
        return self._cast(self.made[key], kind, wanted)

    def _int8_weight(self, name: str, axis: int, wanted: int) -> str:
        key = ("w", name, axis, wanted)
        if key in self.made:
            return self.made[key]
        value = self.view.array(name)
        assert value is not None
        kind = wanted
        if wanted == TensorProto.FLOAT16:
            _, exact = quantize_weight(value.astype(np.float32), axis)
            if self.form == "opset17" or exact.min() < smallest_half:
                kind = TensorProto.FLOAT
        dtype: type[np.floating] = np.float16 if kind == TensorProto.FLOAT16 else np.float32
        steps, scale = quantize_weight(value.astype(np.float32), axis, dtype)
        stored_scale, zero = self.store("s", scale), self._zero(scale.shape)
        if self.weights_as == "int8":
            quantized = self.store("w", steps)
        else:
            stored = self.store("w", value.astype(dtype))
            quantized = self.emit("QuantizeLinear", "q", [stored, stored_scale, zero], axis=axis)
        output = self.emit("DequantizeLinear", "d", [quantized, stored_scale, zero], axis=axis)
        self.made[key] = self._cast(output, kind, wanted)
        return self.made[key]

    def _scale(self, scale: float, kind: int) -> str:
        key = ("scale", scale, kind)
        if key not in self.made:
            # one rounding for every reader: a pair whose two ends have different types must still share its step
            rounded = np.float16(scale) if self.form == "opset19" and scale >= smallest_half else np.float32(scale)
            value = np.asarray(rounded, np.float16 if kind == TensorProto.FLOAT16 else np.float32)
            self.made[key] = self.store("s", value)
        return self.made[key]

    def _zero(self, shape: tuple[int, ...]) -> str:
        key = ("zero", shape)
        if key not in self.made:
            self.made[key] = self.store("z", np.zeros(shape, np.int8))
        return self.made[key]

    def _cast(self, name: str, native: int, wanted: int) -> str:
        if native == wanted:
            return name
        key = ("cast", name, wanted)
        if key not in self.made:
            self.made[key] = self.fresh("c")
            self.nodes.append(self._cast_node(name, self.made[key], wanted))
        return self.made[key]

    def _cast_node(self, source: str, target: str, kind: int) -> NodeProto:
        return helper.make_node("Cast", [source], [target], name=self.fresh("C"), to=kind)
