"""The one order in which steps may stand, checked once."""

from __future__ import annotations

import math
from dataclasses import dataclass

from edge_runtime.errors import ConfigError
from edge_runtime.preprocess.spec import CropToScanArea, Letterbox, Normalize, Resize, Stack, Step, ToGray

__all__ = ["Layout", "check_steps"]

RULE = "[crop_to_scan_area] [to_gray] (resize | letterbox) normalize [stack]; the crop and the grey may change places"
MAX_SIDE = 4096
MAX_STACK = 64
# place of each step; equal places may stand in any order
RANK = {CropToScanArea: 0, ToGray: 0, Resize: 1, Letterbox: 1, Normalize: 2, Stack: 3}


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The steps of a valid spec by role."""

    crop: bool
    gray: bool
    size: Resize | Letterbox
    normalize: Normalize
    stack: Stack


def check_steps(steps: tuple[Step, ...]) -> Layout:
    """The steps by role; without a `Stack` it is `Stack(n=1)`. `ConfigError` for an order or value not allowed."""
    names = [type(step).__struct_config__.tag for step in steps]
    ranks = [RANK[type(step)] for step in steps]
    if ranks != sorted(ranks) or len(set(names)) != len(names):
        raise ConfigError(f"preprocessing steps are {names}; the order must be {RULE}, each at most once")
    sizes = [step for step in steps if isinstance(step, (Resize, Letterbox))]
    normalizes = [step for step in steps if isinstance(step, Normalize)]
    stacks = [step for step in steps if isinstance(step, Stack)]
    if len(sizes) != 1 or len(normalizes) != 1:
        raise ConfigError(f"preprocessing steps are {names}; exactly one size step and one normalize: {RULE}")
    layout = Layout(
        crop=any(isinstance(step, CropToScanArea) for step in steps),
        gray=any(isinstance(step, ToGray) for step in steps),
        size=sizes[0],
        normalize=normalizes[0],
        stack=stacks[0] if stacks else Stack(n=1),
    )
    _check_values(layout)
    return layout


def _check_values(layout: Layout) -> None:
    size, normalize, stack = layout.size, layout.normalize, layout.stack
    for name, value, low, high in (
        ("height", size.height, 1, MAX_SIDE),
        ("width", size.width, 1, MAX_SIDE),
        ("fill", getattr(size, "fill", 0), 0, 255),
        ("stack n", stack.n, 1, MAX_STACK),
        ("stack stride", stack.stride, 1, MAX_STACK),
    ):
        if not low <= value <= high:
            raise ConfigError(f"preprocessing {name} is {value}; {low} to {high} is allowed")
    if not (
        math.isfinite(normalize.mean) and all(math.isfinite(v) and v > 0 for v in (normalize.scale, normalize.std))
    ):
        raise ConfigError(
            f"normalize has scale {normalize.scale}, mean {normalize.mean}, std {normalize.std}; "
            "finite numbers, scale and std above 0, are needed"
        )
