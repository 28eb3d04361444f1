from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.errors import ConfigError
from edge_runtime.geometry import (
    Pose,
    interpolate_rigid,
    invert_rigid,
    is_rigid,
    quaternion_wxyz_to_rotation,
    rotation_to_quaternion_wxyz,
    rotation_to_vector,
    vector_to_rotation,
)

numbers = st.floats(-3, 3)
vectors = st.tuples(numbers, numbers, numbers).map(np.array)


def series(v):
    """exp of the cross-product matrix by its power series: independent of quaternions."""
    K = np.array([[0, -v[2], v[1]], [v[2], 0, -v[0]], [-v[1], v[0], 0]])
    term, total = np.eye(3), np.eye(3)
    for k in range(1, 40):
        term = term @ K / k
        total = total + term
    return total


@given(vectors)
def test_rotation_of_a_vector_is_the_matrix_exponential(v):
    np.testing.assert_allclose(vector_to_rotation(v), series(v), atol=1e-9)


@given(vectors)
def test_vector_of_a_rotation_gives_the_rotation_back(v):
    R = vector_to_rotation(v)
    back = rotation_to_vector(R)
    assert np.linalg.norm(back) <= np.pi + 1e-9
    np.testing.assert_allclose(vector_to_rotation(back), R, atol=1e-9)
    np.testing.assert_allclose(quaternion_wxyz_to_rotation(rotation_to_quaternion_wxyz(R)), R, atol=1e-12)


@pytest.mark.parametrize("axis", np.vstack([np.eye(3), -np.eye(3), np.ones((1, 3)) / np.sqrt(3)]))
def test_half_turns(axis):
    R = vector_to_rotation(np.pi * axis)
    np.testing.assert_allclose(R, 2 * np.outer(axis, axis) - np.eye(3), atol=1e-12)
    back = rotation_to_vector(R)
    assert np.linalg.norm(back) == pytest.approx(np.pi)
    assert abs(back @ axis) == pytest.approx(np.pi)


@pytest.mark.parametrize("size", [0.0, 1e-300, 1e-15, 1e-9])
def test_tiny_rotations_keep_their_size(size):
    v = np.array([0, size, 0])
    np.testing.assert_allclose(rotation_to_vector(vector_to_rotation(v)), v, atol=1e-16)


@given(vectors, vectors)
def test_inverse(v, t):
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = vector_to_rotation(v), t
    np.testing.assert_allclose(invert_rigid(T) @ T, np.eye(4), atol=1e-12)
    np.testing.assert_allclose(invert_rigid(T), np.linalg.inv(T), atol=1e-9)


@given(vectors, vectors, st.floats(0, 1))
def test_interpolation_stays_rigid_and_reverses(v, w, share):
    a, b = np.eye(4), np.eye(4)
    a[:3, :3], b[:3, :3], b[:3, 3] = vector_to_rotation(v), vector_to_rotation(w), w
    T = interpolate_rigid(a, b, share)
    assert is_rigid(T)
    if np.linalg.norm(rotation_to_vector(a[:3, :3].T @ b[:3, :3])) < 3.1:  # at a half turn both ways are equally short
        np.testing.assert_allclose(interpolate_rigid(b, a, 1 - share), T, atol=1e-6)


@pytest.mark.parametrize(
    "T",
    [
        np.eye(3),
        np.diag([1.0, 1, -1, 1]),
        np.diag([1.001, 1, 1, 1]),
        np.full((4, 4), np.nan),
        np.vstack([np.eye(4)[:3], [0, 0, 1e-9, 1]]),
        np.eye(4)[None],
    ],
)
def test_what_is_not_rigid(T):
    assert not is_rigid(T)
    with pytest.raises(ConfigError, match="not a rigid 4x4"):
        Pose(T_world_image=T, time_ns=0)


def test_a_pose_needs_a_six_by_six_covariance():
    with pytest.raises(ConfigError, match=r"\(6, 6\)"):
        Pose(T_world_image=np.eye(4), time_ns=0, covariance=np.eye(3))
