"""Checks of what a command is given, before the work is done."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from edge_runtime.errors import ConfigError

__all__ = ["check_out", "numbers"]


def check_out(out: Path | None, suffixes: Sequence[str], what: str) -> None:
    """Refuse a file that could not be written: another ending than `suffixes`, or no folder. None is no file."""
    if out is None:
        return
    if not out.name.lower().endswith(tuple(suffixes)):
        raise ConfigError(f"{out}: {what} is written as {', '.join(suffixes)}; name one of these")
    if not out.parent.is_dir():
        raise ConfigError(f"{out} cannot be written: there is no folder {out.parent}; make it first")


def numbers(name: str, text: str | None, count: int, kind: Callable[[str], Any]) -> tuple[Any, ...] | None:
    """`count` numbers out of `1,2,3`; None for None. Raises `ConfigError` for anything else."""
    if text is None:
        return None
    try:
        values = tuple(kind(word) for word in text.split(","))
    except ValueError as error:
        raise ConfigError(f"{name} is {text!r}: {error}; {count} numbers with commas between are needed") from error
    if len(values) != count:
        raise ConfigError(f"{name} is {text!r}: {len(values)} numbers; {count} with commas between are needed")
    if not all(math.isfinite(value) for value in values):
        raise ConfigError(f"{name} is {text!r}; finite numbers are needed")
    return values
