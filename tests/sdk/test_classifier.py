"""Classifiers: shapes, what each pooling means, size range, static export through every gate, and refusals."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from edge_export import export_torch, lower, run_model
from edge_runtime.errors import ConfigError
from edge_sdk.students import count_macs, count_parameters
from edge_sdk.students.classifier import ClipClassifier, Encoder, FrameClassifier

SMALL = {"width": 4, "depth": 2, "max_width": 8, "convs": 1}


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("side", [32, 45])
def test_frames_to_logits(side: int) -> None:
    network = FrameClassifier(1, 3, **SMALL).eval()
    assert network(_random(2, 1, side, side + 8)).shape == (2, 3)


@pytest.mark.parametrize("pool", ["mean_max", "mean", "attention"])
@pytest.mark.parametrize("difference", [False, True])
def test_clips_of_a_batch_do_not_mix(pool: str, difference: bool) -> None:
    network = ClipClassifier(4, 3, pool=pool, difference=difference, **SMALL).eval()
    clips = _random(3, 4, 24, 20)
    together = network(clips)
    alone = torch.cat([network(clips[k : k + 1]) for k in range(3)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_summaries_against_a_loop_over_time() -> None:
    network = ClipClassifier(3, 2, **SMALL).eval()
    clip = _random(1, 3, 16, 16)
    maps = [network.encoder(clip[:, k : k + 1]) for k in range(3)]
    pooled = torch.stack([m.mean(dim=(2, 3)) for m in maps])
    change = torch.stack([(b - a).abs().mean(dim=(2, 3)) for a, b in pairwise(maps)])
    features = torch.cat([pooled.mean(0), pooled.amax(0), change.mean(0)], dim=1)
    torch.testing.assert_close(network(clip), network.head(features), atol=1e-5, rtol=1e-5)


def test_without_difference_the_order_of_frames_does_not_matter_and_with_it_motion_does() -> None:
    still = ClipClassifier(4, 2, difference=False, **SMALL).eval()
    clip = _random(1, 4, 16, 16)
    torch.testing.assert_close(still(clip), still(clip[:, [2, 0, 3, 1]]), atol=1e-5, rtol=1e-5)
    moving = ClipClassifier(4, 2, difference=True, **SMALL).eval()
    frozen = clip[:, :1].expand(-1, 4, -1, -1)
    with torch.no_grad():
        moving.head.weight[:, -moving.encoder.features :] = 100.0
        before = moving(frozen)
        moving.head.weight[:, -moving.encoder.features :] = 0.0
        torch.testing.assert_close(before, moving(frozen), atol=1e-4, rtol=1e-4)  # no motion, no change summary


def test_width_and_depth_span_30_thousand_to_2_million_parameters() -> None:
    assert 29_000 < count_parameters(ClipClassifier(4, width=8, max_width=32)) < 40_000
    assert 1.5e6 < count_parameters(ClipClassifier(4, width=48, max_width=256)) < 2e6


def test_costs_are_those_of_the_docstring() -> None:
    encoder = Encoder()
    assert round(count_parameters(encoder) / 1e3) == 146
    assert round(count_macs(encoder, (1, 1, 96, 96)) / 1e6, 1) == 24.2
    twin = _depthwise_twin()
    assert round(count_parameters(twin) / 1e3) == 20
    assert round(count_macs(twin, (1, 1, 96, 96)) / 1e6, 1) == 3.5
    clip = ClipClassifier(4)
    assert count_macs(clip, (1, 4, 96, 96)) == 4 * count_macs(encoder, (1, 1, 96, 96)) + clip.head.weight.numel()


def _depthwise_twin() -> nn.Module:
    layers: list[nn.Module] = []
    widths = (1, 16, 32, 64, 64)
    for before, after in pairwise(widths):
        for inputs, stride in ((before, 2), (after, 1)):
            layers += [
                nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False),
                nn.BatchNorm2d(inputs),
                nn.Conv2d(inputs, after, 1, bias=False),
                nn.BatchNorm2d(after),
            ]
    return nn.Sequential(*layers)


@pytest.mark.parametrize("pool", ["mean_max", "attention"])
def test_export_passes_lint_and_the_gate_in_every_precision(pool: str) -> None:
    network = ClipClassifier(3, 3, width=8, depth=2, max_width=16, pool=pool).eval()
    model = export_torch(network, (1, 3, 32, 32), output_names=("class",))
    dimensions = model.graph.output[0].type.tensor_type.shape.dim
    assert [d.dim_value for d in dimensions] == [1, 3]
    rng = np.random.default_rng(0)
    samples = [rng.random((1, 3, 32, 32), np.float32) for _ in range(8)]
    files, report = lower(model, samples)
    assert set(files) == {"fp32", "fp16", "int8"}
    assert all(variant.rtx.status in ("accepted", "not tried") for variant in report.variants)
    exact = np.concatenate([found["class"] for found in run_model(files["fp32"], samples)])
    for name, worst in (("fp16", 0.01), ("int8", 0.15)):
        other = np.concatenate([found["class"] for found in run_model(files[name], samples)])
        assert np.abs(other - exact).max() < worst


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FrameClassifier(1, 1), "classes is 1"),
        (lambda: FrameClassifier(0, 2), "in_channels is 0"),
        (lambda: FrameClassifier(1, 2, width=8, max_width=4), "max_width is 4"),
        (lambda: FrameClassifier(1, 2, dropout=1.0), "dropout is 1.0"),
        (lambda: ClipClassifier(1, 2), "FrameClassifier"),
        (lambda: ClipClassifier(3, 2, pool="max"), "pool is 'max'"),
        (lambda: ClipClassifier(3, 2, **SMALL)(torch.zeros(1, 4, 16, 16)), "takes 3"),
    ],
)
def test_refusals(make: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()  # type: ignore[operator]
