"""SPEC.yaml to bundle: what is written, what verification adds, and every way the file can be wrong."""

from __future__ import annotations

import json
import os
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest

from edge_export._labelled import labelled_pairs
from edge_export._tensors import network_tensors, speckle_frames
from edge_export.agree import MIN_AGREEMENT, MIN_SQNR_DB
from edge_export.commands import NOT_VERIFIED, lint_file, package_from_spec
from edge_export.package_spec import GoldenSection, LoweringSection, PackageSpec, VerificationSection, read_spec
from edge_export.verify import MAX_DROP_POINTS
from edge_runtime.bundle import Bundle, generate_key, verify_bundle
from edge_runtime.bundle.manifest_reading import EnergyGate, Measure, Rule
from edge_runtime.errors import BundleError, ConfigError, EdgeError, LoweringError, SourceError
from edge_runtime.preprocess import Normalize, PreprocessSpec, Resize, Stack, ToGray
from edge_runtime.settings_file import parse_yaml, to_struct

SPEC = {
    "name": "discs",
    "version": "1",
    "model": "model.onnx",
    "classes": ["disc"],
    "intended_use": "Find dark discs.",
    "training_data": "Simulated discs.",
    "limits": "Discs only.",
    "preprocess": {
        "steps": [{"step": "to_gray"}, {"step": "resize", "height": 48, "width": 48}, {"step": "normalize"}]
    },
    "frames": {"path": "frames.npy", "count": 16},
    "lowering": {"rtx": False},
}
LABELLED = {"images": "images", "masks": "masks"}
FEW = {"golden": {"count": 8, "from_frames": True}, "frames": {"path": "frames.npy", "count": 3}}
SMALL = {"steps": [{"step": "resize", "height": 32, "width": 32}, {"step": "normalize"}]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, student, trained):
    """model.onnx, frames.npy and 20 labelled pairs as image files."""
    base = tmp_path_factory.mktemp("spec")
    onnx.save(student, base / "model.onnx")
    grey = [np.rint(255 * sample[0, 0]).astype(np.uint8) for sample in trained.inputs[:20]]
    np.save(base / "frames.npy", np.stack(grey))
    for name in ("images", "masks"):
        (base / name).mkdir()
    for k, (image, label) in enumerate(zip(grey, trained.labels, strict=False)):
        cv2.imwrite(str(base / "images" / f"{k:02}.png"), image)
        cv2.imwrite(str(base / "masks" / f"{k:02}.png"), 255 * label)
    return base


@pytest.fixture
def write(folder):
    """`write(**changes)` -> the path of a spec with these keys changed (None: left out)."""

    def made(**changes) -> Path:
        values = {key: value for key, value in {**SPEC, **changes}.items() if value is not None}
        path = folder / "spec.yaml"
        path.write_text(json.dumps(values))  # JSON is YAML
        return path

    return made


def test_without_labels_the_bundle_says_not_verified(write, tmp_path):
    facts = package_from_spec(write(), tmp_path / "a.edge", None)
    assert facts["verification"] is None
    assert facts["statement"] == NOT_VERIFIED
    assert facts["bytes"] == (tmp_path / "a.edge").stat().st_size
    assert json.dumps(facts, allow_nan=False)
    with Bundle.open(tmp_path / "a.edge") as bundle:
        assert bundle.sha256 == facts["sha256"]
        assert bundle.signature is None
        assert "Not verified against labels." in bundle.card()
        assert all(text in bundle.card() for text in ("Find dark discs.", "Simulated discs.", "Discs only."))
        output = bundle.manifest.outputs[0]
        assert (output.classes, output.threshold, output.shape) == (("disc",), 0.5, (1, 1, 48, 48))
        assert [variant.scores for variant in bundle.manifest.variants] == [{}, {}, {}]


def test_with_labels_the_card_carries_the_scores(write, tmp_path):
    gates = {"fp32": 5.0, "fp16": 5.0, "int8": 5.0}
    path = write(verification={**LABELLED, "max_drop_points": gates}, threshold=0.4)
    facts = package_from_spec(path, tmp_path / "a.edge", None)
    assert facts["verification"]["n_frames"] == 20
    assert facts["verification"]["student_dice"] > 0.9
    assert facts["statement"] == "verified on 20 labelled images"
    with Bundle.open(tmp_path / "a.edge") as bundle:
        assert all(variant.scores["dice"] > 0.9 for variant in bundle.manifest.variants)
        assert "20 held-out frames" in bundle.card()
        assert bundle.manifest.outputs[0].threshold == 0.4


def test_a_failed_gate_stops_unless_overridden_with_a_reason(write, tmp_path):
    strict = {**LABELLED, "max_drop_points": {"int8": -100.0}}
    with pytest.raises(LoweringError, match="int8"):
        package_from_spec(write(verification=strict), tmp_path / "a.edge", None)
    assert not list(tmp_path.iterdir())
    excused = {**strict, "overrides": {"int8": "a test of the gate"}}
    facts = package_from_spec(write(verification=excused), tmp_path / "a.edge", None)
    assert facts["verification"]["scores"][2]["override"] == "a test of the gate"
    with Bundle.open(tmp_path / "a.edge") as bundle:
        assert "overridden: a test of the gate" in bundle.card()


def test_golden_samples_are_synthetic_unless_asked_for(write, folder, tmp_path):
    package_from_spec(write(), tmp_path / "a.edge", None)
    package_from_spec(write(golden={"from_frames": True, "count": 3}), tmp_path / "b.edge", None)
    frames = network_tensors(folder / "frames.npy", PreprocessSpec(steps=(Resize(height=48, width=48), Normalize())))

    def golden(path: Path) -> list[np.ndarray]:
        with Bundle.open(path) as bundle:
            return [sample for sample, _ in bundle.golden()]

    assert len(golden(tmp_path / "a.edge")) == 2
    assert not any(np.array_equal(sample, frame) for sample in golden(tmp_path / "a.edge") for frame in frames)
    found = golden(tmp_path / "b.edge")
    assert len(found) == 3
    assert all(any(np.array_equal(sample, frame) for frame in frames) for sample in found)


def test_signed_with_a_key(write, tmp_path):
    generate_key(tmp_path / "k.pem", tmp_path / "k.pub")
    facts = package_from_spec(
        write(lowering={"rtx": False, "precisions": ["fp32"]}), tmp_path / "a.edge", tmp_path / "k.pem"
    )
    assert facts["signed"] is True
    assert verify_bundle(tmp_path / "a.edge", trust=[tmp_path / "k.pub"], require_signature=True).signature.trusted


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"modle": "x"}, ConfigError, "unknown key 'modle'; did you mean 'model'?"),
        ({"frames": {"path": "frames.npy", "evry": 2}}, ConfigError, "'frames.evry'; did you mean 'every'"),
        ({"preprocess": {"steps": [{"step": "resise"}]}}, ConfigError, "step is 'resise'"),
        ({"name": None}, ConfigError, "missing required field `name`"),
        ({"name": ""}, BundleError, "not empty"),
        ({"threshold": 1.0}, ConfigError, "threshold is 1.0"),
        ({"classes": ["a", "b"]}, ConfigError, r"names 2 classes for 1 channels"),
        ({"classes": "disc"}, ConfigError, "Expected `array`"),
        ({"golden": {"count": 9}}, ConfigError, "golden: count 9"),
        (FEW, ConfigError, "8 samples from 3 frames"),
        ({"frames": {"path": "none.npy"}}, SourceError, "none.npy"),
        ({"frames": {"path": "spec.yaml"}}, SourceError, "not a kind of file"),
        ({"frames": {"path": "frames.npy", "every": 0}}, ConfigError, "every 0"),
        ({"frames": {"path": "frames.npy", "scan_area": [9, 0, 1, 9]}}, ConfigError, "x0 < x1"),
        ({"model": "none.onnx"}, ConfigError, "none.onnx cannot be read"),
        ({"model": "."}, ConfigError, "cannot be read"),
        ({"model": "frames.npy"}, LoweringError, "is not an ONNX model"),
        ({"preprocess": SMALL}, EdgeError, "32"),
        ({"lowering": {"precisions": ["int4"]}}, ConfigError, "int4"),
        ({"lowering": {"targets": ["phone"]}}, ConfigError, "phone"),
        ({"verification": {"images": "none", "masks": "masks"}}, ConfigError, "none is not a folder"),
        ({"verification": {**LABELLED, "mask_values": [0, 1, 255]}}, ConfigError, "mask_values has 3 values"),
        ({"verification": {**LABELLED, "mask_values": [0, 0]}}, ConfigError, "different values"),
        ({"verification": {**LABELLED, "mask_values": [0, 254]}}, ConfigError, r"holds the values \[255\]"),
        ({"verification": {**LABELLED, "overrides": {"int8": " "}}}, ConfigError, "carries a reason"),
        ({"verification": {**LABELLED, "overrides": {"int2": "x"}}}, ConfigError, "int2"),
    ],
)  # fmt: skip
def test_wrong_spec(write, tmp_path, changes, kind, words):
    with pytest.raises(kind, match=words):
        package_from_spec(write(**changes), tmp_path / "a.edge", None)
    assert not list(tmp_path.iterdir())


MASK = {"name": "mask", "kind": "mask_logits", "classes": ["disc"]}
RULE = {"name": "size", "label": "disc", "quantity": "area_share", "most": 0.5}
MEASURE = {"label": "disc", "quantities": ["diameter"], "spacing_rel": 0.01}
GATE = {"score": "energy", "threshold": -2.5, "false_alarm": 0.02, "n": 200, "over": "held-out discs"}


def test_the_reading_of_an_output_travels_into_the_manifest(write, folder, tmp_path):
    (name,) = (item.name for item in onnx.load(folder / "model.onnx").graph.output)
    read = {"keep": "largest", "smoothing": 0.5, "rules": [RULE], "measure": [MEASURE], "gate": GATE}
    path = write(
        classes=None, outputs=[{**MASK, "name": name, **read}], lowering={"rtx": False, "precisions": ["fp32"]}
    )
    package_from_spec(path, tmp_path / "a.edge", None)
    with Bundle.open(tmp_path / "a.edge") as bundle:
        output = bundle.manifest.outputs[0]
        assert bundle.manifest.schema_version == 3
    assert (output.keep, output.smoothing) == ("largest", 0.5)
    assert output.rules == (Rule(name="size", label="disc", quantity="area_share", most=0.5),)
    assert output.measure == (Measure(label="disc", quantities=("diameter",), spacing_rel=0.01),)
    assert output.gate == EnergyGate(threshold=-2.5, false_alarm=0.02, n=200, over="held-out discs")


@pytest.mark.parametrize(
    ("read", "words"),
    [
        ({"smoothing": 0}, "smoothing 0"),
        ({"keep": "biggest"}, "biggest"),
        ({"rules": [{**RULE, "label": "cyst"}]}, "'cyst'"),
        ({"rules": [{**RULE, "most": None}]}, "at least one end"),
        ({"rules": [{**RULE, "mots": 1}]}, "mots"),
        ({"measure": [{**MEASURE, "spacing_rel": 2}]}, "spacing_rel 2"),
        ({"measure": [{"label": "disc", "quantities": ["diameter"]}]}, "spacing_rel"),
        ({"gate": {**GATE, "score": "entropy"}}, "entropy"),
        ({"gate": {**GATE, "n": 0}}, "on 0 frames"),
        ({"kind": "image", "classes": [], "keep": "largest"}, "belong to masks"),
    ],
)
def test_a_reading_that_does_not_fit_is_refused(write, folder, tmp_path, read, words):
    (name,) = (item.name for item in onnx.load(folder / "model.onnx").graph.output)
    with pytest.raises(ConfigError, match=words):
        package_from_spec(write(classes=None, outputs=[{**MASK, "name": name, **read}]), tmp_path / "a.edge", None)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["- a\n", "a: [\n", "\x00"])
def test_spec_that_is_no_mapping(tmp_path, text):
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"s\.yaml"):
        package_from_spec(tmp_path / "s.yaml", tmp_path / "a.edge", None)


def test_out_and_key_are_looked_at_before_the_work(write, tmp_path):
    with pytest.raises(ConfigError, match="folder that exists"):
        package_from_spec(write(), tmp_path / "none" / "a.edge", None)
    with pytest.raises(ConfigError, match="file name"):
        package_from_spec(write(), tmp_path, None)
    with pytest.raises(ConfigError, match="keygen"):
        package_from_spec(write(), tmp_path / "a.edge", tmp_path / "none.pem")
    assert not list(tmp_path.iterdir())


def test_pairs_at_their_own_size_are_left_as_they_are(folder, trained):
    spec = PreprocessSpec(steps=(ToGray(), Resize(height=48, width=48), Normalize()))
    inputs, labels = labelled_pairs(folder / "images", folder / "masks", (0, 255), spec)
    assert len(inputs) == len(labels) == 20
    for found, wanted in zip(labels, trained.labels, strict=False):
        np.testing.assert_array_equal(found, wanted)
    for found, wanted in zip(inputs, trained.inputs, strict=False):
        np.testing.assert_allclose(found, wanted, atol=0.5 / 255 + 1e-6)


def test_a_picture_without_its_mask(folder, tmp_path):
    spec = PreprocessSpec(steps=(ToGray(), Resize(height=48, width=48), Normalize()))
    (tmp_path / "m").mkdir()
    with pytest.raises(ConfigError, match="holds no images"):
        labelled_pairs(folder / "images", tmp_path / "m", (0, 255), spec)
    cv2.imwrite(str(tmp_path / "m" / "00.png"), np.zeros((48, 48), np.uint8))
    with pytest.raises(ConfigError, match="01 is only in one of"):
        labelled_pairs(folder / "images", tmp_path / "m", (0, 255), spec)
    for k in range(20):
        cv2.imwrite(str(tmp_path / "m" / f"{k:02}.png"), np.zeros((48, 40), np.uint8))
    with pytest.raises(ConfigError, match=r"00\.png has shape \(48, 40\)"):
        labelled_pairs(folder / "images", tmp_path / "m", (0, 255), spec)


def test_every_counts_frames_and_a_stack_sees_all_of_them(folder):
    plain = PreprocessSpec(steps=(Resize(height=48, width=48), Normalize()))
    stacked = PreprocessSpec(steps=(Resize(height=48, width=48), Normalize(), Stack(n=2)))
    every = network_tensors(folder / "frames.npy", plain)
    third = network_tensors(folder / "frames.npy", plain, every=3, count=4)
    assert len(third) == 4
    for k, tensor in enumerate(third):
        np.testing.assert_array_equal(tensor, every[3 * k])
    pairs = network_tensors(folder / "frames.npy", stacked, every=3, count=4)
    np.testing.assert_array_equal(pairs[1][0, 0], every[2][0, 0])
    np.testing.assert_array_equal(pairs[1][0, 1], every[3][0, 0])


def test_speckle_is_seeded_and_has_the_statistics_of_a_rayleigh_amplitude():
    one, two = speckle_frames(4, 2), speckle_frames(4, 2)
    assert all(np.array_equal(a.image, b.image) for a, b in zip(one, two, strict=True))
    assert not np.array_equal(one[0].image, one[1].image)
    corner = one[0].image[:40, :40].astype(float) * 60 / 255  # dB; outside the ellipse
    assert corner.std() == pytest.approx(5.57, abs=0.4)  # 10/ln 10 * pi/sqrt 6, Burckhardt 1978


def test_lint_file(folder):
    assert lint_file(folder / "model.onnx", "jetpack6") == []
    with pytest.raises(ConfigError, match="choose one of"):
        lint_file(folder / "model.onnx", "phone")
    with pytest.raises(LoweringError, match="not an ONNX model"):
        lint_file(folder / "spec.yaml", "jetpack6")
    with pytest.raises(ConfigError, match="cannot be read"):
        lint_file(folder / "none.onnx", "jetpack6")


def test_the_example_file_shows_every_key_at_its_default():
    text = (Path(__file__).parents[2] / "examples" / "recipes" / "package.yaml").read_text()
    given = parse_yaml(text, "package.yaml")
    spec = to_struct(given, PackageSpec, "package.yaml")
    assert set(given) == set(PackageSpec.__struct_fields__) - {"classes", "threshold"}  # the short form of `outputs`
    for name in ("frames", "golden", "lowering", "verification"):
        section = getattr(spec, name)
        left_out = {"frames"} if name == "verification" else set()  # images and masks are given
        assert set(given[name]) == set(section.__struct_fields__) - left_out, name
    assert set(given["outputs"][0]) == set(spec.outputs[0].__struct_fields__)
    assert spec.golden == GoldenSection()
    assert spec.lowering == LoweringSection()
    assert spec.verification.max_drop_points == MAX_DROP_POINTS
    assert spec.verification.min_agreement == MIN_AGREEMENT
    assert spec.verification.min_sqnr_db == MIN_SQNR_DB
    assert spec.verification.runners == VerificationSection(images="a", masks="b").runners


def test_the_recipe_of_the_network_from_elsewhere_is_whole():
    spec = read_spec(Path(__file__).parents[2] / "examples" / "recipes" / "carotid.yaml")
    assert spec.lowering.precisions == ("fp32", "fp16", "int8", "int8-cpu")
    assert spec.verification.runners == ("onnxruntime", "openvino")
    assert spec.verification.overrides == {}


def test_the_images_of_a_folder_may_differ_in_size(folder, tmp_path):
    spec = PreprocessSpec(steps=(ToGray(), Resize(height=48, width=48), Normalize()))
    for name, size in (("a", (48, 48)), ("b", (60, 40))):
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.zeros(size, np.uint8))
    assert len(network_tensors(tmp_path, spec)) == 2


@pytest.mark.slow
def test_a_network_from_elsewhere_needs_no_torch():
    if not os.environ.get("POCUS_DATA"):
        pytest.skip("POCUS_DATA is not set")
    from benchmarks.lowering.foreign import measure_foreign_onnx

    figures = {figure.name: figure for figure in measure_foreign_onnx()}
    assert figures["packaged, verified and quantized without torch"].value is True
    assert all(figure.met is not False for figure in figures.values())
