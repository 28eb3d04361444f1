"""Shapes, costs in closed form, and what a student is allowed to cost."""

from __future__ import annotations

from itertools import pairwise

import msgspec
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edge_runtime.errors import ConfigError
from edge_sdk.config import NetworkConfig
from edge_sdk.students import UNet, build_network, count_macs, count_parameters, light_unet, unet_teacher


def _unet_cost(width: int, depth: int, cap: int, stride: int, convs: int, side: int) -> tuple[int, int]:
    """(parameters, multiply-adds) of a one-in, one-out UNet written out by hand, apart from the implementation."""
    widths = [min(width * 2**k, cap) for k in range(depth)]
    parameters = macs = 0

    def stage(inputs: int, outputs: int, pixels: int) -> None:
        nonlocal parameters, macs
        for k in range(convs):
            weights = 9 * (inputs if k == 0 else outputs) * outputs
            parameters += weights + 2 * outputs
            macs += weights * pixels

    pixels = [(side // stride // 2**k) ** 2 for k in range(depth)]
    stage(1, widths[0], pixels[0])
    for k in range(1, depth):
        stage(widths[k - 1], widths[k], pixels[k])
        stage(widths[k] + widths[k - 1], widths[k - 1], pixels[k - 1])
    return parameters + widths[0] + 1, macs + widths[0] * pixels[0]


@settings(max_examples=20, deadline=None)
@given(
    width=st.integers(1, 6),
    depth=st.integers(1, 4),
    cap=st.integers(6, 20),
    stride=st.sampled_from([1, 2]),
    convs=st.integers(1, 3),
)
def test_costs_follow_the_closed_form(width: int, depth: int, cap: int, stride: int, convs: int) -> None:
    network = UNet(width=width, depth=depth, max_width=cap, stem_stride=stride, convs=convs)
    parameters, macs = _unet_cost(width, depth, cap, stride, convs, 32)
    assert count_parameters(network) == parameters
    assert count_macs(network, (1, 1, 32, 32)) == macs


@pytest.mark.parametrize(
    ("layer", "shape", "macs"),
    [
        (nn.Conv2d(3, 8, 3, padding=1), (2, 3, 10, 12), 2 * 10 * 12 * 8 * 3 * 9),
        (nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=2), (1, 4, 8, 8), 4 * 4 * 8 * 2 * 9),
        (nn.ConvTranspose2d(4, 6, 2, stride=2), (1, 4, 5, 5), 5 * 5 * 4 * 6 * 4),
        (nn.Linear(7, 3), (5, 7), 5 * 7 * 3),
        (nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.ReLU()), (1, 1, 4, 4), 32),
    ],
)
def test_macs_of_single_layers(layer: nn.Module, shape: tuple[int, ...], macs: int) -> None:
    assert count_macs(layer, shape) == macs


def test_macs_of_a_layer_that_is_not_known_are_refused_and_no_hook_stays() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.GRU(2, 2))
    with pytest.raises(ConfigError, match="GRU"):
        count_macs(network, (1, 2))
    assert not network[0]._forward_hooks


def test_counting_leaves_the_mode_and_the_statistics_alone() -> None:
    network = light_unet().train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    count_macs(network, (1, 1, 32, 32))
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_the_demonstration_s_student_is_light() -> None:
    shape = (1, 1, 128, 128)
    assert count_parameters(light_unet()) <= 100_000
    assert count_macs(unet_teacher(), shape) >= 10 * count_macs(light_unet(), shape)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("channels", "classes"), [(1, 1), (3, 4)])
def test_logits_have_the_size_of_the_frames(stride: int, channels: int, classes: int) -> None:
    network = UNet(channels, classes, width=4, depth=3, stem_stride=stride).eval()
    assert network(torch.zeros(2, channels, 16, 24)).shape == (2, classes, 16, 24)


@pytest.mark.parametrize("size", [(20, 16), (16, 12)])
def test_a_size_that_does_not_halve_is_refused(size: tuple[int, int]) -> None:
    network = UNet(width=4, depth=3, stem_stride=2)
    with pytest.raises(ConfigError, match="multiples of 8"):
        network(torch.zeros(1, 1, *size))


@pytest.mark.parametrize(
    "settings", [{"width": 0}, {"depth": 0}, {"depth": 9}, {"max_width": 3}, {"convs": 0}, {"width": 2000}]
)
def test_impossible_networks_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        NetworkConfig(**settings)  # type: ignore[arg-type]


def test_no_operator_that_lowers_badly() -> None:
    for layer in light_unet().modules():
        assert not isinstance(layer, nn.ConvTranspose2d)
        assert getattr(layer, "groups", 1) == 1


def test_weights_come_from_the_seed_alone() -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = build_network(NetworkConfig(width=4, depth=2), seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    second = build_network(NetworkConfig(width=4, depth=2), seed=3)
    third = build_network(NetworkConfig(width=4, depth=2), seed=4)
    assert torch.equal(first.head.weight, second.head.weight)
    assert not torch.equal(first.head.weight, third.head.weight)


@pytest.mark.parametrize(("stride", "depth"), [(1, 1), (2, 3)])
def test_depthwise_blocks_cost_what_mobilenet_counts(stride: int, depth: int) -> None:
    """Each 3 x 3 of a x b weights but the first becomes 9 a + a b, and 2 (a + b) for the two normalisations."""
    widths = [4 << k for k in range(depth)]
    pairs = [(4, 4)]
    for a, b in pairwise(widths):
        pairs += [(a, b), (b, b), (a + b, a), (a, a)]
    wanted = 9 * 4 + 2 * 4 + sum(9 * a + a * b + 2 * (a + b) for a, b in pairs) + 4 + 1
    network = UNet(width=4, depth=depth, stem_stride=stride, block="depthwise")
    assert count_parameters(network) == wanted
    assert network(torch.zeros(1, 1, 16, 24)).shape == (1, 1, 16, 24)
    groups = [layer.groups for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    assert groups.count(1) == 2 + len(pairs)


def test_plain_is_the_block_of_settings_that_name_none() -> None:
    assert "block" not in recipe_fields(NetworkConfig())
    with pytest.raises(ConfigError, match="block is 'grouped'; plain or depthwise"):
        UNet(block="grouped")  # type: ignore[arg-type]


def recipe_fields(config: NetworkConfig) -> dict[str, object]:
    """What a stored training is named by: the settings that differ from their defaults."""
    return {
        f.name: getattr(config, f.name) for f in msgspec.structs.fields(config) if getattr(config, f.name) != f.default
    }
