"""Draw a result on the frame it belongs to, so that nobody can take a stale or degraded one for fresh."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.optional import require
from edge_runtime.result import Area, Detection, Result

__all__ = ["draw_notice", "draw_overlay"]

Image = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]

_MIN_SIDE = 480  # pixels; smaller frames are enlarged by a whole factor so that text can be read
_SCORES = 3  # classes that are named, the most probable ones
_LINE = 26  # pixels of height of a line of text
_STATES: dict[str, Colour] = {
    "fresh": (70, 200, 90),
    "degraded": (255, 190, 40),
    "stale": (255, 120, 40),
    "failed": (235, 60, 60),
}
_CLASSES: tuple[Colour, ...] = (
    (60, 220, 230),
    (240, 130, 230),
    (250, 220, 90),
    (140, 240, 130),
    (150, 160, 255),
    (255, 160, 130),
)


def draw_overlay(result: Result, *, stale_outputs: bool = False) -> Image:
    """The frame, enhanced if the result has it so, with mask, boxes and status, (H', W', 3) uint8 RGB, both sides even.

    The image is enlarged by a whole factor to at least 480 rows; below it stand the state, the frame's index and its
    age when the result was done, one line of areas a class (mm^2, or the word that it is withheld) and one of the
    three best class scores. Each class has a colour, filled thinly and with a contour. Anything but `fresh` also has a
    frame in the colour of its state and a label on the image. Of a stale result nothing but that label is drawn, since
    its mask, boxes and numbers belong to an earlier frame; `stale_outputs` draws them all the same. Raises
    `MissingDependencyError` without OpenCV.
    """
    cv2 = require("cv2", "to draw overlays")
    factor = max(1, -(-_MIN_SIDE // result.frame.shape[0]))
    shown = result.state != "failed" and (stale_outputs or result.state != "stale")
    image = _rgb(cv2, result.image if shown and result.image is not None else result.frame.image, factor)
    if shown:
        if result.mask is not None:
            _draw_mask(cv2, image, result.mask, factor)
        _draw_boxes(cv2, image, result.detections, factor)
    if result.state != "fresh":
        _draw_warning(cv2, image, _warning(result, shown), _STATES[result.state])
    return _with_status(cv2, image, result, shown)


def draw_notice(text: str) -> Image:
    """A black picture with one line of text, (480, 640, 3) uint8 RGB: shown where there is no result to draw."""
    cv2 = require("cv2", "to draw overlays")
    image = np.zeros((_MIN_SIDE, 640, 3), np.uint8)
    _draw_warning(cv2, image, text, _STATES["failed"])
    return image


def _rgb(cv2: Any, image: Image, factor: int) -> Image:
    size = (image.shape[1] * factor, image.shape[0] * factor)
    large = image if factor == 1 else cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
    rgb: Image = cv2.cvtColor(large, cv2.COLOR_GRAY2RGB) if large.ndim == 2 else large.copy()
    return rgb


def _draw_mask(cv2: Any, image: Image, mask: Image, factor: int) -> None:
    """Fill each class at a quarter of its colour and draw its contour, in place."""
    for value in (int(v) for v in np.unique(mask) if v):
        colour = _CLASSES[(value - 1) % len(_CLASSES)]
        inside = (mask == value).astype(np.uint8)
        inside = cv2.resize(inside, image.shape[1::-1], interpolation=cv2.INTER_NEAREST)
        tint = (0.75 * image[inside > 0] + 0.25 * np.array(colour)).astype(np.uint8)
        image[inside > 0] = tint
        contours, _ = cv2.findContours(inside, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(image, contours, -1, colour, max(1, factor), cv2.LINE_AA)


def _draw_boxes(cv2: Any, image: Image, boxes: tuple[Detection, ...], factor: int) -> None:
    """Outline each box with its class and score, one colour a class, in place."""
    labels = sorted({box.label for box in boxes})
    for box in boxes:
        colour = _CLASSES[labels.index(box.label) % len(_CLASSES)]
        corners = [round(value * factor) for value in (box.x0, box.y0, box.x1, box.y1)]
        cv2.rectangle(image, (corners[0], corners[1]), (corners[2] - 1, corners[3] - 1), colour, max(1, factor))
        at = (min(corners[0] + 4, max(0, image.shape[1] - 60)), max(0, corners[1] - _LINE))
        _text(cv2, image, f"{box.label} {box.score:.2f}", at, colour)


def _draw_warning(cv2: Any, image: Image, text: str, colour: Colour) -> None:
    cv2.rectangle(image, (0, 0), (image.shape[1] - 1, image.shape[0] - 1), colour, 6)
    _text(cv2, image, text, (12, 12), (20, 20, 20), background=colour)


def _warning(result: Result, shown: bool) -> str:
    if result.state == "stale":
        ago = f"of frame {result.outputs_from}, {result.frame.index - result.outputs_from} frames ago"
        return f"STALE: outputs {ago}" + ("" if shown else ", not shown")
    if result.state == "degraded":
        return f"DEGRADED: {result.variant}"
    return f"FAILED: {result.reason}"


def _with_status(cv2: Any, image: Image, result: Result, shown: bool) -> Image:
    """The image above a band of text, on a canvas wide enough for both."""
    areas = [_area_line(area) for area in result.areas] if shown else []
    if result.classes and shown:
        best = sorted(result.classes, key=lambda score: -score.probability)[:_SCORES]
        areas.append(("   ".join(f"{score.label}: {100 * score.probability:.0f} %" for score in best), True))
    height = image.shape[0] + _LINE * max(2, 1 + len(areas)) + 10
    width = max(image.shape[1], _MIN_SIDE)
    canvas = np.zeros((height + height % 2, width + width % 2, 3), np.uint8)
    left = (width - image.shape[1]) // 2
    canvas[: image.shape[0], left : left + image.shape[1]] = image
    age = f"{result.latency_ns / 1e6:.1f} ms" + (" LATE" if result.late else "")
    top = image.shape[0] + 5
    _text(cv2, canvas, result.state.upper(), (10, top), _STATES[result.state])
    _text(cv2, canvas, f"frame {result.frame.index}   age {age}   {result.branch}", (130, top), (230, 230, 230))
    for row, (line, known) in enumerate(areas, start=1):
        colour = _CLASSES[(row - 1) % len(_CLASSES)] if known else (170, 170, 170)
        _text(cv2, canvas, line, (10, top + row * _LINE), colour)
    return canvas


def _area_line(area: Area) -> tuple[str, bool]:
    if area.mm2 is not None:
        return f"{area.label}: {area.mm2:.1f} mm^2", True
    return f"{area.label}: {area.pixels} px, mm^2 withheld", False


def _text(
    cv2: Any, image: Image, text: str, at: tuple[int, int], colour: Colour, background: Colour | None = None
) -> None:
    """One line with its upper left corner `at` (x, y), shrunk if it would leave the image; ASCII only, as the font
    is."""
    ascii_text = text.encode("ascii", "replace").decode()
    scale = 0.62
    (width, height), _ = cv2.getTextSize(ascii_text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    room = image.shape[1] - at[0] - 8
    if width > room:
        scale, height = scale * room / width, round(height * room / width)
        width = room
    if background is not None:
        cv2.rectangle(image, (at[0] - 6, at[1] - 4), (at[0] + width + 6, at[1] + _LINE - 2), background, cv2.FILLED)
    baseline = (at[0], at[1] + (_LINE - 6 + height) // 2)
    cv2.putText(image, ascii_text, baseline, cv2.FONT_HERSHEY_SIMPLEX, scale, colour, 1, cv2.LINE_AA)
