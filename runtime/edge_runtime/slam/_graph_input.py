"""What goes into a pose graph: arrays that grow, matrices and covariances checked as they come."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ConfigError
from edge_runtime.geometry import is_rigid

__all__ = ["Rows", "rigid", "whitening_of"]

Floats = npt.NDArray[np.float64]


class Rows:
    """An array that grows by rows, at a cost that does not grow with it."""

    def __init__(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
        self._array = np.empty((64, *shape), dtype)
        self._count = 0

    def append(self, row: npt.ArrayLike) -> None:
        """One row more."""
        if self._count == len(self._array):
            self._array = np.concatenate([self._array, np.empty_like(self._array)])
        self._array[self._count] = row
        self._count += 1

    @property
    def view(self) -> npt.NDArray[np.generic]:
        """All rows so far; it does not follow what comes later."""
        return self._array[: self._count]


def rigid(name: str, T: Floats) -> Floats:
    """`T` (4, 4) in float64; `ConfigError`, which names it, for one that is not rigid."""
    T = np.asarray(T, np.float64)
    if not is_rigid(T):
        raise ConfigError(f"{name} is not a rigid 4x4 matrix of finite numbers in mm:\n{T}")
    return T


def whitening_of(name: str, covariance: Floats) -> Floats:
    """Inverse (6, 6) of the lower Cholesky factor; `ConfigError` for what is not finite, symmetric and positive."""
    covariance = np.asarray(covariance, np.float64)
    if covariance.shape != (6, 6) or not np.isfinite(covariance).all():
        raise ConfigError(f"{name}: the covariance has shape {covariance.shape}; (6, 6) of finite numbers is needed")
    if not np.allclose(covariance, covariance.T, rtol=1e-6, atol=1e-9 * np.abs(covariance).max()):
        raise ConfigError(f"{name}: the covariance is not symmetric; average it with its transpose")
    try:
        factor = np.linalg.cholesky(0.5 * (covariance + covariance.T))
    except np.linalg.LinAlgError as error:
        least = np.linalg.eigvalsh(0.5 * (covariance + covariance.T))[0]
        raise ConfigError(
            f"{name}: the covariance is not positive definite, its least eigenvalue is {least:.3g}; every direction "
            "needs a variance above 0"
        ) from error
    return np.asarray(np.linalg.inv(factor))
