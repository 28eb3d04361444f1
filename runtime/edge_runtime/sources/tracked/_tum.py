"""Poses from text: TUM trajectory files, with blanks or commas."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from edge_runtime.errors import ConfigError, SourceError, SourceFormatError
from edge_runtime.geometry import Pose, PoseOrigin, is_rigid, quaternion_wxyz_to_rotation
from edge_runtime.sources.tracked._records import nanoseconds

__all__ = ["read_tum"]

MAX_BYTES = 1 << 28
RIGID = 1e-4  # what a Pose allows
UNIT = 1e-3  # how far a quaternion's length may be from 1


def read_tum(path: str | Path, *, mm_per_unit: float = 1000.0, origin: PoseOrigin = "tracker") -> list[Pose]:
    """Poses `T_world_image` of a file with lines `time tx ty tz qx qy qz qw`, in the file's order.

    The format of the TUM RGB-D benchmark (https://cvg.cit.tum.de/data/datasets/rgbd-dataset/file_formats): seconds,
    metres (`mm_per_unit` says otherwise), a unit quaternion with its real part last. Commas may stand for blanks; lines
    that start with `#`, empty ones and a first line of names (a CSV header) are passed over. Instead of position and
    quaternion a line may have the 16 numbers of a rigid matrix, row by row. Append the poses to a
    `PoseBuffer`, which refuses and counts times that do not follow.

    Raises `SourceError` when the file cannot be read, `SourceFormatError` naming the line that is no pose.
    """
    if not 0 < mm_per_unit < float("inf"):
        raise ConfigError(f"mm_per_unit is {mm_per_unit}; a positive number is needed, 1000 for metres")
    path = Path(path)
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size > MAX_BYTES:
                raise SourceFormatError(f"{path.name} is larger than {MAX_BYTES} bytes; not a file of poses")
            text = file.read().decode("utf-8", "replace")
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror}") from error
    lines = [(k, line.strip()) for k, line in enumerate(text.split("\n"), start=1)]
    if lines[0][1][:1].isalpha() and lines[0][1][:3].lower() not in ("nan", "inf"):  # the names of the columns
        del lines[0]
    poses = [_pose(line, f"{path.name}, line {k}", mm_per_unit, origin) for k, line in lines if line and line[0] != "#"]
    if not poses:
        raise SourceFormatError(f"{path.name} holds no pose; lines 'time tx ty tz qx qy qz qw' are read")
    return poses


def _pose(line: str, name: str, mm_per_unit: float, origin: PoseOrigin) -> Pose:
    words = line.replace(",", " ").split()
    try:
        numbers = np.array([float(word) for word in words[1:]])
    except ValueError:
        numbers = np.empty(0)
    if numbers.shape == (16,) and is_rigid(numbers.reshape(4, 4), RIGID):
        T = numbers.reshape(4, 4).copy()
        T[:3, 3] *= mm_per_unit
        return Pose(T_world_image=T, time_ns=nanoseconds(words[0], name), origin=origin)
    if numbers.shape != (7,) or not np.isfinite(numbers).all() or abs(np.linalg.norm(numbers[3:]) - 1) > UNIT:
        raise SourceFormatError(
            f"{name}: {line[:60]!r} is not 'time tx ty tz qx qy qz qw' with a unit quaternion, nor "
            "'time' and a rigid matrix, row by row"
        )
    T = np.eye(4)
    T[:3, :3] = quaternion_wxyz_to_rotation(numbers[[6, 3, 4, 5]])
    T[:3, 3] = numbers[:3] * mm_per_unit
    return Pose(T_world_image=T, time_ns=nanoseconds(words[0], name), origin=origin)
