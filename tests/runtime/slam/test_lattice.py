"""The B-spline field between volumes: closed forms, known warps found again, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.interpolate import BSpline
from scipy.ndimage import gaussian_filter, map_coordinates

from edge_runtime.errors import ConfigError, ReconstructionError
from edge_runtime.geometry import vector_to_rotation
from edge_runtime.reconstruct import Volume, VolumeGrid
from edge_runtime.slam.lattice import LatticeField, LatticeSettings, align_lattice

SHAPE = (26, 32, 36)
SPACING = (1.5, 1.2, 1.0)


def anatomy(seed, sigma=1.6):
    field = gaussian_filter(np.random.default_rng(seed).normal(size=SHAPE), sigma)
    return np.clip(127 + 45 * field / field.std(), 0, 255)


def volume(values, T=None, weight=None):
    data = np.rint(values).astype(np.uint8)
    return Volume(data=data, spacing_mm=SPACING, T_world_volume=np.eye(4) if T is None else T, weight=weight)


def random_field(seed, size, knot_mm=14.0, T=None):
    """A field whose control points are drawn from -size to size."""
    grid = VolumeGrid(shape=SHAPE, spacing_mm=SPACING, T_world_volume=np.eye(4) if T is None else T)
    extent = (np.array(SHAPE) - 1) * SPACING
    knots = np.ceil(extent / knot_mm).astype(int) + 3
    control = np.random.default_rng(seed).uniform(-size, size, (3, *knots))
    return LatticeField(control=control, knot_mm=knot_mm, grid=grid)


def moved(values, field):
    """The image with `moved(p) = values(p + u(p))`: aligning `moved` as the fixed volume finds u."""
    index = np.moveaxis(np.indices(SHAPE).astype(float), 0, -1) + field.displacement()[..., ::-1] / SPACING
    return map_coordinates(values, np.moveaxis(index, -1, 0), order=3, mode="nearest").clip(0, 255)


def test_displacement_is_the_tensor_spline():
    field = random_field(0, 2.0)
    index = np.random.default_rng(1).uniform(0, 1, (20, 3)) * (np.array(SHAPE) - 1)
    bases = []
    for axis in range(3):
        count, t = field.control.shape[axis + 1], np.arange(-3, field.control.shape[axis + 1] + 1) * field.knot_mm
        mm = index[:, axis] * SPACING[axis]
        bases.append(
            np.stack([BSpline.basis_element(t[k : k + 5], extrapolate=False)(mm) for k in range(count)], axis=1)
        )
    z, y, x = (np.nan_to_num(b) for b in bases)
    want = np.einsum("cijk,pi,pj,pk->pc", field.control, z, y, x)
    assert np.allclose(field.displacement(index), want, atol=1e-12)
    whole = field.displacement()
    assert np.allclose(whole[3, 4, 5], field.displacement((3, 4, 5)), atol=1e-12)


def test_jacobian_is_that_of_finite_differences():
    field = random_field(2, 3.0)
    J, at, step = np.eye(3), np.array([10.0, 12.0, 15.0]), 1e-4
    for axis in range(3):
        e = np.zeros(3)
        e[axis] = step
        J[:, 2 - axis] += (field.displacement(at + e) - field.displacement(at - e)) / (2 * step * SPACING[axis])
    assert field.jacobian()[10, 12, 15] == pytest.approx(np.linalg.det(J), abs=1e-6)


def test_equal_control_points_only_shift():
    field = random_field(3, 1.0)
    still = LatticeField(control=np.full_like(field.control, 1.5), knot_mm=field.knot_mm, grid=field.grid)
    assert np.allclose(still.displacement(), 1.5)
    assert np.allclose(still.jacobian(), 1)


@pytest.mark.parametrize("turned", [False, True])
def test_a_known_field_is_found(turned):
    T = np.eye(4)
    if turned:
        T[:3, :3] = vector_to_rotation(np.array([0.3, -0.5, 0.4]))
        T[:3, 3] = 10, -20, 5
    field = random_field(4, 3.5, T=T)
    values = anatomy(5)
    found = align_lattice(volume(moved(values, field), T), volume(values, T), LatticeSettings(shrink=(2, 1)))
    inner = (slice(4, -4),) * 3
    error = np.linalg.norm((found.field.displacement() - field.displacement())[inner], axis=-1)
    alone = np.linalg.norm(field.displacement()[inner], axis=-1)
    assert found.refused == ""
    assert np.sqrt((error**2).mean()) < 0.3 * np.sqrt((alone**2).mean())
    assert found.ncc_after > 0.97 > found.ncc_before
    assert 0 < found.jacobian[0] < 1 < found.jacobian[1]
    assert found.largest_mm == pytest.approx(np.linalg.norm(field.displacement(), axis=-1).max(), abs=2)


def test_the_displacement_is_in_the_fixed_frame_whatever_the_moving_one():
    T = np.eye(4)
    T[:3, :3] = vector_to_rotation(np.array([0.0, 0.0, np.pi / 2]))
    values = anatomy(6)
    shift = np.eye(4)
    shift[:3, 3] = 1.0, 0, 0  # the moving volume lies 1 mm further along x of the world
    found = align_lattice(volume(values, T), volume(values, shift @ T), LatticeSettings(shrink=(2, 1)))
    middle = found.field.displacement()[6:-6, 6:-6, 6:-6].reshape(-1, 3).mean(axis=0)
    assert T[:3, :3] @ middle == pytest.approx((1, 0, 0), abs=0.1)


def test_volumes_that_are_alike_are_left_alone():
    found = align_lattice(volume(anatomy(7)), volume(anatomy(7)), LatticeSettings(shrink=(2, 1)))
    assert "gain" in found.refused
    assert not found.field.control.any()


def test_flat_volumes_are_left_alone():
    found = align_lattice(volume(np.full(SHAPE, 90.0)), volume(np.full(SHAPE, 90.0)), LatticeSettings(shrink=(2,)))
    assert found.refused
    assert not found.field.control.any()


def test_a_fold_is_refused():
    options = LatticeSettings(smoothness=0.0, knot_mm=4.0, shrink=(1,), iterations=60)
    found = align_lattice(volume(anatomy(8)), volume(anatomy(9)), options)
    assert found.jacobian[0] <= 0
    assert "folds" in found.refused
    assert not found.field.control.any()


def test_apart_volumes_are_refused():
    T = np.eye(4)
    T[0, 3] = 34.0
    found = align_lattice(volume(anatomy(10)), volume(anatomy(10), T), LatticeSettings(shrink=(2, 1)))
    assert "falls on the moving one" in found.refused


def test_unknown_voxels_do_not_count():
    field, values = random_field(11, 3.0), anatomy(12)
    weight = np.ones(SHAPE, np.float32)
    weight[:, :, :8] = 0
    fixed, moving = moved(values, field), values.copy()
    fixed[:, :, :8] = 255
    found = align_lattice(volume(fixed, weight=weight), volume(moving), LatticeSettings(shrink=(2, 1)))
    error = np.linalg.norm(found.field.displacement() - field.displacement(), axis=-1)[4:-4, 4:-4, 13:-4]
    assert np.sqrt((error**2).mean()) < 0.8


@pytest.mark.parametrize(
    "bad",
    [
        {"knot_mm": 0.0},
        {"smoothness": -1.0},
        {"smoothness": np.nan},
        {"shrink": ()},
        {"shrink": (0,)},
        {"iterations": 0},
        {"least_overlap": 0.0},
        {"least_gain": 1.0},
    ],
)
def test_settings_out_of_range_are_refused(bad):
    with pytest.raises(ConfigError):
        LatticeSettings(**bad)


def test_volumes_without_content_are_errors():
    empty = volume(anatomy(13), weight=np.zeros(SHAPE, np.float32))
    with pytest.raises(ReconstructionError, match="no known voxel"):
        align_lattice(empty, volume(anatomy(13)))
    small = Volume(data=np.ones((3, 9, 9), np.uint8), spacing_mm=SPACING, T_world_volume=np.eye(4))
    with pytest.raises(ReconstructionError, match="moving"):
        align_lattice(volume(anatomy(13)), small)
