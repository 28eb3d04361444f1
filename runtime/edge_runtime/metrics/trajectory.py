"""How far estimated poses are from true ones: the errors of the TUS-REC challenges, drift, ATE and RPE.

Poses are `T_world_image` (N, 4, 4) float64 in mm, as in a `Sweep`: image frame x lateral, y axial, z elevational, its
origin at the centre of pixel (0, 0). Pixels, frames and landmarks are counted from 0 here; the challenge counts pixels
from 1 and frames from 0, and `trajectory_files` is the one place where that is changed. Every error compares motions
against the first frame or the one before, so the two worlds need not agree (`absolute_error` can be asked otherwise).

Definitions: UCL/tus-rec-challenge, assessment.md (2025) and TUS-REC2024/assessment.md (2024); Sturm et al., A benchmark
for the evaluation of RGB-D SLAM systems, IROS 2012 (ATE, RPE); Umeyama, IEEE PAMI 13 (1991).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ConfigError
from edge_runtime.frame import FrameGeometry
from edge_runtime.reconstruct.scan import image_from_pixel
from edge_runtime.slam import se3

__all__ = [
    "Alignment",
    "ChallengeErrors",
    "RelativeError",
    "Score",
    "absolute_error",
    "challenge_errors",
    "drift",
    "final_drift_over_distance",
    "final_drift_over_path",
    "from_first",
    "from_previous",
    "landmark_errors",
    "pixel_errors",
    "point_paths",
    "reference_points",
    "relative_error",
    "score_2024",
    "score_2025",
    "umeyama",
]

Floats = npt.NDArray[np.float64]
Alignment = Literal["none", "first", "rigid", "similarity"]

_FRAMES = 16  # whose row of pixels is held at once
_METRICS = ("gpe", "gle", "lpe", "lle")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ChallengeErrors:
    """The four reconstruction errors of a sweep in mm, and what they are the means of.

    `gpe`, `lpe`: mean distance over all pixels of all frames but the first, mapped to the first frame (global) or to
    the one before (local) by the true and by the estimated motion. `gle`, `lle`: the same over landmarks, None without
    them. `global_mm`, `local_mm` (N - 1,): means over the pixels of each frame but the first. `landmarks`: how many.
    """

    gpe: float
    gle: float | None
    lpe: float
    lle: float | None
    global_mm: Floats
    local_mm: Floats
    landmarks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Normalised errors of a sweep, 1 for no error and the higher the better; `final` is their mean."""

    gpe: float
    gle: float
    lpe: float
    lle: float

    @property
    def final(self) -> float:
        """What the challenge ranks by."""
        return (self.gpe + self.gle + self.lpe + self.lle) / 4

    def to_dict(self) -> dict[str, float]:
        """All of them by name, with the challenge's four means of pairs."""
        return {
            "final": self.final,
            **{name: getattr(self, name) for name in _METRICS},
            "global": (self.gpe + self.gle) / 2,
            "local": (self.lpe + self.lle) / 2,
            "landmark": (self.gle + self.lle) / 2,
            "pixel": (self.gpe + self.lpe) / 2,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class RelativeError:
    """RPE: root mean square over `n` pairs of frames of the translation in mm and of the angle in rad."""

    translation_mm: float
    rotation_rad: float
    n: int


def from_first(T_world_image: Floats) -> Floats:
    """`T_first_k` (N - 1, 4, 4) of all frames but the first. Raises `ConfigError` as every function here does: for
    other shapes, fewer than two frames, numbers that are not finite.
    """
    T = _poses(T_world_image)
    return np.asarray(np.linalg.inv(T[:1]) @ T[1:])


def from_previous(T_world_image: Floats) -> Floats:
    """`T_previous_k` (N - 1, 4, 4) of all frames but the first."""
    T = _poses(T_world_image)
    return np.asarray(np.linalg.inv(T[:-1]) @ T[1:])


def pixel_errors(T_true: Floats, T_estimated: Floats, geometry: FrameGeometry, shape: tuple[int, int]) -> Floats:
    """(M,) mm: mean over all pixels p of an image of `shape` (H, W) of `|T_true p - T_estimated p|`, of M motions.

    `T_true` and `T_estimated` are (M, 4, 4) in mm. A row of pixels of a few frames is all that is held, never a field.
    Raises `GeometryError` when `geometry` is not trusted.
    """
    difference = _pairs(T_true, T_estimated)
    height, width = shape
    if height < 1 or width < 1:
        raise ConfigError(f"shape {shape}; (H, W) of at least one pixel is needed")
    step = difference[..., :2] @ image_from_pixel(geometry)  # (M, 3, 2): mm for each column and row
    columns, sums = np.arange(width, dtype=np.float64), np.zeros(len(difference))
    for first in range(0, len(difference), _FRAMES):
        part = slice(first, first + _FRAMES)
        along, down, start = step[part, :, 0], step[part, :, 1], difference[part, :, 3]
        run = along[..., None] * columns
        row = np.empty_like(run[:, 0])
        for y in range(height):
            off = start + y * down
            square = (run[:, 0] + off[:, 0, None]) ** 2
            for axis in (1, 2):
                np.add(run[:, axis], off[:, axis, None], out=row)
                row *= row
                square += row
            sums[part] += np.sqrt(square, out=square).sum(axis=1)
    return sums / (height * width)


def landmark_errors(T_true: Floats, T_estimated: Floats, landmarks: Floats, geometry: FrameGeometry) -> Floats:
    """(L,) mm: `|T_true p - T_estimated p|` of landmarks (L, 3) = (frame, column, row), all counted from 0.

    The motions (N - 1, 4, 4) are those of frames 1, 2, ...; frame 0 has none and is refused, with `ConfigError`.
    """
    difference = _pairs(T_true, T_estimated)
    marks = np.asarray(landmarks, np.float64)
    if marks.ndim != 2 or marks.shape[1] != 3 or not len(marks) or not np.isfinite(marks).all():
        raise ConfigError(f"landmarks of shape {marks.shape}; (L, 3) finite numbers (frame, column, row) are needed")
    frame = marks[:, 0].astype(np.int64)
    bad = (frame != marks[:, 0]) | (frame < 1) | (frame > len(difference))
    if bad.any():
        raise ConfigError(
            f"landmark {int(np.argmax(bad))} is on frame {marks[bad][0, 0]:g}; whole numbers from 1 to "
            f"{len(difference)} are allowed, for frames count from 0 and the first is what the others are mapped to"
        )
    at = marks[:, 1:] @ image_from_pixel(geometry).T
    chosen = difference[frame - 1]
    return np.asarray(np.linalg.norm((chosen[..., :2] @ at[..., None])[..., 0] + chosen[..., 3], axis=-1))


def challenge_errors(
    T_true: Floats,
    T_estimated: Floats,
    geometry: FrameGeometry,
    shape: tuple[int, int],
    landmarks: Floats | None = None,
) -> ChallengeErrors:
    """GPE, GLE, LPE and LLE of estimated poses (N, 4, 4) in any world, for images of `shape` (H, W).

    The local motions are those between the estimated poses. `landmarks` (L, 3): frame, column, row from 0.
    """
    pairs = [(of(T_true), of(T_estimated)) for of in (from_first, from_previous)]
    dense = [pixel_errors(a, b, geometry, shape) for a, b in pairs]
    sparse = [None if landmarks is None else landmark_errors(a, b, landmarks, geometry) for a, b in pairs]
    means = [None if found is None else float(found.mean()) for found in sparse]
    return ChallengeErrors(
        gpe=float(dense[0].mean()),
        gle=means[0],
        lpe=float(dense[1].mean()),
        lle=means[1],
        global_mm=dense[0],
        local_mm=dense[1],
        landmarks=0 if landmarks is None else len(landmarks),
    )


def score_2025(errors: ChallengeErrors, still: ChallengeErrors) -> Score:
    """Each error as `1 - error / largest`; `still`: the errors of the identity as the estimate of every pose.

    TUS-REC 2025. Negative where the estimate is worse than no motion. Raises `ConfigError` without landmarks or where
    the truth does not move.
    """
    found: dict[str, float] = {}
    for name in _METRICS:
        value, largest = _metric(errors, name), _metric(still, name)
        if largest <= 0:
            raise ConfigError(
                f"the {name.upper()} of no motion is 0: the truth does not move and nothing can be scored"
            )
        found[name] = 1 - value / largest
    return Score(**found)


def score_2024(errors: Sequence[ChallengeErrors], *, among: Sequence[ChallengeErrors] | None = None) -> list[Score]:
    """Each error as `(max - error) / (max - min)` over the estimates `among` which it stands, in the order of `errors`.

    TUS-REC 2024: 1 for the best of those that are compared, 0 for the worst, so it says nothing of one alone. `among`
    is all of `errors` unless given; the challenge's leaderboard leaves out what is worse than its baseline, which then
    falls below 0. Raises `ConfigError` for fewer than two, without landmarks, or where all are equally wrong.
    """
    rivals = errors if among is None else among
    if len(rivals) < 2:
        raise ConfigError(f"{len(rivals)} estimates; the score of 2024 ranks at least two against each other")
    found: list[dict[str, float]] = [{} for _ in errors]
    for name in _METRICS:
        values = [_metric(one, name) for one in rivals]
        best, worst = min(values), max(values)
        if worst == best:
            raise ConfigError(f"all {len(values)} estimates have the {name.upper()} {best:g} mm; they cannot be ranked")
        for one, error in zip(found, errors, strict=True):
            one[name] = (worst - _metric(error, name)) / (worst - best)
    return [Score(**one) for one in found]


def reference_points(geometry: FrameGeometry, shape: tuple[int, int]) -> Floats:
    """(3, 3) mm in the image frame: the centre and the two corners in the depth of an image of `shape` (H, W).

    The points by which RecON (Lmy0217/RecON, utils/metric.py) follows an image.
    """
    bottom, right = shape[0] - 1, shape[1] - 1
    pixels = np.array([(right / 2, bottom / 2), (0, bottom), (right, bottom)])
    return np.column_stack([pixels @ image_from_pixel(geometry).T, np.zeros(3)])


def point_paths(T_world_image: Floats, points: npt.ArrayLike = (0.0, 0.0, 0.0)) -> Floats:
    """(N, P, 3) mm: where `points` (P, 3) or (3,) of each image lie in the frame of the first image."""
    T = _poses(T_world_image)
    return _placed(np.asarray(np.linalg.inv(T[:1]) @ T), points)


def drift(T_true: Floats, T_estimated: Floats, points: npt.ArrayLike = (0.0, 0.0, 0.0)) -> Floats:
    """(N,) mm: distance between where the truth and the estimate put `points`, in the frame of the first image.

    The mean over `points` (P, 3) or (3,), in mm of the image frame; 0 for the first frame.
    """
    true, estimated = (point_paths(T, points) for T in _same(T_true, T_estimated))
    return np.asarray(np.linalg.norm(estimated - true, axis=-1).mean(axis=1))


def final_drift_over_path(T_true: Floats, T_estimated: Floats, points: npt.ArrayLike = (0.0, 0.0, 0.0)) -> float:
    """Drift of the last frame over the length of the true path; the mean of the ratios of the points.

    The final drift rate of RecON (utils/metric.py), with `reference_points`. A share: 0.05 is 5 %. Raises `ConfigError`
    where a point does not move.
    """
    true, estimated = (point_paths(T, points) for T in _same(T_true, T_estimated))
    path = np.linalg.norm(np.diff(true, axis=0), axis=-1).sum(axis=0)
    return _share(np.linalg.norm(estimated[-1] - true[-1], axis=-1), path, "its true path has the length 0")


def final_drift_over_distance(T_true: Floats, T_estimated: Floats, points: npt.ArrayLike = (0.0, 0.0, 0.0)) -> float:
    """Drift of the last frame over the true distance of the last from the first; the mean of the ratios of the points.

    The final drift rate of DualTrack (ImFusionGmbH/DualTrack, src/utils/pose.py), which follows the origin alone. A
    share. It grows without bound on a sweep that returns. Raises `ConfigError` where a point ends where it began.
    """
    true, estimated = (point_paths(T, points) for T in _same(T_true, T_estimated))
    distance = np.linalg.norm(true[-1] - true[0], axis=-1)
    what = "it ends where it began; take the drift over the path"
    return _share(np.linalg.norm(estimated[-1] - true[-1], axis=-1), distance, what)


def absolute_error(
    T_true: Floats,
    T_estimated: Floats,
    points: npt.ArrayLike = (0.0, 0.0, 0.0),
    *,
    align: Alignment = "first",
) -> float:
    """ATE: root mean square distance in mm between the true and the estimated places of `points` over all frames.

    `align`: "none" takes both worlds as one; "first" lays the first images on each other; "rigid" and "similarity" fit
    the estimate to the truth by least squares (Umeyama), the latter with a scale. Raises `ConfigError` for another.
    """
    if align not in get_args(Alignment):
        raise ConfigError(f"align {align!r}; one of {', '.join(get_args(Alignment))} is allowed")
    place = point_paths if align == "first" else _placed
    true, estimated = (place(T, points).reshape(-1, 3) for T in _same(T_true, T_estimated))
    if align in ("rigid", "similarity"):
        scale, R, t = umeyama(estimated, true, scaled=align == "similarity")
        estimated = scale * estimated @ R.T + t
    return float(np.sqrt(((estimated - true) ** 2).sum(axis=1).mean()))


def relative_error(T_true: Floats, T_estimated: Floats, *, delta: int = 1) -> RelativeError:
    """RPE over `delta` frames: of `E = (true motion)^-1 (estimated motion)`, translation and angle, rms over all pairs.

    The translation is that of the origin of the image frame. Raises `ConfigError` unless 1 <= delta < N.
    """
    true, estimated = _same(T_true, T_estimated)
    if not 1 <= delta < len(true):
        raise ConfigError(f"delta {delta}; 1 to {len(true) - 1} is allowed for {len(true)} frames")
    motions = [np.linalg.inv(T[:-delta]) @ T[delta:] for T in (true, estimated)]
    error = np.linalg.inv(motions[0]) @ motions[1]
    return RelativeError(
        translation_mm=float(np.sqrt((error[:, :3, 3] ** 2).sum(axis=1).mean())),
        rotation_rad=float(np.sqrt((se3.log(error)[:, :3] ** 2).sum(axis=1).mean())),
        n=len(error),
    )


def umeyama(source: Floats, target: Floats, *, scaled: bool = False) -> tuple[float, Floats, Floats]:
    """(s, R, t) that minimise the sum of `|target - (s R source + t)|^2` over points (N, 3); s is 1 unless `scaled`.

    Umeyama, equations 40 to 43. Points on a line leave the turn about it open; one of the best is given then. Raises
    `ConfigError` for unequal shapes and, with a scale, for a source that is one point.
    """
    if source.shape != target.shape or source.ndim != 2 or source.shape[1] != 3 or not len(source):
        raise ConfigError(f"points of shapes {source.shape} and {target.shape}; twice (N, 3) is needed")
    middle, goal = source.mean(axis=0), target.mean(axis=0)
    a, b = source - middle, target - goal
    U, d, Vt = np.linalg.svd(b.T @ a / len(a))
    signs = np.array([1.0, 1.0, np.sign(np.linalg.det(U) * np.linalg.det(Vt))])
    R = (U * signs) @ Vt
    scale = 1.0
    if scaled:
        variance = float((a**2).sum() / len(a))
        if variance <= 0:
            raise ConfigError("the estimate does not move; no scale can be fitted")
        scale = float((d * signs).sum() / variance)
    return scale, R, goal - scale * R @ middle


def _poses(T: Floats) -> Floats:
    T = np.asarray(T, np.float64)
    if T.ndim != 3 or T.shape[1:] != (4, 4) or len(T) < 2:
        raise ConfigError(f"poses of shape {T.shape}; (N, 4, 4) with at least two frames is needed")
    good = np.isfinite(T).all(axis=(1, 2)) & (T[:, 3] == (0, 0, 0, 1)).all(axis=1)
    good[good] = np.linalg.det(T[good, :3, :3]) > 0
    if not good.all():
        raise ConfigError(f"pose {int(np.argmin(good))} is no motion: finite numbers, right-handed, last row 0 0 0 1")
    return T


def _same(T_true: Floats, T_estimated: Floats) -> tuple[Floats, Floats]:
    true, estimated = _poses(T_true), _poses(T_estimated)
    if len(true) != len(estimated):
        raise ConfigError(f"{len(true)} true and {len(estimated)} estimated poses; one for each frame is needed")
    return true, estimated


def _pairs(T_true: Floats, T_estimated: Floats) -> Floats:
    """(M, 3, 4) what the true motions differ from the estimated ones."""
    true, estimated = np.asarray(T_true, np.float64), np.asarray(T_estimated, np.float64)
    if true.shape != estimated.shape or true.ndim != 3 or true.shape[1:] != (4, 4) or not len(true):
        raise ConfigError(f"motions of shapes {true.shape} and {estimated.shape}; twice (M, 4, 4) is needed")
    if not (np.isfinite(true).all() and np.isfinite(estimated).all()):
        raise ConfigError("a motion holds numbers that are not finite")
    return np.asarray((true - estimated)[:, :3])


def _placed(T: Floats, points: npt.ArrayLike) -> Floats:
    """(N, P, 3) mm: where the points of each image lie in the world."""
    at = np.atleast_2d(np.asarray(points, np.float64))
    if at.ndim != 2 or at.shape[1] != 3 or not np.isfinite(at).all():
        raise ConfigError(f"points of shape {at.shape}; (P, 3) finite mm in the image frame are needed")
    return np.asarray(at @ np.swapaxes(T[:, :3, :3], 1, 2) + T[:, None, :3, 3])


def _share(part: Floats, whole: Floats, why: str) -> float:
    if (whole <= 0).any():
        raise ConfigError(f"no share can be taken of point {int(np.argmin(whole))}: {why}")
    return float((part / whole).mean())


def _metric(errors: ChallengeErrors, name: str) -> float:
    value: float | None = getattr(errors, name)
    if value is None:
        raise ConfigError(f"there is no {name.upper()}, which the score needs; give the landmarks of the scan")
    return value
