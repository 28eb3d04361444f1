"""Clips and frames named in a manifest, through the device's own preprocessing, split by patient."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ConfigError, SourceError
from edge_runtime.preprocess import Preprocessor, PreprocessSpec, Stack
from edge_runtime.settings_file import read_text
from edge_runtime.sources import open_source
from edge_sdk.progress import Progress, ProgressEvent, ignore_progress
from edge_sdk.tasks.classification.recipe import ClassSpec, ManifestData

__all__ = ["ClipSet", "ManifestRow", "patient_folds", "read_clips", "read_manifest"]

SPLITS = ("train", "test")


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestRow:
    """One file: its path, class index, split, patient, and the line of the manifest it stands on."""

    path: Path
    label: int
    split: str
    patient: str
    line: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ClipSet:
    """Network inputs of N clips (or frames).

    `inputs` (N, C, H, W) float32; `labels` (N,) int64 class indices; `files` (N,) and `patients` (N,) names. Files'
    names are without folders; `sha256` is over the files' bytes and what was taken from them.
    """

    inputs: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    files: tuple[str, ...]
    patients: tuple[str, ...]
    sha256: str

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, keep: npt.NDArray[np.bool_]) -> ClipSet:
        """The clips where `keep` (N,) is true; `ConfigError` when there are none."""
        index = np.flatnonzero(keep)
        if not len(index):
            raise ConfigError("no clip is left of the set; check the split, the patients and the filter")
        digest = hashlib.sha256(f"{self.sha256}|{index.tolist()}".encode()).hexdigest()
        return replace(
            self,
            inputs=self.inputs[index],
            labels=self.labels[index],
            files=tuple(self.files[k] for k in index),
            patients=tuple(self.patients[k] for k in index),
            sha256=digest,
        )

    def split(self, patients: Iterable[str]) -> tuple[ClipSet, ClipSet]:
        """(the others' clips, these patients' clips); `ConfigError` when either is empty."""
        chosen = set(patients)
        own = np.array([name in chosen for name in self.patients])
        return self.subset(~own), self.subset(own)


def read_manifest(
    data: ManifestData, classes: Sequence[ClassSpec], base: Path, *, check_splits: bool = True
) -> list[ManifestRow]:
    """The rows of the manifest that `data.where` keeps, in its order.

    `check_splits` False is for a cohort that is only scored.

    Raises `ConfigError` naming the manifest and the line for a missing column, an unknown label or split, an empty
    or missing file, a file named twice, and for a patient in both splits.
    """
    path = base / data.manifest
    reader = csv.DictReader(StringIO(read_text(path, "manifest")))
    columns = data.columns
    wanted = [columns.file, columns.label, columns.split, columns.patient, *data.where]
    missing = [name for name in wanted if name not in (reader.fieldnames or ())]
    if missing:
        raise ConfigError(f"{path}: columns {missing} are missing; it has {reader.fieldnames}")
    index = {label: k for k, spec in enumerate(classes) for label in spec.all_labels}
    rows = []
    for entry in reader:
        if any(entry[name] not in values for name, values in data.where.items()):
            continue
        if not entry[columns.file] and data.skip_empty:
            continue
        rows.append(_row(path, reader.line_num, entry, data, index))
    if not rows:
        raise ConfigError(f"{path}: no row is left; check `where` ({data.where}) and skip_empty")
    _check_files(path, rows)
    if check_splits:
        _check_patients(path, rows)
    return rows


def _row(path: Path, line: int, entry: dict[str, str], data: ManifestData, index: dict[str, int]) -> ManifestRow:
    columns = data.columns
    name, label, split = entry[columns.file], entry[columns.label], entry[columns.split]
    where = f"{path}, line {line}"
    if label not in index:
        raise ConfigError(f"{where}: label {label!r} belongs to no class; {sorted(index)} are known")
    if split not in SPLITS:
        raise ConfigError(f"{where}: split is {split!r}; 'train' and 'test' are allowed")
    if not entry[columns.patient]:
        raise ConfigError(f"{where}: the patient is empty; a split by patient needs one for every file")
    file = path.parent / name
    if not name or not file.exists():
        raise ConfigError(f"{where}: file {name!r} does not exist in {path.parent}")
    return ManifestRow(path=file, label=index[label], split=split, patient=entry[columns.patient], line=line)


def _check_files(path: Path, rows: Sequence[ManifestRow]) -> None:
    lines: dict[Path, int] = {}
    for row in rows:
        if row.path in lines:
            raise ConfigError(
                f"{path}: {row.path.name} stands on lines {lines[row.path]} and {row.line}; once is enough"
            )
        lines[row.path] = row.line


def _check_patients(path: Path, rows: Sequence[ManifestRow]) -> None:
    seen: dict[str, ManifestRow] = {}
    for row in rows:
        first = seen.setdefault(row.patient, row)
        if first.split != row.split:
            raise ConfigError(
                f"{path}: patient {row.patient!r} is in both splits: {first.path.name} (line {first.line}) in "
                f"{first.split}, {row.path.name} (line {row.line}) in {row.split}; put each patient into one"
            )


def read_clips(
    rows: Sequence[ManifestRow], spec: PreprocessSpec, samples: int, progress: Progress = ignore_progress
) -> ClipSet:
    """`samples` clips of every file, evenly spaced among the frames at which the stack is full.

    All frames pass the device's `Preprocessor` in order, as on a lossless source. A file with fewer such places
    gives each of them once. Raises `ConfigError` naming the file when it is shorter than one stack, and
    `SourceError` when it cannot be read.
    """
    prepare = Preprocessor(spec)
    parts: list[npt.NDArray[np.float32]] = []
    labels: list[int] = []
    files: list[str] = []
    patients: list[str] = []
    digest = hashlib.sha256(spec.to_json() + f"|{samples}".encode())
    for k, row in enumerate(rows):
        clips = _file_clips(row.path, prepare, samples)
        parts.append(clips)
        labels += [row.label] * len(clips)
        files += [row.path.name] * len(clips)
        patients += [row.patient] * len(clips)
        digest.update(f"|{row.path.name}|{row.label}|{row.patient}|{clips.shape}".encode())
        digest.update(clips.tobytes())
        progress(ProgressEvent(task="clips", step=k + 1, total=len(rows)))
    return ClipSet(
        inputs=np.concatenate(parts),
        labels=np.array(labels, np.int64),
        files=tuple(files),
        patients=tuple(patients),
        sha256=digest.hexdigest(),
    )


def patient_folds(rows: Sequence[ManifestRow], k: int) -> list[tuple[str, ...]]:
    """`k` sets of patients: those of each class, sorted by name, are dealt out in turn, so each fold has all classes
    that have `k` patients or more. A patient of several classes counts for the first.

    Raises `ConfigError` for fewer than 2 folds or fewer patients than folds.
    """
    first: dict[str, int] = {}
    for row in rows:
        first.setdefault(row.patient, row.label)
    if not 2 <= k <= len(first):
        raise ConfigError(f"{k} folds of {len(first)} patients; 2 to {len(first)} are possible")
    order = sorted(first, key=lambda name: (first[name], name))
    return [tuple(order[start::k]) for start in range(k)]


def _file_clips(path: Path, prepare: Preprocessor, samples: int) -> npt.NDArray[np.float32]:
    """(n, C, H, W) float32, n <= `samples`."""
    span = _span(prepare.spec)
    prepare.reset()
    inputs: list[npt.NDArray[np.float32]] = []
    with open_source(path) as source:
        frames = list(source)
    if len(frames) <= span:
        raise ConfigError(
            f"{path}: {len(frames)} frames; the stack spans {span + 1}. Shorten it, or leave the file out"
        )
    places = set(np.linspace(span, len(frames) - 1, min(samples, len(frames) - span)).round().astype(int).tolist())
    for k, frame in enumerate(frames):
        if frame.shape != frames[0].shape:
            raise SourceError(
                f"{path}: frame {k} is {frame.shape}, the first {frames[0].shape}; equal sizes are needed"
            )
        tensor = prepare(frame).tensor
        if k in places:
            inputs.append(tensor[0].copy())
    return np.stack(inputs)


def _span(spec: PreprocessSpec) -> int:
    """Frames between the oldest and the newest of a stack."""
    return sum((step.n - 1) * step.stride for step in spec.steps if isinstance(step, Stack))
