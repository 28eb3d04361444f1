"""Arrays, the replay fake, and a geometry given by the user."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edge_runtime.clock import ManualClock
from edge_runtime.errors import ConfigError, CorruptFrameError, SourceError
from edge_runtime.frame import Frame, FrameGeometry
from edge_runtime.sources import ArraySource, ReplaySource, with_geometry

MM = FrameGeometry(row_mm=0.2, column_mm=0.3, origin="user", trusted=True, reason="")
IMAGES = np.random.default_rng(0).integers(0, 256, (4, 5, 6, 3), dtype=np.uint8)


def test_array_frames_are_owned_copies_in_order() -> None:
    images = IMAGES.copy()
    clock = ManualClock(7)
    with ArraySource(images, fps=4, clock=clock) as source:
        frames = list(source)
    images[:] = 0
    assert [(f.index, f.arrival_ns, f.device_ns) for f in frames] == [(k, 7, k * 250_000_000) for k in range(4)]
    for frame, image in zip(frames, IMAGES, strict=True):
        np.testing.assert_array_equal(frame.image, image)
        assert frame.image.flags.c_contiguous
        assert frame.image.flags.writeable


def test_times_and_geometries_belong_to_their_frames() -> None:
    geometries = [FrameGeometry(row_mm=0.1 * (k + 1), column_mm=0.1, trusted=True, reason="") for k in range(4)]
    source = ArraySource(IMAGES[..., 0], times_ns=[100, 110, 110, 160], geometry=geometries)
    assert source.fps == pytest.approx(3e9 / 60)
    frames = list(source)
    assert [f.device_ns for f in frames] == [0, 10, 10, 60]
    assert [f.geometry for f in frames] == geometries
    assert source.due_ns(4) == 80


@pytest.mark.parametrize(
    ("images", "options"),
    [
        (IMAGES.astype(np.float32), {}),
        (IMAGES[0, :, :, 0], {}),
        (IMAGES[..., :2], {}),
        (IMAGES[:0], {}),
        (IMAGES.tolist(), {}),
        (IMAGES, {"fps": 0}),
        (IMAGES, {"times_ns": [1, 2, 3]}),
        (IMAGES, {"times_ns": [4, 3, 2, 1]}),
        (IMAGES, {"times_ns": [0.0, 0.1, 0.2, 0.3]}),
        (IMAGES, {"geometry": [MM]}),
    ],
)
def test_arrays_that_do_not_fit_are_refused(images: Any, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        ArraySource(images, **options)


def frame(index: int, arrival_ns: int = 0) -> Frame:
    return Frame(image=IMAGES[index], index=index, arrival_ns=arrival_ns, geometry=MM)


def test_replay_gives_the_very_objects_of_its_script() -> None:
    first, last = frame(0), frame(0)
    source = ReplaySource([first, CorruptFrameError("frame 1: damaged", 1), last])
    assert source.read() is first
    with pytest.raises(CorruptFrameError):
        source.read()
    assert source.read() is last
    assert source.read() is None
    source.rewind()
    assert source.read() is first


def test_a_live_replay_waits_for_the_arrival_of_each_frame() -> None:
    clock = ManualClock()
    source = ReplaySource([frame(0, 50), frame(1, 80)], live=True, clock=clock)
    assert source.live
    for due in (50, 80):
        assert source.read() is not None
        assert clock.now_ns() == due


def test_replay_refuses_what_is_neither_frame_nor_error() -> None:
    with pytest.raises(ConfigError, match="ndarray"):
        ReplaySource([IMAGES[0]])  # type: ignore[list-item]


def test_a_users_geometry_replaces_the_files() -> None:
    inner = ArraySource(IMAGES, fps=5)
    with with_geometry(inner, MM) as source:
        assert (source.frame_count, source.fps, source.live, source.due_ns(1)) == (4, 5, False, 200_000_000)
        assert [f.geometry for f in source] == [MM] * 4
        source.rewind()
        assert source.read() is not None
    with pytest.raises(SourceError, match="closed"):
        inner.read()
