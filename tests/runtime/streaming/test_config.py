"""A stream in a YAML file: one key for each argument, defaults the same, unknown keys refused, and it runs."""

from __future__ import annotations

import inspect
import json
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edge_runtime import sinks as all_sinks
from edge_runtime.errors import ConfigError, SourceError
from edge_runtime.frame import Rectangle
from edge_runtime.loading import LoadedModel, load
from edge_runtime.result import Result
from edge_runtime.sinks import (
    CallbackSink,
    CollectSink,
    ContactSheetSink,
    JsonlSink,
    MjpegSink,
    OverlayVideoSink,
    RecorderSink,
    Sink,
    read_jsonl,
)
from edge_runtime.sources import Reconnecting
from edge_runtime.streaming import Beside, FixedPolicy, LadderPolicy, Pipeline, StreamEvent, ThermalZones, pose_of
from edge_runtime.streaming import config as module
from edge_runtime.streaming.config import StreamConfig, describe, read_config, run_config

pytest.importorskip("yaml")
V1 = Path(__file__).parents[2] / "data" / "v1.edge"

PROGRAMS_ONLY = {
    Pipeline: {"branches", "sinks", "clock", "warm_up_frame", "on_event", "observe"},
    load: {"path"},
    LoadedModel.branch: {"refine"},
    Reconnecting: {"factory", "on_event", "clock"},
    Beside: {"poses", "imu"},
    ThermalZones: {"root"},
}


def arguments(function: Callable[..., Any]) -> dict[str, Any]:
    """Names and defaults of what a function takes, without what only a program can give."""
    found = inspect.signature(function).parameters.items()
    return {k: p.default for k, p in found if k not in PROGRAMS_ONLY.get(function, set()) | {"self"}}


def keys(kind: type[msgspec.Struct]) -> dict[str, Any]:
    return {field.name: field.default for field in msgspec.structs.fields(kind)}


@pytest.mark.parametrize(
    ("kind", "function"),
    [
        (module._Pipeline, Pipeline),
        (module._Reconnect, Reconnecting),
        (module._Ladder, LadderPolicy),
        (module._Fixed, FixedPolicy),
        (module._Jsonl, JsonlSink),
        (module._Video, OverlayVideoSink),
        (module._Contact, ContactSheetSink),
        (module._Mjpeg, MjpegSink),
        (module._Recorder, RecorderSink),
        (module._Thermal, ThermalZones),
        (module._Beside, Beside),
    ],
)
def test_one_key_for_each_argument_with_the_same_default(
    kind: type[msgspec.Struct], function: Callable[..., Any]
) -> None:
    wanted, found = arguments(function), keys(kind)
    assert set(found) == set(wanted)
    for name in wanted.keys() - {"caps", "beside", "fps", "intake", "watchdogs", "scheduling"}:
        default = found[name]
        assert default == wanted[name] or (default is msgspec.NODEFAULT and wanted[name] is inspect.Parameter.empty), (
            name
        )


def test_every_sink_that_a_file_can_hold_has_a_kind() -> None:
    shipped = {value for value in vars(all_sinks).values() if isinstance(value, type) and issubclass(value, Sink)}
    in_files = {JsonlSink, OverlayVideoSink, ContactSheetSink, MjpegSink, RecorderSink}
    assert shipped - {Sink, CallbackSink, CollectSink} == in_files
    assert {kind.__struct_config__.tag for kind in typing.get_args(module._AnySink)} == {
        "jsonl", "video", "contact-sheet", "mjpeg", "recorder"
    }  # fmt: skip


def test_a_branch_has_the_arguments_of_load_and_branch() -> None:
    wanted = {**arguments(load), **arguments(LoadedModel.branch)}
    assert set(keys(module._Branch)) == {"bundle", *wanted}
    assert set(module._LOAD) == set(arguments(load))
    assert set(module._PLAIN) == set(arguments(Pipeline)) - {"caps", "beside"}


def write(path: Path, value: object) -> Path:
    path.write_text(json.dumps(value))  # JSON is YAML
    return path


def minimal(folder: Path, **more: Any) -> dict[str, Any]:
    np.save(folder / "frames.npy", np.random.default_rng(0).integers(0, 256, (6, 64, 64), np.uint8))
    branch = {"bundle": str(V1), "verify": False}
    return {"source": {"open": str(folder / "frames.npy"), "pace": "lossless"}, "branches": {"seg": branch}, **more}


def test_what_is_described_reads_as_the_same_stream(tmp_path: Path) -> None:
    full = minimal(tmp_path)
    full["sinks"] = {"log": {"kind": "jsonl", "path": "a.jsonl"}, "show": {"kind": "mjpeg", "port": 0}}
    full["branches"]["seg"] |= {"policy": {"kind": "fixed", "rung": 1}, "errors": {"infer": "substitute"}}
    full["pipeline"] = {
        "queue": 2,
        "watchdogs": {"silent_s": None, "memory_mb": 64},
        "caps": {"thermal": {"steps": [[70, 1]]}, "power_mode": {"7W": 1}},
        "scheduling": {"cpus": [0]},
        "intake": {"geometry": "raise"},
    }
    config = read_config(write(tmp_path / "stream.yaml", full))
    text = describe(config)
    (tmp_path / "told.yaml").write_text(text)
    assert read_config(tmp_path / "told.yaml") == config
    for shown in ("infer: substitute", "queue: 2", "max_restarts: 3", "stuck_s: 5.0", "kind: mjpeg", "silent_s: null"):
        assert shown in text
    assert config.pipeline.watchdogs.memory_mb == 64


def test_mistakes_are_refused_with_their_place(tmp_path: Path) -> None:
    cases: list[tuple[list[Any], Any, str]] = [
        (["sorce"], {}, "unknown key 'sorce'; did you mean 'source'"),
        (["pipeline", "que"], 2, "unknown key 'pipeline.que'; did you mean 'queue'"),
        (["pipeline", "watchdogs", "silent"], 2, "did you mean 'silent_s'"),
        (["pipeline", "watchdogs", "silent_s"], -1, "silent_s is -1"),
        (["pipeline", "intake", "geometry"], "ignore", "Invalid enum value 'ignore'"),
        (["source", "pace"], "fast", "Invalid enum value 'fast'"),
        (["source", "row_mm"], 0.1, "row_mm and column_mm belong together"),
        (["source", "fps"], 10, "fps and loop_s belong to pace 'live'"),
        (["sinks", "s"], {"kind": "printer"}, "printer"),
        (["branches"], {}, "without branches"),
        (["branches", "seg", "errors"], {"infer": "panic"}, "panic"),
    ]
    for path, value, message in cases:
        data: dict[str, Any] = minimal(tmp_path, sinks={}, pipeline={"watchdogs": {}, "intake": {}})
        inner = data
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value
        with pytest.raises(ConfigError, match=f"stream file .*bad.yaml.*{message}"):
            read_config(write(tmp_path / "bad.yaml", data))


def test_unknown_keys_in_the_maps_are_refused(tmp_path: Path) -> None:
    for place, key in (("branches", "seg"), ("sinks", "log")):
        data = minimal(tmp_path, sinks={"log": {"kind": "jsonl", "path": "x"}})
        data[place][key]["buget_ms"] = 5
        with pytest.raises(ConfigError, match="buget_ms"):
            read_config(write(tmp_path / "bad.yaml", data))


def test_a_stream_file_runs(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("cv2")
    data = minimal(tmp_path, sinks={"log": {"kind": "jsonl", "path": str(tmp_path / "log.jsonl")}})
    data["branches"]["slow"] = {**data["branches"]["seg"], "cadence": 3, "variant": "fp16"}
    data["source"] |= {"row_mm": 0.5, "column_mm": 0.25}
    seen: list[Result] = []
    report = run_config(
        read_config(write(tmp_path / "stream.yaml", data)),
        sinks={"mine": CallbackSink(lambda result: seen.append(result.copy()))},
    )
    assert (report.branches["seg"].ledger.fresh, report.branches["slow"].ledger.fresh, report.balances) == (6, 2, True)
    assert len(read_jsonl(tmp_path / "log.jsonl").results) == len(seen) == 8
    area = seen[0].areas[0]
    assert area.mm2 == pytest.approx(area.pixels * 0.125)


def test_a_source_that_is_not_there_is_an_error_before_anything_starts(tmp_path: Path) -> None:
    data = minimal(tmp_path, sinks={"log": {"kind": "jsonl", "path": str(tmp_path / "log.jsonl")}})
    for reconnect in (None, {"first_s": 0.0}):
        data["source"] = {"open": str(tmp_path / "nothing.mp4"), "reconnect": reconnect}
        with pytest.raises(SourceError, match=r"nothing\.mp4"):
            run_config(read_config(write(tmp_path / "stream.yaml", data)))
    assert not (tmp_path / "log.jsonl").exists()


def test_a_source_that_is_found_again_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("cv2")
    from edge_runtime.sources import ArraySource, Fault, FaultSource

    opened: list[FaultSource] = []

    def opening(spec: Any, *, geometry: Any) -> FaultSource:
        faults = [Fault(kind="lost", at=2)] if not opened else []
        opened.append(FaultSource(ArraySource(np.zeros((4, 64, 64), np.uint8)), faults))
        return opened[-1]

    monkeypatch.setattr(module, "open_source", opening)
    monkeypatch.setattr(module, "first_frame", lambda source: None)
    data = minimal(tmp_path)
    data["source"]["reconnect"] = {"first_s": 0.0}
    events: list[StreamEvent] = []
    report = run_config(read_config(write(tmp_path / "stream.yaml", data)), on_event=events.append)
    assert report.branches["seg"].ledger.fresh == 2 + 4
    assert [event.message.split(" (")[0] for event in events] == ["source lost", "source reconnected"]


def test_the_poses_of_a_sweep_come_along_at_another_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("cv2")
    from edge_runtime.buffers import InterpolatedPose, PoseBuffer
    from edge_runtime.geometry import Pose
    from edge_runtime.sources import ArraySource

    def opening(spec: Any, *, geometry: Any) -> ArraySource:
        source = ArraySource(np.zeros((5, 64, 64), np.uint8), fps=10.0)
        source.poses = PoseBuffer()
        for k in range(5):
            T = np.eye(4)
            T[2, 3] = k
            source.poses.append(Pose(T_world_image=T, time_ns=k * 100_000_000, covariance=None, origin="tracker"))
        return source

    monkeypatch.setattr(module, "open_source", opening)
    for more in ({"pace": "lossless"}, {"pace": "live", "fps": 200.0}):
        data = minimal(tmp_path)
        data["source"] = {"open": "sweep", **more}
        data["branches"]["seg"]["budget_ms"] = None
        found: dict[int, Any] = {}
        sink = CallbackSink(lambda result, found=found: found.__setitem__(result.frame.index, pose_of(result)))  # type: ignore[misc]
        run_config(read_config(write(tmp_path / "stream.yaml", data)), sinks={"s": sink})
        assert found
        for index, pose in found.items():
            assert isinstance(pose, InterpolatedPose)
            assert pose.pose.T_world_image[2, 3] == index


def test_the_config_type_is_what_the_docs_show() -> None:
    """Every key in the example of docs/streaming.md is known, and the example reads."""
    text = (Path(__file__).parents[3] / "docs" / "streaming.md").read_text(encoding="utf-8")
    example = text.split("```yaml\n")[1].split("```")[0]
    from edge_runtime.settings_file import parse_yaml, to_struct

    config = to_struct(parse_yaml(example, "docs"), StreamConfig, "docs")
    assert set(config.branches) == {"segmentation", "quality"}


def test_the_scan_area_of_a_capture_is_found_or_given(tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    images = np.zeros((3, 96, 96), np.uint8)
    images[:, 10:80, 20:90] = np.random.default_rng(0).integers(40, 200, (3, 70, 70), np.uint8)
    settings = minimal(tmp_path)
    np.save(tmp_path / "frames.npy", images)
    areas = []
    for asked in ("detect", [20, 10, 90, 80]):
        settings["source"] |= {"scan_area": asked, "row_mm": 0.5, "column_mm": 0.5, "reconnect": {}}
        source = module._open(read_config(write(tmp_path / "s.yaml", settings)).source, [])
        frames = list(source)
        assert len(frames) == 3
        assert frames[0].geometry.row_mm == 0.5
        areas.append(frames[2].geometry.scan_area)
    assert areas == [Rectangle(x0=20, y0=10, x1=90, y1=80)] * 2
    for wrong in ("found", [5, 5, 5, 9], [-1, 0, 5, 9]):
        settings["source"]["scan_area"] = wrong
        with pytest.raises(ConfigError, match="scan_area"):
            read_config(write(tmp_path / "s.yaml", settings))
