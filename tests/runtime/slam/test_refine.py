"""Frames put back into a known volume; directions that nothing holds are left alone; bad frames are refused."""

from __future__ import annotations

import re
import sys
from dataclasses import replace

import numpy as np
import pytest

from edge_runtime.errors import ConfigError, GeometryError, MissingDependencyError
from edge_runtime.frame import FrameGeometry, Rectangle
from edge_runtime.slam import se3
from edge_runtime.slam.refine import RefineSettings, frame_points, refine_pose
from tests.runtime.slam.scene import GEOMETRY, Blobs, picture, volume

pytest.importorskip("numba")

PRIOR = np.diag([0.02, 0.02, 0.02, 1.0, 1.0, 1.0]) ** 2
SCENE, MAP = Blobs(), volume(Blobs())


def place(z=0.0, tilt=0.0):
    T = se3.exp([tilt, 0.3 * tilt, 0, 0, 0, 0])
    T[:3, 3] = (-12.6, -12.6, z)
    return T


def apart(a, b):
    """mm at the middle of the frame, degrees."""
    xi = se3.log(se3.inverse(a) @ b)
    middle = np.array([12.6, 12.6, 0, 1])
    return np.linalg.norm((a - b) @ middle), np.degrees(np.linalg.norm(xi[:3]))


@pytest.mark.parametrize("seed", range(6))
def test_a_pose_that_is_off_is_found_again(seed):
    rng = np.random.default_rng(seed)
    truth = place(rng.uniform(-5, 5), rng.uniform(-0.2, 0.2))
    direction = rng.normal(size=6)
    off = truth @ se3.exp(direction / np.linalg.norm(direction) * [0.03, 0.03, 0.03, 1, 1, 1])
    found = refine_pose(picture(SCENE, truth, seed=seed), GEOMETRY, off, PRIOR, MAP, RefineSettings(steps=15))
    mm, degrees = apart(truth, found.T_world_image)
    assert found.refused == ""
    assert found.free == 6
    assert found.ncc > 0.9
    assert mm < min(0.2, 0.5 * apart(truth, off)[0])
    assert degrees < 1.5


def test_the_covariance_is_that_of_the_error():
    """NEES over many frames; the map's own noise is common to all and small beside theirs."""
    rng = np.random.default_rng(3)
    clean, errors = volume(SCENE, noise=0.0), []
    for seed in range(40):
        truth = place(rng.uniform(-6, 6), rng.uniform(-0.2, 0.2))
        image = picture(SCENE, truth, noise=12, seed=seed)
        found = refine_pose(image, GEOMETRY, truth, PRIOR, clean, RefineSettings(steps=20))
        xi = se3.log(se3.inverse(truth) @ found.T_world_image)
        errors.append(xi @ np.linalg.solve(found.covariance, xi) / 6)
    assert 0.5 < np.mean(errors) < 2.5  # measured 1.8: the sandwich of few blocks is a little sure of itself


def test_what_the_anatomy_does_not_hold_keeps_its_prior():
    """Anatomy without change along z: shift along z and both tilts cannot be seen, however much noise invites them."""
    scene = Blobs(long=True)
    truth = place()
    off = truth @ se3.exp([0.02, -0.02, 0.01, 0.5, -0.4, 0.8])
    found = refine_pose(picture(scene, truth), GEOMETRY, off, PRIOR, volume(scene, noise=1), RefineSettings(steps=15))
    assert found.refused == ""
    assert found.free == 3
    left = se3.inverse(truth) @ found.T_world_image
    assert np.linalg.norm(left[:2] @ [12.6, 12.6, 0, 1] - [12.6, 12.6]) < 0.1
    moved = se3.inverse(off) @ found.T_world_image
    assert abs(moved[2] @ [12.6, 12.6, 0, 1]) < 0.03
    assert abs(left[2] @ [12.6, 12.6, 0, 1]) == pytest.approx(
        abs((se3.inverse(truth) @ off)[2] @ [12.6, 12.6, 0, 1]), abs=0.05
    )
    assert found.covariance[0, 0] == pytest.approx(PRIOR[0, 0], rel=0.05)
    in_plane = np.sqrt(np.diag(found.covariance)[2:4])
    assert (in_plane < [0.01, 0.2]).all()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("black", "flat image"),
        ("equal", "flat image"),
        ("elsewhere", "does not hold"),
        ("noise", "NCC|does not hold"),
        ("far", "moved by"),
    ],
)
def test_what_cannot_be_refined_comes_back_unchanged_with_the_reason(change, said):
    truth = place()
    image, settings = picture(SCENE, truth), RefineSettings(max_shift_mm=0.5, steps=30)
    if change in ("black", "equal"):
        image = np.full_like(image, 0 if change == "black" else 90)
    if change == "noise":
        image = np.random.default_rng(0).integers(0, 256, image.shape).astype(np.uint8)
    start = truth @ se3.exp([0, 0, 0, *{"elsewhere": (0, 0, 60), "far": (1.5, 0, 0)}.get(change, (0, 0, 0))])
    found = refine_pose(image, GEOMETRY, start, PRIOR, MAP, settings)
    assert np.array_equal(found.T_world_image, start)
    assert np.array_equal(found.covariance, PRIOR)
    assert re.search(said, found.refused)


def test_only_the_scan_area_takes_part():
    image = picture(SCENE, place())
    area = Rectangle(x0=8, y0=4, x1=50, y1=60)
    points = frame_points(image, replace(GEOMETRY, scan_area=area), 0.4, RefineSettings(pixels=100_000))
    x, y = points.at[:, 0] / 0.4, points.at[:, 1] / 0.4
    assert (x >= 8).all()
    assert (x < 50).all()
    assert (y >= 4).all()
    assert (y < 60).all()
    few = frame_points(image, GEOMETRY, 0.4, RefineSettings(pixels=50))
    assert len(few.at) == 50


def test_bad_input_is_refused():
    image = picture(SCENE, place())
    with pytest.raises(ConfigError, match="uint8"):
        refine_pose(image.astype(np.float32), GEOMETRY, place(), PRIOR, MAP)
    with pytest.raises(ConfigError, match="are needed"):
        refine_pose(image, GEOMETRY, place(), np.eye(3), MAP)
    with pytest.raises(ConfigError, match="too coarse"):
        frame_points(image, GEOMETRY, 20.0, RefineSettings())
    with pytest.raises(GeometryError):
        refine_pose(image, FrameGeometry(), place(), PRIOR, MAP)
    for wrong in ({"pixels": 3}, {"steps": 0}, {"min_ncc": 1.0}, {"max_turn_deg": 0.0}):
        with pytest.raises(ConfigError):
            RefineSettings(**wrong)


def test_without_numba_the_install_line_is_given(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'pocus-edge-runtime\[recon\]'"):
        refine_pose(picture(SCENE, place()), GEOMETRY, place(), PRIOR, MAP)
