"""Three-dimensional reconstruction of tracked sweeps."""

from __future__ import annotations

from edge_runtime.reconstruct.compound import Compounder, CompoundKernel, CompoundMode, compound, warm_up
from edge_runtime.reconstruct.grid import MAX_VOXELS, VolumeGrid, grid_of_sweep
from edge_runtime.reconstruct.sweep import FrameStack, Sweep
from edge_runtime.reconstruct.volume import Volume

__all__ = [
    "MAX_VOXELS",
    "CompoundKernel",
    "CompoundMode",
    "Compounder",
    "FrameStack",
    "Sweep",
    "Volume",
    "VolumeGrid",
    "compound",
    "grid_of_sweep",
    "warm_up",
]
