"""Recipes: unknown keys, values out of range, the shipped recipe, and a whole small run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edge_runtime.errors import ConfigError, InferenceError
from edge_runtime.frame import Rectangle
from edge_sdk.progress import ProgressEvent
from edge_sdk.recipe import DEMO_CINE, FileFrames, PydicomExample, Recipe, effective_yaml, load_recipe, parse_recipe
from edge_sdk.recipe_run import read_data, run
from edge_sdk.stages import Stages
from edge_sdk.students import UNet, light_unet
from edge_sdk.teachers import load_state_dict
from edge_sdk.unlabelled import open_unlabelled, read_unlabelled

cv2: Any = pytest.importorskip("cv2")

SMALL = """
name: small
data: {kind: folder, images: images, masks: masks, hold_out_every: 4}
classes: [disc]
unlabelled: []
preprocess:
  steps: [{step: to_gray}, {step: resize, height: 16, width: 16}, {step: normalize}]
teacher: {train: {network: {width: 4, depth: 2}, optimiser: {epochs: 3, threads: 1}}}
distill: {network: {width: 2, depth: 2}, optimiser: {epochs: 2, threads: 1}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:24, :24]
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for k in range(8):
        mask = (x - rng.uniform(8, 16)) ** 2 + (y - 12) ** 2 < 30
        image = np.where(mask, 40, 180).astype(np.uint8)
        cv2.imwrite(str(tmp_path / "images" / f"{k}.png"), image)
        cv2.imwrite(str(tmp_path / "masks" / f"{k}.png"), mask.astype(np.uint8) * 255)
    (tmp_path / "r.yaml").write_text(SMALL)
    return tmp_path


def _run(folder: Path, text: str = SMALL, events: list[ProgressEvent] | None = None) -> dict[str, Any]:
    listen = (events if events is not None else []).append
    return run(parse_recipe(text), base=folder, out_dir=folder / "out", progress=listen)


def test_the_shipped_recipe_is_the_default_one() -> None:
    path = Path(__file__).parents[2] / "examples" / "recipes" / "demo.yaml"
    assert load_recipe(path) == Recipe()


def test_the_effective_recipe_reads_back_equal() -> None:
    for text in ("", SMALL):
        recipe = parse_recipe(text)
        assert parse_recipe(effective_yaml(recipe)) == recipe


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("teachr: {}", r"unknown key 'teachr'; did you mean 'teacher'\?"),
        ("teacher: {train: {optimiser: {epoch: 3}}}", r"unknown key 'teacher.train.optimiser.epoch'.*'epochs'"),
        ("data: {kind: simulated, trian: 3}", r"'data.trian'.*'train'"),
        ("preprocess: {steps: [{step: letterbox, heigth: 3}]}", r"'preprocess.steps\[0\].heigth'.*'height'"),
        ("unlabelled: [{kind: file, path: a, evry: 1}]", r"'unlabelled\[0\].evry'.*'every'"),
        ("zzz: 1", "known keys: task, name, classes, data"),
        ("task: telepathy", "task is 'telepathy'; one of classification, detection"),
        ("task: [1]", "one of classification, detection"),
        ("teacher: {files: [a.onnx], checkpoint: b.pt}", "both files and checkpoint"),
        ("teacher: {members: 0}", "members is 0"),
        ("teacher: {members: 2, file: a.onnx}", "file is not trained"),
        ("data: {kind: folder, images: a, masks: b, group: exam}", "name the manifest too"),
        ("data: {kind: cloud}", "data: kind is 'cloud'; one of simulated, folder is needed"),
        ("data: {train: 3}", "one of simulated, folder is needed"),
        ("teachr: {}\ndistil: {}", "teachr.*distil"),
        ("data: {kind: simulated, train: many}", r"Expected `int`, got `str` - at `\$.data.train`"),
        ("data: {kind: simulated, train: 0}", "at least one frame"),
        ("classes: []", "classes is"),
        ("classes: [a, a]", "different names"),
        ("classes: [a, b]", "simulated frames have one class"),
        ("data: {kind: folder, images: a, masks: b, mask_values: [0, 1, 2]}", "1 classes need 2"),
        ("data: {kind: folder, images: a, masks: b, mask_values: [0, 0]}", "mask_values"),
        ("data: {kind: folder, images: a, masks: b, mask_values: [0, 300]}", "mask_values"),
        ("data: {kind: folder, images: a, masks: b, hold_out_every: 1}", "hold_out_every"),
        ("distill: {temperature: 0}", "temperature is 0"),
        ("distill: {optimiser: {precision: fp64}}", "precision"),
        ("teacher: {file: a.onnx, checkpoint: b.pt}", "both file and checkpoint"),
        ("unlabelled: [{kind: file, path: a, every: 0}]", "every is 0"),
        ("unlabelled: [{kind: file, path: a, scan_area: [5, 0, 5, 9]}]", "scan_area"),
        ("a: [", "not valid YAML"),
        ("[1]", "got `array`"),
        ("!!python/object/apply:os.getcwd []", "not valid YAML"),
    ],
)
def test_wrong_recipes_are_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"(?s)x.yaml: .*{message}"):
        parse_recipe(text, "x.yaml")


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"])
def test_files_that_cannot_be_read_are_refused_by_name(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "r.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=r"r\.yaml"):
        load_recipe(tmp_path / "r.yaml")


def test_reading_a_recipe_needs_no_torch() -> None:
    code = "import sys, edge_sdk, edge_sdk.recipe as r; r.parse_recipe(''); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_small_run_writes_what_it_says(folder: Path) -> None:
    from edge_sdk import run_recipe

    report = run_recipe(folder / "r.yaml", folder / "out")
    assert json.loads((folder / "out" / "report.json").read_text()) == report
    assert load_recipe(folder / "out" / "recipe.effective.yaml") == parse_recipe(SMALL)
    assert report["frames"] == {"train": 6, "held_out": 2}
    assert report["trained_on_real"] == []
    assert len(report["teacher"]["training"]["losses"]) == 3
    assert report["student"]["dice"]["n"] == 2
    student = UNet(width=2, depth=2)
    student.load_state_dict(load_state_dict(folder / "out" / "student.pt"))
    assert report["student"]["parameters"] == sum(p.numel() for p in student.parameters())
    assert sorted(p.name for p in (folder / "out").iterdir()) == [
        "curves.png",
        "recipe.effective.yaml",
        "report.json",
        "stages",
        "student.onnx",
        "student.pt",
    ]


def test_a_rerun_redoes_only_what_changed(folder: Path) -> None:
    first = _run(folder)
    events: list[ProgressEvent] = []
    changed = SMALL.replace("network: {width: 2", "temperature: 3, network: {width: 2")
    second = _run(folder, changed, events)
    notes = {event.task: event.note for event in events if event.note}
    assert notes["teacher"] == "cached"
    assert notes["student"] != "cached"
    assert second["teacher"] == first["teacher"]
    assert _run(folder)["student"] == first["student"]


def test_several_teachers_answer_as_one_and_are_asked_once(folder: Path) -> None:
    text = SMALL.replace("teacher: {train", "teacher: {members: 2, flips: true, weighting: confidence, train")
    report = _run(folder, text)
    assert report["teacher"]["members"] == 2
    assert report["teacher"]["dice"]["n"] == 2
    events: list[ProgressEvent] = []
    _run(folder, text.replace("network: {width: 2", "temperature: 3, network: {width: 2"), events)
    notes = {event.task: event.note for event in events if event.note}
    assert notes["teacher"] == notes["teacher-1"] == notes["ensemble"] == "cached"
    # the second student found the answers on disk
    assert [event.step for event in events if event.task == "teacher answers" and not event.note] == []


def test_validation_frames_choose_the_epoch_and_stay_out_of_training(folder: Path) -> None:
    rows = [f"{k}.png,{'test' if k < 2 else 'train'},e{k // 2}" for k in range(8)]
    (folder / "m.csv").write_text("\n".join(["file,split,exam", *rows]))
    text = SMALL.replace("hold_out_every: 4", "manifest: m.csv, group: exam") + "validation: 0.34\n"
    text = text.replace("distill: {", "distill: {loop: {patience: 1}, ")
    data = read_data(parse_recipe(text), base=folder, stages=Stages(folder / "cache"))
    assert data.validation is not None
    assert len(data.train.frames) == 4
    assert len(data.validation.frames) == 2
    exams = [{int(Path(name).stem) // 2 for name in part.names} for part in (data.train, data.validation)]
    assert not exams[0] & exams[1]
    report = _run(folder, text)
    assert report["frames"] == {"train": 4, "held_out": 2}
    with pytest.raises(ConfigError, match="patience is 1, but validation is 0"):
        parse_recipe(text.replace("validation: 0.34", ""))


def test_changed_frames_change_the_run(folder: Path) -> None:
    first = _run(folder)
    cv2.imwrite(str(folder / "images" / "0.png"), np.zeros((24, 24), np.uint8))
    assert _run(folder)["data_sha256"] != first["data_sha256"]


def test_an_interrupted_run_continues_to_the_same_student(folder: Path) -> None:
    whole = run(parse_recipe(SMALL), base=folder, out_dir=folder / "whole")

    def kill(event: ProgressEvent) -> None:
        if event.task == "distill" and event.step == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(parse_recipe(SMALL), base=folder, out_dir=folder / "out", progress=kill)
    assert not (folder / "out" / "student.pt").exists()
    again = _run(folder)
    assert again["student"]["training"]["losses"] == whole["student"]["training"]["losses"]
    states = [load_state_dict(folder / name / "student.pt") for name in ("whole", "out")]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_stored_teacher_is_used_as_it_is(folder: Path) -> None:
    first = _run(folder)
    stored = next((folder / "out" / "stages").glob("teacher-*")) / "teacher.pt"
    (folder / "t.pt").write_bytes(stored.read_bytes())
    second = _run(folder, SMALL.replace("teacher: {train", "teacher: {checkpoint: t.pt, train"))
    assert second["teacher"]["dice"] == first["teacher"]["dice"]
    assert "training" not in second["teacher"]
    script = torch.jit.trace(light_unet().eval(), torch.zeros(1, 1, 16, 16))
    script.save(str(folder / "script.pt"))
    third = _run(folder, SMALL.replace("teacher: {", "teacher: {file: script.pt, "))
    assert third["teacher"]["name"] == "script.pt"
    with pytest.raises(InferenceError, match=r"script\.pt.*not probabilities"):
        _run(folder, SMALL.replace("teacher: {", "teacher: {file: script.pt, output: probabilities, "))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "masks" / "3.png").unlink(), r"images/3\.png has no mask"),
        (lambda f: (f / "masks" / "3.png").write_bytes(b"x"), r"masks/3\.png cannot be decoded"),
        (lambda f: (f / "masks" / "3.png").write_bytes(b""), r"masks/3\.png cannot be decoded"),
        (
            lambda f: cv2.imwrite(str(f / "masks" / "3.png"), np.zeros((24, 25), np.uint8)),
            r"masks/3\.png is \(24, 25\)",
        ),
        (lambda f: cv2.imwrite(str(f / "masks" / "3.png"), np.full((24, 24), 7, np.uint8)), r"3\.png holds.*\[7\]"),
        (lambda f: (f / "masks").rename(f / "other"), "masks is not a folder"),
        (lambda f: [p.unlink() for p in (f / "images").iterdir()], "holds no images"),
        (lambda f: [(f / "images" / f"{k}.png").unlink() for k in range(1, 8)], "1 pairs to train on and 0 held out"),
        (lambda f: (f / "images" / "3.jpg").write_bytes(b"x"), "same name"),
    ],
)
def test_wrong_folders_are_refused_by_name(folder: Path, damage: Any, message: str) -> None:
    damage(folder)
    with pytest.raises(ConfigError, match=message):
        _run(folder)


def test_a_manifest_splits(folder: Path) -> None:
    text = SMALL.replace("hold_out_every: 4", "manifest: m.csv")
    rows = [f"{k}.png,{'test' if k < 3 else 'train'}" for k in range(8)]
    (folder / "m.csv").write_text("\n".join(["file,split", *rows]))
    assert _run(folder, text)["frames"] == {"train": 5, "held_out": 3}
    (folder / "m.csv").write_text("\n".join(["file,split", *rows[1:]]))
    with pytest.raises(ConfigError, match=r"m\.csv has no row for 0\.png"):
        _run(folder, text)
    (folder / "m.csv").write_text("file,split\n0.png,maybe")
    with pytest.raises(ConfigError, match=r"m\.csv, line 2.*'maybe'"):
        _run(folder, text)
    exams = [f"{k}.png,{'test' if k < 3 else 'train'},{k // 2}" for k in range(8)]
    (folder / "m.csv").write_text("\n".join(["file,split,exam", *exams]))
    with pytest.raises(ConfigError, match=r"exam '1' is in two splits, 2\.png in 'test' and 3\.png in 'train'"):
        _run(folder, text.replace("manifest: m.csv", "manifest: m.csv, group: exam"))
    (folder / "m.csv").unlink()
    with pytest.raises(ConfigError, match=r"m\.csv cannot be read"):
        _run(folder, text)


def test_the_cine_of_the_demonstration_is_cropped_to_its_sector() -> None:
    source = read_unlabelled(PydicomExample(name="ybr_color", every=10, scan_area=DEMO_CINE.scan_area), Path())
    assert source.record.indices == (0, 10, 20)
    geometry = source.frames[0].geometry
    assert geometry.scan_area == Rectangle(x0=41, y0=25, x1=297, y1=202)
    assert not geometry.trusted
    assert "region" in geometry.reason
    with open_unlabelled(PydicomExample(), Path()) as whole:
        first = whole.read()
    assert first is not None
    assert first.geometry.scan_area is None


def test_unlabelled_files_that_are_missing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.dcm does not exist"):
        read_unlabelled(FileFrames(path="none.dcm"), tmp_path)
    with pytest.raises(ConfigError, match="no example 'nonsense'"):
        read_unlabelled(PydicomExample(name="nonsense"), tmp_path)


def test_fetal_heads_can_be_learned(tmp_path: Path) -> None:
    root = os.environ.get("POCUS_DATA")
    if not root:
        pytest.skip("POCUS_DATA is not set; it holds the fetal head images")
    base = Path(root) / "segmentation" / "hc18_fetal_head"
    text = SMALL.replace("hold_out_every: 4", "manifest: manifest.csv").replace("[disc]", "[head]")
    text = text.replace("height: 16, width: 16", "height: 64, width: 96").replace("epochs: 3", "epochs: 8")
    report = run(parse_recipe(text), base=base, out_dir=tmp_path / "out")
    assert report["frames"] == {"train": 161, "held_out": 55}
    assert report["teacher"]["dice"]["mean"] > 0.6


@pytest.mark.parametrize(("name", "case"), [("hc18", "hc18"), ("usgra", "usgra")])
def test_the_recipes_of_the_benchmark_are_its_settings(name: str, case: str) -> None:
    from benchmarks.distill.cases import CASES

    recipe, measured = load_recipe(Path(__file__).parents[2] / "examples" / "recipes" / f"{name}.yaml"), CASES[case]
    assert recipe.preprocess == measured.spec
    assert recipe.teacher.train == measured.teacher
    assert recipe.teacher.members == measured.members
    assert recipe.teacher.flips
    assert recipe.distill == measured.students["student"]
    assert len(recipe.classes) == measured.classes
