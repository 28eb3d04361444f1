"""Motion in the image plane: patches matched in the Fourier domain, and a rigid motion fitted to their shifts.

Each patch is correlated with the same patch of another image through their spectra (Kuglin and Hines, 1975), weighted
by their own energy rather than whitened, because speckle fills a band and not the whole of the spectrum. The peak is
refined between pixels by Newton steps on the exact correlation, so that its height is the correlation of the aligned
patches, which is what decorrelation is read from. The doubt of a shift is the Cramer-Rao bound of a delay between two
signals of coherence rho (Knapp and Carter, IEEE TASSP 24, 1976).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ConfigError

__all__ = ["InPlane", "Matches", "PatchGrid", "fit_in_plane", "match", "patch_grid", "spectra", "static_pixels"]

F64 = npt.NDArray[np.float64]
Complex = npt.NDArray[np.complex128]

HIGH_PASS_PX = 6.0  # deviation of the Gaussian that is subtracted
TAPER_PX = 8
MIN_CONTRAST = 0.5  # grey levels, root mean square of the high-passed patch
NEWTON_STEPS = 4
ROBUST_STEPS = 10
TUKEY = 4.685  # 95 % efficient for normal residuals


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PatchGrid:
    """Where the patches lie, `side` px each.

    `corners` (N, 2) int64: first row and column. `centres_mm` (N, 2): x, y of their centres. `windows` (N, side, side):
    weights, 1 with sides that fall to 0 over `TAPER_PX` (Tukey), 0 on masked pixels. `pixel_mm`: (row_mm, column_mm).
    """

    corners: npt.NDArray[np.int64]
    centres_mm: F64
    windows: F64
    side: int
    shape: tuple[int, int]
    pixel_mm: tuple[float, float]

    def __len__(self) -> int:
        return len(self.corners)

    @property
    def centre_mm(self) -> F64:
        """(2,) x, y in mm, the mean of the patches' centres."""
        return np.asarray(self.centres_mm.mean(axis=0))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Matches:
    """What correlating N patches gave.

    `shift_mm` (N, 2): by how much the content moved from the first image to the second, x, y. `rho` (N,): correlation
    of the aligned patches. `cells` (N,): independent cells of speckle in a patch. `covariance` (N, 2, 2): of the shift,
    mm^2. `used` (N,) bool: textured in both images, with a peak inside the range of the search.
    """

    shift_mm: F64
    rho: F64
    cells: F64
    covariance: F64
    used: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class InPlane:
    """The rigid motion of the content about the grid's centre: `angle` in rad, from x to y, `shift_mm` (2,) x, y.

    `covariance` (3, 3): angle, x, y. `inliers`: how many patches agree.
    """

    angle: float
    shift_mm: F64
    covariance: F64
    inliers: int


def static_pixels(frames: Sequence[npt.NDArray[np.uint8]], *, dilate: int = 2) -> npt.NDArray[np.bool_]:
    """(H, W) bool: pixels that are the same in all `frames`, such as text and the border of the fan, and those beside.

    The edge of what never changes holds a correlation at zero shift. `ConfigError` for fewer than 4 frames, or frames
    that are all equal, from which nothing can be told.
    """
    if len(frames) < 4:
        raise ConfigError(f"{len(frames)} frames; at least 4 are needed to tell what stands still in the picture")
    first = np.asarray(frames[0])
    same = np.ones(first.shape, bool)
    for frame in frames[1:]:
        same &= np.asarray(frame) == first
    if same.all():
        raise ConfigError(f"all {len(frames)} frames are equal; frames that move are needed to tell what stands still")
    return _dilated(same, dilate)


def _dilated(mask: npt.NDArray[np.bool_], by: int) -> npt.NDArray[np.bool_]:
    """`mask` grown by `by` pixels along both axes."""
    for _ in range(by):
        grown = mask.copy()
        grown[1:] |= mask[:-1]
        grown[:-1] |= mask[1:]
        mask = grown.copy()
        mask[:, 1:] |= grown[:, :-1]
        mask[:, :-1] |= grown[:, 1:]
    return mask


def patch_grid(
    usable: npt.NDArray[np.bool_],
    pixel_mm: tuple[float, float],
    *,
    side: int = 64,
    border: int = 4,
    min_share: float = 0.6,
) -> PatchGrid:
    """Patches side by side over the `usable` (H, W) pixels, of which each holds at least `min_share`.

    `pixel_mm`: (row_mm, column_mm). Pixels within `border` of one that is not usable are left out, as the edge of the
    fan does not move. Raises `ConfigError` when fewer than 3 patches fit.
    """
    if usable.ndim != 2 or usable.dtype != np.bool_:
        raise ConfigError(f"usable has shape {usable.shape} and dtype {usable.dtype}; (H, W) bool is needed")
    if side < 2 * TAPER_PX or side % 2:
        raise ConfigError(f"side is {side}; an even number of at least 16 px is needed")
    padded = np.pad(usable, 1)  # outside the image nothing is usable
    inside = ~_dilated(~padded, border)[1:-1, 1:-1]
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    taper = _taper(side)
    whole = np.outer(taper, taper)
    corners, windows = [], []
    if len(rows) and len(columns):
        for y in _starts(int(rows[0]), int(rows[-1]) + 1, side):
            for x in _starts(int(columns[0]), int(columns[-1]) + 1, side):
                part = inside[y : y + side, x : x + side]
                if (whole * part).sum() >= min_share * whole.sum():
                    corners.append((y, x))
                    windows.append(whole * part)
    if len(corners) < 3:
        raise ConfigError(
            f"{len(corners)} patches of {side} px fit on the usable pixels of an image of {usable.shape}; at least 3 "
            "are needed: take smaller patches or larger images, or check the scan area"
        )
    at = np.array(corners, np.int64)
    middle = at + (side - 1) / 2
    centres = np.stack([middle[:, 1] * pixel_mm[1], middle[:, 0] * pixel_mm[0]], axis=1)
    return PatchGrid(
        corners=at, centres_mm=centres, windows=np.stack(windows), side=side, shape=usable.shape, pixel_mm=pixel_mm
    )


def _taper(side: int) -> F64:
    """(side,) weights."""
    rise = np.sin(0.5 * np.pi * (np.arange(TAPER_PX) + 0.5) / TAPER_PX) ** 2
    return np.concatenate([rise, np.ones(side - 2 * TAPER_PX), rise[::-1]])


def _starts(low: int, high: int, side: int) -> list[int]:
    """First pixels of patches side by side in the middle of `low` to `high`."""
    count = (high - low) // side
    return [low + (high - low - count * side) // 2 + k * side for k in range(count)]


def spectra(image: npt.NDArray[np.uint8], grid: PatchGrid) -> Complex:
    """(N, side, side // 2 + 1) spectra of the windowed, high-passed patches of `image` (H, W) uint8 grey.

    Raises `ConfigError` for an image of another size than the grid is for.
    """
    if image.shape != grid.shape:
        raise ConfigError(f"the image has shape {image.shape}; the patches are laid out for {grid.shape}")
    n = grid.side
    patches = np.stack([image[y : y + n, x : x + n] for y, x in grid.corners]).astype(np.float64)
    weight = grid.windows.sum(axis=(1, 2), keepdims=True)
    mean = (patches * grid.windows).sum(axis=(1, 2), keepdims=True) / weight
    u, v = _frequencies(n)
    gain = 1 - np.exp(-0.5 * HIGH_PASS_PX**2 * (u**2 + v**2))
    return np.asarray(np.fft.rfft2((patches - mean) * grid.windows) * gain)


def _frequencies(n: int) -> tuple[F64, F64]:
    """Angular frequencies (rad/px) along rows and columns of a half spectrum."""
    rows, columns = np.fft.fftfreq(n), np.fft.rfftfreq(n)
    return np.asarray(2 * np.pi * rows[:, None], np.float64), np.asarray(2 * np.pi * columns[None, :], np.float64)


def match(first: Complex, second: Complex, grid: PatchGrid, *, max_shift_px: float = 12.0) -> Matches:
    """Correlate the spectra of two images (`spectra`), patch by patch, over shifts of up to `max_shift_px`."""
    n = grid.side
    reach = int(max_shift_px)
    if not 1 <= reach < n // 2:
        raise ConfigError(f"max_shift_px is {max_shift_px}; 1 to below half a patch, {n // 2}, is allowed")
    double = np.full(n // 2 + 1, 2.0)  # a half spectrum: all columns but the first and last stand for two
    double[0] = double[-1] = 1.0
    power_a, power_b = (np.abs(first) ** 2 * double).sum(axis=(1, 2)), (np.abs(second) ** 2 * double).sum(axis=(1, 2))
    floor = MIN_CONTRAST**2 * (grid.windows**2).sum(axis=(1, 2)) * n**2
    textured = (power_a > floor) & (power_b > floor)
    cross = np.conj(first) * second * double
    cross /= np.where(textured, np.sqrt(power_a * power_b), 1.0)[:, None, None]
    surface = np.fft.irfft2(cross / double, s=(n, n)) * n**2
    near = np.roll(surface, (reach, reach), axis=(1, 2))[:, : 2 * reach + 1, : 2 * reach + 1]
    best = near.reshape(len(near), -1).argmax(axis=1)
    start = np.stack([best // (2 * reach + 1), best % (2 * reach + 1)], axis=1) - float(reach)
    shift, rho, curvature = _refine(cross, start)
    inside = (np.abs(start) < reach).all(axis=1) & (np.abs(shift - start) <= 1.0).all(axis=1)
    used = textured & inside & (rho > 0)
    # The windows stay where they are and draw the peak towards zero: their own correlation is exp(-c s^2 / 2).
    taper = _taper(n)
    c = float((np.diff(taper, prepend=0.0, append=0.0) ** 2).sum() / (taper**2).sum())
    pull = np.linalg.solve(curvature[used] + 1e-9 * np.eye(2), c * shift[used][..., None])[..., 0]
    shift[used] += rho[used, None] * pull
    rho = rho * np.exp(0.5 * c * (shift**2).sum(axis=1))
    cells = _cells(first, double, grid.windows)
    return Matches(
        shift_mm=shift[:, ::-1] * np.array(grid.pixel_mm[::-1]),
        rho=np.where(textured, np.clip(rho, 0.0, 1.0), 0.0),
        cells=cells,
        covariance=_shift_covariance(rho, curvature, cells, used, grid.pixel_mm),
        used=used,
    )


def _refine(cross: Complex, start: F64) -> tuple[F64, F64, F64]:
    """Shift (N, 2) in rows and columns, correlation there (N,), minus its Hessian (N, 2, 2), by Newton steps."""
    u, v = (f.reshape(-1) for f in _frequencies(cross.shape[1]))
    shift = start.copy()
    for step in range(NEWTON_STEPS + 1):
        turned = cross * np.exp(1j * shift[:, :1] * u)[:, :, None] * np.exp(1j * shift[:, 1:] * v)[:, None, :]
        rows, columns = turned.sum(axis=2), turned.sum(axis=1)
        rho = rows.real.sum(axis=1)
        curvature = np.empty((len(cross), 2, 2))
        curvature[:, 0, 0] = rows.real @ u**2
        curvature[:, 1, 1] = columns.real @ v**2
        curvature[:, 0, 1] = curvature[:, 1, 0] = (turned.real @ v) @ u
        if step == NEWTON_STEPS:
            break
        slope = -np.stack([rows.imag @ u, columns.imag @ v], axis=1)
        concave = (curvature[:, 0, 0] > 0) & (np.linalg.det(curvature) > 1e-12)
        safe = np.where(concave[:, None, None], curvature, np.eye(2))
        move = np.linalg.solve(safe, slope[..., None])[..., 0] * concave[:, None]
        shift = start + np.clip(shift + np.clip(move, -0.5, 0.5) - start, -1.0, 1.0)
    return shift, rho, curvature


def _cells(spectrum: Complex, double: F64, windows: F64) -> F64:
    """Independent cells in each patch: (sum S)^2 / sum S^2 of its power spectrum, times what the window keeps.

    Of one patch only the periodogram is known, whose mean square is twice that of the spectrum.
    """
    power = np.abs(spectrum) ** 2
    total, squares = (power * double).sum(axis=(1, 2)), (power**2 * double).sum(axis=(1, 2))
    w2 = windows**2
    share = w2.sum(axis=(1, 2)) ** 2 / (w2**2).sum(axis=(1, 2)) / windows[0].size
    return np.asarray(np.maximum(1.0, 2 * share * total**2 / np.maximum(squares, 1e-300)))


def _shift_covariance(
    rho: F64, curvature: F64, cells: F64, used: npt.NDArray[np.bool_], pixel_mm: tuple[float, float]
) -> F64:
    """(N, 2, 2) mm^2, x then y; 1 m^2 where nothing was matched."""
    out = np.tile(1e6 * np.eye(2), (len(rho), 1, 1))
    r = np.clip(rho[used], 0.01, 0.999)
    scale = (1 - r**2) / (r * cells[used])  # rho^2 N h / rho, with h the curvature of the correlation itself
    covariance = np.linalg.inv(curvature[used] + 1e-9 * np.eye(2)) * scale[:, None, None]
    mm = np.array(pixel_mm)
    out[used] = (covariance * mm[:, None] * mm)[:, ::-1, ::-1]
    return out


def fit_in_plane(matches: Matches, grid: PatchGrid) -> InPlane | None:
    """The rigid motion that most patches follow, by weighted least squares with Tukey's weights from a median start.

    Linear in the angle, which between frames is small. The covariance grows with the residuals where these are larger
    than their bound. None when fewer than 3 patches were matched or agree.
    """
    used = matches.used
    if used.sum() < 3:
        return None
    p = grid.centres_mm[used] - grid.centre_mm
    s = matches.shift_mm[used]
    A = np.zeros((len(p), 2, 3))
    A[:, 0, 0], A[:, 1, 0] = -p[:, 1], p[:, 0]
    A[:, 0, 1] = A[:, 1, 2] = 1.0
    W = np.linalg.inv(matches.covariance[used])
    x = np.array([0.0, *np.median(s, axis=0)])
    weight = np.ones(len(p))
    for _ in range(ROBUST_STEPS):
        r = s - A @ x
        size = np.sqrt(np.maximum(np.einsum("ni,nij,nj->n", r, W, r), 0.0))
        spread = max(1.0, 1.4826 / 1.1774 * float(np.median(size)))  # the median of a Rayleigh variable is 1.1774
        weight = np.maximum(0.0, 1 - (size / (TUKEY * spread)) ** 2) ** 2
        if (weight > 0.1).sum() < 3:
            return None
        H = np.einsum("nia,nij,njb,n->ab", A, W, A, weight)
        x = np.linalg.solve(H, np.einsum("nia,nij,nj,n->a", A, W, s, weight))
    covariance = np.linalg.inv(H) * spread**2
    return InPlane(angle=float(x[0]), shift_mm=x[1:], covariance=covariance, inliers=int((weight > 0.1).sum()))
