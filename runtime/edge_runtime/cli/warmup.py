"""What `edge-runtime warmup` does."""

from __future__ import annotations

import typer

from edge_runtime.cli.guard import Json, emit_json, guarded

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(warmup)


@guarded
def warmup(as_json: Json = False) -> None:
    """Compile every kernel ahead of its first use; the code is kept on disk, so later processes compile nothing."""
    from edge_runtime.warm_start import warm_everything

    found = warm_everything()
    if as_json:
        emit_json(
            {
                "schema": "edge-runtime.warmup/2",
                "seconds": {one.name: round(one.seconds, 3) for one in found},
                "compiled": {one.name: one.compiled for one in found},
                "loaded": {one.name: one.loaded for one in found},
                "skipped": {one.name: one.skipped for one in found if one.skipped},
                "total_seconds": round(sum(one.seconds for one in found), 3),
                "total_compiled": sum(one.compiled for one in found),
            }
        )
        return
    for one in found:
        what = one.skipped or f"{one.compiled} compiled, {one.loaded} loaded"
        typer.echo(f"{one.name:22}{one.seconds:7.2f} s  {what}")
    typer.echo(f"{'all':22}{sum(one.seconds for one in found):7.2f} s  {sum(one.compiled for one in found)} compiled")
