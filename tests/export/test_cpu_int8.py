"""INT8 for x86: numbers against closed forms, and what ONNX Runtime makes of the graph, read back from it."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from edge_export import check_model, collect_ranges, lint, run_model, tidy
from edge_export.cpu_int8 import to_cpu_int8
from edge_runtime.errors import ConfigError, LoweringError, MissingDependencyError
from edge_runtime.runners.openvino import import_openvino

RNG = np.random.default_rng(17)
IMAGE = RNG.uniform(-1, 3, (1, 4, 8, 8)).astype(np.float32)
PADS = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}


def f32(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def constants(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}


def optimised(model: onnx.ModelProto, folder) -> Counter[str]:
    """Operators of the graph that ONNX Runtime really runs."""
    ort = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)


def test_one_convolution_in_closed_form(build):
    node = helper.make_node("Conv", ["image", "w", "c"], ["mask"], kernel_shape=[1, 1])
    model = tidy(build([node], {"w": f32(3, 4, 1, 1), "c": f32(3)}, output_shape=(1, 3, 8, 8)))
    weight, bias = constants(model)["Conv_0.1"], constants(model)["Conv_0.2"]
    lowered = to_cpu_int8(model, [IMAGE], exclude_head=False, reduce_range=True)
    check_model(lowered)
    low, high = float(IMAGE.min()), float(IMAGE.max())
    step = np.float32((high - low) / 255)
    zero = np.rint(-low / step)
    image = (np.clip(np.rint(IMAGE / step) + zero, 0, 255) - zero) * step
    scale = (np.abs(weight.astype(np.float64)).max(axis=(1, 2, 3)) / 64).astype(np.float32)
    steps = np.rint(weight / scale[:, None, None, None].astype(np.float64)).astype(np.int8)
    bias_steps = np.rint(bias / (scale * step).astype(np.float64)).astype(np.int32)
    stored = constants(lowered)
    assert any(a.dtype == np.int8 and np.array_equal(a, steps) for a in stored.values())
    assert any(a.dtype == np.int32 and a.any() and np.abs(a - bias_steps).max() <= 1 for a in stored.values())
    assert any(a.dtype == np.uint8 and int(a) == zero for a in stored.values())
    wanted = np.einsum("oc,nchw->nohw", (steps * scale[:, None, None, None])[..., 0, 0], image) + bias[:, None, None]
    out = (wanted.max() - wanted.min()) / 255
    np.testing.assert_allclose(run_model(lowered, [IMAGE])[0]["mask"], wanted, atol=1.01 * out)


@given(st.lists(st.tuples(st.integers(0, 255), st.integers(-64, 64)), min_size=2, max_size=2))
def test_with_a_reduced_range_no_pair_of_products_leaves_16_bits(pairs):
    total = sum(activation * weight for activation, weight in pairs)
    assert -(2**15) <= total < 2**15
    assert 2 * 255 * 127 >= 2**15, "which is what the full range does"


def test_every_convolution_of_a_unet_runs_in_integers(student, trained, tmp_path):
    lowered = to_cpu_int8(student, trained.calibration)
    convs = sum(node.op_type == "Conv" for node in student.graph.node)
    found = optimised(lowered, tmp_path)
    assert found["QLinearConv"] == convs - 1, found
    assert found["Conv"] + found["FusedConv"] == 1, "the head alone is left in float32"
    assert found["QLinearConcat"] + found["Concat"] == 2
    assert (found["QuantizeLinear"], found["DequantizeLinear"]) == (1, 1), "8 bits from the image to the head"
    everything = optimised(to_cpu_int8(student, trained.calibration, exclude_head=False), tmp_path)
    assert everything["QLinearConv"] == convs


def test_conv_transpose_stays_in_float(student_transposed, trained_transposed, tmp_path):
    lowered = to_cpu_int8(student_transposed, trained_transposed.calibration)
    check_model(lowered)
    found = optimised(lowered, tmp_path)
    assert found["ConvTranspose"] == 2
    assert found["QLinearConv"] == sum(n.op_type == "Conv" for n in student_transposed.graph.node) - 1
    stored = constants(lowered)
    weights = [stored[n.input[1]] for n in lowered.graph.node if n.op_type == "ConvTranspose"]
    assert all(weight.dtype == np.float32 for weight in weights)


def test_blocks_of_other_networks_run_in_integers(build, tmp_path):
    """A depthwise block, a residual sum, a gate, pooling and a Gemm."""
    nodes = [
        helper.make_node("Conv", ["image", "a", "ab"], ["c0"], **PADS),
        helper.make_node("Clip", ["c0", "zero", "six"], ["r0"]),
        helper.make_node("Conv", ["r0", "d"], ["c1"], group=4, **PADS),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Add", ["r1", "r0"], ["s"]),
        helper.make_node("Conv", ["s", "g"], ["c2"], kernel_shape=[1, 1]),
        helper.make_node("Sigmoid", ["c2"], ["gate"]),
        helper.make_node("Mul", ["s", "gate"], ["m"]),
        helper.make_node("LeakyRelu", ["m"], ["l"]),
        helper.make_node("GlobalAveragePool", ["l"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "k", "kb"], ["h"], transB=1),
        helper.make_node("Gemm", ["h", "o"], ["mask"]),
    ]
    arrays = {"a": f32(24, 4, 3, 3), "ab": f32(24), "d": f32(24, 6, 3, 3), "g": f32(24, 24, 1, 1)}
    arrays |= {"k": f32(16, 24), "kb": f32(1, 16), "o": f32(16, 2), "zero": np.float32(0), "six": np.float32(6)}
    model = tidy(build(nodes, arrays, output_shape=(1, 2)))
    lowered = to_cpu_int8(model, [IMAGE])
    check_model(lowered)
    found = optimised(lowered, tmp_path)
    for kind, count in {"QLinearConv": 3, "QLinearAdd": 1, "QLinearMul": 1, "QLinearSigmoid": 1, "QGemm": 1}.items():
        assert found[kind] == count, found
    assert not {"Conv", "FusedConv", "Clip", "Relu", "Add", "Mul", "Sigmoid"} & set(found)
    wanted, got = (run_model(m, [IMAGE])[0]["mask"] for m in (model, lowered))
    assert np.abs(got - wanted).max() <= 0.1 * np.abs(wanted).max() + 0.1


def test_a_bias_beyond_32_bits_raises_the_step_of_its_weights(build):
    weight = f32(4, 4, 1, 1) * np.float32(1e-9)
    bias = np.float32([1.0, -2.0, 3.0, 1e-9])
    node = helper.make_node("Conv", ["image", "w", "c"], ["mask"], kernel_shape=[1, 1])
    model = tidy(build([node], {"w": weight, "c": bias}))
    lowered = to_cpu_int8(model, [IMAGE], exclude_head=False)
    check_model(lowered)
    wanted, got = (run_model(m, [IMAGE])[0]["mask"] for m in (model, lowered))
    np.testing.assert_allclose(got, wanted, atol=5.0 / 255)


def test_a_picture_is_not_clipped(build):
    """An outlier of the image is a bright pixel, whatever the method says of it."""
    nodes = [helper.make_node("Conv", ["image", "w"], ["x"], **PADS), helper.make_node("Conv", ["x", "v"], ["mask"])]
    model = tidy(build(nodes, {"w": f32(4, 4, 3, 3), "v": f32(4, 4, 1, 1)}))
    sample = np.where(RNG.random((1, 4, 8, 8)) < 0.02, 3.0, RNG.normal(0, 0.1, (1, 4, 8, 8))).astype(np.float32)
    ranges = collect_ranges(model, [sample], method="percentile", percentile=90)
    assert ranges.clip["image"] < 1
    first = next(n for n in to_cpu_int8(model, ranges=ranges).graph.node if n.op_type == "QuantizeLinear")
    scale = constants(to_cpu_int8(model, ranges=ranges))[first.input[1]]
    np.testing.assert_allclose(scale, (sample.max() - min(sample.min(), 0)) / 255, rtol=1e-6)


def test_ranges_without_signed_ends_are_symmetric(student, trained):
    from dataclasses import replace

    ranges = replace(collect_ranges(student, trained.calibration), low={}, high={})
    lowered = to_cpu_int8(student, ranges=ranges)
    check_model(lowered)
    zeros = {int(a) for a in constants(lowered).values() if a.dtype == np.uint8}
    assert zeros <= {0, 127, 128}, "0 behind a ReLU, the middle elsewhere"


def test_openvino_computes_the_same(student, trained):
    try:
        openvino = import_openvino()
    except MissingDependencyError as error:
        pytest.skip(str(error))
    lowered = to_cpu_int8(student, trained.calibration)
    core = openvino.Core()
    compiled = core.compile_model(
        core.read_model(lowered.SerializeToString(), b""), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    kinds = Counter(
        (node.get_rt_info()["layerType"].astype(str), node.get_rt_info()["runtimePrecision"].astype(str))
        for node in compiled.get_runtime_model().get_ordered_ops()
    )
    integer = sum(count for (kind, precision), count in kinds.items() if kind == "Convolution" and "8" in precision)
    assert integer >= sum(n.op_type == "Conv" for n in student.graph.node) - 2, kinds
    sample = trained.inputs[0]
    found = compiled.create_infer_request().infer({0: sample})[0]
    wanted = run_model(lowered, [sample])[0]["mask"]
    float32 = run_model(student, [sample])[0]["mask"]
    assert np.abs(found - wanted).max() <= 0.05 * np.abs(float32).max()
    assert np.mean((wanted > 0) != (float32 > 0)) < 0.02


def test_nvidia_targets_refuse_it_and_the_file_is_small(student, trained):
    lowered = to_cpu_int8(student, trained.calibration)
    assert lowered.ByteSize() <= 0.45 * student.ByteSize()
    for target in ("jetpack6", "tensorrt11", "rtx"):
        assert [f for f in lint(lowered, target) if f.severity == "error"], target
    assert not [f for f in lint(lowered, "ort-cpu") if f.severity == "error"]


def test_bad_arguments(student, trained, build):
    with pytest.raises(ConfigError, match="needs ranges or calibration_inputs"):
        to_cpu_int8(student)
    with pytest.raises(ConfigError, match="Conv_77"):
        to_cpu_int8(student, trained.calibration, exclude=["Conv_77"])
    relu = tidy(build([helper.make_node("Relu", ["image"], ["mask"])], {}))
    with pytest.raises(LoweringError, match="no convolution"):
        to_cpu_int8(relu, [IMAGE])
    old = build([helper.make_node("Relu", ["image"], ["mask"])], {}, opset=11)
    with pytest.raises(LoweringError, match="opset 11"):
        to_cpu_int8(old, [IMAGE])
    with pytest.raises(ConfigError, match="hold no tensor"):
        collect_ranges(relu, [IMAGE]).interval("other")
