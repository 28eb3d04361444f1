"""The training loop: determinism, resumption to the same bits, schedules, averages, and what it refuses."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from torch import Tensor, nn

from edge_runtime.errors import ConfigError
from edge_sdk.batch import Batch, Field, TrainingSet
from edge_sdk.config import AugmentConfig, NetworkConfig, OptimiserConfig
from edge_sdk.losses import dice_ce
from edge_sdk.progress import ProgressEvent, ignore_progress
from edge_sdk.students import UNet, build_network
from edge_sdk.train import FitReport, fit, learning_rate

CONFIG = OptimiserConfig(epochs=4, batch_size=4, threads=1, seed=3, ema_decay=0.9)


def _data(n: int = 10) -> TrainingSet:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand((n, 1, 16, 16), generator=generator)
    labels = (torch.nn.functional.avg_pool2d(inputs, 3, 1, 1)[:, 0] > 0.5).to(torch.uint8)
    return TrainingSet(
        inputs=inputs,
        targets={"mask": Field(values=labels, kind="labels")},
        labelled=torch.ones(n, dtype=torch.bool),
    )


def _loss(logits: Tensor, batch: Batch) -> Tensor:
    return dice_ce(logits, batch.target("mask"))


def _fit(config: OptimiserConfig = CONFIG, data: TrainingSet | None = None, **kwargs: Any) -> tuple[UNet, FitReport]:
    network = build_network(NetworkConfig(width=4, depth=2), seed=1)
    return network, fit(network, data or _data(), _loss, config, AugmentConfig(), **kwargs)


def _equal(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_the_same_settings_give_the_same_bits_and_other_seeds_do_not() -> None:
    torch.manual_seed(11)
    first, _ = _fit()
    torch.manual_seed(12)
    second, _ = _fit()
    third, _ = _fit(msgspec.structs.replace(CONFIG, seed=4))
    assert _equal(first, second)
    assert not _equal(first, third)


class _KilledError(Exception):
    pass


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
@pytest.mark.parametrize("after", [1, 3])
def test_interrupted_and_resumed_equals_uninterrupted(tmp_path: Path, after: int, ema_decay: float) -> None:
    config = msgspec.structs.replace(CONFIG, ema_decay=ema_decay)
    whole, whole_report = _fit(config)

    def kill(event: ProgressEvent) -> None:
        if event.step == after:
            raise _KilledError

    with pytest.raises(_KilledError):
        _fit(config, checkpoint=tmp_path / "c.pt", progress=kill)
    resumed, report = _fit(config, checkpoint=tmp_path / "c.pt")
    assert report.resumed_epochs == after
    assert report.losses == whole_report.losses
    assert _equal(whole, resumed)


def test_a_finished_run_is_taken_from_its_checkpoint(tmp_path: Path) -> None:
    first, _ = _fit(checkpoint=tmp_path / "c.pt")
    again, report = _fit(checkpoint=tmp_path / "c.pt")
    assert report.resumed_epochs == CONFIG.epochs
    assert _equal(first, again)
    assert [path.name for path in tmp_path.iterdir()] == ["c.pt"]


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    _fit(checkpoint=tmp_path / "c.pt")
    with pytest.raises(ConfigError, match=r"c\.pt was made with other settings"):
        _fit(msgspec.structs.replace(CONFIG, learning_rate=0.01), checkpoint=tmp_path / "c.pt")
    changed = dataclasses.replace(_data(), targets={"mask": Field(values=1 - _data().target("mask"), kind="labels")})
    with pytest.raises(ConfigError, match="other settings, data"):
        _fit(data=changed, checkpoint=tmp_path / "c.pt")


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04broken"])
def test_a_damaged_checkpoint_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "c.pt").write_bytes(content)
    with pytest.raises(ConfigError, match=r"c\.pt"):
        _fit(checkpoint=tmp_path / "c.pt")


def test_the_global_state_is_left_alone() -> None:
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    _fit()
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


def test_training_learns_and_tells(tmp_path: Path) -> None:
    events: list[ProgressEvent] = []
    config = OptimiserConfig(epochs=20, batch_size=4, learning_rate=0.02, threads=1)
    network, report = _fit(config, progress=events.append, task="here")
    assert report.losses[-1] < 0.8 * report.losses[0]
    assert [event.step for event in events] == list(range(1, 21))
    assert all(event.task == "here" and event.total == 20 and event.loss is not None for event in events)
    assert events[-1].eta_s == 0.0
    assert not network.training
    assert network.stem[0].weight.is_contiguous()


def test_a_loss_that_is_not_finite_stops_the_run() -> None:
    data = _data()
    data.inputs[3] = float("nan")
    config = msgspec.structs.replace(CONFIG, ema_decay=0.0)
    with pytest.raises(ConfigError, match="loss is nan in epoch 1"):
        _fit(config, data=data)


@pytest.mark.parametrize("schedule", ["one_cycle", "cosine"])
@pytest.mark.parametrize("warmup", [0.0, 0.3])
def test_schedules_rise_to_the_peak_and_fall(schedule: Any, warmup: float) -> None:
    config = OptimiserConfig(schedule=schedule, warmup=warmup, learning_rate=0.1)
    rates = [learning_rate(config, step, 100) for step in range(100)]
    top = rates.index(max(rates))
    assert max(rates) == pytest.approx(0.1, rel=0.05)
    assert top == pytest.approx(warmup * 100, abs=1)
    assert rates == sorted(rates[: top + 1]) + sorted(rates[top + 1 :], reverse=True)
    assert rates[-1] < 0.001


def test_one_cycle_agrees_with_torch() -> None:
    config = OptimiserConfig(schedule="one_cycle", warmup=0.25, learning_rate=0.1)
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    peer = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, 0.1, total_steps=401, pct_start=101 / 401, final_div_factor=400
    )
    for step in range(400):
        assert learning_rate(config, step, 400) == pytest.approx(peer.get_last_lr()[0], rel=0.02, abs=2e-5)
        optimiser.step()
        peer.step()


@pytest.mark.parametrize(
    "settings",
    [
        {"epochs": 0},
        {"batch_size": 0},
        {"learning_rate": 0.0},
        {"learning_rate": math.nan},
        {"warmup": 1.0},
        {"ema_decay": 1.0},
        {"clip_norm": -1.0},
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        OptimiserConfig(**settings)


def test_sets_of_different_lengths_are_refused() -> None:
    with pytest.raises(ConfigError, match="numbers of samples differ"):
        TrainingSet(
            inputs=torch.zeros(2, 1, 4, 4),
            targets={"mask": Field(values=torch.zeros(3, 4, 4), kind="labels")},
            labelled=torch.zeros(2),
        )


def test_ignoring_progress_is_allowed() -> None:
    ignore_progress(ProgressEvent(task="a", step=1, total=1))
