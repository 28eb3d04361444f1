"""Frames with boxes: from a CSV file, into a training set, and back from the network's output."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from edge_runtime.errors import ConfigError
from edge_runtime.frame import Frame
from edge_runtime.preprocess import Preprocessor, PreprocessSpec
from edge_runtime.preprocess.pixel_map import PixelMap
from edge_sdk.batch import Field, TrainingSet
from edge_sdk.frames import UnlabelledFrames, frames_of, grey_scale, network_inputs
from edge_sdk.pairs import read_image

__all__ = ["BoxedFrames", "network_boxes", "read_boxes", "source_boxes", "training_set"]

Boxes = npt.NDArray[np.float32]
_COLUMNS = ("file", "label", "x", "y", "w", "h")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BoxedFrames:
    """Frames with truth: `boxes[i]` (M_i, 5) float32 rows (label, x0, y0, x1, y1) in pixels of `frames[i]`.

    Half open, pixel edges at integers. A frame may have no box. `names` are file names and `groups` the keys that
    must stay together in a split, one per frame. Raises `ConfigError` for no frames, counts that differ, and boxes
    that are empty or leave their frame.
    """

    frames: Sequence[Frame]
    boxes: Sequence[Boxes]
    names: tuple[str, ...]
    groups: tuple[str, ...]

    def __post_init__(self) -> None:
        lengths = {len(self.frames), len(self.boxes), len(self.names), len(self.groups)}
        if len(lengths) != 1 or not self.frames:
            raise ConfigError(
                f"{len(self.frames)} frames, {len(self.boxes)} sets of boxes, {len(self.names)} names and "
                f"{len(self.groups)} groups; equal numbers, at least one, are needed"
            )
        for frame, boxes, name in zip(self.frames, self.boxes, self.names, strict=True):
            if boxes.ndim != 2 or boxes.shape[1] != 5 or boxes.dtype != np.float32:
                raise ConfigError(f"{name}: boxes are {boxes.dtype} {boxes.shape}; float32 (M, 5) is needed")
            for box in boxes:
                _check_box(box[1:], frame.shape, name)

    def part(self, indices: Sequence[int]) -> BoxedFrames:
        """The frames of `indices`, in that order."""
        return BoxedFrames(
            frames=[self.frames[i] for i in indices],
            boxes=[self.boxes[i] for i in indices],
            names=tuple(self.names[i] for i in indices),
            groups=tuple(self.groups[i] for i in indices),
        )

    @property
    def sha256(self) -> str:
        """Hash of pixels and boxes."""
        digest = hashlib.sha256()
        for frame, boxes in zip(self.frames, self.boxes, strict=True):
            digest.update(repr((frame.image.shape, frame.geometry, boxes.shape)).encode())
            digest.update(frame.image.tobytes())
            digest.update(boxes.tobytes())
        return digest.hexdigest()


def _check_box(box: Boxes, shape: tuple[int, ...], where: str) -> None:
    x0, y0, x1, y1 = (float(v) for v in box)
    if not (0 <= x0 < x1 <= shape[1] and 0 <= y0 < y1 <= shape[0]):
        raise ConfigError(
            f"{where}: box x {x0:g} to {x1:g}, y {y0:g} to {y1:g}; boxes of a pixel or more inside the image of "
            f"{shape[1]} x {shape[0]} (width x height) are allowed"
        )


def read_boxes(
    images: Path, boxes: Path, manifest: Path, classes: Sequence[str], group: str = ""
) -> tuple[BoxedFrames, BoxedFrames]:
    """The train and test frames of a folder of images.

    `boxes` is a CSV file with the columns file, label (a name of `classes`), x, y, w, h in pixels; `manifest` one
    with file and split (train or test) and names the images that are read: one without a row in `boxes` has no
    object. `group` is the manifest's column of what must not be divided between the splits. Raises `ConfigError`
    naming file and line for a missing image, an unknown label, a number that is none, a box outside its image, a file
    that the manifest does not name or names twice, a group in both splits.
    """
    found = _read_rows(boxes, classes)
    listed = _read_manifest(manifest, group)
    strange = sorted(set(found) - set(listed))
    if strange:
        raise ConfigError(f"{boxes} has boxes of {strange[0]}, which {manifest} does not name; add it there")
    parts = []
    for split in ("train", "test"):
        names = [name for name, (where, _) in listed.items() if where == split]
        if not names:
            raise ConfigError(f"{manifest} has no file of split {split!r}; both train and test need at least one")
        arrays = [_image(images / name) for name in names]
        for name, array in zip(names, arrays, strict=True):
            for line, row in found.get(name, []):
                _check_box(row[1:], array.shape, f"{boxes}, line {line}, {name}")
        parts.append(
            BoxedFrames(
                frames=[frames_of(array[None])[0] for array in arrays],
                boxes=[_stack([row for _, row in found.get(name, [])]) for name in names],
                names=tuple(names),
                groups=tuple(listed[name][1] for name in names),
            )
        )
    shared = sorted(set(parts[0].groups) & set(parts[1].groups))
    if shared:
        raise ConfigError(f"{manifest}: {group or 'file'} {shared[0]!r} is in both splits; keep it in one")
    return parts[0], parts[1]


def _image(path: Path) -> npt.NDArray[np.uint8]:
    if not path.is_file():
        raise ConfigError(f"{path} is not there; the manifest names it")
    return read_image(path)


def _stack(rows: list[Boxes]) -> Boxes:
    return np.stack(rows) if rows else np.zeros((0, 5), np.float32)


def _rows(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    missing = [name for name in columns if name not in (reader.fieldnames or [])]
    if missing:
        raise ConfigError(f"{path} has no column {missing[0]!r}; {', '.join(columns)} are needed")
    return rows


def _read_rows(path: Path, classes: Sequence[str]) -> dict[str, list[tuple[int, Boxes]]]:
    """Of every file its boxes (label, x0, y0, x1, y1) with their lines."""
    found: dict[str, list[tuple[int, Boxes]]] = {}
    for line, row in enumerate(_rows(path, _COLUMNS), start=2):
        if row["label"] not in classes:
            raise ConfigError(f"{path}, line {line}: label {row['label']!r}; one of {list(classes)} is needed")
        try:
            x, y, w, h = (float(row[name]) for name in ("x", "y", "w", "h"))
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{path}, line {line}: x, y, w and h must be numbers: {error}") from error
        box = np.array([classes.index(row["label"]), x, y, x + w, y + h], np.float32)
        found.setdefault(row["file"], []).append((line, box))
    return found


def _read_manifest(path: Path, group: str) -> dict[str, tuple[str, str]]:
    """Of every file its split and its group (its own name without a group column)."""
    listed: dict[str, tuple[str, str]] = {}
    for line, row in enumerate(_rows(path, ("file", "split", *([group] if group else []))), start=2):
        name, split = row["file"], row["split"]
        if not name or Path(name).name != name or split not in ("train", "test"):
            raise ConfigError(
                f"{path}, line {line}: file {name!r}, split {split!r}; a file name without folders and the split "
                "train or test are needed"
            )
        if name in listed:
            raise ConfigError(f"{path}, line {line}: {name} stands in the file twice; keep one line")
        listed[name] = (split, row[group] if group else name)
    return listed


def network_boxes(data: BoxedFrames, spec: PreprocessSpec, classes: int) -> npt.NDArray[np.float32]:
    """(N, M, 5) float32 rows (label, x0, y0, x1, y1) in network pixels, label -1 for padding.

    Boxes take the frames' way (crop, letterbox, resize) and are clipped to the network image; one that a crop leaves
    nothing of becomes padding. Raises `ConfigError` for a label that is no class.
    """
    prepare = Preprocessor(spec)
    most = max(1, *(len(boxes) for boxes in data.boxes))
    found = np.zeros((len(data.frames), most, 5), np.float32)
    found[..., 0] = -1
    for k, (frame, boxes) in enumerate(zip(data.frames, data.boxes, strict=True)):
        if len(boxes) and not (boxes[:, 0].min() >= 0 and boxes[:, 0].max() < classes):
            raise ConfigError(f"{data.names[k]}: a box has label {boxes[:, 0].max():g}; 0 to {classes - 1} are allowed")
        place = prepare(frame).map
        # pixel edges at integers here, pixel centres at integers in the map
        corners = place.to_network(boxes[:, 1:].reshape(-1, 2, 2) - 0.5) + 0.5
        corners = np.clip(corners, 0, place.network_shape[::-1]).reshape(-1, 4)
        seen = (corners[:, 2] > corners[:, 0]) & (corners[:, 3] > corners[:, 1])
        found[k, : seen.sum(), 0] = boxes[seen, 0]
        found[k, : seen.sum(), 1:] = corners[seen]
    return found


def source_boxes(boxes: npt.NDArray[np.floating], place: PixelMap) -> npt.NDArray[np.float64]:
    """(M, 4) boxes x0, y0, x1, y1 in network pixels -> source pixels, clipped to the frame."""
    corners = place.to_source(np.asarray(boxes, np.float64).reshape(-1, 2, 2) - 0.5) + 0.5
    clipped: npt.NDArray[np.float64] = np.clip(corners, 0, place.source_shape[::-1]).reshape(-1, 4)
    return clipped


def training_set(
    labelled: BoxedFrames | None,
    spec: PreprocessSpec,
    classes: int,
    unlabelled: Sequence[UnlabelledFrames] = (),
) -> TrainingSet:
    """Inputs and the target "boxes" of kind boxes, so that augmentation moves both; unlabelled frames have padding."""
    groups = [network_inputs(source.frames, spec) for source in unlabelled]
    truth = np.zeros((sum(map(len, groups)), 1, 5), np.float32)
    truth[..., 0] = -1
    known = 0
    if labelled is not None:
        groups.insert(0, network_inputs(labelled.frames, spec))
        own, known = network_boxes(labelled, spec, classes), len(labelled.frames)
        more = np.zeros((len(truth), own.shape[1], 5), np.float32)
        more[..., 0] = -1
        truth = np.concatenate([own, more])
    if not groups:
        raise ConfigError("neither labelled nor unlabelled frames were given; a detector needs frames to learn from")
    inputs = torch.from_numpy(np.concatenate(groups))
    return TrainingSet(
        inputs=inputs,
        labelled=torch.arange(len(inputs)) < known,
        targets={"boxes": Field(values=torch.from_numpy(truth), kind="boxes")},
        scale=grey_scale(spec),
    )
