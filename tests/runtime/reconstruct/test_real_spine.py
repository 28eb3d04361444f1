"""A real tracked sweep against the volumes that the reference reconstructor (PLUS, IGSIO) made of it."""

from __future__ import annotations

import os
import re
import xml.etree.ElementTree as ElementTree
import zlib
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.frame import FrameGeometry
from edge_runtime.reconstruct import Sweep, VolumeGrid, compound

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("POCUS_DATA" not in os.environ, reason="POCUS_DATA is not set: no real sweep to read"),
]


def read_mha(path):
    """Header fields and pixels (Z, Y, X) uint8 of a MetaImage file."""
    raw = path.read_bytes()
    end = raw.index(b"ElementDataFile = LOCAL\n")
    fields = dict(re.split(r"\s*=\s*", line, maxsplit=1) for line in raw[:end].decode().splitlines())
    body = raw[end:].split(b"\n", 1)[1]
    body = zlib.decompress(body) if fields["CompressedData"].strip() == "True" else body
    x, y, z = (int(n) for n in fields["DimSize"].split())
    return fields, np.frombuffer(body, np.uint8)[: x * y * z].reshape(z, y, x)


def matrix(text):
    return np.array(text.split(), float).reshape(4, 4)


@pytest.fixture(scope="module")
def folder():
    return Path(os.environ["POCUS_DATA"]) / "sweeps" / "plus_spine"


@pytest.fixture(scope="module")
def spine(folder):
    """The sweep with rigid poses: the pixel size and shear of ImageToProbe go into the geometry (QR)."""
    fields, frames = read_mha(folder / "SpinePhantomFreehand.igs.mha")
    config = ElementTree.parse(folder / "Config_SpinePhantom_NN_MEAN.xml")
    probe_image = matrix(config.find(".//Transform[@From='Image'][@To='Probe']").get("Matrix"))
    q, r = np.linalg.qr(probe_image[:3, :2])
    q, r = q * np.sign(np.diag(r)), r * np.sign(np.diag(r))[:, None]
    T_probe_image = np.eye(4)
    T_probe_image[:3, :3] = np.column_stack([q, np.cross(q[:, 0], q[:, 1])])
    T_probe_image[:3, 3] = probe_image[:3, 3]
    geometry = FrameGeometry(
        row_mm=r[1, 1], column_mm=r[0, 0], shear=r[0, 1] / r[1, 1], origin="user", trusted=True, reason=""
    )
    poses = []
    for k in range(len(frames)):
        tracker_reference, tracker_probe = (
            matrix(fields[f"Seq_Frame{k:04d}_{name}ToTrackerTransform"]) for name in ("Reference", "Probe")
        )
        T = np.linalg.inv(tracker_reference) @ tracker_probe @ T_probe_image
        u, _, vt = np.linalg.svd(T[:3, :3])  # six digits in the file: orthonormal to 1e-6 only
        T[:3, :3] = u @ vt
        poses.append(T)
    return Sweep(frames=frames, T_world_image=np.stack(poses), geometry=geometry)


def reference(folder, name):
    fields, data = read_mha(folder / f"VolumeReconstructorTest{name}volumeRef.mha")
    T = np.eye(4)
    T[:3, 3] = [float(n) for n in fields["Offset"].split()]
    z, y, x = data.shape
    return data, VolumeGrid(shape=(z, y, x), spacing_mm=(0.5, 0.5, 0.5), T_world_volume=T)


def test_linear_max_follows_the_reference(spine, folder):
    """The reference has 14-bit addresses, which shift a pixel by up to 0.04 voxel; hence not all are equal."""
    truth, grid = reference(folder, "LNMAXI")
    volume = compound(spine, mode="max", kernel="linear", grid=grid)
    off = np.abs(volume.data.astype(int) - truth)[volume.swept]
    assert (off == 0).mean() >= 0.965
    assert (off <= 2).mean() >= 0.98
    assert (volume.swept | (truth == 0)).mean() > 0.999, "the reference saw what this volume did not"


def test_nearest_mean_follows_the_reference_less_its_truncation(spine, folder):
    """The reference keeps its running mean in 8 bits and truncates at every hit: about 5 levels darker, else the same.

    Its holes are filled, so only swept voxels are compared.
    """
    truth, grid = reference(folder, "NNMEAN")
    volume = compound(spine, grid=grid)
    both = volume.swept & (truth > 0)
    ours, theirs = volume.data[both].astype(float), truth[both].astype(float)
    assert abs(int(volume.swept.sum()) - 362_130) <= 100  # voxels the reference saw before filling
    assert np.corrcoef(ours, theirs)[0, 1] > 0.998
    assert (theirs - ours).mean() == pytest.approx(-4.9, abs=0.1)
