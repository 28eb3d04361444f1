"""The command line `edge-runtime`. Exit codes: 0 done; 1 a result below a threshold; 2 usage, setting or a missing
extra; 3 the bundle cannot be used; 4 source, geometry, runner or pipeline; 5 more deadline misses than allowed;
70 a bug, with its traceback; 130 interrupted."""

from __future__ import annotations

import sys

from edge_runtime.errors import EdgeError
from edge_runtime.optional import require

__all__ = ["main"]


def main() -> None:
    """Entry point; says the install line when the `cli` extra is missing."""
    try:
        require("typer", "for the command line")
        require("yaml", "for the command line")
    except EdgeError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)
    from edge_runtime.cli.app import app

    app()
