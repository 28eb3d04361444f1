"""Frames and poses from several places: the same sweep as one recorded together, and what does not fit is told."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edge_runtime.errors import ConfigError, CorruptFrameError, GeometryError, ReconstructionError
from edge_runtime.frame import FrameGeometry
from edge_runtime.geometry import rotation_to_quaternion_wxyz
from edge_runtime.reconstruct import ReconstructSettings, open_frames, open_sweep
from edge_runtime.sources import TrackedSequence
from edge_runtime.sources.tracked import write_sequence

SETTINGS = ReconstructSettings()
CALIBRATION = np.array([[0.3, 0, 0, 5.0], [0, 0, -0.2, 1.0], [0, 0.2, 0, 2.0], [0, 0, 0, 1]])
GEOMETRY = FrameGeometry(row_mm=0.2, column_mm=0.3, origin="user", trusted=True, reason="")


@pytest.fixture
def parts(random_pose):
    """Six images, the poses of the probe, and their times 0.1 s apart."""
    rng = np.random.default_rng(4)
    T = np.stack([random_pose(rng, angle=0.05, shift=0.5, z=k) for k in range(6)])
    return rng.integers(0, 256, (6, 20, 30), np.uint8), T, np.arange(6) * 10**8


@pytest.fixture
def folder(parts, tmp_path):
    cv2 = pytest.importorskip("cv2")
    path = tmp_path / "frames"
    path.mkdir()
    for k, image in enumerate(parts[0]):
        cv2.imwrite(str(path / f"f{k}.png"), image)
    return path


def tum(path, T, times, unit=1000.0):
    rows = ["time,x,y,z,qx,qy,qz,qw"]
    for matrix, t in zip(T, times, strict=True):
        w, x, y, z = rotation_to_quaternion_wxyz(matrix[:3, :3])
        p = matrix[:3, 3] / unit
        rows.append(",".join(f"{n:.12g}" for n in (t / 1e9, *p, x, y, z, w)))
    path.write_text("\n".join(rows) + "\n")
    return path


def recorded(frames, T, times, statuses=None):
    return TrackedSequence(
        frames=frames,
        orientation="MF",
        times_ns=times,
        transforms={"ProbeToReference": T},
        statuses={"ProbeToReference": statuses or ("OK",) * len(T)},
    )


def test_frames_and_poses_are_the_recording(parts, folder, tmp_path):
    frames, T, times = parts
    constants = {"ImageToProbe": CALIBRATION}
    whole = open_sweep(recorded(frames, T, times), SETTINGS, constants=constants).sweep
    lines = tum(tmp_path / "p.csv", T, times)
    matrices = tmp_path / "m.txt"
    rows = [(t / 1e9, *matrix.ravel()) for t, matrix in zip(times, T, strict=True)]
    matrices.write_text("\n".join(" ".join(f"{n:.15g}" for n in row) for row in rows))
    tracker = tmp_path / "tracker.igs.mha"
    write_sequence(tracker, recorded(None, T, times))
    np.save(tmp_path / "frames.npy", frames)
    for found in (
        open_frames(folder, lines, SETTINGS, constants=constants),
        open_frames(folder, lines, SETTINGS, constants=constants, fps=10),
        open_frames(folder, matrices, SETTINGS, constants=constants, fps=10, mm_per_unit=1),
        open_frames(folder, tracker, SETTINGS, constants=constants, fps=10),
        open_frames(tmp_path / "frames.npy", lines, SETTINGS, constants=constants),
    ):
        np.testing.assert_array_equal(np.asarray(found.sweep.frames), whole.frames)
        np.testing.assert_allclose(found.sweep.T_world_image, whole.T_world_image, atol=1e-8)
        assert found.sweep.geometry == whole.geometry
        assert not found.dropped


def test_a_recording_of_images_keeps_its_clock(parts, tmp_path):
    frames, T, times = parts
    images, tracker = tmp_path / "images.igs.mha", tmp_path / "tracker.igs.mha"
    write_sequence(
        images, TrackedSequence(frames=frames[:, ::-1].copy(), orientation="MN", times_ns=times + 7 * 10**12)
    )
    write_sequence(tracker, recorded(None, T, times + 7 * 10**12 - 5 * 10**7))
    settings = ReconstructSettings(offset_ms=50)
    found = open_frames(images, tracker, settings, constants={"ImageToProbe": CALIBRATION})
    np.testing.assert_array_equal(np.asarray(found.sweep.frames), frames)  # turned to MF
    assert found.kept.tolist() == list(range(6))


def test_the_pixel_size_without_a_calibration(parts, folder, tmp_path):
    _, T, times = parts
    lines = tum(tmp_path / "p.csv", T, times, unit=1.0)
    found = open_frames(folder, lines, SETTINGS, geometry=GEOMETRY, mm_per_unit=1).sweep
    np.testing.assert_allclose(found.T_world_image, T, atol=1e-8)
    assert found.geometry == GEOMETRY
    with pytest.raises(GeometryError, match="no millimetres"):
        open_frames(folder, lines, SETTINGS)
    with pytest.raises(ConfigError, match="one of the two"):
        open_frames(folder, lines, SETTINGS, geometry=GEOMETRY, constants={"ImageToProbe": CALIBRATION})
    with pytest.raises(ConfigError, match="ImageToProbe alone"):
        open_frames(folder, lines, SETTINGS, constants={"ProbeToTracker": np.eye(4)})


def test_an_offset_moves_each_pose_by_its_time(parts):
    frames, _, times = parts
    straight = np.tile(np.eye(4), (6, 1, 1))
    straight[:, 2, 3] = times / 1e8  # 1 mm per image
    constants = {"ImageToProbe": np.diag([0.3, 0.2, 0.2, 1.0])}
    sequence = recorded(frames, straight, times, ("OK", "OK", "INVALID", "OK", "OK", "OK"))
    found = open_sweep(sequence, ReconstructSettings(offset_ms=25.0), constants=constants)
    assert found.kept.tolist() == [1, 3, 4, 5]
    assert found.dropped == {"invalid": (2,), "outside": (0,)}
    np.testing.assert_allclose(found.sweep.T_world_image[:, 2, 3], [0.75, 2.75, 3.75, 4.75])
    np.testing.assert_array_equal(np.asarray(found.sweep.frames), frames[[1, 3, 4, 5]])
    with pytest.raises(ReconstructionError, match="no times to shift"):
        open_sweep(replace(sequence, times_ns=None), ReconstructSettings(offset_ms=25.0), constants=constants)


def test_a_pose_that_is_not_rigid_is_not_called_invalid(parts):
    frames, T, times = parts
    T[3, :3, :3] *= 1.05
    T[4] = np.nan
    found = open_sweep(recorded(frames, T, times), SETTINGS, constants={"ImageToProbe": CALIBRATION})
    assert found.dropped == {"invalid": (4,), "not rigid": (3,)}


def test_damaged_frames_are_dropped_or_an_error(parts, folder, tmp_path):
    _, T, times = parts
    (folder / "f2.png").write_bytes(b"\x89PNG\r\n\x1a\n cut short")
    lines = tum(tmp_path / "p.csv", T, times)
    constants = {"ImageToProbe": CALIBRATION}
    for fps in (None, 10.0):
        found = open_frames(folder, lines, SETTINGS, constants=constants, fps=fps)
        assert found.dropped == {"corrupt": (2,)}
        assert found.kept.tolist() == [0, 1, 3, 4, 5]
        T_probe_image = np.linalg.inv(T[3]) @ found.sweep.T_world_image[2]
        np.testing.assert_allclose(T_probe_image[:3, 3], CALIBRATION[:3, 3], atol=1e-8)
    with pytest.raises(CorruptFrameError, match=r"f2\.png"):
        open_frames(folder, lines, ReconstructSettings(invalid="error"), constants=constants)


def test_clocks_and_counts_that_do_not_fit_are_told(parts, folder, tmp_path):
    _, T, times = parts
    constants = {"ImageToProbe": CALIBRATION}
    late = tum(tmp_path / "late.csv", T, times + 10**12)
    with pytest.raises(ReconstructionError, match=r"never meet. An offset_ms of -1000000\.0"):
        open_frames(folder, late, SETTINGS, constants=constants, fps=10)
    found = open_frames(folder, late, ReconstructSettings(offset_ms=-1e6), constants=constants, fps=10)
    assert len(found.kept) == 6
    with pytest.raises(ReconstructionError, match="6 frames without times and 5 poses"):
        open_frames(folder, tum(tmp_path / "few.csv", T[:5], times[:5]), SETTINGS, constants=constants)
    back = tum(tmp_path / "back.csv", T, times[::-1])
    with pytest.raises(ReconstructionError, match="pose 1 lies before that of pose 0"):
        open_frames(folder, back, SETTINGS, constants=constants, fps=10)
    with pytest.raises(ReconstructionError, match="offset_ms for frames without times"):
        open_frames(folder, late, ReconstructSettings(offset_ms=1), constants=constants)
    sparse = tum(tmp_path / "sparse.csv", T[[0, 1, 5]], times[[0, 1, 5]])
    found = open_frames(folder, sparse, ReconstructSettings(max_gap_ms=150), constants=constants, fps=10)
    assert found.dropped == {"gap": (2, 3, 4)}
