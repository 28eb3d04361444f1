"""Image files with mask files of the same names, split into training and held-out pairs."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ConfigError
from edge_runtime.optional import require
from edge_sdk.frames import LabelledFrames, frames_of

__all__ = ["PairPaths", "find_pairs", "read_image", "read_labels", "read_pairs"]

_SUFFIXES = frozenset((".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".tif", ".tiff"))


@dataclass(frozen=True, slots=True, kw_only=True)
class PairPaths:
    """An image file, its mask file, and whether the pair is held out of training."""

    image: Path
    mask: Path
    held_out: bool


def find_pairs(images: Path, masks: Path, *, manifest: Path | None, hold_out_every: int) -> list[PairPaths]:
    """Pairs in the order of their names; raises `ConfigError` naming the folder or file that is missing."""
    found, truth = _images_in(images), _images_in(masks)
    missing = sorted(set(found) - set(truth))
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ConfigError(f"{found[missing[0]]} has no mask{more}; a file {missing[0]}.* is needed in {masks}")
    if not found:
        raise ConfigError(f"{images} holds no images; {', '.join(sorted(_SUFFIXES))} are read")
    splits = _splits(manifest) if manifest else None
    pairs = []
    for k, stem in enumerate(sorted(found)):
        if splits is None:
            held_out = k % hold_out_every == hold_out_every - 1
        elif stem not in splits:
            raise ConfigError(f"{manifest} has no row for {found[stem].name}; add it, or take the image away")
        else:
            held_out = splits[stem] == "test"
        pairs.append(PairPaths(image=found[stem], mask=truth[stem], held_out=held_out))
    return pairs


def _images_in(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder; give the folder of the images or masks")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in _SUFFIXES:
            if path.stem in found:
                raise ConfigError(f"{path} and {found[path.stem].name} have the same name; keep one")
            found[path.stem] = path
    return found


def _splits(manifest: Path) -> dict[str, str]:
    try:
        with manifest.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{manifest} cannot be read: {error}") from error
    splits = {}
    for line, row in enumerate(rows, start=2):
        name, split = row.get("file"), row.get("split")
        if not name or split not in ("train", "test"):
            raise ConfigError(
                f"{manifest}, line {line}: file {name!r}, split {split!r}; the columns file and split are needed, "
                "split being train or test"
            )
        splits[Path(name).stem] = split
    return splits


def read_pairs(pairs: list[PairPaths], mask_values: tuple[int, ...]) -> LabelledFrames:
    """Grey frames and label masks of `pairs`; `mask_values[k]` becomes label k.

    Raises `ConfigError` naming the file for one that is no image, sizes that differ, and mask values that are not
    among `mask_values`.
    """
    images, masks = [], []
    for pair in pairs:
        image = _decode(pair.image, grey=True)
        images.append(image)
        masks.append(read_labels(pair.mask, mask_values, image.shape, pair.image))
    frames = [frames_of(image[None])[0] for image in images]
    return LabelledFrames(frames=frames, masks=masks, names=tuple(str(pair.mask) for pair in pairs))


def read_image(path: Path) -> npt.NDArray[np.uint8]:
    """(H, W) grey or (H, W, 3) RGB uint8, as the file has it; `ConfigError` naming it when it is no image."""
    cv2: Any = require("cv2", "to read images")
    image = _decode(path, grey=False)
    return image if image.ndim == 2 else np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)


def read_labels(
    path: Path, mask_values: tuple[int, ...], shape: tuple[int, ...] | None = None, image: Path | None = None
) -> npt.NDArray[np.uint8]:
    """(H, W) uint8 labels of a mask file: the pixels of value `mask_values[k]` are k.

    The value of a pixel is its index where the file has a palette (OpenCV would turn the palette's colours to grey),
    else its grey level; a colour mask whose channels are equal counts as grey. Raises `ConfigError` naming
    the file for one that is no image, has colours without a palette, a size other than `shape` (that of `image`), or
    values that are not among `mask_values`.
    """
    mask = _mask_values(path)
    if shape is not None and mask.shape != shape[:2]:
        raise ConfigError(
            f"{path} is {mask.shape}, its image {image} {tuple(shape[:2])}; equal sizes (H, W) are needed"
        )
    return _labels(path, mask, mask_values)


def _decode(path: Path, *, grey: bool) -> npt.NDArray[np.uint8]:
    cv2: Any = require("cv2", "to read images")
    data = np.frombuffer(path.read_bytes(), np.uint8)
    image = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE if grey else cv2.IMREAD_ANYCOLOR) if data.size else None
    if image is None:
        raise ConfigError(f"{path} cannot be decoded as an image")
    return np.asarray(image, np.uint8)


def _mask_values(path: Path) -> npt.NDArray[np.int64]:
    pillow: Any = require("PIL.Image", "to read masks by their palette's index")
    try:
        with pillow.open(path) as image:
            image.load()
            kind = image.mode
            values = np.asarray(image.convert("L") if kind == "1" else image).astype(np.int64)
    except (OSError, SyntaxError, ValueError) as error:
        raise ConfigError(f"{path} cannot be decoded as an image: {error}") from error
    if kind in ("LA", "PA"):
        values = values[..., 0]
    if values.ndim == 3 and kind in ("RGB", "RGBA") and (values[..., :1] == values[..., :3]).all():
        values = values[..., 0]
    if values.ndim != 2:
        raise ConfigError(
            f"{path} is a colour image ({kind}) without a palette; a mask has one value a pixel: "
            "save it as a grey or palette image"
        )
    return values


def _labels(path: Path, mask: npt.NDArray[np.int64], values: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    strange = sorted(set(np.unique(mask).tolist()) - set(values))
    if strange:
        raise ConfigError(
            f"{path} holds the values {strange[:8]}, which are no class; mask_values allows {list(values)}"
        )
    table = np.zeros(256, np.uint8)
    table[list(values)] = range(len(values))
    labels: npt.NDArray[np.uint8] = table[mask]
    return labels
