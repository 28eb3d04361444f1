"""YAML to a msgspec struct, with every unknown key named beside the nearest one that exists."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

from edge_runtime.errors import ConfigError
from edge_runtime.optional import require

__all__ = ["parse_yaml", "read_text", "read_yaml", "to_struct"]

StructT = TypeVar("StructT", bound=msgspec.Struct)


def read_text(path: Path, what: str) -> str:
    """The UTF-8 text of `path`; `ConfigError` calling it a `what` when it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{what} {path} cannot be read: {error}") from error


def parse_yaml(text: str, origin: str) -> Any:
    """The value that a YAML `text` holds (safe loader), `{}` for an empty one; `ConfigError` naming `origin`."""
    yaml = require("yaml", "to read settings")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{origin}: not valid YAML: {error}") from error
    return {} if value is None else value


def read_yaml(path: Path, what: str) -> dict[str, Any]:
    """The mapping in the YAML file `path`; `ConfigError` when it cannot be read or is not a mapping."""
    value = parse_yaml(read_text(path, what), f"{what} {path}")
    if not isinstance(value, dict):
        raise ConfigError(f"{what} {path} holds a {type(value).__name__}; a mapping (`key: value` lines) is needed")
    return value


def to_struct(data: Any, kind: type[StructT], origin: str) -> StructT:
    """`data` (mappings, lists, scalars) as a `kind`.

    Raises `ConfigError` naming `origin`: for unknown keys, all at once, each with the nearest known key and all known
    ones; then for the first wrong type or value.
    """
    unknown = list(_unknown_keys(data, inspect.type_info(kind), ""))
    if unknown:
        raise ConfigError(f"{origin}: " + "; ".join(unknown))
    try:
        return msgspec.convert(data, kind)
    except (msgspec.ValidationError, ConfigError) as error:
        raise ConfigError(f"{origin}: {error}") from error


def _unknown_keys(data: Any, kind: inspect.Type, where: str) -> Iterator[str]:
    """One sentence for every key of `data` that `kind` does not have, with the nearest one that it has."""
    if isinstance(kind, (inspect.ListType, inspect.VarTupleType)) and isinstance(data, list):
        for k, item in enumerate(data):
            yield from _unknown_keys(item, kind.item_type, f"{where}[{k}]")
    if not isinstance(data, dict):
        return
    struct = _matching_struct(data, kind)
    if struct is None:
        yield from _wrong_kind(data, kind, where)
        return
    known = {field.encode_name: field.type for field in struct.fields}
    tags = {struct.tag_field} if struct.tag_field else set()
    for key, value in data.items():
        place = f"{where}.{key}" if where else str(key)
        if key in known:
            yield from _unknown_keys(value, known[key], place)
        elif key not in tags:
            near = difflib.get_close_matches(str(key), [*known, *tags], n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            yield f"unknown key {place!r}; {hint}known keys: {', '.join([*tags, *known])}"


def _wrong_kind(data: dict[Any, Any], kind: inspect.Type, where: str) -> Iterator[str]:
    members = kind.types if isinstance(kind, inspect.UnionType) else ()
    structs = [member for member in members if isinstance(member, inspect.StructType)]
    if structs:
        tag_field = structs[0].tag_field
        allowed = ", ".join(str(member.tag) for member in structs)
        yield f"{where}: {tag_field} is {data.get(tag_field)!r}; one of {allowed} is needed"


def _matching_struct(data: dict[Any, Any], kind: inspect.Type) -> inspect.StructType | None:
    members = kind.types if isinstance(kind, inspect.UnionType) else (kind,)
    for member in members:
        if isinstance(member, inspect.StructType) and (
            member.tag_field is None or data.get(member.tag_field) == member.tag or len(members) == 1
        ):
            return member
    return None
