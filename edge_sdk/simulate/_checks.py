"""Checks of numbers that a user gives to the simulator."""

from __future__ import annotations

import math

import numpy as np

from edge_runtime.errors import ConfigError

__all__ = ["generator", "require", "require_positive", "require_shape"]


def require(condition: bool, name: str, value: object, allowed: str) -> None:
    """Raise `ConfigError` naming the value and what is allowed, unless `condition` holds."""
    if not condition:
        raise ConfigError(f"{name} is {value!r}; {allowed}")


def require_positive(owner: object, *names: str) -> None:
    """Raise `ConfigError` unless every named attribute of `owner` is a positive finite number."""
    for name in names:
        value = getattr(owner, name)
        require(
            math.isfinite(value) and value > 0, f"{type(owner).__name__}.{name}", value, "give a positive finite number"
        )


def require_shape(shape: tuple[int, int]) -> None:
    """Raise `ConfigError` unless `shape` is (H, W) of 16 to 4096 pixels each."""
    ok = len(shape) == 2 and all(16 <= int(n) <= 4096 and int(n) == n for n in shape)
    require(ok, "shape", shape, "give (H, W), each a whole number from 16 to 4096")


def generator(seed: int | np.random.Generator) -> np.random.Generator:
    """The generator itself, or a PCG64 generator from a seed >= 0; `ConfigError` for a negative seed."""
    if isinstance(seed, np.random.Generator):
        return seed
    require(seed >= 0, "seed", seed, "give a whole number >= 0")
    return np.random.default_rng(seed)
