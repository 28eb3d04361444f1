"""Odometry from images alone on the two real sweeps: tissue, where it can be scored, and one that is too fast."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.compounding.cases import sweeps
from benchmarks.figures import Figure, judged
from edge_runtime.calibration import read_calibration
from edge_runtime.reconstruct import ReconstructSettings, Sweep, open_sweep
from edge_runtime.slam import Motion, se3
from edge_runtime.slam.elevation import ElevationCurve, calibrate_elevation, grid_of_sweep
from edge_runtime.slam.inplane import PatchGrid
from edge_runtime.slam.odometry import Odometry, chain_steps

__all__ = ["measure_bone", "measure_spine_refusal"]

F64 = npt.NDArray[np.float64]

MIDDLE = 10  # the frame that both halves share: 10 steps each


@cache
def _sweep(folder: str, recording: str, calibration: str) -> Sweep:
    where: Path = sweeps() / folder
    constants = {"ImageToProbe": read_calibration(where / calibration)}
    return open_sweep(where / recording, ReconstructSettings(), constants=constants).sweep


def _bone() -> Sweep:
    return _sweep("plus_bone", "BoneUltrasound_L14.igs.mha", "BoneUltrasound_L14_config.xml")


def _part(sweep: Sweep, first: int, stop: int) -> Sweep:
    assert isinstance(sweep.frames, np.ndarray)
    assert sweep.times_ns is not None
    return Sweep(
        frames=sweep.frames[first:stop], T_world_image=sweep.T_world_image[first:stop], geometry=sweep.geometry,
        times_ns=sweep.times_ns[first:stop],
    )  # fmt: skip


def _track(sweep: Sweep, curve: ElevationCurve, grid: PatchGrid, direction: int = 1) -> list[Motion]:
    assert sweep.times_ns is not None
    odometry = Odometry(curve, grid, direction=direction)
    return [
        motion for k in range(len(sweep)) for motion in odometry.step(sweep.image(k), int(sweep.times_ns[k]))
    ]  # fmt: skip


def _across(T: F64, grid: PatchGrid) -> F64:
    """How far the grid's centre moves across the image plane (N,), mm, by steps (N, 4, 4)."""
    return np.asarray((T @ np.array([*grid.centre_mm, 0.0, 1.0]))[:, 2])


def _rms(values: F64) -> float:
    return float(np.sqrt(np.mean(values**2)))


def _direction_of(name: str, learnt: Sweep, scored: Sweep) -> list[Figure]:
    grid = grid_of_sweep(learnt)
    curve = calibrate_elevation(learnt, grid=grid)
    before = _across(se3.inverse(learnt.T_world_image[:-1]) @ learnt.T_world_image[1:], grid)
    truth = _across(se3.inverse(scored.T_world_image[:-1]) @ scored.T_world_image[1:], grid)
    assert scored.times_ns is not None
    motions = _track(scored, curve, grid, 1 if before.sum() > 0 else -1)
    steps, reasons = chain_steps(motions, [int(t) for t in scored.times_ns], grid.centre_mm)
    found = _across(steps, grid)
    known = np.array([not reason for reason in reasons])
    near = _across(np.stack([m.T_prev_cur for m in motions if m.lag == 1]), grid)
    error = np.abs(found) - np.abs(truth)
    constant = _rms(np.abs(before).mean() - np.abs(truth))
    length = 100 * (float(np.abs(found).sum() / np.abs(truth).sum()) - 1)
    n = len(truth)
    detail: dict[str, object] = {
        "found_mm": found.round(4).tolist(),
        "tracked_mm": truth.round(4).tolist(),
        "refused_steps": {str(k): reason for k, reason in enumerate(reasons) if reason},
        "flags": {str(k): m.flags for k, m in enumerate(m for m in motions if m.lag == 1) if m.flags},
        "rms_of_neighbours_alone_mm": _rms(np.abs(near) - np.abs(truth)),
        "sigma_mm": curve.sigma_mm,
        "left_out_error_of_the_curve": curve.relative_error,
        "constant_signed_rms_mm": _rms(before.mean() - truth),
    }
    spread = f"worst {np.abs(error).max():.3f} mm; {int((~known).sum())} of {n} steps refused"
    signed = _rms(found - truth)
    rms = _rms(error)
    figures = [
        judged(name=f"{name}: rms over constant motion's, unsigned", value=rms / constant, goal="<= 0.85 times",
               unit="times", n=n, spread=f"{rms:.3f} mm against {constant:.3f} mm; {spread}", detail=detail),
        Figure(name=f"{name}: rms, signed", value=signed, goal="beside the unsigned one", unit="mm", n=n, met=None,
               spread=f"constant motion {_rms(before.mean() - truth):.3f} mm"),
        judged(name=f"{name}: chained length, error", value=abs(length), goal="<= 5 %", unit="%", n=n,
               spread=f"{length:+.1f} % of {np.abs(truth).sum():.2f} mm"),
    ]  # fmt: skip
    if name.startswith("first"):
        figures.insert(
            1, judged(name=f"{name}: rms, unsigned", value=rms, goal="<= 0.09 mm", unit="mm", n=n, spread=spread)
        )
    return figures


def measure_bone() -> list[Figure]:
    """Tissue: the curve from one half, the other half scored, and the reverse."""
    sweep = _bone()
    first, second = _part(sweep, 0, MIDDLE + 1), _part(sweep, MIDDLE, len(sweep))
    return [*_direction_of("first half as the curve", first, second),
            *_direction_of("second half as the curve", second, first)]  # fmt: skip


def _refused(sweep: Sweep, curve: ElevationCurve) -> tuple[float, dict[str, int]]:
    """Share of the steps that are refused, and the reasons."""
    reasons: dict[str, int] = {}
    motions = [m for m in _track(sweep, curve, grid_of_sweep(sweep)) if m.lag == 1]
    for motion in motions:
        if motion.refused:
            reasons[motion.refused] = reasons.get(motion.refused, 0) + 1
    return 100 * sum(reasons.values()) / len(motions), reasons


def measure_spine_refusal() -> list[Figure]:
    """A sweep too fast for decorrelation, and tissue that is not, by one curve and one setting."""
    bone = _bone()
    spine = _sweep("plus_spine", "SpinePhantomFreehand.igs.mha", "Config_SpinePhantom_NN_MEAN.xml")
    curve = calibrate_elevation(_part(bone, 0, MIDDLE + 1))
    fast, why_fast = _refused(spine, curve)
    slow, why_slow = _refused(bone, curve)
    return [
        judged(name="steps of plus_spine refused", value=fast, goal=">= 90 %", unit="%", n=len(spine) - 1,
               spread=str(why_fast)),
        judged(name="steps of plus_bone refused by the same setting", value=slow, goal="<= 20 %", unit="%",
               n=len(bone) - 1, spread=str(why_slow or "none")),
    ]  # fmt: skip
