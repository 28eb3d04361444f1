"""The held-out shift: nothing at severity 0, the same for the same name, black surround, masks that follow."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from benchmarks.distill.shift import DeviceShift, shift_frame, shift_mask
from edge_runtime.frame import Sector

SHAPE = (180, 240)
AREA = Sector(apex_x=120, apex_y=-40, radius_min=50, radius_max=200, angle_min=-0.5, angle_max=0.5).mask(SHAPE)


def _frame() -> tuple[np.ndarray, np.ndarray]:
    y, x = np.ogrid[:180, :240]
    disc = (x - 130) ** 2 + (y - 90) ** 2 < 400
    speckle = np.random.default_rng(0).integers(80, 140, SHAPE)
    image = np.where(disc, 220, speckle) * AREA
    return image.astype(np.uint8), (disc * 255).astype(np.uint8)


def test_severity_0_changes_nothing() -> None:
    image, mask = _frame()
    still = DeviceShift(severity=0)
    assert np.array_equal(shift_frame(image, still, "a.png"), image)
    assert np.array_equal(shift_mask(mask, still, "a.png"), mask)


def test_a_name_and_a_seed_say_all() -> None:
    image, _ = _frame()
    shift = DeviceShift()
    first = shift_frame(image, shift, "a.png")
    assert np.array_equal(first, shift_frame(image, shift, "a.png"))
    assert not np.array_equal(first, shift_frame(image, shift, "b.png"))
    assert not np.array_equal(first, shift_frame(image, msgspec.structs.replace(shift, seed=8), "a.png"))


@pytest.mark.parametrize("severity", [0.5, 1.0, 2.0])
def test_the_mask_follows_and_the_surround_stays_black(severity: float) -> None:
    image, mask = _frame()
    shift = DeviceShift(severity=severity, blur_px=0.3, haze=0.0, loss=0.0)
    moved, truth = shift_frame(image, shift, "a.png"), shift_mask(mask, shift, "a.png")
    assert set(np.unique(truth)) == {0, 255}
    bright = moved > 0.75 * moved.max()
    both = (bright & (truth > 0)).sum()
    assert 2 * both / (bright.sum() + (truth > 0).sum()) > 0.95
    assert truth.sum() < mask.sum()  # a deeper setting shows less of it
    harsh = shift_frame(image, DeviceShift(severity=severity), "a.png")
    assert harsh[-1].max() == 0
    assert harsh[:, :5].max() == 0


def test_contrast_falls_with_severity() -> None:
    image, mask = _frame()
    contrasts = []
    for severity in (0.5, 1.0, 2.0):
        shift = DeviceShift(severity=severity, depth=0.0)
        seen = shift_frame(image, shift, "a.png").astype(float)
        contrasts.append(seen[mask > 0].mean() - seen[AREA & (mask == 0)].mean())
    assert contrasts == sorted(contrasts, reverse=True)
