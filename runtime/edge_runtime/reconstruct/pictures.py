"""A volume seen from all sides: maximum-intensity projections on a turntable."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from edge_runtime.atomic import sync
from edge_runtime.errors import ConfigError
from edge_runtime.optional import require
from edge_runtime.reconstruct.slices import BACKGROUND, FAINT, TEXT, draw_scale_bar, write_text
from edge_runtime.reconstruct.volume import Volume
from edge_runtime.sinks.video import write_png

__all__ = ["TurnAxis", "draw_turntable", "turntable", "write_turntable"]

TurnAxis = Literal["x", "y", "z"]
MAX_VIEWS = 360
MAX_PIXELS = 1 << 28  # of all views

MARGIN, GAP, TITLE, LEGEND = 24, 12, 46, 40

U8 = npt.NDArray[np.uint8]
F64 = npt.NDArray[np.float64]


def turntable(volume: Volume, *, views: int = 36, axis: TurnAxis = "z", pixel_mm: float | None = None) -> U8:
    """(views, H, W) uint8: the brightest grey level along parallel rays (maximum-intensity projection; Wallis et al.,
    IEEE Trans. Med. Imaging 8, 1989), the volume turned by a full turn about its own `axis` in equal steps.

    The axis is upright, its positive end at the top; the first view looks along the next axis (about z: along x, with
    -y to the right), a quarter turn later along the one after it. Pixels are square, `pixel_mm` wide (default: the
    finest spacing); all views have the size that any view needs. Voxels that were not seen count as 0. Raises
    `ConfigError` for another axis, `views` not within 1 to 360, a `pixel_mm` that is not positive or makes more than
    2^28 pixels, and `MissingDependencyError` without numba.
    """
    step = min(volume.spacing_mm) if pixel_mm is None else pixel_mm
    if axis not in get_args(TurnAxis) or not 1 <= views <= MAX_VIEWS or not (np.isfinite(step) and step > 0):
        raise ConfigError(
            f"axis {axis!r}, views {views}, pixel_mm {step}: x, y or z, 1 to {MAX_VIEWS} and a positive one are needed"
        )
    spacing = np.array(volume.spacing_mm)
    span = (np.array(volume.data.shape) - 1) * spacing  # (z, y, x) mm, between the centres of the outermost voxels
    up = "zyx".index(axis)
    ahead, side = (up + 2) % 3, (up + 1) % 3  # about z: x and y, in the order (z, y, x)
    width, height = (int(np.ceil(n / step)) + 1 for n in (np.hypot(span[ahead], span[side]), span[up]))
    if views * width * height > MAX_PIXELS:
        raise ConfigError(f"pixel_mm {step}: {views} views of {width}x{height}; take it coarser, or fewer views")
    require("numba", "to project a volume")
    from edge_runtime.reconstruct._ray_kernels import project

    finest = min(spacing[ahead], spacing[side])
    steps = int(np.ceil(np.hypot(span[ahead], span[side]) / finest)) + 1
    data = np.ascontiguousarray(volume.data)
    out = np.zeros((views, height, width), np.uint8)
    for k in range(views):
        angle = 2 * np.pi * k / views
        down, right, away = np.zeros(3), np.zeros(3), np.zeros(3)
        down[up] = -step
        away[ahead], away[side] = finest * np.cos(angle), finest * np.sin(angle)
        right[ahead], right[side] = step * np.sin(angle), -step * np.cos(angle)
        start = span / 2 - (height - 1) / 2 * down - (width - 1) / 2 * right - (steps - 1) / 2 * away
        project(data, start / spacing, down / spacing, right / spacing, away / spacing, steps, out[k])
    return out


def draw_turntable(volume: Volume, *, views: int = 8, axis: TurnAxis = "z", panel_px: int = 220) -> U8:
    """Picture (H, W, 3) uint8 RGB: a strip of `views` views with their angles and a scale bar.

    `panel_px` is the longer side of a view. Raises what `turntable` raises, `ConfigError` for more than 24 views or
    `panel_px` not within 64 to 1024, and `MissingDependencyError` without OpenCV.
    """
    if not 1 <= views <= 24 or not 64 <= panel_px <= 1024:
        raise ConfigError(f"views {views}, panel_px {panel_px}: 1 to 24 and 64 to 1024 are allowed")
    cv2 = require("cv2", "to draw a turntable")
    shots = turntable(volume, views=views, axis=axis)
    scale = panel_px / max(shots.shape[1:])
    h, w = (max(1, round(n * scale)) for n in shots.shape[1:])
    canvas = np.full(
        (TITLE + h + LEGEND + MARGIN, max(2 * MARGIN + views * (w + GAP) - GAP, 420), 3), BACKGROUND, np.uint8
    )
    left = (canvas.shape[1] - views * (w + GAP) + GAP) // 2
    title = f"Maximum intensity, turned about {axis}   poses: {volume.pose_origin}"
    write_text(cv2, canvas, title, (left, 12), 14, TEXT)
    shrink = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    for k, shot in enumerate(shots):
        x = left + k * (w + GAP)
        canvas[TITLE : TITLE + h, x : x + w] = cv2.resize(shot, (w, h), interpolation=shrink)[..., None]
        write_text(cv2, canvas, f"{360 * k / views:g} deg", (x, TITLE + h + 8), 11, FAINT)
    draw_scale_bar(cv2, canvas, (left, canvas.shape[0] - 24), scale / min(volume.spacing_mm))
    return canvas


def write_turntable(folder: Path | str, volume: Volume, *, views: int = 36, axis: TurnAxis = "z") -> list[Path]:
    """Write `views` frames `000.png` ... and the strip `strip.png` (up to eight of the views) into a new `folder`.

    The folder appears whole or not at all. Returns the paths of the frames. Raises what `turntable` raises,
    `ConfigError` when `folder` is there already, and `MissingDependencyError` without OpenCV.
    """
    folder = Path(folder)
    if folder.exists():
        raise ConfigError(f"{folder} is there already; name a new folder")
    shots = turntable(volume, views=views, axis=axis)
    strip = draw_turntable(volume, views=min(views, 8), axis=axis)
    names = [f"{k:03d}.png" for k in range(views)]
    try:
        temporary = tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent)
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written: {error.strerror}; name a folder that exists") from error
    with temporary as name:
        whole = Path(name) / "frames"
        whole.mkdir()
        for file, shot in zip(names, shots, strict=True):
            write_png(whole / file, shot)
        write_png(whole / "strip.png", strip)
        os.replace(whole, folder)
        sync(folder.parent)
    return [folder / file for file in names]
