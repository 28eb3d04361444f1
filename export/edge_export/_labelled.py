"""Held-out images and masks from two folders, at network size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from edge_export._tensors import Float32, prepared
from edge_runtime.errors import ConfigError
from edge_runtime.frame import FrameGeometry
from edge_runtime.preprocess import LabelPreprocessor
from edge_runtime.preprocess.spec import PreprocessSpec
from edge_runtime.sources import ImageFolderSource

__all__ = ["labelled_pairs"]

Labels = npt.NDArray[np.uint8]
SUFFIXES = frozenset((".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff"))


def labelled_pairs(
    images: Path, masks: Path, mask_values: tuple[int, ...], spec: PreprocessSpec
) -> tuple[list[Float32], list[Labels]]:
    """Inputs (1, C, h, w) float32 and labels (h, w) uint8 of the files of the same name in both folders.

    `mask_values[k]` is the grey value of label k. Raises `ConfigError` naming the file for one without its partner,
    for sizes that differ and for values that are no class, `SourceError` for one that cannot be decoded.
    """
    pictures, truths = _by_stem(images), _by_stem(masks)
    if lonely := sorted(set(pictures) ^ set(truths)):
        raise ConfigError(f"{lonely[0]} is only in one of {images} and {masks}; every image needs a mask of its name")
    files = [pictures[name] for name in sorted(pictures)]
    with ImageFolderSource(files, mixed_sizes=True) as source:
        frames = list(source)
    prepare = LabelPreprocessor(spec, len(mask_values) - 1)
    labels = []
    with ImageFolderSource([truths[name] for name in sorted(truths)], mixed_sizes=True) as source:
        for frame, mask, path in zip(frames, source, files, strict=True):
            if mask.image.shape != frame.shape:
                raise ConfigError(
                    f"the mask of {path.name} has shape {mask.image.shape}; grey {frame.shape} like its image is needed"
                )
            labels.append(prepare(_classes(mask.image, mask_values, path), FrameGeometry()))
    return prepared(frames, spec), labels


def _by_stem(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder; give the folder of the images or masks")
    found = {path.stem: path for path in sorted(folder.iterdir()) if path.suffix.lower() in SUFFIXES}
    if not found:
        raise ConfigError(f"{folder} holds no images; {', '.join(sorted(SUFFIXES))} are read")
    return found


def _classes(mask: Labels, values: tuple[int, ...], path: Path) -> Labels:
    strange = sorted(set(np.unique(mask).tolist()) - set(values))
    if strange:
        raise ConfigError(
            f"the mask of {path.name} holds the values {strange[:8]}, which are no class; mask_values: {list(values)}"
        )
    table = np.zeros(256, np.uint8)
    table[list(values)] = range(len(values))
    labels: Labels = table[mask]
    return labels
