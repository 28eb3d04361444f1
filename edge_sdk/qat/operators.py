"""The ONNX operators that quantization-aware training computes in torch, at any batch size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from onnx import NodeProto, helper
from torch import Tensor
from torch.nn import functional as F

from edge_runtime.errors import LoweringError

__all__ = ["OPERATORS", "attributes"]

Values = list[Tensor | None]
Attributes = Mapping[str, Any]


def attributes(node: NodeProto) -> dict[str, Any]:
    """The attributes of a node as Python data, strings decoded."""
    found = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in found.items()}


def _given(values: Values, index: int) -> Tensor | None:
    return values[index] if len(values) > index else None


def _need(values: Values, index: int = 0) -> Tensor:
    value = _given(values, index)
    if value is None:
        raise LoweringError(f"an operator lacks its input {index}; run onnx.checker on the model")
    return value


def _integers(value: Tensor) -> list[int]:
    return [int(v) for v in value.tolist()]


def _padded(x: Tensor, a: Attributes, rank: int, fill: float = 0.0) -> Tensor:
    if a.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise LoweringError(f"auto_pad {a['auto_pad']} is not computed here; export with explicit pads")
    pads = a.get("pads") or [0] * 2 * rank
    if not any(pads):
        return x
    # ONNX: all begins, then all ends, first axis first; torch: pairs, last axis first
    pairs = [p for axis in reversed(range(rank)) for p in (pads[axis], pads[axis + rank])]
    return F.pad(x, pairs, value=fill)


def _conv(v: Values, a: Attributes) -> Tensor:
    weight = _need(v, 1)
    if weight.dim() != 4:
        raise LoweringError(f"a Conv has a weight of shape {tuple(weight.shape)}; two-dimensional ones are computed")
    x = _padded(_need(v), a, 2)
    stride, dilation = tuple(a.get("strides", (1, 1))), tuple(a.get("dilations", (1, 1)))
    return F.conv2d(x, weight, _given(v, 2), stride, 0, dilation, a.get("group", 1))


def _conv_transpose(v: Values, a: Attributes) -> Tensor:
    pads = a.get("pads") or [0, 0, 0, 0]
    if pads[:2] != pads[2:] or "output_shape" in a or a.get("auto_pad", "NOTSET") != "NOTSET":
        raise LoweringError("a ConvTranspose with uneven pads, output_shape or auto_pad is not computed here")
    return F.conv_transpose2d(
        _need(v),
        _need(v, 1),
        _given(v, 2),
        tuple(a.get("strides", (1, 1))),
        tuple(pads[:2]),
        tuple(a.get("output_padding", (0, 0))),
        a.get("group", 1),
        tuple(a.get("dilations", (1, 1))),
    )


def _pool(kind: Callable[..., Tensor], fill: float) -> Callable[[Values, Attributes], Tensor]:
    def run(v: Values, a: Attributes) -> Tensor:
        if a.get("ceil_mode", 0) or set(a.get("dilations", (1, 1))) != {1}:
            raise LoweringError("pooling with ceil_mode or dilations is not computed here")
        if fill == 0.0 and any(a.get("pads") or ()) and not a.get("count_include_pad", 0):
            raise LoweringError("an average pooling that leaves its padding out is not computed here")
        size = tuple(a["kernel_shape"])
        return kind(_padded(_need(v), a, 2, fill), size, tuple(a.get("strides", (1, 1))))

    return run


def _resize(v: Values, a: Attributes) -> Tensor:
    x, scales, sizes = _need(v), _given(v, 2), _given(v, 3)
    if sizes is not None and sizes.numel():
        size = _integers(sizes)[2:]
    else:
        factors = _need(v, 2).tolist() if scales is not None else []
        size = [int(n * f) for n, f in zip(x.shape[2:], factors[2:], strict=True)]
    mode, how = a.get("mode", "nearest"), a.get("coordinate_transformation_mode", "half_pixel")
    if mode == "nearest":
        return F.interpolate(x, size, mode="nearest")
    if mode == "linear" and how in ("half_pixel", "pytorch_half_pixel", "align_corners"):
        return F.interpolate(x, size, mode="bilinear", align_corners=how == "align_corners")
    raise LoweringError(f"a Resize with mode {mode} and {how} is not computed here; use nearest, or linear half_pixel")


def _gemm(v: Values, a: Attributes) -> Tensor:
    left = _need(v).T if a.get("transA", 0) else _need(v)
    right = _need(v, 1).T if a.get("transB", 0) else _need(v, 1)
    out: Tensor = a.get("alpha", 1.0) * (left @ right)
    bias = _given(v, 2)
    return out if bias is None else out + a.get("beta", 1.0) * bias


def _reshape(v: Values, a: Attributes) -> Tensor:
    x, shape = _need(v), _integers(_need(v, 1))
    if shape and shape[0] == 1:
        shape[0] = x.shape[0]  # the file is of batch 1
    return x.reshape([x.shape[k] if size == 0 else size for k, size in enumerate(shape)])


def _slice(v: Values, a: Attributes) -> Tensor:
    x = _need(v)
    starts, ends = _integers(_need(v, 1)), _integers(_need(v, 2))
    given_axes, given_steps = _given(v, 3), _given(v, 4)
    axes = list(range(len(starts))) if given_axes is None else _integers(given_axes)
    steps = [1] * len(starts) if given_steps is None else _integers(given_steps)
    if min(steps) < 1:
        raise LoweringError("a Slice with a negative step is not computed here")
    index = [slice(None)] * x.dim()
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        index[axis] = slice(start, end, step)
    return x[tuple(index)]


def _clip(v: Values, a: Attributes) -> Tensor:
    return torch.clamp(_need(v), min=_given(v, 1), max=_given(v, 2))


def _concat(v: Values, a: Attributes) -> Tensor:
    return torch.cat([value for value in v if value is not None], dim=a["axis"])


OPERATORS: dict[str, Callable[[Values, Attributes], Tensor]] = {
    "Add": lambda v, a: _need(v) + _need(v, 1),
    "AveragePool": _pool(F.avg_pool2d, 0.0),
    "Cast": lambda v, a: _need(v),
    "Clip": _clip,
    "Concat": _concat,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Div": lambda v, a: _need(v) / _need(v, 1),
    "Flatten": lambda v, a: _need(v).flatten(a.get("axis", 1)),
    "Gemm": _gemm,
    "GlobalAveragePool": lambda v, a: _need(v).mean((2, 3), keepdim=True),
    "HardSigmoid": lambda v, a: (a.get("alpha", 0.2) * _need(v) + a.get("beta", 0.5)).clamp(0, 1),
    "HardSwish": lambda v, a: F.hardswish(_need(v)),
    "Identity": lambda v, a: _need(v),
    "LeakyRelu": lambda v, a: F.leaky_relu(_need(v), a.get("alpha", 0.01)),
    "MatMul": lambda v, a: _need(v) @ _need(v, 1),
    "MaxPool": _pool(F.max_pool2d, float("-inf")),
    "Mul": lambda v, a: _need(v) * _need(v, 1),
    "Relu": lambda v, a: F.relu(_need(v)),
    "Reshape": _reshape,
    "Resize": _resize,
    "Sigmoid": lambda v, a: torch.sigmoid(_need(v)),
    "Slice": _slice,
    "Softmax": lambda v, a: torch.softmax(_need(v), a.get("axis", -1)),
    "Sub": lambda v, a: _need(v) - _need(v, 1),
    "Transpose": lambda v, a: _need(v).permute(tuple(a["perm"])),
}
"""What is computed, by operator type: (inputs, attributes) -> output. Casts keep float32."""
