"""A bundle tried out in a process of its own: what it costs and what it breaks never reaches a running stream.

`rehearse` starts a second interpreter that loads the bundle, checks every byte, reproduces the golden samples and
measures the ladder on a frame of the stream, at low priority. Not a fork: a fork of a process with threads keeps their
locks held for good. What comes back is data (MessagePack, checked against `Rehearsal`), never code.
"""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from multiprocessing import spawn
from pathlib import Path
from typing import Any

import msgspec
import msgspec.structs

from edge_runtime import errors
from edge_runtime.bundle.manifest import Target
from edge_runtime.bundle.reader import Key
from edge_runtime.clock import MonotonicClock
from edge_runtime.errors import ConfigError, EdgeError, PipelineError
from edge_runtime.frame import Frame
from edge_runtime.loading import SelfTest, load
from edge_runtime.sinks.recording import frame_block, read_block
from edge_runtime.streaming.branch import RungReport
from edge_runtime.streaming.warmup import warm_up

__all__ = ["LoadOptions", "Rehearsal", "main", "rehearse"]

_NICE = 10
_TOLD = 600  # characters of the child's last words


class LoadOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The arguments of `load`, but for the path; keys that are no files stand in `keys`."""

    target: Target | None = None
    variant: str | None = None
    runner: str = "onnxruntime"
    provider: str | None = None
    threads: int = 1
    trust: tuple[str, ...] = ()
    keys: tuple[bytes, ...] = ()
    require_signature: bool = False
    verify: bool = True
    timeout_s: float | None = None

    @classmethod
    def of(cls, *, trust: Sequence[Key] = (), **options: Any) -> LoadOptions:
        """From keywords of `load`; `ConfigError` for one that it does not have."""
        known = set(cls.__struct_fields__) - {"keys"}
        if unknown := sorted(options.keys() - known):
            raise ConfigError(f"unknown options {unknown}; load takes {sorted(known)}")
        return cls(
            trust=tuple(str(key) for key in trust if not isinstance(key, bytes)),
            keys=tuple(key for key in trust if isinstance(key, bytes)),
            **options,
        )

    def arguments(self) -> dict[str, Any]:
        """The keywords of `load`."""
        values = msgspec.structs.asdict(self)
        values["trust"] = (*self.trust, *values.pop("keys"))
        return values


class KeptRung(msgspec.Struct, frozen=True, kw_only=True):
    """One rung of the ladder that is left, first choice first."""

    runner: str
    variant: str
    rank: int | None


class Rehearsal(msgspec.Struct, frozen=True, kw_only=True):
    """What was found: the bundle's identity, its self-tests, the ladder that is worth having and what each rung costs.

    `reports` tell of every rung that was asked for; `costs` hold for each (stage, kept rung) the fastest of the
    measured calls in ns: beside a stream, at low priority, the others waited.
    """

    sha256: str
    signed_by: str
    self_tests: tuple[SelfTest, ...]
    rungs: tuple[KeptRung, ...]
    reports: tuple[RungReport, ...]
    costs: tuple[tuple[str, int, int], ...]


class _Request(msgspec.Struct, frozen=True, kw_only=True):
    path: str
    options: LoadOptions
    frame: bytes  # a block of a recording
    runs: int
    timeout_s: float


class _Failure(msgspec.Struct, frozen=True, kw_only=True, tag="failure"):
    kind: str  # class of the exception
    message: str


class _Success(msgspec.Struct, frozen=True, kw_only=True, tag="success"):
    rehearsal: Rehearsal


def rehearse(path: Path | str, options: LoadOptions, frame: Frame, *, runs: int, timeout_s: float) -> Rehearsal:
    """Load, test and measure (`runs` calls of each rung on `frame`) the bundle at `path` in a process of its own.

    Raises what `load` and warm-up raise there, with the same class and message, for errors of the SDK's own tree;
    `PipelineError` for any other end of the child: an exception that is a bug, a signal, no answer within `timeout_s`
    (it is killed then), or no interpreter to start (`multiprocessing.set_executable` names one).
    """
    if not 0 < timeout_s < float("inf"):
        raise ConfigError(f"timeout_s is {timeout_s}; a number of seconds above 0 is needed")
    request = _Request(path=str(path), options=options, frame=frame_block(frame), runs=runs, timeout_s=timeout_s)
    code = f"import sys; sys.path[:] = {sys.path!r}; from edge_runtime.rehearsal import main; main()"
    interpreter = spawn.get_executable()
    try:
        child = subprocess.Popen(
            [os.fsdecode(interpreter or ""), "-I", "-c", code],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        raise PipelineError(
            f"{path}: no interpreter {interpreter!r} to rehearse in ({error.strerror}); name one with "
            "multiprocessing.set_executable, or load() here and give Pipeline.swap the branch"
        ) from error
    with child:
        try:
            answer, said = child.communicate(msgspec.msgpack.encode(request), timeout=timeout_s)
        except subprocess.TimeoutExpired as error:
            raise PipelineError(
                f"{path}: the rehearsal gave no answer within {timeout_s:g} s and was killed; allow more time with "
                "rehearsal_s, or look for a model that hangs"
            ) from error
        finally:
            if child.poll() is None:
                child.kill()
    return _read(answer, child.returncode, said.decode(errors="replace").strip()[-_TOLD:], path)


def _read(answer: bytes, code: int, said: str, path: Path | str) -> Rehearsal:
    """The answer of a child that ended with `code` after it `said` something on stderr."""
    ended = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit {code}"
    try:
        found = msgspec.msgpack.decode(answer, type=_Success | _Failure)
    except msgspec.DecodeError as error:
        last = f"; the last it said: {said}" if said else ""
        raise PipelineError(f"{path}: the process that rehearsed it ended {ended} without an answer{last}") from error
    if isinstance(found, _Success):
        return found.rehearsal
    kind = getattr(errors, found.kind, None)
    if isinstance(kind, type) and issubclass(kind, EdgeError) and kind is not errors.CorruptFrameError:
        raise kind(found.message)
    raise PipelineError(f"{path}: the rehearsal failed: {found.kind}: {found.message}")


def main() -> None:
    """Body of the child: a request on stdin, an answer on stdout. Whatever else is printed there goes to stderr."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    request = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=_Request)
    signal.setitimer(signal.ITIMER_REAL, request.timeout_s)  # ends also when nobody is left who could kill it
    os.nice(_NICE)
    answer: _Success | _Failure
    try:
        answer = _Success(rehearsal=_perform(request))
    except Exception as error:  # told to the parent, which raises it
        answer = _Failure(kind=type(error).__name__, message=str(error))
    with answers:
        answers.write(msgspec.msgpack.encode(answer))
        answers.flush()
    os._exit(0)  # a backend that does not shut down cleanly has nothing to add


def _perform(request: _Request) -> Rehearsal:
    block = read_block(io.BytesIO(request.frame), "request", data=True)
    assert block is not None
    model = load(request.path, **request.options.arguments())
    clock = MonotonicClock()
    branch = model.branch()
    for rung in branch.rungs:
        rung.runner.__enter__()  # until the process ends
    ladder = warm_up(branch, block.frame(clock.now_ns()), runs=request.runs, clock=clock)
    least: dict[tuple[str, int], int] = {}
    for stage, place, cost in ladder.costs:
        least[stage, place] = min(cost, least.get((stage, place), cost))
    return Rehearsal(
        sha256=model.sha256,
        signed_by=model.signed_by,
        self_tests=model.self_tests,
        rungs=tuple(
            KeptRung(runner=rung.runner.name, variant=rung.runner.variant, rank=rung.rank) for rung in ladder.rungs
        ),
        reports=ladder.reports,
        costs=tuple((stage, place, cost) for (stage, place), cost in least.items()),
    )
