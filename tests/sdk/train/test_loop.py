"""Early stopping, resumption within an epoch, accumulation, loss parameters, logs, and devices that are not there."""

from __future__ import annotations

import csv
import hashlib
import json
import math
from pathlib import Path
from typing import Any

import matplotlib.image
import msgspec
import pytest
import torch
from torch import Tensor, nn

from benchmarks.distill import resume
from edge_runtime.errors import ConfigError
from edge_sdk.batch import Batch, Field, TrainingSet
from edge_sdk.config import AugmentConfig, OptimiserConfig
from edge_sdk.losses import LossTerm, compose, cross_entropy
from edge_sdk.progress import ProgressEvent
from edge_sdk.train import FitReport, LoopConfig, fit
from edge_sdk.train.average import Average, evaluation_mode, weights_of

CONFIG = OptimiserConfig(epochs=5, batch_size=4, learning_rate=0.02, threads=1, seed=3, ema_decay=0.9)


def _data(n: int = 14) -> TrainingSet:
    inputs = torch.rand((n, 1, 16, 16), generator=torch.Generator().manual_seed(0))
    labels = (nn.functional.avg_pool2d(inputs, 3, 1, 1)[:, 0] > 0.5).to(torch.uint8)
    return TrainingSet(
        inputs=inputs,
        labelled=torch.ones(n, dtype=torch.bool),
        targets={"mask": Field(values=labels, kind="labels")},
    )


def _network(dropout: float = 0.2, norm: bool = True) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        middle = nn.BatchNorm2d(6) if norm else nn.Identity()
        first, last = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(6, 1, 3, padding=1)
        return nn.Sequential(first, middle, nn.ReLU(), nn.Dropout(dropout), last)


def _loss(logits: Tensor, batch: Batch) -> Tensor:
    return cross_entropy(logits, batch.target("mask"))


def _sha256(module: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        digest.update(name.encode() + value.numpy().tobytes())
    return digest.hexdigest()


def _fit(network: nn.Module, config: OptimiserConfig = CONFIG, **kwargs: Any) -> FitReport:
    kwargs.setdefault("loss", _loss)
    return fit(network, kwargs.pop("data", None) or _data(), config=config, augmentation=AugmentConfig(), **kwargs)


class _Scripted:
    """A held-out metric that follows a script, and the weights that it was shown."""

    def __init__(self, *values: float) -> None:
        self.values, self.seen = list(values), list[str]()

    def __call__(self, module: nn.Module) -> float:
        assert not module.training
        assert not torch.is_grad_enabled()
        torch.rand(3)  # must not disturb the training's random numbers
        self.seen.append(_sha256(module))
        return self.values[len(self.seen) - 1]


def test_the_best_weights_are_left_and_patience_ends_the_run() -> None:
    config = msgspec.structs.replace(CONFIG, epochs=20)
    network, metric = _network(), _Scripted(0.1, 0.5, 0.55, 0.52, 0.5, 0.9)
    events: list[ProgressEvent] = []
    loop = LoopConfig(patience=2, min_delta=0.1)
    report = _fit(network, config, loop=loop, validate=metric, progress=events.append)
    # 0.55 is no better than 0.5 by more than 0.1
    assert report.metrics == [0.1, 0.5, 0.55, 0.52]
    assert (report.best_epoch, report.best_metric, report.stopped_early) == (2, 0.5, True)
    assert _sha256(network) == metric.seen[1]
    assert events[-1].note == "metric 0.52 (best 0.5), stopped early"
    assert events[-1].eta_s == 0.0


def test_lower_can_be_better_and_measuring_every_other_epoch_ends_with_the_last() -> None:
    metric = _Scripted(3.0, 2.0, 2.5)
    report = _fit(_network(), loop=LoopConfig(better="lower", validate_every=2), validate=metric)
    assert report.metrics == [None, 3.0, None, 2.0, 2.5]
    assert (report.best_epoch, report.stopped_early) == (4, False)


def test_measuring_changes_nothing_but_the_choice() -> None:
    plain, watched = _network(), _network()
    _fit(plain)
    report = _fit(watched, validate=_Scripted(1, 2, 3, 4, 5))
    assert report.best_epoch == 5
    assert _sha256(plain) == _sha256(watched)


class _KilledError(Exception):
    pass


class _Bomb:
    """The loss, until its call number `at`."""

    def __init__(self, at: int) -> None:
        self.left = at

    def __call__(self, logits: Tensor, batch: Batch) -> Tensor:
        if self.left == 0:
            raise _KilledError
        self.left -= 1
        return _loss(logits, batch)


@pytest.mark.parametrize("at", [1, 3, 5, 9, 14, 15])
def test_a_run_killed_within_an_epoch_ends_with_the_same_bits(tmp_path: Path, at: int) -> None:
    values = (0.3, 0.6, 0.5, 0.4, 0.2)
    loop = LoopConfig(checkpoint_every=2, patience=2)
    whole = _network()
    expected = _fit(whole, loop=loop, validate=_Scripted(*values))
    with pytest.raises(_KilledError):
        _fit(_network(), loop=loop, validate=_Scripted(*values), loss=_Bomb(at), checkpoint=tmp_path / "c.pt")
    again = _network()
    done = (at - at % 2) // 4  # four steps an epoch
    report = _fit(again, loop=loop, validate=_Scripted(*values[done:]), checkpoint=tmp_path / "c.pt")
    assert report.resumed_epochs == done
    assert (report.losses, report.metrics) == (expected.losses, expected.metrics)
    assert (report.grad_norms, report.best_epoch) == (expected.grad_norms, expected.best_epoch)
    assert report.stopped_early
    assert _sha256(again) == _sha256(whole)
    # a finished run is taken as it is: the metric is not asked again
    finished = _network()
    assert _fit(finished, loop=loop, validate=_Scripted(), checkpoint=tmp_path / "c.pt").stopped_early
    assert _sha256(finished) == _sha256(whole)


def test_a_checkpoint_of_another_patience_or_loss_is_refused(tmp_path: Path) -> None:
    terms = [LossTerm(kind="cross_entropy")]
    _fit(_network(), loss=compose(terms), checkpoint=tmp_path / "c.pt")
    _fit(_network(), loss=compose(terms), loop=LoopConfig(checkpoint_every=1), checkpoint=tmp_path / "c.pt")
    with pytest.raises(ConfigError, match="other settings"):
        _fit(_network(), loss=compose([LossTerm(kind="dice")]), checkpoint=tmp_path / "c.pt")
    with pytest.raises(ConfigError, match="other settings"):
        _fit(_network(), loss=compose(terms), loop=LoopConfig(accumulate=2), checkpoint=tmp_path / "c.pt")


@pytest.mark.parametrize("parts", [2, 3, 99])
def test_accumulation_takes_the_same_step(parts: int) -> None:
    whole, divided = _network(0.0, norm=False), _network(0.0, norm=False)
    expected = _fit(whole)
    report = _fit(divided, loop=LoopConfig(accumulate=parts))
    assert report.losses == pytest.approx(expected.losses, rel=1e-4)
    assert report.grad_norms == pytest.approx(expected.grad_norms, rel=1e-3)
    for a, b in zip(whole.parameters(), divided.parameters(), strict=True):
        assert torch.allclose(a, b, atol=2e-3)


def test_the_losss_own_parameters_are_trained_and_kept_in_the_checkpoint(tmp_path: Path) -> None:
    def run(network: nn.Module, **kwargs: Any) -> tuple[str, str, FitReport]:
        terms = [
            LossTerm(kind="cross_entropy"),
            LossTerm(kind="hint", student_layer="2", teacher_layer="0"),
        ]
        teacher = _network(0.0)
        with compose(terms, student=network, teacher=teacher, example=_data().inputs[:1]) as loss:
            before = _sha256(loss)
            report = _fit(network, loss=loss, **kwargs)
            return before, _sha256(loss), report

    before, after, report = run(_network())
    assert before != after
    assert set(report.terms) == {"cross_entropy", "hint"}
    assert all(len(values) == CONFIG.epochs for values in report.terms.values())
    assert report.losses == pytest.approx([sum(pair) for pair in zip(*report.terms.values(), strict=True)], rel=1e-5)

    def kill(event: ProgressEvent) -> None:
        if event.step == 2:
            raise _KilledError

    with pytest.raises(_KilledError):
        run(_network(), checkpoint=tmp_path / "c.pt", progress=kill)
    _, resumed, _ = run(_network(), checkpoint=tmp_path / "c.pt")
    assert resumed == after


def test_logs_are_tables_and_curves_and_a_resumed_run_writes_the_same(tmp_path: Path) -> None:
    metric = (0.2, 0.4, 0.1, 0.6, 0.5)
    loop, loss = LoopConfig(validate_every=1), [LossTerm(kind="cross_entropy"), LossTerm(kind="dice", weight=0.5)]
    _fit(_network(), loop=loop, loss=compose(loss), validate=_Scripted(*metric), logs=tmp_path / "a")
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["curves.png", "log.csv", "log.jsonl"]
    rows = [json.loads(line) for line in (tmp_path / "a" / "log.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5]
    assert [row["metric"] for row in rows] == list(metric)
    assert rows[0]["loss"] == pytest.approx(rows[0]["term.cross_entropy"] + 0.5 * rows[0]["term.dice"], rel=1e-5)
    with (tmp_path / "a" / "log.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [float(row["loss"]) for row in table] == [row["loss"] for row in rows]
    picture = matplotlib.image.imread(tmp_path / "a" / "curves.png")
    assert picture.shape[1] > 1000
    assert picture[..., :3].std() > 0.05

    def kill(event: ProgressEvent) -> None:
        if event.step == 3:
            raise _KilledError

    settings: dict[str, Any] = {"loop": loop, "checkpoint": tmp_path / "c.pt", "logs": tmp_path / "b"}
    with pytest.raises(_KilledError):
        _fit(_network(), loss=compose(loss), validate=_Scripted(*metric), progress=kill, **settings)
    _fit(_network(), loss=compose(loss), validate=_Scripted(*metric[3:]), **settings)
    again = [json.loads(line) for line in (tmp_path / "b" / "log.jsonl").read_text().splitlines()]
    for row in (*rows, *again):
        row.pop("seconds")
    assert again == rows


def test_tensorboard_scalars(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    loop = LoopConfig(tensorboard=True)
    loss = compose([LossTerm(kind="cross_entropy")])
    report = _fit(_network(), loop=loop, loss=loss, validate=_Scripted(1, 2, 3, 4, 5), logs=tmp_path)
    events = accumulator.EventAccumulator(str(tmp_path / "events")).Reload()
    names = {"train/loss", "train/grad_norm", "train/learning_rate", "terms/cross_entropy", "held_out/metric"}
    assert set(events.Tags()["scalars"]) == names
    assert [event.step for event in events.Scalars("train/loss")] == list(range(20))
    assert [event.value for event in events.Scalars("held_out/metric")] == [1, 2, 3, 4, 5]
    last = events.Scalars("train/learning_rate")[-1].value
    assert last == pytest.approx(report.rates[-1], rel=1e-5)


def test_without_tensorboard_the_install_line_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from edge_runtime.errors import MissingDependencyError

    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(MissingDependencyError, match="pip install tensorboard"):
        _fit(_network(), loop=LoopConfig(tensorboard=True), logs=tmp_path)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_bf16_on_a_cpu_trains_and_keeps_float32_weights(precision: Any) -> None:
    network = _network(0.0)
    config = msgspec.structs.replace(CONFIG, precision=precision, epochs=12)
    report = _fit(network, config)
    assert report.losses[-1] < report.losses[0]
    assert all(value.dtype == torch.float32 for value in network.parameters())


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"accelerator": "cuda"}, r"accelerator is 'cuda'; this machine has cpu \(\d+\)"),
        ({"accelerator": "gpu", "precision": "16-mixed"}, "accelerator is 'gpu'"),
        ({"accelerator": "abacus"}, "'abacus'"),
        ({"precision": "16-mixed"}, "say 'bf16-mixed' or '32-true'"),
        ({"strategy": "fsdp"}, "strategy is 'fsdp'; auto, ddp"),
    ],
)
def test_devices_that_are_not_there_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _fit(_network(), msgspec.structs.replace(CONFIG, **changes))


def test_torchrun_with_another_number_of_processes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="torchrun started 2 processes, devices x nodes is 1 x 1"):
        _fit(_network())


@pytest.mark.parametrize(
    "settings", [{"patience": -1}, {"min_delta": math.nan}, {"accumulate": 0}, {"validate_every": 0}]
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        LoopConfig(**settings)


def test_patience_without_a_metric_and_a_metric_that_is_not_finite_are_refused() -> None:
    with pytest.raises(ConfigError, match="validate"):
        _fit(_network(), loop=LoopConfig(patience=1))
    with pytest.raises(ConfigError, match="held-out metric is nan after epoch 2"):
        _fit(_network(), validate=_Scripted(0.5, math.nan))


def test_borrowed_weights_and_modes_come_back() -> None:
    network = _network()
    network[1].eval()
    average = Average(network, 0.5)
    for value in average.state.values():
        value.zero_()
    own = _sha256(network)
    with weights_of(network, average), evaluation_mode(network):
        assert _sha256(network) != own
        assert not network[3].training
    assert _sha256(network) == own
    assert (network[1].training, network[3].training) == (False, True)


@pytest.mark.slow
def test_kill_9_and_resume_to_the_same_bits(tmp_path: Path) -> None:
    whole, resumed, places = resume.kill_and_resume(tmp_path, kills=3, epochs=12)
    assert len(places) == 3
    assert resumed == whole
    assert whole["stopped_early"] or len(whole["losses"]) == 12
