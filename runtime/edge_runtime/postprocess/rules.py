"""Plausibility rules of a mask: what is declared in the manifest held against each frame. Nothing is dropped."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.bundle.manifest_reading import Rule
from edge_runtime.errors import ConfigError
from edge_runtime.frame import Frame, FrameGeometry
from edge_runtime.optional import require
from edge_runtime.result import Finding

__all__ = ["RuleChecker"]

_MILLIMETRES = ("area_mm2", "centre_jump_mm")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """A class in one frame: pixels, 8-connected regions, centre (x, y) in pixels."""

    pixels: int
    parts: int
    x: float
    y: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Moment:
    """A frame as the rules saw it, and how many frames of the source passed since."""

    seen: dict[str, _Seen]
    index: int
    geometry: FrameGeometry
    shape: tuple[int, int]


class RuleChecker:
    """`checker(mask, frame)` -> the rules that the frame breaks or that cannot be checked, in their order.

    `labels` name the mask's values from 1 on. Rules in mm on a frame whose geometry is not trusted are findings without
    a value. A jump is held against the last frame given, and not asked of the first, after a change of size or
    geometry (depth knob), or of a class that was not there. Not for more than one thread at a time.
    """

    def __init__(self, rules: tuple[Rule, ...], labels: tuple[str, ...]) -> None:
        unknown = sorted({rule.label for rule in rules} - set(labels))
        if unknown:
            raise ConfigError(f"rules are of {unknown}; the classes are {list(labels)}")
        self.rules = rules
        self._values = {label: labels.index(label) + 1 for label in {rule.label for rule in rules}}
        self._single = len(labels) == 1
        self._count_parts = any(rule.quantity == "parts" for rule in rules)
        self._last: _Moment | None = None

    def reset(self) -> None:
        """Forget the last frame."""
        self._last = None

    def __call__(self, mask: npt.NDArray[np.uint8], frame: Frame) -> tuple[Finding, ...]:
        """Findings of `mask` (H, W) uint8 in the source pixels of `frame`."""
        if not self.rules:
            return ()
        seen = {label: self._look(mask, value) for label, value in self._values.items()}
        now = _Moment(seen=seen, index=frame.index, geometry=frame.geometry, shape=frame.shape)
        last = self._last
        if last is not None and (last.index >= now.index or (last.shape, last.geometry) != (now.shape, now.geometry)):
            last = None
        self._last = now
        found = [_finding(rule, now, last) for rule in self.rules]
        return tuple(finding for finding in found if finding is not None)

    def _look(self, mask: npt.NDArray[np.uint8], value: int) -> _Seen:
        cv2: Any = require("cv2", "to check plausibility")
        own = mask if self._single else np.equal(mask, value).view(np.uint8)
        moments = cv2.moments(own, binaryImage=True)
        pixels = round(moments["m00"])
        parts = cv2.connectedComponents(own, connectivity=8)[0] - 1 if self._count_parts else 0
        x, y = (moments["m10"] / pixels, moments["m01"] / pixels) if pixels else (math.nan, math.nan)
        return _Seen(pixels=pixels, parts=parts, x=x, y=y)


def _finding(rule: Rule, now: _Moment, last: _Moment | None) -> Finding | None:
    value, reason = None, ""
    if rule.quantity in _MILLIMETRES and not now.geometry.trusted:
        reason = now.geometry.reason
    else:
        value = _QUANTITIES[rule.quantity](rule.label, now, last)
        if value is None or ((rule.least is None or value >= rule.least) and (rule.most is None or value <= rule.most)):
            return None
    return Finding(
        rule=rule.name,
        label=rule.label,
        quantity=rule.quantity,
        value=value,
        least=rule.least,
        most=rule.most,
        reason=reason,
    )


def _area_mm2(label: str, now: _Moment, last: _Moment | None) -> float | None:
    return now.seen[label].pixels * now.geometry.pixel_area_mm2


def _area_share(label: str, now: _Moment, last: _Moment | None) -> float | None:
    return now.seen[label].pixels / (now.shape[0] * now.shape[1])


def _parts(label: str, now: _Moment, last: _Moment | None) -> float | None:
    return float(now.seen[label].parts)


def _centre_x(label: str, now: _Moment, last: _Moment | None) -> float | None:
    return (now.seen[label].x + 0.5) / now.shape[1] if now.seen[label].pixels else None


def _centre_y(label: str, now: _Moment, last: _Moment | None) -> float | None:
    return (now.seen[label].y + 0.5) / now.shape[0] if now.seen[label].pixels else None


def _way(label: str, now: _Moment, last: _Moment | None) -> tuple[float, float, int] | None:
    """(dx, dy) in pixels and the frames in between; None where there is nothing to compare."""
    if last is None or not now.seen[label].pixels or not last.seen[label].pixels:
        return None
    here, there = now.seen[label], last.seen[label]
    return here.x - there.x, here.y - there.y, now.index - last.index


def _centre_jump(label: str, now: _Moment, last: _Moment | None) -> float | None:
    way = _way(label, now, last)
    return None if way is None else math.hypot(way[0], way[1]) / math.hypot(*now.shape) / way[2]


def _centre_jump_mm(label: str, now: _Moment, last: _Moment | None) -> float | None:
    way = _way(label, now, last)
    if way is None:
        return None
    row_mm, column_mm = now.geometry.require_mm()
    down = way[1] * row_mm
    return math.hypot(way[0] * column_mm + now.geometry.shear * down, down) / way[2]


def _area_jump(label: str, now: _Moment, last: _Moment | None) -> float | None:
    if last is None:
        return None
    here, there = now.seen[label].pixels, last.seen[label].pixels
    return abs(here - there) / max(here, there, 1) / (now.index - last.index)


_QUANTITIES: dict[str, Callable[[str, _Moment, _Moment | None], float | None]] = {
    "area_mm2": _area_mm2,
    "area_share": _area_share,
    "parts": _parts,
    "centre_x": _centre_x,
    "centre_y": _centre_y,
    "centre_jump": _centre_jump,
    "centre_jump_mm": _centre_jump_mm,
    "area_jump": _area_jump,
}
