"""Blobs known at every point, as volumes and as slices."""

from __future__ import annotations

import numpy as np

from edge_runtime.frame import FrameGeometry
from edge_runtime.reconstruct import Volume, VolumeGrid

GEOMETRY = FrameGeometry(row_mm=0.4, column_mm=0.4, origin="user", trusted=True)


class Blobs:
    """A smooth scene (..., 3) mm -> grey levels; `long`: without change along z."""

    def __init__(self, seed=1, n=70, reach=28.0, long=False):
        rng = np.random.default_rng(seed)
        self.centres = rng.uniform(-reach, reach, (n, 3))
        self.spread = rng.uniform(2, 6, n)
        self.height = rng.uniform(-70, 70, n)
        self.axes = slice(0, 2) if long else slice(0, 3)

    def __call__(self, points):
        value = np.full(points.shape[:-1], 120.0)
        for c, s, h in zip(self.centres, self.spread, self.height, strict=True):
            square = ((points - c)[..., self.axes] ** 2).sum(-1)
            value += h * np.exp(-square / (2 * s * s))
        return np.clip(value, 0, 255)


def volume(scene, T_scene_world=None, shape=(40, 40, 40), noise=4.0, seed=0):
    """The scene, whose world lies at `T_scene_world`, on voxels of 1 mm about the origin, with noise."""
    T = np.eye(4) if T_scene_world is None else T_scene_world
    start = np.eye(4)
    start[:3, 3] = -(np.array(shape[::-1]) - 1) / 2
    grid = VolumeGrid(shape=shape, spacing_mm=(1.0, 1.0, 1.0), T_world_volume=start)
    levels = grid.sample_field(lambda p: scene(p @ T[:3, :3].T + T[:3, 3]))
    levels += np.random.default_rng(seed).normal(0, noise, levels.shape)
    data = np.clip(levels, 0, 255).round().astype(np.uint8)
    return Volume(data=data, spacing_mm=grid.spacing_mm, T_world_volume=start)


def picture(scene, T_world_image, shape=(64, 64), noise=4.0, seed=9, geometry=GEOMETRY):
    """(H, W) uint8 slice of the scene, with noise."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    mm = np.stack([x * geometry.column_mm, y * geometry.row_mm, 0.0 * x], -1)
    levels = scene(mm @ T_world_image[:3, :3].T + T_world_image[:3, 3])
    levels = levels + np.random.default_rng(seed).normal(0, noise, shape)
    return np.clip(levels, 0, 255).round().astype(np.uint8)
