"""What `edge-runtime run` does: a bundle on a source, or a whole stream from a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edge_runtime.cli.guard import Json, emit_json, guarded
from edge_runtime.cli.options import Provider, Runner, Trust

if TYPE_CHECKING:
    from edge_runtime.sources import Source

__all__ = ["register"]

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
Scanned = Annotated[
    str | None,
    typer.Option(
        metavar="detect|X0,Y0,X1,Y1",
        help="Scan area of frames that have none: found in the first frames, or a rectangle in pixels, half open.",
    ),
]
TraceFile = Annotated[Path | None, typer.Option(metavar="FILE", help="Write a trace, for ui.perfetto.dev.")]


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(run)


@guarded
def run(
    file: Annotated[Path | None, typer.Argument(metavar="[FILE.edge]", help="The bundle.")] = None,
    source: Played = None,
    budget_ms: Budget = None,
    fps: Annotated[float | None, typer.Option(help="Play at this rate, not the recording's own.")] = None,
    loop_s: Annotated[float | None, typer.Option(help="Repeat the recording for so many seconds.")] = None,
    lossless: Annotated[bool | None, typer.Option(help="Every frame, as fast as it goes, without a budget.")] = None,
    scan_area: Scanned = None,
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
    line: dict[str, Any] = {
        "budget_ms": budget_ms, "fps": fps, "loop_s": loop_s,
        "pace": None if lossless is None else "lossless" if lossless else "live", "variant": variant, "runner": runner,
        "provider": provider, "target": target, "threads": threads,
        "trust": [str(key) for key in trust] if trust else None, "verify": verify,
        "require_signature": require_signature,
    }  # fmt: skip
    shown: dict[str, Any] = {
        "ndjson": ndjson, "mjpeg_port": mjpeg_port, "save_frames": save_frames, "trace": trace,
        "metrics_port": metrics_port,
    }  # fmt: skip
    _run(file, source, config, line, shown, record, scan_area, max_miss_pct, as_json)


def _run(
    file: Path | None,
    source: str | None,
    config: Path | None,
    line: dict[str, Any],  # settings of the bundle on the line, by key; None: not given
    shown: dict[str, Any],  # files and ports beside the report, as `watching` takes them
    record: Path | None,
    scan_area: str | None,
    max_miss_pct: float | None,
    as_json: bool,
) -> None:
    from edge_runtime.cli.outcome import judge
    from edge_runtime.cli.settings import effective_settings, settings_text
    from edge_runtime.cli.stream import read_stream, run_file
    from edge_runtime.cli.watching import watching
    from edge_runtime.errors import ConfigError
    from edge_runtime.session import run_stream

    if max_miss_pct is not None and not 0 <= max_miss_pct <= 100:
        raise ConfigError(f"max-miss-pct is {max_miss_pct}; 0 to 100 is allowed")
    overruled = [key for key, value in {**line, "record": record, "scan_area": scan_area}.items() if value is not None]
    stream = None if file is not None else read_stream(config, overruled, shown)
    with watching(**shown) as watch:
        if stream is not None:
            report = run_file(stream, watch.hooks)
        elif file is None or source is None:
            raise typer.BadParameter(f"{file} needs a SOURCE to run on: a file, a folder of images, or a camera")
        else:
            settings = effective_settings(config, line)
            typer.echo(settings_text(settings), err=True)
            report = run_stream(file, _opened(source, scan_area), settings, record=record, **watch.hooks)
    if as_json:
        emit_json({**report.to_dict(), "garbage_collection": watch.pauses.to_dict()})
    else:
        typer.echo(report.to_text() + watch.pauses_text(), nl=False)
    judge(report, max_miss_pct)


def _opened(source: str, scan_area: str | None) -> Source:
    """The source; with `scan_area` its frames that have none get that one."""
    from edge_runtime.cli.checks import numbers
    from edge_runtime.errors import ConfigError
    from edge_runtime.frame import Rectangle
    from edge_runtime.sources import open_source, with_scan_area

    if scan_area is None:
        return open_source(source)
    if scan_area == "detect":
        return with_scan_area(open_source(source))
    corners = numbers("scan-area (`detect` or X0,Y0,X1,Y1)", scan_area, 4, float)
    assert corners is not None
    x0, y0, x1, y1 = corners
    if not (0 <= x0 < x1 and 0 <= y0 < y1):
        raise ConfigError(f"scan-area is {scan_area!r}; 0 <= X0 < X1 and 0 <= Y0 < Y1 are needed, or `detect`")
    return with_scan_area(open_source(source), Rectangle(x0=x0, y0=y0, x1=x1, y1=y1))
