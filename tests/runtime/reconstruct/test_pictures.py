from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.errors import ConfigError
from edge_runtime.reconstruct import Volume, draw_turntable, turntable, write_turntable


def volume_of(data, spacing=(1.0, 1.0, 1.0)):
    return Volume(data=data, spacing_mm=spacing, T_world_volume=np.eye(4))


@pytest.fixture
def noise():
    # spans of 6 and 8 have a diagonal of 10, so the rays of the four right angles run through the voxels
    return volume_of(np.random.default_rng(2).integers(0, 256, (4, 9, 7), np.uint8))


def test_the_right_angles_are_maxima_along_the_axes_and_not_mirrored(noise):
    shots = turntable(noise, views=4)
    assert shots.shape == (4, 4, 11)
    along_x, along_y = noise.data.max(axis=2)[::-1], noise.data.max(axis=1)[::-1]
    # the observer looks along x with z upwards, so y runs to the left; then along y, where x runs to the right
    np.testing.assert_array_equal(shots[0][:, 1:-1], along_x[:, ::-1])
    np.testing.assert_array_equal(shots[1][:, 2:-2], along_y)
    np.testing.assert_array_equal(shots[2], shots[0][:, ::-1])
    np.testing.assert_array_equal(shots[3], shots[1][:, ::-1])
    assert not shots[0][:, [0, -1]].any()


@pytest.mark.parametrize(("axis", "order"), [("y", (1, 2, 0)), ("x", (2, 0, 1))])
def test_the_other_axes_are_the_same_with_the_axes_renamed(noise, axis, order):
    """(z, y, x) -> (y, x, z) -> (x, z, y) keeps the hand of the axes."""
    turned = volume_of(np.ascontiguousarray(np.moveaxis(noise.data, (0, 1, 2), order)))
    np.testing.assert_array_equal(turntable(turned, views=5, axis=axis), turntable(noise, views=5))


def test_a_ball_looks_alike_from_everywhere_at_any_spacing():
    spacing = (0.5, 0.8, 0.4)
    axes = [np.arange(-8, 8 + s / 2, s) for s in spacing]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    ball = np.clip((6 - np.sqrt(z * z + y * y + x * x)) * 100 + 127, 0, 255).astype(np.uint8)
    for shot in turntable(volume_of(ball, spacing), views=7, pixel_mm=0.5):
        rows, columns = np.nonzero(shot > 127)
        assert np.ptp(rows) * 0.5 == pytest.approx(12, abs=1.01)
        assert np.ptp(columns) * 0.5 == pytest.approx(12, abs=1.01)
        assert shot.max() == 255


def test_a_single_voxel():
    np.testing.assert_array_equal(
        turntable(volume_of(np.full((1, 1, 1), 77, np.uint8)), views=3), np.full((3, 1, 1), 77)
    )


def test_the_strip_shows_every_view_and_a_scale():
    pytest.importorskip("cv2")
    data = np.zeros((20, 30, 40), np.uint8)
    data[5:15, 10:20, 5:35] = 200
    strip = draw_turntable(volume_of(data), views=5, panel_px=100)
    assert strip.ndim == 3
    assert strip.dtype == np.uint8
    bright = (strip == 200).all(axis=2).any(axis=0)
    assert (np.diff(bright.astype(int)) == 1).sum() == 5


def test_frames_are_written_whole(noise, tmp_path):
    cv2 = pytest.importorskip("cv2")
    paths = write_turntable(tmp_path / "turn", noise, views=10)
    assert [p.name for p in paths] == [f"{k:03d}.png" for k in range(10)]
    for path, shot in zip(paths, turntable(noise, views=10), strict=True):
        np.testing.assert_array_equal(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE), shot)
    assert sorted(p.name for p in (tmp_path / "turn").iterdir()) == sorted([*(p.name for p in paths), "strip.png"])
    with pytest.raises(ConfigError, match="is there already"):
        write_turntable(tmp_path / "turn", noise)
    with pytest.raises(ConfigError, match="cannot be written"):
        write_turntable(tmp_path / "none" / "turn", noise)
    assert [p.name for p in tmp_path.iterdir()] == ["turn"]


@pytest.mark.parametrize(
    "bad", [{"axis": "w"}, {"views": 0}, {"views": 361}, {"pixel_mm": 0.0}, {"pixel_mm": np.nan}, {"pixel_mm": 1e-5}]
)
def test_bad_arguments_are_refused(noise, bad):
    with pytest.raises(ConfigError, match=r"views|pixel_mm"):
        turntable(noise, **bad)
    for wrong in ({"views": 25}, {"panel_px": 10}):
        with pytest.raises(ConfigError, match="allowed"):
            draw_turntable(noise, **wrong)
