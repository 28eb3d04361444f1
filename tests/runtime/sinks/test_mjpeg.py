from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from edge_runtime.errors import ConfigError, PipelineError
from edge_runtime.result import Result
from edge_runtime.sinks import MjpegSink, draw_overlay
from edge_runtime.sinks.local_server import LocalServer

from .conftest import result

cv2 = pytest.importorskip("cv2")


class Viewer:
    """One client of the stream, reading part by part."""

    def __init__(self, port: int) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        self.connection.request("GET", "/stream.mjpg")
        self.answer = self.connection.getresponse()

    def part(self) -> np.ndarray | None:
        """The next picture, RGB; None at the end."""
        line = self.answer.readline()
        if not line:
            return None
        assert line == b"--edge-runtime-frame\r\n"
        assert self.answer.readline() == b"Content-Type: image/jpeg\r\n"
        name, _, size = self.answer.readline().partition(b": ")
        assert name == b"Content-Length"
        assert self.answer.readline() == b"\r\n"
        data = self.answer.read(int(size))
        assert self.answer.read(2) == b"\r\n"
        picture: np.ndarray = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]
        return picture

    def picture(self, shade: int) -> np.ndarray:
        """The next picture whose frame has this shade, whatever is shown before."""
        while (part := self.part()) is not None:
            if abs(float(part[400:440, 500:560].mean()) - shade) < 3:
                return part
        raise AssertionError("the stream ended first")

    def close(self) -> None:
        self.answer.close()
        self.connection.close()


@contextmanager
def opened(**options: object) -> Iterator[MjpegSink]:
    sink = MjpegSink(0, **options)  # type: ignore[arg-type]
    sink.open()
    try:
        yield sink
    finally:
        sink.close()


def looking(sink: MjpegSink, n: int) -> None:
    """Wait until `n` viewers are being served."""
    with sink._changed:
        assert sink._changed.wait_for(lambda: sink._looking == n, 10)


def shaded(shade: int, index: int = 0) -> Result:
    made = result(index)
    made.frame.image[:] = shade
    return made


def test_every_viewer_sees_the_overlay() -> None:
    with opened(quality=95) as sink:
        viewers = [Viewer(sink.port) for _ in range(3)]
        assert viewers[0].answer.status == 200
        assert viewers[0].answer.getheader("Content-Type") == "multipart/x-mixed-replace; boundary=edge-runtime-frame"
        looking(sink, 3)
        for shade in (90, 150):
            sink.write(shaded(shade))
            for viewer in viewers:
                picture = viewer.picture(shade)
                assert np.abs(picture.astype(int) - draw_overlay(shaded(shade))).mean() < 3
        for viewer in viewers:
            viewer.close()


def test_nothing_is_drawn_while_nobody_looks() -> None:
    with opened() as sink:
        sink.write(result())
        assert sink._picture is None
        viewer = Viewer(sink.port)
        looking(sink, 1)
        sink.write(result())
        assert sink._picture is not None
        viewer.close()


def test_a_viewer_that_takes_nothing_delays_neither_the_sink_nor_the_others() -> None:
    with opened() as sink:
        stuck = socket.create_connection(("127.0.0.1", sink.port))
        stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stuck.sendall(b"GET /stream.mjpg HTTP/1.0\r\n\r\n")
        good = Viewer(sink.port)
        looking(sink, 2)
        noise = result(0, (960, 1280, 3))
        noise.frame.image[:] = np.random.default_rng(0).integers(0, 256, noise.frame.image.shape, np.uint8)
        for _ in range(20):  # far more bytes than any socket buffer holds
            sink.write(noise)
        sink.write(shaded(150))
        assert good.picture(150) is not None
        good.close()
        stuck.close()


def test_a_viewer_that_takes_nothing_for_long_is_let_go() -> None:
    with opened(timeout_s=0.2, silent_s=0.01) as sink:
        stuck = socket.create_connection(("127.0.0.1", sink.port))
        stuck.sendall(b"GET /stream.mjpg HTTP/1.0\r\n\r\n")
        looking(sink, 1)
        looking(sink, 0)  # notices fill the buffers, and nobody takes them
        stuck.close()


def test_one_viewer_too_many_is_told_so() -> None:
    with opened(clients=1) as sink:
        first = Viewer(sink.port)
        looking(sink, 1)
        second = Viewer(sink.port)
        assert second.answer.status == 503
        second.close()
        first.close()


def test_silence_is_shown_and_so_is_the_end() -> None:
    with opened(silent_s=0.05) as sink:
        viewer = Viewer(sink.port)
        looking(sink, 1)
        sink.write(shaded(150))
        viewer.picture(150)
        notice = viewer.part()
        assert notice is not None
        assert notice[60:-20, 20:-20].max() < 60  # the overlay is withdrawn
        assert notice.shape == draw_overlay(shaded(150)).shape  # for viewers that scale all to the first picture
    last = notice
    while (part := viewer.part()) is not None:
        last = part
    assert np.abs(last.astype(int) - notice).max() > 60  # another text
    viewer.close()


def test_a_stale_mask_is_not_shown_unless_told() -> None:
    for told in (False, True):
        with opened(stale_outputs=told) as sink:
            viewer = Viewer(sink.port)
            looking(sink, 1)
            sink.write(result(state="stale"))
            picture = viewer.picture(90)
            assert bool(picture[180, 240].max() > 105) is told
            viewer.close()


@pytest.mark.parametrize("path", ["/..", "/etc/passwd", "/stream.mjpg/", "/%2e%2e/", "/favicon.ico"])
def test_there_is_nothing_else_to_be_had(path: str) -> None:
    with opened() as sink:
        connection = http.client.HTTPConnection("127.0.0.1", sink.port, timeout=10)
        connection.request("GET", path)
        assert connection.getresponse().status == 404
        connection.close()


def test_a_page_shows_the_stream_and_only_get_and_head_are_known() -> None:
    with opened() as sink:
        for method, status in (("GET", 200), ("HEAD", 200), ("POST", 501), ("DELETE", 501)):
            connection = http.client.HTTPConnection("127.0.0.1", sink.port, timeout=10)
            connection.request(method, "/")
            answer = connection.getresponse()
            assert answer.status == status
            body = answer.read()
            assert (b"/stream.mjpg" in body) is (method == "GET")
            connection.close()


@pytest.mark.parametrize(("host", "status"), [("evil.example", 403), ("localhost:1", 200), ("[::1]:80", 200)])
def test_a_page_of_another_site_cannot_look_in(host: str, status: int) -> None:
    with opened() as sink:
        connection = http.client.HTTPConnection("127.0.0.1", sink.port, timeout=10)
        connection.request("GET", "/", headers={"Host": host})
        assert connection.getresponse().status == status
        connection.close()


@pytest.mark.parametrize(
    "garbage", [b"\r\n\r\n", b"\x00" * 100 + b"\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b""]
)
def test_garbage_is_survived(garbage: bytes) -> None:
    with opened(timeout_s=0.2) as sink:
        with socket.create_connection(("127.0.0.1", sink.port)) as client:
            client.sendall(garbage)
            client.shutdown(socket.SHUT_WR)
            while client.recv(4096):
                pass
        viewer = Viewer(sink.port)
        assert viewer.answer.status == 200
        viewer.close()
        sink.write(result())


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.2", "::", "example.org", ""])
def test_other_hosts_are_refused_unless_told(host: str) -> None:
    with pytest.raises(ConfigError, match="other_host=True"):
        MjpegSink(0, host=host).open()


def test_another_host_is_served_when_told() -> None:
    with opened(host="0.0.0.0", other_host=True) as sink:
        viewer = Viewer(sink.port)
        assert viewer.answer.status == 200
        viewer.close()


@pytest.mark.parametrize(
    "bad", [{"quality": 0}, {"silent_s": 0}, {"clients": 0}, {"timeout_s": 0}, {"silent_s": float("nan")}]
)
def test_bad_settings_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(bad))):
        MjpegSink(0, **bad).open()  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="port is 70000"):
        MjpegSink(70000).open()


def test_a_port_in_use_is_a_clear_error_and_close_gives_it_back() -> None:
    with opened() as sink:
        with pytest.raises(ConfigError, match="choose another port"):
            MjpegSink(sink.port).open()
        port = sink.port
    again = MjpegSink(port)
    again.open()
    again.close()
    again.close()
    with pytest.raises(PipelineError, match="not open"):
        again.write(result())


def test_close_leaves_no_thread() -> None:
    before = threading.active_count()
    with opened() as sink:
        viewers = [Viewer(sink.port) for _ in range(3)]
        looking(sink, 3)
    assert threading.active_count() == before
    for viewer in viewers:
        viewer.close()


def test_an_error_of_a_page_is_kept_and_stops_the_sink() -> None:
    def broken() -> Any:
        raise ValueError("a bug")

    server = LocalServer({"/": broken}, port=0)
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.request("GET", "/")
    assert connection.getresponse().status == 500
    connection.close()
    server.close()
    assert isinstance(server.failure, ValueError)
    with opened() as sink:
        assert sink._server is not None
        sink._server._server.failure = server.failure
        with pytest.raises(PipelineError, match="a bug"):
            sink.write(result())
