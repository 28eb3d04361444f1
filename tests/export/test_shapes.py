"""Models from elsewhere: open dimensions, channels last, several inputs; and package files of every kind of output."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edge_export._shapes import read_model, with_input_shape
from edge_export.commands import package_from_spec
from edge_runtime.bundle import Bundle
from edge_runtime.errors import ConfigError, LoweringError

OPEN = ("n", 1, "h", None)
POOLED = [helper.make_node("MaxPool", ["image"], ["mask"], kernel_shape=[2, 2], strides=[2, 2])]
OUTPUTS = [
    {"name": "spread", "kind": "uncertainty", "of": "mask"},
    {"name": "mask", "kind": "mask_logits", "classes": ["bright"], "threshold": 0.4},
    {"name": "level", "kind": "class_logits", "classes": ["dark", "light"]},
    {"name": "numbers", "kind": "raw"},
]
SPEC = {
    "name": "many",
    "version": "1",
    "model": "model.onnx",
    "outputs": OUTPUTS,
    "intended_use": "None.",
    "training_data": "None.",
    "limits": "None.",
    "preprocess": {"steps": [{"step": "resize", "height": 16, "width": 16}, {"step": "normalize"}]},
    "frames": {"path": "frames.npy"},
    "lowering": {"precisions": ["fp32", "fp16"], "rtx": False},
    "verification": {"frames": {"path": "frames.npy"}, "min_agreement": {"fp16": 0.5}},
}


def test_open_dimensions_are_filled_in_and_the_outputs_follow(build):
    fixed = with_input_shape(build(POOLED, {}, input_shape=OPEN, output_shape=("n", 1, "y", "x")), (1, 1, 16, 24))
    onnx.checker.check_model(fixed, full_check=True)
    sizes = [
        [dim.dim_value for dim in item.type.tensor_type.shape.dim] for item in [*fixed.graph.input, *fixed.graph.output]
    ]
    assert sizes == [[1, 1, 16, 24], [1, 1, 8, 12]]


@pytest.mark.parametrize(
    ("shape", "wanted", "kind", "words"),
    [
        ((1, 1, 8, 8), (1, 1, 16, 16), ConfigError, "correct the size step"),
        ((1, 16, 16, 3), (1, 3, 16, 16), ConfigError, "tf2onnx: --inputs-as-nchw image"),
        (("n", None, None, 3), (1, 3, 16, 16), ConfigError, "channels last"),
        ((1, 16), (1, 1, 16, 16), ConfigError, "takes"),
    ],
)
def test_a_shape_that_does_not_fit(build, shape, wanted, kind, words):
    nodes = [helper.make_node("Relu", ["image"], ["mask"])]
    with pytest.raises(kind, match=words):
        with_input_shape(build(nodes, {}, input_shape=shape), wanted)


def test_models_that_cannot_be_fixed(build):
    two = build([helper.make_node("Add", ["image", "more"], ["mask"])], {})
    two.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, (1,)))
    with pytest.raises(ConfigError, match=r"inputs \['image', 'more'\]"):
        with_input_shape(two, (1, 4, 8, 8))
    nodes = [helper.make_node("NonZero", ["image"], ["places"]), helper.make_node("Cast", ["places"], ["mask"], to=1)]
    with pytest.raises(LoweringError, match="does not follow"):
        with_input_shape(build(nodes, {}, input_shape=OPEN, output_shape=(4, "k")), (1, 1, 8, 8))
    add = [helper.make_node("Add", ["image", "w"], ["mask"])]
    other = build(add, {"w": np.zeros((1, 1, 5, 5), np.float32)}, input_shape=OPEN, output_shape=OPEN)
    with pytest.raises(LoweringError, match="cannot take an input"):
        with_input_shape(other, (1, 1, 8, 8))


def test_files_that_are_no_model(tmp_path):
    for name, size, words in (("none", None, "cannot be read"), ("empty", 0, "is empty"), ("huge", 1 << 31, "at most")):
        if size is not None:
            with (tmp_path / name).open("wb") as file:
                file.truncate(size)
        with pytest.raises(ConfigError, match=words):
            read_model(tmp_path / name)
    (tmp_path / "noise").write_bytes(b"noise")
    with pytest.raises(LoweringError, match="noise is not an ONNX model"):
        read_model(tmp_path / "noise")


@pytest.fixture
def write(tmp_path):
    """`write(**changes)` -> the path of a package file of a model with four outputs."""
    weight = helper.make_tensor("w", TensorProto.FLOAT, (1, 1, 3, 3), np.linspace(-1, 1, 9))
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["mask"], name="conv", pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
        helper.make_node("Sigmoid", ["mask"], ["spread"], name="sigmoid"),
        helper.make_node("MaxPool", ["mask"], ["numbers"], name="pool", kernel_shape=[16, 8], strides=[16, 8]),
        helper.make_node("Flatten", ["numbers"], ["level"], name="flat"),
    ]
    outputs = {"mask": (1, 1, 16, 16), "spread": (1, 1, 16, 16), "numbers": (1, 1, 1, 2), "level": (1, 2)}
    graph = helper.make_graph(
        nodes,
        "many",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ("n", 1, 16, 16))],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [weight],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), tmp_path / "model.onnx"
    )
    frames = np.random.default_rng(0).integers(0, 255, (4, 20, 20), dtype=np.uint8)
    np.save(tmp_path / "frames.npy", frames)

    def made(**changes):
        path = tmp_path / "spec.yaml"
        path.write_text(json.dumps({key: value for key, value in {**SPEC, **changes}.items() if value is not None}))
        return path

    return made


def test_every_kind_of_output_is_packaged_and_held_against_fp32(write, tmp_path):
    facts = package_from_spec(
        write(license="cc-by-4.0", origins=[{"kind": "data", "name": "d", "path": "frames.npy"}]),
        tmp_path / "a.edge",
        None,
    )
    assert facts["statement"] == "compared with the fp32 file on 4 frames without labels"
    assert set(facts["verification"]["scores"][0]["agreement"]) == {"mask", "level"}
    with Bundle.open(tmp_path / "a.edge") as bundle:
        assert [(item.name, item.kind) for item in bundle.manifest.outputs] == [(o["name"], o["kind"]) for o in OUTPUTS]
        assert bundle.manifest.outputs[1].threshold == 0.4
        bill = dict(bundle.evidence())["Bill of materials (CycloneDX 1.6)"]
        names = {item["name"]: item for item in bill["components"]}
        assert {"model.onnx", "spec.yaml", "d"} <= set(names)
        assert 'license: "cc-by-4.0"' in bundle.card()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"outputs": OUTPUTS[:3]}, "each is needed once"),
        ({"outputs": None}, "give `outputs`"),
        ({"classes": ["bright"]}, "not both"),
        ({"outputs": None, "classes": ["bright"]}, "say what each is"),
        ({"outputs": [{**OUTPUTS[0], "of": "level"}, *OUTPUTS[1:]]}, "belongs to 'level'"),
        ({"outputs": [*OUTPUTS[:2], {**OUTPUTS[2], "classes": ["a"]}, OUTPUTS[3]]}, "names 1 classes for 2 logits"),
        ({"verification": {"frames": {"path": "frames.npy"}, "images": "x", "masks": "y"}}, "or frames alone"),
        ({"verification": {"images": "x", "masks": "y"}}, "put the mask output first"),
        ({"verification": {"frames": {"path": "frames.npy"}, "runners": ["abacus"]}}, "runner 'abacus'"),
        ({"origins": [{"kind": "data", "name": "d"}]}, "give one"),
        ({"origins": [{"kind": "data", "name": "d", "sha256": "0"}]}, "64 lower-case hex"),
        ({"origins": [{"kind": "data", "name": "d", "path": "none.csv"}]}, "none.csv cannot be read"),
        ({"origins": [{"kind": "gossip", "name": "d", "sha256": "0"}]}, "gossip"),
    ],
)  # fmt: skip
def test_package_files_that_do_not_fit(write, tmp_path, changes, words):
    with pytest.raises(ConfigError, match=words):
        package_from_spec(write(**changes), tmp_path / "a.edge", None)
    assert not (tmp_path / "a.edge").exists()
