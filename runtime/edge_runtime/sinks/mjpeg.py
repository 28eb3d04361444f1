"""The overlay as a live picture in a browser: Motion JPEG over HTTP, on this machine unless told."""

from __future__ import annotations

import threading
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ConfigError, PipelineError
from edge_runtime.optional import require
from edge_runtime.result import Result
from edge_runtime.sinks.base import Sink
from edge_runtime.sinks.overlay import draw_notice, draw_overlay

if TYPE_CHECKING:
    from edge_runtime.sinks.local_server import LocalServer

__all__ = ["MjpegSink"]

_BOUNDARY = "edge-runtime-frame"
_PAGE = (
    b"<!doctype html><title>edge-runtime</title><body style='margin:0;background:#000'>"
    b"<img src='/stream.mjpg' alt='live overlay' style='width:100vw;height:100vh;object-fit:contain'>"
)


class MjpegSink(Sink):
    """Shows the newest overlay at `http://HOST:PORT/` (a page) and `/stream.mjpg` (the bare stream).

    Each overlay is drawn and coded once, in the sink's thread, and only while somebody looks. Each of at most `clients`
    viewers has a thread that sends the newest picture there is: a slow one skips pictures, holds one at most, and
    delays nobody; one that takes nothing for `timeout_s` is let go. When no result has come for `silent_s`, viewers
    get a notice in place of the last overlay, and another one when the stream ends, so that a picture that stands
    still is never taken for a live one.

    `port` 0 takes any free one; `port` then says which. `host` other than this machine is refused unless `other_host`:
    there is no password and no encryption. `quality` is that of JPEG, 1 to 100; `stale_outputs` as in `draw_overlay`.
    """

    def __init__(
        self,
        port: int,
        *,
        host: str = "127.0.0.1",
        other_host: bool = False,
        clients: int = 4,
        quality: int = 80,
        silent_s: float = 1.0,
        timeout_s: float = 5.0,
        stale_outputs: bool = False,
        branch: str | None = None,
    ) -> None:
        super().__init__(branch=branch, capacity=1)
        if not 1 <= quality <= 100 or not silent_s > 0:
            raise ConfigError(f"quality {quality}, silent_s {silent_s}: 1 to 100, and above 0, are needed")
        self.port = port
        self.host = host
        self._other_host, self._clients, self._timeout_s = other_host, clients, timeout_s
        self._quality, self._silent_s, self._stale_outputs = quality, silent_s, stale_outputs
        self._changed = threading.Condition()
        self._picture: bytes | None = None  # the newest, coded; None: nobody was looking
        self._number = 0  # of results so far
        self._size = (480, 640)  # of the newest picture: some viewers scale all to the first one
        self._looking = 0
        self._ended = False
        self._server: LocalServer | None = None

    def open(self) -> None:
        """Take the port. Raises `MissingDependencyError` without OpenCV and `ConfigError` for an address refused."""
        from edge_runtime.sinks.local_server import LocalServer

        require("cv2", "to show overlays")
        self._picture, self._ended = None, False
        self._server = LocalServer(
            {"/": self._page, "/stream.mjpg": self._stream},
            port=self.port,
            host=self.host,
            other_host=self._other_host,
            clients=self._clients,
            timeout_s=self._timeout_s,
        )
        self.port = self._server.port

    def write(self, result: Result) -> None:
        """Raises `PipelineError` when serving has failed for another reason than a viewer's own."""
        if self._server is None:
            raise PipelineError("the live view is not open; the pipeline opens it, or call open()")
        if self._server.failure is not None:
            raise PipelineError(f"the live view failed: {self._server.failure}") from self._server.failure
        with self._changed:
            wanted = self._looking > 0
        overlay = draw_overlay(result, stale_outputs=self._stale_outputs) if wanted else None
        picture = None if overlay is None else self._coded(overlay)
        with self._changed:
            self._picture = picture
            self._size = self._size if overlay is None else (overlay.shape[0], overlay.shape[1])
            self._number += 1
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._looking == 0, self._silent_s)  # let the last notice out
        if self._server is not None:
            self._server.close()
            self._server = None

    def _page(self) -> tuple[str, Generator[bytes, None, None]]:
        return "text/html; charset=utf-8", (part for part in (_PAGE,))

    def _stream(self) -> tuple[str, Generator[bytes, None, None]]:
        return f"multipart/x-mixed-replace; boundary={_BOUNDARY}", self._parts()

    def _parts(self) -> Generator[bytes, None, None]:
        """The newest picture again and again, each as one part; runs in the viewer's thread."""
        with self._changed:
            self._looking += 1
            self._changed.notify_all()
            seen = self._number
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._ended or self._number > seen, self._silent_s)  # noqa: B023
                    came, seen, picture, ended = self._number > seen, self._number, self._picture, self._ended
                    size = self._size
                if ended:
                    yield self._part(draw_notice("THE STREAM HAS ENDED", size))
                    return
                if not came:
                    yield self._part(draw_notice(f"NO RESULT FOR {self._silent_s:g} s", size))
                elif picture is not None:
                    yield self._part(picture)
        finally:
            with self._changed:
                self._looking -= 1
                self._changed.notify_all()

    def _part(self, picture: bytes | npt.NDArray[np.uint8]) -> bytes:
        data = picture if isinstance(picture, bytes) else self._coded(picture)
        head = f"--{_BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
        return head.encode() + data + b"\r\n"

    def _coded(self, image: npt.NDArray[np.uint8]) -> bytes:
        cv2: Any = require("cv2", "to show overlays")
        done, data = cv2.imencode(
            ".jpg", np.ascontiguousarray(image[:, :, ::-1]), [cv2.IMWRITE_JPEG_QUALITY, self._quality]
        )
        if not done:
            raise PipelineError(f"OpenCV could not code a picture of {image.shape} as JPEG")
        return bytes(data)
