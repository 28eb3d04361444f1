"""The commands of `edge-runtime`. Heavy imports stand inside the commands, so that `--help` answers at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from edge_runtime.cli.calibrate import register as register_calibrate
from edge_runtime.cli.guard import Json, emit_json, guarded, new_app
from edge_runtime.cli.reconstruct import register as register_reconstruct
from edge_runtime.cli.volume import register as register_volume
from edge_runtime.cli.warmup import register as register_warmup

__all__ = ["app"]

app = new_app("edge_runtime", "Run `.edge` bundles on ultrasound frames within a latency budget. Not a medical device.")

register_reconstruct(app)
register_warmup(app)
register_calibrate(app)
register_volume(app)

Edge = Annotated[Path, typer.Argument(metavar="FILE.edge", help="The bundle.")]
Runner = Annotated[str | None, typer.Option(help="onnxruntime (without), openvino, tensorrt, or auto: measure all.")]
Provider = Annotated[str | None, typer.Option(help="ONNX Runtime's execution provider, or OpenVINO's device.")]
Budget = Annotated[float | None, typer.Option(help="Budget from a frame's arrival; 33.3 without.")]
Config = Annotated[
    Path | None, typer.Option(help="YAML with settings; options on the line win. Alone: a whole stream.")
]
MetricsPort = Annotated[
    int | None, typer.Option(min=1, max=65535, help="Prometheus text at http://127.0.0.1:PORT/metrics.")
]
MjpegPort = Annotated[int | None, typer.Option(min=1, max=65535, help="Live view at http://127.0.0.1:PORT/.")]
Ndjson = Annotated[Path | None, typer.Option(metavar="FILE", help="Write each result as a line of JSON.")]
Played = Annotated[
    str | None, typer.Argument(metavar="[SOURCE]", help="DICOM, video, image folder, .npy, tracked sweep, camera.")
]
SaveFrames = Annotated[Path | None, typer.Option(metavar="FILE", help="Record frames and results, to be played again.")]
TraceFile = Annotated[Path | None, typer.Option(metavar="FILE", help="Write a trace, for ui.perfetto.dev.")]
Trust = Annotated[list[Path] | None, typer.Option(help="Public key (PEM) to trust; may be repeated.", metavar="KEY")]


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
def run(
    file: Annotated[Path | None, typer.Argument(metavar="[FILE.edge]", help="The bundle.")] = None,
    source: Played = None,
    budget_ms: Budget = None,
    fps: Annotated[float | None, typer.Option(help="Play at this rate, not the recording's own.")] = None,
    loop_s: Annotated[float | None, typer.Option(help="Repeat the recording for so many seconds.")] = None,
    lossless: Annotated[bool | None, typer.Option(help="Every frame, as fast as it goes, without a budget.")] = None,
    variant: Annotated[str | None, typer.Option(help="Only this variant, no ladder.")] = None,
    runner: Runner = None,
    provider: Provider = None,
    target: Annotated[str | None, typer.Option(help="The ladder to take; the runner's own without.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of the backend; 1 without.")] = None,
    trust: Trust = None,
    require_signature: Annotated[bool | None, typer.Option(help="Refuse what no trusted key has signed.")] = None,
    verify: Annotated[bool | None, typer.Option(help="Self-test on the golden samples first; on without.")] = None,
    config: Config = None,
    record: Annotated[Path | None, typer.Option(metavar="DIR", help="Write results, overlay and report here.")] = None,
    ndjson: Ndjson = None,
    mjpeg_port: MjpegPort = None,
    save_frames: SaveFrames = None,
    trace: TraceFile = None,
    metrics_port: MetricsPort = None,
    max_miss_pct: Annotated[float | None, typer.Option(help="Exit 5 when more frames than this miss.")] = None,
    as_json: Json = False,
) -> None:
    """Stream SOURCE through the bundle, or run the stream in --config, and report times, misses and the ledger."""
    from edge_runtime.cli.outcome import judge
    from edge_runtime.cli.settings import effective_settings, settings_text
    from edge_runtime.cli.stream import read_stream, run_file
    from edge_runtime.cli.watching import watching
    from edge_runtime.errors import ConfigError
    from edge_runtime.session import run_stream
    from edge_runtime.sources import open_source

    if max_miss_pct is not None and not 0 <= max_miss_pct <= 100:
        raise ConfigError(f"max-miss-pct is {max_miss_pct}; 0 to 100 is allowed")
    pace = None if lossless is None else "lossless" if lossless else "live"
    keys = [str(key) for key in trust] if trust else None
    line: dict[str, Any] = {
        "budget_ms": budget_ms, "fps": fps, "loop_s": loop_s, "pace": pace, "variant": variant, "runner": runner,
        "provider": provider, "target": target, "threads": threads, "trust": keys, "verify": verify,
        "require_signature": require_signature,
    }  # fmt: skip
    shown: dict[str, Any] = {
        "ndjson": ndjson, "mjpeg_port": mjpeg_port, "save_frames": save_frames, "trace": trace,
        "metrics_port": metrics_port,
    }  # fmt: skip
    overruled = [key for key, value in {**line, "record": record}.items() if value is not None]
    stream = None if file is not None else read_stream(config, overruled, shown)
    with watching(**shown) as watch:
        if stream is not None:
            report = run_file(stream, watch.hooks)
        elif file is None or source is None:
            raise typer.BadParameter(f"{file} needs a SOURCE to run on: a file, a folder of images, or a camera")
        else:
            settings = effective_settings(config, line)
            typer.echo(settings_text(settings), err=True)
            report = run_stream(file, open_source(source), settings, record=record, **watch.hooks)
    if as_json:
        emit_json({**report.to_dict(), "garbage_collection": watch.pauses.to_dict()})
    else:
        typer.echo(report.to_text() + watch.pauses_text(), nl=False)
    judge(report, max_miss_pct)


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
