"""Chains of transforms by name, image poses, and the source that gives both frames and poses."""

from __future__ import annotations

import os
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.buffers import InterpolatedPose
from edge_runtime.clock import ManualClock
from edge_runtime.errors import ConfigError, CorruptFrameError, GeometryError, SourceFormatError
from edge_runtime.frame import FrameGeometry
from edge_runtime.geometry import is_rigid, quaternion_wxyz_to_rotation
from edge_runtime.sources import (
    PacedSource,
    SequenceSource,
    TrackedSequence,
    TransformGraph,
    image_poses,
    open_source,
    with_geometry,
    write_sequence,
)
from edge_runtime.sources.tracked import split_name, split_scale

SCALE = np.diag([0.1, 0.2, 0.15, 1.0])


def rigid(seed: int, count: int | None = None) -> np.ndarray:
    rng = np.random.default_rng(seed)
    T = np.tile(np.eye(4), (count or 1, 1, 1))
    for k in range(count or 1):
        T[k, :3, :3] = quaternion_wxyz_to_rotation(rng.normal(size=4))
        T[k, :3, 3] = rng.normal(0, 100, 3)
    return T if count else T[0]


@pytest.fixture
def sequence() -> TrackedSequence:
    n = 4
    return TrackedSequence(
        frames=np.arange(n * 6, dtype=np.uint8).reshape(n, 2, 3),
        orientation="MF",
        times_ns=np.array([50, 60, 75, 100]) * 10**6,
        transforms={"ProbeToTracker": rigid(1, n), "ReferenceToTracker": rigid(2, n)},
        statuses={"ProbeToTracker": ("OK", "OK", "INVALID", "OK")},
    )


CALIBRATION = {"ImageToProbe": rigid(3) @ SCALE}


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("ProbeToTracker", ("Probe", "Tracker")),
        ("StylusTipToStylus", ("StylusTip", "Stylus")),
        ("TestToolToTracker", ("TestTool", "Tracker")),
        ("ImageTo3D", ("Image", "3D")),
    ],
)
def test_names_of_transforms(name: str, parts: tuple[str, str]) -> None:
    assert split_name(name) == parts


@pytest.mark.parametrize("name", ["Probe", "ToTracker", "ProbeTo", "AToBToC", "Tools", ""])
def test_what_is_no_name_of_a_transform(name: str) -> None:
    with pytest.raises(ConfigError, match="is not the name of a transform"):
        split_name(name)


def test_a_chain_is_the_product_of_its_steps(sequence: TrackedSequence) -> None:
    graph = TransformGraph({**sequence.transforms, **CALIBRATION})
    probe, reference = sequence.transforms["ProbeToTracker"], sequence.transforms["ReferenceToTracker"]
    truth = np.stack([np.linalg.inv(reference[k]) @ probe[k] @ CALIBRATION["ImageToProbe"] for k in range(4)])
    np.testing.assert_allclose(graph.resolve("ImageToReference"), truth, atol=1e-10)
    np.testing.assert_allclose(graph.resolve("ReferenceToImage"), np.linalg.inv(truth), atol=1e-6)
    assert [(s.name, s.inverted) for s in graph.path("ImageToReference")] == [
        ("ImageToProbe", False),
        ("ProbeToTracker", False),
        ("ReferenceToTracker", True),
    ]
    np.testing.assert_array_equal(graph.resolve("ProbeToProbe"), np.eye(4))


def test_a_missing_step_shows_the_graph(sequence: TrackedSequence) -> None:
    with pytest.raises(ConfigError) as caught:
        image_poses(sequence, "ImageToReference")
    text = str(caught.value)
    assert "{Probe, Reference, Tracker} by ProbeToTracker, ReferenceToTracker" in text
    assert "one that joins Image with one of {Probe, Reference, Tracker}" in text
    assert "ImageToProbe" in text
    with pytest.raises(ConfigError, match="no transform at all"):
        TransformGraph({}).resolve("AToB")


def test_two_equal_ways_are_not_chosen_from() -> None:
    eye = np.eye(4)
    graph = TransformGraph({"AToB": eye, "BToD": eye, "AToC": eye, "CToD": eye})
    with pytest.raises(ConfigError, match=r"two ways: .*Leave one"):
        graph.resolve("AToD")
    assert [s.name for s in TransformGraph({"AToB": eye, "BToC": eye, "AToC": eye}).path("AToC")] == ["AToC"]


def test_scale_and_shear_come_out_again() -> None:
    rigid_part, shear = rigid(5), 0.03
    pixel = np.eye(4)
    pixel[:2, :2] = [[0.1, shear * 0.2], [0.0, 0.2]]
    T, geometry = split_scale(rigid_part @ pixel)
    np.testing.assert_allclose(T, rigid_part, atol=1e-12)
    assert (geometry.column_mm, geometry.row_mm) == (pytest.approx(0.1), pytest.approx(0.2))
    assert geometry.shear == pytest.approx(shear)
    assert geometry.trusted


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.diag([0.1, 0.2, -0.1, 1]), "left-handed"),
        (np.diag([0.1, 0.0, 0.1, 1]), "pixels of"),
        (np.full((4, 4), np.nan), "no finite"),
        (np.array([[0.1, 0.1, 0, 0], [0, 0.1, 0, 0], [0, 0, 0.1, 0], [0, 0, 0, 1]]), "shears by"),
        (np.array([[0.1, 0, 0, 0], [0, 0.1, 0, 0], [0, 0, 0.1, 0], [0, 0, 1, 1]]), "last row"),
        (np.eye(3), "no finite 4x4"),
    ],
)
def test_what_is_no_image_transform(matrix: np.ndarray, message: str) -> None:
    with pytest.raises(GeometryError, match=message):
        split_scale(matrix)


def test_poses_are_rigid_and_bad_records_unusable(sequence: TrackedSequence) -> None:
    probe = sequence.transforms["ProbeToTracker"].copy()
    probe[0, :3, :3] *= 1 + 1e-5  # six digits of a file
    probe[3, 0, 0] += 0.5  # no rotation
    found = image_poses(
        replace(sequence, transforms={**sequence.transforms, "ProbeToTracker": probe}), "ImageToReference", CALIBRATION
    )
    assert found.usable.tolist() == [True, True, False, False]
    assert all(is_rigid(T, 1e-9) for T in found.T_world_image[:2])
    assert np.isnan(found.T_world_image[2:]).all()
    assert isinstance(found.geometry, FrameGeometry)
    assert (found.geometry.column_mm, found.geometry.row_mm) == (pytest.approx(0.1), pytest.approx(0.2))


def test_a_scale_that_changes_gives_a_geometry_each(sequence: TrackedSequence) -> None:
    scales = np.stack([np.diag([0.1, s, 0.1, 1.0]) for s in (0.2, 0.2, 0.3, 0.3)])
    found = image_poses(
        replace(sequence, transforms={"ImageToReference": rigid(1) @ scales}, statuses={}), "ImageToReference"
    )
    assert isinstance(found.geometry, tuple)
    assert [g.row_mm for g in found.geometry] == pytest.approx([0.2, 0.2, 0.3, 0.3])


def test_constants_are_checked(sequence: TrackedSequence) -> None:
    with pytest.raises(ConfigError, match=r"has shape \(3, 3\)"):
        image_poses(sequence, "ImageToReference", {"ImageToProbe": np.eye(3)})
    with pytest.raises(GeometryError, match="ProbeToTracker is not rigid"):
        image_poses(sequence, "ImageToReference", {**CALIBRATION, "ProbeToTracker": 2 * np.eye(4)})
    with pytest.raises(ConfigError, match="from a frame to itself"):
        image_poses(sequence, "ImageToImage", CALIBRATION)


# --- the source -------------------------------------------------------------------------------------------------------


def test_frames_come_with_their_times_and_poses(sequence: TrackedSequence) -> None:
    source = SequenceSource(sequence, transform="ImageToReference", constants=CALIBRATION, clock=ManualClock(7))
    truth = image_poses(sequence, "ImageToReference", CALIBRATION)
    assert (source.live, source.frame_count, source.fps) == (False, 4, pytest.approx(60))
    frames = list(source)
    assert [f.device_ns for f in frames] == [0, 10**7, 25 * 10**6, 50 * 10**6]
    assert sequence.frames is not None
    assert source.poses is not None
    for k, frame in enumerate(frames):
        np.testing.assert_array_equal(frame.image, sequence.frames[k])
        assert frame.geometry.row_mm == pytest.approx(0.2)
        pose = source.poses.at(frame.device_ns or 0, 10**9)
        assert isinstance(pose, InterpolatedPose)
        assert (pose.gap_ns == 0) == (k != 2)  # record 2 has none of its own
        if k != 2:
            np.testing.assert_allclose(pose.pose.T_world_image, truth.T_world_image[k], atol=1e-12)
    source.rewind()
    again = source.read()
    assert again is not None
    assert again.index == 0


def test_a_paced_recording_moves_its_poses_to_host_time(sequence: TrackedSequence) -> None:
    good = replace(sequence, statuses={})
    clock = ManualClock(1_000_000_000)
    inner = SequenceSource(good, transform="ImageToReference", constants=CALIBRATION)
    source = with_geometry(PacedSource(inner, loop=True, clock=clock), FrameGeometry())
    truth = image_poses(good, "ImageToReference", CALIBRATION).T_world_image
    for k in range(10):
        frame = source.read()
        assert frame is not None
        assert source.poses is not None
        pose = source.poses.at(frame.arrival_ns, 1)
        assert isinstance(pose, InterpolatedPose)
        np.testing.assert_allclose(pose.pose.T_world_image, truth[k % 4], atol=1e-12)
    asked = PacedSource(SequenceSource(good, transform="ImageToReference", constants=CALIBRATION), fps=500, clock=clock)
    for k in range(4):
        frame = asked.read()
        assert frame is not None
        assert asked.poses is not None
        pose = asked.poses.at(frame.device_ns or 0, 1)
        assert isinstance(pose, InterpolatedPose)
        np.testing.assert_allclose(pose.pose.T_world_image, truth[k], atol=1e-12)


def test_a_failed_image_is_a_corrupt_frame(sequence: TrackedSequence) -> None:
    source = SequenceSource(replace(sequence, image_statuses=("OK", "INVALID", "OK", "OK")))
    assert source.read() is not None
    with pytest.raises(CorruptFrameError, match="record 1 is marked INVALID") as caught:
        source.read()
    assert caught.value.index == 1
    assert [f.index for f in source] == [2, 3]


def test_times_that_fall_are_passed_on_and_said(sequence: TrackedSequence) -> None:
    times = np.array([0, 20, 10, 30]) * 10**6
    source = SequenceSource(replace(sequence, times_ns=times))
    assert "fall 1 times, first after record 1" in source.timing_note
    assert [f.device_ns for f in source] == times.tolist()
    source.rewind()
    clock = ManualClock()
    assert [f.arrival_ns for f in PacedSource(source, clock=clock)] == [0, 20 * 10**6, 20 * 10**6, 30 * 10**6]


def test_absurd_times_are_refused_and_fps_takes_their_place(sequence: TrackedSequence) -> None:
    wild = replace(sequence, times_ns=np.array([0, 10**7, 2**61, 2**61 + 10**7]))
    with pytest.raises(SourceFormatError, match=r"record 2 lies .* s after .*give fps"):
        SequenceSource(wild)
    source = SequenceSource(wild, fps=10, transform="ImageToReference", constants=CALIBRATION)
    assert [f.device_ns for f in source] == [0, 10**8, 2 * 10**8, 3 * 10**8]
    assert source.poses is not None
    assert source.poses.span_ns == (0, 3 * 10**8)
    with pytest.raises(ConfigError, match="has no times"):
        SequenceSource(replace(sequence, times_ns=None), transform="ImageToReference", constants=CALIBRATION)


def test_files_are_opened_by_their_content(sequence: TrackedSequence, tmp_path: Path) -> None:
    for name in ("a.igs.mha", "b.seq.nrrd"):
        write_sequence(tmp_path / name, replace(sequence, orientation="MN"))
        (tmp_path / name).rename(tmp_path / "x")
        with open_source(tmp_path / "x", transform="ImageToReference", constants=CALIBRATION) as source:
            frame = source.read()
            assert frame is not None
            assert sequence.frames is not None
            np.testing.assert_array_equal(frame.image, sequence.frames[0, ::-1])
            assert len(source.poses or ()) == 3
    write_sequence(tmp_path / "y.igs.mha", replace(sequence, orientation="XX"))
    source = open_source(tmp_path / "y.igs.mha")
    assert "as stored" in source.timing_note
    with pytest.raises(SourceFormatError, match="how its images lie"):
        open_source(tmp_path / "y.igs.mha", transform="ProbeToReference")
    write_sequence(tmp_path / "z.igs.mha", replace(sequence, frames=None, orientation="XX"))
    with pytest.raises(SourceFormatError, match="transforms and no images"):
        open_source(tmp_path / "z.igs.mha")
    with pytest.raises(ConfigError, match="belong to a transform"):
        SequenceSource(sequence, constants=CALIBRATION)
    with pytest.raises(ConfigError, match="is read already"):
        SequenceSource(sequence, orientation="MF")
    with pytest.raises(ConfigError, match="fps is 0"):
        SequenceSource(sequence, fps=0)


def test_millimetres_of_a_file_that_names_its_space(sequence: TrackedSequence) -> None:
    axes = {"space directions": "(0.0,0.2,0.0) (0.3,0.0,0.0) (0.0,0.0,1.0)"}
    known = SequenceSource(replace(sequence, fields={**axes, "space": "left-posterior-superior"})).read()
    assert known is not None
    assert known.geometry.require_mm() == (0.3, 0.2)
    unknown = SequenceSource(replace(sequence, fields=axes)).read()
    assert unknown is not None
    assert not unknown.geometry.trusted
    assert "names no space" in unknown.geometry.reason
    with pytest.raises(SourceFormatError, match="give no pixel size"):
        SequenceSource(replace(sequence, fields={"space directions": "(0,0,0) (0,0,0) (0,0,1)"}))


def test_a_real_sweep_gives_frames_and_poses() -> None:
    data = os.environ.get("POCUS_DATA")
    if not data or not Path(data, "sweeps").is_dir():
        pytest.skip("POCUS_DATA does not name the folder of real data")
    folder = Path(data, "sweeps", "plus_spine")
    config = ElementTree.parse(folder / "Config_SpinePhantom_NN_MEAN.xml")
    element = config.find(".//Transform[@From='Image'][@To='Probe']")
    assert element is not None
    calibration = np.array((element.get("Matrix") or "").split(), float).reshape(4, 4)
    source = open_source(
        folder / "SpinePhantomFreehand.igs.mha", transform="ImageToReference", constants={"ImageToProbe": calibration}
    )
    frames = list(source)
    assert source.poses is not None
    assert (len(frames), len(source.poses), source.fps) == (21, 21, pytest.approx(10.8, abs=0.1))
    geometry = frames[0].geometry
    assert (geometry.column_mm, geometry.row_mm) == (pytest.approx(0.0854, abs=1e-4), pytest.approx(0.079, abs=1e-4))
    centres = []
    for frame in frames:
        pose = source.poses.at(frame.device_ns or 0, 0)
        assert isinstance(pose, InterpolatedPose)
        middle = (409.5 * (geometry.column_mm or 0), 307.5 * (geometry.row_mm or 0), 0, 1)
        centres.append((pose.pose.T_world_image @ middle)[:3])
    steps = np.linalg.norm(np.diff(centres, axis=0), axis=1)
    # the folder's description: steps of 1.68 mm in the mean, 2.83 at most
    assert steps.mean() == pytest.approx(1.68, abs=0.1)
    assert steps.max() == pytest.approx(2.83, abs=0.3)
