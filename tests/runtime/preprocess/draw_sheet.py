"""Draws docs/images/preprocessing.png from simulated frames: `python tests/runtime/preprocess/draw_sheet.py PATH`."""

from __future__ import annotations

import sys
from dataclasses import replace

import cv2
import numpy as np
import numpy.typing as npt

from edge_runtime.frame import Frame
from edge_runtime.preprocess import (
    Bilateral,
    Clahe,
    CropToScanArea,
    EqualizeHistogram,
    Gamma,
    Letterbox,
    MaskBoxes,
    MaskColor,
    MaskOutside,
    Median,
    MinMax,
    Normalize,
    Persistence,
    Preprocessor,
    PreprocessSpec,
    Resize,
    Srad,
    Step,
    ToGray,
    ToPolar,
    Unsharp,
    ZScore,
    detect_scan_area,
)
from edge_sdk.simulate import Inclusion, Motion, ProbeModel, Scene, simulate_cine

TILE, COLUMNS, CAPTION = 176, 6, 18
Image = npt.NDArray[np.uint8]


def captures() -> list[Frame]:
    """Eight frames of a convex probe on a page with text, a ruler and a coloured caliper."""
    cyst = Inclusion(kind="anechoic", x_mm=-6, z_mm=24, a_mm=8, b_mm=6, wall_db=12)
    probe = ProbeModel(kind="sector", angle_rad=1.1, apex_radius_mm=30, depth_mm=55)
    motion = Motion(lateral_mm=1.0)
    cine = simulate_cine(Scene(inclusions=(cyst,)), probe, 8, seed=3, shape=(300, 340), motion=motion)
    frames = []
    for index, simulated in enumerate(cine):
        page = np.zeros((360, 440), np.uint8)
        page[40:340, 50:390] = simulated.image
        for k, text in enumerate(("C5-2", "MI 1.1", "11 cm")):
            cv2.putText(page, text, (4, 20 + 20 * k), cv2.FONT_HERSHEY_SIMPLEX, 0.5, 255, 1, cv2.LINE_AA)
        page[44:336:36, 424:434] = 220
        rgb = np.repeat(page[..., None], 3, axis=2)
        cv2.drawMarker(rgb, (172, 160), (255, 220, 0), cv2.MARKER_CROSS, 13, 2)
        cv2.drawMarker(rgb, (230, 190), (255, 220, 0), cv2.MARKER_CROSS, 13, 2)
        geometry = simulated.geometry.moved(50, 40)
        frames.append(Frame(image=rgb, index=index, arrival_ns=0, geometry=geometry))
    area = detect_scan_area([frame.image for frame in frames])
    return [replace(frame, geometry=replace(frame.geometry, scan_area=area)) for frame in frames]


def shown(frames: list[Frame], *steps: Step) -> Image:
    """The last of `frames` after `steps`, its values stretched to 0 to 255 where they are not grey levels."""
    prep = Preprocessor(PreprocessSpec(steps=steps))
    tensor = [prep(frame).tensor[0, -1].copy() for frame in frames][-1]
    if not isinstance(steps[-1], Normalize):
        tensor = 255 * (tensor - tensor.min()) / (tensor.max() - tensor.min())
    return np.clip(np.rint(tensor), 0, 255).astype(np.uint8)


def sheet() -> Image:
    """All tiles with their names."""
    frames = captures()
    grey, size = Normalize(scale=1.0), Letterbox(height=TILE, width=TILE)
    head: tuple[Step, ...] = (CropToScanArea(), MaskColor(), ToGray(), MaskOutside())
    polar = Preprocessor(PreprocessSpec(steps=(ToGray(), ToPolar(height=TILE, width=TILE), grey)))(frames[-1])
    back = polar.map.probability_to_source(polar.tensor[0, 0])
    filters: dict[str, Step] = {
        "median 5": Median(size=5),
        "bilateral": Bilateral(diameter=7, sigma_grey=40, sigma_px=3),
        "srad 40": Srad(iterations=40),
        "clahe": Clahe(clip_limit=3.0),
        "equalize_histogram": EqualizeHistogram(),
        "gamma 0.6": Gamma(gamma=0.6),
        "unsharp": Unsharp(sigma=2.0, amount=1.5),
        "persistence 0.8": Persistence(weight=0.8),
    }
    tiles = {
        "frame, letterbox": shown(frames, ToGray(), size, grey),
        "crop_to_scan_area": shown(frames, CropToScanArea(), ToGray(), size, grey),
        "mask_color": shown(frames, CropToScanArea(), MaskColor(), ToGray(), size, grey),
        "mask_outside": shown(frames, ToGray(), MaskOutside(), size, grey),
        "mask_boxes": shown(frames, ToGray(), MaskBoxes(boxes=((0, 0, 70, 70), (420, 0, 440, 360))), size, grey),
        "resize": shown(frames, *head, Resize(height=TILE, width=TILE), grey),
        **{name: shown(frames, *head, step, size, grey) for name, step in filters.items()},
        "z_score": shown(frames, *head, size, ZScore()),
        "min_max": shown(frames, *head, size, MinMax()),
        "to_polar": polar.tensor[0, 0].astype(np.uint8),
        "to_polar and back": shown(
            [replace(frames[-1], image=np.rint(back).astype(np.uint8))], CropToScanArea(), size, grey
        ),
    }
    cells = []
    for name, tile in tiles.items():
        cell = np.full((TILE + CAPTION, TILE + 4), 255, np.uint8)
        cell[CAPTION:, 2:-2] = tile
        cv2.putText(cell, name, (4, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.42, 0, 1, cv2.LINE_AA)
        cells.append(cell)
    return np.vstack([np.hstack(cells[k : k + COLUMNS]) for k in range(0, len(cells), COLUMNS)])


if __name__ == "__main__":
    if not cv2.imwrite(sys.argv[1], sheet(), [cv2.IMWRITE_PNG_COMPRESSION, 9]):
        raise SystemExit(f"{sys.argv[1]} could not be written")
