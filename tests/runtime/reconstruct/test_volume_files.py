"""Volumes and meshes against other readers, and reading back."""

from __future__ import annotations

import gzip
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_runtime.errors import ConfigError, ReconstructionError, SourceError, SourceFormatError
from edge_runtime.geometry import quaternion_wxyz_to_rotation
from edge_runtime.reconstruct import (
    VOLUME_SUFFIXES,
    Volume,
    isosurface,
    read_mha,
    read_nifti,
    read_volume,
    shared_part,
    write_mesh,
    write_nifti,
    write_volume,
)


def volume_of(seed=4, shape=(4, 5, 6), turned=True):
    rng = np.random.default_rng(seed)
    T = np.eye(4)
    q = rng.normal(size=4) if turned else np.array([1.0, 0, 0, 0])
    T[:3, :3], T[:3, 3] = quaternion_wxyz_to_rotation(q / np.linalg.norm(q)), (-74.5217, 165.573, 29.072)
    return Volume(
        data=rng.integers(0, 256, shape, np.uint8),
        weight=rng.random(shape, np.float32),
        filled=rng.random(shape) > 0.5,
        spacing_mm=(0.7, 0.1 + 0.2, 1 / 3),
        T_world_volume=T,
        pose_origin="imu+image",
    )


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6), suffix=st.sampled_from(VOLUME_SUFFIXES))
def test_what_is_written_is_read_back(tmp_path, seed, suffix):
    volume = volume_of(seed)
    write_volume(tmp_path / f"v{suffix}", volume)
    back = read_volume(tmp_path / f"v{suffix}")
    atol = 2e-5 if "nii" in suffix else 1e-12
    np.testing.assert_array_equal(back.data, volume.data)
    np.testing.assert_allclose(back.T_world_volume, volume.T_world_volume, atol=atol)
    np.testing.assert_allclose(back.spacing_mm, volume.spacing_mm, rtol=2e-7)
    assert back.pose_origin == volume.pose_origin
    assert back.data.flags.writeable


@pytest.mark.parametrize("suffix", VOLUME_SUFFIXES)
def test_what_simpleitk_writes_is_read(tmp_path, suffix):
    sitk = pytest.importorskip("SimpleITK")
    volume = volume_of()
    image = sitk.GetImageFromArray(volume.data)
    image.SetSpacing(volume.spacing_mm[::-1])
    image.SetDirection(volume.T_world_volume[:3, :3].ravel().tolist())
    image.SetOrigin(volume.T_world_volume[:3, 3].tolist())
    for packed in (False, True):
        sitk.WriteImage(image, str(tmp_path / f"v{suffix}"), useCompression=packed)
        back = read_volume(tmp_path / f"v{suffix}")
        np.testing.assert_array_equal(back.data, volume.data)
        np.testing.assert_allclose(back.T_world_volume, volume.T_world_volume, atol=2e-5)
        np.testing.assert_allclose(back.spacing_mm, volume.spacing_mm, rtol=1e-6)
        assert back.pose_origin == "image"


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_nibabel_reads_the_same_points(tmp_path, suffix):
    nibabel = pytest.importorskip("nibabel")
    volume = volume_of()
    for field in ("data", "weight", "filled"):
        write_nifti(tmp_path / f"{field}{suffix}", volume, field=field)
        image = nibabel.load(tmp_path / f"{field}{suffix}")
        assert image.header.get_xyzt_units()[0] == "mm"
        np.testing.assert_array_equal(np.asarray(image.dataobj).T, getattr(volume, field))
        for affine in (image.get_sform(), image.get_qform()):
            ras = affine @ (5, 2, 3, 1)
            np.testing.assert_allclose(ras[:3] * (-1, -1, 1), volume.to_world((3, 2, 5)), atol=1e-4)
    assert image.header["pixdim"][0] == 1, "the axes are right-handed"


def test_nibabel_with_qform_alone_is_read(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    volume = volume_of()
    affine = np.diag([-1.0, -1, 1, 1]) @ volume.T_world_volume @ np.diag([*volume.spacing_mm[::-1], 1])
    image = nibabel.Nifti1Image(np.ascontiguousarray(volume.data.T), affine)
    image.set_sform(None, 0)
    image.set_qform(affine, 1)
    nibabel.save(image, tmp_path / "q.nii")
    back = read_volume(tmp_path / "q.nii")
    np.testing.assert_array_equal(back.data, volume.data)
    np.testing.assert_allclose(back.to_world((3, 2, 5)), volume.to_world((3, 2, 5)), atol=1e-4)
    image.set_qform(np.diag([1.0, 1, 1, 1]), 1)  # RAS axes with steps to the right and the front: still right-handed
    nibabel.save(image, tmp_path / "q.nii")
    np.testing.assert_allclose(read_volume(tmp_path / "q.nii").T_world_volume, np.diag([-1.0, -1, 1, 1]), atol=1e-6)
    image.set_qform(np.diag([-1.0, 1, 1, 1]), 1)
    nibabel.save(image, tmp_path / "q.nii")
    with pytest.raises(SourceFormatError, match="right-handed"):
        read_volume(tmp_path / "q.nii")


@pytest.mark.parametrize("suffix", [".ply", ".stl", ".obj"])
@pytest.mark.parametrize("peer", ["trimesh", "meshio"])
def test_peers_read_the_same_mesh(tmp_path, peer, suffix):
    library = pytest.importorskip(peer)
    ball = np.indices((20, 22, 24)).transpose(1, 2, 3, 0)
    level = 200 * np.exp(-((ball - (9, 10, 11)) ** 2).sum(-1) / 40.0)
    volume = Volume(data=level.astype(np.uint8), spacing_mm=(0.5, 0.6, 0.7), T_world_volume=volume_of().T_world_volume)
    mesh = isosurface(volume, 100)
    write_mesh(tmp_path / f"m{suffix}", mesh)
    if peer == "trimesh":
        found = library.load(tmp_path / f"m{suffix}", process=suffix == ".stl")
        points, faces = np.asarray(found.vertices), np.asarray(found.faces)
        assert found.is_watertight
        assert found.is_winding_consistent
        assert found.volume == pytest.approx(mesh.volume_mm3, rel=1e-5)
    else:
        found = library.read(tmp_path / f"m{suffix}")
        points, faces = found.points, found.cells_dict["triangle"]
    corners, wanted = points[faces], mesh.vertices[mesh.faces]
    assert corners.shape == wanted.shape
    np.testing.assert_allclose(corners, wanted, atol=2e-5)


def mha(tmp_path, body=None, **changes):
    fields = {
        "ObjectType": "Image", "NDims": "3", "DimSize": "3 2 2", "ElementSpacing": "1 1 1", "ElementType": "MET_UCHAR",
        "Offset": "0 0 0", "TransformMatrix": "1 0 0 0 1 0 0 0 1", **changes,
    }  # fmt: skip
    head = "".join(f"{key} = {value}\n" for key, value in fields.items() if value is not None)
    path = tmp_path / "v.mha"
    path.write_bytes(head.encode() + b"ElementDataFile = LOCAL\n" + (bytes(12) if body is None else body))
    return path


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"DimSize": None}, "lacks DimSize"),
        ({"DimSize": "3 2"}, "three sides is read"),
        ({"DimSize": "3 2 0"}, "three sides is read"),
        ({"DimSize": "3 2 x"}, "whole numbers"),
        ({"DimSize": "99999 99999 99999"}, "the cap is"),
        ({"DimSize": "3 2 3"}, "18 bytes of pixels are declared and 12"),
        ({"ElementType": "MET_SHORT"}, "MET_UCHAR with one channel"),
        ({"ElementSpacing": "1 1"}, "3 finite numbers"),
        ({"ElementSpacing": "1 1 a"}, "3 numbers are needed"),
        ({"ElementSpacing": "1 1 0"}, "right-handed"),
        ({"Offset": "nan 0 0"}, "finite"),
        ({"TransformMatrix": "1 0 0 0 1 0 0 0 -1"}, "right-handed"),
        ({"TransformMatrix": "1 0.1 0 0 1 0 0 0 1"}, "orthogonal"),
        ({"CompressedData": "True"}, "damaged"),
        ({"CompressedData": "Maybe"}, "True or False"),
        ({"PoseOrigin": "guess"}, "pose_origin is 'guess'"),
        ({"Seq_Frame0001_Timestamp": "1"}, "tracked sequence"),
    ],
)
def test_bad_metaimages_are_refused(tmp_path, changes, said):
    with pytest.raises(SourceFormatError, match=said):
        read_mha(mha(tmp_path, **changes))


def test_files_that_are_no_volumes_are_refused(tmp_path):
    (tmp_path / "v.mha").write_bytes(b"ObjectType = Image\nElementDataFile = other.raw\n")
    with pytest.raises(SourceFormatError, match="in one file"):
        read_mha(tmp_path / "v.mha")
    for read in (read_mha, read_nifti, read_volume):
        with pytest.raises((SourceError, ConfigError), match=r"cannot read|read from"):
            read(tmp_path / "none.raw")
    with pytest.raises(ConfigError, match=r"\.mha, \.nii, \.nii\.gz, \.nrrd"):
        read_volume(tmp_path / "v.png")


@pytest.mark.parametrize(
    ("at", "value", "said"),
    [
        (0, struct.pack("<i", 540), "not a little-endian"),
        (40, struct.pack("<h", 5), "one volume of three sides"),
        (42, struct.pack("<h", 0), "one volume of three sides"),
        (42, struct.pack("<h", 7), "are declared"),
        (70, struct.pack("<h", 4), "unscaled uint8"),
        (112, struct.pack("<f", 2.0), "unscaled uint8"),
        (123, b"\1", "unit of length"),
        (252, struct.pack("<2h", 0, 0), "neither sform nor qform"),
        (280, struct.pack("<f", float("nan")), "not finite"),
        (280, struct.pack("<f", 5.0), "orthogonal"),
        (148, b"pose_origin guess\0", "pose_origin is 'guess'"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_bad_niftis_are_refused(tmp_path, at, value, said, packed):
    path = tmp_path / "v.nii"
    write_nifti(path, volume_of())
    raw = bytearray(path.read_bytes())
    raw[at : at + len(value)] = value
    path.write_bytes(gzip.compress(bytes(raw)) if packed else bytes(raw))
    with pytest.raises(SourceFormatError, match=said):
        read_nifti(path)


@pytest.mark.parametrize("suffix", VOLUME_SUFFIXES)
def test_every_cut_is_refused(tmp_path, suffix):
    path = tmp_path / f"v{suffix}"
    write_volume(path, volume_of())
    raw = path.read_bytes()
    for end in range(0, len(raw), 37):
        path.write_bytes(raw[:end])
        with pytest.raises(SourceFormatError):
            read_volume(path)


def test_shared_part_is_what_both_have():
    whole = volume_of(shape=(6, 7, 8))
    T = whole.T_world_volume.copy()
    T[:3, 3] = whole.to_world((2, -1, 3))
    other = Volume(
        data=np.zeros((9, 4, 5), np.uint8), spacing_mm=whole.spacing_mm, T_world_volume=T, pose_origin="tracker"
    )
    ours, theirs = shared_part(whole, other)
    np.testing.assert_array_equal(ours.data, whole.data[2:6, 0:3, 3:8])
    assert theirs.data.shape == ours.data.shape
    np.testing.assert_allclose(ours.T_world_volume, theirs.T_world_volume, atol=1e-12)
    np.testing.assert_array_equal(ours.weight, whole.weight[2:6, 0:3, 3:8])
    T[:3, 3] = whole.to_world((2.5, 0, 0))
    between = Volume(data=other.data, spacing_mm=whole.spacing_mm, T_world_volume=T)
    with pytest.raises(ConfigError, match="do not coincide"):
        shared_part(whole, between)
    T[:3, 3] = whole.to_world((6, 0, 0))
    with pytest.raises(ReconstructionError, match="share no voxel"):
        shared_part(whole, Volume(data=other.data, spacing_mm=whole.spacing_mm, T_world_volume=T))


def test_reference_volumes_are_read_as_simpleitk_reads_them():
    sitk = pytest.importorskip("SimpleITK")
    data = os.environ.get("POCUS_DATA")
    if not data or not Path(data, "sweeps").is_dir():
        pytest.skip("POCUS_DATA does not name the folder of real data")
    paths = [*Path(data, "sweeps").glob("*/*Reconstructed.mha"), *Path(data, "sweeps").glob("*/*volumeRef.mha")]
    assert len(paths) == 6
    for path in paths:
        volume, image = read_volume(path), sitk.ReadImage(str(path))
        np.testing.assert_array_equal(volume.data, sitk.GetArrayFromImage(image))
        np.testing.assert_array_equal(volume.T_world_volume[:3, 3], image.GetOrigin())
        assert volume.spacing_mm == image.GetSpacing()[::-1]
