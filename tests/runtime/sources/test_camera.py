"""A camera behind a fake driver, and the refusals of the real one."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edge_runtime.clock import ManualClock
from edge_runtime.errors import ConfigError, CorruptFrameError, SourceError
from edge_runtime.frame import Frame, FrameGeometry
from edge_runtime.result import Result
from edge_runtime.sinks import MjpegSink, draw_overlay
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


def test_a_network_camera_is_told_by_its_address_alone() -> None:
    seen: list[tuple[int | str, int]] = []

    def opener(device: int | str, backend: int) -> FakeCapture:
        seen.append((device, backend))
        return FakeCapture([IMAGE], stamp_ms=40.0)

    address = "rtsp://doctor:secret@probe.local:554/stream?token=1"
    source = CameraSource(address, opener=opener)
    frame = source.read()
    assert frame is not None
    assert seen == [(address, cv2.CAP_FFMPEG)]
    # FFmpeg makes up a rate and times for such streams; passwords stand in no name
    assert (source.name, source.live, source.fps, frame.device_ns) == ("rtsp://probe.local", True, None, None)
    with pytest.raises(ConfigError, match="set on the camera"):
        CameraSource(address, opener=opener, fps=30)
    for wrong in ("http://", "http://[::1"):
        with pytest.raises(ConfigError, match="address"):
            open_source(wrong)


def test_what_a_live_view_serves_is_read_as_a_network_camera() -> None:
    """From end to end: pictures over HTTP, through FFmpeg, with one size, until the sender ends."""
    if "FFMPEG:                      YES" not in cv2.getBuildInformation():
        pytest.skip("this OpenCV was built without FFmpeg")
    frame = Frame(image=np.zeros((600, 800), np.uint8), index=0, arrival_ns=0)
    shown = Result(frame=frame, branch="seg", state="fresh", reason="", outputs_from=0)
    sink = MjpegSink(0, silent_s=0.3)
    sink.open()
    stop = threading.Event()

    def send() -> None:
        while not stop.wait(0.01):
            sink.write(shown)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        with open_source(f"http://127.0.0.1:{sink.port}/stream.mjpg") as source:
            shapes = {frame.shape for _, frame in zip(range(5), source, strict=False)}
            assert shapes == {draw_overlay(shown).shape[:2]}
            stop.set()
            sender.join()
            sink.close()
            with pytest.raises(SourceError, match=r"http://127\.0\.0\.1 gave no frame"):
                list(source)
    finally:
        stop.set()
        sender.join()
        sink.close()
    with pytest.raises(SourceError, match="nobody answers there"):
        open_source(f"http://127.0.0.1:{sink.port}/stream.mjpg")


def test_a_text_of_digits_is_a_camera_unless_a_file_has_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SourceError, match="there is no camera /dev/video63"):
        open_source("63")
    cv2.imwrite("63.png", IMAGE)
    Path("63.png").rename("63")
    assert open_source("63").frame_count == 1
    with pytest.raises(ConfigError, match="empty text"):
        open_source("")


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
