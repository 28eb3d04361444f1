"""Settings from a YAML file and the command line, and their effective values as text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from edge_runtime.session import RunSettings, read_settings
from edge_runtime.settings_file import read_yaml

__all__ = ["effective_settings", "settings_text"]


def effective_settings(config: Path | None, line: Mapping[str, Any]) -> RunSettings:
    """Defaults, then the file, then the options given on the line (None: not given).

    Raises `ConfigError` for a file that cannot be read, is not a mapping, or has an unknown key or a bad value.
    """
    values = {} if config is None else read_yaml(config, "settings file")
    values.update({key: value for key, value in line.items() if value is not None})
    return read_settings(values, "command line" if config is None else f"{config} and command line")


def settings_text(settings: RunSettings) -> str:
    """One line with every effective setting."""
    values = msgspec.to_builtins(settings)
    return "settings: " + ", ".join(f"{key}={value}" for key, value in values.items())
