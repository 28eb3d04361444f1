"""Frames: reproducible, in their contract, with masks and geometry that agree with closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edge_runtime.errors import ConfigError
from edge_sdk.simulate import ImagingSettings, Inclusion, ProbeModel, Scene, simulate_frame

LINEAR = ProbeModel()
CURVED = ProbeModel(
    kind="sector",
    depth_mm=120,
    frequency_mhz=3.5,
    axial_sigma_mm=0.4,
    lateral_sigma_mm=1.0,
    focal_mm=60,
    field_mm=50,
)
CYST = Inclusion(kind="anechoic", x_mm=2.0, z_mm=20.0, a_mm=6.0, b_mm=4.0, angle_rad=0.3)


@pytest.mark.parametrize("probe", [LINEAR, CURVED], ids=["linear", "sector"])
def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(probe: ProbeModel) -> None:
    scene = Scene(inclusions=(CYST,), texture_db=2.0)
    first, again, other = (simulate_frame(scene, probe, seed, (96, 128)) for seed in (3, 3, 4))
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.mask, again.mask)
    assert not np.array_equal(first.image, other.image)
    assert np.array_equal(first.mask, other.mask)


@pytest.mark.parametrize("probe", [LINEAR, CURVED], ids=["linear", "sector"])
def test_the_image_is_black_outside_the_scan_area_and_the_mask_lies_inside(probe: ProbeModel) -> None:
    frame = simulate_frame(Scene(inclusions=(CYST,)), probe, 0, (120, 100))
    assert frame.geometry.scan_area is not None
    area = frame.geometry.scan_area.mask((120, 100))
    assert frame.image.dtype == frame.mask.dtype == np.uint8
    assert not frame.image[~area].any()
    assert not frame.mask[~area].any()
    assert frame.geometry.trusted
    assert frame.geometry.origin == "simulated"


def test_the_mask_covers_the_area_of_the_ellipse() -> None:
    frame = simulate_frame(Scene(inclusions=(CYST,)), LINEAR, 0, (256, 256))
    assert frame.anechoic_area_mm2 == pytest.approx(math.pi * 24.0)
    assert frame.mask.sum() * frame.geometry.pixel_area_mm2 == pytest.approx(math.pi * 24.0, rel=0.01)


@pytest.mark.parametrize(("shape"), [(8, 64), (64,), (64, 9999)])
def test_a_bad_shape_is_refused(shape: tuple[int, int]) -> None:
    with pytest.raises(ConfigError, match="shape"):
        simulate_frame(Scene(), LINEAR, 0, shape)


@pytest.mark.parametrize(
    "bad",
    [
        {"depth_mm": 0.0},
        {"depth_mm": math.nan},
        {"kind": "endocavity"},
        {"angle_rad": 3.2},
        {"frequency_mhz": -1.0},
        {"axial_sigma_mm": 1e-5},
        {"lateral_sigma_mm": 1e-5},
        {"axial_growth": -0.1},
    ],
)
def test_a_probe_that_cannot_be_is_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        ProbeModel(**bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [{"dynamic_range_db": 0.0}, {"gamma": -1.0}, {"tgc_fraction": 3.0}])
def test_settings_that_cannot_be_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        ImagingSettings(**bad)  # type: ignore[arg-type]


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(ConfigError, match="seed"):
        simulate_frame(Scene(), LINEAR, -1)
