"""A frame registered to the local map: its pose refined against what was compounded before it.

As KISS-ICP registers a scan to a local map and not to the last scan (Vizzo et al., RA-L 8, 2023), a frame is moved by
Gauss-Newton until its pixels of highest gradient agree with the volume of the last seconds up to gain and offset;
directions that the map does not hold keep their prior. A frame inside the slab that it wrote itself always fits: leave
it out of the map. Where the map was seen from another side, give frame and map through `contrast.axial_contrast`, or
shadows, which turn with the probe, draw the pose along.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ConfigError
from edge_runtime.frame import FrameGeometry
from edge_runtime.reconstruct.scan import image_from_pixel
from edge_runtime.reconstruct.volume import Volume
from edge_runtime.slam import se3
from edge_runtime.slam._fit import MIN_POINTS, Field, Points, around, fit_rigid, smooth

__all__ = ["RefineSettings", "Refinement", "frame_points", "refine_pose"]

F64 = npt.NDArray[np.float64]


class RefineSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How a frame is registered to the map.

    `pixels` of highest gradient take part, after means of squares half a voxel wide. A direction whose grey levels
    change less per mm than `min_slope` times the steepest direction is frozen. Refused: fewer than `min_share` of the
    pixels on known map, NCC under `min_ncc`, or a motion beyond `max_shift_mm` or `max_turn_deg`. `block_mm`: pixels
    nearer than this count as one for the covariance. Raises `ConfigError` for a value out of range.
    """

    pixels: int = 3000
    steps: int = 5
    min_slope: float = 0.1
    min_share: float = 0.4
    min_ncc: float = 0.5
    max_shift_mm: float = 5.0
    max_turn_deg: float = 5.0
    block_mm: float = 3.0

    def __post_init__(self) -> None:
        if not (MIN_POINTS <= self.pixels <= 100_000 and 1 <= self.steps <= 100):
            raise ConfigError(
                f"pixels {self.pixels}, steps {self.steps}: {MIN_POINTS} to 100000 and 1 to 100 are allowed"
            )
        for name in ("min_slope", "min_share", "min_ncc"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; 0 <= {name} < 1 is needed")
        for name in ("max_shift_mm", "max_turn_deg", "block_mm"):
            if not 0 < getattr(self, name) < np.inf:
                raise ConfigError(f"{name} is {getattr(self, name)}; a positive number is needed")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Refinement:
    """A refined pose.

    `T_world_image` (4, 4) and `covariance` (6, 6) (rotation rad, translation mm, right perturbation): of the prior in
    directions that were frozen. `ncc` with the map over `used` pixels; `free` directions of six were fitted;
    `eigenvalues` (6,), see `_fit.Fit`. `refused` is empty, or the reason why the pose is the prior's unchanged.
    """

    T_world_image: F64
    covariance: F64
    ncc: float = float("nan")
    used: int = 0
    free: int = 0
    eigenvalues: F64 | None = None
    refused: str = ""


def frame_points(
    image: npt.NDArray[np.uint8], geometry: FrameGeometry, cell_mm: float, settings: RefineSettings
) -> Points:
    """The pixels of `image` (H, W) that are worth fitting: the smoothed means of squares of `cell_mm` with the
    highest gradient.

    Raises `ConfigError` for an image of another kind and `GeometryError` when the millimetres are not trusted.
    """
    if image.ndim != 2 or image.dtype != np.uint8:
        raise ConfigError(f"image has shape {image.shape} and dtype {image.dtype}; (H, W) uint8 grey is needed")
    row_mm, column_mm = geometry.require_mm()
    fy, fx = max(1, round(cell_mm / row_mm)), max(1, round(cell_mm / column_mm))
    rows, columns = image.shape[0] // fy, image.shape[1] // fx
    if rows < 3 or columns < 3:
        raise ConfigError(f"image {image.shape} has fewer than 3 x 3 cells of {cell_mm:g} mm; the map is too coarse")
    part = (slice(rows * fy), slice(columns * fx))
    means = image[part].reshape(rows, fy, columns, fx).mean(axis=(1, 3))
    inside = np.ones((rows, columns), np.bool_)
    if geometry.scan_area is not None:
        mask = geometry.scan_area.mask(image.shape)[part]
        inside = np.asarray(mask.reshape(rows, fy, columns, fx).all(axis=(1, 3)))
    means = np.where(inside, smooth(np.where(inside, means, np.nan)), 0).astype(np.float64)
    steep = np.zeros(means.shape)
    gy, gx = means[2:, 1:-1] - means[:-2, 1:-1], means[1:-1, 2:] - means[1:-1, :-2]
    whole = inside[2:, 1:-1] & inside[:-2, 1:-1] & inside[1:-1, 2:] & inside[1:-1, :-2] & inside[1:-1, 1:-1]
    steep[1:-1, 1:-1] = np.where(whole, np.hypot(gy / (fy * row_mm), gx / (fx * column_mm)), 0)
    flat = steep.ravel()
    order = np.arange(flat.size)
    if flat.size > settings.pixels:
        order = np.sort(np.argpartition(-flat, settings.pixels)[: settings.pixels])
    order = order[flat[order] > 0]
    y, x = np.unravel_index(order, means.shape)
    pixel = np.stack([x * fx + (fx - 1) / 2, y * fy + (fy - 1) / 2], axis=1)
    at = np.zeros((len(order), 3))
    at[:, :2] = pixel @ image_from_pixel(geometry).T
    block = np.floor(at[:, :2] / settings.block_mm).astype(np.int64) @ np.array([1, 1 << 20])
    return Points(at=at, levels=means[y, x], block=block)


def refine_pose(
    image: npt.NDArray[np.uint8],
    geometry: FrameGeometry,
    T_world_image: F64,
    covariance: F64,
    local_map: Volume,
    settings: RefineSettings | None = None,
) -> Refinement:
    """`T_world_image` (4, 4), known as well as `covariance` (6, 6) says, corrected by the map.

    `local_map` is what frames before this one were compounded into (`LiveCompounder`), at about 1 mm. A pose that
    cannot be refined comes back unchanged with `refused`; nothing is raised for what an image may hold. Raises
    `ConfigError` for a wrong shape or dtype, `GeometryError` without millimetres.
    """
    settings = settings or RefineSettings()
    prior = np.asarray(covariance, np.float64)
    if T_world_image.shape != (4, 4) or prior.shape != (6, 6):
        raise ConfigError(
            f"T_world_image {T_world_image.shape}, covariance {prior.shape}: (4, 4) and (6, 6) are needed"
        )
    points = frame_points(image, geometry, min(local_map.spacing_mm) / 2, settings)
    if len(points.at) < MIN_POINTS:
        return Refinement(T_world_image=T_world_image, covariance=prior, refused="flat image")
    at_world = points.at @ T_world_image[:3, :3].T + T_world_image[:3, 3]
    near = around(local_map, at_world, settings.max_shift_mm)
    fit = fit_rigid(
        points,
        Field(levels=smooth(near.levels), grid=near.grid),
        T_world_image,
        steps=settings.steps,
        min_slope=settings.min_slope,
        min_share=settings.min_share,
    )
    if fit is None:
        return Refinement(T_world_image=T_world_image, covariance=prior, refused="the map does not hold this frame")
    moved = se3.log(se3.inverse(T_world_image) @ fit.T)
    centre = points.at.mean(axis=0)
    shift = float(
        np.linalg.norm(fit.T[:3, :3] @ centre + fit.T[:3, 3] - T_world_image[:3, :3] @ centre - T_world_image[:3, 3])
    )
    turn = float(np.degrees(np.linalg.norm(moved[:3])))
    refused = ""
    if fit.ncc < settings.min_ncc:
        refused = f"NCC {fit.ncc:.2f} is under {settings.min_ncc:g}"
    elif shift > settings.max_shift_mm or turn > settings.max_turn_deg:
        refused = f"it moved by {shift:.1f} mm and {turn:.1f} degrees"
    T, found = (T_world_image, prior) if refused else (fit.T, fit.covariance + fit.frozen @ prior @ fit.frozen.T)
    return Refinement(
        T_world_image=T,
        covariance=found,
        ncc=fit.ncc,
        used=fit.used,
        free=fit.free,
        eigenvalues=fit.eigenvalues,
        refused=refused,
    )
