"""Checks of what a command is to write, before the work is done."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edge_runtime.errors import ConfigError

__all__ = ["check_out"]


def check_out(out: Path | None, suffixes: Sequence[str], what: str) -> None:
    """Refuse a file that could not be written: another ending than `suffixes`, or no folder. None is no file."""
    if out is None:
        return
    if not out.name.lower().endswith(tuple(suffixes)):
        raise ConfigError(f"{out}: {what} is written as {', '.join(suffixes)}; name one of these")
    if not out.parent.is_dir():
        raise ConfigError(f"{out} cannot be written: there is no folder {out.parent}; make it first")
