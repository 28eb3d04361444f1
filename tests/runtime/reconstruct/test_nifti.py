from __future__ import annotations

import gzip
import struct
from types import SimpleNamespace

import numpy as np
import pytest

from edge_runtime.errors import ConfigError
from edge_runtime.geometry import quaternion_wxyz_to_rotation
from edge_runtime.reconstruct import Volume
from edge_runtime.reconstruct.nifti import write_nifti
from edge_runtime.reconstruct.volume_files import VOLUME_SUFFIXES, write_volume

QUATERNIONS = {
    "none": (1, 0, 0, 0),
    "small": (1, 0.01, -0.02, 0.03),
    "any": (0.3, -0.5, 0.7, 0.2),
    "half a turn about x": (0, 1, 0, 0),
    "half a turn about z": (0, 0, 0, 1),
    "half a turn askew": (0, 0.6, 0.0, 0.8),
    "nearly half a turn": (1e-4, 0.6, -0.64, 0.48),
}


@pytest.fixture(params=sorted(QUATERNIONS))
def volume(request):
    rng = np.random.default_rng(4)
    T = np.eye(4)
    q = np.array(QUATERNIONS[request.param], float)
    T[:3, :3], T[:3, 3] = quaternion_wxyz_to_rotation(q / np.linalg.norm(q)), (-74.5217, 165.573, 29.072)
    return Volume(
        data=rng.integers(0, 256, (4, 5, 6), np.uint8),
        weight=rng.random((4, 5, 6), np.float32),
        filled=rng.random((4, 5, 6)) > 0.5,
        spacing_mm=(0.7, 0.1 + 0.2, 1 / 3),
        T_world_volume=T,
        pose_origin="imu+image",
    )


@pytest.mark.parametrize("suffix", VOLUME_SUFFIXES)
def test_simpleitk_reads_every_volume_back(volume, tmp_path, suffix):
    """Voxels to the bit; placement to the precision of the format: double, and single for NIfTI."""
    sitk = pytest.importorskip("SimpleITK")
    path = tmp_path / f"v{suffix}"
    near = {"rtol": 2e-7, "atol": 2e-6} if "nii" in suffix else {"rtol": 1e-14, "atol": 1e-14}
    for field in ("data", "weight", "filled"):
        write_volume(path, volume, field=field)
        image = sitk.ReadImage(str(path))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(image), getattr(volume, field))
        np.testing.assert_allclose(image.GetSpacing(), volume.spacing_mm[::-1], **near)
        np.testing.assert_allclose(np.reshape(image.GetDirection(), (3, 3)), volume.T_world_volume[:3, :3], **near)
        np.testing.assert_allclose(image.GetOrigin(), volume.T_world_volume[:3, 3], **near)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def fields_of(head):
    """Fields of a NIfTI-1 header at the byte offsets of nifti1.h."""

    def at(offset, form):
        values = struct.unpack_from("<" + form, head, offset)
        return values[0] if len(values) == 1 else values

    return SimpleNamespace(
        sizeof_hdr=at(0, "i"), regular=at(38, "c"), dim=at(40, "8h"), datatype=at(70, "h"), bitpix=at(72, "h"),
        pixdim=at(76, "8f"), vox_offset=at(108, "f"), slope=at(112, "f"), units=at(123, "B"), qform=at(252, "h"),
        sform=at(254, "h"), quatern=at(256, "3f"), qoffset=at(268, "3f"), srow=np.reshape(at(280, "12f"), (3, 4)),
        name=at(328, "16s"), magic=at(344, "4s"), extension=at(348, "4s"),
    )  # fmt: skip


def test_the_header_is_what_the_standard_says(volume, tmp_path):
    """qform and sform, worked out by the formulas of nifti1.h, give the same points: those of the volume, in RAS."""
    write_nifti(tmp_path / "v.nii", volume)
    raw = (tmp_path / "v.nii").read_bytes()
    head = fields_of(raw)
    assert (head.sizeof_hdr, head.regular, head.magic, head.extension) == (348, b"r", b"n+1\0", bytes(4))
    assert (head.dim, head.datatype, head.bitpix) == ((3, 6, 5, 4, 1, 1, 1, 1), 2, 8)
    assert (head.vox_offset, head.slope, head.units, head.qform, head.sform) == (352, 1, 2, 1, 1)
    assert raw[352:] == volume.data.tobytes()
    b, c, d = head.quatern
    a = np.sqrt(max(0.0, 1 - b * b - c * c - d * d))
    R = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - c * c - b * b],
        ]
    )
    qfac, *steps = head.pixdim[:4]
    assert qfac == 1
    for z, y, x in ((0, 0, 0), (3, 4, 5), (1, 0, 2)):
        ras = volume.to_world((z, y, x)) * (-1, -1, 1)
        np.testing.assert_allclose(head.srow @ (x, y, z, 1), ras, atol=2e-5)
        np.testing.assert_allclose(R @ (np.array([x, y, z]) * steps) + head.qoffset, ras, atol=5e-3)


def test_packed_is_the_same_file_packed_and_without_a_time(volume, tmp_path):
    write_nifti(tmp_path / "v.nii", volume, field="weight")
    write_nifti(tmp_path / "v.nii.gz", volume, field="weight")
    packed = (tmp_path / "v.nii.gz").read_bytes()
    assert gzip.decompress(packed) == (tmp_path / "v.nii").read_bytes()
    assert packed[4:8] == bytes(4)
    assert fields_of(gzip.decompress(packed)).datatype == 16


def test_what_cannot_be_written_is_refused(tmp_path):
    plain = Volume(data=np.zeros((1, 1, 1), np.uint8), spacing_mm=(1, 1, 1), T_world_volume=np.eye(4))
    long = Volume(data=np.zeros((1, 1, 32768), np.uint8), spacing_mm=(1, 1, 1), T_world_volume=np.eye(4))
    with pytest.raises(ConfigError, match=r"\.nii or \.nii\.gz"):
        write_nifti(tmp_path / "v.hdr", plain)
    with pytest.raises(ConfigError, match="32767"):
        write_nifti(tmp_path / "v.nii", long)
    with pytest.raises(ConfigError, match="no weight"):
        write_nifti(tmp_path / "v.nii", plain, field="weight")
    with pytest.raises(ConfigError, match=r"v\.vtk: a volume is written as \.mha, \.nii"):
        write_volume(tmp_path / "v.vtk", plain)
    with pytest.raises(ConfigError, match="cannot be written"):
        write_volume(tmp_path / "none" / "v.nii", plain)
    assert list(tmp_path.iterdir()) == []
