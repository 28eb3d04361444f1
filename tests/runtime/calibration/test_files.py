from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.calibration import (
    NWire,
    WirePhantom,
    calibrate_image,
    find_wires,
    read_calibration,
    read_phantom,
    read_recorded_poses,
    read_wire_points,
    recorded_poses,
    reprojection_error,
    wire_points,
    write_calibration,
)
from edge_runtime.errors import ConfigError, GeometryError, SourceFormatError
from edge_runtime.sources.tracked import TrackedSequence, read_sequence

SETS = [((0, 0), (30, 0), (20, 5)), ((0, 10), (30, 10), (5, 25)), ((5, 20), (30, 20), (25, 10))]
MATRIX = np.array([[0.1, 0.001, 0, 5], [0, 0.09, 0, -3.25], [0, 0, 0.1, 1 / 3], [0, 0, 0, 1]])


def wires_of(sets=SETS):
    """N-wires along y: (x, z) of the outer ones, x of both ends of the middle one."""
    made = []
    for (x0, z0), (x1, z1), (a, b) in sets:
        left, right = ([[x, 0, z], [x, 40, z]] for x, z in ((x0, z0), (x1, z1)))
        made.append(
            NWire(
                left=np.array(left, float),
                middle=np.array([[a, 0, z0], [b, 40, z0]], float),
                right=np.array(right, float),
            )
        )
    return made


def picture(points, shape=(300, 400)):
    """Spots of different size and brightness at (x, y)."""
    y, x = np.indices(shape)
    image = np.zeros(shape)
    for k, (px, py) in enumerate(points):
        image = np.maximum(image, (120 + 15 * (k % 8)) * np.exp(-(((x - px) / 5) ** 2 + ((y - py) / 2.5) ** 2) / 2))
    return image.astype(np.uint8)


def crossings(share, angle=0.1, scale=(8.0, 9.0)):
    """(P, 3, 2) pixels in which an image across the wires at `share` of their length, turned by `angle`, meets them."""
    c, s = np.cos(angle), np.sin(angle)
    found = []
    for (x0, z0), (x1, _), (a, b) in SETS:
        mm = np.array([(x0, z0), (a + share * (b - a), z0), (x1, z0)], float)
        found.append(mm @ np.array([[c, s], [-s, c]]) * scale + (70, 60))
    return np.array(found)


def test_wires_are_found_and_clutter_is_not():
    pytest.importorskip("cv2")
    expected = np.array([crossings(share, angle) for share, angle in ((0.2, 0.1), (0.5, -0.15), (0.8, 0.0))])
    frames = np.stack([picture([*points.reshape(-1, 2), (150, 288), (385, 150)]) for points in expected])
    assert np.abs(find_wires(frames, wires_of()) - expected).max() < 0.3


def test_an_image_without_the_pattern_gives_nan(rng):
    pytest.importorskip("cv2")
    frames = np.stack([picture(rng.uniform(20, 280, (9, 2))), np.zeros((300, 400), np.uint8), picture([(100, 100)])])
    assert np.isnan(find_wires(frames, wires_of())).all()
    mirrored = crossings(0.3)
    mirrored[..., 0] = 400 - mirrored[..., 0]
    seen = find_wires(picture(mirrored.reshape(-1, 2))[None], wires_of())
    np.testing.assert_allclose(seen[0], mirrored, atol=0.3)  # mirrored images are what the calibration must tell


def test_phantoms_that_cannot_be_told_apart_are_refused():
    pytest.importorskip("cv2")
    frame = np.zeros((1, 20, 20), np.uint8)
    with pytest.raises(ConfigError, match="same mirrored"):
        find_wires(frame, wires_of([((0, 0), (30, 0), (20, 5)), ((0, 10), (30, 10), (5, 25))]))
    with pytest.raises(ConfigError, match="two or more"):
        find_wires(frame, wires_of(SETS[:1]))
    with pytest.raises(ConfigError, match="uint8 is needed"):
        find_wires(np.zeros((1, 20, 20)), wires_of())


def test_a_calibration_is_written_and_read_to_the_bit(tmp_path, rng):
    matrix = rng.normal(size=(4, 4))
    write_calibration(tmp_path / "c.xml", "ImageToProbe", matrix, error_mm=0.5)
    assert np.array_equal(read_calibration(tmp_path / "c.xml"), matrix)
    (tmp_path / "c.txt").write_text(" ".join(map(repr, map(float, matrix.ravel()))))
    assert np.array_equal(read_calibration(tmp_path / "c.txt"), matrix)
    with pytest.raises(ConfigError, match=r"no Transform From=Stylus To=Probe; it has \['ImageToProbe'\]"):
        read_calibration(tmp_path / "c.xml", "StylusToProbe")
    with pytest.raises(ConfigError, match="finite"):
        write_calibration(tmp_path / "n.xml", "ImageToProbe", np.full((4, 4), np.nan))
    with pytest.raises(ConfigError, match="not the name"):
        write_calibration(tmp_path / "n.xml", "Image", matrix)
    assert not (tmp_path / "n.xml").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<!DOCTYPE a><a/>", "document type"),
        ("<a>", "is no XML"),
        ("<a/>", "no Pattern"),
        ('<a><Pattern Type="NWire"><Wire/></Pattern></a>', "has 1 wires"),
        ('<a><Pattern Type="NWire"><Wire/><Wire/><Wire/></Pattern></a>', "EndPointFront and EndPointBack"),
        ('<a><Pattern Type="NWire">' + '<Wire EndPointFront="a"/>' * 3 + "</Pattern></a>", "three numbers for each"),
        ("<" + " " * (1 << 23), "larger than"),
    ],
)
def test_bad_phantoms_are_refused(tmp_path, text, said):
    (tmp_path / "p.xml").write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_phantom(tmp_path / "p.xml")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_phantom(tmp_path / "none.xml")


def phantom_of(place=None):
    names = tuple((f"l{k}", f"m{k}", f"r{k}") for k in range(3))
    return WirePhantom(names=names, wires=tuple(wires_of()), T_reference_phantom=place)


def sequence_of(n=4, **changes):
    given = {
        "frames": np.stack([picture(crossings(0.2 + 0.15 * k).reshape(-1, 2)) for k in range(n)]),
        "orientation": "MF",
        "times_ns": np.arange(n, dtype=np.int64) * 10**8,
        "transforms": {"ProbeToReference": np.tile(np.eye(4), (n, 1, 1))},
        "statuses": {"ProbeToReference": ("OK",) * (n - 1) + ("INVALID",)},
    }
    return TrackedSequence(**{**given, **changes})


def test_points_come_out_of_a_recording_where_it_is_valid():
    pytest.importorskip("cv2")
    place = np.eye(4)
    place[:3, 3] = 1, 2, 3
    found = wire_points(sequence_of(), phantom_of(place))
    assert found.pixels.shape == (3, 3, 3, 2)
    np.testing.assert_allclose(found.T_phantom_probe[0], np.linalg.inv(place), atol=1e-12)
    with pytest.raises(ConfigError, match="ProbeToPhantom cannot be had"):
        wire_points(sequence_of(), phantom_of())
    with pytest.raises(GeometryError, match="in none of 4 images"):
        wire_points(sequence_of(frames=np.zeros((4, 30, 30), np.uint8)), phantom_of(place))
    with pytest.raises(SourceFormatError, match="grey"):
        wire_points(sequence_of(frames=None), phantom_of(place))


def test_points_of_fcal(tmp_path):
    points = crossings(0.4)
    rows = "".join(
        f'<Point WireName="{name}{k}" Position="{x} {y} 0"/>'
        for k, pattern in enumerate(points)
        for name, (x, y) in zip("lmr", pattern, strict=True)
    )
    one = " ".join(map(str, np.eye(4).ravel()))
    field = '<CustomFrameField Name="ProbeToReferenceTransform" Value="{}"/>'
    frame = '<Frame Index="0" SegmentationStatus="{}">' + f"<S>{{}}</S>{field.format(one)}</Frame>"
    text = f"<a><CalibrationData>{frame.format('OK', rows)}{frame.format('FAILED', '')}</CalibrationData></a>"
    (tmp_path / "r.xml").write_text(text)
    found = read_wire_points(tmp_path / "r.xml", phantom_of(np.eye(4)))
    np.testing.assert_allclose(found.pixels[0], points)
    with pytest.raises(ConfigError, match="no segmented image in ValidationData"):
        read_wire_points(tmp_path / "r.xml", phantom_of(np.eye(4)), "validation")
    (tmp_path / "r.xml").write_text(text.replace("l1", "q1"))
    with pytest.raises(ConfigError, match="no point of wire l1"):
        read_wire_points(tmp_path / "r.xml", phantom_of(np.eye(4)))
    (tmp_path / "r.xml").write_text(text.replace(one, "2 " + one[4:]))
    with pytest.raises(ConfigError, match="not rigid"):
        read_wire_points(tmp_path / "r.xml", phantom_of(np.eye(4)))


def test_recorded_poses_are_those_of_valid_records(tmp_path):
    T, kept = recorded_poses(sequence_of(), "ProbeToReference")
    assert T.shape == (3, 4, 4)
    assert kept.tolist() == [0, 1, 2]
    with pytest.raises(ConfigError, match="cannot be had"):
        recorded_poses(sequence_of(), "StylusToReference")
    with pytest.raises(SourceFormatError, match="valid in none of 4"):
        recorded_poses(sequence_of(statuses={"ProbeToReference": ("INVALID",) * 4}), "ProbeToReference")
    (tmp_path / "p.csv").write_text("0.5,1,2,3,0,0,0,1\n0.6,1,2,4,0,0,0,1\n")
    T, times = read_recorded_poses(tmp_path / "p.csv", "ToolToWorld")
    assert T[1, :3, 3].tolist() == [1000, 2000, 4000]
    assert times.tolist() == [500_000_000, 600_000_000]


def real(name):
    data = os.environ.get("POCUS_DATA")
    if not data or not Path(data, "sweeps").is_dir():
        pytest.skip("POCUS_DATA does not name the folder of real data")
    return Path(data, "sweeps", name)


def test_wires_of_a_real_phantom_are_where_the_peer_found_them():
    pytest.importorskip("cv2")
    folder = real("plus_calibration")
    phantom = read_phantom(folder / "PlusDeviceSet_fCal_Sim_SpatialCalibration_2.0.xml")
    results = folder / "FreehandCalibration3NWires_fCal2.0.results.xml"
    theirs = read_wire_points(results, phantom)
    sequence = read_sequence(folder / "fCal_Test_Calibration_3NWires_fCal2.0.igs.mha")
    ours = wire_points(sequence, phantom)
    assert len(ours.pixels) == 190  # theirs: 184
    same = [int(np.abs(ours.T_phantom_probe - T).max(axis=(1, 2)).argmin()) for T in theirs.T_phantom_probe]
    apart = np.linalg.norm(ours.pixels[same] - theirs.pixels, axis=-1)
    assert np.median(apart) < 3  # px, 0.25 mm
    found = calibrate_image(ours.pixels, ours.T_phantom_probe, phantom.wires)
    kept = read_wire_points(results, phantom, "validation")
    error = reprojection_error(found.T_probe_image, kept.pixels, kept.T_phantom_probe, phantom.wires)
    assert np.sort(error.ravel())[: int(0.95 * error.size)].mean() < 0.56  # mm; the peer's own matrix: 0.540
