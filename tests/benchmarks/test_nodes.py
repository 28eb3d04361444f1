"""A part of ONNX's node tests through our runner; `python -m benchmarks.lowering --only onnx_nodes` runs them all."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import helper

from benchmarks.lowering.nodes import node_cases, run_case, wrap
from edge_runtime.bundle import ALLOWED_OPERATORS


def case(operator: str, inputs: list[np.ndarray], output: np.ndarray, opset: int = 18) -> SimpleNamespace:
    """A node test in the form of `onnx.backend.test`."""
    values = [
        helper.make_tensor_value_info(f"x{i}", helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for i, a in enumerate(inputs)
    ]
    result = helper.make_tensor_value_info("y", helper.np_dtype_to_tensor_dtype(output.dtype), output.shape)
    node = helper.make_node(operator, [item.name for item in values], ["y"])
    graph = helper.make_graph([node], "case", values, [result])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    return SimpleNamespace(name="case", model=model, data_sets=[(inputs, [output])], rtol=1e-3, atol=1e-7)


def test_every_allowed_operator_has_a_node_test():
    found = {node.op_type for item in node_cases() for node in item.model.graph.node}
    assert found == ALLOWED_OPERATORS


@pytest.mark.parametrize("first", "ACDEFGHILMNPQRSTUW")
def test_some_node_tests_of_every_letter_pass(first):
    chosen = [item for item in node_cases() if item.model.graph.node[0].op_type.startswith(first)][::12]
    outcomes = [run_case(item) for item in chosen]
    assert [f"{item.name}: {item.reason}" for item in outcomes if item.verdict == "failed"] == []
    assert any(item.verdict == "passed" for item in outcomes)


def test_a_wrong_answer_fails():
    x = np.array([[-1.0, 2.0]], np.float32)
    assert run_case(case("Relu", [x], np.array([[0.0, 2.0]], np.float32))).verdict == "passed"
    wrong = run_case(case("Relu", [x], np.array([[0.0, 2.1]], np.float32)))
    assert wrong.verdict == "failed"
    assert "Mismatched elements: 1" in wrong.reason
    integers = np.array([3, -3], np.int64)
    assert run_case(case("Abs", [integers], np.array([3, 4], np.int64))).verdict == "failed"


def test_what_is_fed_and_what_is_constant():
    big = np.array([2**40 + 1, 1], np.int64)  # float32 does not hold it
    wrapped = wrap(case("Add", [big, np.array([1, 2], np.int64)], big))
    assert wrapped.fed
    assert {item.name for item in onnx.load_from_string(wrapped.model).graph.initializer} == {"x0", "x1_shape"}
    alone = wrap(case("Abs", [big], big))
    assert not alone.fed
    assert wrapped.input.shape == (1, 1, 1, 2)


def test_what_does_not_apply_says_why():
    odd = np.array([1, 2], np.uint16)
    assert wrap(case("Max", [odd, odd], odd)) == "element type uint16"
    empty = np.zeros((0, 2), np.float32)
    assert wrap(case("ReduceMax", [empty], np.zeros((1, 1), np.float32))) == "lint refuses it: empty-tensor"
    x = np.ones(2, np.float32)
    assert wrap(case("Mod", [x, x], x)) == "lint refuses it: mod-float"
