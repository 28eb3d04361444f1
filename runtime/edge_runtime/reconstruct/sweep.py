"""`Sweep`: the frames of one movement of the probe and where each was taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from edge_runtime.buffers import InterpolatedPose, PoseBuffer
from edge_runtime.errors import ConfigError, ReconstructionError
from edge_runtime.frame import FrameGeometry
from edge_runtime.geometry import PoseOrigin, is_rigid
from edge_runtime.sources.tracked import TrackedSequence, image_poses

__all__ = ["RIGID_TOLERANCE", "FrameStack", "RecordedSweep", "Sweep", "sweep_of_poses", "sweep_of_sequence"]

RIGID_TOLERANCE = 1e-4


class FrameStack(Protocol):
    """N grey images, each read when asked for; an (N, H, W) uint8 array or memory map is one."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> npt.NDArray[np.uint8]: ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sweep:
    """Frames with their poses.

    `frames`: N images (H, W) uint8, read one at a time. `T_world_image`: (N, 4, 4) float64, rigid, mm; image
    frame x lateral, y axial, z elevational, origin at the centre of pixel (0, 0). `geometry`: one for all
    frames, or N. `times_ns`: (N,) int64, not decreasing, or None. `pose_origin`: where the poses come from.

    Raises `ReconstructionError` when there is no frame and `ConfigError` when counts, shapes or matrices are
    wrong. Images are checked when they are read.
    """

    frames: FrameStack
    T_world_image: npt.NDArray[np.float64]
    geometry: FrameGeometry | Sequence[FrameGeometry]
    times_ns: npt.NDArray[np.int64] | None = None
    pose_origin: PoseOrigin = "tracker"

    def __post_init__(self) -> None:
        n, T = len(self.frames), self.T_world_image
        if n == 0:
            raise ReconstructionError("the sweep has no frame; at least one is needed")
        if T.shape != (n, 4, 4):
            raise ConfigError(f"T_world_image has shape {T.shape} for {n} frames; ({n}, 4, 4) is needed")
        bad = [k for k in range(n) if not is_rigid(T[k], RIGID_TOLERANCE)]
        if bad:
            raise ConfigError(
                f"T_world_image is not rigid at frames {bad[:5]} ({len(bad)} of {n}): take the pixel scale out "
                "and put it into FrameGeometry, and leave out frames whose tracking failed"
            )
        if not isinstance(self.geometry, FrameGeometry) and len(self.geometry) != n:
            raise ConfigError(f"{len(self.geometry)} geometries for {n} frames; give one, or one per frame")
        self._check_times(n)

    def _check_times(self, n: int) -> None:
        times = self.times_ns
        if times is None:
            return
        if times.shape != (n,) or times.dtype != np.int64:
            raise ConfigError(f"times_ns has shape {times.shape} and dtype {times.dtype}; ({n},) int64 is needed")
        if (np.diff(times) < 0).any():
            k = int(np.argmax(np.diff(times) < 0))
            raise ConfigError(
                f"times_ns goes back after frame {k} ({times[k]} to {times[k + 1]}); sort the frames by time"
            )

    def __len__(self) -> int:
        return len(self.frames)

    def image(self, index: int) -> npt.NDArray[np.uint8]:
        """Frame `index`, (H, W) uint8; `ConfigError` when it is of another kind."""
        image = np.asarray(self.frames[index])
        if image.ndim != 2 or image.dtype != np.uint8 or 0 in image.shape:
            raise ConfigError(
                f"frame {index} has shape {image.shape} and dtype {image.dtype}; (H, W) uint8 grey is needed"
            )
        return image

    def geometry_of(self, index: int) -> FrameGeometry:
        """Geometry of frame `index`."""
        return self.geometry if isinstance(self.geometry, FrameGeometry) else self.geometry[index]

    def with_poses(self, T_world_image: npt.NDArray[np.float64], pose_origin: PoseOrigin) -> Sweep:
        """The same frames at other poses (N, 4, 4), such as after optimisation."""
        return replace(self, T_world_image=T_world_image, pose_origin=pose_origin)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RecordedSweep:
    """A sweep out of a recording: `kept` (N,) int64 are the records it was made of, `dropped` the others by reason."""

    sweep: Sweep
    kept: npt.NDArray[np.int64]
    dropped: Mapping[str, tuple[int, ...]]


def sweep_of_sequence(
    sequence: TrackedSequence,
    transform: str = "ImageToReference",
    *,
    constants: Mapping[str, npt.NDArray[np.float64]] | None = None,
    invalid: Literal["drop", "error"] = "drop",
    repeated: Literal["keep", "drop", "error"] = "keep",
    max_gap_ms: float | None = None,
) -> RecordedSweep:
    """The images of a recording with the poses that `transform` gives them, turned to orientation MF.

    `constants`: transforms that are not recorded, such as `{"ImageToProbe": matrix}` (`image_poses`). `invalid`: what
    to do with a record whose tracking or image is not `OK`; `repeated`: with one that has the time of the record kept
    before it. Times more than `max_gap_ms` apart (None: any) are an error, and so are times that fall.

    Raises `ReconstructionError` for what was declared an error, for colour, and when no record is left; otherwise as
    `image_poses`.
    """
    for name, choice, allowed in (
        ("invalid", invalid, ("drop", "error")),
        ("repeated", repeated, ("keep", "drop", "error")),
    ):
        if choice not in allowed:
            raise ConfigError(f"{name} is {choice!r}; {', '.join(allowed)} are allowed")
    if sequence.frames is None or sequence.frames.ndim != 3:
        raise ReconstructionError("the recording has no grey images; a volume is made of grey images")
    found = image_poses(sequence, transform, constants)
    sequence = sequence.oriented("MF")
    keep = found.usable.copy()
    dropped = {"invalid": tuple(int(k) for k in np.flatnonzero(~keep))}
    if dropped["invalid"] and invalid == "error":
        raise ReconstructionError(f"records {list(dropped['invalid'][:5])} have no valid pose or image; invalid='drop'")
    if sequence.times_ns is not None and repeated != "keep":
        dropped["repeated"] = _repeated(sequence.times_ns, keep)
        if dropped["repeated"] and repeated == "error":
            raise ReconstructionError(f"records {list(dropped['repeated'][:5])} repeat the time before them")
        keep[list(dropped["repeated"])] = False
    kept = np.flatnonzero(keep).astype(np.int64)
    if len(kept) == 0:
        raise ReconstructionError(f"of {len(sequence)} records none has a valid pose, image and time of its own")
    times = None if sequence.times_ns is None else sequence.times_ns[kept]
    if times is not None:
        _check_gaps(times, kept, max_gap_ms)
    geometry = found.geometry if isinstance(found.geometry, FrameGeometry) else [found.geometry[k] for k in kept]
    assert sequence.frames is not None
    sweep = Sweep(
        frames=sequence.frames if keep.all() else sequence.frames[kept],
        T_world_image=found.T_world_image[kept],
        geometry=geometry,
        times_ns=times,
    )
    return RecordedSweep(sweep=sweep, kept=kept, dropped={why: rows for why, rows in dropped.items() if rows})


def _repeated(times: npt.NDArray[np.int64], keep: npt.NDArray[np.bool_]) -> tuple[int, ...]:
    rows = np.flatnonzero(keep)
    return tuple(int(k) for k in rows[1:][np.diff(times[rows]) == 0])


def _check_gaps(times: npt.NDArray[np.int64], kept: npt.NDArray[np.int64], max_gap_ms: float | None) -> None:
    steps = np.diff(times)
    if (steps < 0).any():
        k = int(np.argmax(steps < 0))
        raise ReconstructionError(f"the time of record {kept[k + 1]} lies before that of record {kept[k]}; sort them")
    if max_gap_ms is not None and len(steps) and steps.max() > max_gap_ms * 1e6:
        k = int(np.argmax(steps))
        raise ReconstructionError(
            f"{steps[k] / 1e6:.0f} ms lie between records {kept[k]} and {kept[k + 1]}, the limit is {max_gap_ms:g} ms; "
            "split the recording there or raise max_gap_ms"
        )


def sweep_of_poses(
    frames: npt.NDArray[np.uint8],
    times_ns: npt.NDArray[np.int64],
    poses: PoseBuffer,
    geometry: FrameGeometry,
    *,
    max_gap_ms: float = 100.0,
) -> RecordedSweep:
    """Images (N, H, W) uint8 at `times_ns` (N,), each with the pose that `poses` gives for its time.

    For a tracker with a clock of its own: `poses.offset_ns` is the image's clock less the tracker's, and the pose is
    interpolated between samples no more than `max_gap_ms` apart. Images without one are dropped, by the reason that
    the buffer gives (a pose that would be held, not interpolated, is `outside`). Raises `ReconstructionError` when none
    is left.
    """
    found = [poses.at(int(t), round(max_gap_ms * 1e6)) for t in times_ns]
    dropped: dict[str, tuple[int, ...]] = {}
    kept = []
    for k, pose in enumerate(found):
        if isinstance(pose, InterpolatedPose) and not pose.held:
            kept.append(k)
        else:
            reason = "outside" if isinstance(pose, InterpolatedPose) else pose.reason
            dropped[reason] = (*dropped.get(reason, ()), k)
    if not kept:
        raise ReconstructionError(f"no image has a pose at its time ({', '.join(sorted(dropped))}); check the offset")
    T = np.stack([pose.pose.T_world_image for pose in found if isinstance(pose, InterpolatedPose) and not pose.held])
    sweep = Sweep(frames=frames[kept], T_world_image=T, geometry=geometry, times_ns=times_ns[kept])
    return RecordedSweep(sweep=sweep, kept=np.array(kept, np.int64), dropped=dropped)
