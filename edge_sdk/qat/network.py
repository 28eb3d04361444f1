"""A quantized ONNX file as a torch module whose float weights and steps can be trained.

The file that `emit` writes says where the Q/DQ pairs are; the float32 model it was made from holds the weights. Both
have the same node names, so every constant of the file is traced to the weight that it was rounded from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import onnx
import torch
from onnx import NodeProto, numpy_helper
from torch import Tensor, nn

from edge_export import Ranges
from edge_runtime.errors import LoweringError
from edge_sdk.qat.operators import OPERATORS, attributes

__all__ = ["Emit", "FakeQuantNetwork"]

Emit = Callable[[onnx.ModelProto, Ranges], onnx.ModelProto]
"""(float32 model, ranges) -> the quantized file, such as `lambda model, ranges: to_int8(model, ranges=ranges)`."""

_LEARNED = {"Conv": (1, 2), "ConvTranspose": (1, 2), "Gemm": (1, 2), "MatMul": (1,)}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Steps:
    """8 bits of one tensor: `low` and `high` are the ends of q - zero; `scale` the collected step."""

    scale: float
    zero: int
    low: int
    high: int


class FakeQuantNetwork(nn.Module):
    """(N, ...) float32 input -> the outputs by name, computed with the file's rounding.

    Weights: the float32 model's, a parameter each; where the file stores 8 bits they are rounded with the scale of
    their largest value, as the file will be. Activations: q = clip(rint(x / s) + z), each s times `exp` of a learned
    parameter. The gradient of rounding is the identity, that of a step is LSQ's (Esser et al., ICLR 2020, equation
    3, with its gradient scale), in the logarithm as in TQT (Jain et al., MLSys 2020). Steps that the file shares are
    one. FP16 parts are computed in float32. Raises `LoweringError` for operators not in `OPERATORS`.
    """

    def __init__(self, model: onnx.ModelProto, quantized: onnx.ModelProto) -> None:
        super().__init__()
        self.model = model
        self.outputs = [item.name for item in quantized.graph.output]
        self.input = _input(quantized)
        self.nodes = list(quantized.graph.node)
        self.makers = {name: node for node in self.nodes for name in node.output}
        self.constants = {i.name: numpy_helper.to_array(i) for i in quantized.graph.initializer}
        self.original = {node.name: node for node in model.graph.node}
        self.arguments = {node.name: attributes(node) for node in self.nodes}
        self.weights = nn.ParameterDict()
        self.levels: dict[tuple[str, int], tuple[int, int | None]] = {}
        self.steps: dict[str, _Steps] = {}
        self.names: dict[str, str] = {}
        self.log_steps = nn.ParameterDict()
        self._check()
        self._find_weights()
        self._find_steps()

    def _check(self) -> None:
        known = {*OPERATORS, "QuantizeLinear", "DequantizeLinear"}
        bad = [f"{node.name} ({node.op_type})" for node in self.nodes if node.op_type not in known]
        if bad:
            raise LoweringError(f"no rule to train through {bad}; those there are: {sorted(OPERATORS)}")

    def _find_weights(self) -> None:
        """Float32 weights and biases of the model that the file's nodes read, by the model's name for them."""
        arrays = {item.name: item for item in self.model.graph.initializer}
        for node in self.nodes:
            source = self.original.get(node.name)
            for index in _LEARNED.get(node.op_type, ()) if source is not None else ():
                assert source is not None
                if index >= len(source.input) or source.input[index] not in arrays:
                    continue
                name = source.input[index]
                self.weights[_key(name)] = nn.Parameter(torch.tensor(numpy_helper.to_array(arrays[name])))
                maker = self._behind_casts(node.input[index])
                if index == 1 and maker is not None and maker.op_type == "DequantizeLinear":
                    self.levels[(node.name, index)] = self._weight_form(maker)

    def _weight_form(self, node: NodeProto) -> tuple[int, int | None]:
        """Largest step and axis of the scales (None: one scale) of a stored weight."""
        steps = self.constants.get(node.input[0])
        top = 127 if steps is None else int(np.abs(steps.astype(np.int32)).max(initial=1))
        single = self.constants[node.input[1]].ndim == 0
        return top, None if single else self.arguments[node.name].get("axis", 1)

    def _find_steps(self) -> None:
        for node in self.nodes:
            if node.op_type != "QuantizeLinear" or node.input[0] in self.constants:
                continue
            scale, zero = float(self.constants[node.input[1]]), self.constants[node.input[2]]
            limits = np.iinfo(zero.dtype)
            steps = _Steps(
                scale=scale, zero=int(zero), low=int(limits.min) - int(zero), high=int(limits.max) - int(zero)
            )
            self.steps[node.output[0]] = steps
            self.names[node.output[0]] = self._tensor(node)
            # equal steps are shared ones; two tensors that have them by chance are trained as one
            self.log_steps[self.key(node.output[0])] = nn.Parameter(torch.zeros(()))

    def key(self, name: str) -> str:
        """The name in `log_steps` of the steps of the rounded tensor `name` of the file."""
        steps = self.steps[name]
        return _key(f"{steps.scale.hex()}_{steps.zero}")

    def _tensor(self, node: NodeProto) -> str:
        """The model's name of the tensor that a QuantizeLinear rounds."""
        name = node.input[0]
        maker = self._behind_casts(name)
        if maker is None:
            return self.input
        source = self.original.get(maker.name)
        if source is None:
            raise LoweringError(f"{node.name} rounds the output of {maker.name}, which the float32 model does not have")
        return str(source.output[list(maker.output).index(self._uncast(name))])

    def _uncast(self, name: str) -> str:
        while name in self.makers and self.makers[name].op_type == "Cast":
            name = self.makers[name].input[0]
        return name

    def _behind_casts(self, name: str) -> NodeProto | None:
        return self.makers.get(self._uncast(name))

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        """The outputs by name."""
        values: dict[str, Tensor] = {self.input: inputs}
        for node in self.nodes:
            if node.op_type == "QuantizeLinear":
                if node.input[0] in values:
                    values[node.output[0]] = self._rounded(values[node.input[0]], node.output[0])
            elif node.op_type in ("DequantizeLinear", "Cast") and node.input[0] not in values:
                continue  # of a constant: its reader takes the weight behind it
            elif node.op_type == "DequantizeLinear":
                values[node.output[0]] = values[node.input[0]]
            else:
                taken = [self._value(node, index, values) for index in range(len(node.input))]
                values[node.output[0]] = OPERATORS[node.op_type](taken, self.arguments[node.name])
        return {name: values[name] for name in self.outputs}

    def _value(self, node: NodeProto, index: int, values: dict[str, Tensor]) -> Tensor | None:
        name = node.input[index]
        if not name:
            return None
        if name in values:
            return values[name]
        source = self.original.get(node.name)
        if source is not None and index in _LEARNED.get(node.op_type, ()):
            weight = self.weights[_key(source.input[index])]
            form = self.levels.get((node.name, index))
            return weight if form is None else _round_weight(weight, *form)
        if name in self.constants:
            value = torch.from_numpy(np.array(self.constants[name]))
            return value.to(values[self.input].device, torch.float32) if value.is_floating_point() else value
        raise LoweringError(f"{node.name} ({node.op_type}) reads {name!r}, a rounded constant that is not a weight")

    def _rounded(self, x: Tensor, name: str) -> Tensor:
        steps = self.steps[name]
        learned = self.log_steps[self.key(name)]
        share = (max(1, x[0].numel()) * max(steps.high, 1)) ** -0.5
        scaled = learned * share + (learned - learned * share).detach()
        scale = steps.scale * torch.exp(scaled)
        return _round_through(torch.clamp(x / scale, steps.low, steps.high)) * scale

    def result(self, ranges: Ranges) -> tuple[onnx.ModelProto, Ranges]:
        """The float32 model with the weights of now, and ranges from which the same steps follow.

        Tensors without steps of their own have the range 0, so that they leave the joint one of a group as it is.
        """
        trained = onnx.ModelProto()
        trained.CopyFrom(self.model)
        for item in trained.graph.initializer:
            if _key(item.name) in self.weights:
                value = self.weights[_key(item.name)].detach().cpu().numpy()
                item.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value), item.name))
        clip, low, high = (dict.fromkeys(table, 0.0) for table in (ranges.clip, ranges.clip, ranges.clip))
        for quantized, tensor in self.names.items():
            steps = self.steps[quantized]
            scale = steps.scale * float(torch.exp(self.log_steps[self.key(quantized)].detach()))
            symmetric = steps.low == -128
            low[tensor], high[tensor] = (-127 * scale if symmetric else steps.low * scale), steps.high * scale
            clip[tensor] = max(-low[tensor], high[tensor])
        return trained, replace(ranges, clip=clip, low=low, high=high)


def _round_through(x: Tensor) -> Tensor:
    """`x` rounded to even, with the gradient of `x`."""
    return x + (torch.round(x) - x).detach()


def _round_weight(weight: Tensor, levels: int, axis: int | None) -> Tensor:
    dims = [d for d in range(weight.dim()) if d != axis]
    top = weight.detach().abs().amax(dim=dims, keepdim=True)
    scale = torch.where(top > 0, top / levels, torch.ones_like(top))
    return _round_through(weight / scale) * scale


def _input(model: onnx.ModelProto) -> str:
    stored = {item.name for item in model.graph.initializer}
    return str(next(item.name for item in model.graph.input if item.name not in stored))


def _key(name: str) -> str:
    return name.replace(".", "|")  # torch allows no dots in a parameter's name
