"""`reconstruct`: a recording with poses in, a volume out, in one call."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec
import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ConfigError, ReconstructionError
from edge_runtime.frame import FrameGeometry, ScanArea
from edge_runtime.reconstruct.compound import CompoundKernel, CompoundMode, compound
from edge_runtime.reconstruct.grid import VolumeGrid, grid_of_sweep
from edge_runtime.reconstruct.sweep import RecordedSweep, Sweep, sweep_of_sequence
from edge_runtime.reconstruct.volume import Volume
from edge_runtime.sources.tracked import TrackedSequence, read_sequence

__all__ = ["ReconstructSettings", "Reconstruction", "reconstruct"]

Progress = Callable[[int, int], None]
MIB = 1 << 20
VOLUME_BYTES = 5  # grey level and float32 weight of a voxel


class ReconstructSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How a recording becomes a volume.

    `transform`: the chain that takes pixels to the world, by name. `spacing_mm`: (z, y, x). `origin_mm` (x, y, z), the
    world position of the centre of voxel (0, 0, 0), and `shape` (z, y, x) in voxels are taken exactly as they are
    given; without them the smallest lattice that holds the sweep is made, and with `origin_mm` alone it reaches from
    there to the far end of the sweep. `mode` and `kernel`: see `Compounder`. `invalid`, `repeated`, `max_gap_ms`: see
    `sweep_of_sequence`. `max_mib`: memory that sums and volume may take together. `threads`: 1 to 64; the result does
    not depend on it. Raises `ConfigError` for a value out of range.
    """

    transform: str = "ImageToReference"
    spacing_mm: tuple[float, float, float] = (0.5, 0.5, 0.5)
    origin_mm: tuple[float, float, float] | None = None
    shape: tuple[int, int, int] | None = None
    mode: CompoundMode = "mean"
    kernel: CompoundKernel = "linear"
    invalid: Literal["drop", "error"] = "drop"
    repeated: Literal["keep", "drop", "error"] = "keep"
    max_gap_ms: float | None = None
    max_mib: int = 2048
    threads: int = 1

    def __post_init__(self) -> None:
        if self.mode not in get_args(CompoundMode) or self.kernel not in get_args(CompoundKernel):
            raise ConfigError(
                f"mode {self.mode!r} with kernel {self.kernel!r}: modes are {', '.join(get_args(CompoundMode))}; "
                f"kernels are {', '.join(get_args(CompoundKernel))}"
            )
        if self.shape is not None and self.origin_mm is None:
            raise ConfigError(f"shape {self.shape} without origin_mm: give the position of voxel (0, 0, 0) too")
        if not np.isfinite(self.origin_mm or 0).all():
            raise ConfigError(f"origin_mm {self.origin_mm}: three finite numbers (x, y, z) in mm are needed")
        if self.max_mib < 1 or not 1 <= self.threads <= 64:
            raise ConfigError(
                f"max_mib {self.max_mib} and threads {self.threads}: at least 1, and 1 to 64, are allowed"
            )

    @property
    def max_voxels(self) -> int:
        """Voxels for which `max_mib` suffices."""
        return self.max_mib * MIB // self.voxel_bytes

    @property
    def voxel_bytes(self) -> int:
        """Memory of a voxel: its sums, grey level and weight."""
        return (16 if (self.mode, self.kernel) == ("mean", "linear") else 8) + VOLUME_BYTES


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
    source: str | Path | TrackedSequence | Sweep,
    settings: ReconstructSettings | None = None,
    *,
    constants: Mapping[str, npt.NDArray[np.float64]] | None = None,
    scan_area: ScanArea | None = None,
    progress: Progress | None = None,
) -> Reconstruction:
    """The volume of a recording (`.igs.mha`, `.seq.nrrd`, or one already read), or of a `Sweep`.

    `constants`: transforms that the recording does not hold, such as `{"ImageToProbe": matrix}`. `scan_area`: the part
    of each image to use, in pixels of orientation MF, in place of the sweep's own. `progress(done, all)` is called
    after each frame.

    Raises what `read_sequence`, `sweep_of_sequence` and `compound` raise; `ReconstructionError`, with the number and a
    spacing that fits, when `max_mib` would be exceeded.
    """
    settings = settings or ReconstructSettings()
    recorded = _recorded(source, settings, constants)
    sweep = recorded.sweep
    if scan_area is not None:
        found = sweep.geometry
        if isinstance(found, FrameGeometry):
            sweep = replace(sweep, geometry=replace(found, scan_area=scan_area))
        else:
            sweep = replace(sweep, geometry=[replace(geometry, scan_area=scan_area) for geometry in found])
    grid = _grid(sweep, settings)
    volume = compound(
        sweep,
        mode=settings.mode,
        kernel=settings.kernel,
        grid=grid,
        max_voxels=settings.max_voxels,
        threads=settings.threads,
        progress=progress,
    )
    return Reconstruction(volume=volume, frames=len(sweep), dropped=recorded.dropped, settings=settings)


def _recorded(
    source: str | Path | TrackedSequence | Sweep,
    settings: ReconstructSettings,
    constants: Mapping[str, npt.NDArray[np.float64]] | None,
) -> RecordedSweep:
    if isinstance(source, Sweep):
        if constants:
            raise ConfigError(f"constants {sorted(constants)} with a Sweep: its poses are resolved already")
        return RecordedSweep(sweep=source, kept=np.arange(len(source), dtype=np.int64), dropped={})
    sequence = source if isinstance(source, TrackedSequence) else read_sequence(source)
    return sweep_of_sequence(
        sequence,
        settings.transform,
        constants=constants,
        invalid=settings.invalid,
        repeated=settings.repeated,
        max_gap_ms=settings.max_gap_ms,
    )


def _grid(sweep: Sweep, settings: ReconstructSettings) -> VolumeGrid:
    """The lattice asked for: the user's numbers untouched, the rest from the sweep."""
    if settings.shape is None or settings.origin_mm is None:
        return grid_of_sweep(sweep, settings.spacing_mm, max_voxels=settings.max_voxels, origin_mm=settings.origin_mm)
    voxels = math.prod(settings.shape)
    if voxels > settings.max_voxels:
        factor = (voxels / settings.max_voxels) ** (1 / 3) * 1.01
        fits = ", ".join(f"{s * factor:.3g}" for s in settings.spacing_mm)
        need = math.ceil(voxels * settings.voxel_bytes / MIB)
        raise ReconstructionError(
            f"shape {settings.shape} needs {need} MiB, max_mib is {settings.max_mib}; a spacing of ({fits}) mm with as "
            f"many times fewer voxels a side fits, or raise max_mib to {need}"
        )
    T = np.eye(4)
    T[:3, 3] = settings.origin_mm
    return VolumeGrid(shape=settings.shape, spacing_mm=settings.spacing_mm, T_world_volume=T)
