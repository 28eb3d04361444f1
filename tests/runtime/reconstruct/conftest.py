"""A phantom known at every point, and sweeps through it."""

from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.frame import FrameGeometry, Rectangle, Sector
from edge_runtime.geometry import quaternion_wxyz_to_rotation
from edge_runtime.reconstruct import Sweep

WIRE_START = np.array([-6.0, 14.0, -2.0])
WIRE_END = np.array([6.0, 10.0, 22.0])


class Phantom:
    """Smooth blobs plus, if wanted, a bright wire from `WIRE_START` to `WIRE_END` (mm)."""

    def __init__(self, *, wire: bool = False) -> None:
        rng = np.random.default_rng(7)
        self.centres = rng.uniform((-12, 0, 0), (12, 24, 20), (12, 3))
        self.sigma = rng.uniform(4, 8, 12)
        self.height = rng.uniform(-40, 40, 12)
        self.wire = wire

    def __call__(self, points):
        value = np.full(points.shape[:-1], 110.0)
        for c, s, h in zip(self.centres, self.sigma, self.height, strict=True):
            value += h * np.exp(-((points - c) ** 2).sum(-1) / (2 * s * s))
        if self.wire:
            axis = (WIRE_END - WIRE_START) / np.linalg.norm(WIRE_END - WIRE_START)
            off = points - WIRE_START
            off = off - (off @ axis)[..., None] * axis
            value = value + 110 * np.exp(-(off**2).sum(-1) / (2 * 0.45**2))
        return np.clip(value, 0, 255)

    def slice(self, T, geometry, shape):
        """(H, W) uint8 image of the phantom at pose `T`."""
        y, x = np.mgrid[: shape[0], : shape[1]]
        mm = np.stack([x * geometry.column_mm + geometry.shear * y * geometry.row_mm, y * geometry.row_mm, 0 * x], -1)
        return np.rint(self(mm @ T[:3, :3].T + T[:3, 3])).astype(np.uint8)


def pose(rng, angle=0.2, shift=2.0, z=0.0):
    """A rigid (4, 4) pose with a random tilt (about `angle` rad) and shift (about `shift` mm), moved along z."""
    T = np.eye(4)
    T[:3, :3] = quaternion_wxyz_to_rotation(np.concatenate([[1.0], rng.normal(0, angle / 2, 3)]))
    T[:3, 3] = np.array([0, 0, z]) + rng.normal(0, shift, 3)
    return T


GEOMETRIES = {
    "whole": FrameGeometry(row_mm=0.31, column_mm=0.27, origin="user", trusted=True),
    "sheared": FrameGeometry(row_mm=0.3, column_mm=0.25, shear=0.05, origin="user", trusted=True),
    "rectangle": FrameGeometry(
        row_mm=0.3, column_mm=0.25, origin="user", trusted=True, scan_area=Rectangle(x0=5, y0=3, x1=40, y1=30)
    ),
    "sector": FrameGeometry(
        row_mm=0.3,
        column_mm=0.3,
        origin="user",
        trusted=True,
        scan_area=Sector(apex_x=24, apex_y=-12, radius_min=15, radius_max=45, angle_min=-0.6, angle_max=0.6),
    ),
}


@pytest.fixture(params=sorted(GEOMETRIES))
def geometry(request):
    return GEOMETRIES[request.param]


@pytest.fixture
def noise_sweep(geometry):
    """Twelve frames of noise (hard for any interpolation) at scattered poses."""
    rng = np.random.default_rng(3)
    T = np.stack([pose(rng, z=0.5 * k) for k in range(12)])
    return Sweep(frames=rng.integers(0, 256, (12, 40, 48), np.uint8), T_world_image=T, geometry=geometry)


def phantom_sweep(phantom, n=90, shape=(100, 110), step=0.22):
    """A dense sweep along z through the phantom with slow tilts, exactly sampled."""
    geometry = FrameGeometry(row_mm=0.22, column_mm=0.24, origin="simulated", trusted=True)
    T = np.tile(np.eye(4), (n, 1, 1))
    for k in range(n):
        tilt = (1.0, 0.03 * np.sin(k / 17), 0.02 * np.cos(k / 23), 0.02 * np.sin(k / 29))
        T[k, :3, :3] = quaternion_wxyz_to_rotation(np.array(tilt))
        T[k, :3, 3] = (-13 + 0.5 * np.sin(k / 11), 1 + 0.4 * np.cos(k / 13), step * k)
    frames = np.stack([phantom.slice(T[k], geometry, shape) for k in range(n)])
    return Sweep(frames=frames, T_world_image=T, geometry=geometry)


@pytest.fixture(scope="session")
def wire_sweep():
    return phantom_sweep(Phantom(wire=True))


@pytest.fixture(scope="session")
def wire_phantom():
    return Phantom(wire=True)


@pytest.fixture(scope="session")
def wire_line():
    return WIRE_START, WIRE_END


@pytest.fixture
def random_pose():
    return pose
