"""Speckle, attenuation, shadow and contrast against closed forms. Levels in dB, lengths in mm."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from edge_sdk.simulate import (
    BeamData,
    ImagingSettings,
    Inclusion,
    Interface,
    ProbeModel,
    Scene,
    simulate_envelope,
)

CLEAN = ImagingSettings(noise_db=-140, sidelobe_db=-140, clutter_db=-140, tgc_fraction=0)
LINEAR = ProbeModel(axial_growth=0.0, imaging=CLEAN)
SECTOR = ProbeModel(
    kind="sector",
    depth_mm=120,
    frequency_mhz=3.0,
    apex_radius_mm=40,
    axial_sigma_mm=0.4,
    axial_growth=0.5,
    lateral_sigma_mm=1.1,
    focal_mm=60,
    field_mm=60,
    imaging=CLEAN,
)
LOSSLESS = Scene(attenuation=0.0)


def level_db(data: BeamData, lateral: tuple[float, float], depth: tuple[float, float]) -> float:
    """Mean intensity in dB of a box of the beam grid."""
    rows = (data.depth_mm >= depth[0]) & (data.depth_mm < depth[1])
    columns = (data.lateral >= lateral[0]) & (data.lateral < lateral[1])
    return float(10 * np.log10((data.envelope[np.ix_(rows, columns)] ** 2).mean()))


def correlation_sigma(intensity: npt.NDArray[np.float32], step: float) -> float:
    """Sigma of a Gaussian autocovariance along axis 1, from its lag of one step."""
    centred = intensity - intensity.mean()
    rho = (centred[:, 1:] * centred[:, :-1]).mean() / (centred**2).mean()
    return float(step / np.sqrt(-2 * np.log(rho)))


@pytest.mark.parametrize("probe", [LINEAR, SECTOR], ids=["linear", "sector"])
def test_homogeneous_tissue_gives_fully_developed_speckle(probe: ProbeModel) -> None:
    envelopes = [simulate_envelope(LOSSLESS, probe, seed).envelope for seed in range(4)]
    envelope = np.stack(envelopes)
    intensity = envelope**2
    assert envelope.mean() / envelope.std() == pytest.approx(1.91, rel=0.05)  # Rayleigh: sqrt(pi / (4 - pi))
    assert intensity.mean() == pytest.approx(1.0, rel=0.04)
    assert (intensity**2).mean() / intensity.mean() ** 2 == pytest.approx(2.0, rel=0.06)  # exponential
    sparse = intensity[:, ::12, ::12].ravel()
    assert stats.kstest(sparse, "expon").pvalue > 0.01


def test_lateral_speckle_size_follows_the_psf_and_grows_away_from_the_focus() -> None:
    focus, bottom = LINEAR.focal_mm, LINEAR.depth_mm
    sizes = []
    for depth in (focus, bottom - 2):
        measured = []
        for seed in range(4):
            data = simulate_envelope(LOSSLESS, LINEAR, seed)
            band = np.abs(data.depth_mm - depth) < 2
            step = float(data.lateral[1] - data.lateral[0])
            measured.append(correlation_sigma(data.envelope[band] ** 2, step))
        sizes.append(float(np.mean(measured)))
        expected = float(LINEAR.lateral_sigma(np.array([depth], np.float32))[0])
        assert sizes[-1] == pytest.approx(expected, rel=0.12)
    assert sizes[1] > 1.3 * sizes[0]


def test_axial_speckle_size_follows_the_pulse_and_grows_with_depth() -> None:
    data = [simulate_envelope(LOSSLESS, SECTOR, seed) for seed in range(4)]
    step = float(data[0].depth_mm[1] - data[0].depth_mm[0])
    for low, high in ((5, 25), (95, 115)):
        band = (data[0].depth_mm >= low) & (data[0].depth_mm < high)
        measured = np.mean([correlation_sigma(d.envelope[band].T ** 2, step) for d in data])
        expected = float(SECTOR.axial_sigma(np.array([(low + high) / 2], np.float32))[0])
        assert measured == pytest.approx(expected, rel=0.12)


@pytest.mark.parametrize("attenuation", [0.3, 0.7])
@pytest.mark.parametrize("probe", [LINEAR, SECTOR], ids=["linear", "sector"])
def test_attenuation_without_tgc_is_twice_alpha_times_frequency(probe: ProbeModel, attenuation: float) -> None:
    data = simulate_envelope(Scene(attenuation=attenuation), probe, 0)
    intensity = 10 * np.log10((data.envelope**2).mean(1))
    slope_db_per_mm = np.polyfit(data.depth_mm, intensity, 1)[0]
    assert slope_db_per_mm * 10 == pytest.approx(-2 * attenuation * probe.frequency_mhz, rel=0.04)


def test_full_tgc_makes_tissue_even_and_noise_grow() -> None:
    probe = replace(LINEAR, imaging=replace(CLEAN, tgc_fraction=1.0, noise_db=-60))
    data = simulate_envelope(Scene(attenuation=0.5), probe, 0)
    assert level_db(data, (-15, 15), (30, 36)) == pytest.approx(level_db(data, (-15, 15), (4, 10)), abs=0.7)
    fluid = Inclusion(kind="anechoic", x_mm=0, z_mm=20, a_mm=500, b_mm=500, echo_db=-140)
    noise = simulate_envelope(Scene(attenuation=0.5, inclusions=(fluid,)), probe, 0)
    rise = level_db(noise, (-15, 15), (30, 32)) - level_db(noise, (-15, 15), (10, 12))
    assert rise == pytest.approx(2 * 0.5 * probe.frequency_mhz * 2.0, abs=0.7)
    assert level_db(noise, (-15, 15), (0, 0.5)) == pytest.approx(-60, abs=1.5)


def test_a_cyst_is_dark_and_brightens_what_lies_behind() -> None:
    cyst = Inclusion(kind="anechoic", x_mm=0, z_mm=15, a_mm=5, b_mm=5, echo_db=-80, attenuation=0.0)
    data = simulate_envelope(Scene(attenuation=0.5, inclusions=(cyst,)), LINEAR, 1)
    beside = level_db(data, (-17, -10), (13, 17))
    assert level_db(data, (-2, 2), (13, 17)) < beside - 35
    enhanced, plain = (
        np.mean([level_db(simulate_envelope(scene, LINEAR, seed), (-1, 1), (24, 30)) for seed in range(6)])
        for scene in (Scene(attenuation=0.5, inclusions=(cyst,)), Scene(attenuation=0.5))
    )
    assert enhanced - plain == pytest.approx(2 * 0.5 * LINEAR.frequency_mhz * 1.0, abs=0.8)


def test_side_lobes_fill_a_cyst() -> None:
    cyst = Inclusion(kind="anechoic", x_mm=0, z_mm=18, a_mm=3, b_mm=6, echo_db=-90, attenuation=0.0)
    scene = Scene(attenuation=0.0, inclusions=(cyst,))
    lobed = replace(LINEAR, imaging=replace(CLEAN, sidelobe_db=-25))
    dark, filled = (level_db(simulate_envelope(scene, p, 0), (-0.7, 0.7), (14, 22)) for p in (LINEAR, lobed))
    assert dark < -45
    assert -50 < filled < -25


def test_a_stone_casts_a_shadow_of_its_two_way_loss() -> None:
    loss_db, half = 25.0, 2.0
    attenuation = loss_db * 10 / (2 * LINEAR.frequency_mhz * 2 * half)
    stone = Inclusion(
        kind="hyperechoic", x_mm=0, z_mm=12, a_mm=40, b_mm=half, echo_db=10, attenuation=attenuation
    )  # as wide as the image: a slab
    with_stone = simulate_envelope(Scene(attenuation=0.0, inclusions=(stone,)), LINEAR, 0)
    without = simulate_envelope(LOSSLESS, LINEAR, 0)
    fall = level_db(without, (-3, 3), (25, 38)) - level_db(with_stone, (-3, 3), (25, 38))
    assert fall == pytest.approx(loss_db, abs=1.0)


def test_bone_shadows_behind_only() -> None:
    bone = Interface(x_mm=0, z_mm=15, half_mm=5, echo_db=20, shadow_db=40)
    data = simulate_envelope(Scene(attenuation=0.0, interfaces=(bone,)), LINEAR, 0)
    assert level_db(data, (-3, 3), (20, 35)) < -35
    assert level_db(data, (-3, 3), (2, 12)) == pytest.approx(0, abs=1.5)
    assert level_db(data, (8, 16), (20, 35)) == pytest.approx(0, abs=1.5)


def test_a_specular_line_has_its_level_where_the_beam_meets_it_squarely_and_less_where_not() -> None:
    def peak(slope: float, seed: int) -> float:
        line = Interface(x_mm=0, z_mm=LINEAR.focal_mm, half_mm=14, slope=slope, echo_db=30)
        data = simulate_envelope(Scene(attenuation=0.0, interfaces=(line,), texture_seed=seed), LINEAR, seed)
        middle = np.abs(data.lateral) < 7
        return float(np.median(20 * np.log10(data.envelope[:, middle].max(0))))

    square = np.mean([peak(0.0, seed) for seed in range(8)])
    assert square == pytest.approx(30, abs=2)
    assert np.mean([peak(1.0, seed) for seed in range(4)]) < square - 6
