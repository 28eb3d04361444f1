"""A picture of estimated poses beside the true ones: the paths from two sides, and the drift frame by frame."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ConfigError
from edge_runtime.frame import FrameGeometry
from edge_runtime.metrics.trajectory import drift, point_paths, reference_points
from edge_runtime.optional import require
from edge_runtime.reconstruct.slices import BACKGROUND, FAINT, TEXT, draw_scale_bar, write_text

__all__ = ["draw_trajectories"]

Floats = npt.NDArray[np.float64]
Picture = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]

ESTIMATES: tuple[Colour, ...] = ((255, 150, 64), (64, 170, 255), (120, 210, 110), (235, 120, 200))
GRID = (44, 50, 60)
WIDTH, MARGIN, TOP, SIDE, GAP = 1240, 24, 78, 250, 58
PATHS = 560  # px across of the two views
VIEWS = (
    ("From above: elevation to the right, lateral down", 0),
    ("From the side: elevation to the right, depth down", 1),
)
LARGEST = 90.0  # px per mm, at which the shortest scale bar ends
STEPS = (1, 2, 2.5, 5)


def draw_trajectories(
    T_true: Floats, estimates: Mapping[str, Floats], geometry: FrameGeometry, shape: tuple[int, int]
) -> Picture:
    """(H, W, 3) uint8 RGB: one to four estimates (N, 4, 4) by name, of images of `shape` (H, W), against the truth.

    At the left the path of the image's centre in the frame of the first image, from above and from the side, at one
    scale; at the right the drift of `reference_points` in mm. Raises `ConfigError` for more or fewer estimates and
    what `drift` raises, and `MissingDependencyError` without OpenCV.
    """
    if not 1 <= len(estimates) <= len(ESTIMATES):
        raise ConfigError(f"{len(estimates)} estimates; 1 to {len(ESTIMATES)} are drawn in one picture")
    cv2 = require("cv2", "to draw trajectories")
    points = reference_points(geometry, shape)
    true = point_paths(T_true, points[0])[:, 0]
    drawn = {name: point_paths(T, points[0])[:, 0] for name, T in estimates.items()}
    drifts = {name: drift(T_true, T, points) for name, T in estimates.items()}
    canvas = np.full((TOP + 2 * SIDE + GAP + 60, WIDTH, 3), BACKGROUND, np.uint8)
    x = MARGIN + write_text(cv2, canvas, "Path of the image's centre", (MARGIN, 14), 15, TEXT) + 28
    for name, colour in zip(["truth", *drawn], (TEXT, *ESTIMATES), strict=False):
        canvas[22:25, x : x + 22] = colour
        x += 30 + write_text(cv2, canvas, name[:40], (x + 30, 16), 12, colour) + 24
    _draw_views(cv2, canvas, true, drawn)
    _draw_drift(cv2, canvas, drifts)
    return canvas


def _draw_views(cv2: ModuleType, canvas: Picture, true: Floats, drawn: Mapping[str, Floats]) -> None:
    """Two projections of all paths at one scale, with the first place marked by a ring and the last by a dot."""
    every = np.concatenate([true, *drawn.values()])
    low, span = every.min(axis=0), np.maximum(np.ptp(every, axis=0), 1e-6)
    scale = min((PATHS - 40) / span[2], (SIDE - 40) / max(span[0], span[1]), LARGEST)
    for k, (title, axis) in enumerate(VIEWS):
        top = TOP + k * (SIDE + GAP)
        write_text(cv2, canvas, title, (MARGIN, top - 24), 12, FAINT)
        canvas[top : top + SIDE, MARGIN : MARGIN + PATHS] = GRID
        middle = np.array([MARGIN + PATHS / 2, top + SIDE / 2])
        centre = (low + span / 2)[[2, axis]]
        for path, colour in zip([true, *drawn.values()], (TEXT, *ESTIMATES), strict=False):
            at = middle + scale * (path[:, [2, axis]] - centre)
            px = 4 if path is true else 2  # so that an estimate does not hide the truth beneath it
            _line(cv2, canvas, at, colour, px)
            cv2.circle(canvas, _pixel(at[0]), 4 + px, colour, 1, cv2.LINE_AA)
            cv2.circle(canvas, _pixel(at[-1]), 3 + px, colour, -1, cv2.LINE_AA)
    foot = canvas.shape[0] - 34
    end = draw_scale_bar(cv2, canvas, (MARGIN, foot), scale)
    write_text(cv2, canvas, "ring: first frame, dot: last", (end + 24, foot), 11, FAINT)


def _draw_drift(cv2: ModuleType, canvas: Picture, drifts: Mapping[str, Floats]) -> None:
    """The drift of each estimate against the frame, with a grid in round numbers of mm."""
    left, right, top, foot = MARGIN + PATHS + 84, WIDTH - MARGIN, TOP, TOP + 2 * SIDE + GAP
    write_text(
        cv2, canvas, "Drift in mm (mean of the centre and the two deep corners)", (left - 44, top - 34), 12, FAINT
    )
    count = len(next(iter(drifts.values())))
    highest = max(float(values.max()) for values in drifts.values())
    step = _round_step(highest if highest > 0 else 1.0)
    lines = max(1, int(np.ceil(highest / step - 1e-9)))
    for k in range(lines + 1):
        y = round(foot - k * (foot - top) / lines)
        canvas[y, left:right] = GRID
        write_text(cv2, canvas, f"{k * step:g}", (left - 44, y - 8), 11, FAINT)
    for values, colour in zip(drifts.values(), ESTIMATES, strict=False):
        x = left + np.arange(count) * (right - left) / max(count - 1, 1)
        _line(cv2, canvas, np.column_stack([x, foot - values / (lines * step) * (foot - top)]), colour, 2)
    write_text(cv2, canvas, "0", (left, foot + 10), 11, FAINT)
    write_text(cv2, canvas, f"frame {count - 1}", (right - 76, foot + 10), 11, FAINT)


def _round_step(highest: float) -> float:
    """The smallest round step that needs no more than six lines."""
    power = 10.0 ** np.floor(np.log10(highest / 6))
    return float(next((n * power for n in STEPS if highest <= 6 * n * power), 10 * power))


def _line(cv2: ModuleType, canvas: Picture, at: Floats, colour: Colour, px: int) -> None:
    cv2.polylines(canvas, [np.round(at * 16).astype(np.int32)], False, colour, px, cv2.LINE_AA, 4)


def _pixel(at: Floats) -> tuple[int, int]:
    return round(float(at[0])), round(float(at[1]))
