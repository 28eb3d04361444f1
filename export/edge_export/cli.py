"""The command line `edge-export`. Heavy imports stand inside the commands, so that `--help` answers at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edge_runtime.cli.guard import Json, emit_json, guarded, new_app

__all__ = ["app", "main"]

app = new_app("edge_export", "From an ONNX file to typed variants and a verified, signed `.edge` bundle.")


@app.command()
@guarded
def package(
    spec: Annotated[
        Path,
        typer.Argument(metavar="SPEC.yaml", help="As examples/recipes/package.yaml."),
    ],
    out: Annotated[Path, typer.Option(metavar="FILE.edge", help="The bundle to write.")],
    key: Annotated[Path | None, typer.Option(help="Private key (PEM) to sign with.")] = None,
    as_json: Json = False,
) -> None:
    """Lower an ONNX model, gate every variant, verify it where labels are given, and write the bundle."""
    from edge_export.package_spec import package_from_spec

    facts = package_from_spec(spec, out, key)
    if as_json:
        emit_json(facts)
        return
    for row in facts["lowering"]["variants"]:
        rtx = row["rtx"]
        note = f" ({rtx['reason']})" if rtx["reason"] else ""
        typer.echo(f"{row['id']:5} {row['file_bytes']:>10,} bytes, opset {row['opset']}, RTX {rtx['status']}{note}")
    for row in (facts["verification"] or {"scores": []})["scores"]:
        gate = "passed" if row["passed"] else f"overridden: {row['override']}"
        typer.echo(
            f"{row['variant']:5} Dice {row['dice']:.4f}, {row['drop_points']:+.3f} points below fp32, gate {gate}"
        )
    typer.echo(facts["statement"])
    typer.echo(f"{out}: manifest sha256 {facts['sha256']}, {'signed' if key else 'not signed'}")


@app.command()
@guarded
def lint(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx")],
    target: Annotated[str, typer.Option(help="jetpack6, tensorrt11, rtx or ort-cpu.")] = "jetpack6",
    as_json: Json = False,
) -> None:
    """Hold a graph against the rules of a target; exit 1 when one is broken."""
    from edge_export.package_spec import lint_file

    findings = lint_file(model, target)
    if as_json:
        emit_json({"schema": "edge-export.lint/1", "target": target, "findings": findings})
    for finding in [] if as_json else findings:
        typer.echo(f"{finding['severity']:8}{finding['rule']} {finding['node']}: {finding['message']} {finding['fix']}")
    broken = sum(finding["severity"] == "error" for finding in findings)
    typer.echo(f"{model}: {broken} errors, {len(findings) - broken} warnings for {target}", err=True)
    raise typer.Exit(1 if broken else 0)


@app.command()
@guarded
def keygen(
    private: Annotated[Path, typer.Argument(metavar="PRIVATE.pem", help="New file, readable by you alone.")],
    public: Annotated[Path, typer.Argument(metavar="PUBLIC.pem", help="New file, for the devices.")],
) -> None:
    """Make an ed25519 key pair; an existing file is never overwritten."""
    from edge_runtime.bundle import generate_key

    generate_key(private, public)
    typer.echo(f"{private} (keep it off the device) and {public} written")


@app.command()
@guarded
def sign(
    file: Annotated[Path, typer.Argument(metavar="FILE.edge")],
    key: Annotated[Path, typer.Option(help="Private key (PEM).")],
    out: Annotated[Path | None, typer.Option(help="Write here and leave FILE.edge as it is.")] = None,
) -> None:
    """Sign a bundle; a signature that is there is replaced."""
    from edge_runtime.bundle import sign_bundle

    sign_bundle(file, key, out)
    typer.echo(f"{out or file} signed")


def main() -> None:
    """Entry point."""
    app()
