"""Member names: plain relative ASCII paths that mean the same on every file system."""

from __future__ import annotations

import re
from collections.abc import Sequence

from edge_runtime.errors import BundleFormatError

__all__ = ["check_distinct", "check_name"]

ALLOWED = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*", re.ASCII)


def check_name(raw: bytes | str, longest: int) -> str:
    """The name as text; `BundleFormatError` unless it is a plain relative path of at most `longest` bytes."""
    shown = raw[:80]
    if len(raw) > longest:
        raise BundleFormatError(f"member name {shown!r}... has {len(raw)} bytes, over the cap of {longest}")
    try:
        name = raw.decode("ascii") if isinstance(raw, bytes) else raw
    except UnicodeDecodeError as error:
        raise BundleFormatError(f"member name {shown!r} is not ASCII") from error
    if "\0" in name:
        raise BundleFormatError(f"member name {name!r} holds a NUL character")
    if "\\" in name:
        raise BundleFormatError(f"member name {name!r} holds a backslash; folders are separated by '/'")
    if name.startswith("/"):
        raise BundleFormatError(f"member name {name!r} is absolute; names are relative")
    if re.match(r"[A-Za-z]:", name):
        raise BundleFormatError(f"member name {name!r} begins with a drive; names are relative")
    if ".." in name.split("/"):
        raise BundleFormatError(f"member name {name!r} leaves the archive by '..'")
    if not ALLOWED.fullmatch(name):
        raise BundleFormatError(f"member name {name!r} is not made of A-Z a-z 0-9 . _ - in parts divided by '/'")
    return name


def check_distinct(names: Sequence[str], where: str) -> None:
    """`BundleFormatError` when two names are equal, or differ in case alone."""
    seen: dict[str, str] = {}
    for name in names:
        other = seen.get(name.casefold())
        if other is not None:
            also = f", once as {other!r}" if other != name else ""
            raise BundleFormatError(f"the {where} names {name!r} twice{also}; names differ in more than case")
        seen[name.casefold()] = name
