"""Learning-rate schedules in closed form, so that a resumed run needs no scheduler state."""

from __future__ import annotations

import math

from edge_sdk.config import OptimiserConfig

__all__ = ["learning_rate"]


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
