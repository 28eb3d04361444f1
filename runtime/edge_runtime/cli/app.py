"""The commands of `edge-runtime`. Heavy imports stand inside the commands, so that `--help` answers at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edge_runtime.cli.calibrate import register as register_calibrate
from edge_runtime.cli.elevation import register as register_elevation
from edge_runtime.cli.evaluate import register as register_evaluate
from edge_runtime.cli.guard import Json, emit_json, guarded, new_app
from edge_runtime.cli.options import Edge, Provider, Runner, Trust
from edge_runtime.cli.reconstruct import register as register_reconstruct
from edge_runtime.cli.run import register as register_run
from edge_runtime.cli.volume import register as register_volume
from edge_runtime.cli.warmup import register as register_warmup

__all__ = ["app"]

app = new_app("edge_runtime", "Run `.edge` bundles on ultrasound frames within a latency budget. Not a medical device.")

register_run(app)
register_reconstruct(app)
register_warmup(app)
register_calibrate(app)
register_elevation(app)
register_volume(app)
register_evaluate(app)


@app.command()
@guarded
def doctor(as_json: Json = False) -> None:
    """Say what this machine can run, and what to install for the rest."""
    from edge_runtime.doctor import examine

    findings = examine()
    if as_json:
        emit_json({"schema": "edge-runtime.doctor/1", "findings": [finding.to_dict() for finding in findings]})
        return
    for finding in findings:
        fix = f"\n{'':12}fix: {finding.fix}" if finding.fix else ""
        typer.echo(f"{finding.state:8}{finding.name}: {finding.detail}{fix}")


@app.command()
@guarded
def inspect(file: Edge, as_json: Json = False) -> None:
    """Show what a bundle says about itself; nothing is run and no signature is trusted."""
    from edge_runtime.bundle import Bundle
    from edge_runtime.cli.show import bundle_facts, bundle_text

    with Bundle.open(file) as bundle:
        facts = bundle_facts(bundle)
    if as_json:
        emit_json(facts)
    else:
        typer.echo(bundle_text(facts), nl=False)


@app.command()
@guarded
def verify(
    file: Edge,
    trust: Trust = None,
    run: Annotated[bool, typer.Option(help="Run the golden samples on this machine.")] = True,
    runner: Runner = None,
    provider: Provider = None,
    as_json: Json = False,
) -> None:
    """Check every byte of a bundle; with --trust, that one of these keys signed it."""
    from edge_runtime.cli.show import check_bundle

    facts = check_bundle(file, trust or [], run=run, runner=runner, provider=provider)
    if as_json:
        emit_json(facts)
        return
    signer = facts["signed_by"] or "nobody"
    state = "trusted" if facts["trusted"] else "NOT checked against a trusted key: give --trust KEY"
    typer.echo(f"{file}: all {facts['members']} members match the manifest {facts['sha256'][:16]}")
    typer.echo(f"signed by {signer} ({state})" if facts["signed_by"] else "not signed")
    for test in facts["self_tests"]:
        typer.echo(
            f"variant {test['variant']} on {test['runner']}: golden samples reproduced, "
            f"worst difference {test['worst']:.3g} (allowed {test['allowed']:.3g}), "
            f"{100 * test['agreement']:.3f} % of the mask pixels equal"
        )
    if not facts["self_tests"]:
        typer.echo("golden samples were not run")


@app.command()
@guarded
def build(
    file: Edge,
    variant: Annotated[list[str] | None, typer.Option(help="Only this variant; may be repeated.")] = None,
    precision: Annotated[list[str] | None, typer.Option(help="Only variants of this precision.")] = None,
    dla: Annotated[int | None, typer.Option(help="Build for this DLA core, the GPU behind it.")] = None,
    workspace_mb: Annotated[int, typer.Option(help="Memory that a kernel may use, MiB.")] = 1024,
    optimization_level: Annotated[int, typer.Option(help="0 builds fast, 5 searches long.")] = 3,
    ahead_for: Annotated[
        list[str] | None, typer.Option(help="Build for this GPU (SM86), not the one here; TensorRT-RTX alone.")
    ] = None,
    cache: Annotated[Path | None, typer.Option(metavar="DIR", help="Where engines are kept.")] = None,
    trust: Trust = None,
    as_json: Json = False,
) -> None:
    """Build the TensorRT engines of a bundle on this device, and prove their precision."""
    from edge_runtime.cli.build import build_engines, echo_error, to_text
    from edge_runtime.engines import BuildSettings, EngineCache

    settings = BuildSettings(
        workspace_mb=workspace_mb, optimization_level=optimization_level, dla=dla, capabilities=tuple(ahead_for or ())
    )
    facts = build_engines(
        file, variants=variant or (), precisions=precision or (), settings=settings, cache=EngineCache(cache),
        trust=trust or (), told=echo_error,
    )  # fmt: skip
    if as_json:
        emit_json(facts)
    else:
        typer.echo(to_text(facts), nl=False)
