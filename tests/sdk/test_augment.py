"""Augmentation: frame, labels and soft targets move together; grey values stay in range."""

from __future__ import annotations

import pytest
import torch

from edge_sdk.augment import Batch, augment
from edge_sdk.config import AugmentConfig

STILL = AugmentConfig(flip=0.0, min_scale=1.0, gain=0.0, gamma=0.0, noise=0.0)


def _batch(n: int = 8) -> Batch:
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(48.0), indexing="ij")
    disc = ((x - 30) ** 2 + (y - 12) ** 2 < 49).float()
    inputs = (0.2 + 0.6 * disc).expand(n, 1, 32, 48).clone()
    return Batch(
        inputs=inputs,
        labels=disc.long().expand(n, 32, 48).clone(),
        labelled=torch.ones(n, dtype=torch.bool),
        soft=((disc - 0.5) * 20).expand(n, 1, 32, 48).clone(),
    )


def _draw(config: AugmentConfig, seed: int = 0, scale: tuple[float, float] = (0.0, 1.0)) -> Batch:
    return augment(_batch(), config, scale, torch.Generator().manual_seed(seed))


def test_everything_off_changes_nothing() -> None:
    batch, before = _draw(STILL), _batch()
    assert batch.soft is not None
    assert before.soft is not None
    assert torch.equal(batch.inputs, before.inputs)
    assert torch.equal(batch.labels, before.labels)
    assert torch.equal(batch.soft, before.soft)


@pytest.mark.parametrize("min_scale", [1.0, 0.6])
def test_frame_labels_and_soft_targets_move_together(min_scale: float) -> None:
    config = AugmentConfig(flip=0.5, min_scale=min_scale, gain=0.0, gamma=0.0, noise=0.0)
    batch = _draw(config)
    assert batch.soft is not None
    bright = batch.inputs[:, 0] > 0.5
    assert (bright == (batch.labels == 1)).float().mean() > 0.98
    assert (bright == (batch.soft[:, 0] > 0)).float().mean() > 0.999
    assert not torch.equal(batch.inputs[0], batch.inputs[1]) or not torch.equal(batch.inputs[0], batch.inputs[2])


def test_a_certain_flip_is_exact() -> None:
    batch = _draw(AugmentConfig(flip=1.0, min_scale=1.0, gain=0.0, gamma=0.0, noise=0.0))
    assert torch.equal(batch.inputs, _batch().inputs.flip(-1))
    assert torch.equal(batch.labels, _batch().labels.flip(-1))


def test_grey_changes_touch_the_frame_alone_and_keep_its_range() -> None:
    batch = _draw(AugmentConfig(flip=0.0, min_scale=1.0, gain=0.9, gamma=1.0, noise=0.5))
    assert batch.soft is not None
    assert torch.equal(batch.labels, _batch().labels)
    assert torch.equal(batch.soft, _batch().soft)
    assert batch.inputs.min() >= 0
    assert batch.inputs.max() <= 1
    assert not torch.equal(batch.inputs, _batch().inputs)


def test_grey_changes_do_not_depend_on_the_normalization() -> None:
    config = AugmentConfig(flip=0.0, min_scale=1.0, noise=0.0)
    plain = _draw(config).inputs
    mean, std = 0.3, 0.25
    normal = _batch()
    shifted = Batch(inputs=(normal.inputs - mean) / std, labels=normal.labels, labelled=normal.labelled)
    other = augment(shifted, config, (mean, std), torch.Generator().manual_seed(0)).inputs
    assert torch.allclose(other * std + mean, plain, atol=1e-5)


def test_black_stays_black_without_noise() -> None:
    batch = _batch()
    batch.inputs[:] = 0
    changed = augment(batch, AugmentConfig(noise=0.0), (0.0, 1.0), torch.Generator().manual_seed(0))
    assert changed.inputs.abs().max() == 0
