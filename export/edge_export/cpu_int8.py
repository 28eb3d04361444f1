"""INT8 for x86 CPUs: uint8 activations, int8 weights, int32 biases, in the Q/DQ form that ONNX Runtime turns into
integer operators and OpenVINO into its low-precision kernels.

A graph that TensorRT reads has Q/DQ on inputs alone, zero points 0 and float biases; on a CPU that form runs slower
than float32. Here every operator that has an integer kernel stands between a DQ on each input and a Q on its output,
so that tensors stay in 8 bits from one to the next, and the 256 steps lie between the ends that were seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto

from edge_export._graph import GraphView, default_opset
from edge_export._placement import carries_int8, check_excluded, makes_output, shared_groups, weight_axis
from edge_export._retype import quantize_weight, round_weight
from edge_export._writer import GraphWriter
from edge_export.ranges import Method, Ranges, collect_ranges
from edge_runtime.errors import ConfigError, LoweringError

__all__ = ["to_cpu_int8"]

# operators on computed tensors alone with a uint8 kernel of their own scales
_FOLLOWERS = frozenset({"Add", "AveragePool", "GlobalAveragePool", "LeakyRelu", "Mul", "Sigmoid"})
# swallowed by the Q behind them, because the steps do not reach outside their range
_CLAMPS = frozenset({"Clip", "Relu"})
_FULL, _REDUCED = 127, 64  # largest weight step
_MAX_BIAS = 2**30  # steps of an int32 bias, half of what fits: the sum needs the rest


@dataclass(frozen=True, slots=True, kw_only=True)
class _Steps:
    """Asymmetric 8 bits: value = scale (q - zero), q in 0..255."""

    scale: np.float32
    zero: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """`integer`: nodes that compute in 8 bits; `weights`: of these, axis of the output channels of their constant;
    `clamped`: of these, the Relu or Clip behind, by the name of the node before it; `steps` by tensor.
    """

    integer: frozenset[str]
    weights: dict[str, int]
    clamped: dict[str, str]
    steps: dict[str, _Steps]


def to_cpu_int8(
    model: onnx.ModelProto,
    calibration_inputs: Sequence[npt.NDArray[np.float32]] | None = None,
    *,
    ranges: Ranges | None = None,
    method: Method = "minmax",
    percentile: float = 99.99,
    reduce_range: bool = False,
    exclude: Iterable[str] = (),
    exclude_head: bool = True,
) -> onnx.ModelProto:
    """The INT8 form of a tidy float32 `model` for ONNX Runtime and OpenVINO on x86; inputs and outputs stay float32.

    Quantized: Conv (grouped ones too), Gemm and MatMul with constant weights, int8 per output channel; and behind them
    Add, Mul, pooling, LeakyRelu, Sigmoid, Concat, nearest Resize and operators that move values. Activations are uint8
    per tensor with the zero point that the signed range asks for (`Ranges.interval`), one pair for both sides of a
    MaxPool or Resize and, where all of its inputs start at 0, of a Concat. Biases are int32 in steps of input times
    weight. ConvTranspose stays in float32: ONNX Runtime has no integer kernel for it. Nodes named in `exclude` stay in
    float32, and with `exclude_head` those that make a graph output: their steps would be steps of the logits.

    A processor without VNNI adds pairs of products in 16 bits, where 2 x 255 x 127 does not fit and saturates without
    a word. `reduce_range` keeps weights within +-64, whose largest pair is 32640, at the price of one bit of every
    weight on every machine. It is off by default: such pairs are rare in trained networks, so the lost bit costs more
    Dice than saturation does (`docs/lowering.md` has the figures), and a bundle's self-test on the device refuses a
    variant that this breaks. Switch it on for a fleet without VNNI whose self-test complains. Ranges come from `ranges`
    or `calibration_inputs` as in `to_int8`. Raises `ConfigError` and `LoweringError` (nothing to quantize).
    """
    if ranges is None:
        if calibration_inputs is None:
            raise ConfigError("to_cpu_int8 needs ranges or calibration_inputs: frames like those on the device")
        ranges = collect_ranges(model, calibration_inputs, method=method, percentile=percentile)
    if default_opset(model) < 13:
        raise LoweringError(f"opset {default_opset(model)} has no per-channel Q/DQ; convert the model to 13 or later")
    view = GraphView(model)
    plan = _plan(view, ranges, check_excluded(view, exclude), exclude_head)
    return _Writer(view, plan, _REDUCED if reduce_range else _FULL).write()


def _plan(view: GraphView, ranges: Ranges, exclude: frozenset[str], exclude_head: bool) -> _Plan:
    def allowed(node: NodeProto) -> bool:
        ends = exclude_head and makes_output(view, node)
        return not ends and node.name not in exclude and len(node.output) == 1 and view.is_float(node.output[0])

    axes = {node.name: weight_axis(view, node, grouped=True) for node in view.nodes if allowed(node)}
    weights = {name: axis for name, axis in axes.items() if axis is not None}
    if not weights:
        raise LoweringError("no convolution or matrix product can be quantized; allow more, or ship fp32 alone")
    integer, clamped = set(weights), dict[str, str]()
    for node in view.nodes:  # in order: what follows an integer node
        makers = [view.producer[name].name for name in node.input if name in view.producer]
        constants = any(name in view.constants for name in node.input)
        follows = any(name in integer or name in clamped.values() for name in makers)
        if follows and allowed(node) and (carries_int8(node) or (node.op_type in _FOLLOWERS and not constants)):
            integer.add(node.name)
        if node.name in integer:
            behind = _clamp_behind(view, node)
            if behind is not None:
                clamped[node.name] = behind.name
    for node in reversed(view.nodes):  # what only integer nodes read
        readers = view.consumers.get(node.output[0], [])
        if allowed(node) and carries_int8(node) and readers and all(reader.name in integer for reader, _ in readers):
            integer.add(node.name)
    return _Plan(integer=frozenset(integer), weights=weights, clamped=clamped, steps=_steps(view, ranges, integer))


def _clamp_behind(view: GraphView, node: NodeProto) -> NodeProto | None:
    readers = view.consumers.get(node.output[0], [])
    if len(readers) != 1 or node.output[0] in view.outputs or readers[0][0].op_type not in _CLAMPS:
        return None
    return readers[0][0]


def _steps(view: GraphView, ranges: Ranges, integer: set[str]) -> dict[str, _Steps]:
    """Steps of every tensor with ranges, one pair for each group that must share it.

    A Concat shares only where all of its inputs start at 0, which makes it a copy. Elsewhere the zero point of one
    input would reach the others, and the Relu of a tensor that does not start at 0 is not swallowed by its Q.
    """
    ends = {name: _ends(view, ranges, name) for name in ranges.clip}

    def shares(node: NodeProto) -> bool:
        starts = {ends[name][0] for name in node.input if name in ends}
        return node.name in integer and (node.op_type != "Concat" or starts == {0.0})

    group = shared_groups(view, ends, shares)
    joined: dict[str, tuple[float, float]] = {}
    for name, key in group.items():
        low, high = joined.get(key, (0.0, 0.0))
        joined[key] = min(low, ends[name][0]), max(high, ends[name][1])
    return {name: _asymmetric(*joined[key]) for name, key in group.items()}


def _ends(view: GraphView, ranges: Ranges, name: str) -> tuple[float, float]:
    low, high = ranges.interval(name)
    if name in view.inputs:  # a picture's ends are its black and its white, which no method clips
        return ranges.low.get(name, low), ranges.high.get(name, high)
    starts_at_0 = name in view.producer and view.producer[name].op_type == "Relu"
    return 0.0 if starts_at_0 else low, high


def _asymmetric(low: float, high: float) -> _Steps:
    scale = np.float32(max((high - low) / 255.0, float(np.finfo(np.float32).tiny)) if high > low else 1.0)
    return _Steps(scale=scale, zero=int(np.clip(np.rint(-low / float(scale)), 0, 255)))


class _Writer(GraphWriter):
    def __init__(self, view: GraphView, plan: _Plan, levels: int) -> None:
        super().__init__(view)
        self.plan = plan
        self.levels = levels
        self.clamps = set(plan.clamped.values())

    def write(self) -> onnx.ModelProto:
        for node in self.view.nodes:
            self._node(node)
        return self.finish()

    def _node(self, node: NodeProto) -> None:
        integer = node.name in self.plan.integer
        copy = NodeProto()
        copy.CopyFrom(node)
        for index, name in enumerate(node.input):
            if name in self.view.constants:
                copy.input[index] = self._constant(node, index, name)
            elif integer and self.view.is_float(name):
                copy.input[index] = self._eight_bits(name)
        self.nodes.append(copy)
        if node.name in self.plan.clamped or not (integer or node.name in self.clamps):
            return
        name = node.output[0]
        copy.output[0] = self.fresh("y")
        self._through(copy.output[0], name, output=name)  # the tensor keeps its name on its way out of 8 bits

    def _eight_bits(self, name: str) -> str:
        """`name` through a Q/DQ pair: as its integer maker left it, or made here for all readers of 8 bits."""
        return self.made.get(("d", name)) or self._through(name, name)

    def _through(self, source: str, name: str, output: str | None = None) -> str:
        pair = self._pair(name)
        quantized = self.emit("QuantizeLinear", "q", [source, *pair])
        self.made["d", name] = self.emit("DequantizeLinear", "d", [quantized, *pair], output=output)
        return self.made["d", name]

    def _pair(self, name: str) -> tuple[str, str]:
        steps = self.plan.steps[name]
        if ("pair", steps) not in self.made:
            self.made["pair", steps] = self.store("s", np.asarray(steps.scale))
        if ("zero", steps.zero) not in self.made:
            self.made["zero", steps.zero] = self.store("z", np.asarray(steps.zero, np.uint8))
        return self.made["pair", steps], self.made["zero", steps.zero]

    def _constant(self, node: NodeProto, index: int, name: str) -> str:
        axis = self.plan.weights.get(node.name)
        bias = None if axis is None else self._bias(node, axis)
        if axis is None or index not in (1, 2) or (index == 2 and bias is None):
            return self.keep(self.view.constants[name])
        quantized, scale = self._weight(node, axis, bias)
        if index == 1:
            return self._stored(quantized, scale, axis)
        assert bias is not None
        step = np.maximum(scale * self._input_scale(node), np.finfo(np.float32).tiny)
        return self._stored(np.rint(bias / step).astype(np.int32), step, 0)

    def _bias(self, node: NodeProto, axis: int) -> npt.NDArray[np.float64] | None:
        """The bias by output channel; None where there is none, or a Gemm adds a matrix."""
        weight, bias = self.view.weight(node), self.view.weight(node, 2)
        if weight is None or bias is None or bias.size not in (1, weight.shape[axis]):
            return None
        return np.broadcast_to(bias.astype(np.float64).reshape(-1), (weight.shape[axis],))

    def _input_scale(self, node: NodeProto) -> np.float32:
        return self.plan.steps[node.input[0]].scale

    def _weight(
        self, node: NodeProto, axis: int, bias: npt.NDArray[np.float64] | None
    ) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
        """Steps and scales of a weight; a channel's scale is raised where its bias would not fit 32 bits."""
        weight = self.view.weight(node)
        assert weight is not None
        values = weight.astype(np.float32)
        quantized, found = quantize_weight(values, axis, levels=self.levels)
        scale = found.astype(np.float32)
        if bias is not None:
            least = np.abs(bias) / (float(self._input_scale(node)) * _MAX_BIAS)
            if (least > scale).any():
                scale = np.maximum(scale, least).astype(np.float32)
                quantized = round_weight(values, scale, axis, self.levels)
        return quantized, scale

    def _stored(self, steps: npt.NDArray[np.signedinteger], scale: npt.NDArray[np.float32], axis: int) -> str:
        zero = self.store("z", np.zeros(scale.shape, steps.dtype))
        return self.emit("DequantizeLinear", "d", [self.store("w", steps), self.store("s", scale), zero], axis=axis)
