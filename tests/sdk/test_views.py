"""Views of training frames: the frames first, then moved copies with their truth."""

from __future__ import annotations

import pytest
import torch

from edge_runtime.errors import ConfigError
from edge_sdk.batch import Field, TrainingSet
from edge_sdk.config import AugmentConfig
from edge_sdk.views import make_views


def _data(n: int = 5) -> TrainingSet:
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(48.0), indexing="ij")
    discs = torch.stack([((x - 20 - k) ** 2 + (y - 14) ** 2 < 60).float() for k in range(n)])
    return TrainingSet(
        inputs=discs[:, None],
        labelled=torch.arange(n) < n - 1,
        targets={"mask": Field(values=discs.to(torch.uint8), kind="labels")},
        scale=(0.0, 1.0),
    )


def test_views_hold_the_frames_and_moved_copies_with_their_truth() -> None:
    data = _data()
    views = make_views(data, AugmentConfig(rotate=30, max_scale=1.3), 4)
    assert len(views.inputs) == 20
    assert torch.equal(views.inputs[:5].float(), data.inputs)
    assert torch.equal(views.target("mask")[:5], data.target("mask"))
    assert torch.equal(views.labelled, data.labelled.repeat(4))
    bright = views.inputs[:, 0].float() > 0.5
    assert (bright == (views.target("mask") == 1)).float().mean() > 0.98
    assert not torch.equal(views.inputs[5:10], views.inputs[10:15])


def test_views_are_a_function_of_their_seed() -> None:
    config = AugmentConfig(rotate=30)
    assert make_views(_data(), config, 3, seed=1).sha256 == make_views(_data(), config, 3, seed=1).sha256
    assert make_views(_data(), config, 3, seed=1).sha256 != make_views(_data(), config, 3, seed=2).sha256


def test_no_view_and_data_with_answers_are_refused() -> None:
    with pytest.raises(ConfigError, match="views is 0"):
        make_views(_data(), AugmentConfig(), 0)
    data = _data()
    answered = TrainingSet(
        inputs=data.inputs,
        labelled=data.labelled,
        soft={"mask": Field(values=torch.zeros(5, 1, 32, 48), kind="dense")},
    )
    with pytest.raises(ConfigError, match="soft targets already"):
        make_views(answered, AugmentConfig(), 2)
