"""`temporal_calibration` and `spatial_calibration` on real recordings."""

from __future__ import annotations

import numpy as np

from benchmarks.compounding.cases import sweeps
from benchmarks.figures import Figure
from edge_runtime.calibration import calibrate_offset, image_motion, pose_motion
from edge_runtime.sources.tracked import read_sequence

__all__ = ["measure_temporal_calibration"]

INJECTED_MS = (-200, -150, -100, -50, -10, 0, 10, 50, 100, 150, 200)


def measure_temporal_calibration() -> list[Figure]:
    """Offsets injected into the image times of the water tank recording, and its two halves."""
    folder = sweeps() / "plus_temporal"
    video = read_sequence(folder / "WaterTankBottomTranslationVideoBuffer.igs.mha")
    tracker = read_sequence(folder / "WaterTankBottomTranslationTrackerBuffer-trimmed.igs.mha")
    assert video.frames is not None
    assert video.times_ns is not None
    assert tracker.times_ns is not None
    good = tracker.usable("ProbeToTracker")
    image, pose = image_motion(video.frames), pose_motion(tracker.transforms["ProbeToTracker"][good])
    pose_times = tracker.times_ns[good]

    def offset(part: slice, injected_ms: int = 0) -> float:
        assert video.times_ns is not None
        found = calibrate_offset(video.times_ns[part] + injected_ms * 1_000_000, image[part], pose_times, pose)
        return found.offset_ns / 1e6 - injected_ms

    whole = calibrate_offset(video.times_ns, image, pose_times, pose)
    found = [offset(slice(None), ms) for ms in INJECTED_MS]
    half = len(image) // 2
    first, second = offset(slice(half)), offset(slice(half, None))
    return [
        Figure(
            name="offsets of -200 to 200 ms injected, recovered within",
            value=float(np.ptp(found)),
            goal="<= 5 ms of each other",
            unit="ms",
            n=len(found),
            met=float(np.ptp(found)) <= 5,
            spread=f"offset {np.mean(found):.2f} ms, correlation {whole.correlation:.4f}, residual "
            f"{whole.residuals.rms:.1f} rows of a motion of {np.ptp(image):.0f}, {whole.residuals.n} images",
        ),
        Figure(
            name="the two halves of the recording differ by",
            value=abs(first - second),
            goal="<= 10 ms",
            unit="ms",
            n=2,
            met=abs(first - second) <= 10,
            spread=f"{first:.2f} and {second:.2f} ms",
        ),
    ]
