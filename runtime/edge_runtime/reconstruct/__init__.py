"""Three-dimensional reconstruction of tracked sweeps."""

from __future__ import annotations

from edge_runtime.reconstruct.compare import (
    Parity,
    VolumeError,
    WireError,
    compare,
    error_map,
    locate_wire,
    parity,
    shared_part,
    wire_error,
)
from edge_runtime.reconstruct.compound import Compounder, CompoundKernel, CompoundMode, compound, warm_up
from edge_runtime.reconstruct.editable import EditableCompounder
from edge_runtime.reconstruct.grid import MAX_VOXELS, VolumeGrid, grid_of_sweep
from edge_runtime.reconstruct.holes import FillMethod, fill_holes
from edge_runtime.reconstruct.labels import FusedLabels, LabelCompounder, fuse_labels, segment
from edge_runtime.reconstruct.live import LiveCompounder, LiveState
from edge_runtime.reconstruct.live_volume import LiveVolume
from edge_runtime.reconstruct.measure import Quantity, VolumeMeasure, measure_volume
from edge_runtime.reconstruct.mesh import Mesh, isosurface, mask_surface
from edge_runtime.reconstruct.mesh_files import MESH_SUFFIXES, write_mesh
from edge_runtime.reconstruct.mha import read_mha, write_mha
from edge_runtime.reconstruct.moments import WeightedCompounder, depth_weights
from edge_runtime.reconstruct.nifti import read_nifti, write_nifti
from edge_runtime.reconstruct.nrrd import VolumeField, read_nrrd, write_nrrd
from edge_runtime.reconstruct.one_call import Reconstruction, reconstruct
from edge_runtime.reconstruct.opening import open_frames, open_sweep, with_scan_area
from edge_runtime.reconstruct.pictures import TurnAxis, draw_turntable, turntable, write_turntable
from edge_runtime.reconstruct.scan_area import ClippedSector, clip_area, detect_area
from edge_runtime.reconstruct.settings import ReconstructSettings
from edge_runtime.reconstruct.slices import draw_slices, orthogonal_slices
from edge_runtime.reconstruct.sweep import FrameStack, RecordedSweep, Sweep, sweep_of_poses, sweep_of_sequence
from edge_runtime.reconstruct.uncertainty import UncertaintyCompounder, pose_uncertainty, position_sigma
from edge_runtime.reconstruct.value_files import write_values
from edge_runtime.reconstruct.volume import Volume
from edge_runtime.reconstruct.volume_files import VOLUME_SUFFIXES, read_volume, write_volume
from edge_runtime.reconstruct.weights import incidence_weights, product_of_weights

__all__ = [
    "MAX_VOXELS",
    "MESH_SUFFIXES",
    "VOLUME_SUFFIXES",
    "ClippedSector",
    "CompoundKernel",
    "CompoundMode",
    "Compounder",
    "EditableCompounder",
    "FillMethod",
    "FrameStack",
    "FusedLabels",
    "LabelCompounder",
    "LiveCompounder",
    "LiveState",
    "LiveVolume",
    "Mesh",
    "Parity",
    "Quantity",
    "ReconstructSettings",
    "Reconstruction",
    "RecordedSweep",
    "Sweep",
    "TurnAxis",
    "UncertaintyCompounder",
    "Volume",
    "VolumeError",
    "VolumeField",
    "VolumeGrid",
    "VolumeMeasure",
    "WeightedCompounder",
    "WireError",
    "clip_area",
    "compare",
    "compound",
    "depth_weights",
    "detect_area",
    "draw_slices",
    "draw_turntable",
    "error_map",
    "fill_holes",
    "fuse_labels",
    "grid_of_sweep",
    "incidence_weights",
    "isosurface",
    "locate_wire",
    "mask_surface",
    "measure_volume",
    "open_frames",
    "open_sweep",
    "orthogonal_slices",
    "parity",
    "pose_uncertainty",
    "position_sigma",
    "product_of_weights",
    "read_mha",
    "read_nifti",
    "read_nrrd",
    "read_volume",
    "reconstruct",
    "segment",
    "shared_part",
    "sweep_of_poses",
    "sweep_of_sequence",
    "turntable",
    "warm_up",
    "wire_error",
    "with_scan_area",
    "write_mesh",
    "write_mha",
    "write_nifti",
    "write_nrrd",
    "write_turntable",
    "write_values",
    "write_volume",
]
