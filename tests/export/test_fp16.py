"""FP16 lowering: values against NumPy's half precision, types against the file, islands one by one."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from edge_export import check_model, collect_ranges, islands, run_model, tidy, to_fp16
from edge_runtime.errors import ConfigError

RNG = np.random.default_rng(7)
IMAGE = RNG.standard_normal((1, 4, 8, 8)).astype(np.float32)


def f32(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def types(model: onnx.ModelProto) -> dict[str, int]:
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    return {i.name: i.type.tensor_type.elem_type for i in [*inferred.graph.value_info, *inferred.graph.output]}


def test_values_are_numpys_half(build):
    nodes = [helper.make_node("Mul", ["image", "k"], ["x"]), helper.make_node("Add", ["x", "c"], ["mask"])]
    scale, shift = np.float32([0.3]), np.float32([1.7])
    model = to_fp16(tidy(build(nodes, {"k": scale, "c": shift})))
    check_model(model)
    half = np.float16
    wanted = (IMAGE.astype(half) * scale.astype(half) + shift.astype(half)).astype(np.float32)
    found = ReferenceEvaluator(model).run(None, {"image": IMAGE})[0]  # ONNX Runtime computes FP16 parts in float32
    np.testing.assert_array_equal(found, wanted)


def test_borders_are_float32_and_the_inside_is_not(student):
    model = to_fp16(student)
    check_model(model)
    assert [i.type.tensor_type.elem_type for i in model.graph.input] == [TensorProto.FLOAT]
    assert [i.type.tensor_type.elem_type for i in model.graph.output] == [TensorProto.FLOAT]
    assert {i.data_type for i in model.graph.initializer if "Resize" not in i.name} == {TensorProto.FLOAT16}
    casts = [node for node in model.graph.node if node.op_type == "Cast"]
    assert len(casts) == 2, "one Cast in, one Cast out"
    kinds = types(model)
    assert all(kinds[n.output[0]] == TensorProto.FLOAT16 for n in model.graph.node if n.op_type == "Conv")


def test_an_output_that_is_read_inside_too(build):
    nodes = [helper.make_node("Relu", ["image"], ["mask"]), helper.make_node("Neg", ["mask"], ["other"])]
    model = build(nodes, {})
    model.graph.output.append(helper.make_tensor_value_info("other", TensorProto.FLOAT, (1, 4, 8, 8)))
    lowered = to_fp16(tidy(model))
    check_model(lowered)
    found = run_model(lowered, [IMAGE])[0]
    np.testing.assert_array_equal(found["other"], -found["mask"])


def test_size_halves(student):
    assert to_fp16(student).ByteSize() < 0.56 * student.ByteSize()


def test_difference_is_of_the_order_of_half_precision(student, trained):
    wanted, found = (run_model(m, trained.inputs[:4]) for m in (student, to_fp16(student)))
    top = max(np.abs(w["mask"]).max() for w in wanted)
    error = max(np.abs(w["mask"] - f["mask"]).max() for w, f in zip(wanted, found, strict=True))
    assert 0 < error < 2**-7 * top


def test_grouped_convolution_is_an_island(build):
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["x"], pads=[1, 1, 1, 1], group=4),
        helper.make_node("Relu", ["x"], ["mask"]),
    ]
    model = tidy(build(nodes, {"w": f32(4, 1, 3, 3)}))
    assert islands(model, None) == {"Conv_0": "grouped convolution: no FP16 kernel on TensorRT 11.2.1"}
    kinds = types(to_fp16(model))
    assert kinds["Conv_0"] == TensorProto.FLOAT
    assert types(to_fp16(model, grouped_in_fp16=True))["Conv_0"] == TensorProto.FLOAT16


def test_large_activations_are_an_island(build):
    nodes = [
        helper.make_node("Mul", ["image", "k"], ["x"]),
        helper.make_node("Mul", ["x", "r"], ["y"]),
        helper.make_node("Relu", ["y"], ["mask"]),
    ]
    model = tidy(build(nodes, {"k": np.float32([1e5]), "r": np.float32([1e-5])}))
    found = islands(model, collect_ranges(model, [IMAGE]))
    assert set(found) == {"Mul_0", "Mul_1"}
    lowered = to_fp16(model, [IMAGE])
    np.testing.assert_allclose(run_model(lowered, [IMAGE])[0]["mask"], np.maximum(IMAGE, 0), rtol=2e-3)
    ranges = collect_ranges(model, [IMAGE])
    assert "constant" in islands(model, None)["Mul_0"]
    assert "over" in islands(model, ranges, data_max=0.1)["Relu_0"]


def test_sums_and_tiny_constants_are_islands(build):
    nodes = [
        helper.make_node("Mul", ["image", "k"], ["x"]),
        helper.make_node("ReduceMean", ["x", "axes"], ["y"], keepdims=1),
        helper.make_node("Add", ["y", "image"], ["mask"]),
    ]
    model = tidy(build(nodes, {"k": np.float32([1e-6]), "axes": np.array([2, 3], np.int64)}))
    assert set(islands(model, None)) == {"Mul_0", "ReduceMean_0"}
    check_model(to_fp16(model))


def test_keep_fp32_by_name(student):
    kinds = types(to_fp16(student, keep_fp32=["Conv_3"]))
    assert kinds["Conv_3"] == TensorProto.FLOAT
    assert kinds["Conv_4"] == TensorProto.FLOAT16
    with pytest.raises(ConfigError, match="Conv_99"):
        to_fp16(student, keep_fp32=["Conv_99"])


@pytest.mark.parametrize("bound", [0.0, -1.0, 1e6])
def test_bad_bound(student, bound):
    with pytest.raises(ConfigError, match="65504"):
        to_fp16(student, data_max=bound)
