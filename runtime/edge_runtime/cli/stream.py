"""`edge-runtime run --config stream.yaml`: a whole stream from a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from edge_runtime.errors import ConfigError
from edge_runtime.streaming import StreamReport
from edge_runtime.streaming.config import describe, read_config, run_config

__all__ = ["run_file"]


def run_file(config: Path | None, options: Sequence[str], hooks: Mapping[str, Any]) -> StreamReport:
    """Run the stream in the file `config`; its effective settings and each event go to stderr. `hooks` are
    keywords of `run_config`.

    Raises `typer.BadParameter` when there is no file, `ConfigError` for `options` of the line, which the file would
    overrule.
    """
    if config is None:
        raise typer.BadParameter("give FILE.edge and SOURCE, or --config with a stream file")
    if options:
        raise ConfigError(f"a stream file holds all settings; write {', '.join(sorted(options))} into {config}")
    stream = read_config(config)
    typer.echo(describe(stream), err=True, nl=False)
    return run_config(
        stream, on_event=lambda event: typer.echo(f"event {event.kind}: {event.message}", err=True), **hooks
    )
