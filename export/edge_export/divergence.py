"""Where a variant leaves the model it came from: the first tensor whose noise exceeds what its inputs brought.

Both graphs are run with every tensor that they share (by name: lowering keeps the names of tensors) as an output. The
measure is the signal-to-quantization-noise ratio of each (Lin, Talathi and Annapureddy, "Fixed point quantization of
deep convolutional networks", 2016, section 3).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, helper

from edge_export._graph import GraphView, main_input
from edge_export._run import DEFAULT_RUNNER, run_variant
from edge_runtime.bundle.manifest import InputSpec, OutputSpec
from edge_runtime.errors import ConfigError, LoweringError

__all__ = ["Divergence", "decibels", "explain_divergence", "first_divergence", "tensor_noise"]

Float32 = npt.NDArray[np.float32]
Model = onnx.ModelProto | bytes

LOSS_DB = 15.0  # a node that loses more than this against its inputs is named
# SQNR above which an input counts as clean: what a variant with tensors of that type ordinarily has
_CLEAN_DB = {TensorProto.INT8: 35.0, TensorProto.UINT8: 35.0, TensorProto.FLOAT16: 60.0}
_CLEAN_FP32_DB = 90.0
_COPIES = frozenset({"Cast", "DequantizeLinear", "QuantizeLinear"})
_SUFFIX = "/seen"  # of the float32 copy of an FP16 tensor that is looked at


@dataclass(frozen=True, slots=True, kw_only=True)
class Divergence:
    """One tensor of the variant against the reference.

    `node` and `operator` make it in the variant; `tensor` is its name in the reference; `sqnr_db` = 10 log10(sum
    reference^2 / sum (reference - variant)^2) over all inputs, `inputs_db` the least SQNR of the tensors that the node
    reads, held at what counts as clean; both infinite when equal. `fused` says that the tensor is wrong only where
    nothing else is looked at: a kernel that joins several nodes computes otherwise than its parts.
    """

    node: str
    operator: str
    tensor: str
    sqnr_db: float
    inputs_db: float
    fused: bool = False

    @property
    def loss_db(self) -> float:
        """How much worse the tensor is than what the node was given, in dB."""
        return self.inputs_db - self.sqnr_db if self.inputs_db > self.sqnr_db else 0.0

    def __str__(self) -> str:
        where = "in a fused kernel that ends at" if self.fused else "at"
        return (
            f"{where} node {self.node!r} ({self.operator}): tensor {self.tensor!r} has {self.sqnr_db:.1f} dB of signal "
            f"over noise, its inputs {self.inputs_db:.1f} dB"
        )


def first_divergence(
    reference: Model,
    variant: Model,
    inputs: Sequence[Float32],
    *,
    loss_db: float = LOSS_DB,
    clean_db: float | None = None,
    runners: tuple[str, str] = (DEFAULT_RUNNER, DEFAULT_RUNNER),
) -> Divergence | None:
    """The first tensor, in the variant's order, that loses more than `loss_db` against its inputs, or None.

    `inputs` are float32 tensors of the input's shape (a few frames do). `runners` compute reference and variant, so
    that one graph can be given twice to compare two runners. `clean_db` is the SQNR above which an input counts as
    clean (by default 35 for a graph with int8, 60 with FP16, else 90): noise that the types bring is not a fault. A
    quantize/dequantize pair is a tensor of its own, with the tensor it copies as its input. When no tensor on its own
    diverges but an output does while nothing is looked at, that output is named with `fused`. Raises `ConfigError` for
    graphs that share no tensor name or no inputs, `LoweringError` and `RunnerError` when a graph cannot be run.
    """
    one, two = _parsed(reference), _parsed(variant)
    noise = tensor_noise(one, two, inputs, clean_db=clean_db, runners=runners)
    for item in noise:
        if item.loss_db > loss_db:
            return item
    found = _outputs_alone(one, two, inputs, runners)
    clean = min([_clean(two) if clean_db is None else clean_db, *(item.sqnr_db for item in noise)])
    view = GraphView(two)
    for name, sqnr in found.items():
        if clean - sqnr > loss_db:
            node = view.producer[name]
            return Divergence(
                node=node.name, operator=node.op_type, tensor=name, sqnr_db=sqnr, inputs_db=clean, fused=True
            )
    return None


def explain_divergence(
    reference: Model,
    variant: Model,
    inputs: Sequence[Float32],
    *,
    runners: tuple[str, str] = (DEFAULT_RUNNER, DEFAULT_RUNNER),
) -> str:
    """One sentence for a report: the first tensor that diverges, or that the noise grows gradually and where most."""
    found = first_divergence(reference, variant, inputs, runners=runners)
    if found is not None:
        return f"it diverges first {found}"
    noise = tensor_noise(reference, variant, inputs, runners=runners)
    worst = min(noise, key=lambda item: item.sqnr_db)
    if worst.sqnr_db == math.inf:
        return "every tensor equals the reference's: look at the export, or at the labels"
    return f"no single tensor diverges, the noise grows from node to node; it is largest {worst}"


def tensor_noise(
    reference: Model,
    variant: Model,
    inputs: Sequence[Float32],
    *,
    clean_db: float | None = None,
    runners: tuple[str, str] = (DEFAULT_RUNNER, DEFAULT_RUNNER),
) -> tuple[Divergence, ...]:
    """A row for each tensor that the reference has too, in the variant's order; see `first_divergence`."""
    if not inputs:
        raise ConfigError("no inputs to compare tensors on; give a few preprocessed frames")
    one, two = _parsed(reference), _parsed(variant)
    left, right = GraphView(one), GraphView(two)
    origin = _origins(left, right)
    if not any(node.op_type not in _COPIES and name in origin for name, node in right.producer.items()):
        raise ConfigError("the graphs share no tensor names; compare variants that `lower` made of one model")
    seen = list(dict.fromkeys(origin.values()))
    power, errors = dict.fromkeys(origin, 0.0), dict.fromkeys(origin, 0.0)
    for sample in inputs:  # one at a time: all tensors of all frames would not fit
        wanted = _run(left, seen, [sample], runners[0])[0]
        found = _run(right, list(origin), [sample], runners[1])[0]
        for name, source in origin.items():
            truth = wanted[source].astype(np.float64)
            power[name] += float((truth**2).sum())
            errors[name] += float(((truth - found[name]) ** 2).sum())
    sqnr = {name: decibels(power[name], errors[name]) for name in origin}
    clean = _clean(two) if clean_db is None else clean_db
    return tuple(_row(right, name, origin, sqnr, clean) for name in origin)


def _parsed(model: Model) -> onnx.ModelProto:
    return onnx.load_model_from_string(model) if isinstance(model, bytes) else model


def _clean(model: onnx.ModelProto) -> float:
    kinds = {item.elem for item in GraphView(model).types.values()}
    return min((limit for kind, limit in _CLEAN_DB.items() if kind in kinds), default=_CLEAN_FP32_DB)


def _origins(left: GraphView, right: GraphView) -> dict[str, str]:
    """Float tensor of the variant -> the reference's tensor it should equal, in the variant's order.

    They have the same name, or come out of nodes of the same name and operator, or the one is a Q/DQ copy of such.
    """
    shared = {name for name in left.producer if left.is_float(name)} | left.inputs
    nodes = {node.name: node for node in left.nodes if node.name}
    found: dict[str, str] = {name: name for name in left.inputs & right.inputs}
    for node in right.nodes:
        twin = nodes.get(node.name)
        for index, name in enumerate(node.output):
            source = ""
            if name in shared:
                source = name
            elif twin is not None and twin.op_type == node.op_type and index < len(twin.output):
                source = twin.output[index]
            elif node.op_type == "DequantizeLinear":
                source = found.get(_copied(right, name), "")
            if source in shared and _comparable(left, source, right, name):
                found[name] = source
    return {name: source for name, source in found.items() if name not in right.inputs}


def _comparable(left: GraphView, source: str, right: GraphView, name: str) -> bool:
    one, two = left.types.get(source), right.types.get(name)
    floats = (TensorProto.FLOAT, TensorProto.FLOAT16)
    return one is not None and two is not None and one.shape == two.shape and two.elem in floats


def _copied(view: GraphView, name: str) -> str:
    """The tensor that `name` is a Cast or Q/DQ copy of."""
    while (node := view.producer.get(name)) is not None and node.op_type in _COPIES:
        name = node.input[0]
    return name


def _run(view: GraphView, names: list[str], samples: list[Float32], runner: str) -> list[dict[str, Float32]]:
    """`names` of a graph for each sample, float32, the input itself too."""
    probed = onnx.ModelProto()
    probed.CopyFrom(view.model)
    specs = [_spec(item) for item in probed.graph.output]
    shown = {spec.name: spec.name for spec in specs}
    for name in names:
        kind = view.types[name]
        if name in shown or name in view.inputs:
            continue
        shown[name] = name
        if kind.elem == TensorProto.FLOAT16:
            shown[name] = name + _SUFFIX
            probed.graph.node.append(helper.make_node("Cast", [name], [shown[name]], to=TensorProto.FLOAT))
        shape = tuple(size for size in kind.shape if size is not None)
        if len(shape) != len(kind.shape):
            raise LoweringError(f"tensor {name!r} has shape {kind.shape}; every dimension must be fixed")
        probed.graph.output.append(helper.make_tensor_value_info(shown[name], TensorProto.FLOAT, shape))
        specs.append(OutputSpec(name=shown[name], shape=shape, kind="raw"))
    input_name, size = main_input(view.model)
    contract = InputSpec(name=input_name, shape=size)  # type: ignore[arg-type]  # any rank will do here
    found = run_variant(probed.SerializeToString(), "probed", samples, contract, tuple(specs), runner=runner)
    return [
        {input_name: sample, **{name: outputs[seen] for name, seen in shown.items()}}
        for sample, outputs in zip(samples, found, strict=True)
    ]


def _spec(item: onnx.ValueInfoProto) -> OutputSpec:
    return OutputSpec(name=item.name, shape=tuple(d.dim_value for d in item.type.tensor_type.shape.dim), kind="raw")


def _outputs_alone(
    one: onnx.ModelProto, two: onnx.ModelProto, inputs: Sequence[Float32], runners: tuple[str, str]
) -> dict[str, float]:
    """SQNR of the outputs that both graphs have, with nothing else looked at."""
    left, right = GraphView(one), GraphView(two)
    wanted = _run(left, [], list(inputs), runners[0])
    found = _run(right, [], list(inputs), runners[1])
    return {
        name: decibels(
            sum(float((w[name].astype(np.float64) ** 2).sum()) for w in wanted),
            sum(float(((w[name].astype(np.float64) - f[name]) ** 2).sum()) for w, f in zip(wanted, found, strict=True)),
        )
        for name in right.outputs
        if name in left.outputs
    }


def decibels(signal: float, noise: float) -> float:
    """10 log10(signal / noise): infinite without noise; minus infinite without signal, or when noise is not finite."""
    if noise == 0:
        return math.inf
    if not math.isfinite(noise) or signal == 0:
        return -math.inf
    return 10.0 * math.log10(signal / noise)


def _row(view: GraphView, name: str, origin: dict[str, str], sqnr: dict[str, float], clean: float) -> Divergence:
    node = view.producer[name]
    if node.op_type == "DequantizeLinear" and node.input[0] in view.producer:
        node = view.producer[node.input[0]]  # its Q is where the values change
    brought = min((sqnr[item] for item in _sources(view, node, origin)), default=math.inf)
    return Divergence(
        node=node.name,
        operator=node.op_type,
        tensor=origin[name],
        sqnr_db=sqnr[name],
        inputs_db=min(brought, clean),
    )


def _sources(view: GraphView, node: NodeProto, known: dict[str, str]) -> set[str]:
    """The nearest compared tensors above `node`."""
    found: set[str] = set()
    waiting = list(node.input)
    while waiting:
        name = waiting.pop()
        if name in known:
            found.add(name)
        elif name in view.producer:
            waiting += view.producer[name].input
    return found
