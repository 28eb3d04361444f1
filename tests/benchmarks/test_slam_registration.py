"""The injected offset is what it is called, and every pixel of the liver lies where its recorded matrix puts it."""

from __future__ import annotations

import os

import numpy as np
import pytest

from benchmarks.compounding.cases import sweeps
from benchmarks.slam.registration import liver, offset
from edge_runtime.slam import se3
from edge_runtime.sources.tracked import read_sequence


@pytest.mark.parametrize("seed", [100, 103])
def test_an_offset_is_ten_millimetres_and_five_degrees(seed):
    centre = np.array([30.0, -40.0, 12.0])
    T = offset(seed, centre)
    assert np.linalg.norm(T[:3, :3] @ centre + T[:3, 3] - centre) == pytest.approx(10)
    assert np.degrees(np.linalg.norm(se3.log(T)[:3])) == pytest.approx(5)
    assert not np.allclose(T, offset(seed + 1, centre))


@pytest.mark.skipif("POCUS_DATA" not in os.environ, reason="POCUS_DATA is not set; it names the recorded sweeps")
def test_no_pixel_is_moved_by_making_poses_rigid():
    sweep = liver("l2")
    recorded = read_sequence(sweeps() / "ultranerf_liver" / "l2.igs.mha").transforms
    matrices = recorded["ProbeToReference"] @ recorded["ImageToProbe"]
    corners = np.array([(x, y) for x in (0, 255) for y in (0, 511)], float)
    moved = 0.0
    nearest = liver("l2", nearest_rotation=True)
    for k, M in enumerate(matrices):
        truth = corners @ M[:3, :2].T + M[:3, 3]
        for made, exact in ((sweep, True), (nearest, False)):
            g, T = made.geometry_of(k), made.T_world_image[k]
            row_mm, column_mm = g.require_mm()
            plane = corners @ np.array([[column_mm, g.shear * row_mm], [0, row_mm]]).T
            off = np.linalg.norm(plane @ T[:3, :2].T + T[:3, 3] - truth, axis=1).max()
            if exact:
                assert off < 1e-6
            moved = moved if exact else max(moved, off)
    assert 0.5 < moved < 1.0
