"""The vessel examination: both vessels whole inside the scan area, nothing across them, the same for the same seed."""

from __future__ import annotations

import math

import pytest

from edge_runtime.errors import ConfigError
from edge_sdk.simulate import simulate_frame, vessel_exam


@pytest.mark.parametrize("seed", range(6))
def test_two_whole_vessels_in_sight(seed: int) -> None:
    probe, scene = vessel_exam(seed)
    frame = simulate_frame(scene, probe, seed, (160, 160))
    assert [truth.kind for truth in frame.truth] == ["anechoic", "anechoic"]
    whole = sum(math.pi * vessel.a_mm * vessel.b_mm for vessel in scene.inclusions)
    assert frame.anechoic_area_mm2 == pytest.approx(whole, rel=1e-3)
    assert frame.mask.sum() * frame.geometry.pixel_area_mm2 == pytest.approx(whole, rel=0.02)
    assert not any(line.shadow_db for line in scene.interfaces)


def test_same_seed_same_scene() -> None:
    assert vessel_exam(5) == vessel_exam(5)
    assert vessel_exam(5) != vessel_exam(6)


def test_negative_seed_is_refused() -> None:
    with pytest.raises(ConfigError, match="seed"):
        vessel_exam(-1)
