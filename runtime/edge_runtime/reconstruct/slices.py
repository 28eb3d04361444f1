"""Three orthogonal slices of a volume, as arrays and as a picture beside the truth."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ConfigError
from edge_runtime.optional import require
from edge_runtime.reconstruct.compare import check_same_lattice, compare
from edge_runtime.reconstruct.volume import Volume

__all__ = ["BACKGROUND", "FAINT", "TEXT", "draw_scale_bar", "draw_slices", "orthogonal_slices", "write_text"]

U8 = npt.NDArray[np.uint8]
Slices = tuple[U8, U8, U8]

# RGB
BACKGROUND = (16, 19, 24)
UNKNOWN = (38, 44, 54)
TEXT = (226, 230, 236)
FAINT = (140, 150, 164)
BELOW = (64, 156, 255)
ABOVE = (255, 110, 64)

MARGIN, GAP, TITLE, LEGEND = 24, 18, 46, 40
CAPTION = 28
DIFFERENCE_RANGE = 20  # grey levels at full colour
NAMES = (("Axial", "z"), ("Coronal", "y"), ("Sagittal", "x"))
BARS_MM = (1, 2, 5, 10, 20, 50, 100)


def orthogonal_slices(volume: Volume, center: npt.ArrayLike | None = None) -> Slices:
    """(axial, coronal, sagittal) uint8 through `center` (x, y, z) in world mm, ready to draw.

    Axial (Y, X): x to the right, y down. Coronal (Z, X) and sagittal (Z, Y): z up. The planes are those of the volume's
    own axes; pixels have the spacing of the volume, so they need not be square. Without `center` the middle of what is
    known is taken; `ConfigError` when `center` lies outside the volume.
    """
    return _cut(volume.data, _center(volume, center))


def _center(volume: Volume, center: npt.ArrayLike | None) -> tuple[int, int, int]:
    """Voxel (z, y, x) of a world point, or of the middle of the known voxels."""
    if center is None:
        at = np.argwhere(volume.known)
        middle = at.mean(axis=0) if len(at) else (np.array(volume.data.shape) - 1) / 2
    else:
        middle = volume.grid.to_index(center)
    z, y, x = (int(n) for n in np.floor(middle + 0.5))
    if not all(0 <= n < side for n, side in zip((z, y, x), volume.data.shape, strict=True)):
        low, high = volume.to_world((0, 0, 0)), volume.to_world(np.array(volume.data.shape) - 1)
        raise ConfigError(f"center {np.asarray(center)} lies outside the volume, whose corners are {low} and {high} mm")
    return z, y, x


def _cut(array: npt.NDArray[np.generic], center: tuple[int, int, int]) -> Slices:
    z, y, x = center
    cuts = (array[z], array[::-1, y], array[::-1, :, x])
    axial, coronal, sagittal = (np.ascontiguousarray(cut, np.uint8) for cut in cuts)
    return axial, coronal, sagittal


def draw_slices(
    volume: Volume, truth: Volume | None = None, *, center: npt.ArrayLike | None = None, panel_px: int = 340
) -> U8:
    """Picture (H, W, 3) uint8 RGB of three orthogonal slices with labels and a scale bar in mm.

    With `truth` (same lattice) a second row shows it, and a third the signed difference where the volume is known.
    `panel_px` is the length of the longest side of the volume, so all panels have one scale. Raises `ConfigError` for
    another lattice, a center outside or `panel_px` not within 64 to 2048, and `MissingDependencyError` without OpenCV.
    """
    if not 64 <= panel_px <= 2048:
        raise ConfigError(f"panel_px {panel_px}: 64 to 2048 is allowed")
    cv2 = require("cv2", "to draw slices")
    at = _center(volume, center)
    sides = np.array(volume.data.shape) * volume.spacing_mm
    scale = panel_px / sides.max()
    z, y, x = (max(1, round(float(n))) for n in sides * scale)
    sizes = ((x, y), (x, z), (y, z))
    rows = _rows(cv2, volume, truth, at, sizes)
    width = max(2 * MARGIN + sum(w for w, _ in sizes) + 2 * GAP, 700 if truth is not None else 420)
    tallest = max(h for _, h in sizes)
    canvas = np.full((TITLE + len(rows) * (tallest + CAPTION) + LEGEND + MARGIN, width, 3), BACKGROUND, np.uint8)
    left = MARGIN + (width - 2 * MARGIN - 2 * GAP - sum(w for w, _ in sizes)) // 2
    write_text(cv2, canvas, _title(volume), (left, 16), 15, TEXT)
    for r, (name, panels) in enumerate(rows):
        top, side = TITLE + r * (tallest + CAPTION), left
        for k, panel in enumerate(panels):
            label = f"{NAMES[k][0]}  {NAMES[k][1]} = {at[k] * volume.spacing_mm[k]:.1f} mm" if r == 0 else name
            write_text(cv2, canvas, label if r == 0 or k == 0 else "", (side, top), 12, FAINT)
            canvas[top + CAPTION - 6 :][: panel.shape[0], side : side + panel.shape[1]] = panel
            side += panel.shape[1] + GAP
    _legend(cv2, canvas, left, scale, volume, truth)
    return canvas


def _title(volume: Volume) -> str:
    z, y, x = volume.spacing_mm
    spacing = f"{z:g} mm voxels" if x == y == z else f"{z:g} x {y:g} x {x:g} mm voxels (z, y, x)"
    size = " x ".join(str(n) for n in volume.data.shape)
    return f"Reconstruction   {size}, {spacing}, poses: {volume.pose_origin}"


def _rows(
    cv2: ModuleType,
    volume: Volume,
    truth: Volume | None,
    at: tuple[int, int, int],
    sizes: tuple[tuple[int, int], ...],
) -> list[tuple[str, list[U8]]]:
    """Name and three RGB panels of each row."""
    known = _cut(volume.known, at)
    rows = [("Reconstruction", _cut(volume.data, at), known)]
    if truth is not None:
        check_same_lattice(volume, truth)
        rows.append(("Truth", _cut(truth.data, at), _cut(truth.known, at)))
    drawn = []
    for name, cuts, masks in rows:
        grey = [np.repeat(cut[..., None], 3, axis=2) for cut in cuts]
        drawn.append((name, [_panel(cv2, g, m, s) for g, m, s in zip(grey, masks, sizes, strict=True)]))
    if truth is not None:
        both = _cut(volume.known & truth.known, at)
        pairs = zip(rows[0][1], rows[1][1], strict=True)
        colour = [_diverging(a.astype(np.int16) - b) for a, b in pairs]
        panels = [_panel(cv2, c, m, s) for c, m, s in zip(colour, both, sizes, strict=True)]
        drawn.append(("Difference (reconstruction - truth)", panels))
    return drawn


def _diverging(difference: npt.NDArray[np.int16]) -> U8:
    """RGB of a signed difference: black at zero, blue below, orange above, full at `DIFFERENCE_RANGE`."""
    share = np.clip(difference / DIFFERENCE_RANGE, -1, 1)[..., None]
    return np.asarray(np.where(share < 0, -share * BELOW, share * ABOVE).astype(np.uint8))


def _panel(cv2: ModuleType, rgb: U8, known: U8, size: tuple[int, int]) -> U8:
    """`rgb` at `size` (width, height), in the colour of the unknown where `known` is 0."""
    share = cv2.resize(known.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)[..., None]
    large = cv2.resize(rgb * known[..., None].astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
    mask = cv2.resize(known, size, interpolation=cv2.INTER_NEAREST)[..., None]
    # the unknown takes no part in the interpolation, so its border is not darkened
    return np.where(mask > 0, large / np.maximum(share, 1e-6) + 0.5, UNKNOWN).clip(0, 255).astype(np.uint8)


def write_text(
    cv2: ModuleType, canvas: U8, text: str, at: tuple[int, int], height: int, colour: tuple[int, int, int]
) -> int:
    """Text with its upper left corner at `at`, `height` px from top to baseline; its width in px."""
    zoom = 4
    size = height * zoom / 26
    (w, _), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size, zoom - 1)
    big = np.zeros((height * 2 * zoom, max(zoom, w + 2 * zoom)), np.uint8)
    cv2.putText(big, text, (0, height * zoom), cv2.FONT_HERSHEY_SIMPLEX, size, 255, zoom - 1, cv2.LINE_AA)
    small = cv2.resize(big, (big.shape[1] // zoom, big.shape[0] // zoom), interpolation=cv2.INTER_AREA)
    x, y = at
    part = canvas[y : y + small.shape[0], x : x + small.shape[1]]
    alpha = small[: part.shape[0], : part.shape[1], None] / 255.0
    part[:] = (part * (1 - alpha) + np.array(colour) * alpha).astype(np.uint8)
    return int(w // zoom)


def draw_scale_bar(cv2: ModuleType, canvas: U8, at: tuple[int, int], scale: float) -> int:
    """A bar of a round length up to 90 px with its length in mm, at `scale` px per mm; where it ends, in px."""
    x, y = at
    fitting = [mm for mm in BARS_MM if mm * scale <= 90] or [BARS_MM[0]]
    bar = round(fitting[-1] * scale)
    canvas[y + 4 : y + 7, x : x + bar] = TEXT
    return x + bar + 10 + write_text(cv2, canvas, f"{fitting[-1]} mm", (x + bar + 8, y), 11, TEXT)


def _legend(cv2: ModuleType, canvas: U8, left: int, scale: float, volume: Volume, truth: Volume | None) -> None:
    """Scale bar, colour bar and the error, along the lower edge."""
    y = canvas.shape[0] - LEGEND
    x = draw_scale_bar(cv2, canvas, (left, y), scale) + 24
    canvas[y : y + 11, x : x + 18] = UNKNOWN
    x += 26 + write_text(cv2, canvas, "not seen", (x + 26, y), 11, FAINT) + 24
    if truth is None:
        return
    ramp = np.linspace(-DIFFERENCE_RANGE, DIFFERENCE_RANGE, 100).astype(np.int16)
    x += write_text(cv2, canvas, f"-{DIFFERENCE_RANGE}", (x, y), 11, FAINT) + 6
    canvas[y : y + 11, x : x + 100] = _diverging(np.repeat(ramp[None], 11, axis=0))
    x += 106 + write_text(cv2, canvas, f"+{DIFFERENCE_RANGE} grey levels", (x + 106, y), 11, FAINT) + 24
    error = compare(volume, truth)
    write_text(cv2, canvas, f"mean |error| {error.mean_absolute:.2f}", (x, y), 11, TEXT)
