"""From files to a sweep: a tracked recording, or frames and a file of poses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.buffers import PoseBuffer
from edge_runtime.errors import ConfigError, CorruptFrameError, ReconstructionError
from edge_runtime.frame import FrameGeometry, ScanArea
from edge_runtime.geometry import Pose
from edge_runtime.optional import require
from edge_runtime.reconstruct.settings import ReconstructSettings
from edge_runtime.reconstruct.sweep import RecordedSweep, Sweep, sweep_of_poses, sweep_of_sequence
from edge_runtime.sources import open_source
from edge_runtime.sources.tracked import (
    TrackedSequence,
    TransformGraph,
    image_poses,
    read_sequence,
    read_tum,
    split_scale,
)

__all__ = ["open_frames", "open_sweep", "with_scan_area"]

Matrices = Mapping[str, npt.NDArray[np.float64]]

ANY_GAP_MS = 5000.0  # what a PoseBuffer holds for one movement
MAX_BYTES = 1 << 33


def open_sweep(
    source: str | Path | TrackedSequence, settings: ReconstructSettings, *, constants: Matrices | None = None
) -> RecordedSweep:
    """The sweep in a recording (`.igs.mha`, `.seq.nrrd`, or one already read).

    `constants`: transforms that the recording does not hold, such as `{"ImageToProbe": matrix}`. With
    `settings.offset_ms` the pose of each image is interpolated to its time, and images beyond the poses are dropped.
    Raises what `read_sequence`, `sweep_of_sequence` and `sweep_of_poses` raise; `ReconstructionError` for an offset
    where the recording has no times.
    """
    sequence = source if isinstance(source, TrackedSequence) else read_sequence(source)
    recorded = sweep_of_sequence(
        sequence,
        settings.transform,
        constants=constants,
        invalid=settings.invalid,
        repeated=settings.repeated,
        max_gap_ms=settings.max_gap_ms,
    )
    recorded = replace(recorded, dropped=_told_apart(sequence, settings.transform, constants, recorded.dropped))
    return recorded if settings.offset_ms == 0 else _shifted(recorded, settings)


def _told_apart(
    sequence: TrackedSequence, transform: str, constants: Matrices | None, dropped: Mapping[str, tuple[int, ...]]
) -> Mapping[str, tuple[int, ...]]:
    """`dropped` with those that are marked as valid, but whose matrix is no rigid one, by a name of their own."""
    given = dict(constants or {})
    good = sequence.images_usable
    for step in TransformGraph({**sequence.transforms, **given}).path(transform):
        if step.name not in given:
            good = good & sequence.usable(step.name)
    skewed = tuple(k for k in dropped.get("invalid", ()) if good[k])
    rest = tuple(k for k in dropped.get("invalid", ()) if not good[k])
    named = {**dropped, "invalid": rest, "not rigid": skewed}
    return {why: rows for why, rows in named.items() if rows}


def _shifted(recorded: RecordedSweep, settings: ReconstructSettings) -> RecordedSweep:
    """The same images, each at the pose that the tracker had `offset_ms` before."""
    sweep, times = recorded.sweep, recorded.sweep.times_ns
    if times is None:
        raise ReconstructionError(f"offset_ms {settings.offset_ms:g}: the recording has no times to shift")
    poses = [Pose(T_world_image=T, time_ns=int(t)) for T, t in zip(sweep.T_world_image, times, strict=True)]
    geometry = _one_geometry([sweep.geometry_of(k) for k in range(len(sweep))])
    moved = _at_times(np.asarray(sweep.frames), times, poses, geometry, settings)
    rows = {why: tuple(int(recorded.kept[k]) for k in found) for why, found in moved.dropped.items()}
    return RecordedSweep(sweep=moved.sweep, kept=recorded.kept[moved.kept], dropped={**recorded.dropped, **rows})


def open_frames(
    frames: str | Path,
    poses: str | Path,
    settings: ReconstructSettings,
    *,
    constants: Matrices | None = None,
    geometry: FrameGeometry | None = None,
    fps: float | None = None,
    mm_per_unit: float = 1000.0,
) -> RecordedSweep:
    """The sweep of any frames that `open_source` reads (a folder of images, DICOM, video, .npy) and a file of poses.

    `poses`: a recording of the tracker (`.igs.mha`), whose `settings.transform` is resolved with the constants; or text
    as `read_tum` reads it, `mm_per_unit` 1 for a file in mm. Of such text: with the constant `ImageToProbe` the poses
    are those of the probe and the pixel size is the calibration's; without, those of the image, and the pixel size is
    that of `geometry` or what the frames' own header says. Frames with times, their own or by `fps`, get the pose
    interpolated to them, `settings.offset_ms` and `max_gap_ms` observed; frames without are taken one pose each, in
    order. Colour is turned to luma. Damaged frames are dropped, by the name `corrupt`, or with `invalid="error"` an
    error.

    Raises what `open_source` and `read_tum` raise, `GeometryError` when no pixel size is known, `ConfigError` for other
    constants, and `ReconstructionError` when counts or times of frames and poses do not fit or the geometry changes.
    """
    if _is_recording(poses):
        if geometry is not None:
            raise ConfigError(f"a pixel size with {poses}: give the calibration ImageToProbe, which holds one")
        found, geometry = _tracker_poses(poses, settings, constants)
    else:
        found, geometry = _listed_poses(poses, mm_per_unit, constants, geometry)
    if _is_recording(frames) and fps is None:
        images, times, rows, corrupt, own = _recorded_frames(frames, settings.invalid)
    else:
        images, times, rows, corrupt, own = _read_frames(frames, fps, settings.invalid)
    if geometry is None:
        geometry = _one_geometry(own)
    elif own[0].scan_area is not None:
        geometry = replace(geometry, scan_area=own[0].scan_area)
    geometry.require_mm()
    if times is None:
        recorded = _one_each(images, rows, corrupt, found, geometry, settings)
    else:
        recorded = _at_times(images, times, found, geometry, settings)
    dropped = {why: tuple(int(rows[k]) for k in lost) for why, lost in recorded.dropped.items()}
    if corrupt:
        dropped["corrupt"] = corrupt
    return RecordedSweep(sweep=recorded.sweep, kept=rows[recorded.kept], dropped=dropped)


def _listed_poses(
    path: str | Path, mm_per_unit: float, constants: Matrices | None, geometry: FrameGeometry | None
) -> tuple[list[Pose], FrameGeometry | None]:
    """The poses of images in a text file, and the pixel size of the calibration or the one given."""
    given = dict(constants or {})
    T_probe_image = np.eye(4)
    if (matrix := given.pop("ImageToProbe", None)) is not None:
        if geometry is not None:
            raise ConfigError("a pixel size and an ImageToProbe, which has its own: give one of the two")
        T_probe_image, geometry = split_scale(matrix)
    if given:
        raise ConfigError(f"constants {sorted(given)} with a file of poses: ImageToProbe alone is used there")
    poses = read_tum(path, mm_per_unit=mm_per_unit)
    return [replace(pose, T_world_image=pose.T_world_image @ T_probe_image) for pose in poses], geometry


def _tracker_poses(
    path: str | Path, settings: ReconstructSettings, constants: Matrices | None
) -> tuple[list[Pose], FrameGeometry]:
    """The valid poses of images in a tracker's recording, at its times, and the pixel size of the calibration."""
    sequence = read_sequence(path)
    if sequence.times_ns is None:
        raise ReconstructionError(f"{path} has no times, by which the frames would find their poses")
    found = image_poses(replace(sequence, frames=None, image_statuses=()), settings.transform, constants)
    rows = np.flatnonzero(found.usable)
    if len(rows) < len(sequence) and settings.invalid == "error":
        raise ReconstructionError(f"{path}: {len(sequence) - len(rows)} of {len(sequence)} records have no valid pose")
    if len(rows) == 0 or not isinstance(found.geometry, FrameGeometry):
        raise ReconstructionError(f"{path}: of {len(sequence)} records none has a valid pose of one pixel size")
    times = sequence.times_ns
    return [Pose(T_world_image=found.T_world_image[k], time_ns=int(times[k])) for k in rows], found.geometry


Read = tuple[
    npt.NDArray[np.uint8], npt.NDArray[np.int64] | None, npt.NDArray[np.int64], tuple[int, ...], list[FrameGeometry]
]


def _is_recording(path: str | Path) -> bool:
    return str(path).lower().endswith((".mha", ".nrrd"))


def _recorded_frames(path: str | Path, invalid: str) -> Read:
    """As `_read_frames`, of a recording: turned to MF, its times on the recorder's own clock."""
    sequence = read_sequence(path).oriented("MF")
    if sequence.frames is None or sequence.frames.ndim != 3:
        raise ReconstructionError(f"{path} has no grey images; a volume is made of grey images")
    rows = np.flatnonzero(sequence.images_usable).astype(np.int64)
    lost = tuple(int(k) for k in np.flatnonzero(~sequence.images_usable))
    if len(rows) == 0 or (lost and invalid == "error"):
        raise ReconstructionError(f"{path}: {len(lost)} of {len(sequence)} images are marked as invalid")
    times = None if sequence.times_ns is None else sequence.times_ns[rows]
    return sequence.frames[rows], times, rows, lost, [FrameGeometry()]


def _read_frames(frames: str | Path, fps: float | None, invalid: str) -> Read:
    """Grey images, their times or None, their indices, the indices of damaged ones, and each one's geometry."""
    images: list[npt.NDArray[np.uint8]] = []
    times: list[int | None] = []
    rows: list[int] = []
    corrupt: list[int] = []
    own: list[FrameGeometry] = []
    options: dict[str, Any] = {} if fps is None else {"fps": fps}
    size = 0
    with open_source(frames, **options) as source:
        if source.live:
            raise ConfigError(f"{frames} is live; a sweep is made of a recording (LiveCompounder takes a stream)")
        while True:
            try:
                frame = source.read()
            except CorruptFrameError as error:
                if invalid == "error":
                    raise
                corrupt.append(error.index)
                continue
            if frame is None:
                break
            image = frame.image
            if image.ndim == 3:
                cv2 = require("cv2", "to turn colour to grey")
                image = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
            size += image.nbytes
            if size > MAX_BYTES:
                raise ReconstructionError(f"{frames}: more than {MAX_BYTES >> 20} MiB of pixels; cut it into parts")
            if images and image.shape != images[0].shape:
                raise ReconstructionError(
                    f"{frames}: frame {frame.index} is {image.shape[0]} x {image.shape[1]}, those before it "
                    f"{images[0].shape[0]} x {images[0].shape[1]}; a sweep has images of one size"
                )
            when = frame.device_ns if frame.device_ns is not None else source.due_ns(frame.index)
            images.append(image)
            times.append(when)
            rows.append(frame.index)
            own.append(frame.geometry)
    if not images:
        raise ReconstructionError(f"{frames} holds no whole frame ({len(corrupt)} damaged)")
    known = None if None in times else np.array(times, np.int64)
    return np.stack(images), known, np.array(rows, np.int64), tuple(corrupt), own


def _one_each(
    images: npt.NDArray[np.uint8],
    rows: npt.NDArray[np.int64],
    corrupt: tuple[int, ...],
    poses: list[Pose],
    geometry: FrameGeometry,
    settings: ReconstructSettings,
) -> RecordedSweep:
    """Frames without times, one pose each."""
    count = len(images) + len(corrupt)
    if len(poses) != count:
        raise ReconstructionError(
            f"{count} frames without times and {len(poses)} poses: one pose for each frame is needed, in order; or say "
            "how fast the frames came (fps), so that poses are taken by their time"
        )
    if settings.offset_ms:
        raise ReconstructionError("offset_ms for frames without times; say how fast they came (fps)")
    T = np.stack([poses[k].T_world_image for k in rows])
    sweep = Sweep(frames=images, T_world_image=T, geometry=geometry)
    return RecordedSweep(sweep=sweep, kept=np.arange(len(images), dtype=np.int64), dropped={})


def _at_times(
    images: npt.NDArray[np.uint8],
    times: npt.NDArray[np.int64],
    poses: list[Pose],
    geometry: FrameGeometry,
    settings: ReconstructSettings,
) -> RecordedSweep:
    """Images with the poses interpolated to their times; `ReconstructionError` when the clocks do not meet."""
    offset = round(settings.offset_ms * 1e6)
    for k, (a, b) in enumerate(pairwise(poses)):
        if b.time_ns < a.time_ns:
            raise ReconstructionError(f"the time of pose {k + 1} lies before that of pose {k}; sort them")
    start, end = poses[0].time_ns + offset, poses[-1].time_ns + offset
    if start > times[-1] or end < times[0]:
        raise ReconstructionError(
            f"the images are of {times[0] / 1e9:.3f} to {times[-1] / 1e9:.3f} s, the poses of {start / 1e9:.3f} to "
            f"{end / 1e9:.3f} s: they never meet. An offset_ms of {(times[0] - poses[0].time_ns) / 1e6:.1f} makes them "
            "start together"
        )
    buffer = PoseBuffer(capacity=max(2, len(poses)), offset_ns=offset)
    for pose in poses:
        buffer.append(pose)
    gap = ANY_GAP_MS if settings.max_gap_ms is None else settings.max_gap_ms
    return sweep_of_poses(images, times, buffer, geometry, max_gap_ms=gap)


def _one_geometry(found: list[FrameGeometry]) -> FrameGeometry:
    other = next((k for k, geometry in enumerate(found) if geometry != found[0]), None)
    if other is not None:
        raise ReconstructionError(
            f"the pixel size or scan area changes at frame {other} (was the depth turned?); cut the recording there"
        )
    return found[0]


def with_scan_area(sweep: Sweep, area: ScanArea) -> Sweep:
    """`sweep` with `area`, in pixels of its images, in place of its own."""
    if isinstance(sweep.geometry, FrameGeometry):
        return replace(sweep, geometry=replace(sweep.geometry, scan_area=area))
    return replace(sweep, geometry=[replace(geometry, scan_area=area) for geometry in sweep.geometry])
