"""Frame times: which element is used, and what is said when there is none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pydicom")
pytest.importorskip("cv2")

from edge_runtime.sources import DicomSource

FRAMES = 4


@pytest.mark.parametrize(
    ("elements", "fps", "times_ms", "note"),
    [
        ({"FrameTime": 25.0}, 40.0, [0, 25, 50, 75], "from Frame Time"),
        ({"FrameTimeVector": [0, 10, 20, 30]}, 50.0, [0, 10, 30, 60], "Frame Time Vector"),
        ({"FrameTimeVector": [7, 10, 20, 30], "FrameTime": 99.0}, 50.0, [0, 10, 30, 60], "Frame Time Vector"),
        ({"FrameTimeVector": [0, 10], "FrameTime": 25.0}, 40.0, [0, 25, 50, 75], "Vector not used (2 values for 4"),
        ({"FrameTimeVector": [0, -10, 20, 30], "CineRate": 30}, 30.0, None, "Cine Rate"),
        ({"FrameTime": 0.0, "RecommendedDisplayFrameRate": 24}, 24.0, None, "a rate for display"),
        ({"FrameTime": -33.3}, None, None, "no frame time"),
        ({}, None, None, "no frame time"),
    ],
)
def test_timing(
    elements: dict[str, Any],
    fps: float | None,
    times_ms: list[int] | None,
    note: str,
    make_dicom: Callable[..., Path],
) -> None:
    path = make_dicom(bytes(48 * 64 * FRAMES), NumberOfFrames=FRAMES, **elements)
    with DicomSource(path) as source:
        frames = list(source)
    assert source.fps == (None if fps is None else pytest.approx(fps))
    assert note in source.timing_note
    expected = [None] * FRAMES if times_ms is None else [ms * 1_000_000 for ms in times_ms]
    assert [frame.device_ns for frame in frames] == expected
    if fps is None:
        assert source.due_ns(1) is None
    else:
        last = (times_ms or [0, 1e3 / fps, 2e3 / fps, 3e3 / fps])[-1]
        assert source.due_ns(FRAMES) == pytest.approx(last * 1e6 + 1e9 / fps, abs=2)
