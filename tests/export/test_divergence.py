"""A fault planted in one node is found there, and nowhere else."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edge_export import to_fp16, to_int8
from edge_export.divergence import explain_divergence, first_divergence, tensor_noise
from edge_runtime.errors import ConfigError


@pytest.fixture(scope="module")
def base(lowered) -> onnx.ModelProto:
    return onnx.load_model_from_string(lowered[0]["fp32"])


def changed(model: onnx.ModelProto | bytes, name: str, change) -> onnx.ModelProto:
    """The model with `change` applied to the constant `name`."""
    made = onnx.ModelProto()
    made.ParseFromString(model if isinstance(model, bytes) else model.SerializeToString())
    item = next(item for item in made.graph.initializer if item.name == name)
    array = numpy_helper.to_array(item)
    item.CopyFrom(numpy_helper.from_array(np.asarray(change(array), array.dtype), name))
    return made


def node(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    return next(item for item in model.graph.node if item.name == name)


@pytest.mark.parametrize("name", ["Conv_0", "Conv_4", "Conv_9", "Conv_10"])
def test_a_wrong_weight_is_found_in_the_float_graph(base, trained, name):
    wrong = changed(base, node(base, name).input[1], lambda array: 1.5 * array)
    found = first_divergence(base, wrong, trained.inputs[:2])
    assert found is not None
    assert (found.node, found.operator, found.fused) == (name, "Conv", False)
    assert -3 < found.sqnr_db < 15  # 6 dB, an error of half the signal, but for the bias


def test_variants_that_are_right_do_not_diverge(base, lowered, trained):
    for name in ("fp32", "fp16", "int8"):
        assert first_divergence(base, lowered[0][name], trained.inputs[:2]) is None, name
    assert "every tensor equals" in explain_divergence(base, base, trained.inputs[:1])
    assert "no single tensor diverges, the noise grows" in explain_divergence(
        base, lowered[0]["int8"], trained.inputs[:1]
    )


@pytest.mark.parametrize("form", ["opset17", "opset19"])
def test_a_wrong_weight_scale_is_found_in_the_quantized_graph(base, trained, form):
    int8 = to_int8(base, trained.calibration, qdq_form=form)
    reader = node(int8, "Conv_5")
    made = next(item for item in int8.graph.node if reader.input[1] in item.output)
    while made.op_type == "Cast":
        made = next(item for item in int8.graph.node if made.input[0] in item.output)
    assert made.op_type == "DequantizeLinear"
    found = first_divergence(base, changed(int8, made.input[1], lambda scale: scale / 3), trained.inputs[:2])
    assert found is not None
    assert found.node == "Conv_5"


def test_a_wrong_activation_scale_is_found_at_its_pair(base, trained):
    int8 = to_int8(base, trained.calibration)
    quantize = [item for item in int8.graph.node if item.op_type == "QuantizeLinear"][3]
    made = onnx.ModelProto()
    made.CopyFrom(int8)
    made.graph.initializer.append(numpy_helper.from_array(np.float32(1e-3), "planted"))
    for item in made.graph.node:
        if item.name == quantize.name or quantize.output[0] in item.input:
            item.input[1] = "planted"
    found = first_divergence(base, made, trained.inputs[:2])
    assert found is not None
    assert (found.node, found.operator) == (quantize.name, "QuantizeLinear")
    assert found.tensor in {name for each in base.graph.node for name in each.output}


def test_the_form_for_cpus_is_followed_through_its_pairs(base, trained):
    cpu_int8 = pytest.importorskip("edge_export.cpu_int8")
    made = cpu_int8.to_cpu_int8(base, trained.calibration)
    rows = tensor_noise(base, made, trained.inputs[:2])
    assert {"Conv_5", "Relu_3", "Concat_0", "mask"} <= {row.tensor for row in rows}
    assert first_divergence(base, made, trained.inputs[:2]) is None
    reader = node(made, "Conv_5")
    weight = next(item for item in made.graph.node if reader.input[1] in item.output)
    found = first_divergence(base, changed(made, weight.input[1], lambda scale: scale / 3), trained.inputs[:2])
    assert found is not None
    assert found.node == "Conv_5"


def test_an_fp16_constant_that_is_wrong_is_found(base, trained):
    half = to_fp16(base, trained.calibration)
    found = first_divergence(base, changed(half, node(half, "Conv_3").input[1], lambda a: -a), trained.inputs[:2])
    assert found is not None
    assert found.node == "Conv_3"


def test_noise_by_hand(build):
    """y = x + 1, wrong by 0.1: signal over noise is 10 log10(mean y^2 / 0.01)."""

    def graph(shift: float) -> onnx.ModelProto:
        nodes = [helper.make_node("Add", ["image", "one"], ["middle"]), helper.make_node("Relu", ["middle"], ["mask"])]
        return build(nodes, {"one": np.float32(shift)})

    image = np.random.default_rng(0).random((1, 4, 8, 8), np.float32)
    rows = tensor_noise(graph(1.0), graph(1.1), [image, 2 * image])
    truth = np.concatenate([image + 1, 2 * image + 1])
    assert [row.tensor for row in rows] == ["middle", "mask"]
    assert rows[0].sqnr_db == pytest.approx(
        10 * math.log10(float((truth.astype(np.float64) ** 2).mean()) / 0.01), abs=0.01
    )
    assert rows[0].inputs_db == 90  # the input itself is equal, and clean
    assert rows[1].inputs_db == rows[0].sqnr_db
    assert rows[1].loss_db == 0
    assert "node 'n_middle' (Add)" in str(rows[0])


def test_values_that_are_not_finite_are_the_worst(build):
    right = build([helper.make_node("Sqrt", ["image"], ["mask"])], {})
    wrong = build([helper.make_node("Log", ["image"], ["mask"])], {})
    found = first_divergence(right, wrong, [np.zeros((1, 4, 8, 8), np.float32)])
    assert found is not None
    assert found.sqnr_db == -math.inf


def test_bad_arguments(base, build, trained):
    other = build([helper.make_node("Relu", ["image"], ["other"]), helper.make_node("Neg", ["other"], ["mask"])], {})
    with pytest.raises(ConfigError, match="no inputs"):
        first_divergence(base, base, [])
    other.graph.node[1].output[0] = other.graph.output[0].name = "elsewhere"
    with pytest.raises(ConfigError, match="share no tensor names"):
        first_divergence(base, other, trained.inputs[:1])
