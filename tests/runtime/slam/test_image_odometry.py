"""Odometry from images on speckle made so that its motion and its correlation are known in closed form."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist

import msgspec
import numpy as np
import pytest

from edge_runtime.errors import ConfigError, GeometryError, ReconstructionError
from edge_runtime.frame import FrameGeometry, Rectangle
from edge_runtime.reconstruct import Sweep
from edge_runtime.slam.elevation import (
    ElevationCurve,
    calibrate_elevation,
    fit_curve,
    grid_of_sweep,
    read_curve,
    write_curve,
)
from edge_runtime.slam.inplane import fit_in_plane, match, patch_grid, spectra, static_pixels
from edge_runtime.slam.odometry import Odometry, OdometrySettings, chain_steps

SIDE = 256
MM = (0.1, 0.12)
GRAIN = 1.6  # px, deviation of the speckle's Gaussian in plane
WIDTH = 1.0  # mm: two planes d apart correlate by exp(-d^2 / (2 WIDTH^2))
STEP_NS = 40_000_000
EVERYWHERE = np.ones((SIDE, SIDE), bool)


def frequencies():
    return 2 * np.pi * np.fft.fftfreq(SIDE)[:, None], 2 * np.pi * np.fft.fftfreq(SIDE)[None]


def smooth(rng, count):
    u, v = frequencies()
    noise = np.fft.fft2(rng.normal(size=(count, SIDE, SIDE)))
    return noise * np.exp(-0.5 * GRAIN**2 * (u**2 + v**2))


def picture(spectrum, dx=0.0, dy=0.0):
    """Grey levels of a field whose content is moved by (dx, dy) px."""
    u, v = frequencies()
    field = np.fft.ifft2(spectrum * np.exp(-1j * (u * dy + v * dx))).real
    return np.clip(field / field.std() * 30 + 128, 0, 255).astype(np.uint8)


def planes(rng, at_mm, noise=0.0, shift_px=(0.0, 0.0)):
    """Images at these elevations: cosines across the plane, in number such that their covariance is a Gaussian."""
    waves = 48
    k = np.array([NormalDist().inv_cdf((i + 0.5) / waves) for i in range(waves)]) / WIDTH
    even, odd = smooth(rng, waves), smooth(rng, waves)
    images = []
    for i, z in enumerate(at_mm):
        field = np.tensordot(np.cos(k * z), even, 1) + np.tensordot(np.sin(k * z), odd, 1)
        if noise:
            field = field + noise * np.sqrt(waves) * smooth(rng, 1)[0]
        images.append(picture(field, i * shift_px[0], i * shift_px[1]))
    return np.stack(images)


def sweep_at(images, at_mm):
    T = np.tile(np.eye(4), (len(images), 1, 1))
    T[:, 2, 3] = at_mm
    geometry = FrameGeometry(row_mm=MM[0], column_mm=MM[1], origin="user", trusted=True, reason="")
    times = np.arange(len(images), dtype=np.int64) * STEP_NS
    return Sweep(frames=images, T_world_image=T, geometry=geometry, times_ns=times)


def follow(odometry, images, times=None):
    times = np.arange(len(images)) * STEP_NS if times is None else times
    return [odometry.step(image, int(t)) for image, t in zip(images, times, strict=True)]


@pytest.fixture(scope="module")
def grid():
    return patch_grid(EVERYWHERE, MM)


@pytest.fixture(scope="module")
def curve():
    at = np.cumsum(np.random.default_rng(1).uniform(0.1, 0.9, 16))
    return calibrate_elevation(sweep_at(planes(np.random.default_rng(2), at), at), grid=patch_grid(EVERYWHERE, MM))


@pytest.mark.parametrize(("dx", "dy"), [(0.0, 0.0), (0.37, -1.63), (-3.5, 2.25), (7.2, 6.9)])
def test_a_known_shift_is_found_to_a_thirtieth_of_a_pixel(grid, dx, dy):
    field = smooth(np.random.default_rng(3), 1)[0]
    found = match(spectra(picture(field), grid), spectra(picture(field, dx, dy), grid), grid)
    assert found.used.all()
    plane = fit_in_plane(found, grid)
    assert plane.shift_mm / MM[::-1] == pytest.approx((dx, dy), abs=0.035 + 0.01 * np.hypot(dx, dy))
    assert plane.angle == pytest.approx(0, abs=1e-3)
    assert found.rho.min() > 0.9


def test_a_known_rotation_is_found(grid):
    """Cosines are turned exactly: no interpolation stands between the two images."""
    rng, angle = np.random.default_rng(4), np.deg2rad(0.6)
    k, phase = rng.normal(size=(600, 2)) / (GRAIN * 0.12), rng.uniform(0, 2 * np.pi, 600)
    x, y = np.meshgrid(np.arange(SIDE) * MM[1], np.arange(SIDE) * MM[0])
    c, s = np.cos(angle), np.sin(angle)
    cx, cy = grid.centre_mm

    def image(px, py):
        field = np.zeros(px.shape)
        for (kx, ky), p in zip(k, phase, strict=True):
            field += np.cos(kx * px + ky * py + p)
        return np.clip(field / field.std() * 30 + 128, 0, 255).astype(np.uint8)

    turned = image(c * (x - cx) + s * (y - cy) + cx, -s * (x - cx) + c * (y - cy) + cy)  # content by +angle
    plane = fit_in_plane(match(spectra(image(x, y), grid), spectra(turned, grid), grid), grid)
    assert plane.angle == pytest.approx(angle, rel=0.05)
    assert plane.shift_mm == pytest.approx((0, 0), abs=0.01)


def test_correlation_and_doubt_are_those_of_fields_that_share_a_known_part(grid):
    rng, rho = np.random.default_rng(5), 0.7
    misses, found = [], []
    for _ in range(12):
        one, other = smooth(rng, 2)
        mixed = rho * one + np.sqrt(1 - rho**2) * other
        m = match(spectra(picture(one), grid), spectra(picture(mixed, 0.4, -0.8), grid), grid)
        offset = m.shift_mm - np.array([0.4 * MM[1], -0.8 * MM[0]])
        misses.append(offset / np.sqrt(np.diagonal(m.covariance, axis1=1, axis2=2)))
        found.append(m.rho)
    assert np.mean(found) == pytest.approx(rho, abs=0.02)
    assert 0.6 < np.std(np.concatenate(misses)) < 1.4


def test_outliers_do_not_move_the_fit(grid):
    field = smooth(np.random.default_rng(6), 1)[0]
    found = match(spectra(picture(field), grid), spectra(picture(field, 2.0, 1.0), grid), grid)
    shift = found.shift_mm.copy()
    shift[[0, 5]] += 0.9
    plane = fit_in_plane(replace(found, shift_mm=shift), grid)
    assert plane.shift_mm / MM[::-1] == pytest.approx((2, 1), abs=0.06)
    assert plane.inliers <= len(grid) - 2


def test_overlay_that_stands_still_is_masked_and_no_longer_holds_the_shift():
    rng = np.random.default_rng(7)
    field = smooth(rng, 1)[0]
    images = np.stack([picture(field, 1.5 * k, 0.0) for k in range(5)])
    letters = np.zeros((SIDE, SIDE), bool)
    for y, x in patch_grid(EVERYWHERE, MM).corners:
        letters[y + 20 : y + 40, x + 16 : x + 48] = rng.random((20, 32)) < 0.4
    images[:, letters] = 255

    def moved(usable):
        grid = patch_grid(usable, MM, border=0)
        return fit_in_plane(match(spectra(images[0], grid), spectra(images[1], grid), grid), grid).shift_mm[0] / MM[1]

    still = static_pixels(images)
    assert still[letters].all()
    assert still.mean() < 0.2
    assert abs(moved(EVERYWHERE)) < 0.3  # held by the letters
    assert moved(~still) == pytest.approx(1.5, abs=0.1)


def test_what_stands_still_needs_frames_that_differ():
    with pytest.raises(ConfigError, match="3 frames; at least 4"):
        static_pixels(np.zeros((3, 8, 8), np.uint8))
    with pytest.raises(ConfigError, match="all 5 frames are equal"):
        static_pixels(np.zeros((5, 8, 8), np.uint8))


def test_the_grid_refuses_what_it_cannot_lay_out():
    with pytest.raises(ConfigError, match="at least 3 are needed"):
        patch_grid(np.zeros((SIDE, SIDE), bool), MM)
    with pytest.raises(ConfigError, match="side is 15"):
        patch_grid(EVERYWHERE, MM, side=15)
    with pytest.raises(ConfigError, match="bool is needed"):
        patch_grid(np.ones((SIDE, SIDE), np.uint8), MM)
    with pytest.raises(ConfigError, match=r"shape \(8, 8\)"):
        spectra(np.zeros((8, 8), np.uint8), patch_grid(EVERYWHERE, MM))


def test_the_fit_finds_the_curve_that_made_the_samples():
    band = np.repeat([0, 1], 20)
    distance = np.tile(np.linspace(0.05, 2, 20), 2)
    rho0, width = np.array([0.95, 0.85]), np.array([1.2, 0.7])
    rho = rho0[band] * np.exp(-((distance / width[band]) ** 1.5))
    table, curves, sigma, error = fit_curve(band, distance, rho, 2)
    assert np.diff(curves, axis=1).max() < 0
    for b in range(2):
        truth = rho0[b] * np.exp(-((table / width[b]) ** 1.5))
        assert curves[b] == pytest.approx(truth, abs=0.02)
    assert sigma == pytest.approx(width * 0.5 ** (1 / 1.5), rel=0.05)
    assert error.max() < 0.01
    with pytest.raises(ReconstructionError, match="depth band 1 has 3 samples"):
        fit_curve(band[:23], distance[:23], rho[:23], 2)


def test_the_curve_is_that_of_the_field(curve):
    assert np.array(curve.sigma_mm) == pytest.approx(WIDTH, rel=0.25)
    table, rho = np.array(curve.distance_mm), np.array(curve.rho)
    near = table < 1.3
    assert np.abs(rho[:, near] - np.exp(-(table[near] ** 2) / 2)).max() < 0.08
    assert curve.relative_error < 0.2


def test_noise_lowers_the_start_of_the_curve():
    at = np.cumsum(np.random.default_rng(1).uniform(0.1, 0.9, 14))
    images = planes(np.random.default_rng(8), at, noise=0.5)
    noisy = calibrate_elevation(sweep_at(images, at), grid=patch_grid(EVERYWHERE, MM), bands=1)
    assert noisy.rho[0][0] == pytest.approx(1 / 1.25, abs=0.06)  # share of the field in field and noise


@pytest.mark.parametrize("direction", [1, -1])
def test_an_unseen_sweep_is_followed(curve, grid, direction):
    steps = np.random.default_rng(9).uniform(0.3, 0.8, 12)
    images = planes(np.random.default_rng(10), np.r_[0, np.cumsum(steps)], shift_px=(0.8, -0.5))
    answers = follow(Odometry(curve, grid, direction=direction), images)
    assert answers[0] == ()
    assert [a[0].lag for a in answers[1:]] == [1] * 12
    assert not any(m.refused for a in answers for m in a)
    found, reasons = chain_steps([m for a in answers for m in a], range(0, 13 * STEP_NS, STEP_NS), grid.centre_mm)
    assert set(reasons) == {""}
    middle = (found @ np.array([*grid.centre_mm, 0, 1]))[:, :3] - np.array([*grid.centre_mm, 0])
    assert np.abs(middle[:, 2]).sum() == pytest.approx(steps.sum(), rel=0.1)
    assert np.sqrt(np.mean((direction * middle[:, 2] - steps) ** 2)) < 0.1
    assert middle[:, 0] == pytest.approx(-0.8 * MM[1], abs=0.03)  # the probe moves against the content
    assert middle[:, 1] == pytest.approx(0.5 * MM[0], abs=0.03)
    for motion in (m for a in answers for m in a):
        assert np.linalg.eigvalsh(motion.covariance).min() > 0


def test_too_fast_is_refused_and_slow_is_seen_over_more_frames(curve, grid):
    fast = follow(Odometry(curve, grid), planes(np.random.default_rng(11), np.arange(6) * 2.5))
    assert [a[0].refused for a in fast[1:]] == ["too fast"] * 5
    assert all(len(a) == 1 and a[0].covariance[5, 5] > 50 for a in fast[1:])
    slow = follow(
        Odometry(curve, grid, OdometrySettings(max_lag=5)), planes(np.random.default_rng(12), np.arange(8) * 0.12)
    )
    assert slow[-1][-1].lag == 5
    assert slow[-1][-1].T_prev_cur[2, 3] == pytest.approx(0.6, abs=0.25)


def test_a_reversal_turns_the_sign(curve, grid):
    at = np.array([0, 0.5, 1.0, 1.5, 2.0, 1.5, 1.0, 0.5])
    images = planes(np.random.default_rng(13), at, noise=0.1)
    answers = follow(Odometry(curve, grid), images)
    assert ["reversal" in a[0].flags for a in answers[1:]] == [False] * 4 + [True] + [False] * 2
    signs = [np.sign(a[0].T_prev_cur[2, 3]) for a in answers[1:]]
    assert signs == [1] * 4 + [-1] * 3


def test_frames_that_cannot_be_used_are_named(curve, grid):
    images = planes(np.random.default_rng(14), np.arange(5) * 0.5)
    black = np.zeros((SIDE, SIDE), np.uint8)
    x = np.arange(SIDE)
    shade = (30 * np.sin(x / 40)).astype(np.int16)
    one = np.clip(images + shade, 0, 255).astype(np.uint8)
    other = np.clip(planes(np.random.default_rng(15), [0.0]) - shade, 0, 255).astype(np.uint8)
    film = [one[0], one[1], one[1], one[2], other[0], black, black + 1, one[3]]
    answers = follow(Odometry(curve, grid), film)
    assert [a[0].refused for a in answers[1:]] == ["", "duplicate", "", "cut", "black", "black", "black"]
    assert answers[3][0].lag == 2  # past the duplicate
    assert "duplicate" in answers[2][0].flags


def test_a_duplicate_loses_no_way(curve, grid):
    images = planes(np.random.default_rng(23), np.arange(5) * 0.5)
    film = images[[0, 1, 1, 1, 2, 3, 4]]
    film[:, 0, 0] = np.arange(7)  # a clock beside the patches
    whole, _ = chain_steps(
        [m for a in follow(Odometry(curve, grid), images) for m in a], range(0, 5 * STEP_NS, STEP_NS)
    )
    motions = [m for a in follow(Odometry(curve, grid, OdometrySettings(max_lag=2)), film) for m in a]
    steps, reasons = chain_steps(motions, range(0, 7 * STEP_NS, STEP_NS))
    assert reasons == ("", "duplicate", "duplicate", "", "", "")
    assert np.array_equal(steps[1:3], [np.eye(4)] * 2)
    assert steps[[0, 3, 4, 5]] == pytest.approx(whole, abs=1e-9)
    with pytest.raises(ConfigError, match="1 of 7 times occur twice"):
        chain_steps(motions, [0, *range(0, 6 * STEP_NS, STEP_NS)])


def test_a_probe_that_rests_is_stationary(curve, grid):
    images = planes(np.random.default_rng(16), [0.0, 0.5, 0.5, 0.5]).astype(np.int16)
    noise = np.random.default_rng(17).normal(0, 1, images.shape)
    answers = follow(Odometry(curve, grid), np.clip(images + noise, 0, 255).astype(np.uint8))
    assert ["stationary" in a[0].flags for a in answers[1:]] == [False, True, True]
    assert abs(answers[-1][0].T_prev_cur[2, 3]) < 0.1


def test_pure_lateral_motion_is_no_elevation(curve, grid):
    images = planes(np.random.default_rng(18), np.zeros(4), shift_px=(4.3, 0.0))
    answers = follow(Odometry(curve, grid), images)
    for motion in (a[0] for a in answers[1:]):
        assert not motion.refused
        assert "stationary" not in motion.flags
        assert motion.T_prev_cur[0, 3] == pytest.approx(-4.3 * MM[1], abs=0.05)
        assert abs(motion.T_prev_cur[2, 3]) < 0.2


@pytest.mark.parametrize("late", [STEP_NS * 20, -STEP_NS])
def test_a_jump_of_the_clock_is_refused(curve, grid, late):
    images = planes(np.random.default_rng(19), np.arange(7) * 0.5)
    times = np.arange(7) * STEP_NS
    times[5:] += late
    answers = follow(Odometry(curve, grid), images, times)
    assert [a[0].refused for a in answers[1:]] == ["", "", "", "", "clock jump", ""]
    assert "clock jump" in answers[5][0].flags


def test_nothing_known_is_an_error(curve, grid):
    same = [planes(np.random.default_rng(20), [0.0])[0]] * 5
    motions = [m for a in follow(Odometry(curve, grid), same) for m in a]
    with pytest.raises(ReconstructionError, match="none of 4 steps could be measured: duplicate"):
        chain_steps(motions, range(0, 5 * STEP_NS, STEP_NS))
    assert follow(Odometry(curve, grid), same[:1]) == [()]


def test_a_curve_is_written_and_read_again(tmp_path, curve):
    write_curve(tmp_path / "c.json", curve)
    assert read_curve(tmp_path / "c.json") == curve
    (tmp_path / "bad.json").write_text('{"schema": 3}')
    with pytest.raises(ConfigError, match=r"bad\.json is not an elevation curve"):
        read_curve(tmp_path / "bad.json")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_curve(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": "other/1"}, "schema is 'other/1'"),
        ({"sigma_mm": (1.0,)}, "one entry for each band"),
        ({"relative_error": 0.0}, "must be above 0"),
        ({"min_sigma": 2.0}, "min_sigma 2.0"),
        ({"relative_error": float("nan")}, "not finite"),
    ],
)
def test_a_curve_that_makes_no_sense_is_refused(curve, change, message):
    with pytest.raises(ConfigError, match=message):
        ElevationCurve(**{**msgspec.structs.asdict(curve), **change})


def test_settings_and_pixels_are_checked(curve, grid):
    with pytest.raises(ConfigError, match="max_lag is 0"):
        OdometrySettings(max_lag=0)
    with pytest.raises(ConfigError, match="direction is 0"):
        Odometry(curve, grid, direction=0)
    with pytest.raises(ConfigError, match="calibrate with the settings"):
        Odometry(curve, patch_grid(EVERYWHERE, (0.2, 0.2)))
    with pytest.raises(ConfigError, match="below half a patch, 32"):
        match(*[spectra(np.zeros((SIDE, SIDE), np.uint8), grid)] * 2, grid, max_shift_px=40)


def test_a_sweep_that_cannot_teach_is_refused():
    at = np.arange(3) * 0.5
    images = planes(np.random.default_rng(21), at)
    with pytest.raises(ReconstructionError, match="3 frames; at least 4"):
        calibrate_elevation(sweep_at(images, at))
    images = planes(np.random.default_rng(21), np.arange(5) * 0.5)
    good = sweep_at(images, np.arange(5) * 0.5)
    with pytest.raises(ConfigError, match="lags"):
        calibrate_elevation(good, lags=())
    with pytest.raises(ConfigError, match="cannot make 30 bands"):
        calibrate_elevation(good, bands=30)
    with pytest.raises(GeometryError):
        grid_of_sweep(replace(good, geometry=FrameGeometry()))


def test_the_scan_area_of_the_sweep_is_kept():
    at = np.arange(5) * 0.5
    sweep = sweep_at(planes(np.random.default_rng(22), at), at)
    area = Rectangle(x0=0, y0=0, x1=140, y1=256)
    kept = grid_of_sweep(replace(sweep, geometry=replace(sweep.geometry, scan_area=area)))
    assert (kept.corners[:, 1] + kept.side).max() <= 140
    assert len(kept) < len(grid_of_sweep(sweep))


def test_a_fast_recording_is_refused_and_a_slow_one_is_not():
    if "POCUS_DATA" not in os.environ or not Path(os.environ["POCUS_DATA"], "sweeps").is_dir():
        pytest.skip("POCUS_DATA does not name the folder of real data")
    from benchmarks.slam.odometry import measure_spine_refusal

    assert [figure.met for figure in measure_spine_refusal()] == [True, True]
