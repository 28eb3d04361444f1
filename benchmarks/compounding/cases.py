"""The real sweeps, their reference volumes and the matrices between them."""

from __future__ import annotations

import os
import re
import xml.etree.ElementTree as ElementTree
import zlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ConfigError
from edge_runtime.reconstruct import Sweep, VolumeGrid
from edge_runtime.sources.tracked import TrackedSequence, read_sequence, split_scale

__all__ = ["CLIP", "FAN", "SPACING", "Pixels", "nwire_pixels", "read_volume", "spine_pixels", "sweep_of", "sweeps"]

SPACING = 0.5
CLIP = (192, 16, 420, 580)
FAN = (-45.0, 45.0, 380.0, 20.0, 120.0, 360.0)

F64 = npt.NDArray[np.float64]


def sweeps() -> Path:
    """The folder of recorded sweeps; `ConfigError` when `POCUS_DATA` does not name the data."""
    if "POCUS_DATA" not in os.environ:
        raise ConfigError("POCUS_DATA is not set; it names the folder that holds sweeps/")
    return Path(os.environ["POCUS_DATA"]) / "sweeps"


def read_volume(path: Path) -> npt.NDArray[np.uint8]:
    """Voxels (Z, Y, X) of a MetaImage volume."""
    raw = path.read_bytes()
    head, body = raw.split(b"ElementDataFile = LOCAL\n", 1)
    fields = dict(re.split(r"\s*=\s*", line, maxsplit=1) for line in head.decode().splitlines())
    body = zlib.decompress(body) if fields["CompressedData"].strip() == "True" else body
    x, y, z = (int(n) for n in fields["DimSize"].split())
    return np.frombuffer(body, np.uint8)[: x * y * z].reshape(z, y, x)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pixels:
    """Frames (N, H, W) and the matrices (N, 4, 4) that take pixels (x, y, 0, 1) to mm in the reference frame."""

    frames: npt.NDArray[np.uint8]
    T_reference_image: F64

    def extent(self, clip: tuple[int, int, int, int] | None = None) -> tuple[F64, tuple[int, int, int]]:
        """Origin (x, y, z) mm and shape (Z, Y, X) that the reference gives a volume of these frames."""
        height, width = self.frames.shape[1:]
        x0, y0, x1, y1 = 0, 0, width - 1, height - 1
        if clip is not None:
            x0, y0, x1, y1 = clip[0], clip[1], min(x1, clip[0] + clip[2]), min(y1, clip[1] + clip[3])
        corners = np.array([(x, y, 0, 1) for x in (x0, x1) for y in (y0, y1)], float)
        points = np.einsum("nij,cj->nci", self.T_reference_image, corners)[..., :3].reshape(-1, 3)
        low, high = points.min(axis=0), points.max(axis=0)
        x, y, z = (int(n) for n in np.floor((high - low) / SPACING + 0.5) + 1)
        return low, (z, y, x)

    def to_voxels(self, origin: F64) -> F64:
        """(N, 4, 4) from pixels to voxels (x, y, z) of a volume of `SPACING` mm at `origin`."""
        T = self.T_reference_image.copy()
        T[:, :3] /= SPACING
        T[:, :3, 3] -= origin / SPACING
        return T


@cache
def spine_pixels() -> Pixels:
    """The spine phantom: 21 frames of 820 x 616."""
    folder = sweeps() / "plus_spine"
    return _pixels(folder / "SpinePhantomFreehand.igs.mha", folder / "Config_SpinePhantom_NN_MEAN.xml")


@cache
def nwire_pixels() -> Pixels:
    """The N-wire phantom: 97 frames of 820 x 616."""
    folder = sweeps() / "plus_nwire"
    config = "PlusDeviceSet_NwirePhantomFreehand_vtkVolumeReconstructorTest2.xml"
    return _pixels(folder / "NwirePhantomFreehand.igs.mha", folder / config)


def _pixels(recording: Path, config: Path) -> Pixels:
    sequence: TrackedSequence = read_sequence(recording).oriented("MF")
    found = ElementTree.parse(config).find(".//Transform[@From='Image'][@To='Probe']")
    assert found is not None
    assert sequence.frames is not None
    probe_image = np.array(found.attrib["Matrix"].split(), float).reshape(4, 4)
    tracker = sequence.transforms
    T = np.linalg.inv(tracker["ReferenceToTracker"]) @ tracker["ProbeToTracker"] @ probe_image
    return Pixels(frames=sequence.frames, T_reference_image=T)


def sweep_of(frames: npt.NDArray[np.uint8], to_voxels: F64, shape: tuple[int, int, int]) -> tuple[Sweep, VolumeGrid]:
    """The frames as a sweep whose world is the volume's own frame, and the grid at its origin.

    Any 3 x 2 matrix is a rotation, two pixel sizes and a shear, so these address exactly what `to_voxels` does.
    """
    poses, geometries = [], []
    for T in to_voxels:
        mm = T.copy()
        mm[:3] *= SPACING
        pose, geometry = split_scale(mm)
        poses.append(pose)
        geometries.append(geometry)
    grid = VolumeGrid(shape=shape, spacing_mm=(SPACING,) * 3, T_world_volume=np.eye(4))
    return Sweep(frames=frames, T_world_image=np.stack(poses), geometry=geometries), grid
