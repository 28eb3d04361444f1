"""Images and poses of a recorded tracked sweep."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edge_runtime.buffers import PoseBuffer
from edge_runtime.clock import Clock
from edge_runtime.errors import ConfigError, CorruptFrameError, SourceFormatError
from edge_runtime.frame import Frame, FrameGeometry
from edge_runtime.geometry import Pose
from edge_runtime.sources.base import Source
from edge_runtime.sources.tracked import TrackedSequence, image_poses, read_sequence
from edge_runtime.sources.tracked._nrrd_text import vectors

__all__ = ["SequenceSource"]

MAX_STEP_NS = 3_600 * 10**9


class SequenceSource(Source):
    """Frames of an `.igs.mha` or `.seq.nrrd` file, or of a `TrackedSequence`, turned to orientation MF.

    `transform` (such as `ImageToReference`) fills `poses` with where the images lie, in the recording's time from its
    first record, and gives the frames their millimetres; `constants` are the transforms that the file does not hold
    (`{"ImageToProbe": matrix}`); a record whose tracking or image failed gives no pose. `Frame.device_ns` is the
    recorded time since the first record, which may repeat or fall; a frame is then due when the one before it was, and
    `timing_note` says so. `fps` takes the place of the recorded times. `orientation` is what to believe in place of the
    file; images of a file that does not say how they lie are given as stored. Without `transform` the millimetres are
    those of an NRRD file that names its space, as 3D Slicer writes it; a MetaImage of PLUS has none. A record whose
    image is not `OK` is a `CorruptFrameError`.

    Raises what `read_sequence` and `image_poses` raise; `SourceFormatError` for a file without images and for times
    more than an hour apart; `ConfigError` when poses are asked for and there is no time to give them.
    """

    def __init__(
        self,
        path: str | Path | TrackedSequence,
        *,
        transform: str | None = None,
        constants: Mapping[str, npt.NDArray[np.float64]] | None = None,
        orientation: str | None = None,
        fps: float | None = None,
        geometry: FrameGeometry | None = None,
        clock: Clock | None = None,
    ) -> None:
        if fps is not None and not 0 < fps < float("inf"):
            raise ConfigError(f"fps is {fps}; frames per second must be positive")
        if isinstance(path, TrackedSequence):
            name, sequence = "sequence", path
            if orientation is not None:
                raise ConfigError("the sequence is read already; give its orientation where it is read")
        else:
            name, sequence = Path(path).name, read_sequence(path, orientation=orientation)
        frames = sequence.frames
        if frames is None:
            raise SourceFormatError(f"{name} holds transforms and no images; read it with read_sequence")
        note = ""
        if transform is not None or sequence.orientation != "XX":
            sequence = sequence.oriented("MF")
            frames = sequence.frames if sequence.frames is not None else frames
        else:
            note = "the file does not say how its images lie: they are given as stored"
        self._times = None if fps is not None or sequence.times_ns is None else sequence.times_ns - sequence.times_ns[0]
        self._due, rate, more = _schedule(self._times, name)
        super().__init__(
            name=name,
            frame_count=len(sequence),
            fps=fps if fps is not None else rate,
            timing_note="; ".join(filter(None, [more if fps is None else "", note])),
            clock=clock,
        )
        self.sequence = sequence
        self._frames = frames
        self._good = sequence.images_usable
        self._geometry: FrameGeometry | tuple[FrameGeometry, ...] = _placed(sequence, name)
        if transform is not None:
            self._geometry = self._fill_poses(transform, constants)
        elif constants:
            raise ConfigError("constants belong to a transform; name it, such as transform='ImageToReference'")
        if geometry is not None:
            self._geometry = geometry
        self._index = 0

    def _fill_poses(
        self, transform: str, constants: Mapping[str, npt.NDArray[np.float64]] | None
    ) -> FrameGeometry | tuple[FrameGeometry, ...]:
        found = image_poses(self.sequence, transform, constants)
        count = len(self.sequence)
        times = [self._device_ns(k) for k in range(count)]
        if times[0] is None:
            raise ConfigError(f"{self.name} has no times, so its poses cannot be found again; give fps")
        self.poses = PoseBuffer(capacity=max(2, count), max_step_ns=MAX_STEP_NS)
        for k in np.flatnonzero(found.usable):
            self.poses.append(Pose(T_world_image=found.T_world_image[k], time_ns=int(times[k] or 0)))
        return found.geometry

    def _device_ns(self, index: int) -> int | None:
        return super().due_ns(index) if self._times is None else int(self._times[index])

    def due_ns(self, index: int) -> int | None:
        if self._due is None:
            return super().due_ns(index)
        if index < len(self._due):
            return int(self._due[index])
        past = index - len(self._due) + 1
        return None if self.fps is None else int(self._due[-1]) + round(past * 1e9 / self.fps)

    def _next(self) -> Frame | None:
        index = self._index
        if index >= len(self._frames):
            return None
        self._index += 1
        if not self._good[index]:
            status = self.sequence.image_statuses[index]
            raise CorruptFrameError(f"{self.name}: the image of record {index} is marked {status[:20]}", index)
        geometry = self._geometry[index] if isinstance(self._geometry, tuple) else self._geometry
        return Frame(
            image=np.array(self._frames[index], order="C"),
            index=index,
            arrival_ns=self._clock.now_ns(),
            device_ns=self._device_ns(index),
            geometry=geometry,
        )

    def _rewind(self) -> None:
        self._index = 0


def _placed(sequence: TrackedSequence, name: str) -> FrameGeometry:
    """Millimetres out of the axes of an NRRD file; trusted where it names a space, whose unit is the millimetre."""
    if "space directions" not in sequence.fields:
        return FrameGeometry()
    steps = np.linalg.norm(vectors(sequence.fields["space directions"]), axis=1)
    if len(steps) < 2 or not steps[:2].min() > 0:
        raise SourceFormatError(
            f"{name}: the space directions {sequence.fields['space directions'][:60]} give no pixel size"
        )
    known = "space" in sequence.fields
    return FrameGeometry(
        row_mm=float(steps[1]),
        column_mm=float(steps[0]),
        origin="space-directions",
        trusted=known,
        reason="" if known else "the file gives a pixel size and names no space, so its unit is not known",
    )


def _schedule(times: npt.NDArray[np.int64] | None, name: str) -> tuple[npt.NDArray[np.int64] | None, float | None, str]:
    """When each frame is due (never falling), the mean rate, and what is to be said about the times."""
    if times is None:
        return None, None, "the recording carries no times; give fps"
    steps = np.diff(times)
    if len(steps) and int(np.abs(steps).max()) > MAX_STEP_NS:
        k = int(np.abs(steps).argmax())
        raise SourceFormatError(
            f"{name}: record {k + 1} lies {steps[k] / 1e9:.0f} s after the one before it, over an hour; give fps to "
            "play it without its times"
        )
    due = np.maximum.accumulate(times)
    span = int(due[-1])
    note = ""
    if (steps < 0).any():
        k = int(np.argmax(steps < 0))
        note = f"recorded times fall {int((steps < 0).sum())} times, first after record {k}: due with the one before"
    return due, ((len(times) - 1) * 1e9 / span if span > 0 else None), note
