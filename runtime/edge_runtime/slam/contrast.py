"""What changes along the beam: images freed of shadow, gain and attenuation, so that two views of a place agree.

Shadow and shading run along the beam, so they turn with the probe and draw a registration with them. The echo less its
blur along the beam (per column, a Gaussian) leaves them out and keeps interfaces.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ConfigError
from edge_runtime.frame import FrameGeometry
from edge_runtime.optional import require
from edge_runtime.reconstruct.sweep import Sweep

__all__ = ["axial_contrast", "axial_contrast_sweep"]

LEVEL = 128  # of no contrast
GAIN = 2.0


def axial_contrast(image: npt.NDArray[np.uint8], geometry: FrameGeometry, sigma_mm: float) -> npt.NDArray[np.uint8]:
    """128 + 2 (`image` - its axial blur of `sigma_mm`), clipped, (H, W) uint8; columns are taken for beams.

    Outside the scan area 128, and nothing there takes part. Raises `ConfigError` for a wrong `sigma_mm`,
    `GeometryError` without millimetres, `MissingDependencyError` without scipy.
    """
    if not 0 < sigma_mm < np.inf:
        raise ConfigError(f"sigma_mm is {sigma_mm}; a positive number is needed")
    blur = require("scipy.ndimage", "to take shadows out of images").gaussian_filter1d
    sigma = sigma_mm / geometry.require_mm()[0]
    values = image.astype(np.float32)
    if geometry.scan_area is None:
        smooth, inside = blur(values, sigma, axis=0, mode="nearest"), None
    else:
        inside = geometry.scan_area.mask((image.shape[0], image.shape[1]))
        weight = blur(inside.astype(np.float32), sigma, axis=0, mode="constant")
        smooth = blur(np.where(inside, values, 0), sigma, axis=0, mode="constant") / np.maximum(weight, 1e-6)
    out = np.clip(LEVEL + GAIN * (values - smooth), 0, 255).round().astype(np.uint8)
    return out if inside is None else np.where(inside, out, np.uint8(LEVEL))


@dataclass(frozen=True, slots=True, eq=False)
class _Frames:
    """The frames of a sweep, each filtered when it is read."""

    sweep: Sweep
    sigma_mm: float

    def __len__(self) -> int:
        return len(self.sweep)

    def __getitem__(self, index: int) -> npt.NDArray[np.uint8]:
        return axial_contrast(self.sweep.image(index), self.sweep.geometry_of(index), self.sigma_mm)


def axial_contrast_sweep(sweep: Sweep, sigma_mm: float) -> Sweep:
    """`sweep` with `axial_contrast` of its frames, made as they are read. Raises as `axial_contrast` when they are."""
    return replace(sweep, frames=_Frames(sweep, sigma_mm))
