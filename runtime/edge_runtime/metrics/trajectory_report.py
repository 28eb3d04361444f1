"""Every error of one estimate against the truth, by name: what `edge-runtime evaluate-sweep` prints."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ConfigError
from edge_runtime.frame import FrameGeometry
from edge_runtime.metrics.trajectory import (
    ChallengeErrors,
    Score,
    absolute_error,
    challenge_errors,
    drift,
    final_drift_over_distance,
    final_drift_over_path,
    point_paths,
    reference_points,
    relative_error,
    score_2024,
    score_2025,
)
from edge_runtime.reconstruct import Sweep

__all__ = ["LABELS", "Evaluation", "SweepTruth", "evaluate", "mean_of", "table"]

Floats = npt.NDArray[np.float64]

# what is reported, in this order: key, and the label with its unit
LABELS = {
    "gpe_mm": "GPE, mm",
    "gle_mm": "GLE, mm",
    "lpe_mm": "LPE, mm",
    "lle_mm": "LLE, mm",
    "final_drift_over_path": "final drift / path length, %",
    "final_drift_over_distance": "final drift / distance from start, %",
    "final_drift_mm": "final drift, mm",
    "worst_drift_mm": "largest drift, mm",
    "ate_first_mm": "ATE, first frames laid on each other, mm",
    "ate_rigid_mm": "ATE, aligned by a rigid fit, mm",
    "ate_similarity_mm": "ATE, aligned with a scale, mm",
    "rpe_translation_mm": "RPE over one frame, mm",
    "rpe_rotation_deg": "RPE over one frame, degrees",
    "score_2025": "score as TUS-REC 2025",
    "score_2024": "score as TUS-REC 2024, among these",
    "volume_ncc": "correlation of the volumes",
    "swept_overlap": "Dice of the swept voxels",
}
SHARES = ("final_drift_over_path", "final_drift_over_distance")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SweepTruth:
    """A sweep with true poses: `T_world_image` (N, 4, 4) mm, images of `shape` (H, W), `landmarks` (L, 3) from 0.

    `sweep`: the same poses with their frames, where there are any.
    """

    T_world_image: Floats
    geometry: FrameGeometry
    shape: tuple[int, int]
    landmarks: Floats | None = None
    sweep: Sweep | None = None

    @property
    def points(self) -> Floats:
        """(3, 3) mm: the points whose drift and ATE are taken."""
        return reference_points(self.geometry, self.shape)

    @property
    def path_mm(self) -> float:
        """Length of the path of the image's centre."""
        path = point_paths(self.T_world_image, self.points[0])[:, 0]
        return float(np.linalg.norm(np.diff(path, axis=0), axis=1).sum())


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Evaluation:
    """`values` by the keys of `LABELS` but the last two, which need volumes.

    What cannot be had is None there and told in `reasons`.
    The two drift rates are shares, 0.05 for 5 %. `errors`: the four with their means over each frame.
    """

    values: Mapping[str, float | None]
    reasons: Mapping[str, str]
    errors: ChallengeErrors
    score: Score | None


def evaluate(truth: SweepTruth, estimates: Sequence[Floats]) -> list[Evaluation]:
    """Every error of each estimate (N, 4, 4), in their order. Raises what the errors raise for poses that are none.

    A score without landmarks, a drift rate of a sweep that does not move, and a score of 2024 of one estimate alone
    are None with the reason.
    """
    T, geometry, shape, points = truth.T_world_image, truth.geometry, truth.shape, truth.points
    found = [challenge_errors(T, one, geometry, shape, truth.landmarks) for one in estimates]
    still = None
    if truth.landmarks is not None:
        still = challenge_errors(T, np.tile(np.eye(4), (len(T), 1, 1)), geometry, shape, truth.landmarks)
    ranked: list[Score] | str
    try:
        ranked = score_2024(found)
    except ConfigError as error:
        ranked = str(error)
    return [
        _one(truth, one, errors, still, ranked if isinstance(ranked, str) else ranked[k], points)
        for k, (one, errors) in enumerate(zip(estimates, found, strict=True))
    ]


def _one(
    truth: SweepTruth,
    estimate: Floats,
    errors: ChallengeErrors,
    still: ChallengeErrors | None,
    ranked: Score | str,
    points: Floats,
) -> Evaluation:
    T = truth.T_world_image
    reasons: dict[str, str] = {}
    score: Score | None = None
    rates: dict[str, float | None] = dict.fromkeys(SHARES)
    for name, rate in zip(SHARES, (final_drift_over_path, final_drift_over_distance), strict=True):
        try:
            rates[name] = rate(T, estimate, points)
        except ConfigError as error:
            reasons[name] = str(error)
    if isinstance(ranked, str):
        reasons["score_2024"] = ranked
    if still is None:
        reasons |= dict.fromkeys(("gle_mm", "lle_mm", "score_2025", "score_2024"), "no landmarks were given")
    else:
        try:
            score = score_2025(errors, still)
        except ConfigError as error:
            reasons["score_2025"] = str(error)
    way, step = drift(T, estimate, points), relative_error(T, estimate)
    values: dict[str, float | None] = {
        "gpe_mm": errors.gpe,
        "gle_mm": errors.gle,
        "lpe_mm": errors.lpe,
        "lle_mm": errors.lle,
        **rates,
        "final_drift_mm": float(way[-1]),
        "worst_drift_mm": float(way.max()),
        "ate_first_mm": absolute_error(T, estimate, points),
        "ate_rigid_mm": absolute_error(T, estimate, points, align="rigid"),
        "ate_similarity_mm": absolute_error(T, estimate, points, align="similarity"),
        "rpe_translation_mm": step.translation_mm,
        "rpe_rotation_deg": math.degrees(step.rotation_rad),
        "score_2025": None if score is None else score.final,
        "score_2024": None if isinstance(ranked, str) else ranked.final,
    }
    return Evaluation(values=values, reasons=reasons, errors=errors, score=score)


def mean_of(evaluations: Sequence[Evaluation]) -> dict[str, float | None]:
    """The mean of each value over sweeps, as the challenges take it; None where any sweep has none."""
    means: dict[str, float | None] = {}
    for key in LABELS:
        values = [one.values.get(key) for one in evaluations]
        known = [value for value in values if value is not None]
        means[key] = float(np.mean(known)) if len(known) == len(values) else None
    return means


def table(columns: Mapping[str, Mapping[str, float | None]]) -> str:
    """The values of estimates by name, one column each; what is unknown in all of them is left out."""
    width = max(len(label) for label in LABELS.values())
    sizes = {name: max(9, len(name)) for name in columns}
    lines = [" " * width + "".join(f"  {name:>{sizes[name]}}" for name in columns)]
    for key, label in LABELS.items():
        values = {name: found.get(key) for name, found in columns.items()}
        if all(value is None for value in values.values()):
            continue
        cells = ["-" if v is None else f"{100 * v:.2f}" if key in SHARES else f"{v:.3f}" for v in values.values()]
        lines.append(f"{label:<{width}}" + "".join(f"  {c:>{sizes[n]}}" for n, c in zip(sizes, cells, strict=True)))
    return "\n".join(lines)
