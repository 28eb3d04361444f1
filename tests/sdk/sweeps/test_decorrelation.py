"""Speckle of the simulated slice against the closed forms, and the closed forms against random numbers."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from edge_sdk.sweeps import EchoField, SweepProbe, homogeneous, straight
from edge_sdk.sweeps.theory import envelope_correlation, field_correlation, intensity_correlation, log_correlation

PROBE = SweepProbe(shape=(192, 96), depth_mm=36.0, width_mm=24.0, axial_sigma_mm=0.16, density_mm3=14.0)


@pytest.mark.parametrize("rho", [0.0, 0.3, 0.7, 0.95, 1.0])
def test_closed_forms_against_drawn_fields(rho: float) -> None:
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((2, 400_000, 2)) @ np.array([1, 1j])
    b = rho * a + np.sqrt(1 - rho**2) * b
    for shown, theory in (
        (lambda f: np.abs(f) ** 2, intensity_correlation),
        (np.abs, envelope_correlation),
        (lambda f: np.log(np.abs(f)), log_correlation),
    ):
        assert np.corrcoef(shown(a), shown(b))[0, 1] == pytest.approx(float(theory(rho)), abs=0.01)


@pytest.fixture(scope="module")
def fields() -> np.ndarray:
    """Complex fields (groups, steps, W, H) of slices 0.2 mm apart, groups far apart."""
    echo = EchoField(homogeneous(7), PROBE)
    out = np.empty((10, 8, 96, 192), np.complex64)
    for group in range(10):
        for k, T in enumerate(straight(8, 0.2)):
            T[:3, 3] += (3.7 * group, 5.1 * group, 31.0 * group)
            re, im = echo.receive(T)
            out[group, k] = re + 1j * im
    return out[:, :, 6:-6, 6:-6]


def test_homogeneous_tissue_is_fully_developed_speckle(fields: np.ndarray) -> None:
    """Rayleigh amplitude: mean over standard deviation 1.91; exponential intensity of mean 1 (Burckhardt, 1978)."""
    some = fields[:, ::7]
    amplitude = np.abs(some)
    assert (amplitude**2).mean() == pytest.approx(1, abs=0.04)
    assert amplitude.mean() / amplitude.std() == pytest.approx(np.sqrt(np.pi / (4 - np.pi)), abs=0.04)
    assert abs(some.mean()) < 0.03  # circular
    assert abs((some**2).mean()) < 0.04


@pytest.mark.parametrize("rows", [slice(0, 40), slice(80, 120), slice(140, 180)])
def test_decorrelation_follows_the_width_at_each_depth(fields: np.ndarray, rows: slice) -> None:
    """Within 0.04 at every distance for field, intensity, envelope and log envelope."""
    depth = (np.arange(rows.start, rows.stop) + 6) * PROBE.row_mm
    part = fields[..., rows]
    for k in range(1, 8):
        a, b = part[:, :-k], part[:, k:]
        rho = field_correlation(0.2 * k, PROBE.elevation_sigma(depth))
        got = (a * b.conj()).mean().real / np.sqrt((np.abs(a) ** 2).mean() * (np.abs(b) ** 2).mean())
        assert got == pytest.approx(float(rho.mean()), abs=0.04)
        for shown, theory in (
            (lambda f: np.abs(f) ** 2, intensity_correlation),
            (np.abs, envelope_correlation),
            (lambda f: np.log(np.abs(f)), log_correlation),
        ):
            seen = np.corrcoef(shown(a).ravel(), shown(b).ravel())[0, 1]
            assert seen == pytest.approx(float(theory(rho).mean()), abs=0.06)


def test_a_wider_slice_decorrelates_slower(fields: np.ndarray) -> None:
    near, focus = np.abs(fields[..., :40]), np.abs(fields[..., 90:120])
    at = [np.corrcoef(v[:, :-4].ravel(), v[:, 4:].ravel())[0, 1] for v in (near, focus)]
    assert at[0] > at[1] + 0.05


def test_in_plane_speckle_has_the_sizes_of_the_pulse() -> None:
    """Autocovariance of the intensity exp(-x^2 / 2 s^2) along and across the beam (Wagner et al., 1983)."""
    probe = msgspec.structs.replace(PROBE, lateral_field_mm=1e4, elevation_field_mm=1e4)
    echo = EchoField(homogeneous(9), probe)
    power = np.concatenate([(echo.receive(T) ** 2).sum(0)[None] for T in straight(30, 6.0)])[:, 6:-6, 6:-6]
    power = power - power.mean()
    for axis, sigma in ((1, probe.lateral_sigma_mm / probe.column_mm), (2, probe.axial_sigma_mm / probe.row_mm)):
        for lag in (1, 2):
            cut = [slice(None)] * 3
            a, b = list(cut), list(cut)
            a[axis], b[axis] = slice(None, -lag), slice(lag, None)
            seen = (power[tuple(a)] * power[tuple(b)]).mean() / power.var()
            assert seen == pytest.approx(np.exp(-(lag**2) / (2 * sigma**2)), abs=0.04)


def turned(axis: int, angle: float, pivot_mm: tuple[float, float, float]) -> np.ndarray:
    """Rotation (4, 4) about an image axis through a point."""
    T, pivot = np.eye(4), np.array(pivot_mm)
    i, j = (axis + 1) % 3, (axis + 2) % 3
    T[i, i] = T[j, j] = np.cos(angle)
    T[j, i], T[i, j] = np.sin(angle), -np.sin(angle)
    T[:3, 3] = pivot - T[:3, :3] @ pivot
    return T


def pairs_under(motion: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Complex fields (16, W, H) before and after a motion of the image."""
    echo, out = EchoField(homogeneous(12), PROBE), np.empty((2, 16, 96, 192), np.complex64)
    for group in range(16):
        place = np.eye(4)
        place[:3, 3] = (3.7 * group, 5.1 * group, 31.0 * group)
        for k, T in enumerate((place, place @ motion)):
            re, im = echo.receive(T)
            out[k, group] = re + 1j * im
    return out[0], out[1]


def test_a_yaw_moves_each_column_across_the_plane_by_its_own_distance() -> None:
    """About the beam through x = 12 mm column x moves by (x - 12) angle."""
    a, b = pairs_under(turned(1, 0.06, (12.0, 0.0, 0.0)))
    for column in (8, 24, 48, 72, 88):
        rows, columns = slice(80, 120), slice(column - 4, column + 4)
        u, v = a[:, columns, rows], b[:, columns, rows]
        seen = abs((u * v.conj()).mean()) / np.sqrt((np.abs(u) ** 2).mean() * (np.abs(v) ** 2).mean())
        away = 0.06 * (np.arange(96)[columns] * PROBE.column_mm - 12)[:, None]
        sigma = PROBE.elevation_sigma((np.arange(80, 120) * PROBE.row_mm)[None])
        assert seen == pytest.approx(float(field_correlation(away, sigma).mean()), abs=0.06)


def test_a_tilt_turns_the_phase_across_the_slice() -> None:
    """About a line across the image, echoes at z shift by z angle: rho = exp(-(q angle s)^2 / 4), q = 4 pi f / c."""
    angle, depth = 0.03, 18.0
    a, b = pairs_under(turned(0, angle, (0.0, depth, 0.0)))
    rows = slice(round(depth / PROBE.row_mm) - 4, round(depth / PROBE.row_mm) + 5)
    u, v = a[:, 6:-6, rows], b[:, 6:-6, rows]
    seen = abs((u * v.conj()).mean()) / np.sqrt((np.abs(u) ** 2).mean() * (np.abs(v) ** 2).mean())
    q, sigma = 4 * np.pi * PROBE.frequency_mhz / 1.54, float(PROBE.elevation_sigma(depth))
    assert seen == pytest.approx(np.exp(-((q * angle * sigma) ** 2) / 4), abs=0.05)
