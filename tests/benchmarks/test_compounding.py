"""The emulation of the reference reconstructor: small cases by hand, and its own volumes bit for bit."""

from __future__ import annotations

import os

import numpy as np
import pytest

pytest.importorskip("numba")

from benchmarks.compounding.cases import read_volume, spine_pixels, sweeps
from benchmarks.compounding.parity import CASES, emulated, ours
from benchmarks.compounding.reference import emulate, fan_runs, fill_sticks
from benchmarks.compounding.rows import ROWS
from edge_runtime.reconstruct import parity

real = pytest.mark.skipif("POCUS_DATA" not in os.environ, reason="POCUS_DATA is not set: no real sweep to read")


def stack(*levels):
    """Frames of one pixel and the matrices that put each at voxel (1, 1, 1)."""
    frames = np.array(levels, np.uint8).reshape(-1, 1, 1)
    T = np.eye(4)
    T[:3, 3] = 1
    return frames, np.repeat(T[None], len(levels), axis=0)


def test_every_row_of_the_table_is_there():
    assert [row.key for row in ROWS] == [
        "parity",
        "bias",
        "insertion_ratio",
        "threads",
        "live",
        "warm_start",
        "geometry",
        "spatial_calibration",
        "temporal_calibration",
        "volume_round_trip",
        "hole_filling",
    ]


def test_the_mean_truncates_at_every_hit():
    runs = fan_runs((1, 1))
    data, weight = emulate(*stack(10, 11, 11), (3, 3, 3), runs, mode="mean", kernel="nearest")
    assert data[1, 1, 1] == 10  # (10 + 11) // 2 = 10, (2 * 10 + 11) // 3 = 10; the exact mean is 10.67
    assert weight[1, 1, 1] == 3 * 256


def test_the_weight_saturates_after_255_hits():
    runs = fan_runs((1, 1))
    _, weight = emulate(*stack(*[200] * 300), (3, 3, 3), runs, mode="mean", kernel="nearest")
    assert weight[1, 1, 1] == 255 * 256


@pytest.mark.parametrize(("mode", "level"), [("max", 90), ("latest", 40)])
@pytest.mark.parametrize("kernel", ["nearest", "linear"])
def test_maximum_and_latest(mode, level, kernel):
    data, _ = emulate(*stack(10, 90, 40), (3, 3, 3), fan_runs((1, 1)), mode=mode, kernel=kernel)
    assert data[1, 1, 1] == level
    assert np.count_nonzero(data) == 1


def test_a_pixel_between_eight_voxels_gives_all_of_them_its_level():
    frames, T = stack(80)
    T[:, :3, 3] = 0.5
    data, weight = emulate(frames, T, (3, 3, 3), fan_runs((1, 1)), mode="mean", kernel="linear")
    assert (data[:2, :2, :2] == 80).all()
    assert (weight[:2, :2, :2] == 32).all()


def test_a_stick_weighs_its_ends_by_distance_and_is_no_longer_than_the_limit():
    data, weight = np.zeros((1, 1, 14), np.uint8), np.zeros((1, 1, 14), np.uint16)
    data[0, 0, [0, 4]], weight[0, 0, [0, 4]] = (100, 200), 256
    assert fill_sticks(data, weight)[0, 0].tolist()[:6] == [100, 140, 160, 180, 200, 0]
    data[0, 0, 13], weight[0, 0, 13] = 90, 256
    assert fill_sticks(data, weight)[0, 0, 6] == 0


def test_a_fan_keeps_a_pixel_off_its_edges():
    runs = fan_runs((100, 101), (0, 0, 101, 100), (-45.0, 45.0, 50.0, 0.0, 20.0, 80.0))
    rows = {int(y): (int(x0), int(x1)) for y, x0, x1 in runs}
    assert rows[30] == (21, 80)  # 50 - 30 + 1 to 50 + 30 - 1
    assert 81 not in rows
    assert 5 not in rows  # nearer than the inner radius all along the row


@real
@pytest.mark.parametrize("name", CASES)
def test_the_emulation_reproduces_the_volumes_of_the_reference_bit_for_bit(name):
    truth = read_volume(sweeps() / "plus_spine" / CASES[name].file)
    np.testing.assert_array_equal(emulated(spine_pixels(), CASES[name]), truth)


@real
@pytest.mark.parametrize("name", ["NNLATE", "LNMAXI"])
def test_the_runtime_reproduces_the_reference_when_given_its_matrices(name):
    truth = read_volume(sweeps() / "plus_spine" / CASES[name].file)
    assert parity(ours(spine_pixels(), CASES[name], rounded=True), truth).equal >= 0.999
