"""The files of the TUS-REC challenges: scans and landmarks in HDF5, the calibration as CSV.

The layout is that of UCL/tus-rec-challenge, data.md (2025) and TUS-REC2024/data.md. There `tforms` take the tracked
tool to the camera, in mm, and the calibration takes pixels to mm and mm to the tool. PIXELS COUNT FROM 1, so that the
centre of the first one lies at `scale (1, 1, 0)`; FRAMES COUNT FROM 0. Everything that leaves this module is in the
house's frame: origin at the centre of pixel (0, 0), pixels and frames from 0. h5py is needed, and only here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import SourceError, SourceFormatError
from edge_runtime.frame import FrameGeometry
from edge_runtime.geometry import is_rigid
from edge_runtime.optional import require
from edge_runtime.reconstruct import Sweep

__all__ = [
    "ChallengeCalibration",
    "ChallengeFrames",
    "ChallengeScan",
    "challenge_calibration",
    "challenge_landmarks",
    "find_challenge_scans",
    "read_challenge_calibration",
    "read_challenge_landmarks",
    "read_challenge_poses",
    "read_challenge_sweep",
]

Floats = npt.NDArray[np.float64]

SCALE = "scaling_from_pixel_to_mm"
RIGID = "spatial_calibration_from_image_coordinate_system_to_tracking_tool_coordinate_system"
FPS = 20.0  # of every scan of both challenges
TOLERANCE = 1e-3  # matrices come as text and float32
SUBJECT = re.compile(r"\d{3}")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ChallengeCalibration:
    """`geometry`: mm per pixel. `T_tool_image` (4, 4) rigid, mm, from an image frame whose origin is the centre of the
    first pixel."""

    geometry: FrameGeometry
    T_tool_image: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class ChallengeScan:
    """Where the parts of one scan lie. `frames` may be the file of the poses; `landmarks` is None where there are none.

    `key`: the scan's name inside the file of landmarks. `name`: subject and key, as in `000/RH_rotation`.
    """

    name: str
    key: str
    poses: Path
    frames: Path
    landmarks: Path | None


class ChallengeFrames:
    """The images (N, H, W) uint8 of a scan, each read when it is asked for; the frames of a `Sweep`."""

    def __init__(self, path: str | Path) -> None:
        """Raises `SourceError` and `SourceFormatError` for a file without `frames` (N, H, W) uint8."""
        self._path = Path(path)
        with _dataset(self._path, "frames") as found:
            shape, dtype = found.shape, found.dtype
        if len(shape) != 3 or 0 in shape or dtype != np.uint8:
            raise SourceFormatError(f"{path}: frames are {shape} {dtype}; (N, H, W) uint8 is needed")
        self._count = int(shape[0])
        self.shape = (int(shape[1]), int(shape[2]))

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int, /) -> npt.NDArray[np.uint8]:
        with _dataset(self._path, "frames") as found:
            return np.asarray(found[index], np.uint8)


def challenge_calibration(scale: Floats, T_tool_mm: Floats) -> ChallengeCalibration:
    """The two matrices (4, 4) of the challenge in the house's frame.

    `scale`: pixels, from 1, to mm. `T_tool_mm`: those mm to the tool. Raises `SourceFormatError` for a scale that turns
    or shears and a second matrix that is not rigid.
    """
    plane = scale[:2, :2]
    if (plane != np.diag(np.diag(plane))).any() or (np.diag(plane) <= 0).any():
        raise SourceFormatError(f"{SCALE} is {plane.tolist()} in the plane; two positive mm per pixel are needed")
    if not is_rigid(T_tool_mm, TOLERANCE):
        raise SourceFormatError(f"{RIGID} is not a rigid matrix")
    first = np.eye(4)
    first[:3, 3] = (scale @ (1, 1, 0, 1))[:3]
    geometry = FrameGeometry(
        column_mm=float(scale[0, 0]), row_mm=float(scale[1, 1]), origin="user", trusted=True, reason=""
    )
    return ChallengeCalibration(geometry=geometry, T_tool_image=T_tool_mm @ first)


def read_challenge_calibration(path: str | Path) -> ChallengeCalibration:
    """The two matrices of `calib_matrix.csv`, each beneath its name, four rows of four numbers with commas.

    Raises `SourceError` when it cannot be read and `SourceFormatError` for another content, and what
    `challenge_calibration` raises.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig", errors="replace")
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror}") from error
    lines = [line.strip().strip(",") for line in text.split("\n")]
    scale, T_tool_mm = (_block(lines, name, path) for name in (SCALE, RIGID))
    try:
        return challenge_calibration(scale, T_tool_mm)
    except SourceFormatError as error:
        raise SourceFormatError(f"{path}: {error}") from error


def read_challenge_poses(path: str | Path, calibration: ChallengeCalibration) -> Floats:
    """`T_camera_image` (N, 4, 4) mm of a scan, out of its `tforms` (N, 4, 4), which take the tool to the camera.

    Raises `SourceError` when the file cannot be read and `SourceFormatError` for other shapes or a pose that is not
    rigid.
    """
    with _dataset(Path(path), "tforms") as found:
        if len(found.shape) != 3 or found.shape[1:] != (4, 4) or found.shape[0] == 0:
            raise SourceFormatError(f"{path}: tforms are {found.shape}; (N, 4, 4) is needed")
        T = np.asarray(found[()], np.float64)
    bad = [k for k in range(len(T)) if not is_rigid(T[k], TOLERANCE)]
    if bad:
        raise SourceFormatError(f"{path}: tforms {bad[:5]} ({len(bad)} of {len(T)}) are not rigid matrices")
    return np.asarray(T @ calibration.T_tool_image)


def challenge_landmarks(marks: npt.ArrayLike, shape: tuple[int, int]) -> Floats:
    """Landmarks (L, 3) = (frame, column, row), all from 0, of the challenge's, in images of `shape` (H, W).

    The challenge counts frames from 0 and columns and rows from 1: (5, 1, 1) is the first pixel of the sixth frame.
    Raises `SourceFormatError` for another shape and for a landmark outside columns 1 to W or rows 1 to H.
    """
    found = np.asarray(marks, np.float64)
    if found.ndim != 2 or found.shape[1] != 3 or not len(found):
        raise SourceFormatError(f"landmarks of shape {found.shape}; (L, 3) is needed")
    height, width = shape
    inside = ((found[:, 1:] >= 1) & (found[:, 1:] <= (width, height))).all(axis=1)
    if not inside.all():
        k = int(np.argmin(inside))
        raise SourceFormatError(
            f"landmark {k} is at column {found[k, 1]:g}, row {found[k, 2]:g}; they count from 1, up to {width} and "
            f"{height}"
        )
    return found - (0.0, 1.0, 1.0)


def read_challenge_landmarks(path: str | Path, key: str, shape: tuple[int, int]) -> Floats:
    """The landmarks of the scan `key` in images of `shape` (H, W), as `challenge_landmarks` gives them.

    Raises `SourceError` when the file cannot be read, `SourceFormatError` when it has no such scan, and what
    `challenge_landmarks` raises.
    """
    with _dataset(Path(path), key) as found:
        marks = np.asarray(found[()])
    try:
        return challenge_landmarks(marks, shape)
    except SourceFormatError as error:
        raise SourceFormatError(f"{path}, {key}: {error}") from error


def read_challenge_sweep(
    poses: str | Path, calibration: ChallengeCalibration, *, frames: str | Path | None = None
) -> Sweep:
    """A scan as a `Sweep`, at the challenges' 20 frames a second; `frames` where these have a file of their own.

    Raises what its parts raise, and `ConfigError` where there are more frames than poses or fewer.
    """
    images = ChallengeFrames(poses if frames is None else frames)
    times = np.round(np.arange(len(images)) * (1e9 / FPS)).astype(np.int64)
    return Sweep(
        frames=images,
        T_world_image=read_challenge_poses(poses, calibration),
        geometry=calibration.geometry,
        times_ns=times,
    )


def find_challenge_scans(folder: str | Path) -> list[ChallengeScan]:
    """The scans beneath a folder of the challenge, in the order of their names.

    Poses lie in `transfs/` (validation), `frames_transfs/` (training) or the folder itself (2024), then in a folder of
    each subject; frames in `frames/` or with the poses; landmarks in `landmarks/` or `landmark/`. Raises `SourceError`
    when there is no scan.
    """
    root = Path(folder)
    base = next((root / name for name in ("transfs", "frames_transfs") if (root / name).is_dir()), root)
    scans = []
    for path in sorted(base.glob("*/*.h5")):
        subject = path.parent.name
        if not SUBJECT.fullmatch(subject):
            continue
        frames = root / "frames" / subject / path.name
        marks = [root / name / f"landmark_{subject}.h5" for name in ("landmarks", "landmark")]
        scans.append(
            ChallengeScan(
                name=f"{subject}/{path.stem}",
                key=path.stem,
                poses=path,
                frames=frames if frames.is_file() else path,
                landmarks=next((file for file in marks if file.is_file()), None),
            )
        )
    if not scans:
        raise SourceError(f"{folder} holds no scan; files such as transfs/050/RH_rotation.h5 are looked for")
    return scans


@contextmanager
def _dataset(path: Path, name: str) -> Iterator[Any]:
    """The dataset `name` of an HDF5 file, open while it is used."""
    h5py = require("h5py", "to read the files of the TUS-REC challenges")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        if not path.is_file():
            raise SourceError(f"cannot read {path}: there is no such file") from error
        raise SourceFormatError(f"{path} is not a whole HDF5 file: {error}") from error
    with file:
        found = file.get(name)
        if not isinstance(found, h5py.Dataset):
            raise SourceFormatError(f"{path} has no dataset {name!r}; it has {sorted(file)}")
        yield found


def _block(lines: list[str], name: str, path: str | Path) -> Floats:
    """The 4x4 numbers beneath the line `name`."""
    if name not in lines:
        raise SourceFormatError(f"{path} has no line {name!r}; calib_matrix.csv of the challenge is read")
    at = lines.index(name) + 1
    try:
        matrix = np.array([[float(word) for word in line.split(",")] for line in lines[at : at + 4]])
    except ValueError as error:
        raise SourceFormatError(f"{path}: beneath {name!r} four rows of four numbers are needed: {error}") from error
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
        raise SourceFormatError(f"{path}: beneath {name!r} stand {matrix.shape} numbers; 4 x 4 finite ones are needed")
    return matrix
