"""Engines kept on disk. A plan is executable code: it is loaded from this folder alone, after its own hash is checked.

    <cache>/<digest>.engine   header (magic, digest of the key, length and sha256 of the plan), then the plan
    <cache>/<digest>.json     the key
    <cache>/<digest>.log      what TensorRT said while it built
    <cache>/<name>.last.json  the key of the engine that was last built under this name
    <cache>/<digest>.timing   timing cache of one TensorRT on one GPU, with the same header
    <cache>/lock              held while an engine is built: two builds at once would spoil each other's timings

The hash finds damage, not malice: who can write here can also hash. Hence the folder must belong to this user and be
closed to all others.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import stat
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from edge_runtime.atomic import make_folder, write_bytes
from edge_runtime.engines.key import EngineKey
from edge_runtime.errors import ConfigError, RunnerError

__all__ = ["EngineCache", "default_folder"]

MAGIC = b"EDGEPLAN"
VERSION = 1
HEADER = struct.Struct("<8sI32sQ32s")  # magic, version, sha256 of the key, length and sha256 of what follows
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def default_folder() -> Path:
    """`$XDG_CACHE_HOME/pocus-edge/engines`, in `~/.cache` where the variable is not set."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "pocus-edge" / "engines"


class EngineCache:
    """A private folder of engines, at most `max_mb` in all: the one used longest ago is removed first.

    Raises `ConfigError` when the folder cannot be made, is a link, belongs to another user or is open to others.
    """

    def __init__(self, folder: Path | str | None = None, *, max_mb: int = 4096) -> None:
        if max_mb < 1:
            raise ConfigError(f"max_mb is {max_mb}; at least 1 is needed")
        self.folder = default_folder() if folder is None else Path(folder)
        self.max_mb = max_mb
        if not self.folder.exists():
            make_folder(self.folder.parent)
            with suppress(FileExistsError):  # another process made it meanwhile; it is judged below like any other
                self.folder.mkdir(mode=0o700)
        found = self.folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
            raise ConfigError(
                f"engine cache {self.folder} must be a folder of this user that nobody else may open (mode 0700), it "
                f"has mode {stat.S_IMODE(found.st_mode):04o} and owner {found.st_uid}: an engine is executable code. "
                "Name another folder, or chmod 700 this one after looking at what is in it"
            )

    def path(self, key: EngineKey) -> Path:
        """Where the engine of `key` is, or would be."""
        return self.folder / f"{key.digest}.engine"

    def log_path(self, key: EngineKey) -> Path:
        """The build log of `key`."""
        return self.folder / f"{key.digest}.log"

    def load(self, key: EngineKey) -> bytes | None:
        """The plan of `key`, None when there is none.

        Raises `RunnerError` when the file is damaged, of another key, or not a plain file of this user.
        """
        path = self.path(key)
        plan = _read(path, bytes.fromhex(key.digest))
        if plan is not None:
            with suppress(FileNotFoundError):  # another process made room; the plan has been read
                os.utime(path)
        return plan

    def store(self, key: EngineKey, name: str, plan: bytes) -> Path:
        """Keep a plan, and the key as the last one built under `name`; then remove the oldest over the cap."""
        path = self.path(key)
        write_bytes(path.with_suffix(".json"), key.to_json())
        _write(path, bytes.fromhex(key.digest), plan)
        write_bytes(self._last(name), key.to_json())
        self._shrink(keep=path)
        return path

    def write_log(self, key: EngineKey, lines: list[str]) -> Path:
        """Keep what TensorRT said, after a failed build too."""
        path = self.log_path(key)
        write_bytes(path, ("\n".join(lines) + "\n").encode())
        path.chmod(0o600)
        return path

    def explain(self, name: str, key: EngineKey) -> tuple[str, ...]:
        """Why the engine `name` must be built for `key`: what changed since it was last built."""
        last = self._last(name)
        if not last.exists():
            return (f"no engine was built under the name {name!r} before",)
        try:
            old = msgspec.json.decode(last.read_bytes(), type=EngineKey)
        except (msgspec.DecodeError, OSError) as error:
            return (f"the last key ({last.name}) cannot be read: {error}",)
        return key.differences(old) or ("the engine is not in the cache any more",)

    def remove(self, key: EngineKey) -> None:
        """Forget the engine of `key`, if there is one."""
        for path in (self.path(key), self.path(key).with_suffix(".json"), self.log_path(key)):
            path.unlink(missing_ok=True)

    def timing(self, key: EngineKey) -> bytes:
        """The timing cache for the key's TensorRT and GPU, empty when there is none. `RunnerError` when damaged."""
        digest = _timing_digest(key)
        return _read(self.folder / f"{digest.hex()}.timing", digest) or b""

    def store_timing(self, key: EngineKey, data: bytes) -> None:
        """Keep a timing cache; `lock` must be held, or another build's entries are lost."""
        digest = _timing_digest(key)
        _write(self.folder / f"{digest.hex()}.timing", digest, data)

    def remove_timing(self, key: EngineKey) -> None:
        """Forget the timing cache for the key's TensorRT and GPU."""
        (self.folder / f"{_timing_digest(key).hex()}.timing").unlink(missing_ok=True)

    @contextmanager
    def lock(self, waiting: Callable[[], None] | None = None) -> Iterator[None]:
        """Hold the folder for one build, among all processes; `waiting` is called once when another one holds it."""
        handle = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if waiting is not None:
                    waiting()
                fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def _last(self, name: str) -> Path:
        if not NAME.fullmatch(name):
            raise ConfigError(f"engine name {name!r} is not allowed; letters, digits, '.', '_' and '-', at most 100")
        return self.folder / f"{name}.last.json"

    def _shrink(self, keep: Path) -> None:
        engines = [(path.stat(), path) for path in self.folder.glob("*.engine")]
        total = sum(found.st_size for found, _ in engines)
        for found, path in sorted(engines, key=lambda item: item[0].st_mtime_ns):
            if total <= self.max_mb << 20:
                return
            if path != keep:
                total -= found.st_size
                for suffix in (".engine", ".json", ".log"):
                    path.with_suffix(suffix).unlink(missing_ok=True)


def _timing_digest(key: EngineKey) -> bytes:
    """One timing cache for a TensorRT on a machine, whatever the model."""
    return hashlib.sha256(msgspec.json.encode([key.flavour, key.tensorrt, key.machine], order="sorted")).digest()


def _write(path: Path, digest: bytes, data: bytes) -> None:
    header = HEADER.pack(MAGIC, VERSION, digest, len(data), hashlib.sha256(data).digest())
    write_bytes(path, header + data)
    path.chmod(0o600)


def _read(path: Path, digest: bytes) -> bytes | None:
    """What `_write` wrote, None when there is no such file; never through a link, never another user's."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RunnerError(f"{path} is not a plain file that can be read ({error.strerror}); remove it") from error
    found = os.fstat(handle)
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
        os.close(handle)
        raise RunnerError(f"{path} is not a plain file of this user; remove it")
    with os.fdopen(handle, "rb") as file:
        header, data = file.read(HEADER.size), file.read()
    if len(header) < HEADER.size:
        raise RunnerError(f"{path} has {len(header)} bytes, less than its header; remove it")
    magic, version, stored, length, sha256 = HEADER.unpack(header)
    if (magic, version, stored) != (MAGIC, VERSION, digest):
        raise RunnerError(f"{path} is not the engine file that its name says; remove it")
    if length != len(data) or sha256 != hashlib.sha256(data).digest():
        raise RunnerError(f"{path} is damaged: {len(data)} bytes of {length}, or another sha256; remove it")
    return data
