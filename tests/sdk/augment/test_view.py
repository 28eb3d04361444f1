"""Depth setting, narrower sectors and displacement: frame, labels, dense targets, boxes and beams move as one."""

from __future__ import annotations

import msgspec
import pytest
import torch

from edge_runtime.frame import Sector
from edge_sdk.augment import augment
from edge_sdk.augment.beams import BEAMS, beam_field
from edge_sdk.batch import Batch, Field
from edge_sdk.config import AugmentConfig, UltrasoundAugmentConfig

N, SHAPE = 8, (96, 128)
AREA = Sector(apex_x=63.5, apex_y=-30, radius_min=32, radius_max=120, angle_min=-0.55, angle_max=0.55)
STILL = AugmentConfig(flip=0.0, min_scale=1.0, gain=0.0, gamma=0.0, noise=0.0)
VIEWS = {
    "depth": UltrasoundAugmentConfig(depth=0.3),
    "elastic": UltrasoundAugmentConfig(elastic=0.05),
    "narrow": UltrasoundAugmentConfig(narrow=0.5),
    "all": UltrasoundAugmentConfig(depth=0.2, elastic=0.03, narrow=0.3),
}


def _batch(sector: bool, step: int = 1) -> Batch:
    y, x = torch.meshgrid(torch.arange(96.0), torch.arange(128.0), indexing="ij")
    disc = ((x - 70) / 14) ** 2 + ((y - 40) / 10) ** 2 < 1
    seen = torch.from_numpy(AREA.mask(SHAPE)) if sector else torch.ones(SHAPE, dtype=torch.bool)
    grey = torch.where(seen, 0.3, 0.0) + 0.5 * disc
    box = torch.tensor([[1.0, *_extent(disc)], [-1, 0, 0, 0, 0]])
    targets = {
        "mask": Field(values=disc.long().expand(N, *SHAPE).clone(), kind="labels"),
        "boxes": Field(values=box.expand(N, 2, 5).clone(), kind="boxes"),
        "view": Field(values=torch.arange(N), kind="fixed"),
    }
    if sector:
        targets[BEAMS] = beam_field([AREA] * N, SHAPE, step=step)
    logits = torch.stack([-(disc.float() - 0.5) * 8, (disc.float() - 0.5) * 8])
    return Batch(
        inputs=grey.expand(N, 1, *SHAPE).clone(),
        labelled=torch.ones(N, dtype=torch.bool),
        targets=targets,
        soft={"mask": Field(values=logits.expand(N, 2, *SHAPE).clone(), kind="dense")},
    )


def _extent(mask: torch.Tensor) -> tuple[float, float, float, float]:
    y, x = torch.nonzero(mask, as_tuple=True)
    return float(x.min()), float(y.min()), float(x.max()) + 1, float(y.max()) + 1


def _changed(config: UltrasoundAugmentConfig, sector: bool, seed: int = 0, step: int = 1) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return augment(_batch(sector, step), msgspec.structs.replace(STILL, ultrasound=config), (0.0, 1.0), generator)


@pytest.mark.parametrize("sector", [True, False])
@pytest.mark.parametrize("name", VIEWS)
def test_frame_and_truth_move_together(name: str, sector: bool) -> None:
    batch = _changed(VIEWS[name], sector)
    bright = batch.inputs[:, 0] > 0.55
    assert (bright == (batch.target("mask") == 1)).float().mean() > 0.99
    assert (bright == (batch.soft_target("mask").argmax(dim=1) == 1)).float().mean() > 0.995
    assert torch.equal(batch.target("view"), torch.arange(N))
    assert not torch.equal(batch.inputs[0], batch.inputs[1])


@pytest.mark.parametrize("sector", [True, False])
@pytest.mark.parametrize("name", VIEWS)
def test_boxes_follow_the_mask(name: str, sector: bool) -> None:
    batch = _changed(VIEWS[name], sector)
    boxes, kept = batch.target("boxes"), 0
    assert (boxes[:, 1, 0] == -1).all()
    for box, mask in zip(boxes[:, 0], batch.target("mask"), strict=True):
        if box[0] < 0:
            assert mask.float().mean() < 0.7 * 440 / (96 * 128)  # most of the disc, 440 pixels, is gone
            continue
        kept += 1
        assert box[0] == 1
        truth = torch.tensor(_extent(mask == 1))
        # the box around what is seen of the old box encloses what is seen of the disc
        assert (box[1:] - truth).abs().max() <= (8 if "narrow" in name or name == "all" else 2.5)
    assert kept >= N // 2


def test_a_shallower_setting_enlarges_about_the_face() -> None:
    """Depth z goes to z / side, and so does the distance from the middle beam."""
    batch = _changed(VIEWS["depth"], False)
    whole = _batch(False).target("mask")[0].sum()
    for mask in batch.target("mask"):
        y, x = torch.nonzero(mask == 1, as_tuple=True)
        side = (whole / len(x)) ** 0.5
        assert (y.float().mean() + 0.5) * side == pytest.approx(40.5, abs=0.5)
        assert (x.float().mean() - 63.5) * side == pytest.approx(6.5, abs=0.5)


@pytest.mark.parametrize("step", [1, 4])
def test_a_sector_keeps_its_bottom_arc(step: int) -> None:
    batch = _changed(VIEWS["depth"], True, step=step)
    depth, _, inside = batch.target(BEAMS).unbind(dim=1)
    assert depth[inside > 0.5].max() <= 1.0
    shown = batch.inputs[:, 0] > 0.01
    fine = torch.nn.functional.interpolate(inside[:, None], size=SHAPE, mode="nearest")[:, 0] > 0.5
    assert (shown & ~fine).float().mean() < (0.002 if step == 1 else 0.05)


@pytest.mark.parametrize("sector", [True, False])
def test_narrowing_blackens_whole_beams_alone(sector: bool) -> None:
    before, after = _batch(sector), _changed(VIEWS["narrow"], sector)
    dark = (after.inputs == 0) & (before.inputs > 0)
    assert dark.any()
    assert torch.equal(after.inputs[~dark], before.inputs[~dark])
    assert (after.target("mask")[dark[:, 0]] == 0).all()
    soft = after.soft_target("mask").permute(0, 2, 3, 1)[dark[:, 0]]
    assert (soft[:, 0] > soft[:, 1]).all()
    if sector:
        lateral = _batch(True).target(BEAMS)[:, 1]
        for k in range(N):
            cut = lateral[k][dark[k, 0]]
            seen = lateral[k][after.inputs[k, 0] > 0]
            assert not ((cut[:, None] > seen.min()) & (cut[:, None] < seen.max())).any()


@pytest.mark.parametrize("name", VIEWS)
def test_one_generator_one_result(name: str) -> None:
    assert torch.equal(_changed(VIEWS[name], True, seed=2).inputs, _changed(VIEWS[name], True, seed=2).inputs)
    assert not torch.equal(_changed(VIEWS[name], True, seed=2).inputs, _changed(VIEWS[name], True, seed=3).inputs)


def test_boxes_follow_the_mask_under_the_affine_change() -> None:
    """The older change, seen the same way: the moved box encloses the moved mask, and not by much."""
    config = AugmentConfig(flip=0.5, min_scale=0.8, max_scale=1.2, rotate=10, gain=0, gamma=0, noise=0)
    batch = augment(_batch(False), config, (0.0, 1.0), torch.Generator().manual_seed(4))
    for box, mask in zip(batch.target("boxes")[:, 0], batch.target("mask"), strict=True):
        x0, y0, x1, y1 = _extent(mask == 1)
        assert box[1] <= x0 + 1
        assert box[2] <= y0 + 1
        assert box[3] >= x1 - 1
        assert box[4] >= y1 - 1
        assert (x1 - x0) * (y1 - y0) > 0.5 * (box[3] - box[1]) * (box[4] - box[2])
