"""What the doubt about poses means for each voxel: covariances carried to positions, first order, in mm."""

from __future__ import annotations

import threading

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ConfigError, ReconstructionError
from edge_runtime.frame import FrameGeometry
from edge_runtime.reconstruct._sums import Sums
from edge_runtime.reconstruct.grid import MAX_VOXELS, VolumeGrid
from edge_runtime.reconstruct.on_grid import check_size
from edge_runtime.reconstruct.scan import image_from_pixel
from edge_runtime.reconstruct.sweep import Sweep

__all__ = ["UncertaintyCompounder", "pose_uncertainty", "position_sigma"]

F64 = npt.NDArray[np.float64]

UNIT = float(1 << 20)  # sums are in 2^-20 mm^2
MAX_SIGMA_MM = 1000.0  # 2^40 units: room for 2^23 hits in a voxel
SYMMETRIC = 1e-9


def position_sigma(covariance: F64, geometry: FrameGeometry, shape: tuple[int, int]) -> F64:
    """(H, W) float64: root mean square distance, mm, of each pixel from where it truly lies.

    `covariance` (6, 6) is that of `Pose`: rotation in rad (about x, y, z), then translation in mm, of a small motion
    `T_world_image @ exp(xi)` (a right perturbation, in the axes of the image frame). A pixel p, in mm, then moves by
    `J xi`, `J = R [-[p]x, I]`, so the covariance of its position is `J C J^T` (Barfoot and Furgale, IEEE T-RO 30,
    2014, to first order); its trace, whose root this is, does not depend on R. Raises `ConfigError` when the
    matrix is no covariance and `GeometryError` when the millimetres are not trusted.
    """
    t = _terms(covariance, geometry)
    y, x = np.ogrid[: shape[0], : shape[1]]
    return np.asarray(np.sqrt(np.maximum(t[0] + t[1] * x + t[2] * y + t[3] * x * x + t[4] * x * y + t[5] * y * y, 0.0)))


def _terms(covariance: F64, geometry: FrameGeometry) -> F64:
    """The trace of `J C J^T` as a polynomial (1, x, y, x^2, x y, y^2) in column x and row y."""
    _check(covariance)
    W, M, V = covariance[:3, :3], covariance[:3, 3:], covariance[3:, 3:]
    # with p = (u, v, 0): tr V, the part 2 p . m of the mixed terms, and p^T (tr(W) I - W) p
    m = np.array([M[1, 2] - M[2, 1], M[2, 0] - M[0, 2]]) * -2.0
    Q = (np.trace(W) * np.eye(3) - W)[:2, :2]
    A = image_from_pixel(geometry)
    linear, square = A.T @ m, A.T @ Q @ A
    return np.array([np.trace(V), linear[0], linear[1], square[0, 0], 2 * square[0, 1], square[1, 1]])


def _check(covariance: F64) -> None:
    if covariance.shape != (6, 6) or not np.isfinite(covariance).all():
        raise ConfigError(f"the covariance has shape {covariance.shape}; a finite (6, 6) is needed, rad before mm")
    scale = max(float(np.abs(covariance).max()), np.finfo(np.float64).tiny)
    if np.abs(covariance - covariance.T).max() > SYMMETRIC * scale:
        raise ConfigError("the covariance is not symmetric; give one of rotation (rad), then translation (mm)")
    least = float(np.linalg.eigvalsh(covariance)[0])
    if least < -SYMMETRIC * scale:
        raise ConfigError(f"the covariance has the negative eigenvalue {least:.3g}; variances are not below 0")


class UncertaintyCompounder:
    """Root mean square position error of what each voxel holds, mm; 16 bytes a voxel. Safe to call from many threads.

    Each pixel brings its variance (`position_sigma` squared, kept in 2^-20 mm^2) to the voxel that holds it; the voxel
    has their mean. That needs no belief about how the errors of neighbouring frames go together; weights of one over
    the variance would, and would count the pixels of one frame as so many independent measurements. Sums are integers,
    so order does not matter and `remove` undoes `insert`. Raises `ReconstructionError` when the grid exceeds
    `max_voxels`, `MissingDependencyError` without numba.
    """

    def __init__(self, grid: VolumeGrid, *, max_voxels: int = MAX_VOXELS) -> None:
        check_size(grid, max_voxels)
        self.grid = grid
        self._place = Sums("mean", "nearest").place
        self._sums = np.zeros((grid.voxels, 2), np.int64)
        self._sides = np.array(grid.shape[::-1], np.int64)
        self._lock = threading.Lock()

    def insert(self, shape: tuple[int, int], T_world_image: F64, geometry: FrameGeometry, covariance: F64) -> int:
        """Add a frame of `shape` (H, W) with its `covariance` (6, 6); how many pixels fell inside.

        Raises as `position_sigma`, and `ConfigError` for a bad pose or an error above 1000 mm.
        """
        return self._splat(shape, T_world_image, geometry, covariance, 1)

    def remove(self, shape: tuple[int, int], T_world_image: F64, geometry: FrameGeometry, covariance: F64) -> int:
        """Take out a frame that was inserted with the same arguments; how many pixels fell inside."""
        return self._splat(shape, T_world_image, geometry, covariance, -1)

    def sigma_mm(self) -> npt.NDArray[np.float32]:
        """(Z, Y, X) float32 mm, NaN where no pixel fell; `ReconstructionError` when more was removed than inserted."""
        with self._lock:
            sums = self._sums.reshape(*self.grid.shape, 2).copy()
        if (sums < 0).any():
            raise ReconstructionError("a frame was removed that is not in the volume; begin anew")
        hits = sums[..., 0]
        variance = sums[..., 1] / np.maximum(hits, 1) / UNIT
        return np.where(hits > 0, np.sqrt(variance), np.nan).astype(np.float32)

    def _splat(
        self, shape: tuple[int, int], T_world_image: F64, geometry: FrameGeometry, covariance: F64, sign: int
    ) -> int:
        from edge_runtime.reconstruct._field_kernels import add_spread

        corners = [(0, 0), (0, shape[1] - 1), (shape[0] - 1, 0), (shape[0] - 1, shape[1] - 1)]
        terms = _terms(covariance, geometry)
        worst = max(terms @ (1, x, y, x * x, x * y, y * y) for y, x in corners)  # convex: largest at a corner
        if worst > MAX_SIGMA_MM**2:
            raise ConfigError(
                f"the pose leaves a corner of the image {worst**0.5:.0f} mm in doubt; up to {MAX_SIGMA_MM:.0f} is "
                "allowed: are rotations in rad and translations in mm, in this order?"
            )
        blank = np.broadcast_to(np.uint8(0), shape)
        placed = self._place(blank, T_world_image, geometry, self.grid.T_world_volume, self.grid.spacing_mm)
        if placed is None:
            return 0
        box = np.stack([np.zeros(3, np.int64), self._sides])
        with self._lock:
            return int(
                add_spread(shape[1], placed.runs, placed.address, self._sides, box, terms, UNIT, self._sums, sign)
            )


def pose_uncertainty(
    sweep: Sweep, covariances: F64, grid: VolumeGrid, *, max_voxels: int = MAX_VOXELS
) -> npt.NDArray[np.float32]:
    """(Z, Y, X) float32 mm on `grid`, NaN where nothing was seen: see `UncertaintyCompounder`.

    `covariances` (N, 6, 6), one a frame, or (6, 6) for all: as `position_sigma` takes them. Raises as it does, and
    `ConfigError` when there are more or fewer than frames.
    """
    if covariances.shape not in ((6, 6), (len(sweep), 6, 6)):
        raise ConfigError(f"covariances have shape {covariances.shape}; (6, 6) or ({len(sweep)}, 6, 6) is needed")
    each = np.broadcast_to(covariances, (len(sweep), 6, 6))
    target = UncertaintyCompounder(grid, max_voxels=max_voxels)
    for k in range(len(sweep)):
        height, width = sweep.image(k).shape
        target.insert((height, width), sweep.T_world_image[k], sweep.geometry_of(k), each[k])
    return target.sigma_mm()
