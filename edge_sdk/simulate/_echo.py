"""Echoes of a scene on the beam grid, up to the envelope."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_sdk.simulate._grid import BeamGrid, beam_grid
from edge_sdk.simulate._tissue import Points, coarse_places, scatterers, splat, transmission
from edge_sdk.simulate.motion import Deformation
from edge_sdk.simulate.probe import ProbeModel
from edge_sdk.simulate.scene import Scene

__all__ = ["Setup", "detect", "prepare"]

FloatArray = npt.NDArray[np.float32]
ComplexArray = npt.NDArray[np.complex64]

_SOUND_MM_PER_US = 1.54


def _complex_noise(rng: np.random.Generator, shape: tuple[int, ...]) -> ComplexArray:
    """Circular complex Gaussian noise of unit power."""
    pairs = rng.standard_normal((*shape, 2), dtype=np.float32)
    pairs *= np.float32(math.sqrt(0.5))
    return pairs.view(np.complex64)[..., 0]


def _clutter(grid: BeamGrid, rng: np.random.Generator) -> ComplexArray:
    """Reverberation at the face: mostly the same in all beams, fading with depth."""
    imaging = grid.probe.imaging
    fade = np.exp(-np.maximum(grid.depth, 0) / np.float32(imaging.clutter_depth_mm))
    level = (fade * np.float32(10 ** (imaging.clutter_db / 20) * grid.noise_scale))[:, None]
    noise = _complex_noise(rng, (grid.shape[0], 1)) + np.complex64(0.3) * _complex_noise(rng, grid.shape)
    return (level * noise).astype(np.complex64)


def _tgc_db(scene: Scene, probe: ProbeModel, depth: FloatArray) -> FloatArray:
    """Gain in dB by depth: what undoes the scene's mean attenuation, plus the errors of the sliders."""
    imaging = probe.imaging
    inside = np.clip(depth, 0, probe.depth_mm)
    gain = np.float32(imaging.tgc_fraction * 2 * probe.frequency_mhz * scene.attenuation / 10) * inside
    if imaging.tgc_error_db:
        sliders = np.linspace(0, probe.depth_mm, len(imaging.tgc_error_db))
        gain = gain + np.interp(inside, sliders, imaging.tgc_error_db)
    return gain.astype(np.float32)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Setup:
    """What stays the same over a cine: the scene, its points, the grid, and the reverberation at the face."""

    scene: Scene
    grid: BeamGrid
    points: Points
    clutter: ComplexArray


def prepare(scene: Scene, probe: ProbeModel, rng: np.random.Generator) -> Setup:
    """Scatterers of `scene` and clutter, drawn once."""
    grid = beam_grid(probe)
    return Setup(scene=scene, grid=grid, points=scatterers(scene, grid, rng), clutter=_clutter(grid, rng))


def _field(setup: Setup, moved: Deformation | None) -> ComplexArray:
    """Echo strengths on the grid; an echo that moved by dr along the beam turns in phase by 4 pi f dr / c."""
    points, probe = setup.points, setup.grid.probe
    x, z, amplitude = points.x, points.z, points.amplitude
    lateral, depth = probe.to_beam(x, z)
    if moved is not None:
        rest = depth[: points.diffuse]
        lateral, depth = probe.to_beam(*moved.forward(x, z))
        turn = np.complex64(-4j * math.pi * probe.frequency_mhz / _SOUND_MM_PER_US)
        turned = points.amplitude[: points.diffuse] * np.exp(turn * (depth[: points.diffuse] - rest))
        amplitude = np.concatenate([turned, points.amplitude[points.diffuse :]])
    field = splat(lateral, depth, amplitude, setup.grid)
    places = coarse_places(setup.grid)
    field *= transmission(setup.scene, setup.grid, *(places if moved is None else moved.backward(*places)))
    return field


def detect(setup: Setup, rng: np.random.Generator, moved: Deformation | None = None) -> FloatArray:
    """Envelope (rows, columns) on the whole grid, with fresh electronic noise, after TGC."""
    grid = setup.grid
    field = grid.filter_lateral(_field(setup, moved))
    field += setup.clutter
    field += np.float32(10 ** (grid.probe.imaging.noise_db / 20) * grid.noise_scale) * _complex_noise(rng, grid.shape)
    gain = np.exp(_tgc_db(setup.scene, grid.probe, grid.depth) * np.float32(math.log(10) / 20))
    envelope: FloatArray = np.abs(grid.filter_axial(field)) * gain[:, None]
    return envelope
