"""Weights of the linear kernel are cut to integers: one that is nothing may come out as -2^-30, and is no error."""

from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.frame import FrameGeometry
from edge_runtime.reconstruct import Compounder, VolumeGrid

pytest.importorskip("numba")

POSE = [
    [-0.9972808389996055, -0.07325043033434203, 0.008081003655234672, 122.43332500404377],
    [-0.07232402146894175, 0.9938797889796313, 0.08349970644477601, -100.31258245840198],
    [-0.014147935637479342, 0.08268820661761528, -0.9964750355144678, 71.57722035080397],
    [0.0, 0.0, 0.0, 1.0],
]
ORIGIN = (32.477479112714406, -115.2905937957383, 15.586830433879198)


def test_a_weight_below_zero_by_rounding_is_no_removed_frame():
    start = np.eye(4)
    start[:3, 3] = ORIGIN
    grid = VolumeGrid(shape=(69, 155, 93), spacing_mm=(1.0, 1.0, 1.0), T_world_volume=start)
    geometry = FrameGeometry(
        row_mm=0.2734375005637372, column_mm=0.312499992541718, shear=5.51675859412122e-10, origin="user", trusted=True
    )
    target = Compounder(grid, kernel="linear")
    target.insert(np.full((512, 256), 200, np.uint8), np.array(POSE), geometry)
    assert target._acc[:, 1].min() == -1
    volume = target.volume()
    assert (volume.data[volume.swept] == 200).all()
    assert np.nanmax(np.abs(target.mean() - 200)) < 1e-3
