"""A small HTTP server for pages about a running stream: a fixed table of paths, on this machine unless told."""

from __future__ import annotations

import ipaddress
import socket
import socketserver
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import closing, suppress
from http.server import BaseHTTPRequestHandler

from edge_runtime.errors import ConfigError

__all__ = ["LocalServer", "Page", "checked_address"]

# what a path answers: the content type, and the parts of the body as they come; closed when the client is gone
Page = Callable[[], tuple[str, Generator[bytes, None, None]]]

_JOIN_S = 5.0
_LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")


def checked_address(host: str, port: int, *, other_host: bool) -> None:
    """Raises `ConfigError` for a port out of range, and for a host that others can reach unless `other_host`."""
    if not 0 <= port <= 65535:
        raise ConfigError(f"port is {port}; 0 (any free one) to 65535 is allowed")
    if not (other_host or _is_local(host)):
        raise ConfigError(
            f"host is {host!r}: others than this machine could look in, without a password; use '127.0.0.1', or say "
            "other_host=True where the network is closed"
        )


def _is_local(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class LocalServer:
    """Answers GET and HEAD of the paths in `pages`, each client in a thread of its own, until `close`.

    At most `clients` are served at a time; one more is told 503. A client that takes nothing for `timeout_s` is let go.
    A request that names another host than this machine is refused while only this machine is served: it came through a
    web page (DNS rebinding). Raises `ConfigError` for an address that cannot be had, besides what `checked_address`
    refuses. `port` is the one that was got, `failure` what a page raised, if any.
    """

    def __init__(
        self,
        pages: Mapping[str, Page],
        *,
        port: int,
        host: str = "127.0.0.1",
        other_host: bool = False,
        clients: int = 4,
        timeout_s: float = 5.0,
    ) -> None:
        checked_address(host, port, other_host=other_host)
        if clients < 1 or not timeout_s > 0:
            raise ConfigError(f"clients {clients}, timeout_s {timeout_s}: at least 1, and above 0, are needed")
        self.pages = dict(pages)
        self.local_only = not other_host
        self.timeout_s = timeout_s
        try:
            self._server = _Server((host, port), self, clients)
        except OSError as error:
            raise ConfigError(f"{host}:{port} cannot be served: {error.strerror}; choose another port") from error
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), name=f"http {self.port}", daemon=True
        )
        self._thread.start()

    @property
    def failure(self) -> BaseException | None:
        """The first error of a page that was not its client's; None so far."""
        return self._server.failure

    def close(self) -> None:
        """Hang up on every client and give the port back."""
        self._server.shutdown()
        self._thread.join(_JOIN_S)
        self._server.server_close()


class _Server(socketserver.TCPServer):
    """Accepts in one thread and serves each client in another, a fixed number at most."""

    allow_reuse_address = True
    request_queue_size = 16

    def __init__(self, address: tuple[str, int], owner: LocalServer, clients: int) -> None:
        self.owner = owner
        self.failure: BaseException | None = None
        self._clients = clients
        self._active: dict[socket.socket, threading.Thread] = {}
        self._lock = threading.Lock()
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, _Handler)

    def process_request(self, request: socket.socket | tuple[bytes, socket.socket], client_address: object) -> None:
        assert isinstance(request, socket.socket)
        with self._lock:
            full = len(self._active) >= self._clients
            if not full:
                thread = threading.Thread(target=self._serve, args=(request, client_address), daemon=True)
                self._active[request] = thread
        if full:
            with suppress(OSError):  # the client may be gone; there is nobody to tell
                request.sendall(b"HTTP/1.0 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
            self.shutdown_request(request)
        else:
            thread.start()

    def _serve(self, request: socket.socket, client_address: object) -> None:
        try:
            self.finish_request(request, client_address)
        except OSError:  # the client went away or took nothing for too long: its own affair
            pass
        except Exception as error:
            self.failure = self.failure or error
        finally:
            self.shutdown_request(request)
            with self._lock:
                del self._active[request]

    def server_close(self) -> None:
        super().server_close()
        with self._lock:
            active = dict(self._active)
        for request in active:
            with suppress(OSError):  # gone by itself
                request.shutdown(socket.SHUT_RDWR)
        for thread in active.values():
            thread.join(_JOIN_S)


class _Handler(BaseHTTPRequestHandler):
    """One request."""

    server: _Server
    server_version = "edge-runtime"
    sys_version = ""

    def setup(self) -> None:
        self.request.settimeout(self.server.owner.timeout_s)
        super().setup()

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def _answer(self, *, body: bool) -> None:
        owner = self.server.owner
        if owner.local_only and not _names_this_machine(self.headers.get("Host", "localhost")):
            return self.send_error(403, "this machine is served alone")
        page = owner.pages.get(self.path)
        if page is None:
            return self.send_error(404)
        try:
            content_type, parts = page()
        except Exception as error:  # `failure` carries it to the owner, whatever it is
            self.server.failure = self.server.failure or error
            return self.send_error(500)
        self.send_response(200)
        for name, value in (
            ("Content-Type", content_type),
            ("Cache-Control", "no-store"),
            ("Cross-Origin-Resource-Policy", "same-origin"),
            ("X-Content-Type-Options", "nosniff"),
            ("Connection", "close"),
        ):
            self.send_header(name, value)
        self.end_headers()
        if body:
            with closing(parts):
                for part in parts:
                    self.wfile.write(part)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: stdout and stderr belong to the program."""


def _names_this_machine(host: str) -> bool:
    """Whether a Host header (name, optional port) is a name of the loopback interface."""
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    return name.lower() in _LOCAL_NAMES or _is_local(name.strip("[]"))
