"""Bad input along the whole road: an error of our tree that says what is wrong, and no file."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from typer.testing import CliRunner

from edge_export import check_model, lint, lower, tidy
from edge_export.admit import admit, admit_frames
from edge_export.cli import app
from edge_runtime.errors import ConfigError, EdgeError, LoweringError

W = np.linspace(-1, 1, 9, dtype=np.float32).reshape(1, 1, 3, 3)
SHAPE = (1, 1, 16, 16)


def plain(
    build: Callable[..., onnx.ModelProto], shape: tuple[object, ...] = SHAPE, **options: object
) -> onnx.ModelProto:
    nodes = [helper.make_node("Conv", ["image", "w"], ["mask"], name="conv", pads=[1, 1, 1, 1], kernel_shape=[3, 3])]
    return build(nodes, {"w": W}, input_shape=shape, **options)


def edited(change: Callable[[onnx.ModelProto], object]) -> Callable[..., onnx.ModelProto]:
    def make(build: Callable[..., onnx.ModelProto]) -> onnx.ModelProto:
        model = plain(build)
        change(model)
        return model

    return make


def external(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].data_location = TensorProto.EXTERNAL
    model.graph.initializer[0].external_data.add(key="location", value="/etc/passwd")


def external_attribute(model: onnx.ModelProto) -> None:
    value = TensorProto(name="k", data_type=TensorProto.FLOAT, dims=W.shape, data_location=TensorProto.EXTERNAL)
    value.external_data.add(key="location", value="../weights.bin")
    del model.graph.initializer[:]
    model.graph.node.insert(0, helper.make_node("Constant", [], ["w"], name="const", value=value))


def giant(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].dims[0] = 1 << 34


def large(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].dims[0] = (1 << 27) // 9  # 0.5 GB of float32, with the bytes of nine


def poison(value: float) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        weight = W.copy()
        weight[0, 0, 1, 1] = value
        model.graph.initializer[0].raw_data = weight.tobytes()

    return change


def custom(model: onnx.ModelProto) -> None:
    model.graph.node[0].domain = "com.vendor"
    model.opset_import.append(helper.make_opsetid("com.vendor", 1))


def function(model: onnx.ModelProto) -> None:
    node = helper.make_node("Relu", ["x"], ["y"])
    model.functions.append(helper.make_function("mine", "F", ["x"], ["y"], [node], [helper.make_opsetid("", 18)]))


def looping(build: Callable[..., onnx.ModelProto]) -> onnx.ModelProto:
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, SHAPE)
    body = helper.make_graph([helper.make_node("Relu", ["image"], ["y"])], "b", [], [out])
    node = helper.make_node("If", ["yes"], ["mask"], name="branch", then_branch=body, else_branch=body)
    return build([node], {"yes": np.array(True)}, input_shape=SHAPE)


def growing(build: Callable[..., onnx.ModelProto]) -> onnx.ModelProto:
    nodes = [
        helper.make_node("ConstantOfShape", ["size"], ["big"], name="grow"),
        helper.make_node("Add", ["image", "big"], ["mask"], name="add"),
    ]
    return build(nodes, {"size": np.array([1 << 20, 1 << 20], np.int64)}, input_shape=(1, 1, 1, 1), output_shape=SHAPE)


def unranked(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.ClearField("shape")


def second_input(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("depth", TensorProto.FLOAT, (1,)))


def integer_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8


def dangling(model: onnx.ModelProto) -> None:
    model.graph.node[0].input[0] = "nobody"


# what is wrong, the graph, what the message must say
BAD = [
    ("external data", edited(external), r"constant 'w' lies in another file"),
    ("external attribute", edited(external_attribute), r"constant 'k' lies in another file"),
    ("64 GB declared", edited(giant), r"constant 'w' declares the shape \[17179869184, 1, 3, 3\]"),
    ("0.5 GB declared", edited(large), r"constant 'w' is not whole"),
    ("NaN", edited(poison(np.nan)), r"constant 'w' of conv has 1 of 9 values NaN or Inf"),
    ("Inf", edited(poison(-np.inf)), r"constant 'w' of conv has 1 of 9 values NaN or Inf"),
    ("custom operator", edited(custom), r"operator at conv: com\.vendor\.Conv is a custom operator"),
    ("function", edited(function), r"defines 1 functions"),
    ("control flow", looping, r"operator at branch: If is control flow"),
    ("terabytes asked for", growing, r"operator at grow: ConstantOfShape"),
    ("dynamic rank", edited(unranked), r"input 'image' has no rank"),
    ("two inputs", edited(second_input), r"inputs \['image', 'depth'\]"),
    ("integer input", edited(integer_input), r"input 'image' is no float32 tensor"),
    ("huge input", lambda build: plain(build, (1, 1, 1 << 20, 1 << 20)), r"input 'image' declares the sizes"),
    ("no opset", edited(lambda model: model.opset_import.pop()), r"imports no default operator set"),
    ("no nodes", edited(lambda model: model.graph.node.pop()), r"holds no graph"),
    ("no output", edited(lambda model: model.graph.output.pop()), r"has no output"),
    ("no input", edited(dangling), r"onnx\.checker refuses it"),
    ("node without output", edited(lambda model: model.graph.node[0].output.pop()), r"node Conv|node conv"),
]
BROKEN = {
    "text": b"not a model",
    "noise": bytes(range(256)) * 4,
    "nothing": b"",
    "zip": b"PK\x03\x04" + b"\0" * 60,
}


@pytest.mark.parametrize(("what", "make", "message"), BAD, ids=[item[0] for item in BAD])
def test_a_bad_model_is_refused_by_name(build, what, make, message):
    model = make(build)
    with pytest.raises(LoweringError, match=message):
        admit(model)
    with pytest.raises(LoweringError, match=r"^scan\.onnx: "):
        admit(model.SerializeToString(), name="scan.onnx")


@pytest.mark.parametrize("what", sorted(BROKEN))
def test_bytes_that_are_no_model(what):
    with pytest.raises(LoweringError, match=r"f\.onnx"):
        admit(BROKEN[what], name="f.onnx")


def test_cut_files_are_refused_and_never_crash(build):
    data = plain(build).SerializeToString()
    for end in range(0, len(data) - 1, 7):
        with pytest.raises(LoweringError):
            admit(data[:end])


def test_a_file_over_the_cap_is_refused_before_it_is_read(monkeypatch):
    with pytest.raises(LoweringError, match="a bundle holds models of at most 268,435,456"):
        admit(bytes((256 << 20) + 1))


def test_good_models_pass_unchanged(build, student):
    for model in (plain(build), student, plain(build, ("n", 1, "h", "w"))):
        assert admit(model) is model
        assert admit(model.SerializeToString()) == model


def test_no_memory_is_taken_for_what_is_only_declared(build):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _, make, _ in BAD:
        with pytest.raises(LoweringError):
            admit(make(build))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10  # kilobytes


def test_frames():
    speckle = np.random.default_rng(0).random(SHAPE, dtype=np.float32)
    black, white = np.zeros(SHAPE, np.float32), np.ones(SHAPE, np.float32)
    admit_frames([speckle], "image", SHAPE)
    admit_frames([black, speckle], "image", SHAPE)
    with pytest.raises(ConfigError, match="never random"):
        admit_frames([], "image", SHAPE)
    with pytest.raises(ConfigError, match=r"all 2 inputs .* are constant .*input 0 is 0 throughout"):
        admit_frames([black, white], "image", SHAPE)
    with pytest.raises(ConfigError, match="input 1 has values that are not finite"):
        admit_frames([speckle, speckle * np.nan], "image", SHAPE)
    with pytest.raises(ConfigError, match=r"input 0 is float64"):
        admit_frames([speckle.astype(np.float64)], "image", SHAPE)
    with pytest.raises(ConfigError, match=r"takes float32 \(1, 1, 16, 16\)"):
        admit_frames([speckle[..., :8]], "image", SHAPE)


@pytest.mark.parametrize(("what", "make", "message"), BAD, ids=[item[0] for item in BAD])
def test_the_whole_road_ends_in_our_errors(build, tmp_path, what, make, message):
    model = make(build)
    frames = [np.random.default_rng(0).random(SHAPE, dtype=np.float32)]
    assert any(finding.severity == "error" for finding in lint(model, "jetpack6"))
    with contextlib.suppress(EdgeError):
        check_model(model)  # ONNX's own judgement: it may pass what is legal ONNX, it may not crash
    with pytest.raises(EdgeError):
        lower(model, frames, precisions=["fp16"], rtx=False)
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    found = CliRunner().invoke(app, ["lint", str(path)])
    assert found.exit_code == 1
    assert "Traceback" not in found.stderr
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("what", ["text", "external data", "NaN", "64 GB declared", "custom operator", "dynamic rank"])
def test_package_writes_nothing(build, tmp_path, what):
    data = (
        BROKEN[what] if what in BROKEN else next(item[1] for item in BAD if item[0] == what)(build).SerializeToString()
    )
    (tmp_path / "model.onnx").write_bytes(data)
    np.save(tmp_path / "frames.npy", np.random.default_rng(0).integers(0, 255, (4, 20, 20), dtype=np.uint8))
    (tmp_path / "spec.yaml").write_text(
        'name: bad\nversion: "1"\nmodel: model.onnx\nclasses: [bright]\nintended_use: None.\ntraining_data: None.\n'
        "limits: None.\npreprocess: {steps: [{step: resize, height: 16, width: 16}, {step: normalize}]}\n"
        "frames: {path: frames.npy}\nlowering: {precisions: [fp32], rtx: false}\n"
    )
    before = sorted(tmp_path.iterdir())
    found = CliRunner().invoke(app, ["package", str(tmp_path / "spec.yaml"), "--out", str(tmp_path / "out.edge")])
    assert found.exit_code in (1, 2), found.stderr
    assert "error: " in found.stderr
    assert sorted(tmp_path.iterdir()) == before


def test_tidy_refuses_what_it_cannot_read(build):
    for _, make, _ in BAD:
        model = make(build)
        try:
            tidied = tidy(model)
        except EdgeError:
            continue
        assert any(finding.severity == "error" for finding in lint(tidied, "jetpack6"))
