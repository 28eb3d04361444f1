"""How tissue moves in a cine: slow sliding of everything, and vessels that pulsate."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_sdk.simulate._checks import require
from edge_sdk.simulate.scene import Inclusion, Scene

__all__ = ["Deformation", "Motion"]

FloatArray = npt.NDArray[np.float32]

_REACH = 1.8  # tissue moves with a vessel up to this multiple of its radius


@dataclass(frozen=True, slots=True, kw_only=True)
class Motion:
    """Tissue slides by `lateral_mm` and `axial_mm` (amplitudes) at `breathing_hz`; vessels pulsate at `pulse_hz`.

    The radius of a pulsating inclusion swings by the fraction `pulse` about its rest, as a sine with a sharper
    systole. `ConfigError` for a `pulse` outside [0, 0.4] or a frequency that is negative.
    """

    lateral_mm: float = 0.0
    axial_mm: float = 0.0
    breathing_hz: float = 0.25
    pulse: float = 0.12
    pulse_hz: float = 1.2

    def __post_init__(self) -> None:
        require(0 <= self.pulse <= 0.4, "Motion.pulse", self.pulse, "give a fraction of the radius from 0 to 0.4")
        require(self.breathing_hz >= 0, "Motion.breathing_hz", self.breathing_hz, "give Hz >= 0")
        require(self.pulse_hz >= 0, "Motion.pulse_hz", self.pulse_hz, "give Hz >= 0")
        require(math.isfinite(self.lateral_mm), "Motion.lateral_mm", self.lateral_mm, "give a finite number of mm")
        require(math.isfinite(self.axial_mm), "Motion.axial_mm", self.axial_mm, "give a finite number of mm")

    def at(self, scene: Scene, time_s: float) -> Deformation:
        """Where the tissue of `scene` is at `time_s`."""
        breath, beat = (2 * math.pi * hz * time_s for hz in (self.breathing_hz, self.pulse_hz))
        swing = (math.sin(beat) + 0.3 * math.sin(2 * beat)) / 1.13  # 1.13 is the peak of the sum
        return Deformation(
            dx=self.lateral_mm * math.sin(breath),
            dz=self.axial_mm * math.sin(breath + 1.0),
            scale=1 + self.pulse * swing,
            vessels=tuple(i for i in scene.inclusions if i.pulsating),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Deformation:
    """A map of tissue from rest to now: each of `vessels` grows by `scale`, then all shifts by (`dx`, `dz`) mm.

    In units q of a vessel's own radius, q goes to `scale * q` inside and linearly back to rest at q = 1.8, so the map
    is one to one, has a closed inverse, and a lone vessel's area is `scale`^2 times that at rest.
    """

    dx: float
    dz: float
    scale: float
    vessels: tuple[Inclusion, ...]

    def forward(self, x: FloatArray, z: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Where tissue at rest at (x, z) mm is now."""
        for vessel in self.vessels:
            x, z = _swell(vessel, x, z, 1.0, self.scale)
        return x + np.float32(self.dx), z + np.float32(self.dz)

    def backward(self, x: FloatArray, z: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Where the tissue that is now at (x, z) mm was at rest."""
        x, z = x - np.float32(self.dx), z - np.float32(self.dz)
        for vessel in reversed(self.vessels):
            x, z = _swell(vessel, x, z, self.scale, 1.0)
        return x, z


def _swell(
    vessel: Inclusion, x: FloatArray, z: FloatArray, before: float, after: float
) -> tuple[FloatArray, FloatArray]:
    """Places moved radially as the wall of `vessel` goes from `before` to `after` times its radius at rest."""
    q = np.sqrt(vessel.level(x, z))
    outside = np.float32(after) + (q - np.float32(before)) * np.float32((_REACH - after) / (_REACH - before))
    bent: FloatArray = np.where(q <= before, q * np.float32(after / before), np.where(q < _REACH, outside, q))
    factor = (bent / np.maximum(q, np.float32(1e-6))).astype(np.float32)
    centre_x, centre_z = np.float32(vessel.x_mm), np.float32(vessel.z_mm)
    return centre_x + (x - centre_x) * factor, centre_z + (z - centre_z) * factor
