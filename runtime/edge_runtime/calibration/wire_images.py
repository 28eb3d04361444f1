"""Wires of an N-wire phantom found in images.

The outer wires of the patterns are parallel, so an image crosses them in an affine picture of their cross-section:
three bright spots on a line are a pattern only if its ends fit one affine map together with those of the others. That
also says which end is which, unless the phantom is symmetric. (The rule of PLUS, which asks for lines of given angles
and distances in mm, needs the pixel size beforehand; this does not.)
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, permutations

import numpy as np
import numpy.typing as npt

from edge_runtime.calibration.spatial import NWire
from edge_runtime.errors import ConfigError
from edge_runtime.optional import require

__all__ = ["find_wires"]

BLUR = 2.0  # px
SHARE = 0.06  # of the brightest spot; fainter ones are no wires
MAX_SPOTS = 24
OFF_LINE = 0.03  # of the chord: how far a middle spot may lie from it, and outer spots from the affine map
ASPECT = 1.6  # largest ratio of the two scales of the affine map: pixels that are not square, and tilt
PARALLEL = 0.08  # rad
LENGTHS = 0.08  # how far the ratio of two chords may be off
AMBIGUOUS = 2.0  # another reading must fit so many times worse

F64 = npt.NDArray[np.float64]
Triple = tuple[int, int, int]


def find_wires(frames: npt.NDArray[np.uint8], wires: Sequence[NWire]) -> F64:
    """(F, P, 3, 2) pixels (x, y) where F images (F, H, W) uint8 cross the left, middle and right wire of P patterns.

    NaN for an image in which the patterns are not found, all of them and in one way only. Raises `ConfigError` for
    other arrays, fewer than two patterns, or a phantom that looks the same mirrored, and `MissingDependencyError`
    without OpenCV.
    """
    if frames.ndim != 3 or frames.dtype != np.uint8 or 0 in frames.shape:
        raise ConfigError(f"frames have shape {frames.shape} and dtype {frames.dtype}; (F, H, W) uint8 is needed")
    section = _cross_section(wires)
    found = np.full((len(frames), len(wires), 3, 2), np.nan)
    for k, frame in enumerate(frames):
        spots = _spots(frame)
        best = _match(spots, section)
        if best is not None:
            found[k] = spots[np.array(best)]
    return found


def _cross_section(wires: Sequence[NWire]) -> F64:
    """(P, 2, 2) mm: the left and right wire of each pattern as points of a plane across them."""
    if len(wires) < 2:
        raise ConfigError(f"{len(wires)} pattern of wires; two or more are needed to tell them from other echoes")
    along = wires[0].left[1] - wires[0].left[0]
    across = np.linalg.svd(along[None])[2][1:]
    points: F64 = np.array([[wire.left[0], wire.right[0]] for wire in wires]) @ across.T
    for flips in ((1, -1), (-1, 1)):
        if any(_residual(points, points[list(order)][:, ::step])[0] < 1e-2 for order, step in _readings(points, flips)):
            raise ConfigError(
                "the phantom looks the same mirrored or turned, so images do not say which wire is which; "
                "give the points, as fCal of PLUS writes them"
            )
    return points


def _readings(points: F64, steps: tuple[int, int]) -> list[tuple[tuple[int, ...], int]]:
    """Other orders of the patterns and directions of their chords than the true one."""
    same = tuple(range(len(points)))
    orders = [same, same[::-1]]
    return [(order, step) for order in orders for step in steps if (order, step) != (same, 1)]


def _residual(section: F64, pixels: F64) -> tuple[float, F64]:
    """Worst distance of outer points (P, 2, 2) from the best affine map, in mean chords, and the map without shift."""
    flat = section.reshape(-1, 2)
    A = np.column_stack([flat, np.ones(len(flat))])
    M, *_ = np.linalg.lstsq(A, pixels.reshape(-1, 2), rcond=None)
    chord = float(np.linalg.norm(pixels[:, 1] - pixels[:, 0], axis=1).mean())
    return float(np.linalg.norm(A @ M - pixels.reshape(-1, 2), axis=1).max()) / chord, np.asarray(M[:2], np.float64)


def _spots(frame: npt.NDArray[np.uint8]) -> F64:
    """(S, 2) centres (x, y) of bright spots, weighted by their grey levels; the brightest of them."""
    cv2 = require("cv2", "to find wires in images")
    smooth = cv2.GaussianBlur(frame, (0, 0), BLUR)
    floor = max(1.0, SHARE * float(smooth.max()))
    count, labels = cv2.connectedComponents((smooth >= floor).astype(np.uint8))
    if count < 4:
        return np.empty((0, 2))
    level = np.where(labels > 0, smooth.astype(np.float64), 0.0)
    mass = np.bincount(labels.ravel(), level.ravel(), count)
    y, x = np.indices(frame.shape)
    centres = [np.bincount(labels.ravel(), (level * axis).ravel(), count) for axis in (x, y)]
    best = np.argsort(-mass[1:], kind="stable")[:MAX_SPOTS] + 1
    return np.stack(centres, axis=1)[best] / mass[best, None]


def _triples(spots: F64) -> list[Triple]:
    """(first, middle, last) of spots on a line, in both directions."""
    found: list[Triple] = []
    for a, b in combinations(range(len(spots)), 2):
        chord = spots[b] - spots[a]
        length = float(np.hypot(*chord))
        if length == 0:
            continue
        away = spots - spots[a]
        share = away @ chord / length**2
        off = np.abs(away[:, 0] * chord[1] - away[:, 1] * chord[0]) / length**2
        for m in np.flatnonzero((share > OFF_LINE) & (share < 1 - OFF_LINE) & (off < OFF_LINE)):
            found += [(a, int(m), b), (b, int(m), a)]
    return found


def _match(spots: F64, section: F64) -> list[Triple] | None:
    """The spots of each pattern; None when no reading fits, or two fit about as well."""
    triples = _triples(spots)
    if len(triples) < len(section):
        return None
    ends = np.array([(spots[a], spots[b]) for a, _, b in triples])
    chords = ends[:, 1] - ends[:, 0]
    length, angle = np.linalg.norm(chords, axis=1), np.arctan2(chords[:, 1], chords[:, 0])
    widths = np.linalg.norm(section[:, 1] - section[:, 0], axis=1)
    fits: list[tuple[float, list[Triple]]] = []
    for i, j in permutations(range(len(triples)), 2):
        turned = abs((angle[i] - angle[j] + np.pi) % (2 * np.pi) - np.pi)
        ratio = length[i] / length[j] * widths[1] / widths[0]
        if turned > PARALLEL or abs(ratio - 1) > LENGTHS:
            continue
        chosen = _completed(section, ends, [i, j])
        if chosen is None or len({n for k in chosen for n in triples[k]}) < 3 * len(section):
            continue
        off, M = _residual(section, ends[chosen])
        scales = np.linalg.svd(M, compute_uv=False)
        if off <= OFF_LINE and scales[0] <= ASPECT * scales[1]:
            fits.append((off, [triples[k] for k in chosen]))
    fits.sort(key=lambda fit: fit[0])
    if not fits:
        return None
    rival = next((off for off, reading in fits[1:] if _outer(reading) != _outer(fits[0][1])), np.inf)
    twice = [reading for _, reading in fits if _outer(reading) == _outer(fits[0][1])]
    return fits[0][1] if rival > AMBIGUOUS * fits[0][0] and len(twice) == 1 else None


def _outer(reading: list[Triple]) -> tuple[tuple[int, int], ...]:
    return tuple((a, b) for a, _, b in reading)


def _completed(section: F64, ends: F64, chosen: list[int]) -> list[int] | None:
    """Triples for all patterns, by the affine map of the first two."""
    flat = np.column_stack([section.reshape(-1, 2), np.ones(2 * len(section))])
    M, *_ = np.linalg.lstsq(flat[:4], ends[chosen].reshape(-1, 2), rcond=None)
    expected = (flat @ M).reshape(-1, 2, 2)
    width = float(np.linalg.norm(expected[0, 1] - expected[0, 0]))
    for pattern in expected[2:]:
        off = np.linalg.norm(ends - pattern, axis=2).max(axis=1)
        best = int(off.argmin())
        if off[best] > 3 * OFF_LINE * width:
            return None
        chosen = [*chosen, best]
    return chosen
