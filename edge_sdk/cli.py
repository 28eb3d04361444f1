"""The command line `edge-sdk`; it also carries `edge-export` and `edge-runtime`. Heavy imports stand inside the
commands, so that `--help` answers at once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from edge_export.cli import app as export_app
from edge_runtime.cli.app import app as runtime_app
from edge_runtime.cli.guard import Json, emit_json, guarded, new_app
from edge_sdk.evaluate.cli import evaluate

__all__ = ["app", "main"]

app = new_app(
    "edge_sdk",
    "From an ultrasound teacher model to a signed file that a device runs within a budget. Not a medical device.",
)
app.add_typer(export_app, name="export", help="The commands of edge-export.")
app.add_typer(runtime_app, name="runtime", help="The commands of edge-runtime.")
app.command()(evaluate)


@app.command()
@guarded
def demo(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for all results; a second run goes on there.")],
    config: Annotated[Path | None, typer.Option(help="YAML with settings of the demonstration.")] = None,
    as_json: Json = False,
) -> None:
    """Teacher to student to signed file to streaming to a volume, with a report of it all."""
    from edge_sdk.demo import read_config, run_demo, summary_text
    from edge_sdk.display import show_progress

    settings = read_config(config)
    with show_progress() as progress:
        summary = run_demo(out, settings, progress)
    if as_json:
        emit_json(summary)
    else:
        typer.echo(summary_text(summary, out), nl=False)


@app.command()
@guarded
def distill(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="YAML; unknown keys are errors.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for student, report and cached stages.")],
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the recipe's paths start from; its own folder without it.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Train or load the teacher of RECIPE and distil its student; with an `export:` section, to a verified file."""
    from edge_sdk.display import show_progress
    from edge_sdk.recipe import effective_yaml, load_recipe, run_recipe
    from edge_sdk.recipe_text import report_lines

    typer.echo(effective_yaml(load_recipe(recipe)), err=True, nl=False)
    with show_progress() as progress:
        report = run_recipe(recipe, out, progress, base=data)
    if as_json:
        emit_json(report)
        return
    for line in report_lines(report):
        typer.echo(line)
    edge = f", {report['export']['file']}" if "export" in report else ""
    typer.echo(f"{out / 'student.pt'}, student.onnx{edge} and report.json written")


def main() -> None:
    """Entry point."""
    # OpenMP threads that spin while they wait slow torch down on a machine that others use too (a training step took
    # 0.69 s against 0.43 s, one run each); sleeping costs nothing measurable on an idle one. Read when torch is
    # imported; a user's own setting wins.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    app()
