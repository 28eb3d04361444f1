"""What a training run tells about itself, epoch by epoch."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["EpochSums", "FitReport"]


@dataclass(slots=True, kw_only=True)
class FitReport:
    """One value per finished epoch in every list.

    `losses`: mean training loss; `seconds`: its duration; `terms`: mean of every term of a composed loss, before its
    weight; `rates`: learning rate of the last step; `grad_norms`: mean L2 norm of the gradient before clipping (NaN
    without clipping); `metrics`: the held-out metric, None where it was not measured. `best_epoch` counts from 1.
    `stopped_early`: whether patience ended the run. `resumed_epochs`: epochs taken from a checkpoint.
    """

    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    resumed_epochs: int = 0
    terms: dict[str, list[float]] = field(default_factory=dict)
    rates: list[float] = field(default_factory=list)
    grad_norms: list[float] = field(default_factory=list)
    metrics: list[float | None] = field(default_factory=list)
    best_epoch: int | None = None
    best_metric: float | None = None
    stopped_early: bool = False

    def add(self, means: dict[str, float], rate: float, seconds: float) -> None:
        """The means of an epoch that has ended."""
        for name in means:
            if name not in ("loss", "grad_norm"):
                self.terms.setdefault(name, [float("nan")] * len(self.losses)).append(means[name])
        self.losses.append(means["loss"])
        self.grad_norms.append(means.get("grad_norm", float("nan")))
        self.rates.append(rate)
        self.seconds.append(seconds)
        self.metrics.append(None)


@dataclass(slots=True, kw_only=True)
class EpochSums:
    """Sums of an epoch under way, weighed by samples; `batches` steps are done."""

    batches: int = 0
    samples: int = 0
    seconds: float = 0.0
    values: dict[str, float] = field(default_factory=dict)

    def add(self, values: dict[str, float], samples: int) -> None:
        """The means of a step over `samples` samples."""
        self.batches += 1
        self.samples += samples
        for name, value in values.items():
            self.values[name] = self.values.get(name, 0.0) + value * samples

    def means(self) -> dict[str, float]:
        """Means over the samples so far."""
        return {name: value / self.samples for name, value in self.values.items()}
