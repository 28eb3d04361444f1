"""The one order in which steps may stand and the values they may have, checked once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeVar

from edge_runtime.errors import ConfigError
from edge_runtime.preprocess import spec as s

__all__ = ["Filter", "Layout", "Size", "Value", "check_steps"]

RULE = (
    "[crop_to_scan_area] [mask_color] [to_gray] [mask_outside] [mask_boxes] (any order, mask_color before to_gray), "
    "filters, one size step (resize, letterbox or to_polar), filters, one value step (normalize, z_score or min_max), "
    "[stack]; z_score and min_max may also stand right before the size step, and no filter follows them"
)
Size = s.Resize | s.Letterbox | s.ToPolar
Value = s.Normalize | s.ZScore | s.MinMax
Filter = s.Median | s.Bilateral | s.Srad | s.Clahe | s.EqualizeHistogram | s.Gamma | s.Unsharp | s.Persistence
T = TypeVar("T")

MAX_SIDE = 4096
MAX_STACK = 64
MAX_BOXES = 64
# smallest and largest value of each setting, ends included; the upper ones bound the time of an untrusted spec
RANGES: dict[type[s.Step], dict[str, tuple[float, float]]] = {
    s.Resize: {"height": (1, MAX_SIDE), "width": (1, MAX_SIDE)},
    s.Letterbox: {"height": (1, MAX_SIDE), "width": (1, MAX_SIDE), "fill": (0, 255)},
    s.ToPolar: {"height": (1, MAX_SIDE), "width": (1, MAX_SIDE)},
    s.Stack: {"n": (1, MAX_STACK), "stride": (1, MAX_STACK)},
    s.MaskColor: {"spread": (1, 254), "grow": (0, 15)},
    s.Median: {"size": (3, 31)},
    s.Bilateral: {"diameter": (3, 15), "sigma_grey": (0.1, 255), "sigma_px": (0.1, 15)},
    s.Srad: {
        "iterations": (1, 200),
        "time_step": (0.01, 1),
        "q0": (0.05, 2),
        "decay": (0, 10),
        "dynamic_range_db": (5, 120),
    },
    s.Clahe: {"clip_limit": (0.1, 100), "tiles": (1, 32)},
    s.Gamma: {"gamma": (0.1, 10)},
    s.Unsharp: {"sigma": (0.3, 10), "amount": (0, 10)},
    s.Persistence: {"weight": (0, 0.99)},
    s.ZScore: {"floor": (0.01, 255)},
}
ODD = {s.Median: "size", s.Bilateral: "diameter"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The steps of a valid spec by role. With `value_first` the value is measured before the size step."""

    crop: bool
    gray: bool
    outside: bool
    boxes: s.MaskBoxes | None
    color: s.MaskColor | None
    before: tuple[Filter, ...]
    size: Size
    after: tuple[Filter, ...]
    value: Value
    value_first: bool
    stack: s.Stack


def check_steps(steps: tuple[s.Step, ...]) -> Layout:
    """The steps by role; without a `Stack` it is `Stack(n=1)`. `ConfigError` for an order or value not allowed."""
    names = [str(type(step).__struct_config__.tag) for step in steps]
    _check_order(steps, names)
    for step in steps:
        _check_values(step)
    sizes = [k for k, step in enumerate(steps) if isinstance(step, Size)]
    value = next(step for step in steps if isinstance(step, Value))
    return Layout(
        crop=_first(steps, s.CropToScanArea) is not None,
        gray=_first(steps, s.ToGray) is not None,
        outside=_first(steps, s.MaskOutside) is not None,
        boxes=_first(steps, s.MaskBoxes),
        color=_first(steps, s.MaskColor),
        before=tuple(step for step in steps[: sizes[0]] if isinstance(step, Filter)),
        size=next(step for step in steps if isinstance(step, Size)),
        after=tuple(step for step in steps[sizes[0] :] if isinstance(step, Filter)),
        value=value,
        value_first=steps.index(value) < sizes[0],
        stack=_first(steps, s.Stack) or s.Stack(n=1),
    )


def _first(steps: tuple[s.Step, ...], kind: type[T]) -> T | None:
    return next((step for step in steps if isinstance(step, kind)), None)


def _ranks(steps: tuple[s.Step, ...]) -> list[int]:
    """Place of each step; equal places may stand in any order."""
    ranks: list[int] = []
    sized = False
    for step in steps:
        if isinstance(step, Filter):
            ranks.append(3 if sized else 1)
        elif isinstance(step, Size):
            ranks.append(3 if sized else 2)
            sized = True
        elif isinstance(step, s.Normalize):
            ranks.append(4)
        elif isinstance(step, (s.ZScore, s.MinMax)):
            ranks.append(4 if sized else 2)
        else:
            ranks.append(5 if isinstance(step, s.Stack) else 0)
    return ranks


def _check_order(steps: tuple[s.Step, ...], names: list[str]) -> None:
    ranks = _ranks(steps)
    once = [name for name, step in zip(names, steps, strict=True) if not isinstance(step, Filter)]
    if ranks != sorted(ranks) or len(set(once)) != len(once):
        raise ConfigError(
            f"preprocessing steps are {names}; the order must be: {RULE}. Filters may be repeated, all else stands "
            "at most once"
        )
    sizes = sum(isinstance(step, Size) for step in steps)
    values = [k for k, step in enumerate(steps) if isinstance(step, Value)]
    if sizes != 1 or len(values) != 1:
        raise ConfigError(
            f"preprocessing steps are {names}; exactly one size step and one normalize, z_score or "
            f"min_max are needed: {RULE}"
        )
    if any(isinstance(step, Filter) for step in steps[values[0] :]):
        raise ConfigError(
            f"preprocessing steps are {names}; after {names[values[0]]} there are no grey levels for a "
            "filter; put it before"
        )
    if "mask_color" in names and "to_gray" in names[: names.index("mask_color")]:
        raise ConfigError(f"preprocessing steps are {names}; after to_gray there is no colour: put mask_color before")


def _check_values(step: s.Step) -> None:
    tag = type(step).__struct_config__.tag
    for name, (low, high) in RANGES.get(type(step), {}).items():
        value = getattr(step, name)
        if not low <= value <= high:
            raise ConfigError(f"preprocessing {tag} {name} is {value}; {low} to {high} is allowed")
    odd = ODD.get(type(step))
    if odd and getattr(step, odd) % 2 == 0:
        raise ConfigError(f"preprocessing {tag} {odd} is {getattr(step, odd)}; an odd number is needed")
    if isinstance(step, s.MaskBoxes):
        _check_boxes(step)
    if isinstance(step, s.Normalize) and not (
        math.isfinite(step.mean) and all(math.isfinite(v) and v > 0 for v in (step.scale, step.std))
    ):
        raise ConfigError(
            f"normalize has scale {step.scale}, mean {step.mean}, std {step.std}; "
            "finite numbers, scale and std above 0, are needed"
        )


def _check_boxes(step: s.MaskBoxes) -> None:
    if not 1 <= len(step.boxes) <= MAX_BOXES:
        raise ConfigError(f"preprocessing mask_boxes has {len(step.boxes)} boxes; 1 to {MAX_BOXES} are allowed")
    for x0, y0, x1, y1 in step.boxes:
        if not (0 <= x0 < x1 and 0 <= y0 < y1):
            raise ConfigError(
                f"preprocessing mask_boxes holds {(x0, y0, x1, y1)}; 0 <= x0 < x1 and 0 <= y0 < y1 are needed"
            )
