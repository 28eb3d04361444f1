"""The base of every struct of settings, and its check of a value; without torch."""

from __future__ import annotations

import msgspec

from edge_runtime.errors import ConfigError

__all__ = ["Settings", "check"]


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Keyword-only, immutable, compared by value; unknown fields are refused."""


def check(ok: bool, name: str, value: object, allowed: str) -> None:
    """Raise `ConfigError` with the value and what is `allowed` unless `ok`."""
    if not ok:
        raise ConfigError(f"{name} is {value!r}; {allowed}")
