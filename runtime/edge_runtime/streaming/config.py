"""A whole stream in one YAML file: source, branches, sinks and pipeline, one key for each argument.

The keys of `pipeline` are the arguments of `Pipeline`, those of a branch the arguments of `load` and
`LoadedModel.branch`, those of a sink the arguments of its class; what a file cannot hold (clocks, callbacks) is left to
programs. Unknown keys are refused. Paths are taken from the working directory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Literal

import msgspec
from msgspec.structs import asdict

from edge_runtime.bundle.manifest import Target
from edge_runtime.errors import ConfigError, EdgeError
from edge_runtime.frame import FrameGeometry, Rectangle, ScanArea
from edge_runtime.loading import load
from edge_runtime.optional import require
from edge_runtime.session import RunnerName, first_frame
from edge_runtime.settings_file import read_yaml, to_struct
from edge_runtime.sinks import ContactSheetSink, JsonlSink, MjpegSink, OverlayVideoSink, RecorderSink, Sink
from edge_runtime.sources import (
    PacedSource,
    ReconnectEvent,
    Reconnecting,
    Source,
    find_scan_area,
    open_source,
    with_scan_area,
)
from edge_runtime.streaming.beside import Beside
from edge_runtime.streaming.branch import Branch
from edge_runtime.streaming.failing import ErrorPolicy
from edge_runtime.streaming.intake import Intake
from edge_runtime.streaming.pipeline import Pipeline
from edge_runtime.streaming.policy import FixedPolicy, LadderPolicy, Policy
from edge_runtime.streaming.records import Observer, StreamEvent
from edge_runtime.streaming.report import StreamReport
from edge_runtime.streaming.scheduling import Scheduling
from edge_runtime.streaming.thermal import CapHook, PowerMode, ThermalZones
from edge_runtime.streaming.watchdog import Watchdogs

__all__ = ["StreamConfig", "describe", "read_config", "run_config"]


class _Reconnect(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Open a source again when it is lost; the arguments of `Reconnecting`."""

    first_s: float = 0.5
    factor: float = 2.0
    limit_s: float = 10.0
    attempts: int | None = None


class _Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`open` is a path, a camera's number, its device, its address or a GStreamer pipeline.

    `pace`, `fps` and `loop_s` as in `RunSettings`; `row_mm` and `column_mm` replace the file's calibration. `scan_area`
    is for captures that say of none: `detect`, or a rectangle [x0, y0, x1, y1] in pixels.
    """

    open: str | int
    pace: Literal["live", "lossless"] = "live"
    fps: float | None = None
    loop_s: float | None = None
    row_mm: float | None = None
    column_mm: float | None = None
    scan_area: Literal["detect"] | tuple[float, float, float, float] | None = None
    reconnect: _Reconnect | None = None

    def __post_init__(self) -> None:
        if (self.row_mm is None) != (self.column_mm is None):
            raise ConfigError("row_mm and column_mm belong together; give both, or neither")
        if self.pace == "lossless" and (self.fps is not None or self.loop_s is not None):
            raise ConfigError("fps and loop_s belong to pace 'live'; a lossless run takes every frame once")
        if isinstance(area := self.scan_area, tuple) and not (0 <= area[0] < area[2] and 0 <= area[1] < area[3]):
            raise ConfigError(f"scan_area is {list(area)}; 0 <= x0 < x1 and 0 <= y0 < y1 are needed, or 'detect'")


class _Ladder(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="ladder"):
    """`LadderPolicy`."""

    down_after: int = 3
    up_after: int = 60
    probe_after: int = 10

    def make(self) -> Policy:
        return LadderPolicy(**asdict(self))


class _Fixed(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="fixed"):
    """`FixedPolicy`."""

    rung: int = 0

    def make(self) -> Policy:
        return FixedPolicy(self.rung)


class _Branch(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The arguments of `load` and of `LoadedModel.branch`."""

    bundle: str
    target: Target | None = None
    variant: str | None = None
    runner: RunnerName = "onnxruntime"
    provider: str | None = None
    threads: int = 1
    trust: tuple[str, ...] = ()
    require_signature: bool = False
    verify: bool = True
    timeout_s: float | None = None
    budget_ms: float | None = 33.3
    cadence: int = 1
    policy: _Ladder | _Fixed = _Ladder()
    errors: ErrorPolicy = ErrorPolicy()

    def make(self) -> Branch:
        """Load the bundle, test it and make the branch."""
        values = {name: getattr(self, name) for name in _LOAD}
        model = load(self.bundle, **values)
        return model.branch(budget_ms=self.budget_ms, cadence=self.cadence, policy=self.policy.make, errors=self.errors)


_LOAD = ("target", "variant", "runner", "provider", "threads", "trust", "require_signature", "verify", "timeout_s")


class _Jsonl(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="jsonl"):
    """`JsonlSink`."""

    path: str
    sync_every: int = 30
    branch: str | None = None
    capacity: int = 16

    def make(self, source: Source) -> Sink:
        return JsonlSink(**asdict(self))


class _Video(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="video"):
    """`OverlayVideoSink`; `fps` None is the source's, or 30."""

    path: str
    fps: float | None = None
    stale_outputs: bool = False
    branch: str | None = None
    capacity: int = 8

    def make(self, source: Source) -> Sink:
        return OverlayVideoSink(**{**asdict(self), "fps": self.fps or source.fps or 30.0})


class _Contact(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="contact-sheet"
):
    """`ContactSheetSink`."""

    path: str
    count: int = 12
    columns: int = 4
    branch: str | None = None
    capacity: int = 8

    def make(self, source: Source) -> Sink:
        return ContactSheetSink(**asdict(self))


class _Mjpeg(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="mjpeg"):
    """`MjpegSink`."""

    port: int
    host: str = "127.0.0.1"
    other_host: bool = False
    clients: int = 4
    quality: int = 80
    silent_s: float = 1.0
    timeout_s: float = 5.0
    stale_outputs: bool = False
    branch: str | None = None

    def make(self, source: Source) -> Sink:
        return MjpegSink(**asdict(self))


class _Recorder(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="recorder"
):
    """`RecorderSink`."""

    path: str
    max_mb: float = 4096.0
    branch: str | None = None
    capacity: int = 16

    def make(self, source: Source) -> Sink:
        return RecorderSink(**asdict(self))


_AnySink = _Jsonl | _Video | _Contact | _Mjpeg | _Recorder


class _Thermal(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`ThermalZones`; `steps` are [temperature, rung]."""

    steps: tuple[tuple[float, int], ...] = ((80.0, 1), (90.0, 2))
    hysteresis_c: float = 5.0
    zones: tuple[str, ...] | None = None


class _Caps(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Hooks that hold the ladders down: `ThermalZones` and the rungs of `PowerMode`."""

    thermal: _Thermal | None = None
    power_mode: dict[str, int] | None = None

    def make(self) -> tuple[CapHook, ...]:
        hooks: list[CapHook] = []
        if (thermal := self.thermal) is not None:
            hooks.append(ThermalZones(**asdict(thermal)))
        if self.power_mode is not None:
            hooks.append(PowerMode(self.power_mode))
        return tuple(hooks)


class _Beside(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`Beside`, with the poses of the source."""

    time: Literal["arrival", "device"] | None = None
    max_gap_ms: float = 100.0


class _Pipeline(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The arguments of `Pipeline`."""

    warm_up_runs: int = 5
    queue: int = 4
    pool_slots: int | None = None
    join_timeout_s: float = 10.0
    freeze_gc: bool = True
    intake: Intake = Intake()
    watchdogs: Watchdogs = Watchdogs()
    scheduling: Scheduling = Scheduling()
    caps: _Caps = _Caps()
    beside: _Beside = _Beside()


class StreamConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A stream: one source, named branches, named sinks, and how they are run together."""

    source: _Source
    branches: dict[str, _Branch]
    sinks: dict[str, _AnySink] = {}
    pipeline: _Pipeline = _Pipeline()

    def __post_init__(self) -> None:
        if not self.branches:
            raise ConfigError("a stream without branches has nothing to do; name at least one")
        self.require_apart({})

    def require_apart(self, added: Mapping[str, str | int]) -> None:
        """Raise `ConfigError` when two sinks, of these and of `added` (file or port by name), would use one file or one
        port (0 is any)."""
        held: dict[str | int, str] = {}
        own = {f"sink {name!r}": _target(sink) for name, sink in self.sinks.items()}
        for name, target in {**own, **added}.items():
            place = str(Path(target).absolute()) if isinstance(target, str) else target
            if place != 0 and held.setdefault(place, name) != name:
                what = f"port {target}" if isinstance(target, int) else target
                raise ConfigError(f"{held[place]} and {name} would both use {what}; give each its own")


def _target(sink: _AnySink) -> str | int:
    """The file or port that a sink takes for itself."""
    return sink.port if isinstance(sink, _Mjpeg) else sink.path


def read_config(path: Path) -> StreamConfig:
    """The stream in the YAML file `path`; `ConfigError` for an unknown key, a wrong type or value, naming the file."""
    return to_struct(read_yaml(path, "stream file"), StreamConfig, f"stream file {path}")


def describe(config: StreamConfig) -> str:
    """The effective settings, defaults included, as YAML that `read_config` reads as the same stream."""
    text: str = require("yaml", "to write settings").safe_dump(msgspec.to_builtins(config), sort_keys=False)
    return text


def run_config(
    config: StreamConfig,
    *,
    sinks: Mapping[str, Sink] | None = None,
    on_event: Callable[[StreamEvent], None] | None = None,
    observe: Observer | None = None,
    started: Callable[[Pipeline], None] | None = None,
) -> StreamReport:
    """Open, load, test and run the stream to the end of its source; `sinks` are added to those of the file, under
    names of their own (else `ConfigError`); `observe` and `started` as in `run_stream`.

    Raises what `open_source`, `load` and `Pipeline.run` raise. A source that is lost and found again (`reconnect`) is
    told as events.
    """
    if twice := sorted(config.sinks.keys() & set(sinks or {})):
        raise ConfigError(f"sinks {twice} are in the stream file already; rename them there")
    streams: list[Pipeline] = []
    with _open(config.source, streams) as source:
        played: Source = source
        if config.source.pace == "live" and not source.live:
            played = PacedSource(source, fps=config.source.fps, loop_s=config.source.loop_s)
        branches = {name: branch.make() for name, branch in config.branches.items()}
        own = {name: sink.make(played) for name, sink in config.sinks.items()}
        settings = config.pipeline
        pipeline = Pipeline(
            branches,
            sinks={**own, **(sinks or {})},
            warm_up_frame=first_frame(source),
            beside=_beside(settings.beside, config.source, played),
            caps=settings.caps.make(),
            on_event=on_event,
            observe=observe,
            **{name: getattr(settings, name) for name in _PLAIN},
        )
        streams.append(pipeline)
        if started is not None:
            started(pipeline)
        return pipeline.run(played)


_PLAIN = (
    "warm_up_runs", "queue", "pool_slots", "join_timeout_s", "freeze_gc", "intake", "watchdogs", "scheduling",
)  # fmt: skip


def _beside(settings: _Beside, asked: _Source, source: Source) -> Beside | None:
    """At a rate other than the recording's own, its poses keep the recording's time."""
    if source.poses is None:
        return None
    time = settings.time or ("device" if asked.fps is not None else None)
    return Beside(poses=source.poses, time=time, max_gap_ms=settings.max_gap_ms)


def _open(config: _Source, streams: list[Pipeline]) -> Source:
    geometry = None
    if config.row_mm is not None:
        geometry = FrameGeometry(
            row_mm=config.row_mm, column_mm=config.column_mm, origin="user", trusted=True, reason=""
        )
    make: Callable[[], Source] = partial(open_source, config.open, geometry=geometry)
    if config.scan_area is not None:
        make = _with_area(make, config.scan_area)
    if config.reconnect is None:
        return make()

    def tell(event: ReconnectEvent) -> None:
        for pipeline in streams:
            pipeline.tell(f"source {event.kind.replace('_', ' ')} (attempt {event.attempt}) {event.message}".strip())

    return Reconnecting(make, on_event=tell, **asdict(config.reconnect))


def _with_area(make: Callable[[], Source], asked: str | tuple[float, float, float, float]) -> Callable[[], Source]:
    """`make` with a scan area; it is found at the first opening alone, so that it stays when a camera comes back."""
    area: ScanArea | None = None
    if isinstance(asked, tuple):
        area = Rectangle(x0=asked[0], y0=asked[1], x1=asked[2], y1=asked[3])

    def opened() -> Source:
        nonlocal area
        source = make()
        try:
            area = area or find_scan_area(source)[0]
        except EdgeError:
            source.close()
            raise
        return with_scan_area(source, area)

    return opened
