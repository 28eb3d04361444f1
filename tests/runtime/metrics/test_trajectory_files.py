"""A crafted folder of the challenge: what is read, in which frame, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.errors import SourceError, SourceFormatError
from edge_runtime.metrics.trajectory import challenge_errors
from edge_runtime.metrics.trajectory_files import (
    ChallengeFrames,
    challenge_calibration,
    challenge_landmarks,
    find_challenge_scans,
    read_challenge_calibration,
    read_challenge_landmarks,
    read_challenge_poses,
    read_challenge_sweep,
)
from edge_runtime.slam import se3

SCALE = np.diag([0.25, 0.2, 1, 1])
T_TOOL_MM = se3.exp(np.array([0.4, -1.1, 2.0, 12.0, 30.0, -117.0]))
SHAPE = (12, 16)
HEADS = (
    "scaling_from_pixel_to_mm",
    "spatial_calibration_from_image_coordinate_system_to_tracking_tool_coordinate_system",
)


def csv(path, scale=SCALE, rigid=T_TOOL_MM, heads=HEADS):
    """calib_matrix.csv as the challenge writes it."""
    lines = []
    for head, matrix in zip(heads, (scale, rigid), strict=True):
        lines += [head, *(",".join(repr(float(n)) for n in row) for row in matrix)]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def folder(tmp_path):
    """The layout of the validation data of 2025: one subject, one scan of nine frames, three landmarks."""
    h5py = pytest.importorskip("h5py", reason="h5py is not installed: the files of the challenge cannot be written")
    rng = np.random.default_rng(0)
    steps = np.cumsum(rng.normal(0, [0.02] * 3 + [1.0] * 3, (9, 6)), axis=0)
    T = se3.exp(steps + np.array([0, 1, 0, 300, 100, -1500]))
    for kind in ("frames", "transfs"):
        (tmp_path / kind / "050").mkdir(parents=True)
    (tmp_path / "landmarks").mkdir()
    with h5py.File(tmp_path / "frames/050/RH_rotation.h5", "w") as file:
        file["frames"] = rng.integers(0, 255, (9, *SHAPE), dtype=np.uint8)
    with h5py.File(tmp_path / "transfs/050/RH_rotation.h5", "w") as file:
        file["tforms"] = T
    with h5py.File(tmp_path / "landmarks/landmark_050.h5", "w") as file:
        file["RH_rotation"] = np.array([(5, 1, 1), (8, 16, 12), (1, 3, 4)])
    with h5py.File(tmp_path / "dataset_keys.h5", "w") as file:
        file["sub050__RH_rotation"] = 0
    csv(tmp_path / "calib_matrix.csv")
    return tmp_path


def test_a_pixel_lies_where_the_challenge_puts_it() -> None:
    """The challenge: `tool = rigid (scale (x, y, 0, 1))`, x and y from 1. Here: column and row from 0."""
    found = challenge_calibration(SCALE, T_TOOL_MM)
    for x, y in ((1, 1), (16, 12), (4, 7)):
        theirs = T_TOOL_MM @ SCALE @ (x, y, 0, 1)
        ours = found.T_tool_image @ (0.25 * (x - 1), 0.2 * (y - 1), 0, 1)
        np.testing.assert_allclose(ours, theirs, atol=1e-12)
    assert (found.geometry.column_mm, found.geometry.row_mm) == (0.25, 0.2)


def test_landmarks_come_from_1_and_frames_from_0() -> None:
    np.testing.assert_array_equal(challenge_landmarks([(5, 1, 1), (8, 16, 12)], SHAPE), [(5, 0, 0), (8, 15, 11)])
    for mark in ((5, 0, 1), (5, 1, 0), (5, 17, 1), (5, 1, 13)):
        with pytest.raises(SourceFormatError, match="count from 1, up to 16 and 12"):
            challenge_landmarks([(1, 1, 1), mark], SHAPE)
    with pytest.raises(SourceFormatError, match=r"\(L, 3\)"):
        challenge_landmarks([(1, 2)], SHAPE)


def test_the_calibration_is_read(tmp_path) -> None:
    found = read_challenge_calibration(csv(tmp_path / "c.csv"))
    np.testing.assert_array_equal(found.T_tool_image, challenge_calibration(SCALE, T_TOOL_MM).T_tool_image)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"heads": ("scale", HEADS[1])}, "no line 'scaling_from_pixel_to_mm'"),
        ({"scale": np.diag([0.2, -0.2, 1, 1])}, "two positive mm per pixel"),
        ({"scale": np.array([[0.2, 0.1, 0, 0], [0, 0.2, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])}, "two positive"),
        ({"rigid": np.diag([2.0, 2, 2, 1])}, "not a rigid matrix"),
        ({"scale": np.diag([np.nan, 1, 1, 1])}, "finite"),
        ({"rigid": T_TOOL_MM[:3]}, "four rows of four numbers"),
    ],
)
def test_another_calibration_is_refused(tmp_path, change, words) -> None:
    with pytest.raises(SourceFormatError, match=words):
        read_challenge_calibration(csv(tmp_path / "c.csv", **change))


def test_no_calibration(tmp_path) -> None:
    with pytest.raises(SourceError, match="cannot read"):
        read_challenge_calibration(tmp_path / "c.csv")


def test_the_folder_is_found_and_read(folder) -> None:
    (scan,) = find_challenge_scans(folder)
    assert (scan.name, scan.key) == ("050/RH_rotation", "RH_rotation")
    calibration = read_challenge_calibration(folder / "calib_matrix.csv")
    sweep = read_challenge_sweep(scan.poses, calibration, frames=scan.frames)
    assert (len(sweep), sweep.image(3).shape, sweep.geometry_of(0).row_mm) == (9, SHAPE, 0.2)
    assert sweep.times_ns[-1] == 400_000_000
    marks = read_challenge_landmarks(scan.landmarks, scan.key, SHAPE)
    T = read_challenge_poses(scan.poses, calibration)
    still = challenge_errors(T, np.tile(np.eye(4), (9, 1, 1)), calibration.geometry, SHAPE, marks)
    expected = []  # the definition, in the challenge's own numbers
    tforms = T @ np.linalg.inv(calibration.T_tool_image)
    for frame, x, y in ((5, 1, 1), (8, 16, 12), (1, 3, 4)):
        p = SCALE @ (x, y, 0, 1)
        moved = np.linalg.inv(T_TOOL_MM) @ np.linalg.inv(tforms[0]) @ tforms[frame] @ T_TOOL_MM @ p
        expected.append(np.linalg.norm(moved - p))
    assert still.gle == pytest.approx(np.mean(expected), abs=1e-9)


def test_the_layouts_of_training_data(folder) -> None:
    (folder / "transfs").rename(folder / "frames_transfs")
    (scan,) = find_challenge_scans(folder)
    assert scan.poses.parts[-3] == "frames_transfs"
    (scan,) = find_challenge_scans(folder / "frames_transfs")  # subjects at the top, as in 2024
    assert (scan.landmarks, scan.frames) == (None, scan.poses)
    with pytest.raises(SourceError, match="no scan"):
        find_challenge_scans(folder / "landmarks")


def test_broken_files_are_told(folder) -> None:
    h5py = pytest.importorskip("h5py")
    calibration = read_challenge_calibration(folder / "calib_matrix.csv")
    with pytest.raises(SourceFormatError, match="no dataset 'tforms'; it has \\['frames'\\]"):
        read_challenge_poses(folder / "frames/050/RH_rotation.h5", calibration)
    with pytest.raises(SourceFormatError, match="no dataset 'LH_rotation'"):
        read_challenge_landmarks(folder / "landmarks/landmark_050.h5", "LH_rotation", SHAPE)
    with pytest.raises(SourceError, match="no such file"):
        read_challenge_poses(folder / "none.h5", calibration)
    (folder / "cut.h5").write_bytes((folder / "transfs/050/RH_rotation.h5").read_bytes()[:100])
    with pytest.raises(SourceFormatError, match="not a whole HDF5 file"):
        read_challenge_poses(folder / "cut.h5", calibration)
    with h5py.File(folder / "bad.h5", "w") as file:
        file["tforms"] = np.zeros((3, 4, 4))
        file["frames"] = np.zeros((3, 4, 5), np.float32)
    with pytest.raises(SourceFormatError, match=r"3 of 3\) are not rigid"):
        read_challenge_poses(folder / "bad.h5", calibration)
    with pytest.raises(SourceFormatError, match="uint8 is needed"):
        ChallengeFrames(folder / "bad.h5")
    with h5py.File(folder / "flat.h5", "w") as file:
        file["tforms"] = np.zeros((3, 16))
    with pytest.raises(SourceFormatError, match=r"\(N, 4, 4\) is needed"):
        read_challenge_poses(folder / "flat.h5", calibration)


def test_h5py_is_asked_for_by_name(tmp_path, monkeypatch) -> None:
    from edge_runtime.errors import MissingDependencyError

    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(MissingDependencyError, match="h5py is needed to read the files of the TUS-REC"):
        ChallengeFrames(tmp_path / "a.h5")
