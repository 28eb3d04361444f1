"""Point scatterers and specular points of a scene, fixed to the tissue, and the loss of sound on its way."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from edge_sdk.simulate._grid import BeamGrid
from edge_sdk.simulate.scene import Inclusion, Interface, Scene

__all__ = ["Points", "coarse_places", "scatterers", "splat", "transmission"]

FloatArray = npt.NDArray[np.float32]
ComplexArray = npt.NDArray[np.complex64]

_COLUMNS_PER_POINT = 2  # one scatterer in 1 x 2 grid cells: about ten in a resolution cell
_TILE = 256
_TILE_SIGMA = 6.0
_SPECULAR_POWER = 4.0  # fall of a specular echo with the cosine of incidence
_SHADOW_EDGE = 1.5  # sigma in columns of the edge of a shadow: the beam is wider than a line
_ROUGHNESS = 0.5  # standard deviation in neper of the brightness along a line
_WOBBLE = 0.5  # standard deviation of the course of a line in axial sigmas
_BLOCK = 4  # rows of the grid in one row of the loss map


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Points:
    """Places (n,) float32 mm, complex64 echo amplitudes; the first `diffuse` are scatterers, the others specular."""

    x: FloatArray
    z: FloatArray
    amplitude: ComplexArray
    diffuse: int


@lru_cache(maxsize=8)
def _texture_tile(seed: int) -> FloatArray:
    """Periodic smooth noise (256, 256), mean 0, standard deviation 1."""
    noise = np.random.default_rng(seed).standard_normal((_TILE, _TILE), dtype=np.float32)
    pad = 24
    smooth = cv2.GaussianBlur(np.pad(noise, pad, mode="wrap"), (0, 0), _TILE_SIGMA)[pad:-pad, pad:-pad]
    return np.asarray((smooth - smooth.mean()) / smooth.std(), np.float32)


def _texture(scene: Scene, x: FloatArray, z: FloatArray) -> FloatArray:
    """Slow change of echogenicity in standard deviations at places in mm."""
    scale = np.float32(_TILE_SIGMA / scene.texture_mm)
    column = ((x + 0.31 * z) * scale).astype(np.int32) & (_TILE - 1)
    row = ((z - 0.17 * x) * (3 * scale)).astype(np.int32) & (_TILE - 1)
    texture: FloatArray = _texture_tile(scene.texture_seed)[row, column]
    return texture


def _echo(scene: Scene, x: FloatArray, z: FloatArray) -> FloatArray:
    """Amplitude of backscatter relative to tissue at places in mm."""
    db = np.zeros(x.shape, np.float32)
    for layer in scene.layers:
        db[z >= layer.top_at(x)] = layer.echo_db
    texture = _texture(scene, x, z) * np.float32(scene.texture_db) if scene.texture_db else np.zeros_like(db)
    db += texture
    for inclusion in scene.inclusions:
        inside = inclusion.level(x, z) <= 1
        own = 0.0 if inclusion.kind == "anechoic" else 0.6
        db[inside] = np.float32(inclusion.echo_db) + np.float32(own) * texture[inside]
    amplitude: FloatArray = np.exp(db * np.float32(math.log(10) / 20))
    return amplitude


def _diffuse(scene: Scene, grid: BeamGrid, rng: np.random.Generator) -> tuple[FloatArray, FloatArray, ComplexArray]:
    """Scatterers, one at a random place in every 1 x 2 cells, with complex Gaussian strength."""
    rows, columns = grid.shape[0] - 1, (grid.shape[1] - 1) // _COLUMNS_PER_POINT
    place = rng.random((2, rows, columns), dtype=np.float32)
    row = place[0] + np.arange(rows, dtype=np.float32)[:, None]
    column = (place[1] + np.arange(columns, dtype=np.float32)) * _COLUMNS_PER_POINT
    lateral = np.float32(grid.lateral0) + column.ravel() * np.float32(grid.d_lateral)
    depth = np.float32(grid.depth0) + row.ravel() * np.float32(grid.d_depth)
    x, z = grid.probe.to_space(lateral, depth)
    strength = rng.standard_normal((rows * columns, 2), dtype=np.float32).view(np.complex64)[:, 0]
    strength *= _echo(scene, x, z) * np.float32(math.sqrt(_COLUMNS_PER_POINT / 2))
    return x, z, strength


def _lines(interfaces: tuple[Interface, ...], spacing: float) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Points (x, z) along all interfaces, `spacing` mm apart in x or less, and their tapered amplitudes."""
    values = np.array([(i.x_mm, i.z_mm, i.half_mm, i.slope, i.bow, i.echo_db) for i in interfaces], np.float32)
    counts = np.maximum(np.ceil(2 * values[:, 2] / spacing).astype(int), 8)
    owner = np.repeat(np.arange(len(counts)), counts)
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    t = (2 * within / np.repeat(counts - 1, counts) - 1).astype(np.float32)
    x0, z0, half, slope, bow, echo_db = values[owner].T
    taper = np.sqrt(np.maximum(1 - t**4, 0))
    amplitude = 10 ** (echo_db / 20) * taper
    return x0 + t * half, z0 + slope * t * half + bow * t * t, amplitude.astype(np.float32)


def _wall(inclusion: Inclusion, spacing: float) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Points (x, z) around the wall, `spacing` mm apart or less, and their amplitudes."""
    count = max(int(2 * math.pi * inclusion.reach_mm / spacing), 16)
    x, z = inclusion.outline(count)
    return x, z, np.full(count, 10 ** ((inclusion.wall_db or 0.0) / 20), np.float32)


def _specular(scene: Scene, grid: BeamGrid) -> tuple[FloatArray, FloatArray, ComplexArray]:
    """Points of interfaces and walls; each counts for the columns it spans and for how squarely the beam meets it."""
    probe = grid.probe
    near = 1.0 if probe.kind == "linear" else probe.apex_radius_mm + 0.1 * probe.depth_mm
    spacing = 0.5 * grid.d_lateral * near
    parts = [_lines(scene.interfaces, spacing)] if scene.interfaces else []
    parts += [_wall(i, spacing) for i in scene.inclusions if i.wall_db is not None]
    if not parts:
        return np.empty(0, np.float32), np.empty(0, np.float32), np.empty(0, np.complex64)
    weights = []
    for x, z, level in parts:
        lateral, depth = probe.to_beam(x, z)
        run, rise = np.gradient(lateral), np.gradient(depth)
        run_mm = np.abs(run) * (1.0 if probe.kind == "linear" else depth + probe.apex_radius_mm)
        cosine = run_mm / np.maximum(np.hypot(run_mm, rise), 1e-6)
        columns = np.minimum(np.abs(run) / grid.d_lateral, 1.0)
        weights.append(level * columns * cosine**_SPECULAR_POWER)
    x, z = (np.concatenate([p[i] for p in parts]) for i in (0, 1))
    rough = np.exp(_texture(scene, 4 * x, 2 * z) * np.float32(_ROUGHNESS))
    z = z + _texture(scene, 3 * x, z) * np.float32(_WOBBLE * probe.axial_sigma_mm)
    return x, z, (np.concatenate(weights) * rough / grid.line_gain).astype(np.complex64)


def scatterers(scene: Scene, grid: BeamGrid, rng: np.random.Generator) -> Points:
    """All points of `scene` under the probe: random scatterers first, then specular points."""
    x, z, amplitude = _diffuse(scene, grid, rng)
    sx, sz, specular = _specular(scene, grid)
    return Points(
        x=np.concatenate([x, sx]),
        z=np.concatenate([z, sz]),
        amplitude=np.concatenate([amplitude, specular]),
        diffuse=x.size,
    )


def splat(lateral: FloatArray, depth: FloatArray, amplitude: ComplexArray, grid: BeamGrid) -> ComplexArray:
    """Points in beam coordinates summed bilinearly into the grid, (rows, columns) complex64."""
    row = (depth - np.float32(grid.depth0)) * np.float32(1 / grid.d_depth)
    column = (lateral - np.float32(grid.lateral0)) * np.float32(1 / grid.d_lateral)
    keep = (row >= 0) & (row < grid.shape[0] - 1) & (column >= 0) & (column < grid.shape[1] - 1)
    if not keep.all():
        row, column, amplitude = row[keep], column[keep], amplitude[keep]
    i, j = row.astype(np.int32), column.astype(np.int32)
    fi, fj = row - i, column - j
    base = i * np.int32(grid.shape[1]) + j
    size = grid.shape[0] * grid.shape[1]
    real, imag = np.zeros(size), np.zeros(size)
    for di, wi in ((0, 1 - fi), (1, fi)):
        for dj, wj in ((0, 1 - fj), (1, fj)):
            at, weighted = base + np.int32(di * grid.shape[1] + dj), amplitude * (wi * wj)
            real += np.bincount(at, weighted.real, size)
            imag += np.bincount(at, weighted.imag, size)
    field = np.empty(size, np.complex64)
    field.real, field.imag = real, imag
    return field.reshape(grid.shape)


def transmission(scene: Scene, grid: BeamGrid, x: FloatArray, z: FloatArray) -> FloatArray:
    """Two-way amplitude that reaches and returns from every cell (rows, columns), through tissue at `(x, z)` mm.

    `x` and `z` are `coarse_places(grid)`, or where their tissue was at rest; one value per four rows.
    """
    coefficient = np.full(x.shape, scene.attenuation, np.float32)
    for layer in scene.layers:
        coefficient[z >= layer.top_at(x)] = layer.attenuation
    for inclusion in scene.inclusions:
        coefficient[inclusion.level(x, z) <= 1] = inclusion.attenuation
    coefficient[grid.depth.reshape(-1, _BLOCK).mean(1) < 0] = 0
    step = np.float32(2 * grid.probe.frequency_mhz * grid.d_depth * _BLOCK / 10)
    loss_db = (np.cumsum(coefficient, 0) - 0.5 * coefficient) * step
    for interface in scene.interfaces:
        if interface.shadow_db > 0:
            behind = (np.abs(x - interface.x_mm) <= interface.half_mm) & (z > interface.z_at(x))
            loss_db += np.float32(interface.shadow_db) * np.maximum.accumulate(behind, 0)
    amplitude = np.exp(loss_db * np.float32(-math.log(10) / 20))
    amplitude = cv2.GaussianBlur(amplitude, (9, 1), sigmaX=_SHADOW_EDGE, borderType=cv2.BORDER_REPLICATE)
    return np.asarray(cv2.resize(amplitude, grid.shape[::-1]), np.float32)


def coarse_places(grid: BeamGrid) -> tuple[FloatArray, FloatArray]:
    """(x, z) in mm of the loss map, (rows / 4, columns) each."""
    depth = grid.depth.reshape(-1, _BLOCK).mean(1)
    lateral, along = np.meshgrid(grid.lateral, depth)
    return grid.probe.to_space(lateral.astype(np.float32), along.astype(np.float32))
