"""Strands against a real sweep: how the image of muscle over bone decorrelates; and a recorded hand's way."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_runtime.errors import ConfigError
from edge_runtime.reconstruct import sweep_of_sequence
from edge_runtime.sources.tracked import read_sequence
from edge_sdk.sweeps import SweepProbe, path_mm, random_anatomy, read_poses, resampled, straight, sweep_through

PATCH = 32
BINS = np.array([0.3, 0.7, 1.05, 1.5, 2.1, 2.9])  # mm


def sweeps() -> Path:
    data = os.environ.get("POCUS_DATA")
    if not data or not Path(data, "sweeps").is_dir():
        pytest.skip("POCUS_DATA does not name the folder of real data")
    return Path(data, "sweeps")


def curve(frames: np.ndarray, along_mm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean distance and mean correlation of high-passed patches (5.5 mm wide) of two frames, by bins of distance."""
    high = [f - cv2.GaussianBlur(f, (0, 0), 3) for f in frames.astype(np.float32)]
    pairs = [(i, j) for i in range(len(high)) for j in range(i + 1, min(i + 9, len(high)))]
    distance = np.array([abs(along_mm[j] - along_mm[i]) for i, j in pairs])
    value = np.array([correlation(high[i], high[j]) for i, j in pairs])
    which = np.digitize(distance, BINS)
    means = [(distance[which == k].mean(), value[which == k].mean()) for k in range(1, len(BINS))]
    return np.array(means)[:, 0], np.array(means)[:, 1]


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    rows, columns = range(12, a.shape[0] - PATCH, PATCH), range(4, a.shape[1] - PATCH, PATCH)
    cut = [np.s_[y : y + PATCH, x : x + PATCH] for y in rows for x in columns]
    return float(np.mean([np.corrcoef(a[c].ravel(), b[c].ravel())[0, 1] for c in cut if a[c].std() > 3]))


def test_strands_decorrelate_as_muscle_does() -> None:
    """`strands=0.75` of 8 mm is within 0.06 of the sweep over bone from 0.5 to 2.5 mm; ideal speckle is far off."""
    sequence = read_sequence(sweeps() / "plus_bone" / "BoneUltrasound_L14.igs.mha")
    T_probe_image = np.array(  # from the configuration beside the recording
        [
            [0.000796231, 0.0854272, 0.000850194, 12.74],
            [-0.0853999, 0.000772721, 0.00233653, 50.76],
            [0.00232863, -0.000871617, 0.0853992, -0.5],
            [0, 0, 0, 1],
        ]
    )
    real = sweep_of_sequence(sequence, constants={"ImageToProbe": T_probe_image}).sweep
    images = np.stack(
        [cv2.resize(real.image(k)[:300, 178:640], None, fx=0.5, fy=0.5, interpolation=3) for k in range(21)]
    )
    middle = real.T_world_image @ np.array([35.0, 13.0, 0.0, 1.0])
    along = middle[:, :3] @ real.T_world_image[10, :3, 2]
    at, seen = curve(images, along)
    probe = SweepProbe(shape=(150, 231), depth_mm=25.6, width_mm=39.5)
    for strands, near in ((0.75, True), (0.0, False)):
        anatomy = random_anatomy(2, (60, 45, 60), strands=strands, strand_mm=8.0)
        made = sweep_through(anatomy, straight(21, 0.4), 0, probe=probe)
        made_at, made_seen = curve(made.images, 0.4 * np.arange(21))
        off = np.abs(np.interp(at, made_at, made_seen) - seen)
        assert (off.max() < 0.06) == near, off
        assert near or off.max() > 0.2


def test_a_recorded_hand_leads_the_probe() -> None:
    folder = sweeps() / "poses_only"
    names = folder / "FreehandUSRecon_Demo_pos.txt", folder / "FreehandUSRecon_Demo_USCalib.txt"
    recorded = read_poses(*names)
    assert recorded.shape == (109, 4, 4)
    T = resampled(recorded, 400)
    assert 100 < path_mm(T) < 200
    np.testing.assert_array_equal(T[0], np.eye(4))
    assert T[-1, 2, 3] > 0
    probe = SweepProbe(shape=(96, 80), depth_mm=18.0, width_mm=16.0)
    true = sweep_through(random_anatomy(1, (60, 60, 60)), T[:5], 0, probe=probe)
    assert np.corrcoef(true.images[0].ravel(), true.images[1].ravel())[0, 1] > 0.5


def test_a_file_that_holds_no_poses_is_named(tmp_path: Path) -> None:
    path = tmp_path / "pos.txt"
    path.write_text("0 0 1 2 3 0 0 0 2\n")
    with pytest.raises(ConfigError, match=r"pos\.txt: row 1: the quaternion has length 2"):
        read_poses(path)
    path.write_text("1 2 3\n")
    with pytest.raises(ConfigError, match="rows of 3 numbers"):
        read_poses(path)
