"""Fetal heads of the HC18 subset: frames as the device reads them, and scores in the pixels and mm of the files."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.distill.stored import data_root, data_sha256
from edge_runtime.metrics.ellipse import head_circumference
from edge_runtime.metrics.segmentation import dice
from edge_runtime.preprocess import CropToScanArea, Normalize, PreprocessSpec, ToGray
from edge_runtime.preprocess.spec import Resize
from edge_sdk.frames import LabelledFrames
from edge_sdk.pairs import PairPaths, read_pairs

__all__ = ["OFFSET_PX", "SPEC", "Heads", "folder", "read_heads", "score", "sha256"]

# the published circumference was measured on the middle of a drawn line, the masks are filled to its outer edge; the
# offset was fitted on the masks of the train split (`edge_runtime.metrics.ellipse.head_circumference`)
OFFSET_PX = -1.356
SPEC = PreprocessSpec(
    steps=(CropToScanArea(), ToGray(), Resize(height=160, width=240), Normalize(mean=63.75, std=63.75, scale=1.0))
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Heads:
    """Images of one split with masks, names, mm per pixel, published circumference in mm and examination."""

    labelled: LabelledFrames
    names: list[str]
    pixel_mm: npt.NDArray[np.float64]
    circumference_mm: npt.NDArray[np.float64]
    exams: list[str]

    def part(self, chosen: Sequence[int]) -> Heads:
        """The images of `chosen`."""
        frames, masks = self.labelled.frames, self.labelled.masks
        return Heads(
            labelled=LabelledFrames(frames=[frames[k] for k in chosen], masks=[masks[k] for k in chosen]),
            names=[self.names[k] for k in chosen],
            pixel_mm=self.pixel_mm[list(chosen)],
            circumference_mm=self.circumference_mm[list(chosen)],
            exams=[self.exams[k] for k in chosen],
        )

    def halves(self, parts: int = 4) -> tuple[Heads, Heads]:
        """For choosing settings: all but every `parts`-th examination, and those."""
        exams = sorted(set(self.exams))
        held = set(exams[::parts])
        train = [k for k, exam in enumerate(self.exams) if exam not in held]
        return self.part(train), self.part([k for k, exam in enumerate(self.exams) if exam in held])


def folder() -> Path:
    """Where the set lies."""
    return data_root() / "segmentation" / "hc18_fetal_head"


@cache
def sha256() -> str:
    """Hash of every image, mask and the manifest."""
    return data_sha256([path for path in folder().rglob("*") if path.suffix in (".png", ".csv")])


@cache
def read_heads(split: str) -> Heads:
    """The images of "train" or "test"."""
    with (folder() / "manifest.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == split]
    images, masks = folder() / "images", folder() / "masks"
    pairs = [PairPaths(image=images / row["file"], mask=masks / row["file"], held_out=False) for row in rows]
    return Heads(
        labelled=read_pairs(pairs, (0, 255)),
        names=[row["file"] for row in rows],
        pixel_mm=np.array([float(row["pixel_size_mm"]) for row in rows]),
        circumference_mm=np.array([float(row["head_circumference_mm"]) for row in rows]),
        exams=[row["exam"] for row in rows],
    )


def score(logits: npt.NDArray[np.float32], heads: Heads) -> dict[str, list[float]]:
    """Per image Dice in the file's own pixels and signed error of the circumference in mm, from (N, h, w) logits.

    The logits are enlarged bilinearly to the image's size, as the device does; a mask that no ellipse fits counts as
    a circumference of 0.
    """
    import cv2

    found: dict[str, list[float]] = {"dice": [], "hc_error_mm": []}
    for k, plane in enumerate(logits):
        truth = heads.labelled.masks[k]
        size = truth.shape[::-1]
        large: Any = cv2.resize(plane.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
        found["dice"].append(dice(large > 0, truth))
        pixel = float(heads.pixel_mm[k])
        measured = head_circumference(
            1 / (1 + np.exp(-np.clip(large, -30, 30))), (pixel, pixel), contour_offset_mm=OFFSET_PX * pixel
        )
        found["hc_error_mm"].append((0.0 if np.isnan(measured) else measured) - float(heads.circumference_mm[k]))
    return found
