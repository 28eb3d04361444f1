"""What an engine really computes in, read back from TensorRT's engine inspector.

The inspector's JSON has two forms. Up to 10.x: `Bindings` is a list of names, a layer's tensors carry one field
`Format/Datatype`. From 11.0: `I/O Tensors` is a list of objects and the field is split into `Format` and `DataType`
(NVIDIA, "Migrating IEngineInspector Usage from TensorRT 10.x to 11.x").
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from edge_runtime.errors import RunnerError

__all__ = ["EngineLayer", "EngineReport", "read_engine", "require_precision"]

# words for an element type, in 8.x ("Row major linear FP32"), 10.x ("Half") and 11.x ("Float")
WORDS = {
    "fp32": "fp32", "float": "fp32", "float32": "fp32", "kfloat": "fp32",
    "fp16": "fp16", "half": "fp16", "float16": "fp16", "khalf": "fp16",
    "bf16": "bf16", "bfloat16": "bf16", "kbf16": "bf16",
    "int8": "int8", "kint8": "int8", "fp8": "fp8", "e4m3": "fp8", "int4": "int4", "fp4": "fp4",
}  # fmt: skip
QUANTIZERS = frozenset({"Quantize", "Dequantize", "DynamicQuantize"})
IDLE = frozenset(
    {"Constant", "NoOp", "Shape", "ShapeHostToDevice", "DeviceToShapeHost", "Signal", "TrainStation", "Wait"}
)
MATRIX = re.compile(r"conv|gemm|matmul|matrixmultiply|fullyconnected", re.IGNORECASE)
ONNX_NAME = re.compile(r"\[ONNX Layer: ([^\]]+)\]")
NAMED = 8  # layers named in an error

Kind = Literal["compute", "quantize", "reformat", "idle"]


class EngineLayer(msgspec.Struct, frozen=True, kw_only=True):
    """One layer of an engine. `precision` is of what it computes with: "unknown" where the engine does not say.

    `weighted`: a convolution or matrix product. `nodes`: the ONNX nodes that went into it.
    """

    name: str
    kind: Kind
    type: str
    precision: str
    weighted: bool
    nodes: tuple[str, ...]


class EngineReport(msgspec.Struct, frozen=True, kw_only=True):
    """An engine's layers, its inputs and outputs, and the form ("10" or "11") of the JSON they were read from."""

    form: Literal["10", "11"]
    io: tuple[str, ...]
    layers: tuple[EngineLayer, ...]

    @property
    def compute(self) -> tuple[EngineLayer, ...]:
        """Layers that compute; copies, quantizers and constants left out."""
        return tuple(layer for layer in self.layers if layer.kind == "compute")

    @property
    def reformats(self) -> tuple[str, ...]:
        """Layers that only change a tensor's layout or type: time spent on no arithmetic."""
        return tuple(layer.name for layer in self.layers if layer.kind == "reformat")

    @property
    def beside_dla(self) -> tuple[str, ...]:
        """Compute layers that fell back to the GPU in an engine for a DLA; empty when nothing runs on one."""
        if not any("DLA" in layer.type for layer in self.layers):
            return ()
        return tuple(layer.name for layer in self.compute if "DLA" not in layer.type)

    def shares(self, *, weighted: bool = False) -> dict[str, float]:
        """Share (0 to 1) of the compute layers in each precision; with `weighted`, of those with weights alone."""
        layers = [layer for layer in self.compute if layer.weighted or not weighted]
        names = sorted({layer.precision for layer in layers})
        return {name: sum(layer.precision == name for layer in layers) / len(layers) for name in names}

    def to_dict(self) -> dict[str, Any]:
        """JSON form: counts and shares first, then every layer."""
        return {
            "form": self.form, "io": list(self.io), "shares": self.shares(), "weighted": self.shares(weighted=True),
            "reformats": list(self.reformats), "beside_dla": list(self.beside_dla),
            "layers": msgspec.to_builtins(self.layers),
        }  # fmt: skip


def read_engine(inspector_json: str) -> EngineReport:
    """The report of one engine from `EngineInspector.get_engine_information(JSON)`, of TensorRT 8.x to 11.x.

    Raises `RunnerError` when the text is no such JSON, or holds names alone because the engine was built without
    `ProfilingVerbosity.DETAILED`.
    """
    try:
        found = json.loads(inspector_json)
        entries = found["Layers"]
        form: Literal["10", "11"] = "11" if "I/O Tensors" in found else "10"
        io = found["I/O Tensors"] if form == "11" else found["Bindings"]
        names = tuple(item["Name"] if form == "11" else str(item) for item in io)
    except (ValueError, TypeError, KeyError) as error:
        raise RunnerError(f"this is not the engine inspector's JSON: {type(error).__name__} {error}") from error
    if not all(isinstance(entry, dict) for entry in entries):
        raise RunnerError(
            f"the engine tells the names of its {len(entries)} layers and no more; build it with "
            "ProfilingVerbosity.DETAILED so that its precision can be read back"
        )
    return EngineReport(form=form, io=names, layers=tuple(_layer(entry) for entry in entries))


def _layer(entry: Mapping[str, Any]) -> EngineLayer:
    name, kind = str(entry.get("Name", "")), str(entry.get("LayerType", ""))
    weighted = _has_weights(entry, kind)
    nodes = [*ONNX_NAME.findall(str(entry.get("Metadata", ""))), *name.split(" + ")]
    return EngineLayer(
        name=name,
        kind=_kind(entry, kind),
        type=kind,
        precision=_precision(entry),
        weighted=weighted,
        nodes=tuple(dict.fromkeys(node.strip() for node in nodes)),
    )


def _kind(entry: Mapping[str, Any], kind: str) -> Kind:
    if kind in QUANTIZERS or (kind == "Reformat" and entry.get("Origin") == "QDQ"):
        return "quantize"
    if kind == "Reformat":
        return "reformat"
    return "idle" if kind in IDLE else "compute"


def _has_weights(entry: Mapping[str, Any], kind: str) -> bool:
    return bool(_weights_type(entry) or MATRIX.search(f"{kind} {entry.get('ParameterType', '')}"))


def _weights_type(entry: Mapping[str, Any]) -> str:
    weights = entry.get("Weights")
    return str(weights.get("Type", "")) if isinstance(weights, dict) and weights.get("Count") else ""


def _precision(entry: Mapping[str, Any]) -> str:
    """Of the weights where the layer tells their type, else of the first input that has one, else of an output."""
    tensors = [*entry.get("Inputs", ()), *entry.get("Outputs", ())]
    texts = [_weights_type(entry), *(_element(tensor) for tensor in tensors)]
    return next((found for found in map(_word, texts) if found), "unknown")


def _element(tensor: Mapping[str, Any]) -> str:
    for field in ("DataType", "Datatype", "Format/Datatype", "Format/DataType"):
        if field in tensor:
            return str(tensor[field])
    return ""


def _word(text: str) -> str:
    return next((WORDS[word] for word in re.findall(r"[a-z0-9]+", text.lower()) if word in WORDS), "")


def require_precision(report: EngineReport, precision: str, wanted: Mapping[str, str] | None = None) -> None:
    """Raise `RunnerError`, the layers named, when `precision` ("fp16", "int8") was asked for and not obtained.

    With `wanted` (`wanted_precisions(model)`) each node that the graph gives this precision must be found in it,
    wherever the engine names the node; without, at least one convolution or matrix product must be in it, or one layer
    of any kind where there are none of these.
    """
    if precision == "fp32":
        return
    weighted = [layer for layer in report.compute if layer.weighted] or list(report.compute)
    obtained = sum(layer.precision == precision for layer in weighted)
    asked = [node for node, kind in (wanted or {}).items() if kind == precision]
    if wanted is not None and not asked:
        raise RunnerError(
            f"{precision} was asked for, and no convolution or matrix product of the model is {precision}"
        )
    fallen = [layer for layer in weighted if layer.precision != precision and set(layer.nodes) & set(asked)]
    if fallen or not obtained:
        raise RunnerError(
            f"{precision} was asked for; the engine computes {obtained} of {len(weighted)} convolutions and matrix "
            f"products in it. Not in {precision}: {_named(fallen or weighted)}. Build for a GPU that has {precision} "
            "kernels for these, or ask for another variant"
        )


def _named(layers: Sequence[EngineLayer]) -> str:
    shown = ", ".join(f"{layer.name!r} ({layer.precision})" for layer in layers[:NAMED])
    return shown + (f" and {len(layers) - NAMED} more" if len(layers) > NAMED else "") if layers else "no layer at all"
