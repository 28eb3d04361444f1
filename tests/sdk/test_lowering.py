"""Recipes with an export section: every task ends with a verified file, and a refusal leaves none."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, get_args

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_export._lower import Precision
from edge_export.ranges import Method
from edge_runtime.bundle import Bundle, generate_key
from edge_runtime.errors import ConfigError, LoweringError
from edge_runtime.preprocess.spec import Letterbox, Normalize, PreprocessSpec, ToGray
from edge_runtime.runners import available_runners
from edge_sdk.lowering import calibration_frames
from edge_sdk.progress import ProgressEvent
from edge_sdk.recipe import effective_yaml, parse_recipe, run_recipe
from edge_sdk.recipe_export import CalibrationFrames, CardSection, ExportSection, RangeMethod, VariantId
from edge_sdk.recipe_text import report_lines
from edge_sdk.simulate import training_set
from edge_sdk.tasks.restoration.recipe import CleanFrames, DegradeConfig, RestorationRecipe
from edge_sdk.tasks.restoration.run import device_preprocess

cv2: Any = pytest.importorskip("cv2")

CARD = "card: {intended_use: Tests., training_data: Discs., limits: All., license: cc0-1.0, tags: [disc]}"
MASKS = """
name: discs
data: {kind: folder, images: images, masks: masks, manifest: m.csv}
classes: [disc]
unlabelled: []
preprocess: {steps: [{step: to_gray}, {step: resize, height: 16, width: 16}, {step: normalize}]}
teacher: {train: {network: {width: 4, depth: 2}, optimiser: {epochs: 1, threads: 1}}}
distill: {network: {width: 2, depth: 2}, optimiser: {epochs: 1, threads: 1}}
"""
RESTORED = """
task: restoration
name: clean
data: {images: images, manifest: m.csv}
preprocess: {steps: [{step: to_gray}, {step: resize, height: 16, width: 16}, {step: normalize, mean: 0.2, std: 0.2}]}
degrade: {speckle: 0.4, noise: 0.1}
teacher: {train: {network: {width: 4, depth: 2}, draws: 1, optimiser: {epochs: 1, batch_size: 4, threads: 1}}}
distill: {network: {width: 4, depth: 2}, draws: 1, optimiser: {epochs: 1, batch_size: 4, threads: 1}}
"""
BOXES = """
task: detection
name: boxes
data: {images: images, boxes: b.csv, manifest: m.csv}
classes: [disc]
preprocess: {steps: [{step: to_gray}, {step: letterbox, height: 32, width: 32}, {step: normalize}]}
teacher: {train: {network: &net {width: 4, stages: 4, max_width: 16, levels: 2, pyramid: 8},
  optimiser: {epochs: 1, threads: 1}}}
distill: {network: *net, optimiser: {epochs: 1, threads: 1}}
"""
CLIPS = """
task: classification
name: clips
classes: [{name: dark}, {name: bright}]
data: {manifest: c.csv, samples: 2}
preprocess: {steps: [{step: to_gray}, {step: resize, height: 16, width: 16}, {step: normalize},
  {step: stack, n: 3, stride: 2}]}
teacher: {train: {network: {width: 4, depth: 2}, optimiser: {epochs: 1, threads: 1}}}
distill: {network: {width: 4, depth: 2}, optimiser: {epochs: 1, threads: 1}}
"""


def export(**more: str) -> str:
    """An export section with further keys, in YAML's flow form."""
    given = {"rtx": "false", "calibration": "{count: 3}", **more}
    return "export:\n" + "".join(f"  {key}: {value}\n" for key, value in given.items()) + f"  {CARD}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Eight images with discs, masks, boxes and a manifest; six clips with theirs."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:24, :24]
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    splits, boxes, clips = ["file,split"], ["file,label,x,y,w,h"], ["file,label,split,patient"]
    for k in range(8):
        centre = int(rng.integers(8, 16))
        mask = (x - centre) ** 2 + (y - 12) ** 2 < 30
        image = np.where(mask, 40, 180) + rng.integers(0, 30, mask.shape)
        cv2.imwrite(str(tmp_path / "images" / f"{k}.png"), image.astype(np.uint8))
        cv2.imwrite(str(tmp_path / "masks" / f"{k}.png"), mask.astype(np.uint8) * 255)
        splits.append(f"{k}.png,{'test' if k < 2 else 'train'}")
        boxes.append(f"{k}.png,disc,{centre - 5},7,11,11")
    for k in range(6):
        np.save(tmp_path / f"{k}.npy", rng.integers(0, 90 + 80 * (k % 2), (8, 24, 24), dtype=np.uint8))
        clips.append(f"{k}.npy,{('dark', 'bright')[k % 2]},{'test' if k < 2 else 'train'},p{k}")
    for file, rows in (("m.csv", splits), ("b.csv", boxes), ("c.csv", clips)):
        (tmp_path / file).write_text("\n".join(rows) + "\n")
    return tmp_path


def run(folder: Path, text: str, events: list[ProgressEvent] | None = None) -> dict[str, Any]:
    (folder / "r.yaml").write_text(text)
    return run_recipe(folder / "r.yaml", folder / "out", (events if events is not None else []).append)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def evidence(bundle: Bundle, title: str) -> Any:
    (path,) = [item.path for item in bundle.manifest.evidence if item.title.startswith(title)]
    return json.loads(bundle.read(path))


def test_a_recipe_of_masks_ends_with_a_signed_file_that_says_what_it_is_made_of(folder: Path) -> None:
    key_id = generate_key(folder / "k.pem", folder / "k.pub.pem")
    runners = "[onnxruntime, openvino]" if available_runners()["openvino"] is None else "[onnxruntime]"
    text = MASKS + export(
        key="k.pem",
        precisions="[fp32, fp16, int8, int8-cpu]",
        runners=runners,
        max_drop_points="{fp16: 9, int8: 60, int8-cpu: 60}",
        version="'2.1'",
    )
    report = run(folder, text)
    out = folder / "out"
    assert report["export"]["signed_by"] == key_id
    assert json.loads((out / "report.json").read_text()) == report
    with Bundle.open(out / "discs.edge", trust=[folder / "k.pub.pem"], require_signature=True) as bundle:
        bundle.verify_all()
        manifest = bundle.manifest
        assert (manifest.name, manifest.version) == ("discs", "2.1")
        assert [variant.id for variant in manifest.variants] == ["fp32", "fp16", "int8", "int8-cpu"]
        assert manifest.outputs[0].classes == ("disc",)
        assert bundle.sha256 == report["export"]["sha256"]
        bill = json.dumps(evidence(bundle, "Bill of materials"))
        teacher = report["teacher"]["sha256"]
        state, recipe = (sha256(out / name) for name in ("student.pt", "recipe.effective.yaml"))
        assert all(digest in bill for digest in (sha256(folder / "m.csv"), teacher, state, recipe))
        assert evidence(bundle, "Frames for quantization")["taken"] == 3
        assert evidence(bundle, "Training")["student"] == report["student"]
        assert "cc0-1.0" in bundle.card()
        assert len(manifest.golden) == 2
    lines = report_lines(report)
    assert any(line.startswith("int8-cpu on onnxruntime: loses") for line in lines)
    assert lines[-1].endswith(f"signed by {key_id[:16]}...")
    events: list[ProgressEvent] = []
    assert run(folder, text, events) == report
    assert {event.note for event in events if event.task == "bundle"} == {"cached"}


def test_without_the_section_a_recipe_is_what_it_was() -> None:
    recipe = parse_recipe(MASKS)
    assert "export" not in effective_yaml(recipe)
    assert b"export" not in msgspec.json.encode(recipe)
    whole = parse_recipe(MASKS + export(key="k.pem", overrides="{int8: why not}"))
    assert parse_recipe(effective_yaml(whole)) == whole


@pytest.mark.parametrize(
    ("text", "kind", "shape"),
    [
        (BOXES + export(min_agreement="{fp16: 0, int8: 0}", threshold="0.3"), "boxes", (1, 20, 5)),
        (CLIPS + export(min_agreement="{fp16: 0, int8: 0}"), "class_logits", (1, 2)),
        (
            RESTORED.replace("noise: 0.1", "noise: 0.1, scale: 2") + export(min_sqnr_db="{int8: 5}"),
            "image",
            (1, 1, 16, 16),
        ),
    ],
    ids=["boxes", "classes", "frames of half the size"],
)
def test_every_other_task_ends_with_a_file(folder: Path, text: str, kind: str, shape: tuple[int, ...]) -> None:
    report = run(folder, text)
    out = folder / "out"
    with Bundle.open(out / report["export"]["file"]) as bundle:
        bundle.verify_all()
        (output,) = bundle.manifest.outputs
        assert (output.kind, output.shape) == (kind, shape)
        bill = json.dumps(evidence(bundle, "Bill of materials"))
        manifest = "c.csv" if kind == "class_logits" else "m.csv"
        for path in (folder / manifest, out / "student.pt", out / "recipe.effective.yaml"):
            assert sha256(path) in bill
    assert json.loads((out / "report.json").read_text()) == report
    assert report_lines(report)[-1].endswith("not signed: export names no key")
    assert {score["variant"] for score in report["export"]["verification"]["scores"]} == {"fp32", "fp16", "int8"}


def test_a_failing_gate_writes_nothing_and_names_the_tensor(folder: Path) -> None:
    strict = RESTORED + export(precisions="[int8]", min_sqnr_db="{int8: 200}")
    with pytest.raises(LoweringError, match=r"int8: restored has .* 200 is needed.*tensor '"):
        run(folder, strict)
    left = [path for path in (folder / "out").rglob("*") if path.suffix == ".edge" or ".partial-" in path.name]
    assert left == []
    assert (folder / "out" / "student.onnx").exists()  # what was trained stays
    assert "export" not in json.loads((folder / "out" / "report.json").read_text())
    report = run(folder, strict.replace("card:", "overrides: {int8: 'only a test'}\n  card:"))
    assert "overridden: only a test" in "\n".join(report_lines(report))
    with Bundle.open(folder / "out" / "clean.edge") as bundle:
        assert "**failed**, overridden: only a test" in bundle.card()


def _text_key(folder: Path) -> None:
    (folder / "k.pem").write_text("-----BEGIN PRIVATE KEY-----\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (MASKS + export(runners="[abacus]"), "runner 'abacus' is not known"),
        (MASKS + export(key="none.pem"), r"none\.pem is not a file; `edge-export keygen`"),
        (MASKS + export(key="k.pem"), r"k\.pem is not a readable private key"),
        (MASKS.replace("name: discs", "name: a/b") + export(), "name is 'a/b'; it names the file"),
        (RESTORED.replace("name: clean", "name: .x") + export(), "it names the file"),
        (BOXES + export(key="none.pem"), "edge-export keygen"),
        (CLIPS + export(key="none.pem"), "edge-export keygen"),
    ],
)
def test_what_must_fail_fails_before_training(folder: Path, text: str, message: str) -> None:
    _text_key(folder)
    with pytest.raises(ConfigError, match=message):
        run(folder, text)
    assert not (folder / "out").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (MASKS + export(overrides="{int8: ' '}"), "override of int8 is ' '; give the reason"),
        (MASKS + export(overrides="{int4: x}"), "overrides of is .*int4"),
        (MASKS + export(precisions="[int4]"), "int4"),
        (MASKS + export(max_drop_points="{int8-cpu: 1}"), "int8-cpu.*the variants are"),
        (MASKS + export(max_drop_points="{int8: -1}"), "max_drop_points of int8 is -1"),
        (MASKS + export(min_agreement="{int8: 0.9}"), "segmentation is held to max_drop_points"),
        (BOXES + export(max_drop_points="{int8: 1}"), "detection is held to min_agreement"),
        (CLIPS + export(min_sqnr_db="{int8: 1}"), "classification is held to min_agreement"),
        (RESTORED + export(min_agreement="{int8: 1}"), "restoration is held to min_sqnr_db"),
        (MASKS + export(calibration="{count: 0}"), "count is 0"),
        (MASKS + export(calibration="{choice: best}"), "best"),
        (MASKS + export(golden="9"), "golden is 9"),
        (MASKS + export(threshold="1"), "threshold is 1"),
        (MASKS + export(percentile="20"), "percentile is 20"),
        (MASKS + export(runners="[]"), "at least one is needed"),
        (MASKS + export(version="''"), "version is ''"),
        (MASKS + export(gate="1"), "gate"),
        (MASKS + export().replace("limits: All.", "limits: ''"), "limits is empty"),
        (MASKS + export().replace("limits: All., ", ""), "limits"),
        (MASKS + "export:\n", "export"),
    ],
)
def test_wrong_sections_are_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"(?s)x.yaml: .*{message}"):
        parse_recipe(text, "x.yaml")


def test_the_names_are_those_of_the_exporter() -> None:
    assert get_args(VariantId) == get_args(Precision)
    assert set(get_args(RangeMethod)) == set(get_args(Method))


def _model() -> onnx.ModelProto:
    """Four filters of 9 x 9 with stride 8 over a frame (1, 1, 32, 32)."""
    weights = np.random.default_rng(0).standard_normal((4, 1, 9, 9)).astype(np.float32)
    node = helper.make_node("Conv", ["x", "w"], ["y"], strides=[8, 8], pads=[4, 4, 4, 4])
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", (1, 1, 32, 32)), ("y", (1, 4, 4, 4)))
    ]
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], [numpy_helper.from_array(weights, "w")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def test_calibration_frames_are_drawn_from_a_seed_or_spread_over_what_differs() -> None:
    model = _model()
    frames = np.float32(training_set(5, 4, (32, 32))[0][:, None] / 255)
    inputs = np.repeat(frames, 5, axis=0)  # five copies of each of four frames
    drawn = [calibration_frames(model, inputs, CalibrationFrames(count=4, seed=seed)) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(set(drawn[0])) == 4
    spread = calibration_frames(model, inputs, CalibrationFrames(count=4, choice="kmeans"))
    assert [k // 5 for k in spread] == [0, 1, 2, 3]
    assert calibration_frames(model, inputs, CalibrationFrames(count=64)) == tuple(range(20))


def test_a_student_that_enlarges_is_given_half_the_size_on_a_device() -> None:
    spec = PreprocessSpec(steps=(ToGray(), Letterbox(height=32, width=48), Normalize()))
    data = CleanFrames(images="i", manifest="m.csv")
    recipe = RestorationRecipe(data=data, preprocess=spec, degrade=DegradeConfig(scale=2))
    assert device_preprocess(recipe).steps[1] == Letterbox(height=16, width=24)
    once = msgspec.structs.replace(recipe, degrade=DegradeConfig())
    assert device_preprocess(once) == spec


def test_the_variants_always_hold_the_reference() -> None:
    card = CardSection(intended_use="a", training_data="b", limits="c")
    assert ExportSection(card=card, precisions=("int8",)).variants == ("fp32", "int8")
