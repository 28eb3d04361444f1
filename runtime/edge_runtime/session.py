"""A bundle on a source with the usual sinks: what `edge-runtime run` does, for programs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from edge_runtime.atomic import make_folder, write_bytes
from edge_runtime.bundle.manifest import Target
from edge_runtime.errors import ConfigError, CorruptFrameError
from edge_runtime.frame import Frame
from edge_runtime.loading import LoadedModel, load
from edge_runtime.settings_file import to_struct
from edge_runtime.sinks import ContactSheetSink, JsonlSink, OverlayVideoSink, Sink
from edge_runtime.sources import PacedSource, Source
from edge_runtime.streaming import Pipeline, StreamReport
from edge_runtime.streaming.records import Observer

__all__ = ["BRANCH", "RunSettings", "RunnerName", "first_frame", "read_settings", "run_stream"]

BRANCH = "segmentation"
RunnerName = Literal["onnxruntime", "openvino", "tensorrt", "auto"]


class RunSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How a bundle is run on a source.

    `pace` "live" plays a recording at its own rate, or at `fps`, looped for `loop_s` seconds when given, newest frame
    first, with `budget_ms` from each frame's arrival; "lossless" takes every frame as fast as it can be done, and
    no budget is applied. `runner` "auto" measures every runner of the machine; `target` None is the runner's own
    ladder; `provider` as in `create_runner`. `trust` holds public key files; `video` switches the overlay of a
    recording on.
    """

    target: Target | None = None
    variant: str | None = None
    runner: RunnerName = "onnxruntime"
    provider: str | None = None
    threads: int = 1
    pace: Literal["live", "lossless"] = "live"
    budget_ms: float = 33.3
    fps: float | None = None
    loop_s: float | None = None
    verify: bool = True
    trust: tuple[str, ...] = ()
    require_signature: bool = False
    timeout_s: float | None = None
    video: bool = True

    def __post_init__(self) -> None:
        for name in ("budget_ms", "fps", "loop_s", "timeout_s"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ConfigError(f"{name} is {value}; it must be a number above 0")
        if self.threads < 1:
            raise ConfigError(f"threads is {self.threads}; at least 1 is needed")
        if self.require_signature and not self.trust:
            raise ConfigError("require_signature needs at least one public key in trust")
        if self.pace == "lossless" and (self.fps is not None or self.loop_s is not None):
            raise ConfigError("fps and loop_s belong to pace 'live'; a lossless run takes every frame once")


def read_settings(values: Mapping[str, Any], origin: str) -> RunSettings:
    """Settings from a mapping; `ConfigError` naming `origin` for an unknown key, a wrong type or value."""
    return to_struct(dict(values), RunSettings, origin)


def run_stream(
    bundle: Path | str,
    source: Source,
    settings: RunSettings | None = None,
    *,
    record: Path | None = None,
    sinks: Mapping[str, Sink] | None = None,
    observe: Observer | None = None,
    started: Callable[[Pipeline], None] | None = None,
) -> StreamReport:
    """Stream `source` (closed at the end) through `bundle` and return the report.

    `record` is a folder that receives `results.jsonl`, `overlay.webm`, `contact.png` and `report.json` with the
    effective settings; `sinks` are added, `observe` is told every record, and `started` gets the
    pipeline just before it runs. Raises what `load`, the source and the pipeline raise.
    """
    settings = settings or RunSettings()
    with source:
        model = load(
            bundle,
            target=settings.target,
            variant=settings.variant,
            runner=settings.runner,
            provider=settings.provider,
            threads=settings.threads,
            trust=settings.trust,
            require_signature=settings.require_signature,
            verify=settings.verify,
            timeout_s=settings.timeout_s,
        )
        played: Source = source
        if settings.pace == "live" and not source.live:
            played = PacedSource(source, fps=settings.fps, loop_s=settings.loop_s)
        all_sinks = {**_recorders(record, settings, played), **(sinks or {})}
        pipeline = Pipeline(
            {BRANCH: model.branch(budget_ms=settings.budget_ms)},
            sinks=all_sinks,
            warm_up_frame=first_frame(source),
            observe=observe,
        )
        if started is not None:
            started(pipeline)
        report = pipeline.run(played)
    if record is not None:
        write_bytes(record / "report.json", _describe(report, settings, model, source))
    return report


def first_frame(source: Source) -> Frame | None:
    """The recording's first frame, for a warm-up at its true size; None for a live source or a damaged frame."""
    if source.live:
        return None
    try:
        return source.read()
    except CorruptFrameError:
        return None
    finally:
        source.rewind()


def _recorders(record: Path | None, settings: RunSettings, source: Source) -> dict[str, Sink]:
    if record is None:
        return {}
    make_folder(record)
    sinks: dict[str, Sink] = {
        "record": JsonlSink(record / "results.jsonl"),
        "contact sheet": ContactSheetSink(record / "contact.png"),
    }
    if settings.video:
        sinks["video"] = OverlayVideoSink(record / "overlay.webm", fps=source.fps or 30.0)
    return sinks


def _describe(report: StreamReport, settings: RunSettings, model: LoadedModel, source: Source) -> bytes:
    """JSON of a run: the report, the effective settings, the bundle and its self-tests.

    Of key files only the names are told: no folder, no patient string.
    """
    keys = [Path(key).name for key in settings.trust]
    value = {
        **report.to_dict(),
        "settings": {**msgspec.to_builtins(settings), "trust": keys},
        "bundle": {"name": model.manifest.name, "version": model.manifest.version, "sha256": model.sha256},
        "signed_by": model.signed_by,
        "self_tests": msgspec.to_builtins(model.self_tests),
        "source": {"fps": source.fps, "frames": source.frame_count, "timing": source.timing_note},
    }
    return json.dumps(value, indent=1, allow_nan=False).encode()
