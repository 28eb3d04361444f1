from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edge_runtime.errors import ConfigError, GeometryError, ReconstructionError
from edge_runtime.frame import FrameGeometry, Sector
from edge_runtime.geometry import is_rigid
from edge_runtime.reconstruct import Sweep, Volume, VolumeGrid, grid_of_sweep
from edge_runtime.reconstruct.scan import mask_to_runs, scan_runs

MM = FrameGeometry(row_mm=0.5, column_mm=0.25, origin="user", trusted=True)
EYE = np.eye(4)[None]


def image(**kw):
    return np.zeros((1, 4, 5), np.uint8)


@given(hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12)))
def test_runs_rebuild_the_mask(mask):
    rebuilt = np.zeros_like(mask)
    for y, x0, x1 in mask_to_runs(mask):
        assert x0 < x1
        assert not rebuilt[y, x0:x1].any()
        rebuilt[y, x0:x1] = True
    np.testing.assert_array_equal(rebuilt, mask)


def test_a_sector_may_have_two_runs_in_one_row():
    sector = Sector(apex_x=10, apex_y=-5, radius_min=8, radius_max=30, angle_min=-1.2, angle_max=1.2)
    rows = scan_runs(sector, (20, 21))[:, 0]
    assert np.unique(rows, return_counts=True)[1].max() == 2


def test_a_scan_area_outside_the_image_is_refused():
    sector = Sector(apex_x=0, apex_y=500, radius_min=1, radius_max=2, angle_min=-1, angle_max=1)
    with pytest.raises(GeometryError, match="holds no pixel"):
        scan_runs(sector, (10, 10))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"T_world_image": np.eye(4)}, "shape"),
        ({"T_world_image": 2 * EYE}, "not rigid at frames"),
        ({"T_world_image": EYE * np.nan}, "not rigid"),
        ({"T_world_image": np.diag([1.0, 1, -1, 1])[None]}, "not rigid"),
        ({"geometry": [MM, MM]}, "2 geometries for 1"),
        ({"times_ns": np.zeros(2, np.int64)}, "times_ns"),
        ({"times_ns": np.zeros(1, np.float64)}, "int64"),
    ],
)
def test_a_sweep_that_does_not_fit_together_is_refused(change, message):
    good = {"frames": np.zeros((1, 4, 5), np.uint8), "T_world_image": EYE, "geometry": MM}
    with pytest.raises(ConfigError, match=message):
        Sweep(**(good | change))


def test_a_sweep_needs_frames_and_increasing_times():
    with pytest.raises(ReconstructionError, match="no frame"):
        Sweep(frames=np.zeros((0, 4, 5), np.uint8), T_world_image=np.zeros((0, 4, 4)), geometry=MM)
    with pytest.raises(ConfigError, match="goes back after frame 0"):
        Sweep(
            frames=np.zeros((2, 4, 5), np.uint8),
            T_world_image=np.tile(EYE, (2, 1, 1)),
            geometry=MM,
            times_ns=np.array([5, 4]),
        )


def test_frames_are_read_one_at_a_time_and_checked_then():
    class Lazy:
        asked: list[int]

        def __init__(self):
            self.asked = []

        def __len__(self):
            return 3

        def __getitem__(self, index):
            self.asked.append(index)
            return np.zeros((4, 5, 3) if index == 2 else (4, 5), np.uint8)

    frames = Lazy()
    sweep = Sweep(frames=frames, T_world_image=np.tile(EYE, (3, 1, 1)), geometry=[MM] * 3)
    assert frames.asked == []
    assert sweep.image(1).shape == (4, 5)
    assert frames.asked == [1]
    with pytest.raises(ConfigError, match="frame 2 has shape"):
        sweep.image(2)
    assert len(sweep.with_poses(np.tile(EYE, (3, 1, 1)), "image")) == 3


def test_the_grid_holds_every_corner_and_little_more():
    T = np.eye(4)
    T[:3, 3] = (100, -50, 7)
    sweep = Sweep(frames=np.zeros((1, 9, 9), np.uint8), T_world_image=T[None], geometry=MM)
    grid = grid_of_sweep(sweep, (1.0, 0.5, 0.25))
    corners = np.array([(100, -50, 7), (102, -50, 7), (100, -46, 7), (102, -46, 7)])
    index = grid.to_index(corners)
    assert (index > 0).all()
    assert (index < np.array(grid.shape) - 1).all()
    assert grid.shape == (2, 10, 10)


def test_a_turned_grid_fits_a_turned_sweep(random_pose):
    T = random_pose(np.random.default_rng(0), angle=1.0)
    sweep = Sweep(frames=np.zeros((1, 40, 40), np.uint8), T_world_image=T[None], geometry=MM)
    assert grid_of_sweep(sweep, 0.5, R_world_volume=T[:3, :3]).voxels * 3 < grid_of_sweep(sweep, 0.5).voxels


def test_millimetres_must_be_trusted():
    sweep = Sweep(frames=image(), T_world_image=EYE, geometry=FrameGeometry(reason="two regions"))
    with pytest.raises(GeometryError, match="two regions"):
        grid_of_sweep(sweep, 0.5)


@pytest.mark.parametrize("spacing", [0.0, -1.0, np.nan, np.inf, (1.0, 0.0, 1.0)])
def test_a_spacing_that_is_no_length_is_refused(spacing):
    sweep = Sweep(frames=image(), T_world_image=EYE, geometry=MM)
    with pytest.raises(ConfigError, match="spacing_mm"):
        grid_of_sweep(sweep, spacing)


def test_a_grid_refuses_bad_shapes_and_scaled_matrices():
    good = {"shape": (1, 1, 1), "spacing_mm": (1.0, 1.0, 1.0), "T_world_volume": np.eye(4)}
    for change in ({"shape": (0, 1, 1)}, {"shape": (1, 1)}, {"T_world_volume": np.diag([2.0, 2, 2, 1])}):
        with pytest.raises(ConfigError):
            VolumeGrid(**(good | change))


finite = st.floats(-500, 500)


@settings(max_examples=50)
@given(seed=st.integers(0, 2**20), point=st.tuples(finite, finite, finite))
def test_world_and_index_are_inverse(seed, point):
    from edge_runtime.geometry import quaternion_wxyz_to_rotation

    rng = np.random.default_rng(seed)
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = quaternion_wxyz_to_rotation(rng.normal(size=4)), rng.normal(0, 50, 3)
    assert is_rigid(T)
    grid = VolumeGrid(shape=(3, 4, 5), spacing_mm=(0.3, 1.5, 2.0), T_world_volume=T)
    np.testing.assert_allclose(grid.to_world(grid.to_index(point)), point, atol=1e-9)


def linear_volume(random_pose, **change):
    """Grey levels that are a linear function of the index, which trilinear interpolation must reproduce."""
    z, y, x = np.indices((6, 7, 8))
    data = (10 + 3 * z + 5 * y + 7 * x).astype(np.uint8)
    T = random_pose(np.random.default_rng(1), angle=0.7)
    return Volume(**({"data": data, "spacing_mm": (0.5, 1.0, 2.0), "T_world_volume": T} | change))


def test_sample_is_exact_on_a_linear_field(random_pose):
    volume = linear_volume(random_pose)
    index = np.random.default_rng(2).uniform(0, (5, 6, 7), (50, 3))
    np.testing.assert_allclose(volume.sample(volume.to_world(index)), 10 + index @ (3, 5, 7), atol=1e-6)
    corner = volume.to_world((5, 6, 7))
    assert volume.sample(corner[None, None]).shape == (1, 1)


def test_sample_is_nan_where_nothing_was_seen(random_pose):
    weight = np.ones((6, 7, 8), np.float32)
    weight[2, 3, 4] = 0
    volume = linear_volume(random_pose, weight=weight)
    index = np.array([(2, 3, 4), (2.5, 3, 4), (1.9, 2.9, 3.9), (3.1, 3, 4), (2, 3, 5), (-3, 0, 0), (5.6, 0, 0)])
    nan = np.isnan(volume.sample(volume.to_world(index)))
    # points 0-2 use the empty voxel; 3 and 4 do not; 5 and 6 are outside
    np.testing.assert_array_equal(nan[[0, 1, 2, 5, 6]], True)
    assert not nan[3]
    filled = weight == 0
    assert not np.isnan(
        linear_volume(random_pose, weight=weight, filled=filled).sample(volume.to_world((2.2, 3.2, 4.2)))
    )


def test_a_volume_refuses_arrays_that_do_not_match(random_pose):
    for change in (
        {"data": np.zeros((2, 2), np.uint8)},
        {"data": np.zeros((2, 2, 2))},
        {"weight": np.zeros((1, 1, 1), np.float32)},
        {"weight": np.zeros((6, 7, 8))},
        {"filled": np.zeros((6, 7, 8), np.uint8)},
        {"spacing_mm": (1.0, 1.0, -1.0)},
    ):
        with pytest.raises(ConfigError):
            linear_volume(random_pose, **change)
