"""One draw per frame."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["uniform"]


def uniform(n: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """(N,) float32 uniform in [low, high), drawn on the CPU."""
    return torch.rand(n, generator=generator) * (high - low) + low
