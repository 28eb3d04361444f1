"""Loops over scatterers and grid points. They need numba.

The scatterers are not stored: cell (i, j, k) of a cubic lattice in the tissue holds one, whose place in the cell and
strength are a hash of (seed, i, j, k). So the field has no border, and a place seen again gives the same speckle.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from edge_runtime.compiled import compiled, inlined

__all__ = ["add_scatterers", "add_surface", "blur_columns", "show"]

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
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


@compiled
def add_scatterers(
    grid: F32,
    R: F64,
    t: F64,
    seed: int,
    pitch: float,
    squeeze: float,
    pixel: F64,
    sigma_z: F32,
    reach: float,
    wave_number: float,
    gauss: F32,
    carrier: F32,
    taps_y: F32,
    taps_x: F32,
    levels: U8,
    amplitude: F32,
    origin: F64,
    voxel: float,
) -> int:
    """Add the echoes of all scatterers near the image plane to `grid` (2, W, H); returns how many there were.

    Axis order of `R` (3, 3), `t` (3,) is `tissue <- image`, mm. `squeeze` is 1 - c; `pixel` (column_mm, row_mm);
    `sigma_z` (H,) mm per row, the slice reaching `reach` of them; `wave_number` 4 pi f / c in rad/mm. `gauss`
    (M, 2) complex strengths, `carrier` (PHASES, 2) cosine and sine, `taps_y`, `taps_x` (STEPS + 1, n) weights of a
    scatterer between two pixels. `levels` (Z, Y, X) with `origin` (x, y, z) and `voxel` mm choose `amplitude` (256,).
    """
    width, height = grid.shape[1], grid.shape[2]
    nx, ny = taps_x.shape[1], taps_y.shape[1]
    half_x, half_y = nx // 2, ny // 2
    span_x, span_y = (width - 1 + half_x) * pixel[0], (height - 1 + half_y) * pixel[1] / squeeze
    widest = reach * max(sigma_z[0], sigma_z[height - 1], sigma_z.max())
    k = 0
    for axis in range(3):
        if abs(R[axis, 2]) > abs(R[k, 2]):
            k = axis
    a, b = (k + 1) % 3, (k + 2) % 3
    low, high = np.full(3, np.inf), np.full(3, -np.inf)
    for corner in range(8):
        x = span_x if corner & 1 else -half_x * pixel[0]
        y = span_y if corner & 2 else -half_y * pixel[1]
        z = widest if corner & 4 else -widest
        for axis in range(3):
            p = R[axis, 0] * x + R[axis, 1] * y + R[axis, 2] * z + t[axis]
            low[axis], high[axis] = min(low[axis], p), max(high[axis], p)
    turn = wave_number * PHASES / (2 * math.pi)
    mask_phase, mask_gauss = PHASES - 1, len(gauss) - 1
    depth_z, depth_y, depth_x = levels.shape
    cell, p = np.zeros(3, np.int64), np.zeros(3)
    count = 0
    for ia in range(math.floor(low[a] / pitch), math.floor(high[a] / pitch) + 1):
        for ib in range(math.floor(low[b] / pitch), math.floor(high[b] / pitch) + 1):
            # the line of cells along k cuts the image plane at height s; q there
            pa, pb = (ia + 0.5) * pitch - t[a], (ib + 0.5) * pitch - t[b]
            s = -(R[a, 2] * pa + R[b, 2] * pb) / R[k, 2]
            x0 = R[a, 0] * pa + R[b, 0] * pb + R[k, 0] * s
            y0 = R[a, 1] * pa + R[b, 1] * pb + R[k, 1] * s
            stretch = 1 / abs(R[k, 2])
            row0 = int(min(max(y0 * squeeze / pixel[1], 0.0), height - 1.0))
            near = (reach * sigma_z[row0] * 1.03 + 0.9 * pitch) * stretch
            lean = (near + pitch) * (1 + abs(R[k, 0]) + abs(R[k, 1]))
            if x0 < -lean or x0 > span_x + lean or y0 < -lean or y0 > span_y + lean:
                continue
            first = math.floor((s + t[k] - near) / pitch)
            last = math.floor((s + t[k] + near) / pitch)
            for ik in range(first, last + 1):
                cell[a], cell[b], cell[k] = ia, ib, ik
                h = _hash(seed, cell[0], cell[1], cell[2])
                p[0] = (cell[0] + (np.int64(h & np.uint64(1023)) + 0.5) / 1024) * pitch
                p[1] = (cell[1] + (np.int64((h >> np.uint64(10)) & np.uint64(1023)) + 0.5) / 1024) * pitch
                p[2] = (cell[2] + (np.int64((h >> np.uint64(20)) & np.uint64(1023)) + 0.5) / 1024) * pitch
                d0, d1, d2 = p[0] - t[0], p[1] - t[1], p[2] - t[2]
                z = R[0, 2] * d0 + R[1, 2] * d1 + R[2, 2] * d2
                y = (R[0, 1] * d0 + R[1, 1] * d1 + R[2, 1] * d2) * squeeze
                v = y / pixel[1]
                row = math.floor(v + 0.5)
                if row < -half_y or row >= height + half_y:
                    continue
                sigma = sigma_z[min(max(row, 0), height - 1)]
                if abs(z) > reach * sigma:
                    continue
                u = (R[0, 0] * d0 + R[1, 0] * d1 + R[2, 0] * d2) / pixel[0]
                column = math.floor(u + 0.5)
                if column < -half_x or column >= width + half_x:
                    continue
                iz = min(max(int((p[2] - origin[2]) / voxel + 0.5), 0), depth_z - 1)
                iy = min(max(int((p[1] - origin[1]) / voxel + 0.5), 0), depth_y - 1)
                ix = min(max(int((p[0] - origin[0]) / voxel + 0.5), 0), depth_x - 1)
                weight = amplitude[levels[iz, iy, ix]] * math.exp(-0.5 * (z / sigma) ** 2)
                which = np.int64(h >> np.uint64(30)) & mask_gauss
                phase = int(y * turn + 1e6 * PHASES) & mask_phase
                c, si = carrier[phase, 0] * weight, carrier[phase, 1] * weight
                re = c * gauss[which, 0] - si * gauss[which, 1]
                im = c * gauss[which, 1] + si * gauss[which, 0]
                fx, fy = int((u - column + 0.5) * STEPS), int((v - row + 0.5) * STEPS)
                count += 1
                y_first, y_last = max(0, half_y - row), min(ny, height + half_y - row)
                for m in range(max(0, half_x - column), min(nx, width + half_x - column)):
                    wx = taps_x[fx, m]
                    wre, wim = re * wx, im * wx
                    for n in range(y_first, y_last):
                        grid[0, column + m - half_x, row + n - half_y] += wre * taps_y[fy, n]
                        grid[1, column + m - half_x, row + n - half_y] += wim * taps_y[fy, n]
    return count


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
