"""A detection recipe end to end on simulated discs, its cache, and what it refuses."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import msgspec
import numpy as np
import onnx
import pytest
import torch

from edge_export import run_model
from edge_runtime.errors import ConfigError, InferenceError
from edge_runtime.preprocess.spec import Letterbox, Normalize, PreprocessSpec, ToGray
from edge_sdk.config import OptimiserConfig
from edge_sdk.recipe import load_recipe
from edge_sdk.students.detector import DenseBoxes
from edge_sdk.tasks.detection.config import DetectorConfig, DetectorDistillConfig, DetectorTeacherConfig
from edge_sdk.tasks.detection.data import read_boxes, training_set
from edge_sdk.tasks.detection.predict import detect, output_spec
from edge_sdk.tasks.detection.recipe import BoxData, DetectionRecipe, DetectorTeacherSource
from edge_sdk.tasks.detection.run import run
from edge_sdk.tasks.detection.scores import average_precision, trivial_answers
from edge_sdk.tasks.detection.train import build_detector, distill_detector, train_detector

RECIPES = Path(__file__).resolve().parents[3] / "examples" / "recipes"
SMALL = DetectorConfig(width=4, stages=4, max_width=16, levels=2, pyramid=8)
SPEC = PreprocessSpec(steps=(ToGray(), Letterbox(height=64, width=64), Normalize(mean=0.3, std=0.2)))


def discs(folder: Path, count: int, held: int, seed: int = 0) -> BoxData:
    """Images of speckle with one or two discs, dark ones ("vessel") and bright ones ("nerve"), with boxes."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:64, :64]
    boxes, manifest = [["file", "label", "x", "y", "w", "h"]], [["file", "split"]]
    for k in range(count + held):
        level, name, used = np.full((64, 64), 0.4), f"{k:03d}.png", []
        for _ in range(rng.integers(1, 3)):
            radius, centre = rng.uniform(6, 12), rng.uniform(14, 50, 2)
            if any(np.hypot(*(centre - c)) < radius + r + 2 for c, r in used):
                continue
            used.append((centre, radius))
            label = ("nerve", "vessel")[int(rng.integers(2))]
            level[np.hypot(x + 0.5 - centre[0], y + 0.5 - centre[1]) < radius] = 0.9 if label == "nerve" else 0.05
            boxes.append([name, label, *np.round(centre - radius, 2), *np.round([2 * radius] * 2, 2)])
        image = np.clip(level * rng.rayleigh(0.8, level.shape), 0, 1)
        cv2.imwrite(str(folder / name), (255 * cv2.GaussianBlur(image, (0, 0), 1)).astype(np.uint8))
        manifest.append([name, "train" if k < count else "test"])
    for name, rows in (("boxes.csv", boxes), ("manifest.csv", manifest)):
        with (folder / name).open("w", newline="") as file:
            csv.writer(file).writerows(rows)
    return BoxData(images=".", boxes="boxes.csv", manifest="manifest.csv")


def recipe_of(data: BoxData, epochs: int) -> DetectionRecipe:
    optimiser = OptimiserConfig(epochs=epochs, batch_size=8, learning_rate=1e-2, threads=1)
    return DetectionRecipe(
        data=data,
        classes=("nerve", "vessel"),
        preprocess=SPEC,
        teacher=DetectorTeacherSource(train=DetectorTeacherConfig(network=SMALL, optimiser=optimiser)),
        distill=DetectorDistillConfig(network=SMALL, optimiser=optimiser),
    )


def test_a_recipe_writes_a_student_and_a_second_run_trains_nothing(tmp_path):
    recipe = recipe_of(discs(tmp_path, 12, 4), epochs=1)
    events: list[str] = []
    report = run(recipe, base=tmp_path, out_dir=tmp_path / "out", progress=lambda e: events.append(e.task))
    assert "distill" in events
    assert report["frames"] == {"train": 12, "test": 4}
    assert report["student"]["parameters"] > 1000
    assert set(report["trivial_ap50"]) >= {"mean box a class"}
    model = onnx.load(tmp_path / "out" / "student.onnx")
    rows = run_model(model, [np.zeros((1, 1, 64, 64), np.float32)])[0]["boxes"]
    assert rows.shape == (1, 80, 6)
    events.clear()
    assert run(recipe, base=tmp_path, out_dir=tmp_path / "out", progress=lambda e: events.append(e.task)) == report
    assert "distill" not in events
    checkpoint = msgspec.structs.replace(recipe.teacher, checkpoint="out/student.pt")
    again = run(msgspec.structs.replace(recipe, teacher=checkpoint), base=tmp_path, out_dir=tmp_path / "two")
    assert again["teacher"]["ap50"] == report["student"]["ap50"]


@pytest.mark.slow
def test_a_student_learns_from_its_teacher_without_any_box(tmp_path):
    data = discs(tmp_path, 160, 60)
    recipe = recipe_of(data, epochs=100)
    train, test = read_boxes(tmp_path, tmp_path / "boxes.csv", tmp_path / "manifest.csv", recipe.classes)
    known = training_set(train, SPEC, 2)
    teacher = train_detector(known, classes=2, config=recipe.teacher.train).network
    silent = msgspec.structs.replace(recipe.distill, distill_weight=1.0)
    blank = training_set(train.part(range(160)), SPEC, 2)
    blank.targets["boxes"].values[..., 0] = -1
    student = distill_detector(teacher, blank, classes=2, config=silent).network
    scores = {}
    for name, network in (("teacher", teacher), ("student", student)):
        exported = network.exportable(64, 64).eval()
        found = detect(exported, output_spec(exported, recipe.classes, threshold=0.02), test, SPEC)
        scores[name] = average_precision(found, test.boxes)[0]
    trivial = max(average_precision(rows, test.boxes)[0] for rows in trivial_answers(train, test).values())
    assert scores["teacher"] > trivial + 0.2
    assert scores["student"] > max(scores["teacher"] - 0.15, trivial + 0.1)


def test_what_does_not_fit_is_refused(tmp_path):
    data = discs(tmp_path, 4, 1)
    train, _ = read_boxes(tmp_path, tmp_path / "boxes.csv", tmp_path / "manifest.csv", ("nerve", "vessel"))
    frames = training_set(train, SPEC, 2)
    config = recipe_of(data, epochs=1)

    class Broken(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> DenseBoxes:
            n = len(x)
            return DenseBoxes(torch.full((n, 80, 2), torch.nan), torch.zeros(n, 80, 4), torch.zeros(n, 80))

    with pytest.raises(InferenceError, match="not finite"):
        distill_detector(Broken(), frames, classes=2, config=config.distill)
    coarse = build_detector(DetectorConfig(width=4, stages=5, max_width=16, levels=2, pyramid=8), classes=2)
    with pytest.raises(ConfigError, match="same strides and classes"):
        distill_detector(coarse, frames, classes=2, config=config.distill)
    with pytest.raises(ConfigError, match="the student has the strides"):
        DetectionRecipe(
            data=data, classes=("a",), distill=DetectorDistillConfig(network=DetectorConfig(stages=4, levels=2))
        )
    with pytest.raises(ConfigError, match="different names"):
        DetectionRecipe(data=data, classes=("a", "a"))
    with pytest.raises(ConfigError, match=r"score is 1"):
        DetectionRecipe(data=data, classes=("a",), score=1)
    for name, value in (("width", 0), ("stages", 1), ("levels", 5), ("max_width", 3), ("convs", 9), ("pyramid", 0)):
        with pytest.raises(ConfigError, match=f"{name} is {value}"):
            DetectorConfig(**{name: value})
    for name, value in (("gamma", -1), ("distill_weight", 2)):
        with pytest.raises(ConfigError, match=f"{name} is {value}"):
            DetectorDistillConfig(**{name: value})


def test_frames_without_truth_need_a_teacher(tmp_path):
    discs(tmp_path, 4, 1)
    train, _ = read_boxes(tmp_path, tmp_path / "boxes.csv", tmp_path / "manifest.csv", ("nerve", "vessel"))
    frames = training_set(train, SPEC, 2)
    unlabelled = type(frames)(
        inputs=frames.inputs, labelled=torch.zeros(4, dtype=torch.bool), targets=frames.targets, scale=frames.scale
    )
    with pytest.raises(ConfigError, match="no teacher learns"):
        train_detector(unlabelled, classes=2)


def test_the_example_is_the_benchmark():
    from benchmarks.distill.detection import RECIPE

    recipe = load_recipe(RECIPES / "usgra_detection.yaml")
    assert msgspec.structs.replace(recipe, name=RECIPE.name, export=RECIPE.export) == RECIPE
