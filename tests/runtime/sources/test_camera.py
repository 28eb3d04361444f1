"""A camera behind a fake driver, and the refusals of the real one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edge_runtime.clock import ManualClock
from edge_runtime.errors import ConfigError, CorruptFrameError, SourceError
from edge_runtime.frame import FrameGeometry
from edge_runtime.sources import CameraSource, open_source

IMAGE = np.zeros((4, 6), np.uint8)
MM = FrameGeometry(row_mm=0.5, column_mm=0.25, origin="user", trusted=True, reason="")


class FakeCapture:
    """A driver: plays `images` (None: a grab that fails) after one warm-up frame, and grants what is in `grants`."""

    def __init__(
        self, images: Sequence[Any], *, opened: bool = True, grants: bool = True, stamp_ms: float = 0.0
    ) -> None:
        self.images = [IMAGE, *images]
        self.opened, self.grants, self.stamp_ms = opened, grants, stamp_ms
        self.values: dict[int, float] = {int(cv2.CAP_PROP_FPS): 25.0}
        self.released = 0
        self.at = -1

    def isOpened(self) -> bool:
        return self.opened

    def grab(self) -> bool:
        self.at += 1
        return self.at < len(self.images) and self.images[self.at] is not None

    def retrieve(self) -> tuple[bool, Any]:
        return True, self.images[self.at]

    def get(self, prop: int, /) -> float:
        return self.stamp_ms if prop == cv2.CAP_PROP_POS_MSEC else self.values.get(prop, 0.0)

    def set(self, prop: int, value: float, /) -> bool:
        if self.grants:
            self.values[prop] = value
        return self.grants

    def release(self) -> None:
        self.released += 1


def camera(capture: FakeCapture, **options: Any) -> CameraSource:
    return CameraSource(0, opener=lambda device, backend: capture, **options)


def test_a_camera_gives_rgb_frames_with_both_clocks() -> None:
    red = np.zeros((2, 3, 3), np.uint8)
    red[..., 2] = 200  # OpenCV's order is BGR
    capture = FakeCapture([red, IMAGE], stamp_ms=12.5)
    with camera(capture, width=6, height=4, fps=30, fourcc="MJPG", clock=ManualClock(9)) as source:
        assert (source.live, source.fps, source.name) == (True, 30.0, "video0")
        frame, grey = source.read(), source.read()
    assert frame is not None
    assert grey is not None
    assert (frame.index, frame.arrival_ns, frame.device_ns) == (0, 9, 12_500_000)
    assert frame.image[0, 0].tolist() == [200, 0, 0]
    assert (grey.index, grey.image.shape) == (1, (4, 6))
    assert capture.released == 1


def test_the_backend_follows_the_device() -> None:
    seen = []

    def opener(device: int | str, backend: int) -> FakeCapture:
        seen.append((device, backend))
        return FakeCapture([])

    pipeline = "v4l2src ! videoconvert ! appsink"
    for device in (3, "/dev/video7", pipeline):
        CameraSource(device, opener=opener).close()
    assert seen == [(3, cv2.CAP_V4L2), ("/dev/video7", cv2.CAP_V4L2), (pipeline, cv2.CAP_GSTREAMER)]


def test_a_setting_that_is_not_granted_is_an_error() -> None:
    for setting, message in (
        ({"width": 640}, "width 640 was asked for and the driver gives 0"),
        ({"fps": 60}, "fps 60 was asked for and the driver gives 25"),
        ({"fourcc": "MJPG"}, "fourcc MJPG was asked for and the driver gives nothing"),
    ):
        capture = FakeCapture([], grants=False)
        with pytest.raises(SourceError, match=message):
            camera(capture, **setting)
        assert capture.released == 1
    assert camera(FakeCapture([], grants=False), fps=25.5).fps == 25.0


def test_a_camera_that_stops_or_never_starts() -> None:
    with pytest.raises(SourceError, match="cannot be opened"):
        camera(FakeCapture([], opened=False))
    dead = FakeCapture([])
    dead.images = []
    with pytest.raises(SourceError, match=r"gave no frame \(after 0\)"):
        camera(dead)
    assert dead.released == 1
    source = camera(FakeCapture([IMAGE, None]))
    assert source.read() is not None
    with pytest.raises(SourceError, match=r"gave no frame \(after 1\)"):
        source.read()


@pytest.mark.parametrize(
    "bad", [np.zeros((0, 4), np.uint8), np.zeros((2, 2, 4), np.uint8), np.zeros((2, 2), np.float32)]
)
def test_a_frame_that_is_none_is_corrupt_and_the_next_is_read(bad: Any) -> None:
    source = camera(FakeCapture([bad, IMAGE]))
    with pytest.raises(CorruptFrameError) as caught:
        source.read()
    assert caught.value.index == 0
    frame = source.read()
    assert frame is not None
    assert frame.index == 1
    hopeless = FakeCapture([bad] * 20)
    hopeless.images[0] = bad
    with pytest.raises(SourceError, match="none of its first 10 frames"):
        camera(hopeless)


def test_a_change_of_size_withdraws_the_calibration() -> None:
    source = camera(FakeCapture([IMAGE, np.zeros((8, 12), np.uint8), IMAGE]), geometry=MM)
    geometries = [frame.geometry for frame in (source.read(), source.read(), source.read()) if frame]
    assert geometries[0] == MM
    assert not geometries[1].trusted
    assert "from 4 x 6 to 8 x 12" in geometries[1].reason
    assert not geometries[2].trusted


def test_a_camera_that_is_not_there_is_refused() -> None:
    """Without a camera, all that can be tested of the real thing is its refusal."""
    with pytest.raises(SourceError, match="there is no camera /dev/video63"):
        CameraSource(63)
    with pytest.raises(SourceError, match="there is no camera /dev/video63"):
        open_source(63)
    if "GStreamer:                   NO" in cv2.getBuildInformation():
        with pytest.raises(SourceError, match="without GStreamer"):
            open_source("videotestsrc ! appsink")
    with pytest.raises(SourceError, match="cannot be opened"):
        open_source(Path("/dev/null"))
    for wrong in ({"device": -1}, {"device": True}, {"width": 0}, {"fps": -1}, {"fourcc": "MJPEG"}):
        with pytest.raises(ConfigError):
            CameraSource(**({"device": 0} | wrong))
