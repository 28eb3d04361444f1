"""Settings of the training loop besides the optimiser's, as a msgspec struct without torch."""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from edge_runtime.errors import ConfigError

__all__ = ["LoopConfig"]


class LoopConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Early stopping, gradient accumulation, checkpoints within an epoch, and logs.

    With a held-out metric (`validate` of `fit`) it is measured after every `validate_every` epochs and the last, and
    the best weights are what `fit` leaves. An epoch is better when its metric exceeds the best by more than
    `min_delta` ("higher"), or falls below it by as much ("lower"). After `patience` measurements in a row without a
    better one, training stops (0: never).

    `accumulate` divides every batch into so many parts that are passed one after the other, their gradients summed:
    less memory, the same step for losses that are means over samples (batch normalisation sees the parts).
    `checkpoint_every` writes the checkpoint after so many steps within an epoch too (0: after epochs alone).
    `tensorboard` writes event files beside the other logs. Raises `ConfigError` for a value out of range.
    """

    validate_every: int = 1
    patience: int = 0
    min_delta: float = 0.0
    better: Literal["higher", "lower"] = "higher"
    accumulate: int = 1
    checkpoint_every: int = 0
    tensorboard: bool = False

    def __post_init__(self) -> None:
        for name, low in (("validate_every", 1), ("patience", 0), ("accumulate", 1), ("checkpoint_every", 0)):
            if getattr(self, name) < low:
                raise ConfigError(f"{name} is {getattr(self, name)}; at least {low} is needed")
        if not (self.min_delta >= 0 and math.isfinite(self.min_delta)):
            raise ConfigError(f"min_delta is {self.min_delta}; zero or more is needed")

    def identity(self) -> dict[str, object]:
        """The settings that change what is learned, where they are not the defaults."""
        names = ("validate_every", "patience", "min_delta", "better", "accumulate")
        defaults = LoopConfig()
        return {name: getattr(self, name) for name in names if getattr(self, name) != getattr(defaults, name)}
