"""Poses of the images of a tracked recording: the pixel size taken out, rotations made exact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ConfigError, GeometryError
from edge_runtime.frame import FrameGeometry
from edge_runtime.sources.tracked._graph import TransformGraph, split_name
from edge_runtime.sources.tracked._sequence import TrackedSequence

__all__ = ["ImagePoses", "image_poses", "split_scale"]

RIGID = 1e-3  # recordings keep six digits
SHEAR = 0.1
SAME = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ImagePoses:
    """`T_world_image` (N, 4, 4) rigid, mm, NaN where `usable` (N,) is false; `geometry` one, or one for each record."""

    T_world_image: npt.NDArray[np.float64]
    usable: npt.NDArray[np.bool_]
    geometry: FrameGeometry | tuple[FrameGeometry, ...]


def split_scale(T_to_image: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], FrameGeometry]:
    """A rigid transform (4, 4) and the pixel size, out of one (4, 4) that maps pixels (x, y, 0) to mm.

    The first two columns are the steps of a column and of a row: QR gives their directions, lengths and shear. The
    third is only asked whether the axes are right-handed: an image is flat. Raises `GeometryError` when the matrix is
    not finite, degenerate, left-handed (a mirrored image) or sheared by more than 0.1.
    """
    if T_to_image.shape != (4, 4) or not np.isfinite(T_to_image).all():
        raise GeometryError(f"the image transform {T_to_image.tolist()} is no finite 4x4 matrix; calibrate the probe")
    q, r = np.linalg.qr(T_to_image[:3, :2])
    signs = np.sign(np.diag(r))
    column_mm, row_mm = (float(n) for n in np.abs(np.diag(r)))
    if not (min(column_mm, row_mm) > 1e-9 and np.array_equal(T_to_image[3], (0, 0, 0, 1))):
        raise GeometryError(
            f"the image transform gives pixels of {column_mm:g} x {row_mm:g} mm; two axes of an image with a last row "
            "0 0 0 1 are needed"
        )
    q, r = q * signs, r * signs[:, None]
    normal = np.cross(q[:, 0], q[:, 1])
    if T_to_image[:3, 2] @ normal < 0:
        raise GeometryError(
            "the image transform is left-handed: it mirrors the image. Check the image orientation and the calibration"
        )
    shear = float(r[0, 1] / r[1, 1])
    if abs(shear) > SHEAR:
        raise GeometryError(f"the image transform shears by {shear:.3f} mm per mm, the limit is {SHEAR}; recalibrate")
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = np.column_stack([q, normal]), T_to_image[:3, 3]
    return T, FrameGeometry(
        row_mm=row_mm, column_mm=column_mm, shear=shear, origin="probe-calibration", trusted=True, reason=""
    )


def image_poses(
    sequence: TrackedSequence, transform: str, constants: Mapping[str, npt.NDArray[np.float64]] | None = None
) -> ImagePoses:
    """Where each image lies, by the chain of transforms that `transform` (such as `ImageToReference`) needs.

    `constants` are transforms (4, 4) that the recording does not hold, such as the probe calibration `ImageToProbe`;
    one that it holds too replaces the recorded one. The first step leaves pixels and gives millimetres (`split_scale`),
    the others must be rigid within 1e-3 and are made exactly so. A record is usable when every recorded step is `OK`
    and its image is. Raises `ConfigError` when the chain has a gap, `GeometryError` for a constant that is no such
    transform; a recorded matrix that is none makes its record unusable.
    """
    constants = dict(constants or {})
    for name, T in constants.items():
        split_name(name)
        if np.shape(T) != (4, 4):
            raise ConfigError(f"the constant {name} has shape {np.shape(T)}; (4, 4) is needed")
    graph = TransformGraph({**sequence.transforms, **{k: np.asarray(T, np.float64) for k, T in constants.items()}})
    path = graph.path(transform)
    usable = np.ones(len(sequence), np.bool_) if sequence.frames is None else sequence.images_usable
    for step in path:
        if step.name not in constants:
            usable = usable & sequence.usable(step.name)
    if not path:
        raise ConfigError(f"{transform} goes from a frame to itself; name two, such as ImageToReference")
    first = graph.matrices(path[0])
    T, geometry, fits = _scaled(first, usable)
    usable = usable & fits
    for step in path[1:]:
        T_next, rigid = _made_rigid(graph.matrices(step))
        if step.name in constants and not rigid.all():
            raise GeometryError(f"the constant {step.name} is not rigid within {RIGID}; only {path[0].name} may scale")
        usable = usable & rigid
        T = T_next @ T
    T = np.broadcast_to(T, (len(sequence), 4, 4)).copy()
    T[~usable] = np.nan
    return ImagePoses(T_world_image=T, usable=usable, geometry=geometry)


def _scaled(
    first: npt.NDArray[np.float64], usable: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.float64], FrameGeometry | tuple[FrameGeometry, ...], npt.NDArray[np.bool_]]:
    """Rigid part, geometry and usability of the step out of the image; one geometry where all are the same."""
    if first.ndim == 2:
        T, geometry = split_scale(first)
        return T, geometry, usable
    T, found, fits = np.full(first.shape, np.nan), [FrameGeometry()] * len(first), usable.copy()
    errors = []
    for k in np.flatnonzero(usable):
        try:
            T[k], found[k] = split_scale(first[k])
        except GeometryError as error:
            fits[k] = False
            errors.append(f"record {k}: {error}")
    if errors and not fits.any():
        raise GeometryError(errors[0])
    return T, _one_geometry(found, fits), fits


def _one_geometry(
    found: Sequence[FrameGeometry], fits: npt.NDArray[np.bool_]
) -> FrameGeometry | tuple[FrameGeometry, ...]:
    numbers = [(g.row_mm or 0.0, g.column_mm or 0.0, g.shear) for g, good in zip(found, fits, strict=True) if good]
    if not numbers:
        return FrameGeometry(reason="no record has a usable transform")
    spread = np.ptp(np.array(numbers), axis=0) / (numbers[0][0], numbers[0][1], 1.0)
    return found[int(np.argmax(fits))] if spread.max() <= SAME else tuple(found)


def _made_rigid(T: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """The nearest rigid matrices of (4, 4) or (N, 4, 4), and where they were rigid within `RIGID`."""
    finite = np.asarray(np.isfinite(T).all(axis=(-2, -1)))
    safe = np.where(finite[..., None, None], T, np.eye(4))
    R = safe[..., :3, :3]
    off = np.abs(R @ R.swapaxes(-1, -2) - np.eye(3)).max(axis=(-2, -1))
    bottom = (safe[..., 3, :] == (0, 0, 0, 1)).all(axis=-1)
    rigid = finite & (off <= RIGID) & (np.linalg.det(R) > 0) & bottom
    u, _, vt = np.linalg.svd(R)
    exact = safe.copy()
    exact[..., :3, :3] = u @ vt
    return exact, np.asarray(rigid)
