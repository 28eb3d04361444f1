"""Temporal calibration: the offset between the clocks of the images and of the tracker, from one motion seen by both.

Move the probe up and down over a flat bottom in water: the echo of the bottom moves in the image as the probe moves
in space. The offset is where the two signals correlate most (Treece et al., Phys. Med. Biol. 48, 2003).
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt

from edge_runtime.calibration.residuals import Residuals
from edge_runtime.errors import ConfigError, GeometryError

__all__ = ["TemporalCalibration", "TemporalSettings", "calibrate_offset", "image_motion", "pose_motion"]

BAND = 8  # columns averaged
REACH = 8  # rows about the brightest one that its centroid is over
SHARE = 0.3  # of the brightest column; a column with less shows no echo
ROUNDS = 20
LAG_MS = 1.0
PEAK_MS = 40.0  # half width of the part of the correlation that a parabola is fitted to

F64 = npt.NDArray[np.float64]


class TemporalSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`max_offset_ms`: offsets of up to this size are tried. `min_correlation`: under it there is no common motion.
    `min_images`: images that must fall into the tracker's recording at every offset. `ConfigError` out of range.
    """

    max_offset_ms: float = 500.0
    min_correlation: float = 0.8
    min_images: int = 20

    def __post_init__(self) -> None:
        if not (PEAK_MS < self.max_offset_ms <= 10_000 and 0 < self.min_correlation < 1 and self.min_images >= 5):
            raise ConfigError(
                f"max_offset_ms {self.max_offset_ms} must be above {PEAK_MS:g} and up to 10000, min_correlation "
                f"{self.min_correlation} between 0 and 1, min_images {self.min_images} at least 5"
            )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TemporalCalibration:
    """`offset_ns`: the image's clock less the tracker's; what `PoseBuffer(offset_ns=...)` takes.

    `correlation` at the offset; its sign is lost, for a probe that rises sees the bottom sink. `residuals`: of each
    image, its signal less the line through the tracker's, in the unit of the image signal. Their `condition` is the
    half width of the peak in ms: the lag at which a tenth of the signal's variance is no longer explained.
    """

    offset_ns: int
    correlation: float
    residuals: Residuals


def image_motion(frames: npt.NDArray[np.uint8]) -> F64:
    """(N,) height in rows of a line-shaped echo in N images (N, H, W) uint8.

    In each band of columns the centroid about the brightest row; then the heights are split into a part of the image
    and a part of the column by median polish (Tukey, Exploratory Data Analysis, 1977), so that columns may fade in
    and out and a few may err. Raises `ConfigError` for other arrays and `GeometryError` when an image shows nothing.
    """
    if frames.ndim != 3 or frames.dtype != np.uint8 or frames.shape[2] < BAND or 0 in frames.shape:
        raise ConfigError(f"frames have shape {frames.shape} and dtype {frames.dtype}; (N, H, W) uint8 is needed")
    count, height, width = frames.shape
    rows = np.empty((count, width // BAND))
    for k, frame in enumerate(frames):
        level = frame[:, : width // BAND * BAND].reshape(height, -1, BAND).mean(axis=2, dtype=np.float32)
        peak = level.argmax(axis=0)
        near = np.clip(peak + np.arange(-REACH, REACH + 1)[:, None], 0, height - 1)
        value = np.take_along_axis(level, near, axis=0)
        bright = value.max(axis=0)
        if bright.max() == 0:
            raise GeometryError(f"image {k} is black; an echo that moves with the probe is needed in every image")
        rows[k] = np.where(
            bright >= SHARE * bright.max(), (value * near).sum(axis=0) / np.maximum(value.sum(axis=0), 1), np.nan
        )
    rows = rows[:, np.isfinite(rows).any(axis=0)]
    of_image, of_column = np.zeros(count), np.zeros(rows.shape[1])
    for _ in range(ROUNDS):
        of_image = np.nanmedian(rows - of_column, axis=1)
        of_column = np.nanmedian(rows - of_image[:, None], axis=0)
    return np.asarray(of_image)


def pose_motion(T_world_probe: npt.NDArray[np.float64]) -> F64:
    """(N,) mm along the direction that the positions of N poses (N, 4, 4) vary most in (first principal component).

    Raises `ConfigError` when a pose is not finite, `GeometryError` when the probe stood still.
    """
    if T_world_probe.ndim != 3 or T_world_probe.shape[1:] != (4, 4) or not np.isfinite(T_world_probe).all():
        raise ConfigError(f"poses of shape {T_world_probe.shape} must be (N, 4, 4) and finite; leave out the invalid")
    at = T_world_probe[:, :3, 3] - T_world_probe[:, :3, 3].mean(axis=0)
    _, size, axes = np.linalg.svd(at, full_matrices=False)
    if not size[0] / np.sqrt(len(at)) > 1e-6:
        raise GeometryError("the probe does not move; move it up and down about once in a second")
    return np.asarray(at @ axes[0])


def calibrate_offset(
    image_times_ns: npt.NDArray[np.int64],
    image_signal: F64,
    pose_times_ns: npt.NDArray[np.int64],
    pose_signal: F64,
    settings: TemporalSettings | None = None,
) -> TemporalCalibration:
    """The offset at which `image_signal` (N,) and `pose_signal` (M,) correlate most; times on their own clocks.

    The pose signal is interpolated at the image times less each offset, in steps of 1 ms; a parabola through the
    squared correlation about the best gives the offset below the step. Raises `ConfigError` for lengths or times that
    do not fit and `GeometryError` when the recordings overlap too little, the correlation is too low, or the best
    offset lies at the end of the range.
    """
    settings = settings or TemporalSettings()
    for name, times, signal in (("image", image_times_ns, image_signal), ("pose", pose_times_ns, pose_signal)):
        if times.shape != signal.shape or times.ndim != 1 or times.dtype != np.int64 or len(times) < 3:
            raise ConfigError(f"{name}: times {times.shape} {times.dtype} and signal {signal.shape}; (N,) and int64")
        if (np.diff(times) < 0).any() or not np.isfinite(signal).all():
            raise ConfigError(f"the {name} times fall or its signal is not finite; sort by time, leave out the invalid")
    start = int(pose_times_ns[0])
    image_ms, pose_ms = (image_times_ns - start) / 1e6, (pose_times_ns - start) / 1e6
    reach = settings.max_offset_ms
    lags = np.arange(-np.ceil(reach / LAG_MS), np.ceil(reach / LAG_MS) + 1) * LAG_MS
    inside = (image_ms - reach >= pose_ms[0]) & (image_ms + reach <= pose_ms[-1])
    if inside.sum() < settings.min_images:
        raise GeometryError(
            f"{inside.sum()} images lie inside the tracker's recording at every offset of up to {reach:g} ms, "
            f"{settings.min_images} are needed; record longer or lower max_offset_ms"
        )
    y = image_signal[inside]
    r = np.array([_correlation(np.interp(image_ms[inside] - lag, pose_ms, pose_signal), y) for lag in lags])
    best = int(np.argmax(np.abs(r)))
    if abs(r[best]) < settings.min_correlation:
        raise GeometryError(
            f"the best correlation is {abs(r[best]):.3f}, at least {settings.min_correlation} is needed; move the "
            "probe up and down over a flat bottom, about once in a second"
        )
    side = round(PEAK_MS / LAG_MS)
    if not side <= best < len(lags) - side:
        raise GeometryError(f"the best offset, {lags[best]:g} ms, lies at the end of the range; raise max_offset_ms")
    part = slice(best - side, best + side + 1)
    square, slope, _ = np.polyfit(lags[part] - lags[best], r[part] ** 2, 2)
    offset = float(lags[best] - slope / (2 * square))
    x = np.interp(image_ms - offset, pose_ms, pose_signal)
    line = np.polyfit(x[inside], y, 1)
    found = Residuals(
        values=np.abs(image_signal - np.polyval(line, x)),
        used=inside,
        unit="rows",
        condition=float(np.sqrt(-0.1 / square)),
    )
    return TemporalCalibration(offset_ns=round(offset * 1e6), correlation=float(abs(r[best])), residuals=found)


def _correlation(a: F64, b: F64) -> float:
    """Pearson's correlation; 0 when either is constant."""
    a, b = a - a.mean(), b - b.mean()
    size = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / size if size > 0 else 0.0
