"""Compiled speckle-reducing anisotropic diffusion. Imported only by the step `srad`: it needs numba.

Yu and Acton, "Speckle reducing anisotropic diffusion", IEEE Trans. Image Process. 11(11):1260-1270, 2002. With the
four differences D to the neighbours, S their sum and G the sum of their squares, the paper's

    q^2 = (G / (2 I^2) - S^2 / (16 I^2)) / (1 + S / (4 I))^2,     c = 1 / (1 + (q^2 - q0^2) / (q0^2 (1 + q0^2)))

is, with a = q0^2 (1 + q0^2), d = (I + S / 4)^2 and n = G / 2 - S^2 / 16, the single division
c = a d / (q0^4 d + n), held at most at 1. Both n and d are never negative for positive I.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edge_runtime.compiled import compiled

__all__ = ["diffuse"]

F32 = npt.NDArray[np.float32]


@compiled
def _coefficients(image: F32, y: int, q0_squared: np.float32, out: F32) -> None:
    """c of row `y` of a padded image into `out[:width]`."""
    one, half, quarter, sixteenth = np.float32(1), np.float32(0.5), np.float32(0.25), np.float32(0.0625)
    a, b = q0_squared * (one + q0_squared), q0_squared * q0_squared
    # views instead of x - 1 and x + 1, which might be negative: so the compiler takes 8 or 16 pixels at once
    above, left, row, right, below = image[y - 1, 1:], image[y], image[y, 1:], image[y, 2:], image[y + 1, 1:]
    for x in range(image.shape[1] - 2):
        here = row[x]
        north, south, west, east = above[x] - here, below[x] - here, left[x] - here, right[x] - here
        total = north + south + west + east
        squares = north * north + south * south + west * west + east * east
        mean = here + quarter * total
        d = mean * mean
        c = a * d / (b * d + (half * squares - sixteenth * total * total))
        out[x] = c if c < one else one


@compiled
def _update(image: F32, y: int, here: F32, below: F32, quarter: np.float32, out: F32) -> None:
    """Row `y` after one step: divergence of c times the gradient, the paper's eqs. for a unit grid."""
    north, left, row, right, south = image[y - 1, 1:], image[y], image[y, 1:], image[y, 2:], image[y + 1, 1:]
    target, here_right = out[y, 1:], here[1:]
    for x in range(image.shape[1] - 2):
        v, c = row[x], here[x]
        flow = c * ((north[x] - v) + (left[x] - v)) + below[x] * (south[x] - v) + here_right[x] * (right[x] - v)
        target[x] = v + quarter * flow


@compiled
def diffuse(now: F32, then: F32, ring: F32, q0_squared: F32, quarter: np.float32) -> bool:
    """One step for each of `q0_squared`, to and fro between `now` and `then` (H + 2, W + 2); true if `then` is last.

    `ring` (2, W + 1) float32 holds the coefficients of two rows; its last column is finite.
    """
    source, target, last = now, then, False
    height, width = now.shape[0] - 2, now.shape[1] - 2
    for step in range(len(q0_squared)):
        for x in range(1, width + 1):
            source[0, x], source[height + 1, x] = source[1, x], source[height, x]
        for y in range(1, height + 1):
            source[y, 0], source[y, width + 1] = source[y, 1], source[y, width]
        _coefficients(source, 1, q0_squared[step], ring[1])
        for y in range(1, height + 1):
            here, below = ring[y & 1], ring[(y + 1) & 1]
            if y < height:
                _coefficients(source, y + 1, q0_squared[step], below)
            _update(source, y, here, below, quarter, target)
        source, target, last = target, source, not last
    return last
