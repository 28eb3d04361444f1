"""The command line `edge-export`. Heavy imports stand inside the commands, so that `--help` answers at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

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
    from edge_export.commands import package_from_spec

    facts = package_from_spec(spec, out, key, say=_say)
    if as_json:
        emit_json(facts)
        return
    _show_lowering(facts["lowering"])
    if facts["verification"] is not None:
        _show_scores(facts["verification"])
    typer.echo(facts["statement"])
    typer.echo(f"{out}: manifest sha256 {facts['sha256']}, {'signed' if key else 'not signed'}")


@app.command()
@guarded
def lower(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="float32, channels first, one input.")],
    frames: Annotated[
        Path,
        typer.Option(help="Frames like those on the device: what --preprocess takes, or .npy (N, C, H, W) float32."),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="New or empty folder for the variants and report.json.")],
    preprocess: Annotated[Path | None, typer.Option(metavar="STEPS.yaml", help="`steps:` from frame to input.")] = None,
    count: Annotated[int, typer.Option(min=1, help="At most so many frames.")] = 64,
    precision: Annotated[
        list[str] | None, typer.Option(help="fp32, fp16, int8 or int8-cpu; may be repeated (default: the first three).")
    ] = None,
    method: Annotated[str, typer.Option(help="How ranges are found: minmax, percentile, mse or entropy.")] = "minmax",
    qdq_form: Annotated[str, typer.Option(help="opset17 or opset19.")] = "opset17",
    exclude: Annotated[list[str] | None, typer.Option(help="Node that stays out of int8; may be repeated.")] = None,
    target: Annotated[
        list[str] | None, typer.Option(help="Target of the lint; may be repeated (default: all).")
    ] = None,
    rtx: Annotated[bool, typer.Option(help="Build with TensorRT-RTX where it is installed.")] = True,
    as_json: Json = False,
) -> None:
    """Write the typed variants of a model, gated but not packaged: fp32, fp16, int8 and a report."""
    from edge_export.commands import lower_file
    from edge_export.package_spec import LoweringSection
    from edge_runtime.settings_file import to_struct

    given = {"precisions": precision, "exclude": exclude, "targets": target}
    settings = {"method": method, "qdq_form": qdq_form, "rtx": rtx, **{k: v for k, v in given.items() if v}}
    section = to_struct(settings, LoweringSection, "options")
    facts = lower_file(model, frames, out, preprocess=preprocess, count=count, settings=section, say=_say)
    if as_json:
        emit_json(facts)
        return
    _show_lowering(facts["lowering"])
    typer.echo(f"{out}: {len(facts['lowering']['variants'])} variants and report.json")


@app.command()
@guarded
def verify(
    file: Annotated[Path, typer.Argument(metavar="FILE.edge|SPEC.yaml", help="A bundle, or a package file.")],
    images: Annotated[Path | None, typer.Option(metavar="DIR", help="Held-out images.")] = None,
    masks: Annotated[Path | None, typer.Option(metavar="DIR", help="Their masks, files of the same names.")] = None,
    frames: Annotated[
        Path | None, typer.Option(help="Frames without labels: agreement with the fp32 form instead of Dice.")
    ] = None,
    mask_value: Annotated[
        list[int] | None, typer.Option(help="Grey value of each class, background first (default: 0 and 255).")
    ] = None,
    runner: Annotated[
        list[str] | None, typer.Option(help="onnxruntime, openvino or tensorrt; may be repeated (default: the first).")
    ] = None,
    gate: Annotated[
        list[str] | None,
        typer.Option(metavar="VARIANT=VALUE", help="Largest Dice drop in points, or least agreement with --frames."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Score every variant on every runner against labels or the fp32 form; exit 1 when a gate fails."""
    from edge_export.commands import verify_file

    facts = verify_file(
        file,
        images=images,
        masks=masks,
        frames=frames,
        mask_values=mask_value or (0, 255),
        runners=runner or (),
        gates=dict(_gate(item) for item in gate or ()),
        say=_say,
    )
    if as_json:
        emit_json(facts)
    else:
        _show_scores(facts)
    failed = facts["failed"]
    typer.echo(f"{file}: {', '.join(failed) + ' failed' if failed else 'every gate is met or overridden'}", err=True)
    raise typer.Exit(1 if failed else 0)


@app.command()
@guarded
def lint(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx")],
    target: Annotated[str, typer.Option(help="jetpack6, jetpack7, tensorrt11, rtx, ort-cpu or openvino.")] = "jetpack6",
    as_json: Json = False,
) -> None:
    """Hold a graph against the rules of a target; exit 1 when one is broken."""
    from edge_export.commands import lint_file

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


def _say(line: str) -> None:
    """Progress, beside the result."""
    typer.echo(f"{line} ...", err=True)


def _gate(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        return name, float(value)
    except ValueError as error:
        raise typer.BadParameter(f"--gate {text}: VARIANT=VALUE is needed, for example int8=0.3") from error


def _show_lowering(report: dict[str, Any]) -> None:
    for row in report["variants"]:
        rtx = row["rtx"]
        note = f" ({rtx['reason']})" if rtx["reason"] else ""
        typer.echo(
            f"{row['id']:9} {row['file_bytes']:>10,} bytes, {100 * row['size_ratio']:.0f} % of fp32, "
            f"opset {row['opset']}, RTX {rtx['status']}{note}"
        )


def _show_scores(report: dict[str, Any]) -> None:
    """One line a variant and runner, and under a failure where it begins."""
    typer.echo(f"{'variant':10}{'runner':12} scores on {report['n_frames']} frames")
    for row in report["scores"]:
        if "dice" in row:
            text = (
                f"Dice {row['dice']:.4f}{_between(row['dice_interval'])}, drop {row['drop_points']:+.3f} points"
                f"{_between(row['drop_interval'])} of {row['allowed_points']:g}, "
                f"{_decibel(row['sqnr_db'])}, {100 * row['flips']:.3f} % of pixels change"
            )
            passed = row["passed"]
        else:
            shares = (f"{k} {v:.4f}{_between(row['agreement_interval'].get(k))}" for k, v in row["agreement"].items())
            noise = (f"{name} {_decibel(value)}" for name, value in row["sqnr_db"].items())
            text = "; ".join((*shares, *noise))
            passed = not row["failures"]
        gate = "passed" if passed else f"overridden: {row['override']}" if row["override"] else "FAILED"
        typer.echo(f"{row['variant']:10}{row['runner']:12} {text}: {gate}")
        if not passed:
            typer.echo(
                "".join(f"{'':23}{line}\n" for line in (*row.get("failures", ()), row["divergence"]) if line), nl=False
            )


def _between(interval: list[float] | None) -> str:
    return "" if interval is None else f" ({interval[0]:.4f} to {interval[1]:.4f})"


def _decibel(value: float | None) -> str:
    return "equal" if value is None else f"{value:.1f} dB"


def main() -> None:
    """Entry point."""
    app()
