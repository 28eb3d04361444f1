"""The training loop: Lightning Fabric, deterministic by seed, resumable to the same bits on a CPU."""

from __future__ import annotations

import hashlib
import math
import pickle
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from edge_runtime.atomic import replacing
from edge_runtime.errors import ConfigError
from edge_sdk.augment import augment
from edge_sdk.batch import Batch, Field, TrainingSet
from edge_sdk.config import AugmentConfig, OptimiserConfig
from edge_sdk.progress import Progress, ProgressEvent, ignore_progress

__all__ = ["FitReport", "TrainingSet", "fit", "learning_rate"]

Loss = Callable[[Any, Batch], Tensor]


@dataclass(slots=True, kw_only=True)
class FitReport:
    """Mean training loss of every epoch, seconds of every epoch, and how many epochs were taken from a checkpoint."""

    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    resumed_epochs: int = 0


def learning_rate(config: OptimiserConfig, step: int, steps: int) -> float:
    """Learning rate of `step` (from 0) of `steps`, in closed form; see `OptimiserConfig.schedule`."""
    peak, warm = config.learning_rate, config.warmup * steps
    if config.schedule == "cosine":
        if step < warm:
            return peak * (step + 1) / (warm + 1)
        return peak * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1.0, steps - warm)))
    start, end = peak / 25, peak / 1e4
    if step < warm:
        return peak + (start - peak) * 0.5 * (1 + math.cos(math.pi * step / warm))
    return end + (peak - end) * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1.0, steps - warm)))


@contextmanager
def _torch_threads(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    if threads:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Average:
    """Exponential moving average of a module's floating-point state (Polyak averaging), buffers included."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay, self.updates = decay, 0
        self.state = {k: v.detach().clone() for k, v in module.state_dict().items()}

    def update(self, module: nn.Module) -> None:
        # the early average leans on fresh weights: without it the initial ones stay in for 1 / (1 - decay) steps
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                self.state[name].lerp_(value.detach(), 1 - decay)
            else:
                self.state[name].copy_(value)


class _Checkpoint:
    """One file with everything that the next epoch needs; written atomically, read without running code."""

    def __init__(self, path: Path, fingerprint: str) -> None:
        self.path, self.fingerprint = path, fingerprint

    def save(
        self, module: nn.Module, optimiser: torch.optim.Optimizer, ema: _Average | None, report: FitReport
    ) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        state = {
            "fingerprint": self.fingerprint,
            "module": module.state_dict(),
            "optimiser": optimiser.state_dict(),
            "ema": None if ema is None else {"state": ema.state, "updates": ema.updates},
            "report": asdict(report),
        }
        with replacing(self.path) as temporary:
            torch.save(state, temporary)

    def load(self, module: nn.Module, optimiser: torch.optim.Optimizer, ema: _Average | None) -> FitReport:
        if not self.path.exists():
            return FitReport()
        state = self._read()
        if state["fingerprint"] != self.fingerprint:
            raise ConfigError(
                f"checkpoint {self.path} was made with other settings, data or network; "
                "delete it, or give another folder"
            )
        module.load_state_dict(state["module"])
        optimiser.load_state_dict(state["optimiser"])
        if ema is not None:
            ema.updates = state["ema"]["updates"]
            for name, value in state["ema"]["state"].items():
                ema.state[name].copy_(value)
        report = FitReport(**state["report"])
        report.resumed_epochs = len(report.losses)
        return report

    def _read(self) -> dict[str, Any]:
        try:
            state: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
            raise ConfigError(f"{self.path} is not a checkpoint of this program; delete it to start anew") from error
        return state


def _fingerprint(module: nn.Module, data: TrainingSet, config: OptimiserConfig, augmentation: AugmentConfig) -> str:
    shapes = {name: list(value.shape) for name, value in module.state_dict().items()}
    text = msgspec.json.encode([config, augmentation, shapes, data.sha256])
    return hashlib.sha256(text).hexdigest()


def fit(
    module: nn.Module,
    data: TrainingSet,
    loss: Loss,
    config: OptimiserConfig,
    augmentation: AugmentConfig,
    *,
    task: str = "train",
    checkpoint: Path | None = None,
    progress: Progress = ignore_progress,
) -> FitReport:
    """Train `module` in place and leave it in evaluation mode on the CPU.

    `loss(outputs, batch)` gives a scalar of whatever the module returns. The same module, data and settings give the
    same weights on one machine's CPU, also when a run was killed and is called again with the same `checkpoint` path
    (it continues after the last whole epoch). The global random state is left as it was. Raises `ConfigError` for a
    checkpoint of another run and when the loss is not finite.
    """
    with _torch_threads(config.threads), torch.random.fork_rng(devices=[]):
        run = _Run(module, data, loss, config, augmentation, task, progress)
        report = run.train(
            _Checkpoint(checkpoint, _fingerprint(module, data, config, augmentation)) if checkpoint else None
        )
    module.to("cpu", memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]
    return report


class _Run:
    """The state of one call of `fit`."""

    def __init__(
        self,
        module: nn.Module,
        data: TrainingSet,
        loss: Loss,
        config: OptimiserConfig,
        augmentation: AugmentConfig,
        task: str,
        progress: Progress,
    ) -> None:
        from lightning_fabric import Fabric

        self.module, self.data, self.loss, self.config = module, data, loss, config
        self.augmentation, self.task, self.progress = augmentation, task, progress
        self.fabric = Fabric(
            accelerator=config.accelerator,
            devices=config.devices,
            num_nodes=config.nodes,
            strategy=config.strategy,
            precision=config.precision,
        )
        self.fabric.launch()
        # 15 to 25 % faster than NCHW on CPUs here, and what tensor cores want
        module.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        optimiser = torch.optim.AdamW(module.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
        self.model, self.optimiser = self.fabric.setup(module, optimiser)
        self.ema = _Average(module, config.ema_decay) if config.ema_decay else None
        self.batches = math.ceil(len(data.inputs) / config.batch_size)

    def train(self, checkpoint: _Checkpoint | None) -> FitReport:
        report = checkpoint.load(self.module, self.optimiser, self.ema) if checkpoint else FitReport()
        for epoch in range(len(report.losses), self.config.epochs):
            started = time.perf_counter()
            report.losses.append(self._epoch(epoch))
            report.seconds.append(time.perf_counter() - started)
            if checkpoint and self.fabric.is_global_zero:
                checkpoint.save(self.module, self.optimiser, self.ema, report)
            self._tell(report)
        if self.ema is not None:
            self.module.load_state_dict(self.ema.state)
        return report

    def _epoch(self, epoch: int) -> float:
        generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + epoch)
        torch.manual_seed(self.config.seed * 1_000_003 + epoch)
        order = torch.randperm(len(self.data.inputs), generator=generator)
        total = 0.0
        for k in range(self.batches):
            indices = order[k * self.config.batch_size : (k + 1) * self.config.batch_size]
            rate = learning_rate(self.config, epoch * self.batches + k, self.config.epochs * self.batches)
            total += self._step(indices, rate, generator) * len(indices)
        mean = total / len(order)
        if not math.isfinite(mean):
            raise ConfigError(
                f"{self.task}: the loss is {mean} in epoch {epoch + 1}; lower learning_rate "
                f"(now {self.config.learning_rate}) or set clip_norm"
            )
        return mean

    def _step(self, indices: Tensor, rate: float, generator: torch.Generator) -> float:
        batch = augment(self.data.batch(indices), self.augmentation, self.data.scale, generator)
        batch = _shard(batch, self.fabric.global_rank, self.fabric.world_size, self.fabric.device)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.zero_grad()
        inputs = batch.inputs.contiguous(memory_format=torch.channels_last)
        value = self.loss(self.model(inputs), batch)
        self.fabric.backward(value)
        if self.config.clip_norm:
            self.fabric.clip_gradients(
                self.model, self.optimiser, max_norm=self.config.clip_norm, error_if_nonfinite=False
            )
        self.optimiser.step()
        if self.ema is not None:
            self.ema.update(self.module)
        return float(self.fabric.all_reduce(value.detach(), reduce_op="mean"))

    def _tell(self, report: FitReport) -> None:
        done, own = len(report.losses), report.seconds[report.resumed_epochs :]
        eta = sum(own) / len(own) * (self.config.epochs - done)
        self.progress(
            ProgressEvent(task=self.task, step=done, total=self.config.epochs, loss=report.losses[-1], eta_s=eta)
        )


def _shard(batch: Batch, rank: int, world: int, device: torch.device) -> Batch:
    """This process's share of a batch, on its device; every rank draws the same random numbers before."""
    part = slice(rank, None, world) if len(batch.inputs) >= world else slice(None)

    def share(values: Field) -> Field:
        return Field(values=values.values[part].to(device), kind=values.kind)

    return Batch(
        inputs=batch.inputs[part].to(device),
        labelled=batch.labelled[part].to(device),
        targets={name: share(values) for name, values in batch.targets.items()},
        soft={name: share(values) for name, values in batch.soft.items()},
    )
