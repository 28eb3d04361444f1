"""The grid of beams on which echoes are formed, and the filters that are the point-spread function on it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt
from scipy import fft

from edge_sdk.simulate.probe import ProbeModel

__all__ = ["BeamGrid", "beam_grid"]

FloatArray = npt.NDArray[np.float32]
ComplexArray = npt.NDArray[np.complex64]

_SAMPLES_PER_SIGMA = 1.25
_WIDE = 8.0  # sigma of the side-lobe pedestal over that of the main lobe


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BeamGrid:
    """Rows along the beam, columns across: row i at `depth0 + i * d_depth` mm, column j at `lateral0 + j * d_lateral`.

    A margin around the scan area keeps the edges of the filters outside; `inner` are the (rows, columns) that are
    shown. `lateral_filter` (rows, columns) is the transfer function of the beam over the FFT of a row;
    `axial_sigmas` are the pulse at the shallowest and deepest row, in rows; `axial_blend` (rows, 1) is the share of
    the second; `axial_scale` (rows, 1) makes homogeneous tissue of unit scatterers have mean intensity 1.
    `noise_scale` does so for white noise; `line_gain` is the peak of a line of unit points.
    """

    probe: ProbeModel
    shape: tuple[int, int]
    depth0: float
    d_depth: float
    lateral0: float
    d_lateral: float
    inner: tuple[slice, slice]
    lateral_filter: FloatArray
    axial_sigmas: tuple[float, float]
    axial_blend: FloatArray
    axial_scale: FloatArray
    noise_scale: float
    line_gain: float

    @property
    def depth(self) -> FloatArray:
        """Depth in mm of every row."""
        return np.float32(self.depth0) + np.float32(self.d_depth) * np.arange(self.shape[0], dtype=np.float32)

    @property
    def lateral(self) -> FloatArray:
        """Lateral coordinate of every column, mm or rad."""
        return np.float32(self.lateral0) + np.float32(self.d_lateral) * np.arange(self.shape[1], dtype=np.float32)

    def filter_lateral(self, field: ComplexArray) -> ComplexArray:
        """`field` (rows, columns) with every row convolved by the beam's width at its depth."""
        spectrum = fft.fft(field, axis=1, overwrite_x=True)
        spectrum *= self.lateral_filter
        filtered: ComplexArray = fft.ifft(spectrum, axis=1, overwrite_x=True)
        return filtered

    def filter_axial(self, field: ComplexArray) -> ComplexArray:
        """`field` (rows, columns) convolved along the beam by the pulse at its depth."""
        planes = field.view(np.float32).reshape(*self.shape, 2)
        near = _blur_rows(planes, self.axial_sigmas[0])
        if self.axial_sigmas[1] > self.axial_sigmas[0]:
            far = _blur_rows(planes, self.axial_sigmas[1])
            near += (far - near) * self.axial_blend[:, :, None]
        near *= self.axial_scale[:, :, None]
        return near.reshape(self.shape[0], -1).view(np.complex64)


def _blur_rows(planes: FloatArray, sigma: float) -> FloatArray:
    """(rows, columns, 2) convolved along the rows with a Gaussian of `sigma` rows."""
    size = 2 * math.ceil(4 * sigma) + 1
    return np.asarray(cv2.GaussianBlur(planes, (1, size), sigmaX=1.0, sigmaY=sigma), np.float32)


def _splat_power(k: FloatArray) -> FloatArray:
    """Power spectrum of unit points spread bilinearly on a grid, at radian frequency `k`, over that of white noise."""
    return ((2 + np.cos(k)) / 3).astype(np.float32)


def _lateral_filter(probe: ProbeModel, depth: FloatArray, columns: int, step: float) -> FloatArray:
    """Main lobe plus pedestal as a transfer function (rows, columns), each row of unit energy for unit points."""
    k: FloatArray = (2 * np.pi * fft.fftfreq(columns)).astype(np.float32)
    sigma = (probe.lateral_sigma(depth) / np.float32(step))[:, None]
    power = _splat_power(k)
    lobe = np.exp(-0.5 * (sigma * k) ** 2)
    lobe /= np.sqrt((lobe**2 * power).mean(1, keepdims=True))
    if probe.imaging.sidelobe_db > -100:
        wide = np.exp(-0.5 * (_WIDE * sigma * k) ** 2)
        wide /= np.sqrt((wide**2 * power).mean(1, keepdims=True))
        lobe += np.float32(10 ** (probe.imaging.sidelobe_db / 20)) * wide
        lobe /= np.sqrt((lobe**2 * power).mean(1, keepdims=True))
    return np.asarray(lobe, np.float32)


def _axial_blend(
    probe: ProbeModel, depth: FloatArray, step: float
) -> tuple[tuple[float, float], FloatArray, FloatArray, float]:
    """Two pulses (sigma in rows), the share of the second by row, the scale by row, and the scale for white noise."""
    near, far = (float(s) for s in probe.axial_sigma(np.array([0, probe.depth_mm], np.float32)) / step)
    wanted = probe.axial_sigma(np.clip(depth, 0, probe.depth_mm)) / step
    share = ((wanted**2 - near**2) / max(far**2 - near**2, 1e-9)).astype(np.float32)
    k = np.linspace(0, np.pi, 1025, dtype=np.float32)
    pulses = [np.exp(-0.5 * (s * k) ** 2) for s in (near, far)]
    energy = [[float((p * q * _splat_power(k)).mean()) for q in pulses] for p in pulses]
    total = (1 - share) ** 2 * energy[0][0] + share**2 * energy[1][1] + 2 * share * (1 - share) * energy[0][1]
    white = float((pulses[0] ** 2).mean())
    scale = (1 / np.sqrt(total)).astype(np.float32)
    return (near, far), share[:, None], scale[:, None], math.sqrt(energy[0][0] / white)


@lru_cache(maxsize=8)
def beam_grid(probe: ProbeModel) -> BeamGrid:
    """The grid of `probe`: 1.25 samples per sigma of the narrowest PSF, rows in multiples of four for coarse maps."""
    d_depth = probe.axial_sigma_mm / _SAMPLES_PER_SIGMA
    depths = np.linspace(0, probe.depth_mm, 257, dtype=np.float32)
    sigmas = probe.lateral_sigma(depths)
    d_lateral = float(sigmas.min()) / _SAMPLES_PER_SIGMA
    shown_rows = math.ceil(probe.depth_mm / d_depth) + 1
    shown_columns = math.ceil(probe.lateral_span / d_lateral) + 1
    d_lateral = probe.lateral_span / (shown_columns - 1)
    margin = math.ceil(4 * float(probe.axial_sigma(depths).max()) / d_depth)
    side = min(math.ceil(3 * float(sigmas.max()) / d_lateral), shown_columns // 3) + 1
    rows = -(-(shown_rows + 2 * margin) // 4) * 4
    columns = int(fft.next_fast_len(-(-(shown_columns + 2 * side) // 2) * 2))
    depth = (np.arange(rows, dtype=np.float32) - margin) * np.float32(d_depth)
    lateral_filter = _lateral_filter(probe, np.clip(depth, 0, None), columns, d_lateral)
    sigmas_rows, blend, scale, noise_scale = _axial_blend(probe, depth, d_depth)
    focus = min(margin + round(probe.focal_mm / d_depth), rows - 1)
    pulse_peak = float(scale[focus, 0]) / (math.sqrt(2 * math.pi) * sigmas_rows[0])
    return BeamGrid(
        probe=probe,
        shape=(rows, columns),
        depth0=-margin * d_depth,
        d_depth=d_depth,
        lateral0=-probe.lateral_span / 2 - side * d_lateral,
        d_lateral=d_lateral,
        inner=(slice(margin, margin + shown_rows), slice(side, side + shown_columns)),
        lateral_filter=lateral_filter,
        axial_sigmas=sigmas_rows,
        axial_blend=blend,
        axial_scale=scale,
        noise_scale=noise_scale,
        line_gain=pulse_peak * float(lateral_filter[focus, 0]),
    )
