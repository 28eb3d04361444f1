"""Poses and motions out of recordings, for the calibrations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import SourceFormatError
from edge_runtime.sources.tracked import TrackedSequence, TransformGraph, read_sequence, read_tum

__all__ = ["read_recorded_poses", "recorded_poses"]

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

RECORDINGS = (".mha", ".nrrd")


def recorded_poses(sequence: TrackedSequence, transform: str) -> tuple[F64, I64]:
    """The matrices (N, 4, 4) of a chain of recorded transforms, and the records (N,) in which every step is `OK`.

    For transforms between tools, in mm; those out of the image are `image_poses`'s. Raises `ConfigError`, showing the
    graph, when there is no such chain, and `SourceFormatError` when no record is usable.
    """
    graph = TransformGraph(sequence.transforms)
    usable = np.ones(len(sequence), np.bool_)
    for step in graph.path(transform):
        usable &= sequence.usable(step.name)
    kept = np.flatnonzero(usable).astype(np.int64)
    if not len(kept):
        raise SourceFormatError(f"{transform} is valid in none of {len(sequence)} records; was the tool in sight?")
    return np.asarray(graph.resolve(transform)[kept]), kept


def read_recorded_poses(path: str | Path, transform: str) -> tuple[F64, I64]:
    """Matrices (N, 4, 4) and times (N,) ns of a recording (`.igs.mha`, `.seq.nrrd`), or of a TUM file in metres.

    Of a TUM file `transform` is what it holds, taken as it is. Raises what the readers and `recorded_poses` raise;
    `SourceFormatError` for a recording without times.
    """
    if not str(path).lower().endswith(RECORDINGS):
        poses = read_tum(path)
        return np.stack([p.T_world_image for p in poses]), np.array([p.time_ns for p in poses], np.int64)
    sequence = read_sequence(path)
    if sequence.times_ns is None:
        raise SourceFormatError(f"{path} has no timestamps; clocks can only be compared with them")
    T, kept = recorded_poses(sequence, transform)
    return T, sequence.times_ns[kept]
