"""`Residuals`: what a calibration leaves unexplained, and its picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edge_runtime.atomic import write_bytes
from edge_runtime.optional import require

__all__ = ["Residuals", "draw_residuals", "far_off"]

SIGMA_OF_MAD = 1.4826
WIDTH, HEIGHT, MARGIN = 900, 360, 50
BINS = 40
INK, GOOD, BAD = (40, 40, 40), (160, 90, 20), (40, 40, 210)  # BGR


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Residuals:
    """Residuals of a calibration: one non-negative number per observation, in `unit`.

    `values` (N,) float64 of all observations, `used` (N,) bool those that the calibration was made from. `condition`:
    ratio of the largest to the smallest singular value of the system that was solved; how much it magnifies noise.
    """

    values: npt.NDArray[np.float64]
    used: npt.NDArray[np.bool_]
    unit: str
    condition: float

    @property
    def n(self) -> int:
        """Observations used."""
        return int(self.used.sum())

    @property
    def rejected(self) -> int:
        """Observations left out as too far off."""
        return int((~self.used).sum())

    @property
    def mean(self) -> float:
        """Mean of the residuals used."""
        return float(self.values[self.used].mean())

    @property
    def rms(self) -> float:
        """Root of the mean square of the residuals used."""
        return float(np.sqrt((self.values[self.used] ** 2).mean()))

    @property
    def p95(self) -> float:
        """95th percentile of the residuals used."""
        return float(np.percentile(self.values[self.used], 95))

    @property
    def worst(self) -> float:
        """Largest of the residuals used."""
        return float(self.values[self.used].max())


def far_off(values: npt.NDArray[np.float64], used: npt.NDArray[np.bool_], cut: float) -> npt.NDArray[np.bool_]:
    """(N,) bool: where `values` exceed `cut` robust deviations (1.4826 times the median of the used ones' size).

    For residuals of a fit, whose centre is 0 (Rousseeuw and Leroy, Robust Regression and Outlier Detection, 1987).
    """
    scale = SIGMA_OF_MAD * float(np.median(np.abs(values[used])))
    return np.asarray(np.abs(values) > max(cut * scale, 1e-9))


def draw_residuals(residuals: Residuals, path: str | Path, *, title: str) -> None:
    """A PNG: the residuals in the order of the observations at the left, their histogram at the right.

    What was rejected is red. Raises `MissingDependencyError` without OpenCV.
    """
    cv2 = require("cv2", "to draw residuals")
    picture = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
    top = max(float(residuals.values.max()), 1e-12)
    split, bottom = WIDTH * 2 // 3, HEIGHT - MARGIN
    rise = (bottom - MARGIN) / top

    def text(words: str, x: int, y: int) -> None:
        cv2.putText(picture, words, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.42, INK, 1, cv2.LINE_AA)

    xs = MARGIN + np.linspace(0, split - 2 * MARGIN, len(residuals.values))
    for x, value, good in zip(xs, residuals.values, residuals.used, strict=True):
        cv2.circle(picture, (round(x), round(bottom - value * rise)), 2, GOOD if good else BAD, -1, cv2.LINE_AA)
    mean = round(bottom - residuals.mean * rise)
    cv2.line(picture, (MARGIN, mean), (split - MARGIN, mean), INK, 1)
    counts, edges = np.histogram(residuals.values[residuals.used], BINS, (0.0, top))
    step = (WIDTH - MARGIN - split) / BINS
    for k, count in enumerate(counts):
        tall = round((bottom - MARGIN) * count / max(int(counts.max()), 1))
        left = round(split + k * step)
        cv2.rectangle(picture, (left, bottom - tall), (round(left + step - 1), bottom), GOOD, -1)
    for left, right in ((MARGIN, split - MARGIN), (split, WIDTH - MARGIN)):
        cv2.line(picture, (left, bottom), (right, bottom), INK, 1)
    text(
        f"{title}: mean {residuals.mean:.3g}, rms {residuals.rms:.3g}, p95 {residuals.p95:.3g} {residuals.unit}, "
        f"n {residuals.n}, rejected {residuals.rejected}",
        MARGIN,
        28,
    )
    text(f"{top:.3g} {residuals.unit}", 4, MARGIN - 6)
    text("observation", MARGIN, HEIGHT - 18)
    text(f"residual, 0 to {edges[-1]:.3g} {residuals.unit}", split, HEIGHT - 18)
    written, packed = cv2.imencode(".png", picture)
    assert written, "a picture of 8-bit colours is encoded"
    write_bytes(Path(path), packed.tobytes())
