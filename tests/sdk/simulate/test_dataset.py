"""Training sets: reproducible, balanced, and what they promise to a network."""

from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.errors import ConfigError
from edge_runtime.frame import Rectangle, Sector
from edge_sdk.simulate import random_probe, random_scene, training_frame, training_set

SHAPE = (96, 96)


def test_a_set_is_the_same_whatever_the_number_of_processes() -> None:
    calls: list[tuple[int, int]] = []
    alone = training_set(11, 10, SHAPE, progress=lambda done, n: calls.append((done, n)))
    pooled = training_set(11, 10, SHAPE, workers=2)
    assert np.array_equal(alone[0], pooled[0])
    assert np.array_equal(alone[1], pooled[1])
    assert alone[2] == pooled[2]
    assert calls == [(i, 10) for i in range(1, 11)]


def test_the_first_frames_are_those_of_a_smaller_set_and_seeds_do_not_meet() -> None:
    small, large, other = training_set(1, 3, SHAPE), training_set(1, 5, SHAPE), training_set(2, 3, SHAPE)
    assert np.array_equal(small[0], large[0][:3])
    assert np.array_equal(training_frame(1, 2, SHAPE).image, small[0][2])
    assert all(not np.array_equal(a, b) for a in large[0] for b in other[0])


def test_a_set_is_varied_and_its_targets_are_dark() -> None:
    images, masks, geometries = training_set(0, 60, SHAPE)
    assert images.shape == masks.shape == (60, *SHAPE)
    assert images.dtype == masks.dtype == np.uint8
    assert set(np.unique(masks)) == {0, 1}
    empty = (masks.sum((1, 2)) == 0).mean()
    assert 0.03 < empty < 0.35
    kinds = [type(g.scan_area) for g in geometries]
    assert 10 < kinds.count(Rectangle) < 50
    assert 10 < kinds.count(Sector) < 50
    assert all(g.trusted and g.origin == "simulated" for g in geometries)
    darker = []
    for image, mask, geometry in zip(images, masks, geometries, strict=True):
        assert geometry.scan_area is not None
        around = geometry.scan_area.mask(SHAPE) & (mask == 0)
        if mask.sum() > 20:
            darker.append(image[mask == 1].mean() < 0.6 * image[around].mean())
    assert np.mean(darker) > 0.9


def test_targets_keep_clear_of_each_other_and_are_as_many_as_asked() -> None:
    for seed in range(40):
        rng = np.random.default_rng(seed)
        probe = random_probe(rng)
        scene = random_scene(rng, probe, anechoic=2, pulsating=True)
        assert len(scene.anechoic) <= 2
        assert all(i.pulsating for i in scene.anechoic)
        for i, a in enumerate(scene.inclusions):
            for b in scene.inclusions[i + 1 :]:
                assert np.hypot(a.x_mm - b.x_mm, a.z_mm - b.z_mm) > a.reach_mm + b.reach_mm
        assert not random_scene(rng, probe, anechoic=0).anechoic


@pytest.mark.parametrize("bad", [{"n": 0}, {"workers": 0}, {"seed": -1}, {"shape": (8, 8)}])
def test_bad_arguments_are_refused(bad: dict[str, object]) -> None:
    good: dict[str, object] = {"seed": 0, "n": 1, "shape": SHAPE, "workers": 1}
    with pytest.raises(ConfigError):
        training_set(**(good | bad))  # type: ignore[arg-type]


def test_a_negative_number_of_targets_is_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ConfigError, match="anechoic"):
        random_scene(rng, random_probe(rng), anechoic=-1)
