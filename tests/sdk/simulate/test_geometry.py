"""Places, pixels, masks and areas against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.errors import ConfigError
from edge_sdk.simulate import Inclusion, ProbeModel, Scene, simulate_frame
from edge_sdk.simulate.truth import inclusion_truth

LINEAR = ProbeModel()
probes = st.one_of(
    st.builds(ProbeModel, depth_mm=st.floats(20, 80), width_mm=st.floats(20, 60)),
    st.builds(
        ProbeModel,
        kind=st.just("sector"),
        depth_mm=st.floats(40, 180),
        angle_rad=st.floats(0.5, 2.4),
        apex_radius_mm=st.floats(2, 70),
        axial_sigma_mm=st.just(0.4),
        lateral_sigma_mm=st.just(1.0),
    ),
)
shapes = st.tuples(st.integers(64, 220), st.integers(64, 220))


@given(probe=probes, share=st.tuples(st.floats(-0.49, 0.49), st.floats(0, 1)))
def test_beam_coordinates_and_places_are_inverse(probe: ProbeModel, share: tuple[float, float]) -> None:
    lateral = np.array([share[0] * probe.lateral_span], np.float32)
    depth = np.array([share[1] * probe.depth_mm], np.float32)
    again = probe.to_beam(*probe.to_space(lateral, depth))
    assert again[0] == pytest.approx(lateral, abs=1e-3)
    assert again[1] == pytest.approx(depth, abs=1e-3)


@given(probe=probes, shape=shapes)
@settings(max_examples=40, deadline=None)
def test_the_scan_area_of_the_geometry_is_that_of_the_probe(probe: ProbeModel, shape: tuple[int, int]) -> None:
    geometry = probe.geometry(shape)
    assert geometry.scan_area is not None
    mask = geometry.scan_area.mask(shape)
    exact = probe.depth_mm * probe.width_mm
    if probe.kind == "sector":
        r0, r1 = probe.apex_radius_mm, probe.apex_radius_mm + probe.depth_mm
        exact = probe.angle_rad / 2 * (r1**2 - r0**2)
    outline_pixels = 2 * (mask.shape[0] + mask.shape[1])
    assert mask.sum() * geometry.pixel_area_mm2 == pytest.approx(
        exact, abs=0.75 * outline_pixels * geometry.pixel_area_mm2
    )
    assert (mask != probe.inside(*probe.pixel_places(shape))).sum() <= outline_pixels
    assert mask[:, : shape[1] // 2].sum() == pytest.approx(mask[:, -(shape[1] // 2) :].sum(), abs=shape[0])


ellipses = st.builds(
    Inclusion,
    kind=st.just("anechoic"),
    x_mm=st.floats(-20, 20),
    z_mm=st.floats(-3, 43),
    a_mm=st.floats(2, 12),
    b_mm=st.floats(2, 12),
    angle_rad=st.floats(-3, 3),
    lobe=st.floats(0, 0.3),
    lobes=st.integers(2, 5),
    lobe_phase=st.floats(0, 6),
)


@given(inclusion=ellipses)
@settings(max_examples=60, deadline=None)
def test_the_area_is_that_of_a_fine_count_of_places(inclusion: Inclusion) -> None:
    scene = Scene(inclusions=(inclusion,))
    x, z = LINEAR.pixel_places((1200, 1140))
    pixel = LINEAR.geometry((1200, 1140)).pixel_area_mm2
    counted = float((scene.anechoic_at(x, z) & LINEAR.inside(x, z)).sum()) * pixel
    truth = inclusion_truth(scene, LINEAR, 0)
    assert truth.area_mm2 == pytest.approx(counted, rel=0.003, abs=0.05)
    assert truth.area_mm2 <= truth.whole_area_mm2 * 1.005


def test_half_of_an_ellipse_on_the_edge_counts() -> None:
    edge = Inclusion(kind="anechoic", x_mm=LINEAR.width_mm / 2, z_mm=20, a_mm=5, b_mm=4)
    assert inclusion_truth(Scene(inclusions=(edge,)), LINEAR, 0).area_mm2 == pytest.approx(math.pi * 10, rel=0.005)


def test_what_a_later_inclusion_covers_does_not_count() -> None:
    cyst = Inclusion(kind="anechoic", x_mm=0, z_mm=20, a_mm=6, b_mm=6)
    stone = Inclusion(kind="hyperechoic", x_mm=1, z_mm=21, a_mm=2, b_mm=2, echo_db=10)
    frame = simulate_frame(Scene(inclusions=(cyst, stone)), LINEAR, 0, (256, 256))
    assert frame.anechoic_area_mm2 == pytest.approx(math.pi * 32, rel=0.002)
    assert frame.mask.sum() * frame.geometry.pixel_area_mm2 == pytest.approx(math.pi * 32, rel=0.02)


@pytest.mark.parametrize("shape", [(160, 160), (192, 256)])
def test_mask_pixels_of_a_sector_give_the_truth(shape: tuple[int, int]) -> None:
    probe = ProbeModel(kind="sector", depth_mm=90, axial_sigma_mm=0.4, lateral_sigma_mm=1.0)
    scene = Scene(
        inclusions=(
            Inclusion(kind="anechoic", x_mm=10, z_mm=50, a_mm=14, b_mm=9, angle_rad=0.7),
            Inclusion(kind="anechoic", x_mm=-50, z_mm=40, a_mm=12, b_mm=12),
        )
    )
    frame = simulate_frame(scene, probe, 0, shape)
    assert frame.mask.sum() * frame.geometry.pixel_area_mm2 == pytest.approx(frame.anechoic_area_mm2, rel=0.02)
    assert frame.truth[1].area_mm2 < 0.96 * frame.truth[1].whole_area_mm2


@pytest.mark.parametrize("bad", [{"a_mm": 0.0}, {"b_mm": math.inf}, {"kind": "solid"}, {"lobe": 0.9}, {"lobes": 0}])
def test_an_inclusion_that_cannot_be_is_refused(bad: dict[str, object]) -> None:
    good: dict[str, object] = {"kind": "anechoic", "x_mm": 0.0, "z_mm": 10.0, "a_mm": 2.0, "b_mm": 2.0}
    with pytest.raises(ConfigError):
        Inclusion(**(good | bad))  # type: ignore[arg-type]
