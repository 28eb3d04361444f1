"""Axial compression: closed forms, known warps of a speckle image, frames that tell nothing, and real frames."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter, map_coordinates

from edge_runtime.errors import ConfigError, GeometryError, ReconstructionError
from edge_runtime.frame import FrameGeometry, Rectangle, Sector
from edge_runtime.reconstruct import Sweep
from edge_runtime.slam.axial_matching import AxialMatches, fit_profile, match_axially
from edge_runtime.slam.deform import (
    CompressionSettings,
    estimate_compression,
    measure_compression,
    row_map,
    undo_compression,
    without_compression,
)

PIXEL = 0.2
GEOMETRY = FrameGeometry(row_mm=PIXEL, column_mm=PIXEL, origin="user", trusted=True, reason="")
LINEAR = CompressionSettings()
NEAR = CompressionSettings(model="near-field", decay_mm=12.0)


def tissue(seed, amount=0.0, options=LINEAR, shift_mm=0.0, noise=2.0, shape=(200, 140)):
    """A speckle-like texture seen under `amount`, and `shift_mm` deeper; the texture of a seed is always the same."""
    rng = np.random.default_rng(seed)
    field = gaussian_filter(rng.normal(size=(shape[0] + 60, shape[1])), (1.2, 2.0))
    field = 110 + 45 * field / field.std()
    rest = np.arange(shape[0] + 60) - 30.0
    depth = np.maximum(rest, 0) * PIXEL
    seen = rest - amount * (depth if options.model == "linear" else np.exp(-depth / options.decay_mm)) / PIXEL
    place = np.interp(np.arange(shape[0]) - shift_mm / PIXEL, seen, np.arange(len(rest)))
    image = map_coordinates(field, np.meshgrid(place, np.arange(shape[1]), indexing="ij"), order=3)
    image += np.random.default_rng(seed + 10_000 + int(1e6 * abs(amount))).normal(0, noise, image.shape)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("options", "amount", "row", "source"),
    [
        (LINEAR, 0.1, 100, 90.0),
        (LINEAR, -0.05, 100, 105.0),
        (NEAR, 2.0, 0, -10.0),
        (NEAR, 2.0, 60, 60 - 10 / math.e),  # row 60 is 12 mm deep
    ],
)
def test_row_map_is_the_model(options, amount, row, source):
    assert row_map(150, GEOMETRY, amount, options)[row] == pytest.approx(source, abs=1e-12)


def test_depth_counts_from_the_face_and_rows_above_move_with_it():
    geometry = replace(GEOMETRY, scan_area=Rectangle(x0=0, y0=20, x1=50, y1=150))
    rows = row_map(150, geometry, 0.1, LINEAR)
    assert np.array_equal(rows[:21], np.arange(21))
    assert rows[120] == pytest.approx(110)


@given(amount=st.floats(-0.2, 0.2), near=st.booleans())
@settings(max_examples=40, deadline=None)
def test_row_map_rises(amount, near):
    options = NEAR if near else LINEAR
    rows = row_map(80, GEOMETRY, amount * (options.decay_mm if near else 1), options)
    assert (np.diff(rows) > 0).all()


def test_undo_brings_a_ramp_back_and_cuts_what_was_not_imaged():
    ramp = np.ascontiguousarray(np.broadcast_to(np.arange(100, dtype=np.uint8)[:, None], (100, 30)))
    area = Rectangle(x0=3, y0=0, x1=27, y1=100)
    image, geometry = undo_compression(ramp, replace(GEOMETRY, scan_area=area), -0.1, LINEAR)
    assert geometry.scan_area == Rectangle(x0=3, y0=0, x1=27, y1=91)  # row 90 comes from row 99
    assert np.abs(image[:91, 5] - 1.1 * np.arange(91)).max() <= 0.501
    assert not image[91:].any()
    image, geometry = undo_compression(ramp, replace(GEOMETRY, scan_area=area), 0.1, LINEAR)
    assert geometry.scan_area == area
    assert np.abs(image[:, 5] - 0.9 * np.arange(100)).max() <= 0.501


@pytest.mark.parametrize("amount", [-0.15, -0.04, 0.04, 0.15])
def test_pixels_of_a_sector_at_rest_come_from_the_sector(amount):
    sector = Sector(apex_x=60, apex_y=-30, radius_min=40, radius_max=140, angle_min=-0.5, angle_max=0.45)
    geometry = replace(GEOMETRY, scan_area=sector)
    image = np.where(sector.mask((120, 120)), 200, 0).astype(np.uint8)
    undone, at_rest = undo_compression(image, geometry, amount, LINEAR)
    kept = at_rest.scan_area.mask((120, 120))
    assert kept.sum() > 0.6 * sector.mask((120, 120)).sum()
    # an edge pixel mixes with one outside it; all others are whole
    assert (undone[kept] == 200).mean() > 0.985


def test_no_amount_gives_the_very_same_frame():
    image = tissue(1)
    assert undo_compression(image, GEOMETRY, 0.0, LINEAR) == (image, GEOMETRY)


@pytest.mark.parametrize("amount", [-0.06, 0.03, 0.08])
@pytest.mark.parametrize("options", [LINEAR, NEAR])
def test_a_known_change_is_measured_beside_a_shift_of_the_probe(options, amount):
    amount *= 0.5 if options is LINEAR else options.decay_mm
    step = measure_compression(tissue(2), tissue(2, amount, options, shift_mm=0.5), GEOMETRY, options)
    true = -math.log1p(-amount) if options is LINEAR else amount / options.decay_mm
    assert step.refused == ""
    assert step.change == pytest.approx(true, abs=max(4 * step.sigma, 0.002))
    assert step.offset_mm == pytest.approx(0.5, abs=0.08)


@pytest.mark.parametrize("seed", range(6))
def test_without_compression_the_estimate_is_within_its_noise_of_none(seed):
    frames = np.stack([tissue(seed, shift_mm=0.1 * k, noise=4 + k) for k in range(6)])
    found = estimate_compression(frames, GEOMETRY)
    assert (np.abs(found.measured) <= 3 * found.sigma + 1e-3).all()
    assert not found.amounts.any()
    assert all(found.refused)


@pytest.mark.parametrize("options", [LINEAR, NEAR])
def test_a_pressed_sweep_is_brought_back(options):
    scale = 1.0 if options is LINEAR else options.decay_mm
    true = scale * 0.08 * np.sin(np.linspace(0, 3, 14))
    frames = np.stack([tissue(3, a, options) for a in true])
    found = estimate_compression(frames, GEOMETRY, options)
    left = [
        PIXEL * np.abs(row_map(200, GEOMETRY, t, options) - row_map(200, GEOMETRY, a, options)).max()
        for t, a in zip(true, found.amounts, strict=True)
    ]
    assert max(left) < 0.3
    assert found.refused[7] == ""
    sweep = Sweep(frames=frames, T_world_image=np.tile(np.eye(4), (14, 1, 1)), geometry=GEOMETRY)
    rest = without_compression(sweep, found)
    before = np.corrcoef(frames[0][:150].ravel(), frames[7][:150].ravel())[0, 1]
    after = np.corrcoef(frames[0][:150].ravel(), rest.image(7)[:150].ravel())[0, 1]
    assert after > 0.85
    assert after > before + 0.1


def test_median_reference_gives_the_amounts_about_the_median():
    true = np.array([0.0, 0.0, 0.02, 0.04, 0.05, 0.05, 0.05, 0.05, 0.05])
    found = estimate_compression(
        np.stack([tissue(4, a) for a in true]), GEOMETRY, CompressionSettings(reference="median")
    )
    assert np.median(found.measured) == pytest.approx(0, abs=1e-9)
    assert found.measured[0] == pytest.approx(-0.05 / 0.95, abs=0.004)


SHAPE = (200, 140)
NOISE = np.random.default_rng(0).integers(0, 255, (8, *SHAPE)).astype(np.uint8)


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        (np.zeros((4, *SHAPE), np.uint8), "0 blocks matched"),
        (np.full((4, *SHAPE), 255, np.uint8), "0 blocks matched"),
        (NOISE, "blocks matched"),
        (np.stack([np.where(np.arange(200)[:, None] < 60, tissue(5), 0).astype(np.uint8)] * 3), "blocks"),
        (np.zeros((3, 12, 9), np.uint8), "0 blocks matched"),
        (np.zeros((1, *SHAPE), np.uint8), "too small"),
    ],
    ids=["black", "white", "unrelated", "shadow below 12 mm", "tiny", "one frame"],
)
def test_frames_that_tell_nothing_are_left_alone_with_the_reason(frames, reason):
    found = estimate_compression(frames, GEOMETRY)
    assert not found.amounts.any()
    assert all(found.refused)
    assert reason in found.refused[-1]


def test_a_cut_leaves_what_follows_alone():
    frames = [tissue(6, 0.02 * k) for k in range(5)] + [NOISE[0], NOISE[1]] + [tissue(7, 0.05) for _ in range(3)]
    found = estimate_compression(np.stack(frames), GEOMETRY)
    assert found.refused[4] == ""
    assert not found.amounts[5:].any()
    assert np.isinf(found.sigma[5:]).all()
    assert "no accepted pair" in found.refused[-1]


def test_a_sweep_that_is_hardly_pressed_is_left_alone_as_a_whole():
    frames = np.stack([tissue(12, 0.003 * k) for k in range(5)])
    found = estimate_compression(frames, GEOMETRY)
    assert not found.amounts.any()
    assert "no strain of the sweep reaches 0.015" in found.refused[-1]
    assert estimate_compression(frames, GEOMETRY, CompressionSettings(least_peak=0.006)).amounts[-1] > 0.01


def test_two_layers_that_move_apart_are_no_compression():
    before = tissue(8)
    after = before.copy()
    after[100:] = np.roll(before, 6, axis=0)[100:]  # the lower half slips by 1.2 mm
    step = measure_compression(before, after, GEOMETRY, LINEAR)
    assert step.refused or abs(step.change) < 3 * step.sigma


def test_duplicates_measure_nothing():
    found = estimate_compression(np.stack([tissue(9)] * 5), GEOMETRY)
    assert np.abs(found.measured).max() < 2e-4  # the parabola is not quite even
    assert not found.amounts.any()


@given(slope=st.floats(-0.05, 0.05), offset=st.floats(-1, 1), tilt=st.floats(-0.01, 0.01), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_fit_ignores_a_quarter_of_false_blocks(slope, offset, tilt, seed):
    rng = np.random.default_rng(seed)
    x, y = (a.ravel() for a in np.meshgrid(np.arange(0, 30, 4.0), np.arange(2, 40, 3.0)))
    d = offset + tilt * (x - x.mean()) + slope * y + rng.normal(0, 0.01, x.shape)
    false = rng.random(len(x)) < 0.25
    d[false] = rng.uniform(-1.5, 1.5, false.sum())
    fit = fit_profile(AxialMatches(x_mm=x, y_mm=y, shift_mm=d, ncc=np.full(len(x), 0.9)), y)
    assert fit is not None
    assert fit.slope == pytest.approx(slope, abs=0.003)


def test_matching_finds_a_shift_to_a_hundredth_of_a_millimetre():
    a, b = (tissue(10, shift_mm=s, noise=0).astype(np.float32) for s in (0.0, 0.33))
    found = match_axially(a, b, np.ones(a.shape, bool), (PIXEL, PIXEL), (3.0, 4.0), 1.0, 0.6)
    assert np.median(found.shift_mm) == pytest.approx(0.33, abs=0.01)


@pytest.mark.parametrize(
    "bad",
    [
        {"model": "cubic"},
        {"reference": "last"},
        {"decay_mm": 0.0},
        {"search_mm": math.nan},
        {"block_mm": (3.0, -1.0)},
        {"least_ncc": 0.0},
        {"least_depth": 1.1},
        {"lags": ()},
        {"lags": (0,)},
        {"least_strain": 0.3},
        {"least_peak": 0.001},
        {"most_strain": 0.9},
        {"least_blocks": 2},
    ],
)
def test_settings_out_of_range_are_refused(bad):
    with pytest.raises(ConfigError):
        CompressionSettings(**bad)


def test_misuse_is_refused():
    image = tissue(11)
    with pytest.raises(GeometryError):
        measure_compression(image, image, FrameGeometry(), LINEAR)
    with pytest.raises(ConfigError, match="two"):
        measure_compression(image, image[:50], GEOMETRY, LINEAR)
    with pytest.raises(ConfigError, match=r"strain of 0\.5"):
        undo_compression(image, GEOMETRY, 0.5, LINEAR)
    with pytest.raises(ConfigError):
        row_map(10, GEOMETRY, math.nan, LINEAR)
    with pytest.raises(ReconstructionError, match="no frame"):
        estimate_compression(np.zeros((0, 5, 5), np.uint8), GEOMETRY)
    sweep = Sweep(frames=image[None], T_world_image=np.eye(4)[None], geometry=GEOMETRY)
    with pytest.raises(ConfigError, match="belong together"):
        without_compression(sweep, estimate_compression(np.stack([image] * 2), GEOMETRY))


def test_wires_in_water_are_left_alone():
    if "POCUS_DATA" not in os.environ:
        pytest.skip("POCUS_DATA is not set; it names the folder that holds sweeps/")
    from edge_runtime.sources.tracked import read_sequence

    path = Path(os.environ["POCUS_DATA"]) / "sweeps" / "plus_nwire" / "NwirePhantomFreehand.igs.mha"
    frames = read_sequence(path).oriented("MF").frames[:12]
    area = Rectangle(x0=192, y0=16, x1=612, y1=596)
    geometry = FrameGeometry(row_mm=0.0743, column_mm=0.0781, scan_area=area, origin="user", trusted=True, reason="")
    assert not estimate_compression(frames, geometry).amounts.any()
