"""What every command does alike: one line for a user's mistake, a traceback for a bug, documented exit codes."""

from __future__ import annotations

import functools
import json
import traceback
from collections.abc import Callable
from typing import ParamSpec

import typer

from edge_runtime.errors import EdgeError

__all__ = ["EXIT_BUG", "EXIT_CODES", "EXIT_DEADLINE", "EXIT_INTERRUPTED", "emit_json", "guarded"]

EXIT_DEADLINE = 5
EXIT_BUG = 70
EXIT_INTERRUPTED = 130
EXIT_CODES = (
    "Exit codes: 0 done; 1 result below a threshold; 2 usage, setting or missing extra; 3 bundle refused; 4 source, "
    "geometry, runner or pipeline; 5 more misses than allowed; 70 a bug; 130 interrupted."
)

P = ParamSpec("P")


def guarded(command: Callable[P, None]) -> Callable[P, None]:
    """Turn `EdgeError` into one line on stderr and its exit code; any other exception is a bug."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except EdgeError as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as error:
            typer.echo("interrupted", err=True)
            raise typer.Exit(EXIT_INTERRUPTED) from error
        except (typer.Exit, typer.Abort, typer.BadParameter, BrokenPipeError):
            raise
        except Exception as error:
            traceback.print_exc()
            typer.echo("This is a bug: please report it with the lines above.", err=True)
            raise typer.Exit(EXIT_BUG) from error

    return wrapped


def emit_json(value: object) -> None:
    """One JSON object on stdout."""
    typer.echo(json.dumps(value, indent=1, allow_nan=False))
