"""What a pipeline was given, checked before anything is loaded or opened."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edge_runtime.errors import ConfigError
from edge_runtime.sinks.base import Sink
from edge_runtime.streaming.branch import Branch

__all__ = ["checked_branches", "checked_sinks", "require_source"]


def checked_branches(branches: Any) -> dict[str, Branch]:
    """`branches` as a dict. Raises `ConfigError` unless it maps one or more names to branches."""
    if not isinstance(branches, Mapping):
        raise ConfigError(
            f"branches is {_told(branches)}; a mapping of names to Branch is needed, such as "
            f"{{'name': {_as_branch(branches)}}}"
        )
    if not branches:
        raise ConfigError("a pipeline without branches has nothing to do; give it at least one Branch")
    for name, branch in branches.items():
        _require_name(name, "branches")
        if not isinstance(branch, Branch):
            raise ConfigError(f"branch {name!r} is {_told(branch)}; a Branch is needed: use {_as_branch(branch)}")
    return dict(branches)


def checked_sinks(sinks: Any, branches: Mapping[str, Branch]) -> dict[str, Sink]:
    """`sinks` as a dict, empty for None. Raises `ConfigError` unless it maps names to sinks of these branches."""
    if sinks is None:
        return {}
    if not isinstance(sinks, Mapping):
        raise ConfigError(
            f"sinks is {_told(sinks)}; a mapping of names to Sink is needed, such as {{'results': CollectSink()}}"
        )
    for name, sink in sinks.items():
        _require_name(name, "sinks")
        if not isinstance(sink, Sink):
            step = "wrap it in CallbackSink" if callable(sink) else "use one of edge_runtime.sinks, or subclass Sink"
            raise ConfigError(f"sink {name!r} is {_told(sink)}; a Sink is needed: {step}")
        if sink.branch is not None and sink.branch not in branches:
            raise ConfigError(f"sink {name!r} asks for branch {sink.branch!r}; there is {sorted(branches)}")
    return dict(sinks)


def require_source(source: Any) -> None:
    """Raise `ConfigError` for what cannot be read frame by frame (`FrameSource`), such as the path of a file."""
    if not all(hasattr(source, name) for name in ("name", "live", "fps", "read")):
        raise ConfigError(
            f"source is {_told(source)}; something that gives frames is needed: use open_source, which takes a file, "
            "a folder, a camera or an array"
        )


def _as_branch(given: Any) -> str:
    if isinstance(given, Branch):
        return "branch"
    return "model.branch()" if hasattr(given, "branch") else "model.branch() of what load() returns"


def _require_name(name: Any, what: str) -> None:
    if not isinstance(name, str):
        raise ConfigError(f"{what} has the name {name!r}; a name is a str")


def _told(given: Any) -> str:
    """The type and, of what is short, the value."""
    kind = type(given).__name__
    return f"{kind} {given!r}" if isinstance(given, str | bytes | int | float) or given is None else f"a {kind}"
