"""The picture of paths and drift: what lies where, and the smallest and the emptiest of them."""

from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.errors import ConfigError
from edge_runtime.frame import FrameGeometry
from edge_runtime.metrics.trajectory_pictures import ESTIMATES, GAP, MARGIN, PATHS, SIDE, TOP, WIDTH, draw_trajectories

pytest.importorskip("cv2", reason="OpenCV is not installed: nothing can be drawn")

GEOMETRY = FrameGeometry(row_mm=0.2, column_mm=0.25, origin="user", trusted=True, reason="")
SHAPE = (20, 30)


def along(*z, y=0.0):
    """Poses without a turn at these elevations in mm."""
    T = np.tile(np.eye(4), (len(z), 1, 1))
    T[:, 2, 3] = z
    T[1:, 1, 3] = y
    return T


def rows_of(picture, colour, left, right):
    return np.flatnonzero((picture[:, left:right] == colour).all(axis=2).any(axis=1))


def test_a_drift_of_the_whole_scale_reaches_the_top() -> None:
    picture = draw_trajectories(along(0, 10, 20), {"ours": along(0, 15, 30)}, GEOMETRY, SHAPE)
    found = rows_of(picture[TOP - 5 :], ESTIMATES[0], MARGIN + PATHS + 84, WIDTH)
    assert found[0] <= 7  # 10 mm, the uppermost line
    assert abs(found[-1] - 5 - (2 * SIDE + GAP)) <= 2  # 0 mm


def test_depth_points_down_in_the_lower_view() -> None:
    picture = draw_trajectories(along(0, 10, 20), {"deep": along(0, 10, 20, y=5.0)}, GEOMETRY, SHAPE)
    middle = TOP + SIDE + GAP + SIDE // 2
    found = rows_of(picture, ESTIMATES[0], MARGIN + PATHS // 2, MARGIN + PATHS)
    assert found[found > TOP + SIDE].min() > middle  # the deeper one, past the middle of the sweep
    above = found[(found > TOP) & (found < TOP + SIDE)]
    assert abs(above.mean() - (TOP + SIDE / 2)) < 2  # from above nothing is to be seen of it


@pytest.mark.parametrize("estimate", [along(0, 0), along(0, 0.001)])
def test_what_hardly_moves_is_drawn_small(estimate) -> None:
    picture = draw_trajectories(along(0, 0), {"still": estimate}, GEOMETRY, SHAPE)
    assert picture.shape[1] == WIDTH
    assert (picture[-30:, -200:] == picture[0, 0]).all()  # the scale bar does not run out of the picture


def test_how_many() -> None:
    for count in (0, 5):
        with pytest.raises(ConfigError, match="1 to 4"):
            draw_trajectories(along(0, 1), {str(k): along(0, 1) for k in range(count)}, GEOMETRY, SHAPE)
