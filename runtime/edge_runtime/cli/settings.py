"""Settings from a YAML file and the command line, and their effective values as text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from edge_runtime.errors import ConfigError
from edge_runtime.optional import require
from edge_runtime.session import RunSettings, read_settings

__all__ = ["effective_settings", "settings_text"]


def effective_settings(config: Path | None, line: Mapping[str, Any]) -> RunSettings:
    """Defaults, then the file, then the options given on the line (None: not given).

    Raises `ConfigError` for a file that cannot be read, is not a mapping, or has an unknown key or a bad value.
    """
    values = {} if config is None else _read_yaml(config)
    values.update({key: value for key, value in line.items() if value is not None})
    return read_settings(values, "command line" if config is None else f"{config} and command line")


def _read_yaml(path: Path) -> dict[str, Any]:
    yaml = require("yaml", "to read settings")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read as YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds a {type(values).__name__}; a mapping of settings is needed")
    return values


def settings_text(settings: RunSettings) -> str:
    """One line with every effective setting."""
    values = msgspec.to_builtins(settings)
    return "settings: " + ", ".join(f"{key}={value}" for key, value in values.items())
