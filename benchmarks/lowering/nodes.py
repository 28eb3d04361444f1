"""ONNX's own node tests, for every operator that the runtime allows, through our runner."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from benchmarks.figures import Figure
from edge_export import lint
from edge_runtime.bundle import ALLOWED_OPERATORS, inspect_model
from edge_runtime.bundle.manifest import InputSpec, OutputSpec
from edge_runtime.bundle.onnx_guard import MIN_OPSET
from edge_runtime.errors import EdgeError, ModelRefusedError
from edge_runtime.runners.onnxruntime import OrtRunner

__all__ = ["Outcome", "Wrapped", "measure_onnx_nodes", "node_cases", "run_case", "wrap"]

FRAME = "frame"
NEWEST_OPSET = 26  # what onnxruntime 1.31 reads
# what lint lets a bundle compute with (rule element-type), and float64, which CPUs take
TYPES = frozenset({
    TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.INT8, TensorProto.UINT8,
    TensorProto.INT32, TensorProto.INT64, TensorProto.BOOL,
})  # fmt: skip
LINTED = ("empty-tensor", "mod-float", "resize-align-corners")  # rules on operators that no bundle passes
Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wrapped:
    """A node test in the runner's form: one float32 NCHW input, float32 outputs; `wanted` by output name.

    `fed` says that the frame carries an input of the test; otherwise all of them are constants. `older` says that the
    operator's newest version is newer than what ONNX Runtime reads, so that the version before it runs.
    """

    model: bytes
    frame: Array
    input: InputSpec
    outputs: tuple[OutputSpec, ...]
    wanted: dict[str, Array]
    fed: bool
    older: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one test: `verdict` "passed", "failed" or "not applicable", and why."""

    name: str
    operators: tuple[str, ...]
    verdict: str
    reason: str = ""
    fed: bool = False
    older: bool = False


def measure_onnx_nodes() -> list[Figure]:
    """The share of the applicable tests that pass, and how many allowed operators have a test that passes."""
    outcomes = [run_case(case) for case in node_cases()]
    passed = [item for item in outcomes if item.verdict == "passed"]
    failed = {item.name: item.reason for item in outcomes if item.verdict == "failed"}
    left = [item for item in outcomes if item.verdict == "not applicable"]
    applicable = len(passed) + len(failed)
    share = 100.0 * len(passed) / applicable
    covered = Counter(operator for item in passed for operator in item.operators)
    spread = f"{len(passed)} of {applicable} applicable; {len(left)} not applicable"
    detail: dict[str, object] = {
        "failed": failed,
        "not applicable, by reason": dict(Counter(_short(item.reason) for item in left).most_common()),
        "ran at the operator's version before the newest": sum(item.older for item in passed),
        "all inputs constant": sum(not item.fed for item in passed),
    }
    counts = dict(sorted(covered.items(), key=lambda pair: pair[1]))
    missing = sorted(ALLOWED_OPERATORS - set(covered))
    return [
        Figure(
            name="ONNX node tests that pass through the runner", value=share, goal="100 %", unit="%", n=applicable,
            met=not failed, spread=spread, detail=detail,
        ),
        Figure(
            name="allowed operators with a passed test", value=100.0 * (1 - len(missing) / len(ALLOWED_OPERATORS)),
            goal="100 %", unit="%", n=len(ALLOWED_OPERATORS), met=not missing,
            spread=f"{min(covered.values())} to {max(covered.values())} tests each",
            detail={"without": missing, "tests by operator": counts},
        ),
    ]  # fmt: skip


def _short(reason: str) -> str:
    """A reason without the names of one test."""
    return re.sub(r" from '[^']*', which", ", which", reason)


@cache
def node_cases() -> tuple[Any, ...]:
    """ONNX's node tests (`onnx.backend.test`) whose graphs use allowed operators alone."""
    from onnx.backend.test.case import node

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tests overflow and divide by zero on purpose
        cases = node.collect_testcases(None)
    return tuple(case for case in cases if case.model and _operators(case.model) <= ALLOWED_OPERATORS)


def run_case(case: Any) -> Outcome:
    """Wrap, load, run and compare one test."""
    name, operators = case.name, tuple(sorted(_operators(case.model)))
    wrapped = wrap(case)
    if isinstance(wrapped, str):
        return Outcome(name=name, operators=operators, verdict="not applicable", reason=wrapped)
    reason = _run(wrapped, case.rtol, case.atol)
    verdict = "failed" if reason else "passed"
    return Outcome(name=name, operators=operators, verdict=verdict, reason=reason, fed=wrapped.fed, older=wrapped.older)


def wrap(case: Any) -> Wrapped | str:
    """The test in the runner's form, or why it cannot be put so.

    The first input that survives float32 comes in as a frame (1, 1, 1, n), is reshaped and cast; the others become
    constants; outputs are cast to float32.
    """
    test: onnx.ModelProto = case.model
    graph = test.graph
    inputs, outputs = case.data_sets[0]
    kinds = [_elem(item) for item in (*graph.input, *graph.output)]
    odd = sorted({_type_name(kind) for kind in kinds if kind not in TYPES})
    if odd:
        return f"element type {', '.join(odd)}"
    opset = _opset(test)
    older = opset is None
    arrays = dict(zip([item.name for item in graph.input], map(_array, inputs), strict=True))
    fed = next((name for name, array in arrays.items() if array.size and _survives(array)), None)
    wanted = {item.name: _array(array) for item, array in zip(graph.output, outputs, strict=True)}
    model = _model(test, arrays, wanted, fed, opset or NEWEST_OPSET)
    data = model.SerializeToString()
    refusal = _refusal(model, data)
    if refusal:
        return refusal
    frame = np.zeros((1, 1, 1, 1), np.float32) if fed is None else arrays[fed].astype(np.float32).reshape(1, 1, 1, -1)
    specs = tuple(OutputSpec(name=f"{name}_out", shape=array.shape, kind="raw") for name, array in wanted.items())
    return Wrapped(
        model=data,
        frame=frame,
        input=InputSpec(name=FRAME, shape=frame.shape),
        outputs=specs,
        wanted={f"{name}_out": array for name, array in wanted.items()},
        fed=fed is not None,
        older=older,
    )


def _refusal(model: onnx.ModelProto, data: bytes) -> str:
    """Why no bundle holds such a graph; "" when one may."""
    try:
        onnx.checker.check_model(model)
        inspect_model(data)
    except onnx.checker.ValidationError as error:
        return f"not in opset {NEWEST_OPSET}: {str(error).splitlines()[0]}"
    except ModelRefusedError as error:
        return f"the device's guard refuses it: {error}"
    found = [item for item in lint(model, "ort-cpu") if item.rule in LINTED]
    return f"lint refuses it: {found[0].rule}" if found else ""


def _model(
    model: onnx.ModelProto, arrays: dict[str, Array], wanted: dict[str, Array], fed: str | None, opset: int
) -> onnx.ModelProto:
    constants = [numpy_helper.from_array(array, name) for name, array in arrays.items() if name != fed]
    nodes: list[NodeProto] = []
    shape = (1, 1, 1, 1)
    if fed is not None:
        array = arrays[fed]
        shape = (1, 1, 1, array.size)
        constants.append(numpy_helper.from_array(np.array(array.shape, np.int64), f"{fed}_shape"))
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        nodes.append(helper.make_node("Reshape", [FRAME, f"{fed}_shape"], [f"{fed}_float"], name="reshape_in"))
        nodes.append(helper.make_node("Cast", [f"{fed}_float"], [fed], name="cast_in", to=kind))
    nodes.extend(model.graph.node)
    results = []
    for source, array in wanted.items():
        name = f"{source}_out"
        nodes.append(helper.make_node("Cast", [source], [name], name=f"cast_{name}", to=TensorProto.FLOAT))
        results.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape))
    frame = helper.make_tensor_value_info(FRAME, TensorProto.FLOAT, shape)
    graph = helper.make_graph(nodes, "node_test", [frame], results, [*model.graph.initializer, *constants])
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=helper.find_min_ir_version_for(opsets))


def _run(wrapped: Wrapped, rtol: float, atol: float) -> str:
    """Why the answer is not the wanted one; "" when it is."""
    try:
        with OrtRunner(wrapped.model, "node", wrapped.input, wrapped.outputs) as runner:
            found = runner.infer({FRAME: wrapped.frame})
            for name, wanted in wrapped.wanted.items():
                exact = wanted.dtype.kind in "iub"
                np.testing.assert_allclose(
                    found[name], wanted.astype(np.float32), 0 if exact else rtol, 0 if exact else atol
                )
    except EdgeError as error:
        return str(error)
    except AssertionError as error:
        return " ".join(str(error).split())[:300]
    return ""


def _array(value: Any) -> Array:
    return numpy_helper.to_array(value) if isinstance(value, TensorProto) else np.asarray(value)


def _operators(model: onnx.ModelProto) -> set[str]:
    return {node.op_type if node.domain in ("", "ai.onnx") else node.domain for node in model.graph.node}


def _elem(item: onnx.ValueInfoProto) -> int:
    return item.type.tensor_type.elem_type if item.type.WhichOneof("value") == "tensor_type" else -1


def _type_name(kind: int) -> str:
    return "no tensor" if kind == -1 else TensorProto.DataType.Name(kind).lower()


def _survives(array: Array) -> bool:
    """Whether the values are the same after a journey through float32."""
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        back = array.astype(np.float32).astype(array.dtype)
    return bool(np.array_equal(back, array, equal_nan=array.dtype.kind == "f"))


def _opset(model: onnx.ModelProto) -> int | None:
    """The lowest opset, from the guard's lowest up, at which each operator is in the version that the test is for."""
    asked = next(item.version for item in model.opset_import if item.domain in ("", "ai.onnx"))
    kinds = sorted(_operators(model))
    wanted = [onnx.defs.get_schema(kind, asked, "").since_version for kind in kinds]
    for opset in range(MIN_OPSET, NEWEST_OPSET + 1):
        if [onnx.defs.get_schema(kind, opset, "").since_version for kind in kinds if _known(kind, opset)] == wanted:
            return opset
    return None


def _known(kind: str, opset: int) -> bool:
    return onnx.defs.has(kind, opset, "")
