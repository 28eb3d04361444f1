"""Written volumes against what SimpleITK, whose readers 3D Slicer shares, makes of the files."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from benchmarks.compounding.cases import read_volume, sweeps
from benchmarks.figures import Figure
from edge_runtime.geometry import quaternion_wxyz_to_rotation
from edge_runtime.reconstruct import VOLUME_SUFFIXES, Volume, VolumeField, write_volume

__all__ = ["measure_volume_round_trip"]

FIELDS: tuple[VolumeField, ...] = ("data", "weight", "filled")
POSES = 40
DOUBLE, SINGLE = 1e-12, 2e-5  # mm (and per unit of direction), at most 250 mm from the origin


def measure_volume_round_trip() -> list[Figure]:
    """Voxels that differ, and the largest difference of spacing, direction and origin, by format."""
    differ = files = 0
    off = dict.fromkeys(VOLUME_SUFFIXES, 0.0)
    with tempfile.TemporaryDirectory() as name:
        for volume in _volumes():
            for suffix in VOLUME_SUFFIXES:
                for field in FIELDS:
                    # a name each: beside volume.nii, readers on niftilib never open volume.nii.gz
                    path = Path(name) / f"volume{suffix.replace('.', '_')}{suffix}"
                    write_volume(path, volume, field=field)
                    voxels, placement = _compare(path, volume, field)
                    differ, files = differ + voxels, files + 1
                    off[suffix] = max(off[suffix], placement)
    double = max(off[s] for s in VOLUME_SUFFIXES if "nii" not in s)
    single = max(off[s] for s in VOLUME_SUFFIXES if "nii" in s)
    spread = f"{len(VOLUME_SUFFIXES)} formats, {len(FIELDS)} fields"
    return [
        Figure(
            name="voxels that differ",
            value=float(differ),
            goal="0",
            unit="voxels",
            n=files,
            met=differ == 0,
            spread=spread,
        ),
        _placement("spacing, direction, origin of MHA and NRRD (double precision)", double, DOUBLE, files),
        _placement("spacing, direction, origin of NIfTI-1 (single precision by its header)", single, SINGLE, files),
    ]


def _placement(name: str, value: float, limit: float, files: int) -> Figure:
    return Figure(
        name=name, value=value, goal=f"<= {limit:g}", unit="mm", n=files // 2, met=value <= limit, spread="largest"
    )


def _compare(path: Path, volume: Volume, field: VolumeField) -> tuple[int, float]:
    """Voxels that differ and the largest difference of placement of what SimpleITK reads from `path`."""
    image: Any = sitk.ReadImage(str(path))
    T = volume.T_world_volume
    pairs = (
        (image.GetSpacing(), volume.spacing_mm[::-1]),
        (image.GetDirection(), T[:3, :3].ravel()),
        (image.GetOrigin(), T[:3, 3]),
    )
    voxels = int(np.count_nonzero(sitk.GetArrayFromImage(image) != getattr(volume, field)))
    return voxels, max(float(np.abs(np.subtract(a, b)).max()) for a, b in pairs)


def _volumes() -> Iterator[Volume]:
    """Noise at random poses, half turns among them, and, where the data is there, a real reconstruction."""
    rng = np.random.default_rng(11)
    quaternions = rng.normal(size=(POSES, 4))
    quaternions[:4] = np.eye(4)
    for q in quaternions:
        T = np.eye(4)
        T[:3, :3] = quaternion_wxyz_to_rotation(q / np.linalg.norm(q))
        T[:3, 3] = rng.uniform(-200, 200, 3)
        z, y, x = (float(s) for s in rng.uniform(0.1, 2, 3))
        yield _volume(rng, rng.integers(0, 256, tuple(rng.integers(1, 20, 3)), np.uint8), (z, y, x), T)
    if "POCUS_DATA" in os.environ:
        T = np.eye(4)
        T[:3, 3] = (-74.5217, 165.573, 29.072)
        data = read_volume(sweeps() / "plus_spine" / "VolumeReconstructorTestNNMEANvolumeRef.mha")
        yield _volume(rng, data, (0.5, 0.5, 0.5), T)


def _volume(
    rng: np.random.Generator,
    data: npt.NDArray[np.uint8],
    spacing: tuple[float, float, float],
    T: npt.NDArray[np.float64],
) -> Volume:
    weight = rng.random(data.shape, np.float32)
    return Volume(data=data, weight=weight, filled=weight > 0.5, spacing_mm=spacing, T_world_volume=T)
