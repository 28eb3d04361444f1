"""Loops over scatterers and grid points. They need numba.

The scatterers are not stored: cell (i, j, k) of a cubic lattice in the tissue holds one, whose place in the cell and
strength are a hash of (seed, i, j, k). So the field has no border, and a place seen again gives the same speckle.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edge_runtime.compiled import compiled, inlined

__all__ = ["Tables", "add_scatterers", "add_surface", "blur_columns", "show"]

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
U8 = npt.NDArray[np.uint8]

PHASES = 4096
STEPS = 64  # sub-pixel places of the tables of taps


@inlined
def _hash(seed: int, i: int, j: int, k: int) -> np.uint64:
    """64 mixed bits of a cell: the finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) over a sum of odd
    multiples."""
    h = np.uint64(seed) + np.uint64(i) * np.uint64(0x9E3779B97F4A7C15)
    h = h + np.uint64(j) * np.uint64(0xC2B2AE3D27D4EB4F) + np.uint64(k) * np.uint64(0x165667B19E3779F9)
    h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.uint64(h ^ (h >> np.uint64(31)))


class Tables(NamedTuple):
    """What the loop over scatterers looks up; lengths in mm.

    `pitch` of the lattice, `pixel` (column_mm, row_mm), `sigma_z` (H,) of the slice, which reaches `reach` of them;
    `wave_number` 4 pi f / c in rad/mm. `circle` (PHASES, 2) cosine and sine, phases of scatterers and echoes; `taps_y`,
    `taps_x` (STEPS + 1, n) weights of a scatterer between pixels. `levels` (Z, Y, X) with `origin` (x, y, z) and
    `voxel` choose `amplitude` (256,). Of 1024 columns of cells along z `strands` hold strands of `strand_cells` cells.
    """

    seed: int
    pitch: float
    pixel: F64
    sigma_z: F32
    reach: float
    wave_number: float
    circle: F32
    taps_y: F32
    taps_x: F32
    levels: U8
    amplitude: F32
    origin: F64
    voxel: float
    strands: int
    strand_cells: int


@compiled
def _bounds(R: F64, t: F64, size: F64, margin: F64) -> F64:
    """Least and greatest coordinate (2, 3) in the tissue of the box of the image, `size` (x, y), grown by `margin`."""
    out = np.empty((2, 3))
    for axis in range(3):
        least, most = t[axis] - abs(R[axis, 2]) * margin[2], t[axis] + abs(R[axis, 2]) * margin[2]
        for side in range(2):
            a, b = -R[axis, side] * margin[side], R[axis, side] * (size[side] + margin[side])
            least += min(a, b)
            most += max(a, b)
        out[0, axis], out[1, axis] = least, most
    return out


@compiled
def _amplitude_at(x: float, y: float, z: float, levels: U8, amplitude: F32, origin: F64, voxel: float) -> float:
    """Strength of the tissue at a place: that of the nearest voxel, at the border that of the border."""
    i = min(max(int((x - origin[0]) / voxel + 0.5), 0), levels.shape[2] - 1)
    j = min(max(int((y - origin[1]) / voxel + 0.5), 0), levels.shape[1] - 1)
    k = min(max(int((z - origin[2]) / voxel + 0.5), 0), levels.shape[0] - 1)
    return float(amplitude[levels[k, j, i]])


@compiled
def _lay_down(grid: F32, re: float, im: float, u: float, v: float, taps_x: F32, taps_y: F32) -> None:
    """Spread one echo over the pixels around column `u`, row `v`."""
    half_x, half_y = taps_x.shape[1] // 2, taps_y.shape[1] // 2
    column, row = math.floor(u + 0.5), math.floor(v + 0.5)
    fx, fy = int((u - column + 0.5) * STEPS), int((v - row + 0.5) * STEPS)
    first, last = max(0, half_y - row), min(taps_y.shape[1], grid.shape[2] + half_y - row)
    for m in range(max(0, half_x - column), min(taps_x.shape[1], grid.shape[1] + half_x - column)):
        wx = taps_x[fx, m]
        wre, wim = re * wx, im * wx
        for n in range(first, last):
            grid[0, column + m - half_x, row + n - half_y] += wre * taps_y[fy, n]
            grid[1, column + m - half_x, row + n - half_y] += wim * taps_y[fy, n]


@inlined
def _bits(h: np.uint64, shift: int) -> float:
    """Ten bits of a hash as a number in (0, 1)."""
    return (np.int64((h >> np.uint64(shift)) & np.uint64(1023)) + 0.5) / 1024


@compiled
def _add_line(
    grid: F32, R: F64, t: F64, squeeze: float, cell: I64, k: int, first: int, last: int, tables: Tables
) -> None:
    """The scatterers of cells `first` to `last` along axis `k`, as far as they lie in the slice."""
    circle, sigma_z, taps_x, taps_y = tables.circle, tables.sigma_z, tables.taps_x, tables.taps_y
    levels, amplitude, origin, voxel = tables.levels, tables.amplitude, tables.origin, tables.voxel
    column_mm, row_mm, reach, pitch = tables.pixel[0], tables.pixel[1], tables.reach, tables.pitch
    seed, strands, strand_cells = tables.seed, tables.strands, tables.strand_cells
    half_x, half_y = taps_x.shape[1] // 2 + 0.5, taps_y.shape[1] // 2 + 0.5
    width, height, turn = grid.shape[1] - 1, grid.shape[2] - 1, tables.wave_number * PHASES / (2 * math.pi)
    for at in range(first, last + 1):
        cell[k] = at
        h = _hash(seed, cell[0], cell[1], cell[2])
        pz = (cell[2] + _bits(h, 20)) * pitch
        in_strand = False
        if strands > 0:
            column = _hash(seed + 1, cell[0], cell[1], 0)
            in_strand = bool(np.int64(column & np.uint64(1023)) < strands)
            if in_strand:
                piece = (cell[2] + np.int64((column >> np.uint64(10)) & np.uint64(1023))) // strand_cells
                h, pz = _hash(seed + 2, cell[0], cell[1], piece), (cell[2] + 0.5) * pitch
        px, py = (cell[0] + _bits(h, 0)) * pitch, (cell[1] + _bits(h, 10)) * pitch
        d0, d1, d2 = px - t[0], py - t[1], pz - t[2]
        y = (R[0, 1] * d0 + R[1, 1] * d1 + R[2, 1] * d2) * squeeze
        u, v = (R[0, 0] * d0 + R[1, 0] * d1 + R[2, 0] * d2) / column_mm, y / row_mm
        if v < -half_y or v >= height + half_y or u < -half_x or u >= width + half_x:
            continue
        z = R[0, 2] * d0 + R[1, 2] * d1 + R[2, 2] * d2
        sigma = sigma_z[min(max(int(v), 0), height)]
        if abs(z) > reach * sigma:
            continue
        weight = _amplitude_at(px, py, pz, levels, amplitude, origin, voxel) * math.exp(-0.5 * (z / sigma) ** 2)
        if in_strand:  # the echoes of a strand add in phase: the same mean intensity as without
            weight /= math.sqrt(max(2 * math.sqrt(math.pi) * sigma / pitch, 1.0))
        phase = (int(y * turn + 1e6 * PHASES) + np.int64(h >> np.uint64(30))) & (PHASES - 1)
        _lay_down(grid, circle[phase, 0] * weight, circle[phase, 1] * weight, u, v, taps_x, taps_y)


@compiled
def add_scatterers(grid: F32, R: F64, t: F64, squeeze: float, tables: Tables) -> None:
    """Add the echoes of all scatterers near the image plane to `grid` (2, W, H).

    `R` (3, 3), `t` (3,) mm: tissue <- image; `squeeze` is 1 - compression. Every line of cells along the lattice
    axis nearest to the image normal is followed from one side of the slice to the other.
    """
    width, height = grid.shape[1], grid.shape[2]
    pixel, sigma_z, pitch = tables.pixel, tables.sigma_z, tables.pitch
    size = np.array([(width - 1) * pixel[0], (height - 1) * pixel[1] / squeeze])
    margin = np.array([tables.taps_x.shape[1] * pixel[0], tables.taps_y.shape[1] * pixel[1], 0.0])
    margin[2] = tables.reach * sigma_z.max()
    box = _bounds(R, t, size, margin)
    k = 0
    for axis in range(3):
        if abs(R[axis, 2]) > abs(R[k, 2]):
            k = axis
    a, b, stretch = (k + 1) % 3, (k + 2) % 3, 1 / abs(R[k, 2])
    cell = np.zeros(3, np.int64)
    for ia in range(math.floor(box[0, a] / pitch), math.floor(box[1, a] / pitch) + 1):
        for ib in range(math.floor(box[0, b] / pitch), math.floor(box[1, b] / pitch) + 1):
            # the line of cells cuts the image plane at s along axis k, at (x, y) of the image
            pa, pb = (ia + 0.5) * pitch - t[a], (ib + 0.5) * pitch - t[b]
            s = -(R[a, 2] * pa + R[b, 2] * pb) / R[k, 2]
            x = R[a, 0] * pa + R[b, 0] * pb + R[k, 0] * s
            y = R[a, 1] * pa + R[b, 1] * pb + R[k, 1] * s
            row = int(min(max(y * squeeze / pixel[1], 0.0), height - 1.0))
            near = (tables.reach * sigma_z[row] * 1.05 + pitch) * stretch
            lean_x, lean_y = margin[0] + pitch + near * abs(R[k, 0]), margin[1] + pitch + near * abs(R[k, 1])
            if x < -lean_x or x > size[0] + lean_x or y < -lean_y or y > size[1] + lean_y:
                continue
            cell[a], cell[b] = ia, ib
            first, last = math.floor((s + t[k] - near) / pitch), math.floor((s + t[k] + near) / pitch)
            _add_line(grid, R, t, squeeze, cell, k, first, last, tables)


@compiled
def _surface_at(depth: F32, x: float, z: float, origin: F64, voxel: float) -> float:
    """Depth of the bone under (x, z), bilinear; infinite where one of the four neighbours has none."""
    u = min(max((x - origin[0]) / voxel, 0.0), depth.shape[1] - 1.001)
    v = min(max((z - origin[2]) / voxel, 0.0), depth.shape[0] - 1.001)
    i, j = int(u), int(v)
    fu, fv = u - i, v - j
    top = (1 - fu) * depth[j, i] + fu * depth[j, i + 1]
    return float((1 - fv) * top + fv * ((1 - fu) * depth[j + 1, i] + fu * depth[j + 1, i + 1]))


@compiled
def add_surface(
    grid: F32,
    R: F64,
    t: F64,
    squeeze: float,
    pixel: F64,
    wave_number: float,
    depth: F32,
    origin: F64,
    voxel: float,
    strength: float,
    shadow: float,
    sigma_y: float,
) -> None:
    """Bone in the image plane: what lies behind is multiplied by `shadow`, the surface echoes in phase along it.

    `depth` (Z, X): the world y of the bone under (x, z), infinite where there is none; `strength` is the amplitude of
    the echo, `sigma_y` the pulse's sigma in rows.
    """
    width, height = grid.shape[1], grid.shape[2]
    for i in range(width):
        x = i * pixel[0]
        before = np.inf
        for j in range(height):
            y = j * pixel[1] / squeeze
            px, py = R[0, 0] * x + R[0, 1] * y + t[0], R[1, 0] * x + R[1, 1] * y + t[1]
            pz = R[2, 0] * x + R[2, 1] * y + t[2]
            gap = _surface_at(depth, px, pz, origin, voxel) - py
            if gap <= 0:
                place = j - (gap / (gap - before) if before < np.inf else 0.0)
                for n in range(j, height):
                    fade = shadow + (1 - shadow) * math.exp(-0.5 * (n - place))
                    grid[0, i, n] *= fade
                    grid[1, i, n] *= fade
                phase = wave_number * place * pixel[1]
                reach = int(3 * sigma_y) + 1
                for n in range(max(0, j - reach), min(height, j + reach + 1)):
                    echo = strength * math.exp(-0.5 * ((n - place) / sigma_y) ** 2)
                    grid[0, i, n] += echo * math.cos(phase)
                    grid[1, i, n] += echo * math.sin(phase)
                break
            before = gap


@compiled
def blur_columns(grid: F32, weights: F32, out: F32) -> None:
    """Lateral convolution of `grid` (2, W, H) with `weights` (K, H), one kernel for every row, into `out`."""
    width, half = grid.shape[1], weights.shape[0] // 2
    for part in range(2):
        for i in range(width):
            line = out[part, i]
            line[:] = 0
            for k in range(max(-half, -i), min(half, width - 1 - i) + 1):
                source, weight = grid[part, i + k], weights[half + k]
                for j in range(len(line)):
                    line[j] += weight[j] * source[j]


@compiled
def show(
    field: F32, noise: F32, noise_sigma: F32, black_db: float, range_db: float, keep: float, shown: F32, image: U8
) -> None:
    """Envelope of `field` + `noise` (2, W, H) in dB onto grey 0 to 255, mixed with `keep` of the last `shown` (H, W).

    `noise_sigma` (H,) scales the noise. `black_db` is the level of black, `range_db` of white above it.
    """
    height, width = image.shape
    scale, offset = np.float32(10 / math.log(10.0) * 255 / range_db), np.float32(-black_db * 255 / range_db)
    for i in range(width):
        for j in range(height):
            re = field[0, i, j] + noise_sigma[j] * noise[0, i, j]
            im = field[1, i, j] + noise_sigma[j] * noise[1, i, j]
            grey = scale * math.log(re * re + im * im + np.float32(1e-20)) + offset
            grey = min(max(grey, np.float32(0.0)), np.float32(255.0))
            grey = np.float32(keep * shown[j, i] + (1 - keep) * grey)
            shown[j, i] = grey
            image[j, i] = np.uint8(grey + np.float32(0.5))
