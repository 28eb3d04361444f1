"""Spatial calibration with an N-wire phantom: where the image lies in the frame of the probe's tracker marker.

Two parallel wires and a slanted one between them cross the image in three points; how the middle one divides the
outer two says where along its wire the image crosses it (Comeau, Fenster and Peters, SPIE 3335, 1998; Chen et al.,
Ultrasound in Med. & Biol. 35, 2009). Those points of the phantom, brought into the probe's frame, fix the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt

from edge_runtime.calibration.residuals import Residuals, far_off
from edge_runtime.errors import ConfigError, GeometryError
from edge_runtime.geometry import invert_rigid, is_rigid, vector_to_rotation

__all__ = ["NWire", "SpatialCalibration", "SpatialSettings", "calibrate_image", "middle_points", "reprojection_error"]

RIGID = 1e-3  # recordings keep six digits
MIN_POINTS = 12
ROUNDS = 20
STEPS = 20

F64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NWire:
    """An N of wires: `left`, `middle`, `right`, each (2, 3), the front and back end in mm in the phantom's frame.

    Raises `ConfigError` unless the outer wires are parallel and the middle one is slanted to them in their plane.
    """

    left: F64
    middle: F64
    right: F64

    def __post_init__(self) -> None:
        wires = (self.left, self.middle, self.right)
        if any(np.shape(w) != (2, 3) or not np.isfinite(w).all() for w in wires):
            raise ConfigError(f"wires of shapes {[np.shape(w) for w in wires]}; each has two ends (2, 3) in mm")
        along, slant, span = (w[1] - w[0] for w in wires)
        across = self.right[0] - self.left[0]
        normal = np.cross(across, along)
        size = float(np.linalg.norm(normal))
        if not (size > 0 and np.linalg.norm(np.cross(along, span)) <= 1e-3 * np.linalg.norm(along) ** 2):
            raise ConfigError("the outer wires of an N must be parallel and apart")
        lift = np.abs([slant @ normal, (self.middle[0] - self.left[0]) @ normal, span @ normal]).max() / size
        if lift > 1e-2 or np.linalg.norm(np.cross(along, slant)) <= 1e-3 * np.linalg.norm(along) ** 2:
            raise ConfigError("the middle wire of an N must lie in the plane of the outer two and be slanted to them")


class SpatialSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`reject`: a point is left out beyond this many robust deviations. `max_condition`: beyond it the points span no
    plane of the image. Raises `ConfigError` for a value out of range.
    """

    reject: float = 4.0
    max_condition: float = 100.0

    def __post_init__(self) -> None:
        if not (self.reject >= 2 and self.max_condition > 1):
            raise ConfigError(f"reject {self.reject} must be at least 2, max_condition {self.max_condition} above 1")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SpatialCalibration:
    """`T_probe_image` (4, 4): pixels (x, y, 0, 1) to mm in the probe's frame; its columns carry the pixel size.

    The constant `ImageToProbe` of `sweep_of_sequence`. `residuals`: mm, over frames, then patterns; a point that was
    not seen counts neither as used nor as rejected, it is left out of them.
    """

    T_probe_image: F64
    residuals: Residuals


def middle_points(pixels: F64, wires: Sequence[NWire]) -> F64:
    """(F, P, 3) mm in the phantom where F images cross the middle wires of P patterns; NaN where a point is missing.

    `pixels` (F, P, 3, 2): x and y of the left, middle and right point of each pattern.
    """
    if pixels.ndim != 4 or pixels.shape[1:] != (len(wires), 3, 2):
        raise ConfigError(
            f"points have shape {pixels.shape}; (F, {len(wires)}, 3, 2) is needed for {len(wires)} patterns"
        )
    found = np.empty((*pixels.shape[:2], 3))
    for k, wire in enumerate(wires):
        left, middle, right = (pixels[:, k, i] for i in range(3))
        chord = right - left
        share = ((middle - left) * chord).sum(axis=1) / (chord**2).sum(axis=1)
        along = wire.left[1] - wire.left[0]
        across = wire.right[0] - wire.left[0]
        across = across - (across @ along) / (along @ along) * along
        start = (wire.middle[0] - wire.left[0]) @ across / (across @ across)
        slant = (wire.middle[1] - wire.middle[0]) @ across / (across @ across)
        found[:, k] = wire.middle[0] + ((share - start) / slant)[:, None] * (wire.middle[1] - wire.middle[0])
    return found


def calibrate_image(
    pixels: F64, T_phantom_probe: F64, wires: Sequence[NWire], settings: SpatialSettings | None = None
) -> SpatialCalibration:
    """The image in the probe's frame from F images of an N-wire phantom.

    `pixels` (F, P, 3, 2) as for `middle_points`, NaN where a wire was not seen; `T_phantom_probe` (F, 4, 4) rigid, mm.
    A linear least-squares fit in closed form, repeated without the points far off; then Gauss-Newton over rotation,
    translation and two pixel sizes, for the axes of an image are orthogonal. Raises `ConfigError` for wrong shapes or
    poses, `GeometryError` when too few points agree or they do not span the image.
    """
    settings = settings or SpatialSettings()
    points, targets, _ = _observations(pixels, T_phantom_probe, wires)
    used = np.ones(len(points), np.bool_)
    for _ in range(ROUNDS):
        if used.sum() < MIN_POINTS:
            raise GeometryError(
                f"{used.sum()} of {len(points)} points agree, {MIN_POINTS} are needed; check the order of the wires, "
                "the registration of the phantom and the orientation of the images"
            )
        linear, *_ = np.linalg.lstsq(points[used], targets[used], rcond=None)
        kept = ~far_off(np.linalg.norm(points @ linear - targets, axis=1), used, settings.reject)
        if np.array_equal(kept, used):
            break
        used = kept
    scales = np.linalg.svd(points[used] / np.linalg.norm(points[used], axis=0), compute_uv=False)
    condition = float(scales[0] / scales[-1]) if scales[-1] > 0 else np.inf
    if condition > settings.max_condition:
        raise GeometryError(
            f"the condition of the points is {condition:.3g}, at most {settings.max_condition:g} is allowed: they lie "
            "on a line; use two patterns or more, at different depths"
        )
    T = _refined(points[used], targets[used], np.asarray(linear, np.float64))
    size = np.linalg.norm(points @ T[:3, [0, 1, 3]].T - targets, axis=1)
    return SpatialCalibration(
        T_probe_image=T, residuals=Residuals(values=size, used=used, unit="mm", condition=condition)
    )


def reprojection_error(T_probe_image: F64, pixels: F64, T_phantom_probe: F64, wires: Sequence[NWire]) -> F64:
    """(F, P) mm between the middle points by the wires and by the calibration, on images kept for validation.

    The 3-D reprojection error of PLUS (fCal); NaN where a point is missing. PLUS states its mean without the worst
    5 %. Raises `ConfigError` for wrong shapes or poses.
    """
    points, targets, seen = _observations(pixels, T_phantom_probe, wires)
    found = np.full(seen.shape, np.nan)
    found[seen] = np.linalg.norm(points @ np.asarray(T_probe_image)[:3, [0, 1, 3]].T - targets, axis=1)
    return found


def _observations(pixels: F64, T_phantom_probe: F64, wires: Sequence[NWire]) -> tuple[F64, F64, npt.NDArray[np.bool_]]:
    """Image points (N, 3) as (x, y, 1), the same in the probe's frame (N, 3) mm, and (F, P) where they are seen."""
    if T_phantom_probe.shape != (len(pixels), 4, 4):
        raise ConfigError(f"poses have shape {T_phantom_probe.shape} for {len(pixels)} images; (F, 4, 4) is needed")
    bad = [k for k in range(len(pixels)) if not is_rigid(T_phantom_probe[k], RIGID)]
    if bad:
        raise ConfigError(f"poses {bad[:5]} ({len(bad)}) are not rigid; leave out the images where tracking failed")
    in_phantom = middle_points(pixels, wires)
    seen: npt.NDArray[np.bool_] = np.asarray(np.isfinite(in_phantom).all(axis=2), np.bool_)
    inverse = np.stack([invert_rigid(T) for T in T_phantom_probe])
    in_probe = np.einsum("fij,fpj->fpi", inverse[:, :3, :3], in_phantom) + inverse[:, None, :3, 3]
    points = np.concatenate([pixels[:, :, 1], np.ones((*seen.shape, 1))], axis=2)
    return np.asarray(points[seen], np.float64), np.asarray(in_probe[seen], np.float64), seen


def _refined(points: F64, targets: F64, linear: F64) -> F64:
    """(4, 4) with orthogonal axes that minimises the squared distances, from a linear fit (3, 3)."""
    u, scale, vt = np.linalg.svd(linear[:2].T, full_matrices=False)
    axes = u @ vt
    R = np.column_stack([axes, np.cross(axes[:, 0], axes[:, 1])])
    size, shift = np.linalg.norm(linear[:2], axis=1), linear[2]
    assert scale[-1] > 0, "the condition of the points was checked"
    for _ in range(STEPS):
        turned = points[:, :2] * size @ R[:, :2].T
        J = np.zeros((len(points), 3, 8))
        J[:, :, :3] = -_cross(turned)
        J[:, :, 3:6] = np.eye(3)
        J[:, :, 6:] = points[:, None, :2] * R[:, :2]
        step, *_ = np.linalg.lstsq(J.reshape(-1, 8), (targets - turned - shift).reshape(-1), rcond=None)
        R, shift, size = vector_to_rotation(step[:3]) @ R, shift + step[3:6], size + step[6:]
        if np.abs(step).max() < 1e-12:
            break
    T = np.eye(4)
    T[:3, :3] = R * (*size, size.mean())
    T[:3, 3] = shift
    return T


def _cross(v: F64) -> F64:
    """(N, 3, 3) matrices of the cross product with N vectors."""
    zero = np.zeros(len(v))
    x, y, z = v.T
    return np.stack([zero, -z, y, z, zero, -x, -y, x, zero], axis=1).reshape(-1, 3, 3)
