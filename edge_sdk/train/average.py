"""Weights besides the ones that are trained: their moving average, and the best on a held-out metric."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from edge_sdk.train.settings import LoopConfig

__all__ = ["Average", "Best", "evaluation_mode", "weights_of"]


class Average:
    """Exponential moving average of a module's floating-point state (Polyak averaging), buffers included."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay, self.updates = decay, 0
        self.state = {k: v.detach().clone() for k, v in module.state_dict().items()}

    def update(self, module: nn.Module) -> None:
        """Take in the weights of a step."""
        # the early average leans on fresh weights: without it the initial ones stay in for 1 / (1 - decay) steps
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                self.state[name].lerp_(value.detach(), 1 - decay)
            else:
                self.state[name].copy_(value)

    def save(self) -> dict[str, Any]:
        """The state for a checkpoint."""
        return {"state": self.state, "updates": self.updates}

    def load(self, saved: dict[str, Any]) -> None:
        """Take a state that `save` gave."""
        self.updates = saved["updates"]
        for name, value in saved["state"].items():
            self.state[name].copy_(value)


class Best:
    """The best weights so far on a held-out metric, and how long ago that was."""

    def __init__(self, config: LoopConfig) -> None:
        self.config = config
        self.value: float | None = None
        self.waited = 0
        self.state: dict[str, Tensor] = {}

    def offer(self, value: float, module: nn.Module) -> bool:
        """Whether `value` is better than any before; then the module's state is kept."""
        sign = 1.0 if self.config.better == "higher" else -1.0
        if self.value is not None and not sign * (value - self.value) > self.config.min_delta:
            self.waited += 1
            return False
        self.value, self.waited = value, 0
        self.state = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
        return True

    @property
    def exhausted(self) -> bool:
        """Whether patience is at its end."""
        return 0 < self.config.patience <= self.waited

    def save(self) -> dict[str, Any]:
        """The state for a checkpoint."""
        return {"value": self.value, "waited": self.waited, "state": self.state}

    def load(self, saved: dict[str, Any]) -> None:
        """Take a state that `save` gave."""
        self.value, self.waited, self.state = saved["value"], saved["waited"], saved["state"]


@contextmanager
def weights_of(module: nn.Module, average: Average | None) -> Iterator[None]:
    """Within, `module` has the weights of `average`; afterwards its own again, bit for bit."""
    if average is None:
        yield
        return
    own = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
    module.load_state_dict(average.state)
    try:
        yield
    finally:
        module.load_state_dict(own)


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Within, every layer is in evaluation mode; afterwards each is as it was."""
    modes = {layer: layer.training for layer in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for layer, training in modes.items():
            layer.training = training
