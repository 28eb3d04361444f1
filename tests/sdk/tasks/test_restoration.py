"""Restoration: degradation by its statistics, networks that start harmless, and whole small runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edge_runtime.errors import ConfigError
from edge_sdk.frames import frames_of
from edge_sdk.progress import ProgressEvent
from edge_sdk.recipe import effective_yaml, load_recipe, parse_recipe, run_recipe
from edge_sdk.simulate import training_set
from edge_sdk.students.restorer import Restorer
from edge_sdk.tasks.restoration.degrade import degrade
from edge_sdk.tasks.restoration.recipe import DegradeConfig, RestorerDistillConfig
from edge_sdk.tasks.restoration.scores import TRIVIAL, network_scores, trivial_scores
from edge_sdk.tasks.restoration.training import IMAGE, build_restorer, degraded_set, restorer_teacher

cv2: Any = pytest.importorskip("cv2")

RECIPE = """
task: restoration
data: {images: images, manifest: m.csv, group: exam}
preprocess:
  steps: [{step: to_gray}, {step: resize, height: 32, width: 48}, {step: normalize, mean: 0.2, std: 0.2}]
degrade: {speckle: 0.4, noise: 0.1}
teacher: {train: {network: {width: 8, depth: 2}, draws: 2, optimiser: {epochs: 12, batch_size: 4, threads: 1}}}
distill: {network: {width: 4, depth: 2}, draws: 2, optimiser: {epochs: 8, batch_size: 4, threads: 1}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    frames, _ = training_set(3, 10, (64, 96))[:2]
    for k, frame in enumerate(frames):
        cv2.imwrite(str(tmp_path / "images" / f"{k}.png"), cv2.GaussianBlur(frame, (0, 0), 2))
    rows = [f"{k}.png,{'test' if k < 3 else 'train'},e{k}" for k in range(10)]
    (tmp_path / "m.csv").write_text("\n".join(["file,split,exam", *rows]))
    (tmp_path / "r.yaml").write_text(RECIPE)
    return tmp_path


def test_noise_has_its_standard_deviation_and_black_stays_black() -> None:
    grey = torch.full((4, 1, 64, 64), 0.5)
    grey[..., :10] = 0
    found = degrade(grey, DegradeConfig(speckle=0, noise=0.05), torch.Generator().manual_seed(0))
    assert found[..., :10].abs().max() == 0
    assert abs(float(found[..., 10:].std()) - 0.05) < 0.002
    assert abs(float(found[..., 10:].mean()) - 0.5) < 0.002


def test_speckle_has_the_spread_of_theory() -> None:
    """The decibels of fully developed speckle have a standard deviation of (10 / ln 10) pi / sqrt(6)."""
    grey = torch.full((8, 1, 96, 96), 0.5)
    config = DegradeConfig(speckle=0.5, noise=0, range_db=60)
    found = degrade(grey, config, torch.Generator().manual_seed(0))
    wanted = 0.5 * (10 / np.log(10)) * np.pi / np.sqrt(6) / 60
    assert abs(float(found.std()) - wanted) < 0.1 * wanted


def test_degradation_is_a_function_of_its_generator() -> None:
    grey = torch.rand((2, 1, 16, 16), generator=torch.Generator().manual_seed(9))
    draws = [degrade(grey, DegradeConfig(), torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


@pytest.mark.parametrize("scale", [1, 2])
def test_an_untrained_network_does_no_harm(scale: int) -> None:
    frames = torch.rand((2, 1, 16, 24))
    network = build_restorer(RestorerDistillConfig().network, scale=scale, seed=4).eval()
    wanted = frames
    if scale == 2:
        wanted = torch.nn.functional.interpolate(frames, scale_factor=2.0, mode="bilinear", align_corners=False)
    with torch.inference_mode():
        assert torch.equal(network(frames), wanted)
        assert restorer_teacher(network)(frames).shape == wanted.shape


def test_a_set_holds_pairs_in_network_units() -> None:
    spec = parse_recipe(RECIPE).preprocess
    frames = frames_of(training_set(3, 3, (64, 96))[0])
    data = degraded_set(frames, spec, DegradeConfig(scale=2), draws=2, seed=1)
    assert data.inputs.shape == (6, 1, 16, 24)
    assert data.target(IMAGE).shape == (6, 1, 32, 48)
    assert torch.equal(data.target(IMAGE)[:3], data.target(IMAGE)[3:])
    assert not torch.equal(data.inputs[:3], data.inputs[3:])
    assert data.scale == (0.2, 0.2)


def test_plain_filters_are_scored_and_the_degraded_frame_is_the_first() -> None:
    spec = parse_recipe(RECIPE).preprocess
    clean = [cv2.GaussianBlur(frame, (0, 0), 2) for frame in training_set(3, 3, (64, 96))[0]]
    data = degraded_set(frames_of(np.stack(clean)), spec, DegradeConfig(noise=0.1), draws=1, seed=1)
    scores = trivial_scores(data)
    assert tuple(scores) == TRIVIAL
    assert np.mean(scores["Gaussian, sigma 1.2"]["psnr"]) > np.mean(scores["as it is"]["psnr"]) + 1
    untrained = network_scores(Restorer(depth=2).eval(), data)
    assert np.allclose(untrained["psnr"], scores["as it is"]["psnr"], atol=1e-3)


@pytest.mark.parametrize("scale", [1, 2])
def test_a_recipe_runs_and_the_student_gains(folder: Path, scale: int) -> None:
    (folder / "r.yaml").write_text(RECIPE.replace("noise: 0.1", f"noise: 0.1, scale: {scale}"))
    report = run_recipe(folder / "r.yaml", folder / "out")
    assert json.loads((folder / "out" / "report.json").read_text()) == report
    assert report["frames"] == {"train": 7, "test": 3}
    if scale == 1:
        assert report["teacher"]["psnr"] > report["trivial"]["as it is"]["psnr"] + 0.5
        assert report["student"]["psnr"] > report["trivial"]["as it is"]["psnr"] + 0.1
    events: list[ProgressEvent] = []
    again = run_recipe(folder / "r.yaml", folder / "out", events.append)
    assert again["student"] == report["student"]
    assert {event.note for event in events if event.task in ("teacher", "student")} == {"cached"}


def test_students_pass_the_gates() -> None:
    from edge_export import check_model, export_torch, lower, rtx_gate

    for scale in (1, 2):
        network = build_restorer(RestorerDistillConfig().network, scale=scale).eval()
        model = export_torch(network, (1, 1, 32, 48), output_names=("restored",))
        check_model(model)
        files, _ = lower(model, [np.random.default_rng(0).random((1, 1, 32, 48), np.float32)])
        assert set(files) == {"fp32", "fp16", "int8"}
        assert rtx_gate(files["fp16"]).status in ("accepted", "not tried")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (RECIPE.replace("speckle: 0.4, noise: 0.1", "speckle: 0, noise: 0"), "nothing would be degraded"),
        (RECIPE.replace("draws: 2, opt", "draws: 0, opt"), "draws is 0"),
        (RECIPE.replace("distill: {", "distill: {distill_weight: 2, "), "distill_weight is 2"),
        (RECIPE.replace("distill: {", "distill: {augment: {gain: 0.3}, "), "must be 0; use the degradation"),
        (RECIPE.replace("speckle: 0.4", "spekcle: 0.4"), r"'degrade.spekcle'.*'speckle'"),
    ],
)
def test_wrong_recipes_are_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_recipe(text)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "images" / "4.png").unlink(), r"4\.png is named in the manifest and does not exist"),
        (lambda f: (f / "images" / "4.png").write_bytes(b"x"), r"4\.png cannot be decoded"),
        (lambda f: (f / "m.csv").write_text("file,split,exam\n1.png,train,a\n2.png,test,a"), "'a' is in two splits"),
        (lambda f: (f / "m.csv").write_text("file,split,exam\n1.png,train,a"), "no row of split 'test'"),
        (lambda f: (f / "m.csv").write_text("file,split,exam\n1.png,val,a"), r"1\.png has split 'val'"),
    ],
)
def test_wrong_data_are_refused_by_name(folder: Path, damage: Any, message: str) -> None:
    damage(folder)
    with pytest.raises(ConfigError, match=message):
        run_recipe(folder / "r.yaml", folder / "out")


def test_the_shipped_recipe_reads_and_colour_is_refused() -> None:
    recipe = load_recipe(Path(__file__).parents[3] / "examples" / "recipes" / "denoise.yaml")
    assert parse_recipe(effective_yaml(recipe)) == recipe
    with pytest.raises(ConfigError, match="scale is 3"):
        build_restorer(recipe.distill.network, scale=3)
