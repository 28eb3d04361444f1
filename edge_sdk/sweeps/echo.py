"""Echoes of the scatterers of an anatomy as a probe receives and shows them, one frame at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edge_runtime.geometry import is_rigid
from edge_sdk.simulate._checks import require
from edge_sdk.sweeps.anatomy import Anatomy
from edge_sdk.sweeps.settings import MIN_SIGMA_PIXELS, Receiver, SweepProbe

if TYPE_CHECKING:
    from edge_sdk.sweeps._kernels import Tables

__all__ = ["EchoField"]

SOUND_MM_US = 1.54  # mm per microsecond
REACH = 3.0  # sigmas of the slice beyond which a scatterer is left out
SURFACE_DB, SHADOW_DB = 22.0, -32.0  # bone, against tissue

F32 = npt.NDArray[np.float32]


class EchoField:
    """The complex baseband image of one anatomy through one probe; holds the tables and the last frame.

    `receive` computes the field of one pose, `show` makes grey levels of it. The scatterers have random phases that
    turn by `4 pi f y / c`, so the field of many in a resolution cell is circular complex Gaussian, with mean intensity
    1 at 0 dB. Not thread-safe.
    """

    def __init__(self, anatomy: Anatomy, probe: SweepProbe) -> None:
        self.anatomy, self.probe = anatomy, probe
        height, width = probe.shape
        depth = np.arange(height) * probe.row_mm
        self._pixel = np.array([probe.column_mm, probe.row_mm])
        sigma_x = probe.lateral_sigma(depth) / probe.column_mm
        # a Gaussian of 0.8 pixels is laid down, the rest of the beam's width follows row by row
        rest = np.sqrt(np.maximum(sigma_x**2 - MIN_SIGMA_PIXELS**2, 1e-6))
        k = np.arange(-int(np.ceil(REACH * rest.max())), int(np.ceil(REACH * rest.max())) + 1)
        blur = np.exp(-0.5 * (k[:, None] / rest) ** 2)
        # mean intensity: density times the integral of the squared amplitude, pi^(3/2) times the sigmas
        beam = np.pi * probe.density_mm3 * probe.axial_sigma_mm * probe.elevation_sigma(depth)
        laid = np.sqrt(np.pi) * sigma_x * probe.column_mm * (MIN_SIGMA_PIXELS / sigma_x) ** 2 * blur.sum(0) ** 2
        self._blur = (blur / np.sqrt(beam * laid)).astype(np.float32)
        self._tables = self._lookups()
        self._laid = np.empty((2, width, height), np.float32)
        self.field = np.empty((2, width, height), np.float32)

    def _lookups(self) -> Tables:
        from edge_sdk.sweeps._kernels import Tables

        anatomy, probe = self.anatomy, self.probe
        levels = np.clip(np.rint(2 * anatomy.strength_db) + 160, 0, 255)  # half dB from -80 dB
        turn = 2 * np.pi * (np.arange(4096) + 0.5) / 4096
        circle = np.stack([np.cos(turn), np.sin(turn)], 1).astype(np.float32)
        return Tables(
            seed=int(np.random.default_rng(anatomy.seed).integers(1 << 62)),
            pitch=probe.density_mm3 ** (-1 / 3),
            pixel=self._pixel,
            sigma_z=probe.elevation_sigma(np.arange(probe.shape[0]) * probe.row_mm).astype(np.float32),
            reach=REACH,
            wave_number=4 * np.pi * probe.frequency_mhz / SOUND_MM_US,
            # scatterers of modulus 1 and any phase: sums of few are nearer to Gaussian than those of Gaussian strengths
            circle=circle,
            taps_y=_taps(probe.axial_sigma_mm / probe.row_mm),
            taps_x=_taps(MIN_SIGMA_PIXELS),
            levels=levels.astype(np.uint8),
            amplitude=(10 ** ((np.arange(256) - 160) / 40)).astype(np.float32),
            origin=anatomy.origin_mm,
            voxel=anatomy.voxel_mm,
            strands=round(1024 * anatomy.strands),
            strand_cells=max(1, round(anatomy.strand_mm * probe.density_mm3 ** (1 / 3))),
        )

    def receive(self, T_tissue_image: npt.NDArray[np.float64], compression: float = 0.0) -> F32:
        """The field (2, W, H) float32, real and imaginary part, at rigid `T_tissue_image` (4, 4) in mm.

        `compression` c in [0, 0.5] shows what rests at depth y at (1 - c) y. The array is reused by the next call.
        Raises `ConfigError` for a matrix that is not rigid and other compressions.
        """
        from edge_sdk.sweeps import _kernels as kernels

        require(0 <= compression <= 0.5, "compression", compression, "give 0 to 0.5")
        require(is_rigid(T_tissue_image, 1e-4), "T_tissue_image", T_tissue_image, "give a rigid 4x4 matrix in mm")
        R = np.ascontiguousarray(T_tissue_image[:3, :3], np.float64)
        t = np.ascontiguousarray(T_tissue_image[:3, 3], np.float64)
        self._laid[:] = 0
        kernels.add_scatterers(self._laid, R, t, 1 - compression, self._tables)
        if np.isfinite(self.anatomy.bone_mm).any():
            self._add_bone(R, t, 1 - compression)
        kernels.blur_columns(self._laid, self._blur, self.field)
        return self.field

    def _add_bone(self, R: npt.NDArray[np.float64], t: npt.NDArray[np.float64], squeeze: float) -> None:
        from edge_sdk.sweeps import _kernels as kernels

        along = float(self._blur.sum(0).mean())  # what a row of echoes in phase adds up to
        kernels.add_surface(
            self._laid,
            R,
            t,
            squeeze,
            self._pixel,
            self._tables.wave_number,
            self.anatomy.bone_mm,
            self.anatomy.origin_mm,
            self.anatomy.voxel_mm,
            10 ** (SURFACE_DB / 20) / along,
            10 ** (SHADOW_DB / 20),
            self.probe.axial_sigma_mm / self.probe.row_mm,
        )

    def show(
        self,
        receiver: Receiver,
        gain_db: float,
        rng: np.random.Generator,
        keep: float,
        shown: F32,
        image: npt.NDArray[np.uint8],
    ) -> None:
        """Write the field of the last `receive` into `image` (H, W) uint8, with new noise from `rng`.

        `keep` in [0, 1) of `shown` (H, W) float32, the grey levels shown last, stays; `shown` is brought up to date.
        Raises `ConfigError` for arrays of another shape.
        """
        from edge_sdk.sweeps import _kernels as kernels

        for name, array in (("shown", shown), ("image", image)):
            require(array.shape == self.probe.shape, f"{name}.shape", array.shape, f"give {self.probe.shape}")
        height = self.probe.shape[0]
        noise_db = receiver.noise_db - receiver.noise_rise_db * (1 - np.arange(height) / (height - 1))
        sigma = (10 ** (noise_db / 20) / np.sqrt(2)).astype(np.float32)
        noise = rng.standard_normal(self.field.shape, np.float32)
        black = receiver.headroom_db - gain_db - receiver.dynamic_range_db
        kernels.show(self.field, noise, sigma, black, receiver.dynamic_range_db, keep, shown, image)


def _taps(sigma: float) -> F32:
    """Weights (65, n) of a Gaussian of `sigma` pixels at 64 places between pixels."""
    half = int(np.ceil(REACH * sigma))
    place = (np.arange(65) + 0.5) / 64 - 0.5
    return np.exp(-0.5 * ((np.arange(-half, half + 1) - place[:, None]) / sigma) ** 2).astype(np.float32)
