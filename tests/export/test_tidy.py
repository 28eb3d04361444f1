"""Tidying keeps the function and drops the rest; the truth is onnx's own reference evaluator."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from edge_export import convert_opset, tidy
from edge_runtime.errors import LoweringError

RNG = np.random.default_rng(5)


def f32(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def norm_constants(channels: int) -> dict[str, np.ndarray]:
    variance = RNG.uniform(0.5, 2.0, channels).astype(np.float32)
    return {"g": f32(channels), "b": f32(channels), "m": f32(channels), "v": variance}


def same_function(left: onnx.ModelProto, right: onnx.ModelProto, tolerance: float) -> None:
    image = f32(*[d.dim_value for d in left.graph.input[0].type.tensor_type.shape.dim])
    wanted = ReferenceEvaluator(left).run(None, {"image": image})[0]
    found = ReferenceEvaluator(right).run(None, {"image": image})[0]
    np.testing.assert_allclose(found, wanted, atol=tolerance, rtol=0)


@pytest.mark.parametrize("kind", ["Conv", "ConvTranspose"])
@pytest.mark.parametrize("bias", [False, True])
def test_batch_norm_is_folded(build, kind, bias):
    weight = f32(6, 4, 3, 3) if kind == "Conv" else f32(4, 6, 3, 3)
    inputs = ["image", "w", "c"] if bias else ["image", "w"]
    nodes = [
        helper.make_node(kind, inputs, ["x"], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["x", "g", "b", "m", "v"], ["mask"], epsilon=1e-3),
    ]
    model = build(nodes, {"w": weight, "c": f32(6), **norm_constants(6)}, output_shape=(1, 6, 8, 8))
    before = model.SerializeToString()
    result = tidy(model)
    assert [n.op_type for n in result.graph.node] == [kind]
    assert model.SerializeToString() == before, "the argument was changed"
    same_function(model, result, 2e-5)


def test_batch_norm_alone_becomes_a_scale_and_a_shift(build):
    nodes = [helper.make_node("BatchNormalization", ["image", "g", "b", "m", "v"], ["mask"])]
    model = build(nodes, norm_constants(4))
    result = tidy(model)
    assert [n.op_type for n in result.graph.node] == ["Mul", "Add"]
    same_function(model, result, 2e-5)


def test_batch_norm_behind_a_shared_convolution_leaves_it_alone(build):
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["x"], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["x", "g", "b", "m", "v"], ["y"]),
        helper.make_node("Add", ["x", "y"], ["mask"]),
    ]
    model = build(nodes, {"w": f32(4, 4, 3, 3), **norm_constants(4)})
    result = tidy(model)
    assert [n.op_type for n in result.graph.node] == ["Conv", "Mul", "Add", "Add"]
    same_function(model, result, 2e-5)


def test_batch_norm_behind_a_convolution_that_is_an_output(build):
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["mask"], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["mask", "g", "b", "m", "v"], ["y"]),
    ]
    model = build(nodes, {"w": f32(4, 4, 3, 3), **norm_constants(4)})
    model.graph.output.append(helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, (1, 4, 8, 8)))
    result = tidy(model)
    assert [o.name for o in result.graph.output] == ["mask", "y"]
    same_function(model, result, 2e-5)


def test_batch_norm_of_training_is_refused(build):
    nodes = [
        helper.make_node("ReduceMean", ["image", "axes"], ["mean"], keepdims=0),
        helper.make_node("BatchNormalization", ["image", "g", "b", "mean", "v"], ["mask"]),
    ]
    with pytest.raises(LoweringError, match="as in training"):
        tidy(build(nodes, {**norm_constants(4), "axes": np.int64([0, 2, 3])}))


def test_identity_constant_and_defaults_disappear(build):
    value = numpy_helper.from_array(np.float32([2.0]), "k")
    nodes = [
        helper.make_node("Constant", [], ["k"], value=value),
        helper.make_node("Identity", ["image"], ["a"]),
        helper.make_node("Mul", ["a", "k"], ["p"]),
        helper.make_node("LeakyRelu", ["p"], ["q"], alpha=0.009999999776482582),
        helper.make_node("Identity", ["q"], ["mask"]),
    ]
    model = build(nodes, {"unused": f32(3)})
    result = tidy(model)
    assert [(n.op_type, n.name, list(n.output)) for n in result.graph.node] == [
        ("Mul", "Mul_0", ["Mul_0"]),
        ("LeakyRelu", "LeakyRelu_0", ["mask"]),
    ]
    assert not result.graph.node[1].attribute, "an attribute equal to its default was kept"
    assert [i.name for i in result.graph.initializer] == ["Mul_0.1"]
    same_function(model, result, 0)


def test_identity_from_input_to_output_stays(build):
    result = tidy(build([helper.make_node("Identity", ["image"], ["mask"])], {}))
    assert [n.op_type for n in result.graph.node] == ["Identity"]


def test_identity_between_two_outputs_readers(build):
    nodes = [
        helper.make_node("Relu", ["image"], ["x"]),
        helper.make_node("Identity", ["x"], ["mask"]),
        helper.make_node("Neg", ["x"], ["other"]),
    ]
    model = build(nodes, {})
    model.graph.output.append(helper.make_tensor_value_info("other", onnx.TensorProto.FLOAT, (1, 4, 8, 8)))
    result = tidy(model)
    onnx.checker.check_model(result, full_check=True)
    assert [n.op_type for n in result.graph.node] == ["Relu", "Neg"]
    same_function(model, result, 0)


def test_kernel_shape_is_filled_in_and_integers_are_shared(build):
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["x"], pads=[1, 1, 1, 1]),
        helper.make_node("Reshape", ["x", "s1"], ["y"]),
        helper.make_node("Reshape", ["y", "s2"], ["mask"]),
    ]
    shape = np.array([1, 4, 8, 8], np.int64)
    result = tidy(build(nodes, {"w": f32(4, 4, 3, 3), "s1": shape, "s2": shape.copy()}))
    kernel = [a for a in result.graph.node[0].attribute if a.name == "kernel_shape"]
    assert list(kernel[0].ints) == [3, 3]
    assert len(result.graph.initializer) == 2


def test_documentation_and_value_info_are_dropped(build):
    model = build([helper.make_node("Relu", ["image"], ["mask"], doc_string="long" * 99)], {})
    model = onnx.shape_inference.infer_shapes(model)
    model.metadata_props.add(key="k", value="v")
    result = tidy(model)
    assert b"long" not in result.SerializeToString()
    assert not result.graph.value_info
    assert not result.metadata_props


def test_local_functions_are_refused(build):
    model = build([helper.make_node("Relu", ["image"], ["mask"])], {})
    model.functions.append(helper.make_function("d", "f", ["x"], ["y"], [], [helper.make_opsetid("", 18)]))
    with pytest.raises(LoweringError, match="local functions"):
        tidy(model)


def test_opset_is_converted_exactly_or_refused(build):
    model = build([helper.make_node("Relu", ["image"], ["mask"])], {})
    assert convert_opset(model, 18) is model
    assert convert_opset(model, 19).opset_import[0].version == 19
    with pytest.raises(LoweringError, match="cannot go from opset 18 to 999"):
        convert_opset(model, 999)
