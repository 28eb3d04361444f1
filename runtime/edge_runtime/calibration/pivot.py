"""Pivot calibration: where the tip of a tracked tool is, from poses taken while it turns about that tip."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt

from edge_runtime.calibration.residuals import Residuals, far_off
from edge_runtime.errors import ConfigError, GeometryError
from edge_runtime.geometry import is_rigid

__all__ = ["PivotCalibration", "PivotSettings", "calibrate_pivot"]

MIN_POSES = 6
RIGID = 1e-3  # recordings keep six digits
ROUNDS = 20


class PivotSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`reject`: a pose is left out when its residual exceeds this many robust deviations. `max_condition`: beyond it
    the tool was not turned enough for a tip to follow. Raises `ConfigError` for a value out of range.
    """

    reject: float = 4.0
    max_condition: float = 100.0

    def __post_init__(self) -> None:
        if not (self.reject >= 2 and self.max_condition > 1):
            raise ConfigError(f"reject {self.reject} must be at least 2, max_condition {self.max_condition} above 1")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PivotCalibration:
    """`tip_tool` (3,) mm: the tip in the tool's frame; `pivot_tracker` (3,) mm: the point it stood on."""

    tip_tool: npt.NDArray[np.float64]
    pivot_tracker: npt.NDArray[np.float64]
    residuals: Residuals


def calibrate_pivot(T_tracker_tool: npt.NDArray[np.float64], settings: PivotSettings | None = None) -> PivotCalibration:
    """The tip of a tool from N poses (N, 4, 4), rigid, mm, taken while it turned about the tip.

    The algebraic two-step method (Yaniv, Which pivot calibration?, SPIE 9415, 2015): R_i t + p_i is the same point for
    all i, so (R_i - mean R) t = mean p - p_i gives the tip t by least squares, and the mean of R_i t + p_i the pivot.
    Poses far off are left out and the rest is solved anew. Raises `ConfigError` for poses that are not rigid,
    `GeometryError` when fewer than 6 remain or the tool was turned about one axis only.
    """
    settings = settings or PivotSettings()
    T = np.asarray(T_tracker_tool, np.float64)
    if T.ndim != 3 or T.shape[1:] != (4, 4) or len(T) < MIN_POSES:
        raise ConfigError(f"poses have shape {T.shape}; at least {MIN_POSES} of (4, 4) are needed")
    bad = [k for k in range(len(T)) if not is_rigid(T[k], RIGID)]
    if bad:
        raise ConfigError(f"poses {bad[:5]} ({len(bad)} of {len(T)}) are not rigid; leave out where tracking failed")
    R, p = T[:, :3, :3], T[:, :3, 3]
    used = np.ones(len(T), np.bool_)
    for _ in range(ROUNDS):
        tip, pivot, condition = _solve(R[used], p[used])
        size = np.linalg.norm(R @ tip + p - pivot, axis=1)
        kept = ~far_off(size, used, settings.reject)
        if kept.sum() < MIN_POSES:
            raise GeometryError(
                f"only {kept.sum()} of {len(T)} poses agree on a tip; {MIN_POSES} are needed. Record anew"
            )
        if np.array_equal(kept, used):
            break
        used = kept
    if condition > settings.max_condition:
        raise GeometryError(
            f"the condition of the poses is {condition:.3g}, at most {settings.max_condition:g} is allowed: the tool "
            "was not turned about two axes. Tilt it in all directions by 30 degrees or more and record anew"
        )
    found = Residuals(values=size, used=used, unit="mm", condition=condition)
    return PivotCalibration(tip_tool=tip, pivot_tracker=pivot, residuals=found)


def _solve(
    R: npt.NDArray[np.float64], p: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], float]:
    """Tip, pivot and condition number."""
    A = (R - R.mean(axis=0)).reshape(-1, 3)
    tip, _, _, scales = np.linalg.lstsq(A, (p.mean(axis=0) - p).reshape(-1), rcond=None)
    condition = float(scales[0] / scales[-1]) if scales[-1] > 0 else np.inf
    return tip, (R @ tip + p).mean(axis=0), condition
