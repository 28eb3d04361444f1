"""Random probes and scenes: what a point-of-care examination may meet, drawn widely."""

from __future__ import annotations

import math

import numpy as np

from edge_sdk.simulate._checks import require
from edge_sdk.simulate.probe import ImagingSettings, ProbeModel
from edge_sdk.simulate.scene import Inclusion, Interface, Layer, Scene

__all__ = ["random_probe", "random_scene"]

_ANECHOIC_SHARE = (0.12, 0.3, 0.24, 0.16, 0.1, 0.08)  # of scenes with 0, 1, ... 5 targets
_VISIBLE_DB = 11.0  # tissue that is no target stays this far above black


def _imaging(rng: np.random.Generator, loss_db: float, depth_mm: float) -> ImagingSettings:
    """Settings of an operator who is not perfect; `loss_db` is the mean two-way loss at full depth."""
    u = rng.uniform
    dynamic_range = u(46, 74)
    return ImagingSettings(
        dynamic_range_db=dynamic_range,
        headroom_db=dynamic_range * (1 - u(0.32, 0.64)),
        tgc_fraction=u(0.92, 1.06),
        tgc_error_db=tuple(u(-3.5, 3.5) for _ in range(6)),
        noise_db=-loss_db - u(22, 45),
        sidelobe_db=u(-40, -27),
        clutter_db=u(0, 24),
        clutter_depth_mm=depth_mm * u(0.006, 0.03),
        gamma=u(0.8, 1.3),
        smoothing_mm=depth_mm * float(rng.choice([0.0, 0.0025, 0.005])),
    )


def _family(rng: np.random.Generator) -> ProbeModel:
    """Geometry and frequency of a linear, curved or phased probe."""
    u = rng.uniform
    family = rng.choice(["linear", "curved", "phased"], p=[0.45, 0.3, 0.25])
    if family == "linear":
        return ProbeModel(kind="linear", depth_mm=u(26, 60), width_mm=u(30, 46), frequency_mhz=u(5.5, 11))
    if family == "curved":
        angle, radius = u(0.9, 1.3), u(35, 65)
        return ProbeModel(
            kind="sector", depth_mm=u(80, 170), angle_rad=angle, apex_radius_mm=radius, frequency_mhz=u(2.5, 5)
        )
    angle, radius = u(1.2, 1.65), u(4, 14)
    return ProbeModel(
        kind="sector", depth_mm=u(90, 180), angle_rad=angle, apex_radius_mm=radius, frequency_mhz=u(2.0, 3.6)
    )


def random_probe(rng: np.random.Generator) -> ProbeModel:
    """A linear (5-11 MHz), curved or phased (2-5 MHz) probe with random depth, PSF and settings."""
    u, base = rng.uniform, _family(rng)
    depth = base.depth_mm
    frequency = min(base.frequency_mhz, 480 / depth)  # an operator lowers it until the bottom is seen
    wavelength = 1.54 / frequency
    cycles, aperture = ((0.6, 0.95), (1.2, 2.0)) if base.kind == "linear" else ((0.65, 1.1), (1.8, 2.9))
    return ProbeModel(
        kind=base.kind,
        depth_mm=depth,
        width_mm=base.width_mm,
        angle_rad=base.angle_rad,
        apex_radius_mm=base.apex_radius_mm,
        frequency_mhz=frequency,
        axial_sigma_mm=u(*cycles) * wavelength,
        axial_growth=u(0.1, 0.6),
        lateral_sigma_mm=u(*aperture) * wavelength,
        focal_mm=depth * u(0.3, 0.7),
        field_mm=depth * u(0.35, 0.9),
        imaging=_imaging(rng, 2 * frequency * 0.5 * depth / 10, depth),
    )


def _darkest_db(probe: ProbeModel) -> float:
    """The lowest echogenicity that these settings still show as grey."""
    imaging = probe.imaging
    return _VISIBLE_DB - (imaging.dynamic_range_db - imaging.headroom_db + imaging.gain_db)


def _layers(rng: np.random.Generator, probe: ProbeModel) -> tuple[list[Layer], list[Interface]]:
    """Skin, fat and muscle over an organ or deeper muscle, with fascia lines on most borders."""
    u, half = rng.uniform, probe.extent_mm()[0]
    layers, lines, top = [], [], 0.0
    for _ in range(int(rng.integers(0, 5))):
        top += probe.depth_mm * u(0.04, 0.2)
        slope, wave, length = u(-0.12, 0.12), probe.depth_mm * u(0, 0.012), half * u(0.15, 0.6)
        echo = max(u(-8, 5), _darkest_db(probe))
        attenuation = u(0.35, 0.65)
        layers.append(
            Layer(
                top_mm=top,
                slope=slope,
                wave_mm=wave,
                wavelength_mm=length,
                phase=u(0, 6.28),
                echo_db=echo,
                attenuation=attenuation,
            )
        )
        for _ in range(int(rng.integers(0, 4))):
            bow, near = u(-0.02, 0.02) * probe.depth_mm, top + u(-0.01, 0.01) * probe.depth_mm
            x, reach = u(-0.8, 0.8) * half, half * u(0.3, 1.4)
            lines.append(Interface(x_mm=x, z_mm=near, half_mm=reach, slope=slope, bow=bow, echo_db=u(5, 22)))
    return layers, lines


def _streaks(rng: np.random.Generator, probe: ProbeModel) -> list[Interface]:
    """Short lines of connective tissue, of one main direction, most of them faint."""
    u = rng.uniform
    half, _, bottom = probe.extent_mm()
    count = int(rng.integers(10, 160)) if rng.random() < 0.75 else 0
    main, spread = u(-0.2, 0.2), u(0.03, 0.2)
    low, high = sorted((u(0, 0.6), u(0.3, 1.0)))
    return [
        Interface(
            x_mm=u(-half, half),
            z_mm=bottom * u(low, high),
            half_mm=half * float(rng.gamma(2.0, 0.06) + 0.02),
            slope=main + spread * float(rng.standard_normal()),
            bow=u(-0.01, 0.01) * bottom,
            echo_db=20 - 18 * float(rng.power(2.0)),
        )
        for _ in range(count)
    ]


def _place(rng: np.random.Generator, probe: ProbeModel, size: float) -> tuple[float, float]:
    """(x, z) in mm of a random centre in the scan area, most of the thing inside it."""
    depth = min(rng.uniform(0.08, 0.85) * probe.depth_mm + 0.4 * size, 0.93 * probe.depth_mm)
    lateral = rng.uniform(-0.46, 0.46) * probe.lateral_span
    x, z = probe.to_space(np.array([lateral], np.float32), np.array([depth], np.float32))
    return float(x[0]), float(z[0])


def _inclusion(rng: np.random.Generator, probe: ProbeModel, kind: str, pulsating: bool = False) -> Inclusion:
    """One random inclusion of `kind` somewhere in the scan area."""
    u = rng.uniform
    span = min(probe.depth_mm, 2 * probe.extent_mm()[0])
    b = span * float(np.clip(rng.lognormal(math.log(0.09), 0.45), 0.05, 0.22))
    x, z = _place(rng, probe, b)
    a, angle = b * u(0.9, 2.0), u(-0.5, 0.5) if rng.random() < 0.8 else u(-1.6, 1.6)
    lobes, phase = int(rng.integers(2, 6)), u(0, 6.28)
    lobe = u(0, 0.35) / lobes if rng.random() < 0.6 else 0.0
    if kind == "anechoic":
        echo, attenuation, wall = u(-60, -38), u(0.0, 0.25), u(4, 20) if rng.random() < 0.7 else None
        return Inclusion(
            kind="anechoic", x_mm=x, z_mm=z, a_mm=a, b_mm=b, angle_rad=angle, lobe=lobe, lobes=lobes, lobe_phase=phase,
            echo_db=echo, attenuation=attenuation, wall_db=wall, pulsating=pulsating,
        )  # fmt: skip
    if kind == "hypoechoic":
        echo, attenuation = max(u(-12, -4), _darkest_db(probe)), u(0.3, 0.7)
        return Inclusion(
            kind="hypoechoic", x_mm=x, z_mm=z, a_mm=a, b_mm=b, angle_rad=angle, lobe=lobe, lobes=lobes,
            lobe_phase=phase, echo_db=echo, attenuation=attenuation,
        )  # fmt: skip
    stone, scale = rng.random() < 0.4, u(0.25, 0.6)
    loss_db = u(10, 45)  # two-way through the middle of a stone
    attenuation = min(loss_db * 10 / (4 * probe.frequency_mhz * b * scale), 200.0) if stone else u(0.4, 0.9)
    return Inclusion(
        kind="hyperechoic", x_mm=x, z_mm=z, a_mm=a * scale, b_mm=b * scale, angle_rad=angle, lobe=lobe, lobes=lobes,
        lobe_phase=phase, echo_db=u(5, 14), attenuation=attenuation, wall_db=u(12, 25) if stone else None,
    )  # fmt: skip


def _bone(rng: np.random.Generator, probe: ProbeModel) -> Interface:
    """A bright surface of bone or gas with a shadow behind."""
    u, (half, _, bottom) = rng.uniform, probe.extent_mm()
    return Interface(
        x_mm=u(-0.8, 0.8) * half,
        z_mm=u(0.15, 0.6) * bottom,
        half_mm=half * u(0.1, 0.4),
        slope=u(-0.2, 0.2),
        bow=u(0, 0.05) * bottom,
        echo_db=u(18, 28),
        shadow_db=u(20, 60),
    )


def _shadowed(probe: ProbeModel, inclusion: Inclusion, screen: Inclusion | Interface) -> bool:
    """Whether any of `inclusion` may lie behind `screen`, seen along the beams."""
    size = screen.half_mm if isinstance(screen, Interface) else screen.reach_mm
    x, z = (np.array(p, np.float32) for p in ((inclusion.x_mm, screen.x_mm), (inclusion.z_mm, screen.z_mm)))
    lateral, depth = probe.to_beam(x, z)
    radius = np.ones(2) if probe.kind == "linear" else np.maximum(depth + probe.apex_radius_mm, 1.0)
    reach = 1.15 * (inclusion.reach_mm / radius[0] + size / radius[1])
    return bool(abs(lateral[0] - lateral[1]) < reach and depth[0] + inclusion.reach_mm > depth[1])


def _free(inclusion: Inclusion, others: list[Inclusion]) -> bool:
    """Whether `inclusion` keeps clear of the others."""
    return all(
        math.hypot(inclusion.x_mm - o.x_mm, inclusion.z_mm - o.z_mm) > 1.1 * (inclusion.reach_mm + o.reach_mm)
        for o in others
    )


def _crosses(line: Interface, inclusions: list[Inclusion]) -> bool:
    """Whether a specular line runs through an anechoic inclusion."""
    x = np.linspace(line.x_mm - line.half_mm, line.x_mm + line.half_mm, 24, dtype=np.float32)
    z = line.z_at(x)
    return any(bool((i.level(x, z) < 1.3).any()) for i in inclusions if i.kind == "anechoic")


def random_scene(
    rng: np.random.Generator, probe: ProbeModel, anechoic: int | None = None, pulsating: bool = False
) -> Scene:
    """A scene for `probe`: `anechoic` targets (None draws 0 to 5), distractors, layers, connective tissue, shadows.

    Anechoic inclusions overlap nothing and lie behind no shadow, where no reader could see them; where no free
    place is found one is left out. With `pulsating` they are vessels. `ConfigError` for a negative number.
    """
    require(anechoic is None or anechoic >= 0, "anechoic", anechoic, "give a number >= 0 or None")
    layers, lines = _layers(rng, probe)
    lines += _streaks(rng, probe)
    placed: list[Inclusion] = []
    for kind in ["hypoechoic"] * int(rng.integers(0, 3)) + ["hyperechoic"] * int(rng.integers(0, 3)):
        candidate = _inclusion(rng, probe, kind)
        if _free(candidate, placed):
            placed.append(candidate)
    screens: list[Inclusion | Interface] = [i for i in placed if i.kind == "hyperechoic" and i.attenuation > 1]
    bones = [_bone(rng, probe)] if rng.random() < 0.2 else []
    screens += bones
    left = int(rng.choice(6, p=_ANECHOIC_SHARE)) if anechoic is None else anechoic
    for _ in range(30 * left):
        candidate = _inclusion(rng, probe, "anechoic", pulsating)
        if left and _free(candidate, placed) and not any(_shadowed(probe, candidate, s) for s in screens):
            placed.append(candidate)
            left -= 1
    return Scene(
        attenuation=rng.uniform(0.4, 0.6),
        inclusions=tuple(placed),
        layers=tuple(layers),
        interfaces=tuple(bones + [i for i in lines if not _crosses(i, placed)]),
        texture_db=rng.uniform(0.5, 4.5),
        texture_mm=probe.depth_mm * rng.uniform(0.03, 0.12),
        texture_seed=int(rng.integers(0, 64)),
    )
