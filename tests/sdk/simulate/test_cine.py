"""Cines: tissue that moves takes its speckle, its mask and its area along."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.errors import ConfigError
from edge_sdk.simulate import ImagingSettings, Inclusion, Motion, ProbeModel, Scene, simulate_cine, simulate_frame

QUIET = ImagingSettings(noise_db=-140, clutter_db=-140)
PROBE = ProbeModel(imaging=QUIET)
VESSEL = Inclusion(kind="anechoic", x_mm=-3, z_mm=18, a_mm=6, b_mm=4, angle_rad=0.2, pulsating=True)
STILL = Inclusion(kind="anechoic", x_mm=11, z_mm=30, a_mm=3, b_mm=2)
SCENE = Scene(inclusions=(VESSEL, STILL))
SHAPE = (160, 152)


@given(
    time_s=st.floats(0, 10),
    place=st.tuples(st.floats(-20, 20), st.floats(0, 40)),
    pulse=st.floats(0, 0.4),
)
def test_a_place_of_the_tissue_is_found_again(time_s: float, place: tuple[float, float], pulse: float) -> None:
    other = replace(VESSEL, x_mm=5.0, lobe=0.2)
    moved = Motion(lateral_mm=2, axial_mm=1, pulse=pulse).at(Scene(inclusions=(VESSEL, other)), time_s)
    x, z = (np.array([p], np.float32) for p in place)
    again = moved.backward(*moved.forward(x, z))
    assert again[0] == pytest.approx(x, abs=2e-3)
    assert again[1] == pytest.approx(z, abs=2e-3)


def test_areas_follow_the_pulse_and_masks_follow_the_areas() -> None:
    motion = Motion(pulse=0.2, pulse_hz=1.0, lateral_mm=1.0, axial_mm=0.5)
    frames = list(simulate_cine(SCENE, PROBE, 8, 8.0, motion, 5, SHAPE))
    scales = [motion.at(SCENE, i / 8).scale for i in range(8)]
    assert max(scales) > 1.15
    assert min(scales) < 0.9
    for frame, scale in zip(frames, scales, strict=True):
        vessel, still = frame.truth
        assert vessel.area_mm2 == pytest.approx(math.pi * 24 * scale**2, rel=0.004)
        assert still.area_mm2 == pytest.approx(math.pi * 6, rel=0.004)
        assert frame.mask.sum() * frame.geometry.pixel_area_mm2 == pytest.approx(frame.anechoic_area_mm2, rel=0.03)
    assert [f.time_ns for f in frames] == [125_000_000 * i for i in range(8)]
    assert [f.index for f in frames] == list(range(8))


def test_speckle_moves_with_the_tissue_and_is_not_drawn_again() -> None:
    pixel = PROBE.pixel_mm(SHAPE)
    motion = Motion(pulse=0.0, lateral_mm=8 * pixel, breathing_hz=1.0)
    start, shifted = (f.image.astype(float) for f in simulate_cine(Scene(), PROBE, 2, 4.0, motion, 1, SHAPE))
    inner = (slice(20, 140), slice(30, 110))
    aligned = shifted[20:140, 38:118]
    assert np.corrcoef(start[inner].ravel(), aligned.ravel())[0, 1] > 0.95
    assert abs(np.corrcoef(start[inner].ravel(), shifted[inner].ravel())[0, 1]) < 0.2


def test_axial_motion_keeps_the_envelope() -> None:
    pixel = PROBE.pixel_mm(SHAPE)
    motion = Motion(pulse=0.0, axial_mm=6 * pixel / (math.sin(math.pi / 2 + 1) - math.sin(1)), breathing_hz=1.0)
    scene = Scene(attenuation=0.0)
    start, shifted = (f.image.astype(float) for f in simulate_cine(scene, PROBE, 2, 4.0, motion, 1, SHAPE))
    assert np.corrcoef(start[30:120, 20:130].ravel(), shifted[36:126, 20:130].ravel())[0, 1] > 0.9


def test_still_tissue_without_noise_gives_one_picture_and_with_noise_another_each_time() -> None:
    rest = Motion(pulse=0.0)
    a, b = (f.image for f in simulate_cine(SCENE, PROBE, 2, motion=rest, shape=SHAPE))
    assert np.abs(a.astype(int) - b.astype(int)).max() <= 1  # noise of -140 dB can tip a rounding
    noisy = replace(PROBE, imaging=replace(QUIET, noise_db=-40))
    c, d = (f.image for f in simulate_cine(SCENE, noisy, 2, motion=rest, shape=SHAPE))
    assert not np.array_equal(c, d)
    assert np.corrcoef(c.ravel(), d.ravel())[0, 1] > 0.9


def test_a_cine_at_rest_is_the_frame_of_the_same_seed_but_for_noise() -> None:
    (cine,) = simulate_cine(SCENE, PROBE, 1, motion=Motion(pulse=0.0), seed=4, shape=SHAPE)
    still = simulate_frame(SCENE, PROBE, 4, SHAPE)
    assert np.abs(cine.image.astype(int) - still.image.astype(int)).max() <= 1
    assert np.array_equal(cine.mask, still.mask)


def test_a_frame_does_not_depend_on_how_many_follow() -> None:
    short = list(simulate_cine(SCENE, PROBE, 2, seed=3, shape=SHAPE))
    longer = list(simulate_cine(SCENE, PROBE, 3, seed=3, shape=SHAPE))
    assert all(np.array_equal(a.image, b.image) for a, b in zip(short, longer, strict=False))


@pytest.mark.parametrize("bad", [{"n_frames": 0}, {"fps": 0.0}, {"fps": math.nan}, {"seed": -2}, {"shape": (4, 4)}])
def test_bad_arguments_are_refused_at_the_call(bad: dict[str, object]) -> None:
    good: dict[str, object] = {"n_frames": 2, "fps": 30.0, "seed": 0, "shape": (64, 64)}
    with pytest.raises(ConfigError):
        simulate_cine(SCENE, PROBE, **(good | bad))  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [{"pulse": 0.9}, {"pulse_hz": -1.0}, {"breathing_hz": -1.0}, {"axial_mm": math.inf}])
def test_motion_that_cannot_be_is_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        Motion(**bad)
