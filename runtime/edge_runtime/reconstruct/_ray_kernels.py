"""Compiled projection. Imported only when a turntable is drawn: it needs numba."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edge_runtime.compiled import compiled

__all__ = ["project"]

EDGE = 1e-6  # voxels; a ray along the outermost voxels is not lost to rounding

U8 = npt.NDArray[np.uint8]
F64 = npt.NDArray[np.float64]


@compiled
def project(data: U8, start: F64, down: F64, right: F64, away: F64, steps: int, out: U8) -> None:
    """Brightest trilinear grey level of `data` along each ray, into `out` (H, W).

    The ray of pixel (v, u) goes through `start + v * down + u * right + k * away`, k from 0 to `steps` - 1, all (3,)
    (z, y, x) in voxels; outside the lattice there is nothing.
    """
    sz, sy, sx = data.shape
    for v in range(out.shape[0]):
        for u in range(out.shape[1]):
            z = start[0] + v * down[0] + u * right[0]
            y = start[1] + v * down[1] + u * right[1]
            x = start[2] + v * down[2] + u * right[2]
            best = 0.0
            for _ in range(steps):
                if -EDGE <= z <= sz - 1 + EDGE and -EDGE <= y <= sy - 1 + EDGE and -EDGE <= x <= sx - 1 + EDGE:
                    c, b, a = int(max(z, 0.0)), int(max(y, 0.0)), int(max(x, 0.0))
                    e, d, f = min(c + 1, sz - 1), min(b + 1, sy - 1), min(a + 1, sx - 1)
                    if (
                        max(
                            max(max(data[c, b, a], data[c, b, f]), max(data[c, d, a], data[c, d, f])),
                            max(max(data[e, b, a], data[e, b, f]), max(data[e, d, a], data[e, d, f])),
                        )
                        > best
                    ):
                        p, q, r = z - c, y - b, x - a
                        near = (1 - q) * ((1 - r) * data[c, b, a] + r * data[c, b, f])
                        near += q * ((1 - r) * data[c, d, a] + r * data[c, d, f])
                        far = (1 - q) * ((1 - r) * data[e, b, a] + r * data[e, b, f])
                        far += q * ((1 - r) * data[e, d, a] + r * data[e, d, f])
                        best = max(best, (1 - p) * near + p * far)
                z, y, x = z + away[0], y + away[1], x + away[2]
            out[v, u] = np.uint8(best + 0.5)
