"""Poses from text files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge_runtime.errors import ConfigError, SourceError, SourceFormatError
from edge_runtime.sources import read_tum

scipy_rotation = pytest.importorskip("scipy.spatial.transform").Rotation


@pytest.mark.parametrize("separator", [" ", ", ", ","])
def test_poses_are_those_of_a_peer(tmp_path: Path, separator: str) -> None:
    rng = np.random.default_rng(0)
    turns = scipy_rotation.random(20, random_state=1)
    shifts = rng.normal(size=(20, 3))
    rows = [
        separator.join([f"{1305031102.1 + k:.4f}", *map(repr, map(float, [*shifts[k], *turns[k].as_quat()]))])
        for k in range(20)
    ]
    path = tmp_path / "poses.txt"
    path.write_text("# timestamp tx ty tz qx qy qz qw\n\n" + "\r\n".join(rows) + "\n")
    poses = read_tum(path)
    assert [p.time_ns for p in poses] == [1_305_031_102_100_000_000 + k * 10**9 for k in range(20)]
    for k, pose in enumerate(poses):
        np.testing.assert_allclose(pose.T_world_image[:3, :3], turns[k].as_matrix(), atol=1e-12)
        np.testing.assert_allclose(pose.T_world_image[:3, 3], 1000 * shifts[k], rtol=1e-12)
    np.testing.assert_allclose(read_tum(path, mm_per_unit=1)[3].T_world_image[:3, 3], shifts[3])


@pytest.mark.parametrize(
    "line",
    [
        "1 2 3",
        "t 0 0 0 0 0 0 1",
        "1 0 0 0 0 0 0 2",
        "1 0 0 nan 0 0 0 1",
        "nan 0 0 0 0 0 0 1",
        "1e99 0 0 0 0 0 0 1",
        "x" * 9999,
    ],
)
def test_a_line_that_is_no_pose_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "poses.txt"
    path.write_text("0 0 0 0 0 0 0 1\n" + line + "\n")
    with pytest.raises(SourceFormatError, match=r"poses\.txt, line 2"):
        read_tum(path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="cannot read"):
        read_tum(tmp_path / "absent")
    (tmp_path / "empty").write_text("# nothing\n")
    with pytest.raises(SourceFormatError, match="holds no pose"):
        read_tum(tmp_path / "empty")
    with pytest.raises(ConfigError, match="mm_per_unit"):
        read_tum(tmp_path / "empty", mm_per_unit=0)
