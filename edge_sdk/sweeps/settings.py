"""What a simulated sweep is seen with: the probe's point-spread function, its electronics, the hand and the body."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import numpy.typing as npt

from edge_runtime.frame import FrameGeometry, Rectangle
from edge_sdk.simulate._checks import require, require_positive, require_shape

__all__ = ["MIN_SIGMA_PIXELS", "Disturbance", "Receiver", "SweepProbe"]

MIN_SIGMA_PIXELS = 0.8  # a narrower pulse is not resolved by the rows


class SweepProbe(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A linear probe of `shape` (H, W) pixels over `depth_mm` x `width_mm`, its face at row 0.

    The amplitude of the two-way point-spread function is Gaussian in all three directions: axially `axial_sigma_mm`,
    laterally and elevationally `sigma * sqrt(1 + ((depth - focus) / field)^2)`, the width of a Gaussian beam of
    Rayleigh length `field`. `density_mm3`: scatterers in a cubic millimetre; about ten in a resolution cell of
    15.7 times the product of the sigmas make fully developed speckle. Raises `ConfigError` for numbers out of range.
    """

    shape: tuple[int, int] = (256, 256)
    depth_mm: float = 40.0
    width_mm: float = 40.0
    frequency_mhz: float = 6.0
    axial_sigma_mm: float = 0.17
    lateral_sigma_mm: float = 0.30
    lateral_focus_mm: float = 20.0
    lateral_field_mm: float = 20.0
    elevation_sigma_mm: float = 0.65
    elevation_focus_mm: float = 20.0
    elevation_field_mm: float = 18.0
    density_mm3: float = 10.0

    def __post_init__(self) -> None:
        require_shape(self.shape)
        require_positive(self, *(name for name in self.__struct_fields__ if name != "shape"))
        require(5 <= self.depth_mm <= 300, "depth_mm", self.depth_mm, "give 5 to 300 mm")
        require(5 <= self.width_mm <= 300, "width_mm", self.width_mm, "give 5 to 300 mm")
        require(self.density_mm3 <= 1000, "density_mm3", self.density_mm3, "give up to 1000 per mm^3")
        require(self.elevation_sigma_mm <= 5, "elevation_sigma_mm", self.elevation_sigma_mm, "give up to 5 mm")
        for name, pixel in (("axial_sigma_mm", self.row_mm), ("lateral_sigma_mm", self.column_mm)):
            least = MIN_SIGMA_PIXELS * pixel
            advice = f"give at least {least:.3f} mm ({MIN_SIGMA_PIXELS} pixels), more pixels or a smaller field"
            require(getattr(self, name) >= least, name, getattr(self, name), advice)

    @property
    def row_mm(self) -> float:
        """Distance of two rows in mm."""
        return self.depth_mm / self.shape[0]

    @property
    def column_mm(self) -> float:
        """Distance of two columns in mm."""
        return self.width_mm / self.shape[1]

    @property
    def geometry(self) -> FrameGeometry:
        """The geometry of every frame; the whole image is scan area."""
        height, width = self.shape
        area = Rectangle(x0=-0.5, y0=-0.5, x1=width - 0.5, y1=height - 0.5)
        return FrameGeometry(
            row_mm=self.row_mm, column_mm=self.column_mm, scan_area=area, origin="simulated", trusted=True, reason=""
        )

    def lateral_sigma(self, depth_mm: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Lateral sigma in mm at depths in mm, of their shape."""
        away = (np.asarray(depth_mm, np.float64) - self.lateral_focus_mm) / self.lateral_field_mm
        return np.asarray(self.lateral_sigma_mm * np.hypot(1, away))

    def elevation_sigma(self, depth_mm: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Elevational sigma in mm at depths in mm, of their shape."""
        away = (np.asarray(depth_mm, np.float64) - self.elevation_focus_mm) / self.elevation_field_mm
        return np.asarray(self.elevation_sigma_mm * np.hypot(1, away))


class Receiver(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """From the echo to grey levels. Levels in dB against the mean intensity of tissue of strength 1.

    White lies `headroom_db` above tissue, black `dynamic_range_db` below white. `noise_db`: electronic noise at the
    deepest row, falling to `noise_db - noise_rise_db` at the face (what time-gain compensation makes of white noise).
    `gain_db` is added throughout; `gain_wander_db` is the standard deviation of a slow change (an
    Ornstein-Uhlenbeck process of 2 s), `gain_steps` the mean number of turns of the knob in a sweep, of 2 to 6 dB
    each. `persistence` in [0, 1): share of the last shown frame in the next; `averaging`: each frame is the mean of
    the last so many (of those there are, at the start); both on the log scale. Raises `ConfigError`.
    """

    dynamic_range_db: float = 60.0
    headroom_db: float = 22.0
    noise_db: float = -25.0
    noise_rise_db: float = 15.0
    gain_db: float = 0.0
    gain_wander_db: float = 0.0
    gain_steps: float = 0.0
    persistence: float = 0.0
    averaging: int = 1

    def __post_init__(self) -> None:
        require(20 <= self.dynamic_range_db <= 120, "dynamic_range_db", self.dynamic_range_db, "give 20 to 120 dB")
        require(0 <= self.headroom_db <= 60, "headroom_db", self.headroom_db, "give 0 to 60 dB")
        require(-200 <= self.noise_db <= 20, "noise_db", self.noise_db, "give -200 (none) to 20 dB")
        require(0 <= self.noise_rise_db <= 60, "noise_rise_db", self.noise_rise_db, "give 0 to 60 dB")
        require(-60 <= self.gain_db <= 60, "gain_db", self.gain_db, "give -60 to 60 dB")
        require(0 <= self.gain_wander_db <= 10, "gain_wander_db", self.gain_wander_db, "give 0 to 10 dB")
        require(0 <= self.gain_steps <= 20, "gain_steps", self.gain_steps, "give 0 to 20 a sweep")
        require(0 <= self.persistence < 1, "persistence", self.persistence, "give 0 to below 1")
        require(1 <= self.averaging <= 30, "averaging", self.averaging, "give 1 (none) to 30 frames")


class Disturbance(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the hand's pressure and the body's breathing do to the tissue.

    `compression` is the mean axial compression c: tissue that rests at depth y below the face is shown at (1 - c) y.
    It swings by up to `compression_swing` about that, slowly, and stays in [0, 0.5]. `breathing_mm` (x, y, z of the
    world) is the tissue's path from rest to full breath and back, `breathing_hz` its rate. Raises `ConfigError`.
    """

    compression: float = 0.0
    compression_swing: float = 0.0
    compression_hz: float = 0.3
    breathing_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    breathing_hz: float = 0.25

    def __post_init__(self) -> None:
        require(0 <= self.compression <= 0.4, "compression", self.compression, "give 0 to 0.4")
        require(0 <= self.compression_swing <= 0.3, "compression_swing", self.compression_swing, "give 0 to 0.3")
        require(0 < self.compression_hz <= 5, "compression_hz", self.compression_hz, "give up to 5 Hz")
        require(0 < self.breathing_hz <= 2, "breathing_hz", self.breathing_hz, "give up to 2 Hz")
        finite = all(math.isfinite(v) and abs(v) <= 50 for v in self.breathing_mm)
        require(finite, "breathing_mm", self.breathing_mm, "give three lengths of at most 50 mm")
