"""What lies under the probe: tissue, layers, inclusions and interfaces, in mm."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from edge_sdk.simulate._checks import require, require_positive

__all__ = ["Inclusion", "Interface", "Layer", "Scene"]

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inclusion:
    """An ellipse in the image plane: centre (`x_mm`, `z_mm`), semi-axes `a_mm`, `b_mm`, turned by `angle_rad`.

    `kind` is what it is to a reader: only `anechoic` regions (cyst, vessel, effusion) are targets. `echo_db` is
    the backscatter relative to tissue, `attenuation` one-way in dB/(cm MHz) (near 0 in fluid, which brightens
    what lies behind; above 2 casts a shadow), `wall_db` the specular echo of the wall or None. The elliptic radius is
    bent by `1 + lobe * cos(lobes * phi + lobe_phase)`, phi being the ellipse's own angle. A `pulsating` inclusion
    changes size in a cine. Raises `ConfigError` for a size that is not positive or a lobe outside [0, 0.5].
    """

    kind: Literal["anechoic", "hypoechoic", "hyperechoic"]
    x_mm: float
    z_mm: float
    a_mm: float
    b_mm: float
    angle_rad: float = 0.0
    echo_db: float = -80.0
    attenuation: float = 0.05
    wall_db: float | None = None
    lobe: float = 0.0
    lobes: int = 3
    lobe_phase: float = 0.0
    pulsating: bool = False

    def __post_init__(self) -> None:
        kinds = ("anechoic", "hypoechoic", "hyperechoic")
        require(self.kind in kinds, "Inclusion.kind", self.kind, f"give one of {kinds}")
        require_positive(self, "a_mm", "b_mm")
        require(0 <= self.attenuation <= 200, "Inclusion.attenuation", self.attenuation, "give 0 to 200 dB/(cm MHz)")
        require(0 <= self.lobe <= 0.5, "Inclusion.lobe", self.lobe, "give 0 (an ellipse) to 0.5")
        require(1 <= self.lobes <= 12, "Inclusion.lobes", self.lobes, "give 1 to 12")

    @property
    def area_mm2(self) -> float:
        """Area of the whole inclusion in mm^2: the integral of r^2 / 2 over the angle."""
        return math.pi * self.a_mm * self.b_mm * (1 + self.lobe**2 / 2)

    @property
    def reach_mm(self) -> float:
        """Radius in mm of a circle around the centre that holds the inclusion."""
        return max(self.a_mm, self.b_mm) * (1 + self.lobe)

    def outline(self, count: int) -> tuple[FloatArray, FloatArray]:
        """(x, z) in mm of `count` points around the boundary."""
        phi = np.linspace(0, 2 * np.pi, count, endpoint=False, dtype=np.float32)
        radius = 1 + self.lobe * np.cos(self.lobes * phi + self.lobe_phase)
        u, v = self.a_mm * radius * np.cos(phi), self.b_mm * radius * np.sin(phi)
        c, s = math.cos(self.angle_rad), math.sin(self.angle_rad)
        return (self.x_mm + c * u - s * v).astype(np.float32), (self.z_mm + s * u + c * v).astype(np.float32)

    def level(self, x: FloatArray, z: FloatArray) -> FloatArray:
        """Squared radius of places in mm over that of the boundary there: below 1 inside, 1 on the boundary."""
        c, s = math.cos(self.angle_rad), math.sin(self.angle_rad)
        dx, dz = x - np.float32(self.x_mm), z - np.float32(self.z_mm)
        u = dx * np.float32(c / self.a_mm) + dz * np.float32(s / self.a_mm)
        v = dz * np.float32(c / self.b_mm) - dx * np.float32(s / self.b_mm)
        level: FloatArray = u * u + v * v
        if self.lobe:
            bend = np.cos(np.float32(self.lobes) * np.arctan2(v, u) + np.float32(self.lobe_phase))
            level = level / np.square(1 + np.float32(self.lobe) * bend)
        return level


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """A specular line `z = z_mm + slope * (x - x_mm) + bow * ((x - x_mm) / half_mm)^2` over `|x - x_mm| <= half_mm`.

    `echo_db` is its peak above tissue where the beam meets it squarely; `shadow_db` is the two-way loss behind it
    (bone, gas). Raises `ConfigError` for a length that is not positive.
    """

    x_mm: float
    z_mm: float
    half_mm: float
    slope: float = 0.0
    bow: float = 0.0
    echo_db: float = 18.0
    shadow_db: float = 0.0

    def __post_init__(self) -> None:
        require_positive(self, "half_mm")
        require(0 <= self.shadow_db <= 200, "Interface.shadow_db", self.shadow_db, "give 0 to 200 dB")

    def z_at(self, x: FloatArray) -> FloatArray:
        """Depth z (mm) of the line at x (mm)."""
        dx = x - np.float32(self.x_mm)
        return np.float32(self.z_mm) + np.float32(self.slope) * dx + np.float32(self.bow / self.half_mm**2) * dx * dx


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """Tissue from `z = top_mm + slope * x + wave_mm * sin(x / wavelength_mm + phase)` down to the next layer.

    `echo_db` relative to tissue and one-way `attenuation` in dB/(cm MHz).
    """

    top_mm: float
    slope: float = 0.0
    wave_mm: float = 0.0
    wavelength_mm: float = 10.0
    phase: float = 0.0
    echo_db: float = 0.0
    attenuation: float = 0.5

    def __post_init__(self) -> None:
        require_positive(self, "wavelength_mm")

    def top_at(self, x: FloatArray) -> FloatArray:
        """Depth z (mm) of the layer's top at x (mm)."""
        wave = np.float32(self.wave_mm) * np.sin(x / np.float32(self.wavelength_mm) + np.float32(self.phase))
        top: FloatArray = np.float32(self.top_mm) + np.float32(self.slope) * x + wave
        return top


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """Tissue of 0 dB with `attenuation` (one-way dB/(cm MHz)), and what is in it; later inclusions cover earlier ones.

    `texture_db` is the standard deviation of slow changes of echogenicity, correlated over `texture_mm` laterally
    and a third of it axially, drawn from `texture_seed`, so that a scene is one piece of tissue for every frame.
    """

    attenuation: float = 0.5
    inclusions: tuple[Inclusion, ...] = ()
    layers: tuple[Layer, ...] = ()
    interfaces: tuple[Interface, ...] = ()
    texture_db: float = 0.0
    texture_mm: float = 4.0
    texture_seed: int = 0

    def __post_init__(self) -> None:
        require(0 <= self.attenuation <= 5, "Scene.attenuation", self.attenuation, "give 0 to 5 dB/(cm MHz)")
        require(0 <= self.texture_db <= 20, "Scene.texture_db", self.texture_db, "give 0 to 20 dB")
        require_positive(self, "texture_mm")

    @property
    def anechoic(self) -> tuple[Inclusion, ...]:
        """The inclusions that are targets."""
        return tuple(i for i in self.inclusions if i.kind == "anechoic")

    def anechoic_at(self, x: FloatArray, z: FloatArray) -> npt.NDArray[np.bool_]:
        """Whether places in mm lie in an anechoic inclusion that no later inclusion of another kind covers."""
        inside = np.zeros(np.broadcast(x, z).shape, np.bool_)
        for inclusion in self.inclusions:
            hit = inclusion.level(x, z) <= 1
            inside = inside | hit if inclusion.kind == "anechoic" else inside & ~hit
        return inside
