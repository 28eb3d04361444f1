"""Correlation and overlap of volumes, against NumPy's own and by hand."""

from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.errors import ConfigError, ReconstructionError
from edge_runtime.metrics.volume import mask_overlap, volume_ncc
from edge_runtime.reconstruct import Volume


def volume(data, weight=None, spacing=0.5):
    return Volume(data=data, spacing_mm=(spacing,) * 3, T_world_volume=np.eye(4), weight=weight)


def test_only_what_both_have_seen_is_correlated() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 255, (2, 6, 7, 8), dtype=np.uint8)
    seen = [(rng.random((6, 7, 8)) > 0.3).astype(np.float32) for _ in range(2)]
    both = (seen[0] > 0) & (seen[1] > 0)
    expected = np.corrcoef(a[both], b[both])[0, 1]
    assert volume_ncc(volume(a, seen[0]), volume(b, seen[1])) == pytest.approx(expected, abs=1e-12)


def test_gain_and_offset_do_not_matter_and_a_negative_is_opposite() -> None:
    a = np.random.default_rng(1).integers(0, 100, (4, 5, 6), dtype=np.uint8)
    assert volume_ncc(volume(a), volume(2 * a + 7)) == pytest.approx(1)
    assert volume_ncc(volume(a), volume(255 - a)) == pytest.approx(-1)


def test_overlap_by_hand() -> None:
    a, b = np.zeros((2, 2, 2, 4), np.uint8)
    a[..., :2], b[..., 1:3] = 200, 90
    assert mask_overlap(volume(a), volume(b)) == pytest.approx(0.5)
    assert mask_overlap(volume(a), volume(b), level=100) == 0
    assert mask_overlap(volume(a), volume(b), level=201) == 1


def test_what_cannot_be_compared() -> None:
    even = volume(np.full((2, 2, 2), 9, np.uint8))
    with pytest.raises(ReconstructionError, match="no correlation"):
        volume_ncc(even, even)
    with pytest.raises(ConfigError, match="different lattices"):
        volume_ncc(even, volume(even.data, spacing=0.4))
    with pytest.raises(ConfigError, match="different lattices"):
        mask_overlap(even, volume(even.data, spacing=0.4))
    unseen = volume(even.data, np.zeros((2, 2, 2), np.float32))
    with pytest.raises(ReconstructionError, match="share 0 swept"):
        volume_ncc(even, unseen)


def test_volumes_of_true_and_estimated_poses() -> None:
    pytest.importorskip("numba")
    from edge_runtime.frame import FrameGeometry
    from edge_runtime.metrics.volume import paired_volumes, swept_overlap
    from edge_runtime.reconstruct import Sweep

    frames = np.random.default_rng(0).integers(1, 255, (11, 20, 30), dtype=np.uint8)
    T = np.tile(np.eye(4), (11, 1, 1))
    T[:, 2, 3] = np.arange(11)
    geometry = FrameGeometry(row_mm=1, column_mm=1, origin="user", trusted=True, reason="")
    sweep = Sweep(frames=frames, T_world_image=T, geometry=geometry)
    elsewhere = T.copy()
    elsewhere[:, 0, 3] += 100.0  # another world
    same, true = paired_volumes(sweep, elsewhere, 1.0)
    assert volume_ncc(same, true) == pytest.approx(1)
    assert swept_overlap(same, true) == 1
    assert (same.pose_origin, true.pose_origin) == ("image", "tracker")
    long = T.copy()
    long[:, 2, 3] *= 2  # twice too far: half of it lies beyond the truth
    drifted, true = paired_volumes(sweep, long, 1.0)
    assert volume_ncc(drifted, true) < 0.5
    assert swept_overlap(drifted, true) < 0.8
    with pytest.raises(ConfigError, match="estimated poses of shape"):
        paired_volumes(sweep, T[1:])
