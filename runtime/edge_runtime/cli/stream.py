"""`edge-runtime run --config stream.yaml`: a whole stream from a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from edge_runtime.cli.watching import SINK_NAMES
from edge_runtime.errors import ConfigError
from edge_runtime.streaming import StreamReport
from edge_runtime.streaming.config import StreamConfig, describe, read_config, run_config

__all__ = ["read_stream", "run_file"]


def read_stream(config: Path | None, options: Sequence[str], shown: Mapping[str, Path | int | None]) -> StreamConfig:
    """The stream in the file `config`, beside which `shown` (files and ports of the line, by keyword) has its place.

    Raises `typer.BadParameter` when there is no file; `ConfigError` for `options` of the line, which the file would
    overrule, and for a name, file or port of the line that the stream file uses too.
    """
    if config is None:
        raise typer.BadParameter("give FILE.edge and SOURCE, or --config with a stream file")
    if options:
        raise ConfigError(f"a stream file holds all settings; write {', '.join(sorted(options))} into {config}")
    stream = read_config(config)
    given = {key: value for key, value in shown.items() if value is not None}
    for name in (SINK_NAMES[key] for key in given if key in SINK_NAMES):
        if name in stream.sinks:
            raise ConfigError(f"{config}: sink {name!r} is one that the command line adds; rename it in the file")
    stream.require_apart(
        {f"--{key.replace('_', '-')}": value if isinstance(value, int) else str(value) for key, value in given.items()}
    )
    return stream


def run_file(stream: StreamConfig, hooks: Mapping[str, Any]) -> StreamReport:
    """Run `stream`; its effective settings and each event go to stderr. `hooks` are keywords of `run_config`."""
    typer.echo(describe(stream), err=True, nl=False)
    return run_config(
        stream, on_event=lambda event: typer.echo(f"event {event.kind}: {event.message}", err=True), **hooks
    )
