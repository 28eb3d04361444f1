from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.buffers import RESTART_AFTER, ImuBuffer, ImuSample, InterpolatedPose, PoseBuffer, PoseRefusal
from edge_runtime.errors import ConfigError
from edge_runtime.geometry import Pose, interpolate_rigid, rotation_to_vector, vector_to_rotation

MS = 1_000_000


def rigid(rotation=(0, 0, 0), translation=(0, 0, 0)):
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = vector_to_rotation(np.array(rotation, float)), translation
    return T


def pose(time_ns, T=None, **more):
    return Pose(T_world_image=rigid() if T is None else T, time_ns=time_ns, **more)


def balanced(buffer, offered):
    c = buffer.counters
    return c.accepted + c.duplicate + c.out_of_order + c.jump == offered and len(buffer) == (
        c.accepted - c.dropped - c.cleared
    )


vectors = st.tuples(*[st.floats(-1.5, 1.5)] * 3)
points = st.tuples(*[st.floats(-100, 100)] * 3)


@given(st.lists(st.tuples(vectors, points), min_size=1, max_size=6), st.integers(-(10**15), 10**15))
def test_at_a_sample_the_sample_itself_is_given(samples, offset):
    buffer = PoseBuffer(offset_ns=offset)
    for k, (rotation, translation) in enumerate(samples):
        assert buffer.append(pose(k * 20 * MS, rigid(rotation, translation), covariance=(k + 1) * np.eye(6)))
    for k, (rotation, translation) in enumerate(samples):
        got = buffer.at(k * 20 * MS + offset, 0)
        assert isinstance(got, InterpolatedPose)
        np.testing.assert_array_equal(got.pose.T_world_image, rigid(rotation, translation))
        np.testing.assert_array_equal(got.covariance, (k + 1) * np.eye(6))
        assert (got.gap_ns, got.held, got.pose.time_ns) == (0, False, k * 20 * MS + offset)


@given(axis=vectors, rate=st.floats(0.1, 20), speed=st.floats(-200, 200), share=st.floats(0, 1), start=vectors)
def test_a_screw_about_the_probes_own_axis_is_exact(axis, rate, speed, share, start):
    """Constant rotation rate about an axis through the image origin, constant speed along it: closed form."""
    direction = np.array([0.0, 0, 2]) + axis
    direction /= np.linalg.norm(direction)

    def motion(seconds):
        T = rigid(direction * rate * seconds, direction * speed * seconds)
        T[:3, :3] = T[:3, :3] @ vector_to_rotation(np.array(start))
        return T

    buffer = PoseBuffer()
    for k in range(3):
        buffer.append(pose(k * 50 * MS, motion(k * 0.05)))
    time_ns = round((0.05 + 0.05 * share) * 1e9)
    got = buffer.at(time_ns, 50 * MS)
    np.testing.assert_allclose(got.pose.T_world_image, motion(time_ns * 1e-9), atol=1e-6)


@given(radius=st.floats(1, 100), angle=st.floats(0.01, 1.0), share=st.floats(0, 1))
def test_a_screw_about_another_axis_is_off_by_the_sagitta_at_most(radius, angle, share):
    def motion(a):
        T = rigid((0, 0, a))
        T[:3, 3] = (radius * np.cos(a), radius * np.sin(a), 3 * a)
        return T

    T, truth = interpolate_rigid(motion(0.0), motion(angle), share), motion(angle * share)
    np.testing.assert_allclose(T[:3, :3], truth[:3, :3], atol=1e-9)
    # along the chord the phase differs by at most angle^3/48 of the radius besides
    bound = radius * (1 - np.cos(angle / 2) + angle**3 / 48)
    assert np.linalg.norm(T[:3, 3] - truth[:3, 3]) <= bound + 1e-9


@given(first=vectors, step=vectors, share=st.floats(0, 1))
def test_rotation_goes_the_shorter_way(first, step, share):
    a = rigid(first)
    b = a @ rigid(step)
    whole = np.linalg.norm(step)
    for target in (b, b.copy()):
        part = a[:3, :3].T @ interpolate_rigid(a, target, share)[:3, :3]
        assert np.linalg.norm(rotation_to_vector(part)) == pytest.approx(share * whole, abs=1e-6)


def test_a_corrected_offset_applies_to_what_is_already_there():
    buffer = PoseBuffer(offset_ns=5 * MS)
    for k in range(3):
        buffer.append(pose(k * 10 * MS, rigid(translation=(k, 0, 0))))
    assert buffer.at(10 * MS, 20 * MS).pose.T_world_image[0, 3] == pytest.approx(0.5)
    buffer.offset_ns = 0
    assert buffer.at(10 * MS, 20 * MS).pose.T_world_image[0, 3] == 1
    assert buffer.span_ns == (0, 20 * MS)


def test_the_refusals_say_why():
    buffer = PoseBuffer()
    assert buffer.at(0, 10) == PoseRefusal(reason="empty", gap_ns=0)
    assert buffer.span_ns is None
    buffer.append(pose(100 * MS))
    buffer.append(pose(200 * MS))
    assert buffer.at(150 * MS, 99 * MS) == PoseRefusal(reason="gap", gap_ns=100 * MS)
    assert buffer.at(90 * MS, 9 * MS) == PoseRefusal(reason="too early", gap_ns=10 * MS)
    assert buffer.at(230 * MS, 9 * MS) == PoseRefusal(reason="too late", gap_ns=30 * MS)
    assert isinstance(buffer.at(150 * MS, 100 * MS), InterpolatedPose)


def test_near_the_ends_a_sample_is_held_and_the_doubt_grows():
    buffer = PoseBuffer(rotation_density=0.01, translation_density=4.0)
    moved = rigid((0, 0, 1), (1, 2, 3))
    buffer.append(pose(0, covariance=np.eye(6)))
    buffer.append(pose(100 * MS, moved, covariance=np.eye(6)))
    got = buffer.at(150 * MS, 50 * MS)
    np.testing.assert_array_equal(got.pose.T_world_image, moved)
    assert (got.held, got.gap_ns) == (True, 50 * MS)
    np.testing.assert_allclose(np.diag(got.covariance), [1.0005] * 3 + [1.2] * 3)


def test_between_samples_the_doubt_is_the_mixture_plus_a_bridge():
    buffer = PoseBuffer(rotation_density=0.01, translation_density=4.0)
    buffer.append(pose(0, covariance=np.eye(6)))
    buffer.append(pose(100 * MS, covariance=3 * np.eye(6)))
    got = buffer.at(25 * MS, 100 * MS)
    bridge = 0.25 * 0.75 * 0.1
    np.testing.assert_allclose(np.diag(got.covariance), [1.5 + 0.01 * bridge] * 3 + [1.5 + 4 * bridge] * 3)
    assert got.gap_ns == 100 * MS


def test_doubt_is_turned_with_the_image():
    """An error along world x stays along world x, though the image turns by 90 degrees between the samples."""
    buffer = PoseBuffer(rotation_density=0, translation_density=0)
    a, b = rigid(), rigid((0, 0, np.pi / 2))
    world = np.diag([4.0, 0, 0])
    for k, T in enumerate((a, b)):
        covariance = np.zeros((6, 6))
        covariance[3:, 3:] = T[:3, :3].T @ world @ T[:3, :3]
        buffer.append(pose(k * 100 * MS, T, covariance=covariance))
    got = buffer.at(30 * MS, 100 * MS)
    R = got.pose.T_world_image[:3, :3]
    np.testing.assert_allclose(R @ got.covariance[3:, 3:] @ R.T, world, atol=1e-12)


def test_an_unknown_covariance_stays_unknown_and_the_lesser_origin_counts():
    buffer = PoseBuffer()
    buffer.append(pose(0, covariance=np.eye(6), origin="tracker"))
    buffer.append(pose(10 * MS, origin="image"))
    got = buffer.at(5 * MS, 10 * MS)
    assert got.covariance is None
    assert got.pose.origin == "image"


def test_a_full_ring_drops_the_oldest_and_counts_it():
    buffer = PoseBuffer(capacity=4)
    for k in range(10):
        buffer.append(pose(k * MS))
    assert len(buffer) == 4
    assert buffer.counters.dropped == 6
    assert buffer.span_ns == (6 * MS, 9 * MS)
    assert balanced(buffer, 10)


@pytest.mark.parametrize(
    ("bad", "fault"), [(90, "duplicate"), (50, "out_of_order"), (-(10**6), "out_of_order"), (10**9, "jump")]
)
def test_one_bad_time_is_refused_and_does_no_harm(bad, fault):
    buffer = PoseBuffer(max_step_ns=1000 * MS)
    for k in range(10):
        assert buffer.append(pose(k * 10 * MS))
    assert not buffer.append(pose(bad * MS))
    assert getattr(buffer.counters, fault) == 1
    for k in range(10, 30):
        assert buffer.append(pose(k * 10 * MS))
    assert buffer.span_ns == (0, 290 * MS)
    assert balanced(buffer, 31)


@pytest.mark.parametrize("shift_ms", [-50_000, -5000, 50_000, 10**9])
def test_a_clock_that_moved_for_good_restarts_the_ring(shift_ms):
    buffer = PoseBuffer(max_step_ns=1000 * MS)
    for k in range(20):
        buffer.append(pose(k * 10 * MS))
    taken = [buffer.append(pose((shift_ms + k * 10) * MS)) for k in range(20)]
    assert taken == [False] * (RESTART_AFTER - 1) + [True] * (21 - RESTART_AFTER)
    assert buffer.counters.restarts == 1
    assert buffer.counters.cleared == 20
    assert buffer.span_ns == (shift_ms * MS, (shift_ms + 190) * MS)
    assert balanced(buffer, 40)


@given(st.lists(st.integers(-50, 50) | st.integers(-(2**61), 2**61), max_size=80))
def test_whatever_times_come_the_ring_stays_in_order_and_alive(times):
    buffer = PoseBuffer(capacity=8, max_step_ns=40)
    for time_ns in times:
        buffer.append(pose(time_ns))
        held = list(buffer._ring.times)
        assert held == sorted(set(held))
        assert len(held) <= 8
    assert balanced(buffer, len(times))
    # it always accepts a steady stream again, whatever came before
    steady = [buffer.append(pose(2**61 + 10 + k)) for k in range(RESTART_AFTER + 1)]
    assert steady[-1]


@pytest.mark.parametrize("time_ns", [1.5, "3", None, True, 1 << 62])
def test_a_time_that_is_no_integer_of_nanoseconds_is_an_error(time_ns):
    with pytest.raises(ConfigError, match="nanoseconds"):
        PoseBuffer().append(pose(time_ns))


def test_bad_settings_are_refused():
    for settings in ({"capacity": 1}, {"max_step_ns": 0}, {"rotation_density": -1.0}, {"translation_density": np.nan}):
        with pytest.raises(ConfigError):
            PoseBuffer(**settings)


def test_writers_and_readers_may_run_together():
    buffer = PoseBuffer(capacity=64)
    failures = []

    def write():
        for k in range(2000):
            buffer.append(pose(k * MS, rigid(translation=(k, 0, 0))))

    def read():
        for _ in range(1000):
            span = buffer.span_ns
            if span is None:
                continue
            got = buffer.at((span[0] + span[1]) // 2, 10 * MS)
            if isinstance(got, InterpolatedPose) and not got.held:
                x, t = got.pose.T_world_image[0, 3], got.pose.time_ns / MS
                if abs(x - t) > 1e-6:
                    failures.append((x, t))

    threads = [threading.Thread(target=f) for f in (write, read, read)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert balanced(buffer, 2000)


def imu(time_ns):
    return ImuSample(time_ns=time_ns, gyro_rad_s=np.array([time_ns, 0.0, 0.0]), accel_m_s2=np.array([0, 0, 9.81]))


def test_imu_samples_between_two_times_are_half_open_and_in_host_time():
    buffer = ImuBuffer(capacity=16, offset_ns=1000)
    for k in range(20):
        assert buffer.append(imu(k * 10))
    got = buffer.between(1080, 1120)
    np.testing.assert_array_equal(got.times_ns, [1080, 1090, 1100, 1110])
    np.testing.assert_array_equal(got.gyro_rad_s[:, 0], [80, 90, 100, 110])
    assert got.accel_m_s2.shape == (4, 3)
    empty = buffer.between(0, 10)
    assert (empty.times_ns.shape, empty.gyro_rad_s.shape, empty.times_ns.dtype) == ((0,), (0, 3), np.int64)
    assert buffer.counters.dropped == 4
    with pytest.raises(ConfigError, match="lies after"):
        buffer.between(10, 0)


def test_imu_samples_are_checked():
    for bad in (np.zeros(2), np.array([0, np.nan, 0])):
        with pytest.raises(ConfigError, match="three finite numbers"):
            ImuSample(time_ns=0, gyro_rad_s=bad, accel_m_s2=np.zeros(3))
