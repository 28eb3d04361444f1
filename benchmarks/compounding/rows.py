"""The keys of the table; what measures them is imported when it runs."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

from benchmarks.figures import Figure, Row

__all__ = ["ROWS"]


def _row(key: str, what: str, module: str) -> Row:
    def measure() -> Sequence[Figure]:
        try:
            found = import_module(f"benchmarks.{module}")
        except ModuleNotFoundError as error:
            reason = f"{error}: what measures this row is not there yet"
            return [Figure(name=what, value=None, goal="", unit="", n=0, met=None, reason=reason)]
        figures: Sequence[Figure] = getattr(found, f"measure_{key}")()
        return figures

    return Row(key=key, what=what, measure=measure)


ROWS = [
    _row("parity", "parity with the reference volumes of PLUS/IGSIO", "compounding.parity"),
    _row("bias", "the mean against the exact double-precision mean", "compounding.bias"),
    _row("insertion_ratio", "insertion, one thread, over np.bincount", "compounding_own"),
    _row("threads", "two threads over one", "compounding_own"),
    _row("live", "live at 30 fps for 10 minutes", "compounding_own"),
    _row("warm_start", "first call after a fresh install", "compounding_own"),
    _row("geometry", "wires and spheres of known place and size", "compounding.phantoms"),
    _row("spatial_calibration", "N-wire calibration on real recordings", "compounding.calibration"),
    _row("temporal_calibration", "injected time offsets on a real recording", "compounding.calibration"),
    _row("volume_round_trip", "written volumes read back by SimpleITK", "compounding_outputs"),
]
