"""Sweeps out of recordings: real ones against a chain written out by hand, and what is declared about bad records."""

from __future__ import annotations

import os
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.buffers import PoseBuffer
from edge_runtime.errors import ConfigError, GeometryError, ReconstructionError
from edge_runtime.frame import FrameGeometry
from edge_runtime.geometry import Pose
from edge_runtime.reconstruct import compound, grid_of_sweep, sweep_of_poses, sweep_of_sequence
from edge_runtime.reconstruct.scan import image_from_pixel
from edge_runtime.sources import TrackedSequence, read_sequence

MM = FrameGeometry(row_mm=0.2, column_mm=0.1, origin="user", trusted=True, reason="")


@pytest.fixture
def sequence(random_pose):
    n = 5
    rng = np.random.default_rng(2)
    T = np.stack([random_pose(rng, angle=0.3, shift=20) for _ in range(n)])
    return TrackedSequence(
        frames=rng.integers(0, 256, (n, 6, 8), np.uint8),
        orientation="MF",
        times_ns=np.array([0, 50, 50, 100, 400]) * 10**6,
        transforms={"ProbeToReference": T},
        statuses={"ProbeToReference": ("OK", "OK", "OK", "INVALID", "OK")},
    )


CALIBRATION = {"ImageToProbe": np.diag([0.1, 0.2, 0.15, 1.0])}


def test_invalid_records_are_dropped_and_named(sequence):
    found = sweep_of_sequence(sequence, constants=CALIBRATION)
    assert found.kept.tolist() == [0, 1, 2, 4]
    assert found.dropped == {"invalid": (3,)}
    np.testing.assert_array_equal(found.sweep.image(3), sequence.frames[4])
    np.testing.assert_allclose(found.sweep.T_world_image[3], sequence.transforms["ProbeToReference"][4], atol=1e-12)
    assert found.sweep.geometry_of(0).require_mm() == pytest.approx((0.2, 0.1))
    with pytest.raises(ReconstructionError, match=r"records \[3\] have no valid"):
        sweep_of_sequence(sequence, constants=CALIBRATION, invalid="error")


def test_repeated_times_are_handled_as_declared(sequence):
    found = sweep_of_sequence(sequence, constants=CALIBRATION, repeated="drop")
    assert found.kept.tolist() == [0, 1, 4]
    assert found.dropped == {"invalid": (3,), "repeated": (2,)}
    with pytest.raises(ReconstructionError, match=r"records \[2\] repeat"):
        sweep_of_sequence(sequence, constants=CALIBRATION, repeated="error")


def test_gaps_and_falling_times_are_errors(sequence):
    with pytest.raises(ReconstructionError, match="350 ms lie between records 2 and 4, the limit is 300 ms"):
        sweep_of_sequence(sequence, constants=CALIBRATION, max_gap_ms=300)
    sweep_of_sequence(sequence, constants=CALIBRATION, max_gap_ms=350)
    falling = replace(sequence, times_ns=sequence.times_ns[::-1].copy())
    with pytest.raises(ReconstructionError, match="of record 1 lies before that of record 0"):
        sweep_of_sequence(falling, constants=CALIBRATION)


def test_what_makes_no_sweep_is_refused(sequence):
    with pytest.raises(ConfigError, match="Missing: one that joins Image"):
        sweep_of_sequence(sequence)
    with pytest.raises(GeometryError, match="left-handed"):
        sweep_of_sequence(sequence, constants={"ImageToProbe": np.diag([0.1, 0.2, -0.1, 1.0])})
    with pytest.raises(ReconstructionError, match="no grey images"):
        sweep_of_sequence(replace(sequence, frames=np.zeros((5, 2, 2, 3), np.uint8)), constants=CALIBRATION)
    none = replace(sequence, statuses={"ProbeToReference": ("INVALID",) * 5})
    with pytest.raises(ReconstructionError, match="of 5 records none"):
        sweep_of_sequence(none, constants=CALIBRATION)
    with pytest.raises(ConfigError, match="repeated is 'no'"):
        sweep_of_sequence(sequence, constants=CALIBRATION, repeated="no")
    broken = {"ProbeToReference": sequence.transforms["ProbeToReference"] * np.nan}
    with pytest.raises(ReconstructionError, match="of 5 records none"):
        sweep_of_sequence(replace(sequence, transforms=broken), constants=CALIBRATION)


def test_a_turned_recording_makes_the_same_sweep(sequence):
    turned = replace(sequence, frames=np.ascontiguousarray(sequence.frames[:, ::-1]), orientation="MN")
    one, other = (sweep_of_sequence(s, constants=CALIBRATION).sweep for s in (sequence, turned))
    grid = grid_of_sweep(one, 0.5)
    np.testing.assert_array_equal(compound(one, grid=grid).data, compound(other, grid=grid).data)


def test_poses_of_another_clock_are_interpolated_within_the_gap():
    """A probe that moves 1 mm each 10 ms: the truth at any time is a straight line."""
    buffer = PoseBuffer(offset_ns=1_000_000)  # the tracker's clock is 1 ms behind the image's
    for k in (0, 1, 2, 3, 9, 10):
        T = np.eye(4)
        T[0, 3] = k
        buffer.append(Pose(T_world_image=T, time_ns=k * 10**7))
    times = np.array([-5, 1, 16, 31, 50, 96, 300]) * 10**6
    found = sweep_of_poses(np.zeros((7, 4, 4), np.uint8), times, buffer, MM, max_gap_ms=20)
    assert found.kept.tolist() == [1, 2, 3, 5]
    np.testing.assert_allclose(found.sweep.T_world_image[:, 0, 3], [0.0, 1.5, 3.0, 9.5], atol=1e-12)
    assert found.dropped == {"outside": (0,), "gap": (4,), "too late": (6,)}
    with pytest.raises(ReconstructionError, match="empty"):
        sweep_of_poses(np.zeros((7, 4, 4), np.uint8), times, PoseBuffer(), MM)


@pytest.fixture(scope="module")
def spine():
    data = os.environ.get("POCUS_DATA")
    if not data or not Path(data, "sweeps").is_dir():
        pytest.skip("POCUS_DATA does not name the folder of real data")
    folder = Path(data, "sweeps", "plus_spine")
    config = ElementTree.parse(folder / "Config_SpinePhantom_NN_MEAN.xml")
    text = config.find(".//Transform[@From='Image'][@To='Probe']").get("Matrix")
    return read_sequence(folder / "SpinePhantomFreehand.igs.mha"), np.array(text.split(), float).reshape(4, 4)


def test_a_real_sweep_puts_its_pixels_where_the_chain_does(spine):
    """Pixels through rigid pose and geometry against the plain product of matrices, as PLUS does it."""
    sequence, calibration = spine
    sweep = sweep_of_sequence(sequence, constants={"ImageToProbe": calibration}).sweep
    assert len(sweep) == 21
    corners = np.array([(0, 0), (819, 0), (0, 615), (819, 615)], float)
    for k in (0, 10, 20):
        T = (
            np.linalg.inv(sequence.transforms["ReferenceToTracker"][k])
            @ sequence.transforms["ProbeToTracker"][k]
            @ calibration
        )
        truth = np.c_[corners, np.zeros(4), np.ones(4)] @ T.T
        flat = corners @ image_from_pixel(sweep.geometry_of(k)).T
        ours = np.c_[flat, np.zeros(4), np.ones(4)] @ sweep.T_world_image[k].T
        np.testing.assert_allclose(ours[:, :3], truth[:, :3], atol=2e-3)  # mm; the file's matrices have six digits


def test_a_real_tracker_of_its_own_clock_gives_poses_to_the_video():
    data = os.environ.get("POCUS_DATA")
    if not data or not Path(data, "sweeps").is_dir():
        pytest.skip("POCUS_DATA does not name the folder of real data")
    folder = Path(data, "sweeps", "plus_temporal")
    tracker = read_sequence(folder / "WaterTankBottomTranslationTrackerBuffer-trimmed.igs.mha")
    video = read_sequence(folder / "WaterTankBottomTranslationVideoBuffer.igs.mha")
    buffer = PoseBuffer(capacity=len(tracker))
    for k, T in enumerate(tracker.transforms["ProbeToTracker"]):
        u, _, vt = np.linalg.svd(T[:3, :3])
        exact = T.copy()
        exact[:3, :3] = u @ vt
        buffer.append(Pose(T_world_image=exact, time_ns=int(tracker.times_ns[k])))
    found = sweep_of_poses(video.oriented("MF").frames, video.times_ns, buffer, MM, max_gap_ms=100)
    assert len(found.sweep) + sum(map(len, found.dropped.values())) == 201
    assert len(found.sweep) == 201
    inside = buffer.span_ns
    assert inside is not None
    assert inside[0] < found.sweep.times_ns[0] < found.sweep.times_ns[-1] < inside[1]
