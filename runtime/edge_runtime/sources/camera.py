"""Cameras through OpenCV: a V4L2 device, a network camera, or a GStreamer pipeline where OpenCV was built with it."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from edge_runtime.clock import Clock
from edge_runtime.errors import ConfigError, CorruptFrameError, SourceError
from edge_runtime.frame import Frame, FrameGeometry
from edge_runtime.optional import require
from edge_runtime.sources.base import Source
from edge_runtime.sources.given import GivenGeometry

__all__ = ["CameraSource", "Capture", "is_network"]

MAX_PIXELS = 2**26
FPS_TOLERANCE = 0.05
WARM_UP = 10
NETWORK = ("http", "https", "rtsp", "rtsps", "rtmp", "srt", "tcp", "udp")
NETWORK_MS = 5000.0  # FFmpeg's time-out for opening and for a read


class Capture(Protocol):
    """The part of `cv2.VideoCapture` that is used."""

    def isOpened(self) -> bool: ...

    def grab(self) -> bool: ...

    def retrieve(self) -> tuple[bool, Any]: ...

    def get(self, prop: int, /) -> float: ...

    def set(self, prop: int, value: float, /) -> bool: ...

    def release(self) -> None: ...


class CameraSource(Source):
    """Live frames of a camera or capture card.

    `device` is a V4L2 index (0 for /dev/video0), a device path, a GStreamer pipeline that ends in `appsink` (a string
    with `!`), or the address of a network camera (`rtsp://...`, `http://.../stream.mjpg`).

    `width`, `height` (pixels), `fps` and `fourcc` (such as "MJPG") are asked of the driver and read back: one that was
    not granted is an error, not a surprise. `opener(device, backend)` makes the capture; by default it is
    `cv2.VideoCapture`. A network camera is read by FFmpeg with a time-out of 5 s; it has no `fps` and no `device_ns`,
    which FFmpeg would make up, and takes no settings: they stand in its address.

    `arrival_ns` is taken when the driver hands the frame over, before it is decoded. `device_ns` is the driver's own
    stamp where it gives one (V4L2: usually the host's monotonic clock). A frame without a pixel is a
    `CorruptFrameError`; when the size changes, a `geometry` that was given is withdrawn, as it was of another size.

    Raises `SourceError` when the device is not there, cannot be opened, gives no first frame, does not grant a setting,
    or stops giving frames (`Reconnecting` opens it again), and when OpenCV has no GStreamer; `ConfigError` for a
    setting out of range, and for any setting of a network camera.
    """

    def __init__(
        self,
        device: int | str | Path,
        *,
        width: int | None = None,
        height: int | None = None,
        fps: float | None = None,
        fourcc: str | None = None,
        geometry: FrameGeometry | None = None,
        clock: Clock | None = None,
        opener: Callable[[int | str, int], Capture] | None = None,
    ) -> None:
        if isinstance(device, bool) or (isinstance(device, int) and device < 0):
            raise ConfigError(f"device is {device!r}; an index from 0, a path or a GStreamer pipeline is needed")
        if (fps is not None and not 0 < fps < math.inf) or any(n is not None and n < 1 for n in (width, height)):
            raise ConfigError(f"width {width}, height {height}, fps {fps}: positive numbers are needed")
        if fourcc is not None and len(fourcc) != 4:
            raise ConfigError(f"fourcc is {fourcc!r}; four letters such as 'MJPG' are needed")
        self._cv2 = require("cv2", "to read a camera")
        target = device if isinstance(device, int) else str(device)
        self._network = isinstance(target, str) and is_network(target)
        if self._network and any(value is not None for value in (width, height, fps, fourcc)):
            raise ConfigError("width, height, fps and fourcc of a network camera are set on the camera; leave them out")
        self._label, backend = _backend(target, self._cv2, injected=opener is not None)
        self._capture = opener(target, backend) if opener else self._opened(target, backend)
        try:
            granted = self._configure(width, height, fps, fourcc)
            super().__init__(
                name=self._label,
                live=True,
                fps=granted,
                timing_note="" if granted is not None else "no frame rate is known of this camera",
                clock=clock,
            )
            self._geometry = GivenGeometry(FrameGeometry() if geometry is None else geometry)
            self._index = 0
            self._warm_up()
        except BaseException:
            self._capture.release()
            raise

    def _opened(self, target: int | str, backend: int) -> Capture:
        cv2 = self._cv2
        waits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, int(NETWORK_MS), cv2.CAP_PROP_READ_TIMEOUT_MSEC, int(NETWORK_MS)]
        capture: Capture = cv2.VideoCapture(target, backend, waits if self._network else [])
        return capture

    def _configure(self, width: int | None, height: int | None, fps: float | None, fourcc: str | None) -> float | None:
        """Set and read back; the frame rate that the driver states."""
        cv2 = self._cv2
        if not self._capture.isOpened():
            raise SourceError(
                f"{self._label} cannot be opened: "
                + (
                    "nobody answers there, or no video that FFmpeg reads; try the address in a player (`ffplay`)"
                    if self._network
                    else "in use by another program, not a capture device, or (a pipeline) wrong; `v4l2-ctl "
                    "--list-devices` and `gst-launch-1.0` tell more"
                )
            )
        self._capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # many drivers refuse; the reader drains them anyway
        code = None if fourcc is None else float(cv2.VideoWriter.fourcc(*fourcc))
        asked = {"fourcc": code, "width": width, "height": height, "fps": fps}
        props = (cv2.CAP_PROP_FOURCC, cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FPS)
        for prop, value in zip(props, asked.values(), strict=True):
            if value is not None:
                self._capture.set(prop, value)
        for (what, value), prop in zip(asked.items(), props, strict=True):
            got = float(self._capture.get(prop))
            slack = FPS_TOLERANCE * value if what == "fps" and value is not None else 0.0
            if value is not None and not abs(got - value) <= slack:
                raise SourceError(
                    f"{self._label}: {what} {fourcc if what == 'fourcc' else value} was asked for and the driver gives "
                    f"{_letters(got) if what == 'fourcc' else f'{got:g}'}; see `v4l2-ctl --list-formats-ext`"
                )
        stated = float(self._capture.get(cv2.CAP_PROP_FPS))
        return stated if 0 < stated < 1e4 and not self._network else None

    def _warm_up(self) -> None:
        """Read until a frame can be decoded, and forget it, so that a dead device fails at the opening."""
        for _ in range(WARM_UP):
            try:
                self._next()
            except CorruptFrameError:  # usual for the first frames of a camera
                continue
            self._index = 0
            return
        raise SourceError(f"{self._label}: none of its first {WARM_UP} frames can be decoded; give another fourcc")

    def _next(self) -> Frame:
        if not self._capture.grab():
            raise SourceError(
                f"{self._label} gave no frame (after {self._index}): unplugged, stopped, or slower than the driver's "
                "time-out"
            )
        arrival_ns = self._clock.now_ns()
        stamp_ms = 0.0 if self._network else float(self._capture.get(self._cv2.CAP_PROP_POS_MSEC))
        ok, image = self._capture.retrieve()
        index = self._index
        self._index += 1
        shape: tuple[int, ...] = () if image is None else image.shape
        plain = len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3))
        if not ok or not plain or 0 in shape or math.prod(shape[:2]) > MAX_PIXELS or image.dtype != "uint8":
            raise CorruptFrameError(f"{self._label}: frame {index} cannot be decoded (shape {shape})", index)
        colour = len(shape) == 3 and shape[2] == 3
        return Frame(
            image=self._cv2.cvtColor(image, self._cv2.COLOR_BGR2RGB) if colour else image.reshape(shape[:2]).copy(),
            index=index,
            arrival_ns=arrival_ns,
            device_ns=round(stamp_ms * 1e6) if math.isfinite(stamp_ms) and 0 < stamp_ms < 1e12 else None,
            geometry=self._geometry.at((int(shape[0]), int(shape[1]))),
        )

    def _release(self) -> None:
        self._capture.release()


def is_network(text: str) -> bool:
    """Whether `text` is the address of a network camera."""
    return text.partition("://")[0].lower() in NETWORK and "://" in text


def _backend(device: int | str, cv2: Any, *, injected: bool) -> tuple[str, int]:
    """What the device is called, and OpenCV's backend for it; refuses what is plainly not there."""
    if isinstance(device, str) and "!" in device:
        if not injected and not re.search(r"GStreamer:\s+YES", cv2.getBuildInformation()):
            raise SourceError(
                f"OpenCV {cv2.__version__} was built without GStreamer, as the wheels are; use the system's OpenCV "
                "(JetPack has it), or give a V4L2 index"
            )
        return "gstreamer pipeline", int(cv2.CAP_GSTREAMER)
    if isinstance(device, str) and is_network(device):
        try:
            parts = urlsplit(device)
            host = parts.hostname
        except ValueError as error:
            raise ConfigError(f"the address of the camera makes no sense: {error}") from error
        if not host:
            raise ConfigError(f"the address {parts.scheme}://... of the camera names no host")
        return f"{parts.scheme}://{host}", int(cv2.CAP_FFMPEG)  # a password may stand in the rest
    path = Path(f"/dev/video{device}" if isinstance(device, int) else device)
    if not injected:
        if not path.exists():
            there = ", ".join(sorted(str(p) for p in Path("/dev").glob("video*"))) or "none"
            raise SourceError(f"there is no camera {path}; found: {there}")
        if not os.access(path, os.R_OK | os.W_OK):
            raise SourceError(f"{path} may not be opened by this user; add the user to the group 'video'")
    return path.name, int(cv2.CAP_V4L2)


def _letters(code: float) -> str:
    number = int(code) if math.isfinite(code) and 0 < code < 2**32 else 0
    return number.to_bytes(4, "little").decode("ascii", "replace") if number else "nothing"
