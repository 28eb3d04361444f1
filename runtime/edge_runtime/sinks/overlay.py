"""Draw a result on the frame it belongs to, so that nobody can take a stale or degraded one for fresh."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.optional import require
from edge_runtime.result import Area, Detection, Finding, Measurement, Result

__all__ = ["draw_notice", "draw_overlay"]

Image = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]

_MIN_SIDE = 480  # pixels; smaller frames are enlarged by a whole factor so that text can be read
_MAX_WIDTH = 8192  # pixels; no frame is enlarged beyond
_SCORES = 3  # classes that are named, the most probable ones
_FINDINGS = 2  # broken rules that are named
_LINE = 26  # pixels of height of a line of text
_PLAIN: Colour = (230, 230, 230)
_WITHHELD: Colour = (170, 170, 170)
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

    The image is enlarged by a whole factor to at least 480 rows, within 8192 columns; below it stand the state, the
    frame's index and its age when the result was done, one line of areas a class (mm^2, or the word that it is
    withheld), one a measurement and one of the three best class scores. Each class has a colour, filled thinly and with
    a contour. Anything but `fresh`, a frame beyond the model's gate and a broken plausibility rule also have a frame in
    colour and a label on the image. Of a stale result nothing but that label is drawn, since its mask, boxes and
    numbers belong to an earlier frame; `stale_outputs` draws them all the same. Raises `MissingDependencyError`
    without OpenCV.
    """
    cv2 = require("cv2", "to draw overlays")
    rows, columns = result.frame.shape
    factor = max(1, min(-(-_MIN_SIDE // rows), _MAX_WIDTH // columns))
    shown = result.state != "failed" and (stale_outputs or result.state != "stale")
    image = _rgb(cv2, result.image if shown and result.image is not None else result.frame.image, factor)
    if shown:
        if result.mask is not None:
            _draw_mask(cv2, image, result.mask, factor)
        _draw_boxes(cv2, image, result.detections, factor)
    _draw_warnings(cv2, image, _warnings(result, shown))
    return _with_status(cv2, image, result, _lines(result) if shown else [("", _PLAIN)] * len(_lines(result)))


def draw_notice(text: str, size: tuple[int, int] = (_MIN_SIDE, 640)) -> Image:
    """A black picture of `size` (rows, columns) with one line of text, uint8 RGB: where there is no result to draw."""
    cv2 = require("cv2", "to draw overlays")
    image = np.zeros((*size, 3), np.uint8)
    _draw_warnings(cv2, image, [(text, _STATES["failed"])])
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


def _draw_warnings(cv2: Any, image: Image, warnings: list[tuple[str, Colour]]) -> None:
    """A frame around the image in the colour of the first, and each as a label."""
    if warnings:
        cv2.rectangle(image, (0, 0), (image.shape[1] - 1, image.shape[0] - 1), warnings[0][1], 6)
    for row, (text, colour) in enumerate(warnings):
        _text(cv2, image, text, (12, 12 + row * (_LINE + 6)), (20, 20, 20), background=colour)


def _warnings(result: Result, shown: bool) -> list[tuple[str, Colour]]:
    found = []
    if result.state == "stale":
        ago = f"of frame {result.outputs_from}, {result.frame.index - result.outputs_from} frames ago"
        found.append(f"STALE: outputs {ago}" + ("" if shown else ", not shown"))
    elif result.state == "degraded":
        found.append(f"DEGRADED: {result.variant}")
    elif result.state == "failed":
        found.append(f"FAILED: {result.reason}")
    if shown and (gate := result.out_of_distribution) is not None:
        found.append(f"UNKNOWN KIND OF IMAGE: {gate.score:.3g}, above {gate.threshold:.3g}")
    if shown and result.findings:
        found += [_finding_text(finding) for finding in result.findings[:_FINDINGS]]
        found += [f"AND {len(result.findings) - _FINDINGS} MORE"] * (len(result.findings) > _FINDINGS)
    return [(text, _STATES["stale" if result.state == "fresh" else result.state]) for text in found]


def _lines(result: Result) -> list[tuple[str, Colour]]:
    """The lines below the status: areas, measurements and classes; as many for every result of a model."""
    lines = [_area_line(area, _CLASSES[row % len(_CLASSES)]) for row, area in enumerate(result.areas)]
    lines += [_measurement_line(measured) for measured in result.measurements]
    if result.classes:
        best = sorted(result.classes, key=lambda score: -score.probability)[:_SCORES]
        lines.append(("   ".join(f"{score.label}: {100 * score.probability:.0f} %" for score in best), _PLAIN))
    return lines


def _with_status(cv2: Any, image: Image, result: Result, lines: list[tuple[str, Colour]]) -> Image:
    """The image above a band of text, on a canvas wide enough for both."""
    height = image.shape[0] + _LINE * max(2, 1 + len(lines)) + 10
    width = max(image.shape[1], _MIN_SIDE)
    canvas = np.zeros((height + height % 2, width + width % 2, 3), np.uint8)
    left = (width - image.shape[1]) // 2
    canvas[: image.shape[0], left : left + image.shape[1]] = image
    age = f"{result.latency_ns / 1e6:.1f} ms" + (" LATE" if result.late else "")
    top = image.shape[0] + 5
    _text(cv2, canvas, result.state.upper(), (10, top), _STATES[result.state])
    _text(cv2, canvas, f"frame {result.frame.index}   age {age}   {result.branch}", (130, top), _PLAIN)
    for row, (line, colour) in enumerate(lines, start=1):
        _text(cv2, canvas, line, (10, top + row * _LINE), colour)
    return canvas


def _area_line(area: Area, colour: Colour) -> tuple[str, Colour]:
    if area.mm2 is not None:
        return f"{area.label}: {area.mm2:.1f} mm^2", colour
    return f"{area.label}: {area.pixels} px, mm^2 withheld", _WITHHELD


def _measurement_line(measured: Measurement) -> tuple[str, Colour]:
    what, unit = f"{measured.label} {measured.quantity}", measured.unit.replace("mm2", "mm^2")
    if measured.value is None:
        return f"{what}: withheld ({measured.withheld})", _WITHHELD
    sigma = "" if measured.uncertainty is None else f" +- {measured.uncertainty:.2g}"
    return f"{what}: {measured.value:.1f}{sigma} {unit}", _PLAIN


def _finding_text(finding: Finding) -> str:
    what = f"{finding.label} {finding.quantity}"
    if finding.value is None:
        return f"NOT CHECKED: {what} ({finding.reason})"
    low = finding.least is not None and finding.value < finding.least
    bound = f"below {finding.least:.4g}" if low else f"above {finding.most:.4g}" if finding.most is not None else ""
    return f"IMPLAUSIBLE: {what} {finding.value:.4g} {bound or finding.reason}"


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
