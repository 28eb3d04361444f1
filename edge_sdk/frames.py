"""Frames and masks on their way into training, through the device's own preprocessing."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ConfigError
from edge_runtime.frame import Frame, FrameGeometry
from edge_runtime.preprocess import LabelPreprocessor, Normalize, Preprocessor, PreprocessSpec

__all__ = [
    "FrameRecord",
    "LabelledFrames",
    "UnlabelledFrames",
    "frames_of",
    "grey_scale",
    "network_inputs",
    "network_masks",
]


class FrameRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Which frames of one source were trained on: file name, indices in it, sha256 over shapes and pixels."""

    source: str
    indices: tuple[int, ...]
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class UnlabelledFrames:
    """Frames of one source without truth; `source` is a file name, never a path with a patient's name in it."""

    source: str
    frames: Sequence[Frame]

    def __post_init__(self) -> None:
        if not self.frames:
            raise ConfigError(f"{self.source}: no frames; give at least one")

    @property
    def record(self) -> FrameRecord:
        """What a report says about these frames."""
        digest = hashlib.sha256()
        for frame in self.frames:
            digest.update(repr(frame.image.shape).encode())
            digest.update(np.ascontiguousarray(frame.image).tobytes())
        indices = tuple(frame.index for frame in self.frames)
        return FrameRecord(source=self.source, indices=indices, sha256=digest.hexdigest())


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LabelledFrames:
    """Frames with truth: `masks[i]` is (H, W) uint8 in the pixels of `frames[i]`, 0 background, k the k-th class.

    Raises `ConfigError` for no frames, counts or sizes that differ, and masks that are not uint8. `names` (one per
    frame, or empty) stand in messages.
    """

    frames: Sequence[Frame]
    masks: Sequence[npt.NDArray[np.uint8]]
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.frames) != len(self.masks) or not self.frames:
            raise ConfigError(
                f"{len(self.frames)} frames and {len(self.masks)} masks; equal numbers, at least one, are needed"
            )
        for k, (frame, mask) in enumerate(zip(self.frames, self.masks, strict=True)):
            if mask.dtype != np.uint8 or mask.shape != frame.shape:
                raise ConfigError(
                    f"{self.name(k)}: the mask is {mask.dtype} {mask.shape}; uint8 {frame.shape} is needed"
                )

    @staticmethod
    def from_arrays(
        images: npt.NDArray[np.uint8],
        masks: npt.NDArray[np.uint8],
        geometries: Sequence[FrameGeometry] | None = None,
    ) -> LabelledFrames:
        """From `images` and `masks` (N, H, W) uint8."""
        return LabelledFrames(frames=frames_of(images, geometries), masks=list(masks))

    def name(self, k: int) -> str:
        """What a message calls frame `k`."""
        return self.names[k] if self.names else f"labelled frame {k}"

    def check_classes(self, classes: int) -> None:
        """Raise `ConfigError`, naming the frame, for a label above `classes` foreground classes."""
        for k, mask in enumerate(self.masks):
            if (top := int(mask.max())) > classes:
                raise ConfigError(
                    f"{self.name(k)}: the mask holds label {top}; 0 to {classes} are allowed. "
                    "Name more classes, or map the mask's values"
                )


def frames_of(images: npt.NDArray[np.uint8], geometries: Sequence[FrameGeometry] | None = None) -> list[Frame]:
    """Frames of `images` (N, H, W) or (N, H, W, 3) uint8; training has no clock, so every arrival time is 0."""
    if geometries is not None and len(geometries) != len(images):
        raise ConfigError(f"{len(images)} images and {len(geometries)} geometries; equal numbers are needed")
    places = geometries if geometries is not None else [FrameGeometry()] * len(images)
    return [
        Frame(image=np.ascontiguousarray(image), index=k, arrival_ns=0, geometry=place)
        for k, (image, place) in enumerate(zip(images, places, strict=True))
    ]


def network_inputs(frames: Sequence[Frame], spec: PreprocessSpec) -> npt.NDArray[np.float32]:
    """(N, C, h, w) float32: every frame through the device's `Preprocessor`."""
    prepare = Preprocessor(spec)
    inputs = np.empty((len(frames), *prepare.output_shape[1:]), np.float32)
    for k, frame in enumerate(frames):
        inputs[k] = prepare(frame).tensor[0]
    return inputs


def network_masks(labelled: LabelledFrames, spec: PreprocessSpec, classes: int) -> npt.NDArray[np.uint8]:
    """(N, h, w) uint8: every mask at network size, by the largest share of each network pixel's area.

    The masks take the frames' way (crop, letterbox, resize), one class at a time, so truth and input stay aligned to
    a fraction of a pixel; letterbox borders are background.
    """
    labelled.check_classes(classes)
    prepare = LabelPreprocessor(spec, classes)
    masks = np.empty((len(labelled.masks), *prepare.output_shape), np.uint8)
    for k, (frame, mask) in enumerate(zip(labelled.frames, labelled.masks, strict=True)):
        masks[k] = prepare(mask, frame.geometry)
    return masks


def grey_scale(spec: PreprocessSpec) -> tuple[float, float]:
    """(mean, std) that take a network input back to grey values in [0, 1]: `grey = input * std + mean`."""
    for step in spec.steps:
        if isinstance(step, Normalize):
            ratio = step.scale / 255.0
            return step.mean * ratio, step.std * ratio
    raise ConfigError("the preprocessing has no normalize step; put one after the size step")
