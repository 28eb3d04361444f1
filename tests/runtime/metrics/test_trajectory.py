"""Errors of trajectories in closed form, by another way of computing them, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.errors import ConfigError, GeometryError
from edge_runtime.frame import FrameGeometry
from edge_runtime.metrics.trajectory import (
    absolute_error,
    challenge_errors,
    drift,
    final_drift_over_distance,
    final_drift_over_path,
    from_first,
    from_previous,
    landmark_errors,
    pixel_errors,
    reference_points,
    relative_error,
    score_2024,
    score_2025,
    umeyama,
)
from edge_runtime.slam import se3

GEOMETRY = FrameGeometry(row_mm=0.2, column_mm=0.25, origin="user", trusted=True, reason="")
SHAPE = (20, 30)


def walk(seed: int, frames: int = 12):
    """Poses of a hand in a world of its own."""
    rng = np.random.default_rng(seed)
    T = [se3.exp(rng.normal(0, [1, 1, 1, 200, 200, 200]))]
    for xi in rng.normal(0, [0.02] * 3 + [0.6] * 3, (frames - 1, 6)):
        T.append(T[-1] @ se3.exp(xi))
    return np.stack(T)


def moved(*places):
    """Poses without a turn at these (x, y, z) mm."""
    T = np.tile(np.eye(4), (len(places), 1, 1))
    T[:, :3, 3] = places
    return T


@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(1, 40), st.integers(1, 40))
def test_dense_errors_are_the_mean_over_all_pixels(seed: int, motions: int, height: int, width: int) -> None:
    true, estimated = from_first(walk(seed, motions + 1)), from_first(walk(seed + 1, motions + 1))
    found = pixel_errors(true, estimated, GEOMETRY, (height, width))
    row, column = np.indices((height, width)).reshape(2, -1)
    at = np.stack([column * 0.25, row * 0.2, np.zeros(row.size), np.ones(row.size)])
    expected = np.linalg.norm(((true - estimated) @ at)[:, :3], axis=1).mean(axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_a_shear_moves_the_rows() -> None:
    sheared = FrameGeometry(row_mm=1, column_mm=1, shear=1.0, origin="user", trusted=True, reason="")
    turn = se3.exp(np.array([[0, 0.1, 0, 0, 0, 0]]))  # a point at x is off by 2 x sin(0.05)
    found = pixel_errors(np.eye(4)[None], turn, sheared, (3, 1))
    assert found[0] == pytest.approx(2 * np.sin(0.05) * (0 + 1 + 2) / 3, abs=1e-12)


def test_pure_shifts_give_the_errors_by_hand() -> None:
    true, estimated = moved((0, 0, 0), (0, 0, 1), (0, 0, 2)), moved((9, 9, 9), (9, 9, 10.5), (9, 9, 12))
    found = challenge_errors(true, estimated, GEOMETRY, SHAPE, np.array([[2, 5, 5], [1, 0, 0]]))
    np.testing.assert_allclose(found.global_mm, [0.5, 1.0])
    np.testing.assert_allclose(found.local_mm, [0.5, 0.5])
    assert (found.gpe, found.lpe, found.gle, found.lle, found.landmarks) == pytest.approx((0.75, 0.5, 0.75, 0.5, 2))
    without = challenge_errors(true, estimated, GEOMETRY, SHAPE)
    assert (without.gle, without.lle, without.landmarks) == (None, None, 0)


def test_landmarks_count_everything_from_0() -> None:
    true = np.tile(np.eye(4), (6, 1, 1))
    estimated = true.copy()
    estimated[4] = se3.exp(np.array([0, 0, 0.1, 0, 0, 0]))  # about the centre of pixel (0, 0), on frame 4 alone
    pairs = from_first(true), from_first(estimated)
    chord = 2 * np.sin(0.05)
    for mark, error in {
        (4, 0, 0): 0,
        (4, 1, 0): 0.25 * chord,
        (4, 0, 1): 0.2 * chord,
        (3, 9, 9): 0,
        (5, 9, 9): 0,
    }.items():
        assert landmark_errors(*pairs, np.array([mark]), GEOMETRY)[0] == pytest.approx(error, abs=1e-12)
    for frame in (0, 6, -1, 1.5):
        with pytest.raises(ConfigError, match="is on frame"):
            landmark_errors(*pairs, np.array([[frame, 1, 1]]), GEOMETRY)


@given(st.integers(0, 10_000))
def test_no_error_depends_on_the_world(seed: int) -> None:
    true, estimated = walk(seed), walk(seed + 1)
    other = se3.exp(np.array([1.0, 2, -1, 300, -40, 5])) @ estimated
    points = reference_points(GEOMETRY, SHAPE)
    for of in (
        lambda T: challenge_errors(true, T, GEOMETRY, SHAPE).gpe,
        lambda T: challenge_errors(true, T, GEOMETRY, SHAPE).lpe,
        lambda T: final_drift_over_path(true, T, points),
        lambda T: final_drift_over_distance(true, T, points),
        lambda T: absolute_error(true, T, points),
        lambda T: absolute_error(true, T, points, align="rigid"),
        lambda T: relative_error(true, T, delta=3).translation_mm,
    ):
        assert of(other) == pytest.approx(of(estimated), rel=1e-8)
        assert of(true) < 1e-9


def test_the_score_of_2025_is_against_no_motion() -> None:
    true = walk(0)
    marks = np.array([[3, 4, 5], [7, 1, 2]])
    still = challenge_errors(true, np.tile(np.eye(4), (12, 1, 1)), GEOMETRY, SHAPE, marks)
    assert score_2025(still, still).final == 0
    exact = challenge_errors(true, true, GEOMETRY, SHAPE, marks)
    assert score_2025(exact, still).final == pytest.approx(1, abs=1e-9)
    found = challenge_errors(true, walk(1), GEOMETRY, SHAPE, marks)
    score = score_2025(found, still).to_dict()
    assert score["gpe"] == pytest.approx((found.gpe - still.gpe) / (0 - still.gpe))  # as it is printed in the rules
    assert score["final"] == pytest.approx((score["gpe"] + score["gle"] + score["lpe"] + score["lle"]) / 4)
    assert score["global"] + score["local"] == pytest.approx(score["landmark"] + score["pixel"])


def test_the_score_of_2024_is_against_the_best_and_the_worst() -> None:
    true, marks = moved((0, 0, 0), (0, 0, 1)), np.array([[1, 0, 0]])
    errors = [challenge_errors(true, moved((0, 0, 0), (0, 0, z)), GEOMETRY, SHAPE, marks) for z in (1.2, 1.5, 2.0, 1.0)]
    assert [one.final for one in score_2024(errors)] == pytest.approx([0.8, 0.5, 0, 1])
    among = [errors[k] for k in (0, 1, 3)]  # the leaderboard leaves out what is worse than the baseline
    assert [one.final for one in score_2024(errors, among=among)] == pytest.approx([0.6, 0, -1, 1])
    with pytest.raises(ConfigError, match="cannot be ranked"):
        score_2024([errors[0], errors[0]])
    with pytest.raises(ConfigError, match="at least two"):
        score_2024(errors[:1])


def test_what_cannot_be_scored() -> None:
    still = moved((0, 0, 0), (0, 0, 0))
    found = challenge_errors(still, still, GEOMETRY, SHAPE, np.array([[1, 0, 0]]))
    with pytest.raises(ConfigError, match="does not move"):
        score_2025(found, found)
    bare = challenge_errors(walk(0), walk(1), GEOMETRY, SHAPE)
    with pytest.raises(ConfigError, match="no GLE"):
        score_2025(bare, bare)


def test_the_two_drift_rates_part_on_a_sweep_that_turns_back() -> None:
    true = moved((0, 0, 0), (0, 0, 30), (0, 0, 10))
    estimated = moved((0, 0, 0), (0, 0, 30), (0, 0, 12))
    assert final_drift_over_path(true, estimated) == pytest.approx(2 / 50)
    assert final_drift_over_distance(true, estimated) == pytest.approx(2 / 10)
    np.testing.assert_allclose(drift(true, estimated), [0, 0, 2])
    closed = moved((0, 0, 0), (0, 0, 30), (0, 0, 0))
    assert final_drift_over_path(closed, estimated) == pytest.approx(12 / 60)
    with pytest.raises(ConfigError, match="ends where it began"):
        final_drift_over_distance(closed, estimated)
    with pytest.raises(ConfigError, match="length 0"):
        final_drift_over_path(moved((0, 0, 0), (0, 0, 0)), moved((0, 0, 0), (0, 0, 1)))


def test_each_point_has_a_path_of_its_own() -> None:
    true = np.tile(np.eye(4), (2, 1, 1))
    true[1] = se3.exp(np.array([0, 0.2, 0, 0, 0, 3.0]))
    estimated = true.copy()
    estimated[1, 2, 3] += 1.0
    points = np.array([(0.0, 0, 0), (10, 0, 0)])
    path = [np.linalg.norm((true[1] @ (*p, 1))[:3] - p) for p in points]
    assert final_drift_over_path(true, estimated, points) == pytest.approx(np.mean([1 / n for n in path]))


def test_reference_points() -> None:
    np.testing.assert_allclose(reference_points(GEOMETRY, (21, 31)), [(3.75, 2, 0), (0, 4, 0), (7.5, 4, 0)])


@given(st.integers(0, 10_000), st.floats(0.3, 3))
def test_alignment_undoes_a_similarity(seed: int, scale: float) -> None:
    true = walk(seed)
    bent = true.copy()
    bent[:, :3, 3] *= scale
    bent = se3.exp(np.array([0.3, -1, 0.5, 20, 30, 5])) @ bent
    assert absolute_error(true, bent, align="similarity") < 1e-9
    if abs(scale - 1) > 0.05:
        assert absolute_error(true, bent, align="rigid") > 1e-3
    assert absolute_error(true, bent, align="none") > 1


def test_alignment_is_that_of_a_peer() -> None:
    rotation = pytest.importorskip("scipy.spatial.transform").Rotation
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(2, 20, 3))
    _, R, t = umeyama(a, b)
    peer, _ = rotation.align_vectors(b - b.mean(0), a - a.mean(0))
    np.testing.assert_allclose(R, peer.as_matrix(), atol=1e-9)
    np.testing.assert_allclose(t, b.mean(0) - peer.apply(a.mean(0)), atol=1e-9)
    mirrored = a * (1, 1, -1)
    assert np.linalg.det(umeyama(a, mirrored)[1]) == pytest.approx(1)  # never a reflection
    with pytest.raises(ConfigError, match="does not move"):
        umeyama(np.ones((4, 3)), b[:4], scaled=True)


def test_relative_error_of_a_known_motion() -> None:
    true = moved(*[(0, 0, z) for z in range(5)])
    step = np.array([0.0, 0, 0.03, 0, 0, 1.25])
    estimated = np.stack([se3.exp(step * k) for k in range(5)])
    found = relative_error(true, estimated, delta=2)
    assert (found.translation_mm, found.rotation_rad, found.n) == pytest.approx((0.5, 0.06, 3))
    for delta in (0, 5):
        with pytest.raises(ConfigError, match="delta"):
            relative_error(true, estimated, delta=delta)


def test_local_motions_are_against_the_frame_before() -> None:
    T = walk(4)
    np.testing.assert_allclose(T[:-1] @ from_previous(T), T[1:], atol=1e-9)
    np.testing.assert_allclose(T[0] @ from_first(T), T[1:], atol=1e-9)


@pytest.mark.parametrize(
    ("T", "words"),
    [
        (np.eye(4), "at least two frames"),
        (np.eye(4)[None], "at least two frames"),
        (np.full((3, 4, 4), np.nan), "pose 0 is no motion"),
        (np.stack([np.eye(4), np.diag([1, 1, -1, 1.0])]), "pose 1 is no motion"),
        (np.zeros((3, 4, 4)), "pose 0 is no motion"),
    ],
)
def test_what_is_no_trajectory_is_refused(T, words) -> None:
    with pytest.raises(ConfigError, match=words):
        from_first(T)


def test_mistakes_are_told() -> None:
    T = walk(0)
    with pytest.raises(ConfigError, match="12 true and 11 estimated"):
        drift(T, T[1:])
    with pytest.raises(ConfigError, match="align 'scale'"):
        absolute_error(T, T, align="scale")
    with pytest.raises(ConfigError, match="points of shape"):
        drift(T, T, np.zeros((2, 2)))
    with pytest.raises(ConfigError, match="at least one pixel"):
        pixel_errors(T, T, GEOMETRY, (0, 4))
    with pytest.raises(ConfigError, match="motions of shapes"):
        pixel_errors(T, T[1:], GEOMETRY, SHAPE)
    with pytest.raises(ConfigError, match="landmarks of shape"):
        landmark_errors(T, T, np.zeros((0, 3)), GEOMETRY)
    with pytest.raises(GeometryError):
        pixel_errors(T, T, FrameGeometry(), SHAPE)


def test_a_row_of_pixels_is_all_that_is_held() -> None:
    import tracemalloc

    pairs = from_first(walk(0, 40)), from_first(walk(1, 40))
    tracemalloc.start()
    pixel_errors(*pairs, GEOMETRY, (96, 640))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2e6  # whole fields of these would be 57 MB
