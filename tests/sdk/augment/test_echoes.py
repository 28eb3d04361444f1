"""Changes of echoes: closed forms, statistics of speckle, black stays black, the truth stays, off costs nothing."""

from __future__ import annotations

import math

import msgspec
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.errors import ConfigError
from edge_runtime.frame import Sector
from edge_sdk.augment import augment
from edge_sdk.augment.beams import BEAMS, beam_field, beams_of
from edge_sdk.augment.decibels import add_decibels, attenuation, haze, shadow, tgc
from edge_sdk.augment.speckle import blur, speckle, speckle_decibels
from edge_sdk.batch import Batch, Field
from edge_sdk.config import AugmentConfig, UltrasoundAugmentConfig

N, SHAPE = 6, (48, 64)
AREA = Sector(apex_x=31.5, apex_y=-20, radius_min=20, radius_max=66, angle_min=-0.5, angle_max=0.5)
STILL = AugmentConfig(flip=0.0, min_scale=1.0, gain=0.0, gamma=0.0, noise=0.0)
GREY = {
    "attenuation": UltrasoundAugmentConfig(attenuation_db=40),
    "blur": UltrasoundAugmentConfig(blur_axial_px=2, blur_lateral_px=3),
    "haze": UltrasoundAugmentConfig(haze=0.8),
    "shadow": UltrasoundAugmentConfig(shadow=1.0),
    "speckle": UltrasoundAugmentConfig(speckle=1.0),
    "tgc": UltrasoundAugmentConfig(tgc_db=20),
}


def _draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _batch(given_beams: bool) -> Batch:
    """Speckled sectors with a dark cyst."""
    seen = torch.from_numpy(AREA.mask(SHAPE))
    grey = torch.where(seen, 0.3 + 0.4 * torch.rand((N, 1, *SHAPE), generator=_draws(9)), 0.0)
    y, x = torch.meshgrid(torch.arange(48.0), torch.arange(64.0), indexing="ij")
    disc = (x - 30) ** 2 + (y - 24) ** 2 < 36
    targets = {"mask": Field(values=disc.long().expand(N, *SHAPE).clone(), kind="labels")}
    if given_beams:
        targets[BEAMS] = beam_field([AREA] * N, SHAPE)
    return Batch(
        inputs=torch.where(disc, 0.0, grey),
        labelled=torch.ones(N, dtype=torch.bool),
        targets=targets,
        soft={"mask": Field(values=disc[None, None].float().expand(N, 1, *SHAPE).clone(), kind="dense")},
    )


def _changed(config: UltrasoundAugmentConfig, given_beams: bool = True, seed: int = 0) -> Batch:
    return augment(_batch(given_beams), msgspec.structs.replace(STILL, ultrasound=config), (0.0, 1.0), _draws(seed))


def test_off_changes_nothing_and_draws_nothing() -> None:
    generator, batch = _draws(), _batch(True)
    before = batch.inputs.clone()
    after = augment(batch, AugmentConfig(gain=0, gamma=0, noise=0, flip=0, min_scale=1), (0.0, 1.0), generator)
    other = _draws()
    for _ in range(2):  # what the other changes draw
        torch.rand(N, generator=other)
    assert torch.equal(after.inputs, before)
    from edge_sdk.augment.ultrasound import change_echoes
    from edge_sdk.augment.view import change_view

    state = generator.get_state()
    assert change_echoes(batch, UltrasoundAugmentConfig(), (0.0, 1.0), generator) is batch
    assert change_view(batch, UltrasoundAugmentConfig(), (0.0, 1.0), generator) is batch
    assert torch.equal(state, generator.get_state())


@pytest.mark.parametrize("given_beams", [True, False])
@pytest.mark.parametrize("name", GREY)
def test_black_outside_and_the_truth_stay(name: str, given_beams: bool) -> None:
    before, after = _batch(given_beams), _changed(GREY[name], given_beams)
    outside = ~torch.from_numpy(AREA.mask(SHAPE))
    assert after.inputs[:, 0, outside].abs().max() == 0
    assert torch.equal(after.target("mask"), before.target("mask"))
    assert torch.equal(after.soft_target("mask"), before.soft_target("mask"))
    assert after.inputs.min() >= 0
    assert after.inputs.max() <= 1
    assert not torch.equal(after.inputs, before.inputs)


@pytest.mark.parametrize("name", GREY)
def test_one_generator_one_result(name: str) -> None:
    assert torch.equal(_changed(GREY[name], seed=3).inputs, _changed(GREY[name], seed=3).inputs)
    assert not torch.equal(_changed(GREY[name], seed=3).inputs, _changed(GREY[name], seed=4).inputs)


@pytest.mark.parametrize("name", GREY)
def test_changes_do_not_depend_on_the_normalization(name: str) -> None:
    mean, std = 0.3, 0.25
    plain, batch = _changed(GREY[name]), _batch(True)
    normal = Batch(inputs=(batch.inputs - mean) / std, labelled=batch.labelled, targets=batch.targets)
    config = msgspec.structs.replace(STILL, ultrasound=GREY[name])
    other = augment(normal, config, (mean, std), _draws()).inputs
    assert torch.allclose(other * std + mean, plain.inputs, atol=2e-4)


@pytest.mark.parametrize("name", ["attenuation", "shadow"])
def test_losses_only_darken(name: str) -> None:
    assert (_changed(GREY[name]).inputs <= _batch(True).inputs + 1e-6).all()


def test_haze_only_brightens_and_hides_the_dark_first() -> None:
    before, after = _batch(True), _changed(GREY["haze"])
    lift = after.inputs - before.inputs
    assert lift.min() > -1e-5
    beams = beams_of(before, before.inputs)
    assert lift[beams.inside & (before.inputs == 0)].mean() > lift[before.inputs > 0.5].mean()
    bare = haze(before.inputs, beams, 0.0, 60.0, _draws())
    assert torch.allclose(bare, before.inputs, atol=1e-5)


def test_attenuation_grows_with_depth_in_proportion() -> None:
    batch = _batch(False)
    decibels = attenuation(beams_of(batch, batch.inputs), 30.0, _draws())
    column = decibels[:, 0, :, 20]
    steps = column.diff(dim=1)
    assert (steps <= 0).all()
    assert torch.allclose(steps, steps[:, :1].expand_as(steps), atol=1e-4)  # exponential in amplitude
    assert (column[:, -1] >= -30).all()


def test_decibels_are_what_a_log_compressed_image_shows() -> None:
    amplitude = torch.linspace(0.05, 0.5, 50, dtype=torch.float64)
    shown = 1 + 20 * torch.log10(amplitude) / 60
    quieter = 1 + 20 * torch.log10(amplitude * 0.4) / 60
    changed = add_decibels(shown[None, None, None], torch.full((1, 1, 1, 1), 20 * math.log10(0.4)), 60.0)
    assert torch.allclose(changed[0, 0, 0], quieter.clamp_min(0), atol=1e-6)


@given(st.floats(-60, 60))
def test_decibels_keep_the_order_and_black(decibels: float) -> None:
    grey = torch.linspace(0, 1, 257)[None, None, None]
    changed = add_decibels(grey, torch.full((1, 1, 1, 1), decibels), 60.0)
    assert (changed.diff(dim=-1) >= -1e-6).all()
    assert changed[..., 0] == 0


def test_a_shadow_lies_below_its_start_along_the_ray() -> None:
    batch = _batch(True)
    beams = beams_of(batch, batch.inputs)
    dark = shadow(beams, 1.0, 30.0, _draws(1)) < -3
    for k in range(N):
        inside = beams.inside[k, 0]
        lateral, depth = beams.lateral[k, 0], beams.depth[k, 0]
        covered = dark[k, 0] & inside
        assert covered.any()
        # deeper on a covered ray all is covered: the wedge never ends
        middle = lateral[covered].mean()
        ray = inside & ((lateral - middle).abs() < 0.04)
        start = depth[ray & covered].min()
        assert dark[k, 0][ray & (depth > start + 0.02)].all()
    assert (shadow(beams, 0.0, 30.0, _draws(1)) == 0).all()


def test_gain_sliders_are_smooth_and_bounded() -> None:
    batch = _batch(False)
    curve = tgc(beams_of(batch, batch.inputs), 12.0, _draws())[:, 0, :, 0]
    assert curve.abs().max() <= 12
    assert curve.diff(dim=1).abs().max() < 1.5 * 24 * 7 / 48 + 0.1  # the steepest slope of the cubic
    assert curve.std(dim=1).min() > 1


def test_speckle_has_the_statistics_of_theory() -> None:
    field = speckle_decibels(24, (96, 96), 1.0, 2.0, _draws())
    assert field.mean().item() == pytest.approx(0, abs=0.1)
    assert field.std().item() == pytest.approx(10 / math.log(10) * math.pi / math.sqrt(6), rel=0.02)  # 5.57 dB
    intensity = 10 ** ((field - 10 / math.log(10) * 0.5772156649) / 10)
    assert intensity.mean().item() == pytest.approx(1, abs=0.02)
    assert intensity.std().item() == pytest.approx(1, abs=0.04)  # exponential: standard deviation = mean
    for dim, sigma in ((2, 1.0), (3, 2.0)):
        shifted = intensity.roll(-2, dims=dim)
        keep = intensity.shape[dim] - 2
        a, b = intensity.narrow(dim, 0, keep), shifted.narrow(dim, 0, keep)
        correlation = ((a - 1) * (b - 1)).mean() / intensity.var()
        assert correlation.item() == pytest.approx(math.exp(-(2**2) / (2 * sigma**2)), abs=0.04)


def test_the_grain_of_a_sector_widens_with_depth() -> None:
    shape = (192, 192)
    area = Sector(apex_x=95.5, apex_y=-10, radius_min=15, radius_max=200, angle_min=-0.5, angle_max=0.5)
    batch = Batch(
        inputs=torch.ones(4, 1, *shape),
        labelled=torch.ones(4, dtype=torch.bool),
        targets={BEAMS: beam_field([area] * 4, shape)},
    )
    grain = speckle(beams_of(batch, batch.inputs), 1.0, 1.0, _draws())

    def roughness(rows: slice) -> float:
        part = grain[:, 0, rows, 85:106]
        return float(part.diff(dim=-1).square().mean() / part.square().mean())

    assert roughness(slice(30, 60)) > 2 * roughness(slice(150, 180))


def test_blur_of_straight_beams_is_a_gaussian() -> None:
    point = torch.zeros(1, 1, 41, 41)
    point[..., 20, 20] = 1
    batch = Batch(inputs=torch.ones(1, 1, 41, 41), labelled=torch.ones(1, dtype=torch.bool))
    beams = beams_of(batch, batch.inputs)
    generator, same = _draws(2), _draws(2)
    spread = blur(point, beams, 2.0, 3.0, generator)[0, 0]
    axial, lateral = (torch.rand(1, generator=same) * limit for limit in (2.0, 3.0))
    assert spread.sum().item() == pytest.approx(1, abs=1e-5)
    k = torch.arange(41.0) - 20
    assert (spread.sum(dim=1) * k**2).sum().item() == pytest.approx(axial.item() ** 2, rel=0.05)
    assert (spread.sum(dim=0) * k**2).sum().item() == pytest.approx(lateral.item() ** 2, rel=0.05)


def test_blur_follows_the_rays() -> None:
    """Lateral blur in a sector spreads a point across its ray: the covariance turns with the beam."""
    shape = (121, 121)
    area = Sector(apex_x=20, apex_y=-1, radius_min=1, radius_max=200, angle_min=-0.5, angle_max=1.5)
    batch = Batch(
        inputs=torch.ones(1, 1, *shape),
        labelled=torch.ones(1, dtype=torch.bool),
        targets={BEAMS: beam_field([area], shape)},
    )
    point = torch.zeros(1, 1, *shape)
    point[..., 60, 80] = 1  # on the ray at 44.5 degrees
    spread = blur(point, beams_of(batch, batch.inputs), 0.0, 8.0, _draws())[0, 0]
    y, x = torch.meshgrid(torch.arange(121.0) - 60, torch.arange(121.0) - 80, indexing="ij")
    weights = spread / spread.sum()
    along, across = (x + y) / math.sqrt(2), (x - y) / math.sqrt(2)
    assert (weights * across**2).sum() > 10 * (weights * along**2).sum()


@pytest.mark.parametrize(
    ("field", "value"),
    [("haze", 1.5), ("depth", 0.9), ("elastic", 0.2), ("speckle_px", 0.0), ("tgc_db", -1), ("range_db", 5)],
)
def test_settings_out_of_range_are_refused(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=field):
        UltrasoundAugmentConfig(**{field: value})
