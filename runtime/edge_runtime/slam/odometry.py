"""Motion from images alone: frame after frame matched with the ones before it, without learning or a tracker."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ConfigError, ReconstructionError
from edge_runtime.slam import se3
from edge_runtime.slam.elevation import Elevation, ElevationCurve, solve_elevation, zones_of
from edge_runtime.slam.inplane import InPlane, Matches, PatchGrid, fit_in_plane, match, spectra
from edge_runtime.slam.motion import Motion

__all__ = ["Odometry", "OdometrySettings", "chain_steps"]

F64 = npt.NDArray[np.float64]

STILL = 0.1  # sigma; below it there is no distance to speak of
UNKNOWN = np.diag([0.05**2] * 3 + [10.0**2] * 3)  # rad^2, mm^2: a hand between frames, when nothing was measured


class OdometrySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is measured and what is refused.

    `max_lag`: how many frames back are matched. `max_shift_px`: in-plane shifts looked for. `min_zones`: share of the
    zones that must lie in the curve's range. `still_mm`: shifts below this, with full correlation, are no motion.
    `cut_correlation`: thumbnails less alike, after some twice as much alike, are of another clip. `clock_factor`: an
    interval this many times the median is a jump of the clock, as is one that is not above 0.
    """

    max_lag: int = 2
    max_shift_px: float = 12.0
    min_zones: float = 0.5
    still_mm: float = 0.05
    cut_correlation: float = 0.3
    clock_factor: float = 4.0

    def __post_init__(self) -> None:
        for name, low, high in (
            ("max_lag", 1, 16), ("max_shift_px", 1.0, 256.0), ("min_zones", 0.0, 1.0), ("still_mm", 0.0, 10.0),
            ("cut_correlation", -1.0, 1.0), ("clock_factor", 1.0, 1000.0),
        ):  # fmt: skip
            if not low <= getattr(self, name) <= high:
                raise ConfigError(f"{name} is {getattr(self, name)}; {low} to {high} is allowed")


@dataclass(frozen=True, slots=True, eq=False)
class _Seen:
    thumbnail: F64
    spectra: npt.NDArray[np.complex128]
    textured: bool
    time_ns: int
    index: int


@dataclass(frozen=True, slots=True, eq=False)
class _Pair:
    """Two frames matched: what was found, and how it stands to the range of the curve."""

    plane: InPlane | None
    elevation: Elevation | None
    above: float
    matches: Matches


class Odometry:
    """Give it the frames of one sweep in order; it gives back how each lies to those before it.

    `grid`: the patches (`grid_of_sweep`, `patch_grid`), with overlay and fan edge masked. `direction` (+1 or -1) is the
    sign of the elevation, which images do not show: set it before the first frame or from another sensor at any time;
    the three-frame test turns it (Housden et al., Ultrasound in Medicine and Biology 33, 2007). Raises `ConfigError`
    when the grid and the curve are for different pixels.
    """

    def __init__(
        self, curve: ElevationCurve, grid: PatchGrid, settings: OdometrySettings | None = None, *, direction: int = 1
    ) -> None:
        if not np.allclose(curve.pixel_mm, grid.pixel_mm, rtol=0.1) or curve.patch_px != grid.side:
            raise ConfigError(
                f"the curve is for patches of {curve.patch_px} px of {curve.pixel_mm} mm, the images have "
                f"{grid.side} px of {grid.pixel_mm} mm; calibrate with the settings that are used"
            )
        if direction not in (1, -1):
            raise ConfigError(f"direction is {direction}; 1 or -1 is allowed")
        self.direction = direction
        self._curve, self._grid = curve, grid
        self._settings = settings or OdometrySettings()
        self._zones = zones_of(grid, curve.band_edges_mm)
        self._seen: deque[_Seen] = deque(maxlen=self._settings.max_lag)
        self._intervals: deque[int] = deque(maxlen=31)
        self._index = 0
        self._last_ns: int | None = None
        self._before: float | None = None  # the distance of the step before, where it was measured
        self._alike: float | None = None  # the correlation of the thumbnails of that step

    def step(self, image: npt.NDArray[np.uint8], time_ns: int) -> tuple[Motion, ...]:
        """Motions from earlier frames to `image` (H, W) uint8 grey, taken at `time_ns`; none for the first frame.

        The first is from the frame before. A second one goes back as far as the distance is still in the range of the
        curve (adaptive lag): the further, the smaller its relative error. A duplicate is refused and forgotten.
        Raises `ConfigError` for an image of another size.
        """
        flags, refused = self._clock(time_ns)
        index, self._index = self._index, self._index + 1
        spectrum = spectra(image, self._grid)
        here = _Seen(_thumbnail(image, self._grid), spectrum, _textured(spectrum, self._grid), time_ns, index)
        if not self._seen:
            self._seen.append(here)
            return ()
        last = self._seen[-1]
        if here.textured and np.array_equal(spectrum, last.spectra):  # a clock in the overlay may have gone on
            return (self._unknown(last, here, "duplicate", (*flags, "duplicate")),)
        refused = refused or self._whole_image(last, here)
        if refused:
            self._seen.clear()
            self._seen.append(here)
            self._before = self._alike = None
            return (self._unknown(last, here, refused, flags),)
        motions = self._motions(here, flags)
        self._seen.append(here)
        return motions

    def _clock(self, time_ns: int) -> tuple[tuple[str, ...], str]:
        last, self._last_ns = self._last_ns, time_ns
        if last is None:
            return (), ""
        interval = time_ns - last
        if interval <= 0:
            return ("clock jump",), "clock jump"
        usual = float(np.median(self._intervals)) if len(self._intervals) >= 3 else float(interval)
        self._intervals.append(interval)
        jump = interval > self._settings.clock_factor * usual
        return (("clock jump",), "clock jump") if jump else ((), "")

    def _whole_image(self, last: _Seen, here: _Seen) -> str:
        """Why the two images cannot be matched at all, or nothing."""
        if not here.textured or not last.textured:
            return "black"
        before, self._alike = self._alike, float(last.thumbnail @ here.thumbnail)
        limit = self._settings.cut_correlation  # speckle alone has no likeness that a cut could end
        return "cut" if before is not None and self._alike < limit <= before - limit else ""

    def _pair(self, earlier: _Seen, here: _Seen) -> _Pair:
        found = match(earlier.spectra, here.spectra, self._grid, max_shift_px=self._settings.max_shift_px)
        elevation = solve_elevation(self._curve, self._zones, found, self._grid.centre_mm)
        rho, known = self._zones.mean(found)
        d, _ = self._curve.distances(self._zones.band, rho)
        sigma = np.asarray(self._curve.sigma_mm)[self._zones.band]
        above = float(np.mean((d > self._curve.max_sigma * sigma) | ~known))
        return _Pair(fit_in_plane(found, self._grid), elevation, above, found)

    def _motions(self, here: _Seen, flags: tuple[str, ...]) -> tuple[Motion, ...]:
        last = self._seen[-1]
        near = self._pair(last, here)
        reason = self._too_fast(near)
        if reason:
            self._before = None
            return (self._unknown(last, here, reason, flags, near.plane),)
        assert near.plane is not None
        assert near.elevation is not None
        far: tuple[_Seen, _Pair] | None = None
        skipped: Elevation | None = None  # of the frame before the last
        for earlier in list(self._seen)[-2::-1]:
            pair = self._pair(earlier, here)
            skipped = skipped or pair.elevation
            if self._too_fast(pair):
                break
            far = (earlier, pair)
        if self._reversed(near.elevation, skipped):
            self.direction = -self.direction
            while len(self._seen) > 1:
                self._seen.popleft()  # a distance across the turn is no sum of steps
            flags = (*flags, "reversal")
        if near.elevation.in_sigma < self._curve.min_sigma:
            still = near.elevation.in_sigma < STILL and float(np.hypot(*near.plane.shift_mm)) < self._settings.still_mm
            flags = (*flags, "stationary" if still else "below range")
        self._before = near.elevation.distance_mm
        motions = [self._motion(last, here, near, flags)]
        if far is not None and "reversal" not in flags and far[1].elevation is not None:
            motions.append(self._motion(far[0], here, far[1], flags))
        return tuple(motions)

    def _too_fast(self, pair: _Pair) -> str:
        if pair.plane is None or pair.elevation is None:
            return "no match"
        return "too fast" if pair.above > 1 - self._settings.min_zones else ""

    def _reversed(self, step: Elevation, skipped: Elevation | None) -> bool:
        """Whether the frame before the last is nearer than the two steps can add up to, within 2 deviations."""
        if self._before is None or skipped is None:
            return False
        floor = self._curve.min_sigma * float(np.median(self._curve.sigma_mm))
        if min(step.distance_mm, self._before) < floor:
            return False
        onward, back = self._before + step.distance_mm, abs(self._before - step.distance_mm)
        doubt = float(np.sqrt(skipped.covariance[2, 2] + 2 * step.covariance[2, 2]))
        found = skipped.distance_mm
        return onward - found > 2 * doubt and abs(found - back) < abs(found - onward)

    def _motion(self, earlier: _Seen, here: _Seen, pair: _Pair, flags: tuple[str, ...]) -> Motion:
        """The pose of the current image in the earlier one: the content moves the other way."""
        plane, elevation = pair.plane, pair.elevation
        assert plane is not None
        assert elevation is not None
        low = elevation.in_sigma < self._curve.min_sigma
        xi, covariance = np.zeros(6), np.zeros((6, 6))
        xi[:2], xi[5] = self.direction * elevation.tilt, self.direction * elevation.distance_mm
        xi[2], xi[3:5] = -plane.angle, -plane.shift_mm
        covariance[np.ix_([0, 1, 5], [0, 1, 5])] = elevation.covariance
        covariance[np.ix_([2, 3, 4], [2, 3, 4])] = plane.covariance
        if low:
            xi[:2] = 0.0
        return self._placed(earlier, here, xi, covariance, "", flags)

    def _unknown(
        self, earlier: _Seen, here: _Seen, reason: str, flags: tuple[str, ...], plane: InPlane | None = None
    ) -> Motion:
        xi = np.zeros(6)
        if plane is not None:
            xi[2], xi[3:5] = -plane.angle, -plane.shift_mm
        return self._placed(earlier, here, xi, UNKNOWN, reason, flags)

    def _placed(
        self, earlier: _Seen, here: _Seen, xi: F64, covariance: F64, refused: str, flags: tuple[str, ...]
    ) -> Motion:
        """`xi` and its covariance are about the grid's centre; the motion is about the image's origin."""
        to_centre = np.eye(4)
        to_centre[:2, 3] = self._grid.centre_mm
        A = se3.adjoint(to_centre)
        return Motion(
            T_prev_cur=to_centre @ se3.exp(xi) @ se3.inverse(to_centre), covariance=A @ covariance @ A.T,
            time_prev_ns=earlier.time_ns, time_ns=here.time_ns, lag=here.index - earlier.index, refused=refused,
            flags=flags,
        )  # fmt: skip


def _textured(spectrum: npt.NDArray[np.complex128], grid: PatchGrid) -> bool:
    """Whether at least 3 patches hold more than rounding noise."""
    power = (np.abs(spectrum) ** 2).sum(axis=(1, 2))
    return int((power > 0.25 * (grid.windows**2).sum(axis=(1, 2)) * grid.side**2).sum()) >= 3


def _thumbnail(image: npt.NDArray[np.uint8], grid: PatchGrid) -> F64:
    """Means of the patches' quarters, of mean 0 and length 1 (0 where flat)."""
    h = grid.side // 2
    cells = [
        image[y + j : y + j + h, x + i : x + i + h].mean() for y, x in grid.corners for j in (0, h) for i in (0, h)
    ]
    found = np.array(cells)
    found -= found.mean()
    length = float(np.linalg.norm(found))
    return np.asarray(found / length if length > 0 else found)


def chain_steps(
    motions: Sequence[Motion], times_ns: Sequence[int], centre_mm: Sequence[float] | F64 = (0.0, 0.0)
) -> tuple[F64, tuple[str, ...]]:
    """Steps (N - 1, 4, 4) between the frames at `times_ns`, and why each is not known ("" where it is).

    A duplicate is a step of nothing, and what follows it starts where the frame before it was. The elevations of all
    lags agree as well as they can (least squares, weighted by their variance) at `centre_mm` (x, y), which should be
    the patches' centre, where they do not hang on the tilt; the rest is that of the motions from frame to frame.
    Raises `ReconstructionError` when no step is known, `ConfigError` for times that occur twice.
    """
    to_centre = np.eye(4)
    to_centre[:2, 3] = centre_mm
    A = se3.adjoint(se3.inverse(to_centre))
    place = {t: k for k, t in enumerate(times_ns)}
    if len(place) < len(times_ns):
        raise ConfigError(f"{len(times_ns) - len(place)} of {len(times_ns)} times occur twice; frames are told by time")
    steps = np.tile(np.eye(4), (len(times_ns) - 1, 1, 1))
    reasons = ["no motion"] * len(steps)
    rows, values = [], []
    for motion in motions:
        if motion.refused == "duplicate":
            reasons[place[motion.time_ns] - 1] = "duplicate"
    for motion in motions:
        spanned = [k for k in range(place[motion.time_prev_ns], place[motion.time_ns]) if reasons[k] != "duplicate"]
        if len(spanned) == 1:
            steps[spanned[0]], reasons[spanned[0]] = motion.T_prev_cur, motion.refused
        if motion.refused:
            continue
        weight = 1 / np.sqrt((A @ motion.covariance @ A.T)[5, 5])
        row = np.zeros(len(steps))
        row[spanned] = weight
        rows.append(row)
        values.append(weight * (motion.T_prev_cur @ to_centre)[2, 3])
    if not rows:
        raise ReconstructionError(f"none of {len(steps)} steps could be measured: {', '.join(sorted(set(reasons)))}")
    found, *_ = np.linalg.lstsq(np.array(rows), np.array(values), rcond=None)
    known = np.array([not reason for reason in reasons])
    steps[known, 2, 3] += found[known] - (steps[known] @ to_centre)[:, 2, 3]
    return steps, tuple(reasons)
