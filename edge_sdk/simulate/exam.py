"""A scene as in an examination of a vessel: large structures, well seen, for measuring areas."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edge_sdk.simulate._checks import require
from edge_sdk.simulate.probe import ProbeModel
from edge_sdk.simulate.sampling import random_scene
from edge_sdk.simulate.scene import Inclusion, Interface, Scene

__all__ = ["vessel_exam"]


def vessel_exam(seed: int) -> tuple[ProbeModel, Scene]:
    """The default linear probe (40 mm deep, 7.5 MHz) over a pulsating artery and a vein, of 4 to 6.5 mm semi-axes.

    Tissue, layers and streaks are random, sizes and places vary with `seed`; nothing casts a shadow and no line crosses
    a vessel. This is the easy case: `random_scene` draws the hard ones. Raises `ConfigError` for a negative seed.
    """
    require(seed >= 0, "seed", seed, "give a whole number >= 0")
    rng = np.random.default_rng(seed)
    u, probe = rng.uniform, ProbeModel()
    tissue = random_scene(rng, probe, anechoic=0)
    artery = Inclusion(
        kind="anechoic",
        x_mm=u(-9, -7),
        z_mm=u(15, 19),
        a_mm=u(5.2, 6.4),
        b_mm=u(4.6, 5.6),
        wall_db=u(8, 16),
        pulsating=True,
    )
    vein = Inclusion(
        kind="anechoic", x_mm=u(7, 9), z_mm=u(21, 27), a_mm=u(5.0, 6.5), b_mm=u(3.8, 4.8), angle_rad=u(-0.3, 0.3)
    )
    lines = tuple(line for line in tissue.interfaces if not line.shadow_db and _clear(line, (artery, vein)))
    return probe, replace(tissue, inclusions=(artery, vein), interfaces=lines)


def _clear(line: Interface, vessels: tuple[Inclusion, ...]) -> bool:
    return all(
        abs(line.x_mm - vessel.x_mm) > line.half_mm + 1.3 * vessel.a_mm
        or abs(float(line.z_at(np.array([vessel.x_mm], np.float32))[0]) - vessel.z_mm) > 1.3 * vessel.b_mm
        for vessel in vessels
    )
