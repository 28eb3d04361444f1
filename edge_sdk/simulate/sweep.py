"""A tracked freehand sweep through a known grey field: poses, frames, and the truth to hold a volume against."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from edge_runtime.frame import FrameGeometry, Rectangle
from edge_sdk.simulate._checks import require, require_shape

__all__ = ["GreyField", "SimulatedSweep", "simulate_sweep"]

FloatArray = npt.NDArray[np.float64]

_WAVES = 20
_BASE, _FLUID, _WIRE = 96.0, 14.0, 225.0  # grey levels
_EDGE_MM = 0.6  # scale of the vessel's soft wall
_WIRE_SIGMA_MM = 0.6


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GreyField:
    """A smooth tissue-like grey field in world mm, `field(points (M, 3)) -> (M,)` float64 grey levels 0 to 255.

    Plane waves of wavelengths of 9 mm and more (`waves` (K, 3) rad/mm, `phases`, `weights` (K,) grey levels), a
    brighter layer, a dark winding vessel along z of radius `vessel_radius_mm` around
    `vessel_xy + vessel_swing * sin(vessel_rate * z)`, and a bright wire between the two rows of `wire` (2, 3).
    """

    waves: FloatArray
    phases: FloatArray
    weights: FloatArray
    layer_y_mm: float
    vessel_xy: FloatArray
    vessel_swing: FloatArray
    vessel_rate: float
    vessel_radius_mm: float
    wire: FloatArray

    def __call__(self, points_world: npt.ArrayLike) -> FloatArray:
        """Grey levels (M,) at points (M, 3) in world mm."""
        points = np.asarray(points_world, np.float64)
        grey = np.full(len(points), _BASE)
        for wave, phase, weight in zip(self.waves, self.phases, self.weights, strict=True):
            grey += weight * np.cos((points @ wave + phase).astype(np.float32))
        grey += 22 * np.exp(-0.5 * ((points[:, 1] - self.layer_y_mm - 0.06 * points[:, 0]) / 1.4) ** 2)
        fluid = 1 / (1 + np.exp(np.clip(self.vessel_distance(points) / (0.25 * _EDGE_MM), -60, 60)))
        grey += fluid * (_FLUID - grey)
        near = np.exp(-0.5 * (self.wire_distance(points) / _WIRE_SIGMA_MM) ** 2)
        grey += near * (_WIRE - grey)
        return grey

    def vessel_distance(self, points_world: FloatArray) -> FloatArray:
        """Distance in mm (M,) to the vessel's wall within the plane of constant z, negative inside."""
        swing = np.sin(self.vessel_rate * points_world[:, 2])[:, None] * self.vessel_swing
        away = points_world[:, :2] - self.vessel_xy - swing
        distance: FloatArray = np.hypot(away[:, 0], away[:, 1]) - self.vessel_radius_mm
        return distance

    def wire_distance(self, points_world: FloatArray) -> FloatArray:
        """Distance in mm (M,) to the wire, a straight segment."""
        start, along = self.wire[0], self.wire[1] - self.wire[0]
        share = np.clip((points_world - start) @ along / (along @ along), 0, 1)
        away = points_world - start - share[:, None] * along
        distance: FloatArray = np.sqrt((away**2).sum(1))
        return distance


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SimulatedSweep:
    """`frames` (N, H, W) uint8 with rigid `T_world_image` (N, 4, 4) float64 mm and `time_ns` (N,) int64 from 0.

    Image x lateral, y axial, z elevational, origin at the centre of pixel (0, 0); `geometry` holds the pixel size.
    `field` is the truth at any world point, `wire` the two ends (2, 3) of the wire in world mm.
    """

    frames: npt.NDArray[np.uint8]
    T_world_image: FloatArray
    time_ns: npt.NDArray[np.int64]
    geometry: FrameGeometry
    field: GreyField
    wire: FloatArray


def _grey_field(rng: np.random.Generator, size_mm: FloatArray) -> GreyField:
    """A random field for a sweep of a box of `size_mm` (x, y, z), centred in x and starting at y = z = 0."""
    direction = rng.standard_normal((_WAVES, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    length = rng.uniform(9, 30, _WAVES)
    side = 1.0 if rng.random() < 0.5 else -1.0
    wire = np.array([[-0.25 * side, 0.68, 0.08], [0.3 * side, 0.84, 0.92]]) * size_mm
    return GreyField(
        waves=direction * (2 * np.pi / length)[:, None],
        phases=rng.uniform(0, 2 * np.pi, _WAVES),
        weights=length / length.mean() * 4.5,
        layer_y_mm=float(0.14 * size_mm[1]),
        vessel_xy=np.array([0.15 * side * size_mm[0], 0.42 * size_mm[1]]),
        vessel_swing=np.array([0.06, 0.04]) * size_mm[:2],
        vessel_rate=float(2 * np.pi / size_mm[2]),
        vessel_radius_mm=float(0.09 * size_mm[:2].min()),
        wire=wire,
    )


def _wander(rng: np.random.Generator, t: FloatArray, scale: float) -> FloatArray:
    """Slow drift of a hand: three sinusoids below 1.2 Hz, peak about `scale`; t (N,) in s."""
    frequency, phase = rng.uniform(0.08, 1.2, 3), rng.uniform(0, 2 * np.pi, 3)
    weight = 1 / (1 + 4 * frequency)
    waves: FloatArray = np.sin(2 * np.pi * np.outer(t, frequency) + phase) @ weight
    return waves * (scale / float(weight.sum()))


def _rotation(angles: FloatArray) -> FloatArray:
    """Rotation (3, 3) from a rotation vector in rad, by Rodrigues' formula."""
    rotation: FloatArray = np.asarray(cv2.Rodrigues(angles)[0], np.float64)
    return rotation


def _hand(rng: np.random.Generator, n: int, fps: float, spacing_mm: float, tilt_rad: float) -> FloatArray:
    """Poses (N, 4, 4) of the middle of the probe's face, moving along z at a varying speed, never back."""
    t = np.arange(n) / fps
    speed = np.maximum(1 + _wander(rng, t, 0.5), 0.2)
    z = np.concatenate([[0.0], np.cumsum((speed[1:] + speed[:-1]) / 2)])
    z *= spacing_mm * (n - 1) / max(float(z[-1]), 1e-9)
    shift = [_wander(rng, t, s) for s in (1.0, 0.5)]
    turns = np.stack([_wander(rng, t, s * tilt_rad) for s in (1.0, 1.0, 0.6)], 1)
    T = np.tile(np.eye(4), (n, 1, 1))
    T[:, :3, 3] = np.stack([*shift, z], 1)
    for pose, turn in zip(T, turns, strict=True):
        pose[:3, :3] = _rotation(turn)
    return T


def _speckle(rng: np.random.Generator, shape: tuple[int, int]) -> FloatArray:
    """Noise of zero mean and unit variance, wider laterally than axially."""
    noise = cv2.GaussianBlur(rng.standard_normal(shape), (0, 0), sigmaX=1.2, sigmaY=0.5)
    return np.asarray((noise - noise.mean()) / noise.std(), np.float64)


def simulate_sweep(
    seed: int,
    n_frames: int = 120,
    shape: tuple[int, int] = (128, 160),
    pixel_mm: float = 0.3,
    spacing_mm: float = 0.3,
    fps: float = 20.0,
    tilt_rad: float = 0.04,
    speckle: float = 3.0,
) -> SimulatedSweep:
    """`n_frames` frames (H, W) at a mean elevational `spacing_mm`, held by an unsteady hand; poses are exact.

    The hand goes along world z at a speed that varies by half, drifts by about 1 mm and tilts by about `tilt_rad`.
    Every pixel is the grey field at its centre plus noise of `speckle` grey levels (0 is none): the field itself is
    smooth, no beam and no slice thickness is simulated, so the field is the exact target of compounding. It is no
    simulation of 3-D speckle. Raises `ConfigError` for arguments out of range.
    """
    require(seed >= 0, "seed", seed, "give a whole number >= 0")
    require(2 <= n_frames <= 100_000, "n_frames", n_frames, "give 2 to 100000 frames")
    require_shape(shape)
    require(0.02 <= pixel_mm <= 2, "pixel_mm", pixel_mm, "give 0.02 to 2 mm")
    require(0 < spacing_mm <= 5, "spacing_mm", spacing_mm, "give up to 5 mm between frames")
    require(0 < fps <= 1000, "fps", fps, "give up to 1000 frames per second")
    require(0 <= tilt_rad <= 0.5, "tilt_rad", tilt_rad, "give 0 to 0.5 rad")
    require(0 <= speckle <= 40, "speckle", speckle, "give 0 to 40 grey levels")
    rng = np.random.default_rng(seed)
    height, width = shape
    field = _grey_field(rng, np.array([width * pixel_mm, height * pixel_mm, (n_frames - 1) * spacing_mm]))
    T_world_face = _hand(rng, n_frames, fps, spacing_mm, tilt_rad)
    T_face_image = np.eye(4)
    T_face_image[0, 3] = -(width - 1) / 2 * pixel_mm
    T_world_image = T_world_face @ T_face_image
    y, x = np.mgrid[:height, :width].reshape(2, -1) * pixel_mm
    points_image = np.stack([x, y, np.zeros_like(x)], 1)
    frames = np.empty((n_frames, *shape), np.uint8)
    for frame, pose in zip(frames, T_world_image, strict=True):
        grey = field(points_image @ pose[:3, :3].T + pose[:3, 3]).reshape(shape)
        frame[:] = np.clip(np.rint(grey + speckle * _speckle(rng, shape)), 0, 255)
    area = Rectangle(x0=-0.5, y0=-0.5, x1=width - 0.5, y1=height - 0.5)
    return SimulatedSweep(
        frames=frames,
        T_world_image=T_world_image,
        time_ns=np.rint(np.arange(n_frames) * (1e9 / fps)).astype(np.int64),
        geometry=FrameGeometry(
            row_mm=pixel_mm, column_mm=pixel_mm, scan_area=area, origin="simulated", trusted=True, reason=""
        ),
        field=field,
        wire=field.wire,
    )
