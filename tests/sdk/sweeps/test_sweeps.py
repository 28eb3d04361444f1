"""The sweep simulator: reproducible, true to its poses and settings, strict about its input."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from edge_runtime.errors import ConfigError, ReconstructionError
from edge_sdk.sweeps import (
    Disturbance,
    EchoField,
    ImuModel,
    Receiver,
    SweepProbe,
    hand,
    homogeneous,
    path_mm,
    random_anatomy,
    resampled,
    straight,
    sweep_through,
    there_and_back,
)

SMALL = SweepProbe(shape=(96, 80), depth_mm=18.0, width_mm=16.0, elevation_focus_mm=9.0, lateral_focus_mm=9.0)
QUIET = Receiver(noise_db=-200.0)


def ncc(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a.ravel().astype(float), b.ravel().astype(float))[0, 1])


def test_the_same_seed_gives_the_same_sweep_and_another_seed_another() -> None:
    poses = straight(3, 0.3)
    a, b, c = (sweep_through(homogeneous(1), poses, seed, probe=SMALL).images for seed in (4, 4, 5))
    np.testing.assert_array_equal(a, b)
    assert ncc(a[0], c[0]) > 0.95  # the same tissue, other noise
    other = sweep_through(homogeneous(2), poses, 4, probe=SMALL).images
    assert abs(ncc(a[0], other[0])) < 0.2


def test_a_place_seen_again_has_the_same_speckle() -> None:
    poses = there_and_back(straight(5, 1.0), 3, sway_mm=0.0, tilt_rad=0.0)
    frames = sweep_through(homogeneous(3), poses, 0, probe=SMALL, receiver=QUIET).images
    np.testing.assert_array_equal(frames[0], frames[-1])
    np.testing.assert_array_equal(frames[3], frames[5])
    assert abs(ncc(frames[0], frames[4])) < 0.2


@pytest.mark.parametrize("pixels", [(3, 0), (0, 4), (-2, 5)])
def test_speckle_moves_with_the_tissue_by_whole_pixels(pixels: tuple[int, int]) -> None:
    probe = msgspec.structs.replace(SMALL, elevation_field_mm=1e4, lateral_field_mm=1e4)
    T = np.tile(np.eye(4), (2, 1, 1))
    dx, dy = pixels
    T[1, :2, 3] = dx * probe.column_mm, dy * probe.row_mm
    a, b = sweep_through(homogeneous(3), T, 0, probe=probe, receiver=QUIET).images
    inner = np.s_[12:-12, 12:-12]
    moved = np.roll(a, (-dy, -dx), (0, 1))
    # the taps are quantised to 1/64 pixel, the dark points of speckle feel it
    assert ncc(moved[inner], b[inner]) > 0.998


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_world_may_be_turned_with_the_probe(axis: int) -> None:
    """Statistics do not depend on how the plane lies in the lattice of scatterers."""
    turn = np.eye(4)
    turn[:3, :3] = np.roll(np.eye(3), axis, 0)
    field = EchoField(homogeneous(5), SMALL)
    power = [float((field.receive(turn @ T) ** 2).sum(0)[8:-8, 8:-8].mean()) for T in straight(12, 5.0)]
    assert np.mean(power) == pytest.approx(1.0, abs=0.06)


def test_compression_shows_deeper_tissue_higher_up() -> None:
    anatomy = random_anatomy(4, (40, 30, 40), vessels=0, bone=True)
    probe = SweepProbe(shape=(128, 96), depth_mm=40.0, width_mm=30.0, axial_sigma_mm=0.3)
    shallow = msgspec.structs.replace(Receiver(), persistence=0.0)
    pressed = Disturbance(compression=0.1)
    T = np.tile(np.eye(4), (4, 1, 1))
    T[:, 2, 3] = np.arange(4) * 3.0
    at_rest = sweep_through(anatomy, T, 0, probe=probe, receiver=shallow)
    squeezed = sweep_through(anatomy, T, 0, probe=probe, receiver=shallow, disturbance=pressed)
    np.testing.assert_array_equal(squeezed.compression, 0.1)
    rows = np.arange(115)
    at = np.clip(np.rint(rows / 0.9).astype(int), 0, 127)
    mean_rest, mean_pressed = at_rest.images.mean(2), squeezed.images.mean(2)
    undone = [np.corrcoef(mean_rest[k][at], mean_pressed[k][rows])[0, 1] for k in range(4)]
    left = [np.corrcoef(mean_rest[k][rows], mean_pressed[k][rows])[0, 1] for k in range(4)]
    assert np.mean(undone) > 0.8
    assert np.mean(undone) > np.mean(left) + 0.1


def test_breathing_is_a_motion_of_the_tissue() -> None:
    breath = Disturbance(breathing_mm=(0.0, 0.0, 4.0), breathing_hz=1.0)
    true = sweep_through(
        homogeneous(3), straight(30, 0.0), 1, probe=SMALL, receiver=QUIET, disturbance=breath, fps=30.0
    )
    assert 3.8 < np.ptp(true.breathing_mm[:, 2]) <= 4.0
    still = np.eye(4)[None].copy()
    still[0, 2, 3] = -true.breathing_mm[7, 2]
    alone = sweep_through(homogeneous(3), still, 1, probe=SMALL, receiver=QUIET).images[0]
    np.testing.assert_array_equal(alone, true.images[7])


def test_gain_persistence_and_noise_do_what_they_say() -> None:
    poses = straight(2, 5.0)
    loud = msgspec.structs.replace(QUIET, gain_db=6.0)
    a = sweep_through(homogeneous(3), poses, 0, probe=SMALL, receiver=QUIET).images.astype(float)
    b = sweep_through(homogeneous(3), poses, 0, probe=SMALL, receiver=loud).images
    inside = (a > 5) & (a < 220)
    np.testing.assert_allclose((b - a)[inside], 6.0 * 255 / 60, atol=1.01)
    kept = msgspec.structs.replace(QUIET, persistence=0.5)
    c = sweep_through(homogeneous(3), poses, 0, probe=SMALL, receiver=kept).images
    np.testing.assert_allclose(c[1], (a[0] + a[1]) / 2, atol=1.01)
    mean = msgspec.structs.replace(QUIET, averaging=3)
    d = sweep_through(homogeneous(3), poses, 0, probe=SMALL, receiver=mean).images
    np.testing.assert_allclose(d, [a[0], (a[0] + a[1]) / 2], atol=1.01)
    noisy = sweep_through(homogeneous(3), poses, 0, probe=SMALL, receiver=Receiver(noise_db=10.0)).images
    assert ncc(noisy[0][-20:], a[0][-20:]) < 0.4 < 0.8 < ncc(noisy[0][:20], a[0][:20]) + 0.4


def test_vessels_are_dark_and_bone_has_a_shadow() -> None:
    anatomy = random_anatomy(11, vessels=1, bone=True)
    probe = SweepProbe()
    true = sweep_through(anatomy, straight(8, 9.0), 0, probe=probe)
    rows, columns = np.indices(probe.shape)
    seen = {1: [], 2: [], 0: []}  # type: dict[int, list[np.ndarray]]
    for frame, T in zip(true.images, true.sweep.T_world_image, strict=True):
        place = np.stack([columns * probe.column_mm, rows * probe.row_mm, 0.0 * rows]) + T[:3, 3, None, None]
        i = np.rint((place - anatomy.origin_mm[:, None, None]) / anatomy.voxel_mm).astype(int)
        label = anatomy.label[i[2], i[1], i[0]]
        for what, grey in seen.items():
            grey.append(frame[label == what])
    vessel, bone, tissue = (np.concatenate(seen[k]).mean() for k in (1, 2, 0))
    assert vessel < tissue - 30  # thin, and blurred by the slice
    assert bone < tissue - 60


def test_the_synthetic_hand_goes_its_way() -> None:
    T = hand(3, 200, 100.0)
    np.testing.assert_array_equal(T[0], np.eye(4))
    assert 99 < path_mm(T) < 130
    np.testing.assert_allclose(
        T[:, :3, :3] @ T[:, :3, :3].transpose(0, 2, 1), np.tile(np.eye(3), (200, 1, 1)), atol=1e-12
    )
    there = there_and_back(T, 1)
    assert len(there) == 399
    np.testing.assert_allclose(there[-1], T[0], atol=1e-9)
    off = np.linalg.norm(there[200:, :3, 3] - T[::-1][1:, :3, 3], axis=1)
    assert 0.1 < off.max() < 4


def test_a_path_is_resampled_and_scaled() -> None:
    coarse = hand(3, 40, 100.0, tremor_mm=0.0)
    fine = resampled(coarse, 313)
    assert path_mm(fine) == pytest.approx(path_mm(coarse), rel=0.02)
    np.testing.assert_allclose(fine[::8, :3, 3], coarse[:, :3, 3], atol=1e-9)
    assert path_mm(resampled(coarse, 100, length_mm=150.0)) == pytest.approx(150, rel=0.05)
    assert resampled(coarse[::-1], 100)[-1, 2, 3] > 50


def test_imu_of_a_turning_probe() -> None:
    """Constant rate about a shifted axis: the rate, gravity and the centripetal acceleration are known."""
    t, rate = np.arange(60) / 30, 0.8
    T = np.tile(np.eye(4), (60, 1, 1))
    T[:, 0, 0] = T[:, 1, 1] = np.cos(rate * t)
    T[:, 1, 0] = np.sin(rate * t)
    T[:, 0, 1] = -np.sin(rate * t)
    exact = ImuModel(gyro_noise=0, gyro_bias=0, gyro_walk=0, accel_noise=0, accel_bias=0, lever_mm=(0, 0, 0))
    for lever in (0.0, 250.0):
        model = msgspec.structs.replace(exact, lever_mm=(lever, 0, 0), offset_ns=7_000_000)
        true = sweep_through(homogeneous(1), T, 0, probe=SMALL, imu=model)
        assert true.imu is not None
        assert true.imu.times_ns[0] == 7_000_000
        np.testing.assert_allclose(true.imu.gyro_rad_s, np.tile([0, 0, rate], (len(true.imu.times_ns), 1)), atol=1e-6)
        angle = rate * (true.imu.times_ns * 1e-9 - 0.007)
        expected = -9.80665 * np.stack([np.sin(angle), np.cos(angle), 0 * angle], 1)
        expected[:, 0] -= rate**2 * lever * 1e-3
        np.testing.assert_allclose(true.imu.accel_m_s2[20:-20], expected[20:-20], atol=2e-3)


def test_imu_noise_has_the_density_asked_for() -> None:
    model = ImuModel(gyro_noise=1e-3, gyro_walk=0.0, rate_hz=400.0)
    true = sweep_through(homogeneous(1), straight(8, 0.0), 0, fps=0.7, probe=SMALL, imu=model)
    assert true.imu is not None
    assert true.imu_truth is not None
    left = true.imu.gyro_rad_s - true.imu_truth.gyro_bias_rad_s
    assert left.std() == pytest.approx(1e-3 * 20, rel=0.05)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: SweepProbe(depth_mm=-1.0), "depth_mm"),
        (lambda: SweepProbe(axial_sigma_mm=0.05), "axial_sigma_mm"),
        (lambda: SweepProbe(shape=(4, 4)), "shape"),
        (lambda: Receiver(persistence=1.0), "persistence"),
        (lambda: Receiver(averaging=0), "averaging"),
        (lambda: Disturbance(compression=0.9), "compression"),
        (lambda: ImuModel(down=(0.0, 2.0, 0.0)), "down"),
        (lambda: ImuModel(rate_hz=1.0), "rate_hz"),
        (lambda: random_anatomy(1, voxel_mm=0.01), "voxel_mm"),
        (lambda: random_anatomy(1, (20, 20, 20), strands=1.5), "strands"),
        (lambda: replace(homogeneous(), bone_mm=np.zeros((1, 1), np.float32)), "bone_mm"),
        (lambda: replace(homogeneous(), strength_db=np.full((2, 2, 2), np.nan, np.float32)), "not finite"),
        (lambda: replace(homogeneous(), label=np.zeros((2, 2, 3), np.uint8)), "label"),
        (lambda: EchoField(homogeneous(), SMALL).receive(2 * np.eye(4)), "rigid"),
        (lambda: EchoField(homogeneous(), SMALL).receive(np.eye(4), 0.9), "compression"),
        (lambda: hand(1, 1, 10.0), "n is"),
        (lambda: resampled(straight(3, 1.0), 9), "4 recorded poses"),
        (lambda: resampled(straight(5, 0.0), 9), "no length"),
        (lambda: sweep_through(homogeneous(), straight(3, 1.0), -1), "seed"),
        (lambda: sweep_through(homogeneous(), straight(3, 1.0), 1, probe=SMALL, imu=ImuModel()), "4 poses"),
        (lambda: sweep_through(homogeneous(), 2 * straight(3, 1.0), 1), "not rigid"),
    ],
)
def test_wrong_settings_are_named(wrong, says: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ConfigError, match=says):
        wrong()


def test_no_pose_is_an_error() -> None:
    with pytest.raises(ReconstructionError, match="no frame"):
        sweep_through(homogeneous(), np.zeros((0, 4, 4)), 0)
