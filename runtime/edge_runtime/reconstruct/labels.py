"""Label images fused into a volume: every pixel votes for its label in the voxel that holds it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ConfigError, ReconstructionError
from edge_runtime.frame import Frame, FrameGeometry
from edge_runtime.geometry import PoseOrigin
from edge_runtime.reconstruct._sums import Sums
from edge_runtime.reconstruct.grid import MAX_VOXELS, VolumeGrid
from edge_runtime.reconstruct.on_grid import volume_on
from edge_runtime.reconstruct.sweep import Sweep
from edge_runtime.reconstruct.volume import Volume

if TYPE_CHECKING:
    from edge_runtime.loading import LoadedModel

__all__ = ["FusedLabels", "LabelCompounder", "fuse_labels", "mask_classes", "segment"]

Labels = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FusedLabels:
    """Labels fused by vote.

    `volume`: its `data` is the label with the most votes (of equally many the lowest; 0, background, where nobody
    voted), its `weight` the number of votes. `confidence` (Z, Y, X) float32: share of the votes that this label has,
    0 where nobody voted.
    """

    volume: Volume
    confidence: npt.NDArray[np.float32]


class LabelCompounder:
    """Votes for labels 0 (background) to `classes` on a fixed grid: 4 bytes a voxel and label. Safe from many threads.

    Counts are integers: order does not matter, and `remove` undoes `insert` exactly. Raises `ConfigError` for `classes`
    not 1 to 255, `ReconstructionError` when the counts would exceed `max_voxels` numbers, `MissingDependencyError`
    without numba.
    """

    def __init__(
        self, grid: VolumeGrid, classes: int, *, pose_origin: PoseOrigin = "tracker", max_voxels: int = 4 * MAX_VOXELS
    ) -> None:
        if not 1 <= classes <= 255:
            raise ConfigError(f"classes {classes}: 1 to 255 is allowed")
        if grid.voxels * (classes + 1) > max_voxels:
            raise ReconstructionError(
                f"{grid.voxels} voxels {grid.shape} with {classes + 1} labels are {grid.voxels * (classes + 1)} counts "
                f"of 4 bytes, the cap is {max_voxels}; take a coarser spacing, fewer classes, or raise max_voxels"
            )
        self.grid, self.classes, self.pose_origin = grid, classes, pose_origin
        self._place = Sums("mean", "nearest").place
        self._votes = np.zeros((grid.voxels, classes + 1), np.int32)
        self._sides = np.array(grid.shape[::-1], np.int64)
        self._lock = threading.Lock()

    def insert(self, labels: Labels, T_world_image: npt.NDArray[np.float64], geometry: FrameGeometry) -> int:
        """Let the pixels of `labels` (H, W) uint8 in the scan area vote; how many of them fell inside.

        Raises `ConfigError` for a label above `classes` or a bad image or pose, `GeometryError` when the millimetres
        are not trusted.
        """
        return self._splat(labels, T_world_image, geometry, 1)

    def remove(self, labels: Labels, T_world_image: npt.NDArray[np.float64], geometry: FrameGeometry) -> int:
        """Take back the votes of an image that was inserted with the same arguments; how many they were."""
        return self._splat(labels, T_world_image, geometry, -1)

    def move(
        self,
        labels: Labels,
        T_before: npt.NDArray[np.float64],
        T_after: npt.NDArray[np.float64],
        geometry: FrameGeometry,
    ) -> int:
        """Take an image inserted at `T_before` out and put it in at `T_after`; how many votes it then has."""
        return self._splat(labels, T_before, geometry, -1, T_after)

    def votes(self) -> npt.NDArray[np.int32]:
        """(Z, Y, X, classes + 1) int32, a copy; `ReconstructionError` when more was removed than inserted."""
        with self._lock:
            votes = self._votes.reshape(*self.grid.shape, self.classes + 1).copy()
        if (votes < 0).any():
            raise ReconstructionError("an image was removed that is not in the volume; begin anew")
        return votes

    def fused(self) -> FusedLabels:
        """The labels as they stand. Raises as `votes`."""
        votes = self.votes()
        total = votes.sum(axis=-1)
        best = votes.argmax(axis=-1)
        most = np.take_along_axis(votes, best[..., None], axis=-1)[..., 0]
        return FusedLabels(
            volume=volume_on(self.grid, best.astype(np.uint8), total.astype(np.float32), self.pose_origin),
            confidence=(most / np.maximum(total, 1)).astype(np.float32),
        )

    def _splat(
        self,
        labels: Labels,
        T_world_image: npt.NDArray[np.float64],
        geometry: FrameGeometry,
        sign: int,
        T_after: npt.NDArray[np.float64] | None = None,
    ) -> int:
        from edge_runtime.reconstruct._field_kernels import add_votes

        where = (self.grid.T_world_volume, self.grid.spacing_mm)
        steps = [(self._place(labels, T_world_image, geometry, *where), sign)]
        if T_after is not None:
            steps.append((self._place(labels, T_after, geometry, *where), 1))
        if labels.max() > self.classes:
            raise ConfigError(f"the image holds label {labels.max()}; 0 to {self.classes} are the labels here")
        box = np.stack([np.zeros(3, np.int64), self._sides])
        used, image = 0, np.ascontiguousarray(labels)
        with self._lock:
            for placed, by in steps:
                used = 0
                if placed is not None:
                    used = add_votes(image, placed.runs, placed.address, self._sides, box, self._votes, by)
        return int(used)


def fuse_labels(
    sweep: Sweep,
    masks: Iterable[Labels],
    grid: VolumeGrid,
    *,
    classes: int,
    max_voxels: int = 4 * MAX_VOXELS,
    progress: Callable[[int, int], None] | None = None,
) -> FusedLabels:
    """One label volume of `masks`: for each frame of `sweep`, in order, its labels (H, W) uint8, 0 to `classes`.

    Masks are taken one at a time, so a generator (`segment`) needs no more memory than one of them. `grid` is that of
    the grey volume (`made.volume.grid`), or any other. Maps of probability are no labels: compound them as images,
    `compound(replace(sweep, frames=maps), grid=grid)` with maps (N, H, W) uint8, and the mean is their mean.

    Raises `ConfigError` when there are more or fewer masks than frames or a mask has another size than its frame,
    `ReconstructionError` when no pixel falls inside, and otherwise as `LabelCompounder`.
    """
    target = LabelCompounder(grid, classes, pose_origin=sweep.pose_origin, max_voxels=max_voxels)
    used, done = 0, 0
    for mask in masks:
        if done == len(sweep):
            raise ConfigError(f"there are more masks than the {len(sweep)} frames; give one for each frame, in order")
        if mask.shape != (wanted := sweep.image(done).shape):
            raise ConfigError(f"mask {done} has shape {mask.shape}, its frame {wanted}; give masks in source pixels")
        used += target.insert(mask, sweep.T_world_image[done], sweep.geometry_of(done))
        done += 1
        if progress is not None:
            progress(done, len(sweep))
    if done < len(sweep):
        raise ConfigError(f"{done} masks for {len(sweep)} frames; give one for each frame, in order")
    if used == 0:
        raise ReconstructionError(f"none of the {done} masks meets the grid {grid.shape} at {grid.spacing_mm} mm")
    return target.fused()


def mask_classes(model: LoadedModel) -> tuple[str, ...]:
    """Names of the labels, from 1 on, of the masks that `model` makes; `ConfigError` when it makes none."""
    manifest = model.manifest
    for output in manifest.outputs:
        if output.kind == "mask_logits":
            return tuple(
                output.classes if len(output.classes) == 1 else output.classes[1:]
            )  # of more, background first
    kinds = ", ".join(output.kind for output in manifest.outputs)
    raise ConfigError(f"bundle {manifest.name} makes {kinds}; labels are fused from an output of kind mask_logits")


def segment(
    model: LoadedModel, sweep: Sweep, *, seen: Callable[[int, npt.NDArray[np.float32]], object] | None = None
) -> Iterator[Labels]:
    """The mask (H, W) uint8 of each frame of `sweep`, by the first rung of `model` (see `edge_runtime.loading.load`).

    Each is in source pixels and valid until the next is taken. `seen(k, probability)` is called before with the
    probabilities (H, W) float32 of being in any class, 0 outside the part that the bundle looks at. Raises
    `ConfigError` when the bundle makes no mask, and what its preprocessing and runner raise.
    """
    from edge_runtime.postprocess import OutputsPostprocessor
    from edge_runtime.preprocess import Preprocessor

    manifest = model.manifest
    mask_classes(model)
    prepare, read = Preprocessor(manifest.preprocess), OutputsPostprocessor(manifest.outputs, manifest.preprocess)
    with model.runners[0] as runner:
        for k in range(len(sweep)):
            image = np.ascontiguousarray(sweep.image(k))
            frame = Frame(image=image, index=k, arrival_ns=0, geometry=sweep.geometry_of(k))
            prepared = prepare(frame)
            found = read(runner.infer({runner.input.name: prepared.tensor}), prepared, frame)
            assert found.mask is not None  # an output of kind mask_logits makes both
            assert found.probability is not None
            if seen is not None:
                seen(k, prepared.map.probability_to_source(found.probability))
            yield found.mask
