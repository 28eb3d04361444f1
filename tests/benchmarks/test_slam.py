"""The rows of the SLAM table, and that its brute force is right on a case by hand."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("scipy")

from benchmarks.slam.metric_parity import brute_force, drawn, streamed
from benchmarks.slam.rows import ROWS


def test_every_row_has_a_key_of_its_own() -> None:
    keys = [row.key for row in ROWS]
    assert "metric_parity" in keys
    assert len(set(keys)) == len(keys)


def test_the_brute_force_of_a_pure_shift() -> None:
    case = drawn(0, (5, 7), 4)
    case.estimated = case.true.copy()
    case.estimated[2:, :3, 3] += (0, 0, 2.0)  # two frames shifted by 2 mm in the camera's frame
    found = brute_force(case)
    assert found["gpe"] == pytest.approx(2 * 2 / 3)
    assert found["lpe"] == pytest.approx(2 / 3)
    frames = case.landmarks[:, 0]
    assert found["gle"] == pytest.approx(2 * np.mean(frames >= 2))
    assert found["lle"] == pytest.approx(2 * np.mean(frames == 2))


@pytest.mark.parametrize("seed", range(3))
def test_streamed_errors_are_those_of_whole_fields(seed) -> None:
    case = drawn(seed, (11, 13), 8)
    assert streamed(case) == pytest.approx(brute_force(case), abs=1e-9)
