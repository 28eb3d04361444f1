"""`reconstruct`: a recording with poses in, a volume out, in one call."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ConfigError, ReconstructionError
from edge_runtime.frame import ScanArea
from edge_runtime.reconstruct.compound import Compounder
from edge_runtime.reconstruct.grid import VolumeGrid, grid_of_sweep
from edge_runtime.reconstruct.moments import WeightedCompounder, depth_weights
from edge_runtime.reconstruct.opening import open_sweep, with_scan_area
from edge_runtime.reconstruct.settings import MIB, ReconstructSettings
from edge_runtime.reconstruct.sweep import RecordedSweep, Sweep
from edge_runtime.reconstruct.volume import Volume
from edge_runtime.reconstruct.weights import incidence_weights, product_of_weights
from edge_runtime.sources.tracked import TrackedSequence

__all__ = ["Reconstruction", "reconstruct"]

Maps = Sequence[npt.NDArray[np.uint8]] | npt.NDArray[np.uint8]
Progress = Callable[[int, int], None]
BATCH = 32  # frames that threads take together


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reconstruction:
    """What `reconstruct` made: the volume, the frames it is of, and those left out with the reason."""

    volume: Volume
    frames: int
    dropped: Mapping[str, tuple[int, ...]]
    settings: ReconstructSettings

    def to_dict(self) -> dict[str, Any]:
        """JSON object: frames, lattice in world coordinates, share of seen voxels, settings."""
        volume = self.volume
        seen = int(volume.swept.sum())
        return {
            "schema": "edge-runtime.reconstruct/1",
            "frames": self.frames,
            "dropped": {reason: list(rows) for reason, rows in self.dropped.items()},
            "shape_zyx": list(volume.data.shape),
            "spacing_mm_zyx": list(volume.spacing_mm),
            "origin_mm_xyz": volume.T_world_volume[:3, 3].tolist(),
            "voxels": volume.data.size,
            "seen_voxels": seen,
            "filled_voxels": 0 if volume.filled is None else int(volume.filled.sum()),
            "mean_level": float(volume.data[volume.swept].mean()) if seen else None,
            "pose_origin": volume.pose_origin,
            "settings": msgspec.to_builtins(self.settings),
        }


def reconstruct(
    source: str | Path | TrackedSequence | RecordedSweep | Sweep,
    settings: ReconstructSettings | None = None,
    *,
    constants: Mapping[str, npt.NDArray[np.float64]] | None = None,
    scan_area: ScanArea | None = None,
    confidence: Maps | None = None,
    reserved_bytes: int = 0,
    progress: Progress | None = None,
) -> Reconstruction:
    """The volume of a recording (`.igs.mha`, `.seq.nrrd`, or one already read), or of a sweep.

    `constants`: transforms that the recording does not hold, such as `{"ImageToProbe": matrix}`. `scan_area`: the part
    of each image to use, in pixels of orientation MF, in place of the sweep's own. `confidence`: for each frame of the
    sweep a map (H, W) uint8, 255 as 1, that weights its pixels. `reserved_bytes`: memory of a voxel that the caller
    will take beside the volume; it counts to `max_mib`. `progress(done, all)` is called as frames are done. Frames and
    poses from elsewhere: `open_frames` makes a sweep of them.

    Raises what `open_sweep` and `Compounder` raise; `ReconstructionError` when no pixel falls inside, and, with the
    number and a spacing that fits, when `max_mib` would be exceeded; `ConfigError` for a confidence map too few or
    of another size.
    """
    settings = settings or ReconstructSettings()
    recorded = _recorded(source, settings, constants)
    sweep = recorded.sweep if scan_area is None else with_scan_area(recorded.sweep, scan_area)
    weighted = settings.weighted or confidence is not None
    if weighted:
        settings.require_weighted()
    if confidence is not None and len(confidence) != len(sweep):
        raise ConfigError(f"{len(confidence)} confidence maps for {len(sweep)} frames; give one for each frame")
    grid = _grid(sweep, settings, settings.voxel_bytes(weighted=weighted) + reserved_bytes)
    if weighted:
        volume, used = _weighted(sweep, settings, grid, confidence, progress)
    else:
        volume, used = _compounded(sweep, settings, grid, progress)
    if used == 0:
        raise ReconstructionError(
            f"none of the {len(sweep)} frames meets the grid {grid.shape} at {grid.spacing_mm} mm, which starts at "
            f"{grid.T_world_volume[:3, 3].tolist()} mm; check origin_mm and the transform"
        )
    return Reconstruction(volume=volume, frames=len(sweep), dropped=recorded.dropped, settings=settings)


def _compounded(
    sweep: Sweep, settings: ReconstructSettings, grid: VolumeGrid, progress: Progress | None
) -> tuple[Volume, int]:
    used, step = 0, BATCH if settings.threads > 1 else 1
    with Compounder(
        grid,
        mode=settings.mode,
        kernel=settings.kernel,
        pose_origin=sweep.pose_origin,
        max_voxels=grid.voxels,
        threads=settings.threads,
        average=settings.average,
    ) as target:
        for start in range(0, len(sweep), step):
            rows = range(start, min(start + step, len(sweep)))
            used += target.insert_many([(sweep.image(k), sweep.T_world_image[k], sweep.geometry_of(k)) for k in rows])
            if progress is not None:
                progress(rows[-1] + 1, len(sweep))
        return target.volume(), used


def _weighted(
    sweep: Sweep,
    settings: ReconstructSettings,
    grid: VolumeGrid,
    confidence: Maps | None,
    progress: Progress | None,
) -> tuple[Volume, int]:
    target, used = WeightedCompounder(grid, pose_origin=sweep.pose_origin, max_voxels=grid.voxels), 0
    for k in range(len(sweep)):
        image, geometry = sweep.image(k), sweep.geometry_of(k)
        height, width = image.shape
        weights = [] if confidence is None else [confidence[k]]
        if settings.depth_halving_mm is not None:
            weights.append(depth_weights((height, width), geometry, settings.depth_halving_mm))
        if settings.incidence:
            weights.append(incidence_weights(image, geometry))
        used += target.insert(image, sweep.T_world_image[k], geometry, product_of_weights(*weights))
        if progress is not None:
            progress(k + 1, len(sweep))
    return target.volume(), used


def _recorded(
    source: str | Path | TrackedSequence | RecordedSweep | Sweep,
    settings: ReconstructSettings,
    constants: Mapping[str, npt.NDArray[np.float64]] | None,
) -> RecordedSweep:
    if isinstance(source, Sweep | RecordedSweep):
        if constants:
            raise ConfigError(f"constants {sorted(constants)} with a sweep: its poses are resolved already")
        if isinstance(source, RecordedSweep):
            return source
        return RecordedSweep(sweep=source, kept=np.arange(len(source), dtype=np.int64), dropped={})
    return open_sweep(source, settings, constants=constants)


def _grid(sweep: Sweep, settings: ReconstructSettings, voxel_bytes: int) -> VolumeGrid:
    """The lattice asked for: the user's numbers untouched, the rest from the sweep."""
    cap = settings.max_mib * MIB // voxel_bytes
    if settings.shape is None or settings.origin_mm is None:
        return grid_of_sweep(sweep, settings.spacing_mm, max_voxels=cap, origin_mm=settings.origin_mm)
    voxels = math.prod(settings.shape)
    if voxels > cap:
        factor = (voxels / cap) ** (1 / 3) * 1.01
        fits = ", ".join(f"{s * factor:.3g}" for s in settings.spacing_mm)
        need = math.ceil(voxels * voxel_bytes / MIB)
        raise ReconstructionError(
            f"shape {settings.shape} needs {need} MiB, max_mib is {settings.max_mib}; a spacing of ({fits}) mm with as "
            f"many times fewer voxels a side fits, or raise max_mib to {need}"
        )
    T = np.eye(4)
    T[:3, 3] = settings.origin_mm
    return VolumeGrid(shape=settings.shape, spacing_mm=settings.spacing_mm, T_world_volume=T)
