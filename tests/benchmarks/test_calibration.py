"""The calibration row on drawn heads: which pixels count, what is evaluated, and how figures are judged."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.distill.calibration import _ece_figure, _risk_figure, answers, boundary_items, evaluate
from benchmarks.distill.calibration_train import SETTINGS, labels_student, told_student
from benchmarks.distill.segmentation import Images
from edge_sdk.frames import LabelledFrames


def heads(n: int, seed: int = 0) -> Images:
    """Bright discs of 300 x 200 pixels with some noise."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:200, :300]
    masks = [((rows - 100) ** 2 + (columns - 150) ** 2 < r * r).astype(np.uint8) for r in rng.uniform(40, 80, n)]
    images = [np.clip(mask * 120 + rng.normal(60, 25, mask.shape), 0, 255).astype(np.uint8) for mask in masks]
    return Images(
        labelled=LabelledFrames.from_arrays(np.stack(images), np.stack(masks)),
        names=[f"{k}.png" for k in range(n)],
        groups=[f"{k}" for k in range(n)],
        facts={},
    )


class Bright(nn.Module):
    """Logits from the smoothed grey value alone, far too sure of themselves."""

    def __init__(self, told: bool) -> None:
        super().__init__()
        self.told = told

    def forward(self, frames: torch.Tensor) -> Any:
        logits = 60 * nn.functional.avg_pool2d(frames - 0.9, 3, 1, 1)
        spread = torch.exp(-logits.abs())
        return {"mask": logits, "uncertainty": spread} if self.told else logits


def test_the_band_is_in_the_pixels_of_the_file() -> None:
    images = heads(2)
    logits = np.zeros((2, 1, 160, 240), np.float32)
    rows, labels = boundary_items(logits, images)
    perimeter = sum(2 * np.pi * np.sqrt(mask.sum() / np.pi) for mask in images.labelled.masks)
    assert len(rows) == pytest.approx(20 * perimeter, rel=0.04)
    assert rows.shape == (len(labels), 1)
    assert 0.4 < labels.mean() < 0.5


def test_an_overconfident_student_is_found_and_scaled() -> None:
    numbers, scores = evaluate(Bright(told=True), heads(6), heads(5, seed=1))
    assert numbers["fit"]["temperature"] > 1.2
    assert numbers["after"]["nll"] < numbers["before"]["nll"]
    assert numbers["after"]["ece"] < numbers["before"]["ece"]
    assert numbers["spread"]["pixels"]["monotone"]
    assert numbers["spread"]["pixels_dice_monotone"]
    assert sorted(scores) == ["dice", "entropy", "entropy_device", "spread", "spread_device"]
    assert all(len(values) == 5 for values in scores.values())
    assert min(scores["dice"]) > 0.8


def test_a_student_without_the_plane_has_its_entropy_alone() -> None:
    numbers, scores = evaluate(Bright(told=False), heads(3), heads(3, seed=1))
    assert "spread" not in numbers
    assert sorted(scores) == ["dice", "entropy", "entropy_device"]


def test_the_networks_of_the_row_answer() -> None:
    told = answers(told_student().eval(), heads(1))
    plain = answers(labels_student().eval(), heads(1))
    assert told.logits.shape == plain.logits.shape == (1, 1, 160, 240)
    assert told.spread is not None
    assert told.spread.shape == (1, 160, 240)
    assert plain.spread is None
    assert SETTINGS.members >= 2


def numbers(before: float, after: float, *, monotone: bool = True) -> dict[str, Any]:
    report = {"ece": before}
    curve = {"coverage": [1.0, 0.5], "risk": [0.2, 0.1], "monotone": monotone}
    return {
        "fit": {"temperature": 2.0},
        "before": report,
        "after": {"ece": after},
        "network_grid_before": report,
        "network_grid_after": report,
        "spread": {"pixels": curve, "frames": curve, "pixels_dice_risk": [0.2, 0.1], "pixels_dice_monotone": True},
        "entropy": {"pixels": curve, "frames": curve},
    }


@pytest.mark.parametrize(
    ("seeds", "met"),
    [([(0.1, 0.04), (0.09, 0.045)], True), ([(0.1, 0.04), (0.06, 0.04)], False), ([(0.2, 0.06)], False)],
)
def test_every_seed_must_reach_the_goal(seeds: list[tuple[float, float]], met: bool) -> None:
    figure = _ece_figure("told", [numbers(*pair) for pair in seeds], 55)
    assert figure.met is met
    assert figure.value == pytest.approx(np.mean([after for _, after in seeds]))


def test_one_seed_that_rises_fails_the_row() -> None:
    good, bad = numbers(0.1, 0.04), numbers(0.1, 0.04, monotone=False)
    assert _risk_figure([good, good], "frames", 55).met
    assert _risk_figure([good, bad], "frames", 55).met is False
    pixels = _risk_figure([good, good], "pixels", 55)
    assert pixels.met
    assert "2 of 2 seeds" in pixels.spread
