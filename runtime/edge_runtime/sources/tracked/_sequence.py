"""`TrackedSequence`: what a tracked recording holds, as it was recorded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ConfigError, SourceFormatError

__all__ = ["ABSENT", "OK", "ORIENTATIONS", "UNKNOWN", "TrackedSequence"]

OK = "OK"
ABSENT = "MISSING"
# First letter: the side of the probe to which image x grows (Marked, Unmarked), second: image y (Far, Near); or the
# other way round for scan lines in rows. A third letter (Ascending, Descending) is the axis out of the image, in which
# a frame is one pixel deep. XX: not known.
ORIENTATIONS = ("MF", "MN", "UF", "UN", "FM", "FU", "NM", "NU")
UNKNOWN = "XX"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrackedSequence:
    """N records of a tracked recording.

    `frames`: (N, H, W) grey or (N, H, W, 3) RGB uint8 in the file's own `orientation` (see `oriented`), or None for a
    recording of transforms alone. `times_ns`: (N,) int64 on the recorder's clock, or None; as recorded, so they may
    repeat or fall. `transforms`: name such as `ProbeToTracker` to (N, 4, 4) float64, which maps coordinates in the
    first frame to the second; millimetres, but the frame `Image` is in pixels, so those that start there carry the
    pixel size. NaN where a record has none. `statuses`: for each transform N words, `OK` where it may be used.
    `image_statuses`: N words, or empty when the file has none. `fields`: other header fields; `frame_fields`: other
    fields of the records, by name, None where a record has none.

    Raises `ConfigError` when lengths, shapes or dtypes disagree.
    """

    frames: npt.NDArray[np.uint8] | None
    orientation: str = UNKNOWN
    times_ns: npt.NDArray[np.int64] | None = None
    transforms: Mapping[str, npt.NDArray[np.float64]] = field(default_factory=dict)
    statuses: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    image_statuses: tuple[str, ...] = ()
    fields: Mapping[str, str] = field(default_factory=dict)
    frame_fields: Mapping[str, tuple[str | None, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        frames, n = self.frames, len(self)
        if n == 0:
            raise ConfigError("the sequence has no record; at least one is needed")
        if frames is not None:
            fits = frames.ndim == 3 or (frames.ndim == 4 and frames.shape[3] == 3)
            if not fits or frames.dtype != np.uint8 or 0 in frames.shape:
                raise ConfigError(
                    f"frames have shape {frames.shape} and dtype {frames.dtype}; (N, H, W) or (N, H, W, 3) uint8 with "
                    "at least one pixel is needed"
                )
        if self.orientation != UNKNOWN and self.orientation[:2] not in ORIENTATIONS:
            raise ConfigError(
                f"orientation is {self.orientation!r}; {', '.join(ORIENTATIONS)} or XX (unknown) are allowed"
            )
        if self.times_ns is not None and (self.times_ns.shape != (n,) or self.times_ns.dtype != np.int64):
            raise ConfigError(f"times_ns have shape {self.times_ns.shape}; ({n},) int64 is needed")
        for name, T in self.transforms.items():
            if T.shape != (n, 4, 4) or T.dtype != np.float64:
                raise ConfigError(f"{name} has shape {T.shape} and dtype {T.dtype}; ({n}, 4, 4) float64 is needed")
        counts = {**self.statuses, **self.frame_fields, "image_statuses": self.image_statuses or n * (OK,)}
        if wrong := sorted(name for name, words in counts.items() if len(words) != n):
            raise ConfigError(f"{wrong[0]} has {len(counts[wrong[0]])} entries for {n} records; one each is needed")
        if unknown := sorted(self.statuses.keys() - self.transforms.keys()):
            raise ConfigError(f"there is a status of {unknown[0]}, but no such transform")

    def __len__(self) -> int:
        if self.frames is not None:
            return len(self.frames)
        arrays = [*self.transforms.values()] if self.times_ns is None else [self.times_ns]
        return len(arrays[0]) if arrays else 0

    def usable(self, name: str) -> npt.NDArray[np.bool_]:
        """(N,) bool: records in which transform `name` is there, finite and `OK`; `ConfigError` for no such name."""
        if name not in self.transforms:
            raise ConfigError(f"there is no transform {name}; {', '.join(sorted(self.transforms)) or 'none'} recorded")
        finite = np.isfinite(self.transforms[name]).all(axis=(1, 2))
        words = self.statuses.get(name)
        return np.asarray(finite) if words is None else np.logical_and(finite, [word == OK for word in words])

    @property
    def images_usable(self) -> npt.NDArray[np.bool_]:
        """(N,) bool: records whose image is there and `OK`."""
        if self.frames is None:
            return np.zeros(len(self), np.bool_)
        words = self.image_statuses
        return np.array([word == OK for word in words]) if words else np.ones(len(self), np.bool_)

    def oriented(self, wanted: str = "MF") -> TrackedSequence:
        """The same recording with its images turned to `wanted`; shares the pixels where nothing is to be done.

        Probe calibrations are made for `MF` images. Raises `ConfigError` for an orientation that is not one of
        `ORIENTATIONS` and `SourceFormatError` when the recording does not say how its images lie.
        """
        if wanted not in ORIENTATIONS:
            raise ConfigError(f"orientation {wanted!r} is unknown; {', '.join(ORIENTATIONS)} are known")
        have = self.orientation[:2]
        if self.frames is None or have == wanted:
            return self
        if self.orientation == UNKNOWN:
            raise SourceFormatError(
                "the recording does not say how its images lie (UltrasoundImageOrientation); read it with "
                "orientation='MF' or what it is"
            )
        return replace(self, frames=turned(self.frames, have, wanted), orientation=wanted)


def turned(frames: npt.NDArray[np.uint8], have: str, wanted: str) -> npt.NDArray[np.uint8]:
    """(N, H, W, ...) images from one orientation to another, C-contiguous."""
    if (have[0] in "MU") != (wanted[0] in "MU"):
        frames, have = frames.swapaxes(1, 2), have[::-1]
    if have[0] != wanted[0]:
        frames = frames[:, :, ::-1]
    if have[1] != wanted[1]:
        frames = frames[:, ::-1]
    return np.ascontiguousarray(frames)
