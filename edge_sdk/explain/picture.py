"""Explanations side by side as one PNG: the frame with both masks' outlines, then one heat map per network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from edge_runtime.atomic import write_bytes
from edge_runtime.errors import ConfigError
from edge_runtime.optional import require

__all__ = ["explanation_picture"]

_TEACHER, _STUDENT = (80, 220, 80), (40, 140, 255)  # outlines, BGR
_HEAD = 26  # pixels of the line of titles
_GAP = 4
_LEAST_WIDTH = 288  # pixels; smaller frames are enlarged by a whole factor


def explanation_picture(
    path: Path,
    grey: Tensor,
    maps: Mapping[str, Tensor],
    *,
    teacher_masks: Tensor | None = None,
    student_masks: Tensor | None = None,
    notes: Mapping[str, list[str]] | None = None,
) -> None:
    """Write a PNG with one row per frame: `grey` (N, H, W) in [0, 1], then each of `maps`, (N, H, W) in [0, 1].

    The keys of `maps` are the columns' titles; `notes` gives under such a key a text for each frame. Masks
    (N, H, W) bool are drawn as outlines on the frame: the teacher's green, the student's orange. Raises
    `ConfigError` for shapes that differ or a path that cannot be written.
    """
    cv2: Any = require("cv2", "to draw explanations")
    wanted = {"grey": grey, "teacher_masks": teacher_masks, "student_masks": student_masks, **maps}
    for name, given in wanted.items():
        if given is not None and given.shape != grey.shape:
            raise ConfigError(f"{name} is {tuple(given.shape)}; {tuple(grey.shape)}, as the frames are, is needed")
    if grey.ndim != 3 or not len(grey) or not maps:
        raise ConfigError(
            f"frames are {tuple(grey.shape)} with {len(maps)} maps; (N, H, W) and at least one are needed"
        )
    factor = max(1, -(-_LEAST_WIDTH // int(grey.shape[2])))
    rows = []
    for k in range(len(grey)):
        base = _enlarge(cv2, _bgr(cv2, grey[k]), factor)
        first = base.copy()
        for masks, colour in ((teacher_masks, _TEACHER), (student_masks, _STUDENT)):
            if masks is not None:
                _outline(cv2, first, masks[k], factor, colour)
        tiles = [first, *(_heat(cv2, base, given[k], factor) for given in maps.values())]
        for tile, name in zip(tiles[1:], maps, strict=True):
            if notes and name in notes:
                _write(cv2, tile, notes[name][k], tile.shape[0] - 8)
        rows.append(_beside(tiles))
    titles = np.zeros((_HEAD, rows[0].shape[1], 3), np.uint8)
    outlines = "frame" if teacher_masks is None else "frame: teacher green, student orange"
    for column, name in enumerate([outlines, *maps]):
        _write(cv2, titles, name, 18, column * (grey.shape[2] * factor + _GAP) + 6)
    done, data = cv2.imencode(".png", np.concatenate([titles, *rows]))
    assert done
    write_bytes(path, data.tobytes())


def _bgr(cv2: Any, plane: Tensor) -> npt.NDArray[np.uint8]:
    found: npt.NDArray[np.uint8] = cv2.cvtColor((plane.clamp(0, 1) * 255).byte().numpy(), cv2.COLOR_GRAY2BGR)
    return found


def _enlarge(cv2: Any, image: npt.NDArray[np.uint8], factor: int) -> npt.NDArray[np.uint8]:
    found: npt.NDArray[np.uint8] = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_LINEAR)
    return found


def _heat(cv2: Any, base: npt.NDArray[np.uint8], plane: Tensor, factor: int) -> npt.NDArray[np.uint8]:
    colours = cv2.applyColorMap((plane.clamp(0, 1) * 255).byte().numpy(), cv2.COLORMAP_INFERNO)
    found: npt.NDArray[np.uint8] = cv2.addWeighted(base, 0.45, _enlarge(cv2, colours, factor), 0.75, 0)
    return found


def _outline(cv2: Any, image: npt.NDArray[np.uint8], mask: Tensor, factor: int, colour: tuple[int, int, int]) -> None:
    large = cv2.resize(mask.byte().numpy(), None, fx=factor, fy=factor, interpolation=cv2.INTER_NEAREST)
    contours, _ = cv2.findContours(large, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(image, contours, -1, colour, 1)


def _write(cv2: Any, image: npt.NDArray[np.uint8], text: str, y: int, x: int = 6) -> None:
    for colour, shift in (((0, 0, 0), 1), ((255, 255, 255), 0)):  # a shadow keeps it readable on bright tissue
        cv2.putText(image, text, (x + shift, y + shift), cv2.FONT_HERSHEY_SIMPLEX, 0.42, colour, 1, cv2.LINE_AA)


def _beside(tiles: list[npt.NDArray[np.uint8]]) -> npt.NDArray[np.uint8]:
    gap = np.zeros((tiles[0].shape[0], _GAP, 3), np.uint8)
    parts = [part for tile in tiles for part in (tile, gap)]
    row = np.concatenate(parts[:-1], axis=1)
    return np.concatenate([row, np.zeros((_GAP, row.shape[1], 3), np.uint8)])
