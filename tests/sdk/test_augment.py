"""Augmentation: frame, labels and soft targets move together; grey values stay in range."""

from __future__ import annotations

import pytest
import torch

from edge_sdk.augment import augment
from edge_sdk.batch import Batch, Field
from edge_sdk.config import AugmentConfig

STILL = AugmentConfig(flip=0.0, min_scale=1.0, gain=0.0, gamma=0.0, noise=0.0)


# the disc's box, and padding
BOX = torch.tensor([[[0.0, 24, 6, 37, 19], [-1, 0, 0, 0, 0]]])


def _batch(n: int = 8) -> Batch:
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(48.0), indexing="ij")
    disc = ((x - 30) ** 2 + (y - 12) ** 2 < 49).float()
    inputs = (0.2 + 0.6 * disc).expand(n, 1, 32, 48).clone()
    return Batch(
        inputs=inputs,
        labelled=torch.ones(n, dtype=torch.bool),
        targets={
            "mask": Field(values=disc.long().expand(n, 32, 48).clone(), kind="labels"),
            "boxes": Field(values=BOX.expand(n, 2, 5).clone(), kind="boxes"),
            "view": Field(values=torch.arange(n), kind="fixed"),
        },
        soft={"mask": Field(values=((disc - 0.5) * 20).expand(n, 1, 32, 48).clone(), kind="dense")},
    )


def _draw(config: AugmentConfig, seed: int = 0, scale: tuple[float, float] = (0.0, 1.0)) -> Batch:
    return augment(_batch(), config, scale, torch.Generator().manual_seed(seed))


def test_everything_off_changes_nothing() -> None:
    batch, before = _draw(STILL), _batch()
    assert torch.equal(batch.inputs, before.inputs)
    assert torch.equal(batch.target("mask"), before.target("mask"))
    assert torch.equal(batch.soft_target("mask"), before.soft_target("mask"))


@pytest.mark.parametrize("min_scale", [1.0, 0.6])
def test_frame_labels_and_soft_targets_move_together(min_scale: float) -> None:
    config = AugmentConfig(flip=0.5, min_scale=min_scale, gain=0.0, gamma=0.0, noise=0.0)
    batch = _draw(config)
    bright = batch.inputs[:, 0] > 0.5
    assert (bright == (batch.target("mask") == 1)).float().mean() > 0.98
    assert (bright == (batch.soft_target("mask")[:, 0] > 0)).float().mean() > 0.999
    assert not torch.equal(batch.inputs[0], batch.inputs[1]) or not torch.equal(batch.inputs[0], batch.inputs[2])


def test_a_certain_flip_is_exact() -> None:
    batch = _draw(AugmentConfig(flip=1.0, min_scale=1.0, gain=0.0, gamma=0.0, noise=0.0))
    assert torch.equal(batch.inputs, _batch().inputs.flip(-1))
    assert torch.equal(batch.target("mask"), _batch().target("mask").flip(-1))


def test_grey_changes_touch_the_frame_alone_and_keep_its_range() -> None:
    batch = _draw(AugmentConfig(flip=0.0, min_scale=1.0, gain=0.9, gamma=1.0, noise=0.5))
    assert torch.equal(batch.target("mask"), _batch().target("mask"))
    assert torch.equal(batch.soft_target("mask"), _batch().soft_target("mask"))
    assert batch.inputs.min() >= 0
    assert batch.inputs.max() <= 1
    assert not torch.equal(batch.inputs, _batch().inputs)


def test_grey_changes_do_not_depend_on_the_normalization() -> None:
    config = AugmentConfig(flip=0.0, min_scale=1.0, noise=0.0)
    plain = _draw(config).inputs
    mean, std = 0.3, 0.25
    normal = _batch()
    shifted = Batch(inputs=(normal.inputs - mean) / std, labelled=normal.labelled)
    other = augment(shifted, config, (mean, std), torch.Generator().manual_seed(0)).inputs
    assert torch.allclose(other * std + mean, plain, atol=1e-5)


def test_black_stays_black_without_noise() -> None:
    batch = _batch()
    batch.inputs[:] = 0
    changed = augment(batch, AugmentConfig(noise=0.0), (0.0, 1.0), torch.Generator().manual_seed(0))
    assert changed.inputs.abs().max() == 0


MOVED = AugmentConfig(flip=0.5, min_scale=0.7, max_scale=1.4, rotate=30, stretch=0.2, gain=0.0, gamma=0.0, noise=0.0)


def test_rotation_stretch_and_shrinking_move_everything_together() -> None:
    batch = augment(_batch(64), MOVED, (0.0, 1.0), torch.Generator().manual_seed(3))
    bright = batch.inputs[:, 0] > 0.5
    assert (bright == (batch.target("mask") == 1)).float().mean() > 0.98
    assert (bright == (batch.soft_target("mask")[:, 0] > 0)).float().mean() > 0.99
    assert torch.equal(batch.target("view"), torch.arange(64))


def test_a_rotation_keeps_lengths_in_a_frame_that_is_not_square() -> None:
    config = AugmentConfig(flip=0.0, min_scale=1.0, rotate=90, gain=0.0, gamma=0.0, noise=0.0)
    batch = augment(_batch(64), config, (0.0, 1.0), torch.Generator().manual_seed(1))
    boxes = batch.target("boxes")[:, 0]
    inside = (boxes[:, 0] == 0) & (boxes[:, 1:3] > 0).all(1) & (boxes[:, 3] < 48) & (boxes[:, 4] < 32)
    area = (batch.target("mask") == 1).sum(dim=(1, 2)).float()[inside]
    disc = float((_batch(1).target("mask") == 1).sum())
    assert inside.sum() > 10
    assert ((area - disc).abs() < 0.08 * disc).all()


def test_boxes_follow_what_they_surround() -> None:
    """The moved box holds the whole moved disc; without rotation it is as tight as the box was."""
    for config, slack in ((MOVED, 20.0), (AugmentConfig(flip=0.5, min_scale=0.7, max_scale=1.3, noise=0.0), 3.0)):
        batch = augment(_batch(64), config, (0.0, 1.0), torch.Generator().manual_seed(5))
        for mask, (label, x0, y0, x1, y1) in zip(batch.target("mask"), batch.target("boxes")[:, 0], strict=True):
            if label < 0:
                continue
            rows, columns = torch.where(mask == 1)
            found = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            assert found[0] >= x0 - 1
            assert found[1] >= y0 - 1
            assert found[2] <= x1 + 1
            assert found[3] <= y1 + 1
            assert (x1 - x0) - (found[2] - found[0]) < slack
    padding = batch.target("boxes")[:, 1]
    assert torch.equal(padding, torch.tensor([-1.0, 0, 0, 0, 0]).expand(64, 5))


def test_a_box_that_leaves_the_frame_becomes_padding() -> None:
    batch = _batch(64)
    batch.targets["boxes"].values[:, 0] = torch.tensor([1.0, 0, 0, 4, 4])
    config = AugmentConfig(flip=0.0, min_scale=0.5, gain=0.0, gamma=0.0, noise=0.0)
    labels = augment(batch, config, (0.0, 1.0), torch.Generator().manual_seed(0)).target("boxes")[:, 0, 0]
    assert set(labels.tolist()) == {-1.0, 1.0}
