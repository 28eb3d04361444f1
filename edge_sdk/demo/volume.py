"""A tracked sweep compounded into a volume, held against the field it was taken from."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime.atomic import replacing
from edge_runtime.reconstruct import (
    Sweep,
    Volume,
    VolumeError,
    VolumeGrid,
    WireError,
    compare,
    compound,
    draw_slices,
    locate_wire,
    wire_error,
    write_nrrd,
)
from edge_sdk.demo.config import DemoConfig
from edge_sdk.simulate import SimulatedSweep, simulate_sweep
from edge_sdk.stages import StageResult, Stages, code_sha256

__all__ = ["reconstruct", "truth_volume", "volume_errors"]


def reconstruct(stages: Stages, config: DemoConfig) -> StageResult:
    """Compound a simulated sweep; write `volume.nrrd` and three slices beside the truth."""
    inputs = {
        "frames": config.sweep_frames,
        "voxel_mm": config.voxel_mm,
        "seed": config.seed,
        "code": code_sha256("edge_runtime.reconstruct", "edge_sdk.simulate", "edge_sdk.demo.volume"),
    }
    return stages.run("volume", inputs, lambda folder: _reconstruct(folder, config))


def truth_volume(simulated: SimulatedSweep, grid: VolumeGrid) -> Volume:
    """The sweep's own grey field at the voxels of `grid`."""
    points = grid.to_world(np.indices(grid.shape).reshape(3, -1).T)
    grey = np.clip(np.rint(simulated.field(points)), 0, 255).astype(np.uint8).reshape(grid.shape)
    return Volume(data=grey, spacing_mm=grid.spacing_mm, T_world_volume=grid.T_world_volume)


def volume_errors(config: DemoConfig) -> tuple[VolumeError, WireError]:
    """Errors of the volume of `config`: grey levels inside the sweep, and the wire's place."""
    simulated = simulate_sweep(config.seed, n_frames=config.sweep_frames)
    volume, truth = _compounded(simulated, config)
    return compare(volume, truth), _wire(simulated, volume)


def _compounded(simulated: SimulatedSweep, config: DemoConfig) -> tuple[Volume, Volume]:
    sweep = Sweep(
        frames=simulated.frames,
        T_world_image=simulated.T_world_image,
        times_ns=simulated.time_ns,
        geometry=simulated.geometry,
    )
    volume = compound(sweep, spacing_mm=config.voxel_mm, mode="mean", kernel="linear")
    return volume, truth_volume(simulated, volume.grid)


def _wire(simulated: SimulatedSweep, volume: Volume) -> WireError:
    start, end = simulated.wire
    return wire_error(locate_wire(volume, start, end), start, end, volume.spacing_mm)


def _reconstruct(folder: Path, config: DemoConfig) -> dict[str, Any]:
    import cv2

    simulated = simulate_sweep(config.seed, n_frames=config.sweep_frames)
    volume, truth = _compounded(simulated, config)
    write_nrrd(folder / "volume.nrrd", volume)
    with replacing(folder / "slices.png") as temporary:
        cv2.imwrite(str(temporary), cv2.cvtColor(draw_slices(volume, truth), cv2.COLOR_RGB2BGR))
    return {
        "frames": len(simulated.frames),
        "shape": list(volume.data.shape),
        "spacing_mm": list(volume.spacing_mm),
        **asdict(compare(volume, truth)),
        "wire": asdict(_wire(simulated, volume)),
    }
