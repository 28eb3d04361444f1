from __future__ import annotations

import gzip
import zlib

import numpy as np
import pytest

from edge_runtime.errors import ConfigError, SourceError, SourceFormatError
from edge_runtime.reconstruct import Volume, read_nrrd, write_mha, write_nrrd


@pytest.fixture
def volume(random_pose):
    rng = np.random.default_rng(4)
    return Volume(
        data=rng.integers(0, 256, (4, 5, 6), np.uint8),
        weight=rng.random((4, 5, 6), np.float32),
        spacing_mm=(0.7, 0.1 + 0.2, 1 / 3),
        T_world_volume=random_pose(rng, angle=1.0, shift=100),
        pose_origin="imu+image",
    )


@pytest.mark.parametrize("packed", [False, True])
def test_nrrd_round_trip_loses_nothing(volume, tmp_path, packed):
    write_nrrd(tmp_path / "v.nrrd", volume, gzip=packed)
    back = read_nrrd(tmp_path / "v.nrrd")
    np.testing.assert_array_equal(back.data, volume.data)
    np.testing.assert_allclose(back.T_world_volume, volume.T_world_volume, atol=1e-14)
    np.testing.assert_allclose(back.spacing_mm, volume.spacing_mm, rtol=1e-14)
    assert back.pose_origin == "imu+image"
    assert back.weight is None
    assert [p.name for p in tmp_path.iterdir()] == ["v.nrrd"], "a temporary file was left"


def test_the_header_is_what_the_format_says(volume, tmp_path):
    write_nrrd(tmp_path / "v.nrrd", volume)
    lines = (tmp_path / "v.nrrd").read_bytes().split(b"\n\n")[0].decode().splitlines()
    assert lines[0] == "NRRD0004"
    assert "space: left-posterior-superior" in lines
    assert "sizes: 6 5 4" in lines


def test_peers_read_the_same_points(volume, tmp_path):
    """SimpleITK places every voxel where `to_world` does, for NRRD and MetaImage, packed or not, all fields."""
    sitk = pytest.importorskip("SimpleITK")
    for name, write, option in (("v.nrrd", write_nrrd, "gzip"), ("v.mha", write_mha, "compress")):
        for packed in (False, True):
            for field in ("data", "weight"):
                write(tmp_path / name, volume, field=field, **{option: packed})
                image = sitk.ReadImage(str(tmp_path / name))
                np.testing.assert_array_equal(sitk.GetArrayFromImage(image), getattr(volume, field))
                for z, y, x in ((0, 0, 0), (3, 4, 5), (1, 0, 2)):
                    point = image.TransformIndexToPhysicalPoint((x, y, z))
                    np.testing.assert_allclose(point, volume.to_world((z, y, x)), atol=1e-9)


def test_pynrrd_reads_the_same(volume, tmp_path):
    nrrd = pytest.importorskip("nrrd")
    write_nrrd(tmp_path / "v.nrrd", volume, gzip=True)
    data, header = nrrd.read(str(tmp_path / "v.nrrd"), index_order="C")
    np.testing.assert_array_equal(data, volume.data)
    np.testing.assert_allclose(header["space origin"], volume.T_world_volume[:3, 3])
    np.testing.assert_allclose(
        header["space directions"], volume.T_world_volume[:3, :3].T * np.array(volume.spacing_mm)[::-1, None]
    )


def test_metaimage_header_and_body(volume, tmp_path):
    """Against the MetaIO document, without a peer: one axis after the other, x first."""
    write_mha(tmp_path / "v.mha", volume, compress=True)
    head, body = (tmp_path / "v.mha").read_bytes().split(b"ElementDataFile = LOCAL\n", 1)
    fields = dict(line.split(" = ") for line in head.decode().splitlines())
    assert fields["DimSize"] == "6 5 4"
    assert int(fields["CompressedDataSize"]) == len(body)
    assert zlib.decompress(body) == volume.data.tobytes()
    matrix = np.array(fields["TransformMatrix"].split(), float).reshape(3, 3)
    np.testing.assert_array_equal(matrix, volume.T_world_volume[:3, :3].T)


def test_missing_fields_and_unknown_names_are_refused(volume, tmp_path):
    with pytest.raises(ConfigError, match="no filled"):
        write_nrrd(tmp_path / "v.nrrd", volume, field="filled")
    with pytest.raises(ConfigError, match="data, weight, filled are allowed"):
        write_mha(tmp_path / "v.mha", volume, field="hits")
    assert list(tmp_path.iterdir()) == []


HEADER = {
    "type": "uint8",
    "dimension": "3",
    "space": "left-posterior-superior",
    "sizes": "2 2 2",
    "space directions": "(1,0,0) (0,1,0) (0,0,1)",
    "encoding": "raw",
    "space origin": "(1,2,3)",
}


def nrrd_file(path, body=bytes(range(8)), magic="NRRD0005", drop=(), **change):
    fields = {k: v for k, v in (HEADER | {k.replace("_", " "): v for k, v in change.items()}).items() if k not in drop}
    path.write_bytes("\n".join([magic, *(f"{k}: {v}" for k, v in fields.items())]).encode() + b"\n\n" + body)
    return path


def test_ras_becomes_lps(tmp_path):
    axes = "(-1,0,0) (0,-1,0) (0,0,1)"
    file = nrrd_file(tmp_path / "v.nrrd", space="right-anterior-superior", space_directions=axes)
    volume = read_nrrd(file)
    np.testing.assert_array_equal(volume.T_world_volume[:3, :3], np.eye(3))
    np.testing.assert_array_equal(volume.T_world_volume[:3, 3], (-1, -2, 3))
    assert volume.pose_origin == "image", "an unknown origin must not be trusted"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"magic": "NOPE"}, "not an NRRD file"),
        ({"type": "float"}, "uint8 with three sides"),
        ({"dimension": "4"}, "uint8 with three sides"),
        ({"sizes": "2 2"}, "three sides"),
        ({"sizes": "2 2 0"}, "three sides"),
        ({"sizes": "-2 2 2"}, "three sides"),
        ({"sizes": "99999999999999999999 2 2"}, "three sides"),
        ({"sizes": "30000 30000 30000"}, "the cap is"),
        ({"space": "scanner-xyz"}, "space"),
        ({"space_directions": "(1,0,0) (0,1,0) none"}, "three and one vector"),
        ({"space_directions": "(1,0,0) (1,1,0) (0,0,1)"}, "orthogonal"),
        ({"space_directions": "(1,0,0) (0,1,0) (0,0,-1)"}, "right-handed"),
        ({"space_directions": "(0,0,0) (0,1,0) (0,0,1)"}, "orthogonal"),
        ({"space_directions": "(nan,0,0) (0,1,0) (0,0,1)"}, "three and one vector"),
        ({"space_origin": "(1,2)"}, "three and one vector"),
        ({"encoding": "bzip2"}, "raw and gzip"),
        ({"encoding": "gzip"}, "damaged"),
        ({"data_file": "/etc/passwd"}, "data file is not read"),
        ({"byte_skip": "-1"}, "byte skip is not read"),
        ({"body": b"1234567"}, "7 bytes of data where 8"),
        ({"body": b"123456789"}, "9 bytes of data where 8"),
        ({"drop": ("space origin",)}, "lacks space origin"),
        ({"pose_origin": "=guess"}, "pose_origin is 'guess'"),
    ],
)
def test_files_out_of_the_subset_are_refused(tmp_path, change, message):
    change = {("pose_origin" if k == "pose_origin" else k): v for k, v in change.items()}
    file = tmp_path / "v.nrrd"
    if "pose_origin" in change:
        nrrd_file(file)
        file.write_bytes(file.read_bytes().replace(b"\n\n", b"\npose_origin:=guess\n\n", 1))
    else:
        nrrd_file(file, **change)
    with pytest.raises(SourceFormatError, match=message):
        read_nrrd(file)


def test_a_small_file_cannot_ask_for_much_memory(tmp_path):
    bomb = gzip.compress(bytes(50_000_000))
    with pytest.raises(SourceFormatError, match="9 bytes of data where 8"):
        read_nrrd(nrrd_file(tmp_path / "v.nrrd", body=bomb, encoding="gzip"))


def test_every_cut_of_a_packed_file_is_refused(volume, tmp_path):
    write_nrrd(tmp_path / "v.nrrd", volume, gzip=True)
    whole = (tmp_path / "v.nrrd").read_bytes()
    for n in range(0, len(whole), 7):
        (tmp_path / "cut.nrrd").write_bytes(whole[:n])
        with pytest.raises(SourceFormatError):
            read_nrrd(tmp_path / "cut.nrrd")


def test_a_header_without_end_and_a_missing_file_are_refused(tmp_path):
    (tmp_path / "v.nrrd").write_bytes(b"NRRD0004\n" + b"a: b\n" * 50_000)
    with pytest.raises(SourceFormatError, match="header of up to"):
        read_nrrd(tmp_path / "v.nrrd")
    (tmp_path / "w.nrrd").write_bytes(b"NRRD0004\nrubbish\n\n")
    with pytest.raises(SourceFormatError, match="rubbish"):
        read_nrrd(tmp_path / "w.nrrd")
    with pytest.raises(SourceError, match="cannot read"):
        read_nrrd(tmp_path / "none.nrrd")
