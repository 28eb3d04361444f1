from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edge_runtime.errors import ConfigError, ReconstructionError
from edge_runtime.reconstruct import (
    Volume,
    compare,
    compound,
    draw_slices,
    error_map,
    locate_wire,
    orthogonal_slices,
    parity,
    wire_error,
)


def truth_of(volume, phantom):
    data = np.rint(volume.grid.sample_field(phantom)).astype(np.uint8)
    return Volume(data=data, spacing_mm=volume.spacing_mm, T_world_volume=volume.T_world_volume)


@pytest.mark.parametrize("kernel", ["nearest", "linear"])
def test_a_tracked_sweep_reproduces_the_phantom(wire_sweep, wire_phantom, wire_line, kernel):
    """The whole chain against a field known at every point: at most 3 grey levels, the wire within a voxel."""
    pytest.importorskip("numba")
    volume = compound(wire_sweep, 0.5, kernel=kernel)
    error = compare(volume, truth_of(volume, wire_phantom))
    assert error.mean_absolute <= 0.3
    assert abs(error.bias) <= 0.1
    assert error.swept_share > 0.7
    start, end = wire_line
    rough = np.array([0.4, -0.3, 0.0])
    centres = locate_wire(volume, start + rough, end + rough)
    wire = wire_error(centres, start, end, volume.spacing_mm)
    assert wire.slices > 30
    assert wire.worst_voxels <= 0.5


def test_a_wrong_pose_is_seen_as_a_wire_out_of_place(wire_sweep, wire_line):
    """The measure must not be blind: a translation of 1.5 mm shows as about that distance."""
    pytest.importorskip("numba")
    moved = wire_sweep.T_world_image.copy()
    moved[:, 0, 3] += 1.5
    volume = compound(wire_sweep.with_poses(moved, "image"), 0.5)
    start, end = wire_line
    wire = wire_error(locate_wire(volume, start, end), start, end, volume.spacing_mm)
    axis = (end - start) / np.linalg.norm(end - start)
    assert wire.mean_mm == pytest.approx(1.5 * np.sqrt(1 - axis[0] ** 2), abs=0.1)
    assert volume.pose_origin == "image"


@pytest.fixture
def pair():
    data = np.full((4, 5, 6), 100, np.uint8)
    truth = Volume(data=data, spacing_mm=(1.0, 1.0, 1.0), T_world_volume=np.eye(4))
    weight = np.zeros(data.shape, np.float32)
    weight[:2] = 3
    filled = np.zeros(data.shape, bool)
    filled[2] = True
    other = data.copy()
    other[0], other[1], other[2] = 103, 99, 110
    return replace(truth, data=other, weight=weight, filled=filled), truth


def test_compare_by_hand(pair):
    error = compare(*pair)
    assert (error.voxels, error.mean_absolute, error.bias, error.worst) == (60, 2.0, 1.0, 3.0)
    assert error.rms == pytest.approx(np.sqrt(5))
    assert (error.swept_share, error.filled_share, error.filled_mean_absolute) == (0.5, 0.25, 10.0)


def test_compare_refuses_other_lattices_and_nothing(pair):
    volume, truth = pair
    moved = np.eye(4)
    moved[0, 3] = 0.01
    turned = np.eye(4)
    turned[:2, :2] = [[0, -1], [1, 0]]
    for other in (
        replace(truth, data=truth.data[:3]),
        replace(truth, T_world_volume=moved),
        replace(truth, T_world_volume=turned),
        replace(truth, spacing_mm=(1.0, 1.0, 1.1)),
    ):
        with pytest.raises(ConfigError, match="different lattices"):
            compare(volume, other)
    with pytest.raises(ReconstructionError, match="nothing can be compared"):
        compare(replace(volume, weight=np.zeros(truth.data.shape, np.float32)), truth)


def test_a_wire_that_is_not_there_is_not_found(pair):
    truth = pair[1]
    with pytest.raises(ReconstructionError, match="no slice shows the wire"):
        locate_wire(truth, (2, 2, 0), (2, 2, 3))
    with pytest.raises(ConfigError, match="length"):
        locate_wire(truth, (2, 2, 0), (2, 2, 0))
    with pytest.raises(ConfigError, match=r"window_mm 0\.1"):
        locate_wire(truth, (2, 2, 0), (2, 2, 3), window_mm=0.1)


def test_slices_are_the_planes_they_are_called():
    z, y, x = np.indices((4, 5, 6))
    data = (36 * z + 6 * y + x).astype(np.uint8)
    T = np.eye(4)
    T[:3, 3] = (10, 20, 30)
    volume = Volume(data=data, spacing_mm=(3.0, 2.0, 1.0), T_world_volume=T)
    axial, coronal, sagittal = orthogonal_slices(volume, (10 + 4, 20 + 6.1, 30 + 3))
    np.testing.assert_array_equal(axial, data[1])
    np.testing.assert_array_equal(coronal, data[::-1, 3, :])
    np.testing.assert_array_equal(sagittal, data[::-1, :, 4])
    with pytest.raises(ConfigError, match="outside the volume"):
        orthogonal_slices(volume, (0, 0, 0))


def test_the_picture_has_three_rows_with_a_truth(pair):
    pytest.importorskip("cv2")
    volume, truth = pair
    alone, both = draw_slices(volume), draw_slices(volume, truth, panel_px=200)
    for picture in (alone, both):
        assert picture.dtype == np.uint8
        assert picture.shape[2] == 3
    assert both.shape[0] > alone.shape[0] * 0.9
    # orange for above, blue for below, and the colour of the unknown are all there
    assert ((both[..., 0] > 120) & (both[..., 2] < 90)).any()
    assert (both == (38, 44, 54)).all(axis=-1).any()


def test_the_picture_refuses_bad_sizes_and_other_lattices(pair):
    pytest.importorskip("cv2")
    volume, truth = pair
    with pytest.raises(ConfigError, match="panel_px"):
        draw_slices(volume, panel_px=5)
    with pytest.raises(ConfigError, match="different lattices"):
        draw_slices(volume, replace(truth, spacing_mm=(1.0, 1.0, 2.0)))


def test_flat_and_long_volumes_can_be_drawn():
    pytest.importorskip("cv2")
    for shape in ((1, 1, 200), (200, 1, 1), (1, 1, 1)):
        volume = Volume(data=np.zeros(shape, np.uint8), spacing_mm=(0.1, 0.1, 0.1), T_world_volume=np.eye(4))
        assert draw_slices(volume).size > 0


def test_parity_counts_voxels_that_are_not_black_in_either():
    ours, theirs = np.zeros((2, 3, 4), np.uint8), np.zeros((2, 3, 4), np.uint8)
    ours[0, 0], theirs[0, 0] = (10, 20, 30, 0), (10, 22, 27, 9)
    found = parity(ours, theirs)
    assert (found.voxels, found.equal, found.within_2, found.worst) == (4, 0.25, 0.5, 9)


def test_parity_refuses_what_cannot_be_compared():
    black = np.zeros((2, 3, 4), np.uint8)
    with pytest.raises(ReconstructionError, match="black"):
        parity(black, black)
    with pytest.raises(ConfigError, match="one shape"):
        parity(black, black[:1])
    with pytest.raises(ConfigError, match="uint8"):
        parity(black, black.astype(float))


def test_an_error_map_has_the_sign_of_the_error_and_nothing_where_nothing_is_known():
    data = np.full((2, 2, 2), 100, np.uint8)
    weight = np.ones((2, 2, 2), np.float32)
    weight[1, 1, 1] = 0
    volume = Volume(data=data, weight=weight, spacing_mm=(1.0, 1.0, 1.0), T_world_volume=np.eye(4))
    truth = replace(volume, data=data.copy(), weight=np.ones_like(weight))
    truth.data[0, 0, 0], truth.data[0, 0, 1], truth.data[1, 1, 1] = 200, 3, 50
    found = error_map(volume, truth)
    assert found[0, 0, 0] == -100
    assert found[0, 0, 1] == 97
    assert np.count_nonzero(found) == 2
    with pytest.raises(ConfigError, match="different lattices"):
        error_map(volume, replace(truth, spacing_mm=(1.0, 1.0, 2.0)))
