"""Rows on deformation: compression of simulated and real frames, and a known B-spline field found again."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from benchmarks.figures import Figure, judged
from benchmarks.slam.pressed_sweeps import PressedSweep, force_of_hand, pressed_sweep
from edge_runtime.slam.deform import Compression, CompressionSettings, estimate_compression, row_map

__all__ = ["measure_compression"]

Floats = npt.NDArray[np.float64]

SEEDS = range(1000, 1030)  # settings were chosen on other seeds
FRAMES = 40
DECAY_MM = 15.0
WORSE_MM = 0.01


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


def measure_compression() -> list[Figure]:
    """Compression of 5 to 10 % undone on simulated sweeps."""
    return [figure for kind in ("linear", "near-field", "none") for figure in _simulated(kind)]
