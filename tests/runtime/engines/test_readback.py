"""Reading an engine back: the JSON of TensorRT 8.x to 11.x, and the precision that was asked for.

`inspector/README.md` says which public records the files follow; none was recorded from an engine of ours.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.engines import read_engine, require_precision, wanted_precisions
from edge_runtime.errors import ModelRefusedError, RunnerError

FILES = Path(__file__).with_name("inspector")


def read(name):
    return read_engine((FILES / name).read_text())


def test_the_form_of_8x_and_10x():
    report = read("trt8-int8.json")
    assert (report.form, report.io) == ("10", ("image", "mask"))
    assert [layer.kind for layer in report.layers] == [
        "quantize", "compute", "compute", "compute", "reformat", "compute", "quantize", "compute", "compute",
    ]  # fmt: skip
    assert report.shares() == {"int8": 4 / 6, "fp16": 2 / 6}
    assert report.shares(weighted=True) == {"int8": 3 / 5, "fp16": 2 / 5}
    assert report.reformats == ("Reformatting CopyNode for Input Tensor 0 to up.weight + /up/ConvTranspose",)
    assert report.layers[3].nodes == ("mid.weight", "/mid/w/QuantizeLinear", "/mid/Conv", "/mid/Relu")
    assert report.beside_dla == ()


def test_layers_of_the_graph_compiler_in_10x():
    report = read("trt10-fp16.json")
    found = {layer.name: (layer.kind, layer.precision, layer.weighted) for layer in report.layers}
    assert found["/mid/Conv_myl0_3"] == ("compute", "fp16", True)
    assert found["__myl_ResiConc_myl0_4"] == ("compute", "fp16", False)
    assert found["/head/MatMul_myl0_5"] == ("compute", "fp32", True)
    assert found["(Unnamed Layer* 9) [Shuffle]"][0] == "idle"
    assert report.layers[3].nodes[:2] == ("/up/Resize", "/cat/Concat")  # separated by U+001E
    assert report.layers[2].nodes[:2] == ("/mid/Conv", "/mid/Relu")  # by U+001F
    assert report.shares(weighted=True) == {"fp16": 2 / 3, "fp32": 1 / 3}


def test_the_form_of_11x():
    report = read("trt11-int8.json")
    assert (report.form, report.io) == ("11", ("image", "mask"))
    assert report.shares(weighted=True) == {"int8": 0.5, "fp16": 0.5}
    assert [layer.kind for layer in report.layers] == ["quantize", "compute", "reformat", "compute", "compute"]
    assert report.to_dict()["reformats"] == ["Reformatting CopyNode for Input Tensor 0 to /mid/Conv"]
    assert json.loads(json.dumps(report.to_dict()))["layers"][1]["precision"] == "int8"


def test_both_forms_of_one_engine_say_the_same():
    """The 8.x file rewritten by the two rules of NVIDIA's migration page reads as before."""
    old = json.loads((FILES / "trt8-int8.json").read_text())
    new = {"Layers": old["Layers"], "I/O Tensors": [{"Name": name, "IOMode": "Input"} for name in old["Bindings"]]}
    words = {"FP32": "Float", "FP16": "Half", "Int8": "Int8"}
    for layer in new["Layers"]:
        for tensor in (*layer["Inputs"], *layer["Outputs"]):
            text = tensor.pop("Format/Datatype")
            tensor["Format"] = text
            tensor["DataType"] = next(new for old, new in words.items() if old in text)
    report = read_engine(json.dumps(new))
    assert report.layers == read("trt8-int8.json").layers
    assert report.form == "11"


def test_an_engine_with_names_alone_cannot_be_read():
    with pytest.raises(RunnerError, match=r"names of its 4 layers and no more.*DETAILED"):
        read("names-only.json")


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"Layers": []}', '{"Layers": [], "I/O Tensors": [1]}', "{"])
def test_what_is_no_inspectors_json_is_refused(text):
    with pytest.raises(RunnerError, match="not the engine inspector's JSON"):
        read_engine(text)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(["Layers", "Bindings", "I/O Tensors", "Name", "LayerType", "Inputs", "Weights"]), inner
            )
        ),
        max_leaves=20,
    )
)
def test_any_json_is_read_or_refused(value):
    try:
        read_engine(json.dumps(value))
    except RunnerError:
        return


def layer(text="", **more):
    tensor = [{"Name": "x", "Format/Datatype": text}]
    return json.dumps({"Layers": [{"Name": "l", "LayerType": "gemm", "Inputs": tensor, **more}], "Bindings": []})


@pytest.mark.parametrize(
    ("text", "precision"),
    [
        ("Row major linear FP32", "fp32"),
        ("Row major linear FP32 format (kLINEAR)", "fp32"),
        ("Channel major FP16 format where channel % 8 == 0", "fp16"),
        ("Two wide channel vectorized row major FP16 format", "fp16"),
        ("Four wide channel vectorized row major Int8 format", "int8"),
        ("Row major Int8 format", "int8"),
        ("Half", "fp16"),
        ("Float", "fp32"),
        ("Half(64,1:8,...)", "fp16"),
        ("BFloat16", "bf16"),
        ("FP8", "fp8"),
        ("Row major linear INT32", "unknown"),
        ("N/A due to dynamic shapes", "unknown"),
        ("", "unknown"),
    ],
)
def test_words_for_types(text, precision):
    assert read_engine(layer(text)).layers[0].precision == precision


def test_weights_tell_the_precision_where_shapes_are_open():
    report = read_engine(layer("N/A due to dynamic shapes", Weights={"Type": "Half", "Count": 9408}))
    assert report.layers[0].precision == "fp16"


def test_what_fell_back_from_a_dla():
    text = json.dumps(
        {"Layers": [{"Name": "{ForeignNode[a...b]}", "LayerType": "DLA"}, {"Name": "up", "LayerType": "Resize"}],
         "Bindings": []}
    )  # fmt: skip
    assert read_engine(text).beside_dla == ("up",)


def test_precision_obtained_passes():
    require_precision(read("trt8-int8.json"), "int8")
    require_precision(read("trt8-int8.json"), "int8", {"/mid/Conv": "int8", "/up/ConvTranspose": "fp16"})
    require_precision(read("trt10-fp16.json"), "fp16", {"/enc0/Conv": "fp16", "/head/MatMul": "fp32"})
    require_precision(read("trt10-fp16.json"), "fp32")


@pytest.mark.parametrize(
    ("file", "precision", "wanted", "told"),
    [
        ("trt10-fp16.json", "int8", None, r"int8 was asked for; the engine computes 0 of 3 .*'/enc0/Conv"),
        ("trt11-int8.json", "int8", {"/enc0/Conv": "int8", "/mid/Conv": "int8"}, r"1 of 2 .*/mid/Conv' \(fp16\)"),
        ("trt10-fp16.json", "fp16", {"/head/MatMul": "fp16"}, r"2 of 3 .*'/head/MatMul_myl0_5' \(fp32\)"),
        ("trt8-int8.json", "int8", {"/mid/Conv": "fp16"}, "no convolution or matrix product of the model is int8"),
    ],
)
def test_precision_asked_for_and_not_obtained_names_the_layers(file, precision, wanted, told):
    with pytest.raises(RunnerError, match=told):
        require_precision(read(file), precision, wanted)


def test_many_layers_are_not_all_named():
    entry = {"LayerType": "gemm", "Inputs": [{"DataType": "Float"}]}
    text = json.dumps({"Layers": [{"Name": f"l{n}", **entry} for n in range(20)], "I/O Tensors": []})
    with pytest.raises(RunnerError, match=r"'l7' \(fp32\) and 12 more"):
        require_precision(read_engine(text), "int8")
    with pytest.raises(RunnerError, match="no layer at all"):
        require_precision(read_engine('{"Layers": [], "Bindings": []}'), "int8")


def test_what_a_graph_asks_for_is_read_from_its_bytes():
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper

    def weights(name, kind):
        return helper.make_tensor(name, kind, (1, 1, 1, 1), [1])

    def dq(name):
        return helper.make_node("DequantizeLinear", [name, "scale", "zero"], [name + "_f"])

    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["x_q"]),
        dq("x_q"),
        dq("w8"),
        helper.make_node("Conv", ["x_q_f", "w8_f"], ["a"], name="int8"),
        helper.make_node("Cast", ["x_q_f"], ["x_c"], to=TensorProto.FLOAT16),
        helper.make_node("Cast", ["w8_f"], ["w_c"], to=TensorProto.FLOAT16),
        helper.make_node("Conv", ["x_c", "w_c"], ["b"], name="int8 behind casts"),
        helper.make_node("Cast", ["x"], ["x_h"], to=TensorProto.FLOAT16),
        helper.make_node("Conv", ["x_h", "w16"], ["c"], name="half"),
        helper.make_node("Cast", ["w32"], ["w_h"], to=TensorProto.FLOAT16),
        helper.make_node("ConvTranspose", ["x_h", "w_h"], ["d"], name="half by a cast"),
        helper.make_node("Conv", ["x", "w32"], ["e"], name="float"),
        helper.make_node("Conv", ["x", "w8_f"], ["f"], name="weights alone"),
        helper.make_node("Conv", ["x", "w32"], ["g"]),
        helper.make_node("Relu", ["x"], ["h"], name="no weights"),
    ]
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 1, 4, 4))
    stored = [
        weights("w8", TensorProto.INT8), weights("w16", TensorProto.FLOAT16), weights("w32", TensorProto.FLOAT),
        helper.make_tensor("scale", TensorProto.FLOAT, (), [1]), helper.make_tensor("zero", TensorProto.INT8, (), [0]),
    ]  # fmt: skip
    model = helper.make_model(helper.make_graph(nodes, "g", [image], [], stored))
    assert wanted_precisions(model.SerializeToString()) == {
        "int8": "int8",
        "int8 behind casts": "int8",
        "half": "fp16",
        "half by a cast": "fp16",
        "float": "fp32",
    }
    assert onnx.__version__
    with pytest.raises(ModelRefusedError):
        wanted_precisions(b"rubbish")
