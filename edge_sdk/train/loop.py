"""The training loop: `fit`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edge_runtime.errors import ConfigError
from edge_sdk.augment import augment
from edge_sdk.batch import Batch, Field, TrainingSet
from edge_sdk.config import AugmentConfig, OptimiserConfig
from edge_sdk.progress import Progress, ProgressEvent, ignore_progress
from edge_sdk.train.average import Average, Best, evaluation_mode, weights_of
from edge_sdk.train.checkpoints import Checkpoint, fingerprint
from edge_sdk.train.devices import launch
from edge_sdk.train.logs import RunLog
from edge_sdk.train.normalisation import synchronised_batch_norm
from edge_sdk.train.record import EpochSums, FitReport
from edge_sdk.train.schedule import learning_rate
from edge_sdk.train.settings import LoopConfig

__all__ = ["Loss", "Validate", "fit"]

Loss = Callable[[Any, Batch], Tensor]
Validate = Callable[[nn.Module], float]


@contextmanager
def _torch_threads(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    if threads:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def fit(
    module: nn.Module,
    data: TrainingSet,
    loss: Loss,
    config: OptimiserConfig,
    augmentation: AugmentConfig,
    *,
    loop: LoopConfig | None = None,
    validate: Validate | None = None,
    logs: Path | None = None,
    task: str = "train",
    checkpoint: Path | None = None,
    progress: Progress = ignore_progress,
) -> FitReport:
    """Train `module` in place and leave it in evaluation mode on the CPU.

    `loss(outputs, batch)` gives a scalar of whatever the module returns. A loss that is a module itself has its
    parameters trained along, and moves to the device; the values in its `parts`, if it has any, are logged by name.
    `validate(module)` gives the held-out metric of the module in evaluation mode, without gradients, on its device;
    with it `fit` leaves the best weights, not the last (see `LoopConfig`). `logs` is a folder for tables, curves and
    TensorBoard events.

    The same module, data and settings give the same weights on one machine's CPU, also when a run was killed and is
    called again with the same `checkpoint` path: it continues after the last checkpoint, to the same bits. The global
    random state is left as it was. Several processes (`devices` or `nodes` above 1) share each batch; losses that are
    means over samples, and batch normalisation, are those of one process. Rank 0 alone validates, writes and tells.
    Raises `ConfigError` for devices that are not there, a checkpoint of another run, patience without `validate`,
    and a loss or metric that is not finite.
    """
    loop = loop or LoopConfig()
    if validate is None and loop.patience:
        raise ConfigError(f"patience is {loop.patience}, but there is no held-out metric; give fit(validate=...)")
    with _torch_threads(config.threads), torch.random.fork_rng(devices=[]):
        run = _Run(module, data, loss, config, augmentation, loop, validate, task, progress)
        file = None
        if checkpoint:
            file = Checkpoint(checkpoint, fingerprint(module, data, loss, config, augmentation, loop))
        report = run.train(file, logs)
    module.to("cpu", memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]
    if isinstance(loss, nn.Module):
        loss.to("cpu")
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
        loop: LoopConfig,
        validate: Validate | None,
        task: str,
        progress: Progress,
    ) -> None:
        self.module, self.data, self.loss, self.config, self.loop = module, data, loss, config, loop
        self.augmentation, self.validate, self.task, self.progress = augmentation, validate, task, progress
        self.fabric = launch(config)
        # 15 to 25 % faster than NCHW on CPUs here, and what tensor cores want
        module.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        self.extra: list[nn.Parameter] = []
        if isinstance(loss, nn.Module):
            loss.to(self.fabric.device)
            self.extra = [value for value in loss.parameters() if value.requires_grad]
        learned = [*module.parameters(), *self.extra]
        optimiser = torch.optim.AdamW(learned, lr=config.learning_rate, weight_decay=config.weight_decay)
        self.model, self.optimiser = self.fabric.setup(module, optimiser)
        self.ema = Average(module, config.ema_decay) if config.ema_decay else None
        self.best = Best(loop)
        self.batches = math.ceil(len(data.inputs) / config.batch_size)
        self.checkpoint: Checkpoint | None = None
        self.log: RunLog | None = None
        self.report, self.sums = FitReport(), EpochSums()

    def train(self, checkpoint: Checkpoint | None, logs: Path | None) -> FitReport:
        """Every epoch that is still to be done; then the weights that were asked for."""
        generator = torch.Generator()
        streams = self._load(checkpoint) if checkpoint else {}
        with ExitStack() as stack:
            stack.enter_context(synchronised_batch_norm(self.module, self.fabric.world_size))
            if self.fabric.is_global_zero:
                self.checkpoint = checkpoint
                if logs is not None:
                    first = len(self.report.losses) * self.batches + self.sums.batches
                    self.log = RunLog(logs, tensorboard=self.loop.tensorboard, first_step=first)
                    stack.callback(self.log.stop)
            while len(self.report.losses) < self.config.epochs and not self.report.stopped_early:
                self._epoch(len(self.report.losses), generator, streams)
                streams = {}
                self._held_out()
                self._save()
                self._tell()
            if self.log is not None:
                self.log.close(self.report)
        if self.best.state:
            self.module.load_state_dict(self.best.state)
        elif self.ema is not None:
            self.module.load_state_dict(self.ema.state)
        return self.report

    def _epoch(self, epoch: int, generator: torch.Generator, streams: dict[str, Tensor]) -> None:
        """The steps of one epoch, from where `sums` stands; `streams` are the random states of that place."""
        started, before = time.perf_counter(), self.sums.seconds
        generator.manual_seed(self.config.seed * 1_000_003 + epoch)
        torch.manual_seed(self.config.seed * 1_000_003 + epoch)
        order = torch.randperm(len(self.data.inputs), generator=generator)
        if streams:
            _set_streams(generator, streams)
        rate = 0.0
        for k in range(self.sums.batches, self.batches):
            indices = order[k * self.config.batch_size : (k + 1) * self.config.batch_size]
            step = epoch * self.batches + k
            rate = learning_rate(self.config, step, self.config.epochs * self.batches)
            values = self._step(indices, rate, generator)
            self.sums.add(values, len(indices))
            if self.log is not None:
                self.log.step(step, values, rate)
            every = self.loop.checkpoint_every
            if every and (step + 1) % every == 0 and k + 1 < self.batches:
                self.sums.seconds = before + time.perf_counter() - started
                self._save(generator)
        means = self.sums.means()
        self._check_finite(means["loss"], f"the loss is {means['loss']} in epoch {epoch + 1}")
        self.report.add(means, rate, before + time.perf_counter() - started)
        self.sums = EpochSums()

    def _check_finite(self, value: float, what: str) -> None:
        if not math.isfinite(value):
            raise ConfigError(
                f"{self.task}: {what}; lower learning_rate (now {self.config.learning_rate}) or set clip_norm"
            )

    def _step(self, indices: Tensor, rate: float, generator: torch.Generator) -> dict[str, float]:
        """One step on the samples `indices`; the loss, its terms and the gradient's norm."""
        whole = augment(self.data.batch(indices), self.augmentation, self.data.scale, generator)
        world, rank = self.fabric.world_size, self.fabric.global_rank
        # a batch too small to share is everybody's
        split = world if len(indices) >= world else 1
        batch = _part(whole, slice(rank if split > 1 else 0, None, split), self.fabric.device)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.zero_grad()
        # shares of unequal size still give the mean over all samples
        values = self._gradients(batch, len(batch.inputs) * split / len(indices))
        if self.config.clip_norm:
            norm = self.fabric.clip_gradients(
                self.model, self.optimiser, max_norm=self.config.clip_norm, error_if_nonfinite=False
            )
            values["grad_norm"] = float(norm)
        self.optimiser.step()
        if self.ema is not None:
            self.ema.update(self.module)
        return values

    def _gradients(self, batch: Batch, share: float) -> dict[str, float]:
        """Gradients of this process's batch, in `accumulate` parts; the mean loss and terms over all processes."""
        n, parts = len(batch.inputs), min(self.loop.accumulate, len(batch.inputs))
        totals: dict[str, Tensor] = {}
        for k in range(parts):
            part = batch if parts == 1 else _part(batch, slice(k, None, parts), self.fabric.device)
            scale = share * len(part.inputs) / n
            waits = self.fabric.world_size > 1 and k + 1 < parts
            with self.fabric.no_backward_sync(self.model) if waits else nullcontext():
                value = self.loss(self.model(part.inputs.contiguous(memory_format=torch.channels_last)), part)
                self.fabric.backward(value if scale == 1 else value * scale)
            for name, term in {**getattr(self.loss, "parts", {}), "loss": value.detach()}.items():
                totals[name] = totals.get(name, 0.0) + (term if scale == 1 else term * scale)
        if self.fabric.world_size > 1:
            for parameter in self.extra:
                # the loss's own parameters are not wrapped: their gradients are averaged here
                own = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                parameter.grad = self.fabric.all_reduce(own, reduce_op="mean")
        names = sorted(totals)
        means = self.fabric.all_reduce(torch.stack([totals[name].float() for name in names]), reduce_op="mean")
        return dict(zip(names, means.tolist(), strict=True))

    def _held_out(self) -> None:
        """Measure the held-out metric after an epoch when it is due, and see whether to go on."""
        done = len(self.report.losses)
        if self.validate is None or (done % self.loop.validate_every and done < self.config.epochs):
            return
        with weights_of(self.module, self.ema), evaluation_mode(self.module), torch.no_grad():
            metric = 0.0
            if self.fabric.is_global_zero:
                with torch.random.fork_rng(devices=[]):
                    metric = float(self.validate(self.module))
            metric = float(self.fabric.broadcast(metric, src=0))
            self._check_finite(metric, f"the held-out metric is {metric} after epoch {done}")
            self.report.metrics[-1] = metric
            if self.best.offer(metric, self.module):
                self.report.best_epoch, self.report.best_metric = done, metric
        self.report.stopped_early = self.best.exhausted and done < self.config.epochs

    def _save(self, generator: torch.Generator | None = None) -> None:
        """Write the checkpoint: after an epoch, or within one with the state of `generator`."""
        if self.checkpoint is None:
            return
        streams: dict[str, Tensor] = {}
        if generator is not None:
            streams = {"augment": generator.get_state(), "torch": torch.get_rng_state()}
        self.checkpoint.save(
            {
                "module": self.module.state_dict(),
                "optimiser": self.optimiser.state_dict(),
                "precision": self.fabric.strategy.precision.state_dict(),
                "loss": self.loss.state_dict() if isinstance(self.loss, nn.Module) else {},
                "ema": self.ema.save() if self.ema is not None else None,
                "best": self.best.save(),
                "report": asdict(self.report),
                "sums": asdict(self.sums),
                "streams": streams,
            }
        )

    def _load(self, checkpoint: Checkpoint) -> dict[str, Tensor]:
        """Take the state that rank 0 reads from the file; the random states within an epoch."""
        state = checkpoint.load() if self.fabric.is_global_zero else None
        if self.fabric.world_size > 1:
            state = self.fabric.broadcast(state, src=0)
        if state is None:
            return {}
        self.module.load_state_dict(state["module"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.fabric.strategy.precision.load_state_dict(state["precision"])
        if isinstance(self.loss, nn.Module):
            self.loss.load_state_dict(state["loss"])
        if self.ema is not None:
            self.ema.load(state["ema"])
        self.best.load(state["best"])
        self.report, self.sums = FitReport(**state["report"]), EpochSums(**state["sums"])
        self.report.resumed_epochs = len(self.report.losses)
        streams: dict[str, Tensor] = state["streams"]
        return streams

    def _tell(self) -> None:
        if not self.fabric.is_global_zero:
            return
        report, done = self.report, len(self.report.losses)
        if self.log is not None:
            self.log.epoch(report, done * self.batches - 1)
        own = report.seconds[report.resumed_epochs :]
        eta = 0.0 if report.stopped_early else sum(own) / len(own) * (self.config.epochs - done)
        note = "" if report.metrics[-1] is None else f"metric {report.metrics[-1]:.4g} (best {report.best_metric:.4g})"
        if report.stopped_early:
            note += ", stopped early"
        self.progress(
            ProgressEvent(
                task=self.task, step=done, total=self.config.epochs, loss=report.losses[-1], eta_s=eta, note=note
            )
        )


def _set_streams(generator: torch.Generator, streams: dict[str, Tensor]) -> None:
    generator.set_state(streams["augment"])
    torch.set_rng_state(streams["torch"])


def _part(batch: Batch, rows: slice, device: torch.device) -> Batch:
    """Some samples of a batch, on `device`; every process draws the same random numbers before."""

    def share(values: Field) -> Field:
        return Field(values=values.values[rows].to(device), kind=values.kind)

    return Batch(
        inputs=batch.inputs[rows].to(device),
        labelled=batch.labelled[rows].to(device),
        targets={name: share(values) for name, values in batch.targets.items()},
        soft={name: share(values) for name, values in batch.soft.items()},
    )
