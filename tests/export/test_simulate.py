"""The simulation of FP16 on a float32 backend, against NumPy's half and onnx's typed reference."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from edge_export import check_model, run_model, tidy, to_fp16, to_int8
from edge_export._simulate import simulate_types
from edge_export.gate import open_session


@pytest.fixture(scope="module")
def rounding(build):
    nodes = [
        helper.make_node("Cast", ["image"], ["x"], to=TensorProto.FLOAT16),
        helper.make_node("Cast", ["x"], ["mask"], to=TensorProto.FLOAT),
    ]
    return open_session(simulate_types(build(nodes, {}, input_shape=(32,))), optimize=False)


@given(
    arrays(
        np.float32,
        32,
        elements=st.floats(2**-13, 65000, width=32) | st.floats(-65000, -(2**-13), width=32) | st.just(0.0),
    )
)
def test_rounding_is_numpys_half(rounding, values):
    found = rounding.run(None, {"image": values})[0]
    np.testing.assert_array_equal(found, values.astype(np.float16).astype(np.float32))


def test_elementwise_graph_is_exact(build):
    nodes = [helper.make_node("Mul", ["image", "k"], ["x"]), helper.make_node("Add", ["x", "c"], ["mask"])]
    model = to_fp16(tidy(build(nodes, {"k": np.float32([0.3]), "c": np.float32([1.7])})))
    image = np.random.default_rng(0).uniform(0.5, 2, (1, 4, 8, 8)).astype(np.float32)
    wanted = ReferenceEvaluator(model).run(None, {"image": image})[0]
    np.testing.assert_array_equal(run_model(simulate_types(model), [image], optimize=False)[0]["mask"], wanted)


@pytest.mark.parametrize("form", ["opset17", "opset19"])
def test_students_run_and_stay_near(student, trained, form):
    for typed in (to_fp16(student, trained.calibration), to_int8(student, trained.calibration, qdq_form=form)):
        simulated = simulate_types(typed)
        check_model(simulated)
        assert not any(item.data_type == TensorProto.FLOAT16 for item in simulated.graph.initializer)
        found = run_model(simulated, trained.inputs[:1], optimize=False)[0]["mask"]
        wanted = run_model(student, trained.inputs[:1])[0]["mask"]
        assert 0 < np.abs(found - wanted).max() < 0.1 * np.abs(wanted).max()


def test_float32_model_is_unchanged(student, trained):
    found = run_model(simulate_types(student), trained.inputs[:1], optimize=False)[0]["mask"]
    wanted = run_model(student, trained.inputs[:1], optimize=False)[0]["mask"]
    np.testing.assert_array_equal(found, wanted)
