"""Simulated sweeps of pressed tissue: scatterers, a point-spread function, and a hand's force that is known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

from edge_runtime.frame import FrameGeometry

__all__ = ["PIXEL_MM", "PressedSweep", "force_of_hand", "pressed_sweep"]

Floats = npt.NDArray[np.float64]

PIXEL_MM = 0.16
ROWS, COLUMNS = 256, 160
WAVELENGTH_MM = 0.3  # 5 MHz
AXIAL_MM, LATERAL_MM = 0.18, 0.35  # standard deviations of the two-way point-spread function
PER_MM3 = 8.0  # scatterers: about five in a resolution cell


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PressedSweep:
    """Frames (N, H, W) uint8, `geometry`, and the true amount (N,) of each; frame 0 is at rest."""

    frames: npt.NDArray[np.uint8]
    geometry: FrameGeometry
    amounts: Floats


def force_of_hand(rng: np.random.Generator, n: int, most: float) -> Floats:
    """(n,) smooth from 0, slowly and by tremor, reaching `most` in size."""
    t = np.arange(n) / max(n - 1, 1)
    wave = sum(rng.normal() / f * np.sin(np.pi * f * t + rng.uniform(0, 2 * np.pi)) for f in (1, 2, 3, 6))
    wave = np.asarray(wave) - np.asarray(wave)[0]
    return np.asarray(wave * most / max(np.abs(wave).max(), 1e-9))


def pressed_sweep(
    seed: int,
    amounts: Floats,
    *,
    step_mm: float = 0.25,
    noise: float = 3.0,
    drift_mm: float = 0.0,
    decay_mm: float = 0.0,
) -> PressedSweep:
    """A sweep whose frame k is compressed by `amounts[k]`: a share, or mm with `decay_mm` > 0 (near-field model).

    Scatterers move with the tissue and the point-spread function stays, so speckle changes with strain as it does with
    `step_mm` in elevation (beam of standard deviation 0.7 mm at the focus, 1.2 mm at the ends). Anatomy: ellipsoids of
    other echogenicity, an oblique bright layer, and in half of the seeds a bone-like reflector with shadow. `noise` in
    grey levels, anew in each frame; the probe wanders axially by about `drift_mm`.
    """
    rng = np.random.default_rng(seed)
    n = len(amounts)
    height, width = ROWS * PIXEL_MM, COLUMNS * PIXEL_MM
    length = n * step_mm + 6.0
    count = int(PER_MM3 * height * 1.15 * width * length)
    x, y, z = (rng.uniform(0, side, count) for side in (width, height * 1.15, length))
    amplitude = rng.normal(size=count) * _echogenicity(rng, x, y, z, height, width, length)
    shadow = rng.random() < 0.5
    bone = rng.uniform(0.5, 0.8) * height, rng.uniform(-0.03, 0.03), rng.uniform(0.3, 0.7) * width
    shifts = np.cumsum(rng.normal(size=n)) * drift_mm / max(np.sqrt(n), 1)
    frames = np.empty((n, ROWS, COLUMNS), np.uint8)
    for k, amount in enumerate(amounts):
        centre = 3.0 + k * step_mm
        near = np.abs(z - centre) < 3.0
        px, py, pz = x[near], y[near], z[near] - centre
        beam = 0.7 + 0.5 * np.abs(py - height / 2) / (height / 2)
        echo = amplitude[near] * np.exp(-0.5 * (pz / beam) ** 2)
        if shadow:
            surface = bone[0] + bone[1] * centre + 0.002 * (px - bone[2]) ** 2
            echo = np.where((py > surface + 0.8) & (np.abs(px - bone[2]) < 7), 0.02 * echo, echo)
            echo = np.where((np.abs(py - surface) < 0.4) & (np.abs(px - bone[2]) < 7), 8 * echo, echo)
        seen = py * (1 - amount) if decay_mm == 0 else py - amount * np.exp(-py / decay_mm)
        frames[k] = _image(rng, px, seen + shifts[k], echo, noise)
    geometry = FrameGeometry(row_mm=PIXEL_MM, column_mm=PIXEL_MM, origin="simulated", trusted=True, reason="")
    return PressedSweep(frames=frames, geometry=geometry, amounts=np.asarray(amounts, np.float64))


def _echogenicity(
    rng: np.random.Generator, x: Floats, y: Floats, z: Floats, height: float, width: float, length: float
) -> Floats:
    """(M,) local scattering strength of the anatomy."""
    level = np.ones_like(x)
    for _ in range(10):
        centre = rng.uniform(0, 1, 3) * (width, height, length)
        radius = rng.uniform(2, 7, 3)
        turn = rng.uniform(-0.5, 0.5)
        dx, dy, dz = x - centre[0], y - centre[1], z - centre[2]
        inside = (dx / radius[0]) ** 2 + ((dy + turn * dz) / radius[1]) ** 2 + (dz / radius[2]) ** 2 < 1
        level = np.where(inside, rng.choice([0.1, 0.4, 2.0, 4.0]), level)
    depth = rng.uniform(0.2, 0.6) * height
    layer = np.abs(y - depth - rng.uniform(-0.2, 0.2) * (x - width / 2) - rng.uniform(-0.1, 0.1) * (z - length / 2))
    return np.asarray(np.where(layer < 0.6, 4.0, level))


def _image(rng: np.random.Generator, x: Floats, y: Floats, echo: Floats, noise: float) -> npt.NDArray[np.uint8]:
    """Log-compressed envelope (ROWS, COLUMNS) of scatterers at (x, y), rows laid out twice as fine while filtering."""
    row, column = np.rint(y / PIXEL_MM * 2).astype(np.int64), np.rint(x / PIXEL_MM).astype(np.int64)
    inside = (row >= 0) & (row < 2 * ROWS) & (column >= 0) & (column < COLUMNS)
    place = row[inside] * COLUMNS + column[inside]
    phase = 4 * np.pi * y[inside] / WAVELENGTH_MM
    sigma = (AXIAL_MM / PIXEL_MM * 2, LATERAL_MM / PIXEL_MM)
    parts = [
        gaussian_filter(
            np.bincount(place, echo[inside] * wave(phase), 2 * ROWS * COLUMNS).reshape(2 * ROWS, COLUMNS), sigma
        )[::2]
        for wave in (np.cos, np.sin)
    ]
    envelope = np.hypot(parts[0], parts[1])
    grey = 110 + 20 * np.log10(envelope / 0.15 + 1e-3) * 4.0
    return np.asarray(np.clip(np.rint(grey + rng.normal(0, noise, grey.shape)), 0, 255), np.uint8)
