"""Places seen again on a simulated way there and back; repetitive anatomy; memory; each test of the chain by itself."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest

from edge_runtime.errors import ConfigError, GeometryError
from edge_runtime.frame import FrameGeometry
from edge_runtime.slam import se3
from edge_runtime.slam.consistency import OdometryChain
from edge_runtime.slam.loops import LoopFinder, LoopSettings, PlaceIndex
from edge_runtime.slam.overlay import overlay
from tests.runtime.slam.scene import GEOMETRY, Blobs, picture

pytest.importorskip("numba")

SCENE = Blobs(seed=4, n=120, reach=30.0)
STEP_NS = 500_000_000
SIGMA = np.diag([0.002, 0.002, 0.002, 0.05, 0.05, 0.15]) ** 2
N = 28
MIDDLE = np.array([12.6, 12.6, 0, 1])


def way(turn=14):
    """Poses (N, 4, 4): along z and back over the same places, a little aside."""
    T = np.tile(np.eye(4), (N, 1, 1))
    for k in range(N):
        back = k > turn
        z = 2.0 * (2 * turn - k if back else k) - 14
        T[k, :3, 3] = (-12.6 + 1.5 * back, -12.6 + 0.8 * back, z + 0.2 * back)
    return T


@lru_cache(maxsize=256)
def seen(scene, pose, seed):
    return picture(scene, np.frombuffer(pose).reshape(4, 4), seed=seed)


def run(scene=SCENE, poses=None, *, drift=0.05, settings=None, distance=None, descriptors=None, seed=0):
    """A finder that has seen the whole way; odometry that takes each step along z for too long by `drift`."""
    poses = way() if poses is None else poses
    rng = np.random.default_rng(seed)
    chain = OdometryChain(0.1)
    finder = LoopFinder(GEOMETRY, chain, settings or LoopSettings(), distance=distance)
    for k, T in enumerate(poses):
        if k:
            step = se3.inverse(poses[k - 1]) @ T
            step[2, 3] *= 1 + drift
            chain.append(step @ se3.exp(rng.multivariate_normal(np.zeros(6), SIGMA)), SIGMA)
        finder.add(seen(scene, T.tobytes(), k), k * STEP_NS, None if descriptors is None else descriptors[k])
    return finder


def test_the_way_back_is_recognised_and_placed():
    poses = way()
    kept, _ = (finder := run()).loops()
    assert len(kept) >= 6
    for loop in kept:
        truth = se3.inverse(poses[loop.i]) @ poses[loop.j]
        assert loop.j - loop.i >= 6
        assert np.linalg.norm(((loop.T_i_j - truth) @ MIDDLE)[:2]) < 0.6
        assert abs(truth[2, 3]) < 2.5
        error = se3.log(se3.inverse(loop.T_i_j) @ truth)
        assert error @ np.linalg.solve(loop.covariance, error) < 30
    assert finder.places == tuple(range(N))


def test_without_a_way_back_there_is_no_loop():
    poses = np.tile(np.eye(4), (N, 1, 1))
    poses[:, :3, 3] = [(-12.6, -12.6, 2.0 * k - 27) for k in range(N)]
    assert run(poses=poses).loops()[0] == ()


class Repeated:
    """Anatomy that is the same every 20 mm along z."""

    def __init__(self):
        self.scene = Blobs(seed=6, n=120, reach=20.0)

    def __call__(self, points):
        folded = points.copy()
        folded[..., 2] = (points[..., 2] + 10) % 20 - 10
        return self.scene(folded)


def test_false_loops_of_repetitive_anatomy_are_rejected_with_the_reason():
    """The images agree perfectly; only the odometry knows that the probe is 20 mm farther."""
    poses = np.tile(np.eye(4), (N, 1, 1))
    poses[:, :3, 3] = [(-12.6, -12.6, 2.0 * k - 10) for k in range(N)]
    scene = Repeated()
    finder = run(scene, poses)
    kept, _ = finder.loops()
    assert kept == ()
    reasons = [r.reason for r in finder.rejected]
    assert any("Mahalanobis" in reason for reason in reasons)
    told = run(scene, poses, distance=lambda i, j: (0.5, 0.3))
    assert told.loops()[0] == ()
    assert any("decorrelation says" in r.reason for r in told.rejected)


def test_a_distance_out_of_range_rejects_and_one_in_range_becomes_doubt():
    finder = run(distance=lambda i, j: None)
    assert finder.loops()[0] == ()
    assert any("decorrelated" in r.reason for r in finder.rejected)
    kept, _ = run(distance=lambda i, j: (0.6, 0.8)).loops()
    assert kept
    assert all(loop.covariance[5, 5] >= 1.0 for loop in kept)
    assert all(abs(loop.T_i_j[2, 3]) < 1e-9 for loop in kept)


def test_fewer_than_three_in_a_row_are_no_loop():
    poses = way()
    poses[19:, 2, 3] = 60 + 2.0 * np.arange(N - 19)
    finder = run(poses=poses)
    assert finder.loops()[0] == ()
    assert any("in a row, 3 are needed" in r.reason for r in finder.rejected)
    assert run(poses=poses, settings=LoopSettings(row=1)).loops()[0] != ()


def test_descriptors_from_outside_decide_whom_to_compare():
    nothing_alike = np.eye(N)
    finder = run(descriptors=nothing_alike)
    assert finder.loops()[0] == ()
    assert not finder.rejected
    all_alike = np.ones((N, 5))
    assert run(descriptors=all_alike).rejected


def test_black_keyframes_are_no_place():
    finder = LoopFinder(GEOMETRY, chain := OdometryChain())
    for k in range(20):
        if k:
            chain.append(np.eye(4), SIGMA)
        assert finder.add(np.zeros((64, 64), np.uint8), k * STEP_NS) == 0
    assert finder.loops() == ((), ())
    assert not finder.rejected


def test_memory_is_bounded_and_old_places_grow_sparse():
    index = PlaceIndex(16)
    rng = np.random.default_rng(0)
    stored = rng.normal(size=(200, 8))
    for k, descriptor in enumerate(stored):
        index.add(k, k, descriptor)
        assert len(index.keys) <= 16
    assert index.keys[0] == 0
    assert index.keys[-4:] == (196, 197, 198, 199)
    key = index.keys[3]
    assert index.alike(3 * stored[key], 10**6, 0.9, 0)[0] == (key, pytest.approx(1.0, abs=1e-6))
    assert index.alike(stored[key], 10**6, 0.9, 10**6) == [] or key == 0
    finder = run(settings=LoopSettings(capacity=8))
    assert len(finder.places) <= 8
    assert len(finder._images) <= 8


def test_bad_input_is_refused_and_changes_nothing():
    chain = OdometryChain()
    finder = LoopFinder(GEOMETRY, chain)
    image = picture(SCENE, way()[0])
    finder.add(image, 1000, np.ones(4))
    with pytest.raises(ConfigError, match="append its motion first"):
        finder.add(image, 2000, np.ones(4))
    chain.append(np.eye(4), SIGMA)
    for wrong, time, descriptor, said in (
        (image, 500, np.ones(4), "lies before"),
        (image[:-1], 2000, np.ones(4), "one shape"),
        (image.astype(float), 2000, np.ones(4), "uint8"),
        (image, 2000, np.ones(5), "descriptor has shape"),
        (image, 2000, np.full(4, np.nan), "not finite"),
    ):
        with pytest.raises(ConfigError, match=said):
            finder.add(wrong, time, descriptor)
    assert finder.places == (0,)
    assert finder.add(image, 2000, np.ones(4)) == 0
    with pytest.raises(GeometryError):
        LoopFinder(FrameGeometry(), chain)
    for settings in ({"similarity": 1.0}, {"row": 0}, {"capacity": 1}, {"window_ms": 0.0}):
        with pytest.raises(ConfigError):
            LoopSettings(**settings)


@pytest.mark.parametrize(("mm", "degrees"), [((0.0, 0.0), 0.0), ((2.3, -1.1), 4.0), ((-6.0, 4.0), 2.0)])
def test_pictures_are_laid_on_each_other(mm, degrees):
    here = way()[5]
    truth = se3.exp([0, 0, np.radians(degrees), 0, 0, 0])
    truth[:2, 3] = mm
    laid = overlay(picture(SCENE, here, seed=1), picture(SCENE, here @ truth, seed=2), GEOMETRY)
    assert laid.ncc > 0.9
    assert np.abs(laid.T_i_j[:3, :3] - truth[:3, :3]).max() < 0.02
    assert np.linalg.norm((laid.T_i_j - truth) @ MIDDLE) < 0.3
    assert np.allclose(laid.T_i_j[2], [0, 0, 1, 0], atol=1e-9)


def test_pictures_that_share_nothing_say_so():
    image = picture(SCENE, way()[5])
    assert np.isnan(overlay(image, np.zeros_like(image), GEOMETRY).ncc)
    assert np.isnan(overlay(np.zeros_like(image), image, GEOMETRY).ncc)
    with pytest.raises(ConfigError, match="one shape"):
        overlay(image, image[:-1], GEOMETRY)
