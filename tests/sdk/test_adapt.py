"""Adaptation: batch-norm statistics in closed form; a student that lost its domain gets back without labels."""

from __future__ import annotations

import msgspec
import pytest
import torch
from torch import Tensor, nn

from edge_runtime.errors import ConfigError
from edge_sdk.adapt import AdaptConfig, adapt_student, reestimate_batchnorm
from edge_sdk.config import AugmentConfig, NetworkConfig, OptimiserConfig
from edge_sdk.students import build_network
from edge_sdk.teachers import teacher_from_module

STILL = AugmentConfig(flip=0.0, min_scale=1.0, gain=0.0, gamma=0.0, noise=0.0)
FAST = AdaptConfig(
    optimiser=OptimiserConfig(epochs=2, batch_size=4, learning_rate=1e-3), augment=STILL, threshold=0.0, flips=False
)


def _frames(n: int = 6, seed: int = 0) -> Tensor:
    return torch.rand((n, 1, 16, 24), generator=torch.Generator().manual_seed(seed))


def _norm() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 3, 3, bias=False), nn.BatchNorm2d(3)).eval()


def _layer(network: nn.Module) -> nn.BatchNorm2d:
    return next(m for m in network.modules() if isinstance(m, nn.BatchNorm2d))


def test_the_statistics_are_those_of_all_frames_pooled() -> None:
    network, frames = _norm(), _frames(7)
    reestimate_batchnorm(network, frames, batch_size=3)
    features = network[0](frames).detach().transpose(0, 1).flatten(1).double()
    layer = _layer(network)
    assert layer.running_mean is not None
    assert layer.running_var is not None
    assert torch.allclose(layer.running_mean.double(), features.mean(dim=1), atol=1e-6)
    assert torch.allclose(layer.running_var.double(), features.var(dim=1), atol=1e-6)


def test_one_batch_and_one_pass_are_torchs_own() -> None:
    """For deep networks: what torch's own running average with momentum 1 keeps."""
    ours = build_network(NetworkConfig(width=4, depth=3), seed=1)
    peer = build_network(NetworkConfig(width=4, depth=3), seed=1)
    frames = _frames(5)
    reestimate_batchnorm(ours, frames, batch_size=5, passes=1)
    for module in peer.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    peer.train()
    peer(frames)
    for name, value in peer.state_dict().items():
        if "running" in name:
            assert torch.allclose(ours.state_dict()[name], value, atol=1e-5), name


def test_more_passes_reach_statistics_that_reproduce_themselves() -> None:
    network, frames = build_network(NetworkConfig(width=4, depth=2), seed=2), _frames(8)
    reestimate_batchnorm(network, frames, batch_size=2, passes=12)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    reestimate_batchnorm(network, frames, batch_size=8, passes=12)
    for name, value in network.state_dict().items():
        assert torch.allclose(value.float(), before[name].float(), atol=1e-4), name


def test_a_prior_blends_as_the_paper_says() -> None:
    frames = _frames(10)
    plain, blended = _norm(), _norm()
    blended.load_state_dict(plain.state_dict())
    with torch.no_grad():
        for network in (plain, blended):
            layer = _layer(network)
            assert layer.running_mean is not None
            layer.running_mean.fill_(0.5)
    reestimate_batchnorm(plain, frames)
    reestimate_batchnorm(blended, frames, prior=30)
    new, mixed = _layer(plain).running_mean, _layer(blended).running_mean
    assert new is not None
    assert mixed is not None
    assert torch.allclose(mixed, 0.25 * new + 0.75 * 0.5, atol=1e-6)


def test_nothing_but_the_statistics_changes() -> None:
    network = build_network(NetworkConfig(width=4, depth=2), seed=0)
    network.train()
    network.head.eval()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    count = reestimate_batchnorm(network, _frames())
    assert count == sum(isinstance(m, nn.BatchNorm2d) for m in network.modules())
    changed = {k for k, v in network.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {k for k in before if "running" in k}
    assert network.training
    assert not network.head.training


def test_an_affine_change_of_grey_values_is_undone_exactly() -> None:
    """Gain and pedestal go through the first convolution linearly, so new statistics cancel them."""
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4, eps=1e-9), nn.ReLU(), nn.Conv2d(4, 1, 1)
    ).eval()
    source = _frames(8)
    reestimate_batchnorm(network, source)
    wanted = network(source)
    target = 0.2 + 0.3 * source
    assert (network(target) - wanted).abs().max() > 0.1
    reestimate_batchnorm(network, target)
    assert torch.allclose(network(target), wanted, atol=1e-3)


def test_adaptation_leaves_the_student_and_repeats_itself() -> None:
    student = build_network(NetworkConfig(width=4, depth=2), seed=0).eval()
    before = {k: v.clone() for k, v in student.state_dict().items()}
    first = adapt_student(student, None, _frames(), config=FAST)
    second = adapt_student(student, None, _frames(), config=FAST)
    assert all(torch.equal(v, before[k]) for k, v in student.state_dict().items())
    for a, b in zip(first.network.state_dict().values(), second.network.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert not first.network.training
    assert len(first.rounds) == 1
    assert len(first.rounds[0].losses) == 2


def test_no_rounds_is_the_statistics_alone() -> None:
    student = build_network(NetworkConfig(width=4, depth=2), seed=0).eval()
    adapted = adapt_student(student, None, _frames(), config=AdaptConfig(rounds=0))
    assert adapted.rounds == ()
    reestimate_batchnorm(student, _frames())
    for a, b in zip(adapted.network.state_dict().values(), student.state_dict().values(), strict=True):
        assert torch.equal(a, b)


class _Threshold(nn.Module):
    """A teacher that knows: bright squares on a dim, hazy device."""

    def forward(self, frames: Tensor) -> Tensor:
        return (frames - 0.3) * 80


def test_a_teacher_brings_a_student_back() -> None:
    generator = torch.Generator().manual_seed(0)
    frames = torch.full((16, 1, 16, 16), 0.22)
    for frame in frames:
        y, x = torch.randint(0, 9, (2,), generator=generator).tolist()
        frame[0, y : y + 7, x : x + 7] = 0.4
    student = build_network(NetworkConfig(width=4, depth=2), seed=0).eval()
    teacher = teacher_from_module(_Threshold(), classes=1)
    config = AdaptConfig(
        optimiser=OptimiserConfig(epochs=40, batch_size=8, learning_rate=1e-2), augment=STILL, flips=True
    )
    adapted = adapt_student(student, teacher, frames, config=config)
    truth = frames > 0.3

    def agreement(network: nn.Module) -> float:
        with torch.no_grad():
            return float(((network(frames) > 0) == truth).float().mean())

    assert agreement(adapted.network) > max(0.97, agreement(student))


def test_a_classifier_adapts_too() -> None:
    student = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    ).eval()
    adapted = adapt_student(student, None, _frames(), config=FAST)
    assert adapted.network(_frames()).shape == (6, 3)


def test_what_cannot_be_adapted_is_refused() -> None:
    plain = nn.Conv2d(1, 1, 3)
    with pytest.raises(ConfigError, match="no batch-norm layer"):
        reestimate_batchnorm(plain, _frames())
    with pytest.raises(ConfigError, match="at least one"):
        reestimate_batchnorm(_norm(), _frames()[:0])
    bad = _frames()
    bad[0, 0, 0, 0] = float("nan")
    with pytest.raises(ConfigError, match="finite"):
        reestimate_batchnorm(_norm(), bad)
    with pytest.raises(ConfigError, match="prior is -1"):
        reestimate_batchnorm(_norm(), _frames(), prior=-1)

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(1)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.norm(x), x

    with pytest.raises(ConfigError, match="tuple"):
        adapt_student(Two().eval(), None, _frames(), config=FAST)


@pytest.mark.parametrize(("field", "value"), [("prior", -1), ("rounds", 50), ("threshold", 1.0), ("temperature", 0)])
def test_settings_out_of_range_are_refused(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=field):
        msgspec.structs.replace(AdaptConfig(), **{field: value})
