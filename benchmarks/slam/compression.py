"""Rows on deformation: compression of simulated and real frames, and a known B-spline field found again."""

from __future__ import annotations

import math
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from scipy.ndimage import map_coordinates

from benchmarks.compounding.cases import sweeps
from benchmarks.figures import Figure, judged
from benchmarks.slam.pressed_sweeps import PressedSweep, force_of_hand, pressed_sweep
from edge_runtime.frame import FrameGeometry, Rectangle
from edge_runtime.reconstruct import (
    ReconstructSettings,
    Volume,
    compound,
    fill_holes,
    grid_of_sweep,
    open_sweep,
)
from edge_runtime.slam.deform import Compression, CompressionSettings, estimate_compression, row_map, undo_compression
from edge_runtime.slam.lattice import LatticeField, align_lattice
from edge_runtime.sources.tracked import read_sequence, split_scale

__all__ = ["measure_compression"]

Floats = npt.NDArray[np.float64]

SEEDS = range(3000, 3030)  # settings were chosen on other seeds
FRAMES = 40
DECAY_MM = 15.0
WORSE_MM = 0.01
LAG = 5
FIELD_SEEDS = range(100, 103)  # smoothness was chosen on the other sweep, l2
KNOT_MM = 20.0


def _case(seed: int, kind: str) -> tuple[PressedSweep, CompressionSettings]:
    """A sweep drawn from `seed`: 5 to 10 % at its most, or none at all for `kind` "none"."""
    rng = np.random.default_rng(seed)
    most = 0.0 if kind == "none" else rng.uniform(0.05, 0.10)
    near = kind == "near-field"
    amounts = force_of_hand(rng, FRAMES, most * (DECAY_MM if near else 1.0))
    sweep = pressed_sweep(
        seed,
        amounts,
        step_mm=rng.uniform(0.15, 0.6),
        noise=rng.uniform(2, 10),
        drift_mm=rng.uniform(0, 2),
        decay_mm=DECAY_MM if near else 0.0,
    )
    return sweep, CompressionSettings(model="near-field" if near else "linear", decay_mm=DECAY_MM)


def _residuals(sweep: PressedSweep, settings: CompressionSettings, found: Compression | None) -> Floats:
    """(N,) mm: root mean square over the rows of what is left after undoing `found`, or after nothing."""
    rows, (row_mm, _) = sweep.frames.shape[1], sweep.geometry.require_mm()
    undone = np.zeros(len(sweep.frames)) if found is None else found.amounts
    errors = []
    for true, amount in zip(sweep.amounts, undone, strict=True):
        gap = row_map(rows, sweep.geometry, true, settings) - row_map(rows, sweep.geometry, amount, settings)
        errors.append(row_mm * np.sqrt(np.mean(gap**2)))
    return np.array(errors)


def _simulated(kind: str) -> list[Figure]:
    before, after, worse, frames_worse, left = [], [], 0, 0, 0
    for seed in SEEDS:
        sweep, settings = _case(seed, kind)
        found = estimate_compression(sweep.frames, sweep.geometry, settings)
        alone, corrected = _residuals(sweep, settings, None), _residuals(sweep, settings, found)
        before.append(float(np.sqrt(np.mean(alone**2))))
        after.append(float(np.sqrt(np.mean(corrected**2))))
        worse += after[-1] > before[-1]
        frames_worse += int((corrected > alone + WORSE_MM).sum())
        left += sum(r != "" for r in found.refused)
    n = len(after)
    detail = {
        "alone_mm": before,
        "corrected_mm": after,
        "frames": n * FRAMES,
        "frames_worse_by_over_0.01_mm": frames_worse,
        "frames_left_alone": left,
    }
    spread = (
        f"median {np.median(after):.3f} mm; left alone: median {np.median(before):.2f}, worst {max(before):.2f} mm; "
        f"{left} of {n * FRAMES} frames left alone"
    )
    goal = "0 sweeps"
    return [
        judged(
            name=f"{kind}, simulated: worst sweep's residual (rms)",
            value=max(after),
            goal="< 0.5 mm",
            unit="mm",
            n=n,
            spread=spread,
            detail=detail,
        ),
        Figure(
            name=f"{kind}, simulated: sweeps made worse",
            value=float(worse),
            goal=goal,
            unit="sweeps",
            n=n,
            met=worse == 0,
            spread=f"{frames_worse} of {n * FRAMES} frames worse by over {WORSE_MM} mm",
        ),
    ]


def _frames_of(folder: str, recording: str, area: Rectangle) -> tuple[npt.NDArray[np.uint8], FrameGeometry]:
    """The frames of a recording and its pixel size, with the scan area given."""
    place = sweeps() / folder
    element = ElementTree.parse(sorted(place.glob("*.xml"))[0]).find(".//Transform[@From='Image'][@To='Probe']")
    assert element is not None
    _, geometry = split_scale(np.array(element.attrib["Matrix"].split(), float).reshape(4, 4))
    frames = read_sequence(place / recording).oriented("MF").frames
    assert frames is not None
    return frames, replace(geometry, scan_area=area)


def _likeness(frames: list[npt.NDArray[np.uint8]], area: Rectangle, lag: int) -> float:
    """Mean correlation, in the scan area, of frames `lag` apart at their best common axial shift of up to 12 rows."""
    rows, columns = slice(int(area.y0) + 40, int(area.y1) - 40), slice(int(area.x0), int(area.x1))
    found = []
    for before, after in zip(frames, frames[lag:], strict=False):
        a = before[rows, columns].ravel()
        shifts = range(-12, 13, 2)
        moved = (after[rows.start + s : rows.stop + s, columns].ravel() for s in shifts)
        found.append(max(float(np.corrcoef(a, b)[0, 1]) for b in moved))
    return float(np.mean(found))


def _real(name: str, folder: str, recording: str, area: Rectangle) -> Figure:
    """Whether frames that lie `LAG` apart agree no less after the correction; there is no truth to hold it against."""
    stack, geometry = _frames_of(folder, recording, area)
    found = estimate_compression(stack, geometry)
    left = sum(r != "" for r in found.refused)
    alone = list(stack)
    likeness = []
    for sign in (0, 1, -1):
        corrected = [
            undo_compression(frame, geometry, sign * float(amount), found.settings)[0]
            for frame, amount in zip(alone, found.amounts, strict=True)
        ]
        likeness.append(_likeness(corrected, area, LAG))
    return judged(
        name=f"{name}, real: change of the correlation of frames {LAG} apart",
        value=likeness[1] - likeness[0],
        goal=">= 0.0 (not worse)",
        unit="",
        n=len(alone),
        spread=f"{likeness[0]:.4f} alone, {likeness[1]:.4f} corrected, {likeness[2]:.4f} with the signs turned; "
        f"{left} of {len(alone)} frames left alone, largest amount {np.abs(found.amounts).max():.4f}",
        detail={"measured": found.measured.tolist(), "sigma": [float(s) for s in found.sigma], "left_alone": left},
    )


def _liver(seed: int) -> tuple[Volume, Volume, Floats]:
    """Two volumes of the right liver sweep, of even and of odd frames, so that their speckle is independent; the second
    is warped. Also the field (Z, Y, X, 3) mm that takes the first to the second."""
    sweep = open_sweep(sweeps() / "ultranerf_liver" / "r2.igs.mha", ReconstructSettings()).sweep
    grid = grid_of_sweep(sweep, 1.0)
    fixed, moving = (
        fill_holes(
            compound(
                replace(
                    sweep,
                    frames=np.stack([sweep.image(k) for k in range(first, len(sweep), 2)]),
                    T_world_image=sweep.T_world_image[first::2],
                    times_ns=None if sweep.times_ns is None else sweep.times_ns[first::2],
                ),
                grid=grid,
            ),
            "nearest",
        )
        for first in (0, 1)
    )
    knots = [math.ceil((n - 1) * s / KNOT_MM) + 3 for n, s in zip(grid.shape, grid.spacing_mm, strict=True)]
    control = np.random.default_rng(seed).uniform(-5, 5, (3, *knots))
    back = LatticeField(control=control, knot_mm=KNOT_MM, grid=grid).displacement()
    index = np.moveaxis(np.indices(grid.shape).astype(float), 0, -1)
    values = moving.sample(grid.to_world(index - back[..., ::-1] / grid.spacing_mm))
    known = np.isfinite(values)
    field = back  # the field u with u(p) = back(p + u(p)), by repetition
    for _ in range(20):
        place = np.moveaxis(index + field[..., ::-1] / grid.spacing_mm, -1, 0)
        field = np.stack([map_coordinates(back[..., c], place, order=1, mode="nearest") for c in range(3)], axis=-1)
    warped = Volume(
        data=np.where(known, np.rint(np.nan_to_num(values)), 0).astype(np.uint8),
        spacing_mm=grid.spacing_mm,
        T_world_volume=grid.T_world_volume,
        weight=known.astype(np.float32),
    )
    return fixed, warped, field


def _lattice() -> Figure:
    """A known B-spline field of other knots than the lattice's, found again on the simulated liver."""
    after, alone, median, seconds, least, refused = [], [], [], [], [], []
    for seed in FIELD_SEEDS:
        fixed, moving, field = _liver(seed)
        began = time.perf_counter()
        found = align_lattice(fixed, moving)
        seconds.append(time.perf_counter() - began)
        error = np.linalg.norm(found.field.displacement() - field, axis=-1)[fixed.known]
        size = np.linalg.norm(field, axis=-1)[fixed.known]
        after.append(float(np.sqrt(np.mean(error**2))))
        alone.append(float(np.sqrt(np.mean(size**2))))
        median.append(float(np.median(error)))
        least.append(found.jacobian[0])
        refused.append(found.refused)
    return Figure(
        name="lattice of 10 mm, liver r2 (simulated) warped by splines of 20 mm: residual (rms)",
        value=max(after),
        goal="less than left alone",
        unit="mm",
        n=len(after),
        met=all(a < b for a, b in zip(after, alone, strict=True)),
        spread=f"worst; left alone {max(alone):.2f} mm; median of voxels {max(median):.2f} mm; least Jacobian "
        f"{min(least):.2f}; {np.median(seconds):.0f} s for {fixed.grid.voxels / 1e6:.1f} Mi voxels",
        detail={"rms_mm": after, "alone_mm": alone, "median_mm": median, "jacobian": least, "refused": refused},
    )


def measure_compression() -> list[Figure]:
    """Compression undone on simulated and real sweeps, and a known field found by the lattice."""
    figures = [figure for kind in ("linear", "near-field", "none") for figure in _simulated(kind)]
    bone = Rectangle(x0=182, y0=12, x1=638, y1=608)
    figures.append(_real("plus_bone", "plus_bone", "BoneUltrasound_L14.igs.mha", bone))
    wires = Rectangle(x0=192, y0=16, x1=612, y1=596)
    figures.append(_real("plus_nwire", "plus_nwire", "NwirePhantomFreehand.igs.mha", wires))
    return [*figures, _lattice()]
