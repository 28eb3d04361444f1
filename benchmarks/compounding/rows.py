"""The keys of the table; what measures them is imported when it runs."""

from __future__ import annotations

from benchmarks.figures import row_of

__all__ = ["ROWS"]

ROWS = [
    row_of("benchmarks.compounding.parity", "parity", "parity with the reference volumes of PLUS/IGSIO"),
    row_of("benchmarks.compounding.bias", "bias", "the mean against the exact double-precision mean"),
    row_of("benchmarks.compounding_own", "insertion_ratio", "insertion, one thread, over np.bincount"),
    row_of("benchmarks.compounding_own", "threads", "two threads over one"),
    row_of("benchmarks.compounding_own", "live", "live at 30 fps for 10 minutes"),
    row_of("benchmarks.compounding_own", "warm_start", "first call after a fresh install"),
    row_of("benchmarks.compounding.phantoms", "geometry", "wires and spheres of known place and size"),
    row_of("benchmarks.compounding.calibration", "spatial_calibration", "N-wire calibration on real recordings"),
    row_of("benchmarks.compounding.calibration", "temporal_calibration", "injected time offsets on a real recording"),
    row_of("benchmarks.compounding_outputs", "volume_round_trip", "written volumes read back by SimpleITK"),
    row_of("benchmarks.hole_filling", "hole_filling", "hole filling, CPU against the reference"),
]
