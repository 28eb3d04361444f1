"""INT8 lowering: stored numbers against closed forms, structure against NVIDIA's rules."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import TensorProto, helper, numpy_helper

from edge_export import check_model, collect_ranges, lint, run_model, tidy, to_int8
from edge_export._placement import scale_groups
from edge_export._retype import quantize_weight
from edge_runtime.errors import ConfigError, LoweringError

RNG = np.random.default_rng(11)
IMAGE = RNG.standard_normal((1, 4, 8, 8)).astype(np.float32)
ENDS = {"exclude_first": False, "exclude_head": False}


def f32(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def constants(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}


def kinds(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def maker(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    """The node behind a tensor, Casts skipped."""
    producers = {output: node for node in model.graph.node for output in node.output}
    node = producers[name]
    return maker(model, node.input[0]) if node.op_type == "Cast" and node.input[0] in producers else node


def node_of(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.name == name)


def is_quantized(model: onnx.ModelProto, name: str, index: int = 0) -> bool:
    tensor = node_of(model, name).input[index]
    return any(tensor in n.output for n in model.graph.node) and maker(model, tensor).op_type == "DequantizeLinear"


@example(np.full((1, 1, 3), 1e-45, np.float32), 0)  # a scale that would round to zero
@given(
    arrays(
        np.float32,
        st.tuples(st.integers(1, 4), st.integers(1, 4), st.just(3)),
        elements=st.floats(-1e3, 1e3, width=32),
    ),
    st.integers(0, 1),
)
def test_weights_are_within_half_a_step(weight, axis):
    steps, scale = quantize_weight(weight, axis)
    shape = [1, 1, 1]
    shape[axis] = -1
    error = np.abs(steps * scale.astype(np.float64).reshape(shape) - weight)
    assert steps.min(initial=0) >= -127
    assert (error <= scale.reshape(shape) * 0.5001 + 1e-30).all()
    top = np.abs(weight).max(axis=tuple(i for i in range(3) if i != axis))
    np.testing.assert_allclose(scale[top > 1e-30], top[top > 1e-30] / 127, rtol=1e-6)


def one_conv(build, opset: int = 18) -> onnx.ModelProto:
    node = helper.make_node("Conv", ["image", "w", "c"], ["mask"], kernel_shape=[1, 1])
    return tidy(build([node], {"w": f32(3, 4, 1, 1), "c": f32(3)}, output_shape=(1, 3, 8, 8), opset=opset))


def test_one_convolution_in_closed_form(build):
    model = one_conv(build)
    weight, bias = constants(model)["Conv_0.1"], constants(model)["Conv_0.2"]
    lowered = to_int8(model, [IMAGE], **ENDS)
    check_model(lowered)
    assert kinds(lowered) == [
        "QuantizeLinear", "DequantizeLinear", "Cast", "DequantizeLinear", "Cast", "Conv", "Cast",
    ]  # fmt: skip
    step = np.float32(np.float64(np.abs(IMAGE).max()) / 127)
    image = np.clip(np.rint(IMAGE / step), -128, 127) * step
    scale = (np.abs(weight.astype(np.float64)).max(axis=(1, 2, 3)) / 127).astype(np.float32)
    steps = np.rint(weight / scale[:, None, None, None].astype(np.float64)).astype(np.int8)
    stored = constants(lowered)
    assert any(array.dtype == np.int8 and np.array_equal(array, steps) for array in stored.values())
    assert any(array.shape == (3,) and np.array_equal(array, scale) for array in stored.values())
    assert any(
        array.dtype == np.float16 and np.array_equal(array, bias.astype(np.float16)) for array in stored.values()
    )
    wanted = np.einsum("oc,nchw->nohw", (steps * scale[:, None, None, None])[..., 0, 0], image) + bias[:, None, None]
    np.testing.assert_allclose(run_model(lowered, [IMAGE])[0]["mask"], wanted, atol=2e-2)


@pytest.mark.parametrize("form", ["opset17", "opset19"])
@pytest.mark.parametrize("weights_as", ["int8", "float"])
def test_types_of_both_forms(build, form, weights_as):
    lowered = to_int8(one_conv(build), [IMAGE], qdq_form=form, weights_as=weights_as, **ENDS)
    check_model(lowered)
    inferred = onnx.shape_inference.infer_shapes(lowered, strict_mode=True)
    types = {i.name: i.type.tensor_type.elem_type for i in inferred.graph.value_info}
    scales = {
        constants(lowered)[node.input[1]].dtype for node in lowered.graph.node if node.op_type == "DequantizeLinear"
    }
    assert scales == ({np.dtype(np.float32)} if form == "opset17" else {np.dtype(np.float16)})
    assert lowered.opset_import[0].version == (18 if form == "opset17" else 19)
    conv = node_of(lowered, "Conv_0")
    assert all(types[name] == TensorProto.FLOAT16 for name in conv.input[:2])
    assert kinds(lowered).count("QuantizeLinear") == (1 if weights_as == "int8" else 2)


def test_the_forms_give_the_same_values(student, trained):
    narrow, wide = (to_int8(student, trained.calibration, qdq_form=form) for form in ("opset17", "opset19"))
    from onnx.reference import ReferenceEvaluator

    sample = trained.inputs[0]
    lifted = onnx.version_converter.convert_version(narrow, 19)
    left, right = (ReferenceEvaluator(m).run(None, {"image": sample})[0] for m in (lifted, wide))
    wanted = run_model(student, [sample])[0]["mask"]
    assert np.abs(left - right).max() < 0.03 * np.abs(wanted).max()
    assert np.abs(right - wanted).max() < 0.1 * np.abs(wanted).max()


def test_every_zero_point_is_zero_and_biases_stay(student, trained):
    lowered = to_int8(student, trained.calibration)
    stored = constants(lowered)
    for node in lowered.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert stored[node.input[2]].dtype == np.int8
            assert not stored[node.input[2]].any()
    assert not any(array.dtype == np.int32 for array in stored.values())


def test_ends_are_left_in_fp16_by_default(student, trained):
    lowered = to_int8(student, trained.calibration)
    convs = [node.name for node in lowered.graph.node if node.op_type == "Conv"]
    plain = [name for name in convs if not is_quantized(lowered, name)]
    assert plain == [convs[0], convs[-1]]
    everything = to_int8(student, trained.calibration, **ENDS)
    assert all(is_quantized(everything, name) for name in convs)
    less = to_int8(student, trained.calibration, exclude=["Conv_4"])
    assert not is_quantized(less, "Conv_4")


def test_concat_and_its_pool_share_one_scale(student, trained):
    lowered = to_int8(student, trained.calibration)
    stored = constants(lowered)
    for node in lowered.graph.node:
        if node.op_type == "Concat":
            scales = {float(stored[maker(lowered, name).input[1]]) for name in node.input}
            readers = [n for n in lowered.graph.node if node.output[0] in n.input]
            while readers[0].op_type == "Cast":
                readers = [n for n in lowered.graph.node if readers[0].output[0] in n.input]
            scales.add(float(stored[readers[0].input[1]]))
            assert len(scales) == 1
    assert all(is_quantized(lowered, n.name) for n in lowered.graph.node if n.op_type == "MaxPool")


def test_conv_transpose_is_fp16(student_transposed, trained_transposed):
    lowered = to_int8(student_transposed, trained_transposed.calibration)
    for node in lowered.graph.node:
        if node.op_type == "ConvTranspose":
            assert not is_quantized(lowered, node.name)
            assert constants(lowered)[node.input[1]].dtype == np.float16


def test_grouped_convolution_is_a_float32_island(build):
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["x"], pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["x", "d"], ["y"], pads=[1, 1, 1, 1], group=4),
        helper.make_node("Conv", ["y", "p"], ["mask"]),
    ]
    model = tidy(build(nodes, {"w": f32(4, 4, 3, 3), "d": f32(4, 1, 3, 3), "p": f32(4, 4, 1, 1)}))
    lowered = to_int8(model, [IMAGE], **ENDS)
    assert not is_quantized(lowered, "Conv_1")
    assert constants(lowered)[node_of(lowered, "Conv_1").input[1]].dtype == np.float32
    assert is_quantized(lowered, "Conv_2")
    assert not lint(lowered, "tensorrt11")


def test_of_a_residual_add_only_the_skip_is_quantized(build):
    nodes = [
        helper.make_node("Conv", ["image", "a"], ["x"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Conv", ["r", "b"], ["y"], pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["y", "r"], ["s"]),
        helper.make_node("Conv", ["s", "h"], ["mask"]),
    ]
    model = tidy(build(nodes, {"a": f32(4, 4, 3, 3), "b": f32(4, 4, 3, 3), "h": f32(4, 4, 1, 1)}))
    lowered = to_int8(model, [IMAGE])
    assert not is_quantized(lowered, "Add_0", 0)
    assert is_quantized(lowered, "Add_0", 1)
    both = to_int8(model, [IMAGE], exclude=["Conv_1"], exclude_head=False)
    assert not is_quantized(both, "Add_0", 1), (
        "without an int8 convolution before it the Add has nothing to be fused with"
    )


@pytest.mark.parametrize("trans_b", [0, 1])
def test_gemm_per_output_channel(build, trans_b):
    weight = f32(20, 32) if trans_b else f32(32, 20)
    node = helper.make_node("Gemm", ["image", "w"], ["mask"], transB=trans_b)
    model = tidy(build([node], {"w": weight}, input_shape=(1, 32), output_shape=(1, 20)))
    sample = f32(1, 32)
    lowered = to_int8(model, [sample], **ENDS)
    check_model(lowered)
    scale = next(a for a in constants(lowered).values() if a.shape == (20,) and a.dtype == np.float32)
    np.testing.assert_allclose(scale, np.abs(weight).max(axis=1 if trans_b else 0) / 127, rtol=1e-6)
    np.testing.assert_allclose(run_model(lowered, [sample])[0]["mask"], run_model(model, [sample])[0]["mask"], atol=0.5)


def test_scales_below_fp16_stay_float32(build):
    node = helper.make_node("Conv", ["image", "w"], ["mask"])
    model = tidy(build([node], {"w": f32(4, 4, 1, 1) * np.float32(1e-3)}))
    lowered = to_int8(model, [IMAGE], qdq_form="opset19", **ENDS)
    check_model(lowered)
    found = [a.dtype for a in constants(lowered).values() if a.shape == (4,) and a.dtype != np.int8]
    assert found == [np.dtype(np.float32)]


def test_a_dead_tensor_has_scale_one(build):
    nodes = [helper.make_node("Relu", ["image"], ["x"]), helper.make_node("Conv", ["x", "w"], ["mask"])]
    model = tidy(build(nodes, {"w": f32(4, 4, 1, 1)}))
    lowered = to_int8(model, [-np.abs(IMAGE)], **ENDS)
    check_model(lowered)
    assert not lint(lowered, "jetpack6")


def test_groups_take_the_largest(build):
    nodes = [
        helper.make_node("Relu", ["image"], ["x"]),
        helper.make_node("MaxPool", ["x"], ["p"], kernel_shape=[1, 1]),
        helper.make_node("Neg", ["image"], ["n"]),
        helper.make_node("Concat", ["p", "n"], ["mask"], axis=1),
    ]
    from edge_export._graph import GraphView

    view = GraphView(build(nodes, {}, output_shape=(1, 8, 8, 8)))
    groups = scale_groups(view, {"image": 9.0, "x": 1.0, "p": 1.0, "n": 3.0, "mask": 2.0})
    assert groups == {"image": 9.0, "x": 3.0, "p": 3.0, "n": 3.0, "mask": 3.0}


def test_file_is_at_most_45_percent(student, student_transposed, trained, trained_transposed):
    for model, data in ((student, trained), (student_transposed, trained_transposed)):
        assert to_int8(model, data.calibration).ByteSize() <= 0.45 * model.ByteSize()


def test_ranges_can_be_given(student, trained):
    ranges = collect_ranges(student, trained.calibration, method="percentile")
    assert to_int8(student, ranges=ranges) == to_int8(student, trained.calibration, method="percentile")


def test_bad_arguments(student, trained, build):
    with pytest.raises(ConfigError, match="needs ranges or calibration_inputs"):
        to_int8(student)
    with pytest.raises(ConfigError, match="qdq_form"):
        to_int8(student, trained.calibration, qdq_form="opset18")
    with pytest.raises(ConfigError, match="Conv_77"):
        to_int8(student, trained.calibration, exclude=["Conv_77"])
    relu = tidy(build([helper.make_node("Relu", ["image"], ["mask"])], {}))
    with pytest.raises(LoweringError, match="no convolution"):
        to_int8(relu, [IMAGE])
    old = build([helper.make_node("Relu", ["image"], ["mask"])], {}, opset=11)
    with pytest.raises(LoweringError, match="opset 11"):
        to_int8(old, [IMAGE])
