"""Frames from a file, or made of speckle, as network inputs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ConfigError
from edge_runtime.frame import Frame, FrameGeometry, Rectangle
from edge_runtime.preprocess import Preprocessor
from edge_runtime.preprocess.spec import PreprocessSpec
from edge_runtime.sources import open_source

__all__ = ["Float32", "network_tensors", "prepared", "speckle_frames"]

Float32 = npt.NDArray[np.float32]
SIDE = 256  # pixels of a synthetic frame


def network_tensors(
    path: Path,
    spec: PreprocessSpec,
    *,
    every: int = 1,
    count: int = 64,
    scan_area: tuple[float, float, float, float] | None = None,
) -> list[Float32]:
    """(1, C, h, w) float32 of every `every`-th frame of `path`, at most `count`; raises as `open_source` does.

    The images of a folder may have different sizes. `scan_area` (x0, y0, x1, y1), pixels, half open, replaces the
    file's geometry.
    """
    geometry = None
    if scan_area is not None:
        x0, y0, x1, y1 = scan_area
        geometry = FrameGeometry(
            scan_area=Rectangle(x0=x0, y0=y0, x1=x1, y1=y1), origin="user", reason="given without a pixel size"
        )
    prepare, tensors = Preprocessor(spec), list[Float32]()
    options: dict[str, Any] = {"mixed_sizes": True} if path.is_dir() else {}  # stills of several machines
    with open_source(path, geometry=geometry, **options) as source:
        for frame in source:
            tensor = prepare(frame).tensor  # every frame, because a stack has state
            if frame.index % every == 0:
                tensors.append(tensor.copy())
            if len(tensors) == count:
                break
    if not tensors:
        raise ConfigError(f"{path} gave no frame; frames for quantization calibration are needed")
    return tensors


def prepared(frames: Iterable[Frame], spec: PreprocessSpec) -> list[Float32]:
    """(1, C, h, w) float32 of each frame, each on its own."""
    prepare, tensors = Preprocessor(spec), list[Float32]()
    for frame in frames:
        prepare.reset()
        tensors.append(prepare(frame).tensor.copy())
    return tensors


def speckle_frames(seed: int, count: int) -> list[Frame]:
    """`count` frames (256, 256) uint8 of log-compressed Rayleigh speckle around a dark ellipse; nobody's anatomy."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    frames = []
    for index in range(count):
        (cx, cy), (rx, ry) = generator.uniform(0.35, 0.65, 2), generator.uniform(0.1, 0.25, 2)
        inside = ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 < 1
        amplitude = generator.rayleigh(np.where(inside, 0.02, 1.0))
        decibel = 20 * np.log10(np.maximum(amplitude, 1e-6))
        image = np.clip((decibel + 50) / 60 * 255, 0, 255).astype(np.uint8)
        frames.append(Frame(image=image, index=index, arrival_ns=0, geometry=FrameGeometry()))
    return frames
