"""What every command does alike: one line for a user's mistake, a traceback for a bug, documented exit codes."""

from __future__ import annotations

import functools
import importlib
import json
import traceback
from collections.abc import Callable
from typing import Annotated, ParamSpec

import typer

from edge_runtime.errors import EdgeError

__all__ = ["EXIT_BUG", "EXIT_CODES", "EXIT_DEADLINE", "EXIT_INTERRUPTED", "Json", "emit_json", "guarded", "new_app"]

EXIT_SYSTEM = 4
EXIT_DEADLINE = 5
EXIT_BUG = 70
EXIT_INTERRUPTED = 130
EXIT_CODES = (
    "Exit codes: 0 done; 1 result below a threshold; 2 usage, setting or missing extra; 3 bundle refused; 4 source, "
    "geometry, runner or pipeline; 5 more misses than allowed; 70 a bug; 130 interrupted."
)

P = ParamSpec("P")
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]


def new_app(package: str, help: str) -> typer.Typer:
    """A command line with the house's settings, the exit codes beneath its help, and `--version` of `package`."""
    app = typer.Typer(
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        help=help,
        epilog=EXIT_CODES,
    )

    @app.callback(invoke_without_command=True)
    def root(version: Annotated[bool, typer.Option("--version", help="Print the version and end.")] = False) -> None:
        if version:
            typer.echo(importlib.import_module(package).__version__)
            raise typer.Exit

    return app


def guarded(command: Callable[P, None]) -> Callable[P, None]:
    """Turn `EdgeError` into one line on stderr and its exit code; any other exception is a bug.

    What the system refuses on the way (a full disk, a file taken away) is no bug: one line, and exit 4.
    """

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
        except OSError as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(EXIT_SYSTEM) from error
        except Exception as error:
            traceback.print_exc()
            typer.echo("This is a bug: please report it with the lines above.", err=True)
            raise typer.Exit(EXIT_BUG) from error

    return wrapped


def emit_json(value: object) -> None:
    """One JSON object on stdout."""
    typer.echo(json.dumps(value, indent=1, allow_nan=False))
