"""`Motion`: how a frame lies to one before it, how surely, and where that was seen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ConfigError
from edge_runtime.geometry import PoseOrigin, is_rigid

__all__ = ["Motion"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Motion:
    """The estimate for one pair of frames.

    `T_prev_cur` (4, 4) rigid, mm: image frame at `time_ns` to that at `time_prev_ns` (x lateral, y axial, z elevation).
    `covariance` (6, 6): rotation in rad, then translation in mm, right perturbation. `lag`: frames between the two.
    `refused` is empty, or the reason why the motion is not known ("too fast", "black"); `T_prev_cur` is then the best
    guess there is, with a covariance that says so, and must not be used as a measurement. `flags` are what else was
    noticed ("stationary", "duplicate", "reversal"). Raises `ConfigError` for a matrix that is not rigid or a covariance
    of another shape.
    """

    T_prev_cur: npt.NDArray[np.float64]
    covariance: npt.NDArray[np.float64]
    time_prev_ns: int
    time_ns: int
    origin: PoseOrigin = "image"
    lag: int = 1
    refused: str = ""
    flags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not is_rigid(self.T_prev_cur, 1e-6):
            raise ConfigError("T_prev_cur is not a rigid 4x4 matrix in mm (rotation and translation only)")
        if self.covariance.shape != (6, 6) or not np.isfinite(self.covariance).all():
            raise ConfigError(f"covariance has shape {self.covariance.shape}; (6, 6) of finite numbers is needed")
