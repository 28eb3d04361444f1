"""Frame times of a multi-frame DICOM image (PS3.3 C.7.6.5, Cine module)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edge_runtime.sources.dicom._header import number_of, numbers_of

__all__ = ["DicomTiming", "timing_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DicomTiming:
    """`times_ns` are recorded times since the first frame, or None; `note` says what `fps` stands on."""

    fps: float | None
    times_ns: tuple[int, ...] | None
    note: str


def timing_of(dataset: Any, frames: int) -> DicomTiming:
    """Timing of `frames` frames: Frame Time Vector, else Frame Time, else a display rate, else none.

    A Frame Time Vector holds the increment of each frame over the one before it, so its first value says nothing
    here. Cine Rate and Recommended Display Frame Rate tell how to show the frames, not when they were taken: they
    give `fps` and no times.
    """
    vector, frame_ms = numbers_of(dataset, "FrameTimeVector"), number_of(dataset, "FrameTime")
    note = ""
    if frames == 1:
        return DicomTiming(fps=None, times_ns=None, note="a single image has no frame rate")
    if vector:
        if len(vector) == frames and all(0 <= ms < 1e7 for ms in vector) and sum(vector[1:]) > 0:
            times, total = [0], 0.0
            for ms in vector[1:]:
                total += ms
                times.append(round(total * 1e6))
            return DicomTiming(fps=(frames - 1) * 1e3 / total, times_ns=tuple(times), note="from Frame Time Vector")
        note = f"Frame Time Vector not used ({len(vector)} values for {frames} frames, or out of range); "
    if frame_ms is not None and 0 < frame_ms < 1e7:
        times_ns = tuple(round(i * frame_ms * 1e6) for i in range(frames))
        return DicomTiming(fps=1e3 / frame_ms, times_ns=times_ns, note=f"{note}from Frame Time")
    for keyword, name in (("CineRate", "Cine Rate"), ("RecommendedDisplayFrameRate", "Recommended Display Frame Rate")):
        rate = number_of(dataset, keyword)
        if rate is not None and 0 < rate < 1e4:
            return DicomTiming(fps=rate, times_ns=None, note=f"{note}from {name}, a rate for display")
    return DicomTiming(fps=None, times_ns=None, note=f"{note}the file carries no frame time and no frame rate")
