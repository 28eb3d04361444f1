from __future__ import annotations

import os
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_runtime.errors import ConfigError, CorruptFrameError, PipelineError, SourceError, SourceFormatError
from edge_runtime.frame import Frame, FrameGeometry, Rectangle, Sector
from edge_runtime.result import Outcome, Result
from edge_runtime.runners import FakeRunner
from edge_runtime.sinks import CollectSink, RecorderSink
from edge_runtime.sinks.recording import MAGIC, output_digests
from edge_runtime.sinks.replaying import RecordingSource
from edge_runtime.sources import PacedSource, ReplaySource
from edge_runtime.streaming import Branch, Pipeline, Rung

MM = st.floats(1e-3, 10, allow_nan=False)
ANY = st.floats(-1e6, 1e6, allow_nan=False)
AREAS = st.one_of(
    st.none(),
    st.builds(Rectangle, x0=ANY, y0=ANY, x1=ANY, y1=ANY),
    st.builds(Sector, apex_x=ANY, apex_y=ANY, radius_min=MM, radius_max=MM, angle_min=ANY, angle_max=ANY, aspect=MM),
)
GEOMETRIES = st.builds(
    FrameGeometry, row_mm=MM, column_mm=MM, shear=ANY, scan_area=AREAS, origin=st.just("user"), trusted=st.booleans(),
    reason=st.just("a doubt"),
)  # fmt: skip


def recorded(path: Path, frames: list[Frame], **options: Any) -> None:
    sink = RecorderSink(path, **options)
    sink.open()
    try:
        for frame in frames:
            sink.write(Result(frame=frame, branch="seg", state="fresh", extra={"error": "PATIENT^NAME"}))
    finally:
        sink.close()


def frames(n: int, shape: tuple[int, ...] = (12, 10), step: int = 1) -> list[Frame]:
    rng = np.random.default_rng(n)
    return [
        Frame(image=rng.integers(0, 256, shape, np.uint8), index=step * k, arrival_ns=40_000_000 * k, device_ns=7 * k)
        for k in range(n)
    ]


@given(
    st.lists(
        st.tuples(GEOMETRIES, st.sampled_from([(3, 4), (5, 2, 3), (1, 1)]), st.integers(0, 2**62), st.booleans()),
        max_size=6,
    )
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
def test_frames_come_back_bit_equal(tmp_path: Path, drawn: list[Any]) -> None:
    rng = np.random.default_rng(0)
    given_frames = [
        Frame(
            image=rng.integers(0, 256, shape, np.uint8), index=k, arrival_ns=time, device_ns=time if timed else None,
            geometry=geometry,
        )
        for k, (geometry, shape, time, timed) in enumerate(drawn)
    ]  # fmt: skip
    recorded(tmp_path / "r", given_frames)
    with RecordingSource(tmp_path / "r") as source:
        for before in given_frames:
            after = source.read()
            assert after is not None
            assert after.image.dtype == np.uint8
            assert after.image.flags.writeable  # owned by the receiver
            assert np.array_equal(after.image, before.image)
            assert (after.index, after.device_ns, after.geometry) == (before.index, before.device_ns, before.geometry)
        assert source.read() is None
        assert source.account == {
            "frames": len(drawn), "not_recorded": 0, "results": {"fresh": len(drawn)} if drawn else {},
        }  # fmt: skip


class Pair:
    """Input and output that depend on the frame: what a replay must reproduce."""

    def __call__(self, frame: Frame) -> Any:
        self.tensor = np.zeros((1, 1, 16, 16), np.float32)
        self.tensor[0, 0, :12, :10] = frame.image / np.float32(255)
        return self

    def reset(self) -> None:
        return None


def answer(outputs: Any, prepared: Any, frame: Frame, **_: Any) -> Outcome:
    logits = outputs["mask"][0, 0]
    return Outcome(mask=(logits[:12, :10] > 0).astype(np.uint8), probability=1 / (1 + np.exp(-logits)))


def streamed(source: Any, **sinks: Any) -> tuple[list[Result], Any]:
    collected = CollectSink()
    branch = Branch(
        preprocess=Pair(), rungs=(Rung(runner=FakeRunner(shape=(16, 16), fail_at=(5,)), postprocess=answer),)
    )
    pipeline = Pipeline({"seg": branch}, sinks={"all": collected, **sinks}, warm_up_runs=0, freeze_gc=False)
    report = pipeline.run(source)
    return collected.results, report.branches["seg"].ledger


def test_a_replay_gives_the_same_results_and_the_same_ledger(tmp_path: Path) -> None:
    first, ledger = streamed(ReplaySource(frames(30)), recorder=RecorderSink(tmp_path / "r"))
    source = RecordingSource(tmp_path / "r")
    again, ledger_again = streamed(source)
    assert ledger_again == ledger
    assert (ledger.fresh, ledger.failed) == (29, {"infer: InferenceError": 1})
    assert source.account == {"frames": 30, "not_recorded": 0, "results": {"fresh": 29, "failed": 1}}
    assert [output_digests(result) for result in again] == [told["digests"] for told in source.results]
    for before, after, told in zip(first, again, source.results, strict=True):
        assert (before.state, before.frame.index) == (after.state, after.frame.index) == (told["state"], told["frame"])
        for name in ("mask", "probability"):
            one, two = getattr(before, name), getattr(after, name)
            assert (one is None and two is None) or np.array_equal(one, two)
    source.close()


def test_two_branches_share_a_frame_and_gaps_are_counted(tmp_path: Path) -> None:
    sink = RecorderSink(tmp_path / "r")
    sink.open()
    for frame in frames(4, step=3):
        for branch in ("seg", "view"):
            sink.write(Result(frame=frame, branch=branch, state="fresh"))
    sink.close()
    with RecordingSource(tmp_path / "r") as source:
        assert source.account == {"frames": 4, "not_recorded": 6, "results": {"fresh": 8}}
        assert [(told["branch"], told["frame"]) for told in source.results[:4]] == [
            ("seg", 0), ("view", 0), ("seg", 3), ("view", 3),
        ]  # fmt: skip
        assert [frame.index for frame in source] == [0, 3, 6, 9]


def test_the_pace_is_the_recorded_one(tmp_path: Path) -> None:
    recorded(tmp_path / "r", frames(5))
    source = RecordingSource(tmp_path / "r")
    assert (source.frame_count, source.fps, source.live) == (5, 25.0, False)
    assert [source.due_ns(k) for k in range(7)] == [40_000_000 * k for k in range(7)]
    source.rewind()
    with PacedSource(source) as paced:
        assert paced.fps == 25.0


def test_no_text_of_the_source_is_written(tmp_path: Path) -> None:
    recorded(tmp_path / "r", frames(3))
    assert b"PATIENT" not in (tmp_path / "r").read_bytes()


@pytest.mark.parametrize("n", [0, 1])
def test_an_empty_or_single_recording_has_no_rate(tmp_path: Path, n: int) -> None:
    recorded(tmp_path / "r", frames(n))
    with RecordingSource(tmp_path / "r") as source:
        assert (source.frame_count, source.fps) == (n, None)
        assert len(list(source)) == n


def test_a_recording_cut_anywhere_gives_the_frames_before_the_cut(tmp_path: Path) -> None:
    given_frames = frames(3)
    recorded(tmp_path / "r", given_frames)
    data = (tmp_path / "r").read_bytes()
    for size in range(len(MAGIC), len(data), 13):
        (tmp_path / "cut").write_bytes(data[:size])
        with RecordingSource(tmp_path / "cut") as source:
            assert source.account is None
            assert "cut off" in source.timing_note
            found = list(source)
        assert all(np.array_equal(a.image, b.image) for a, b in zip(found, given_frames, strict=False))
        assert len(found) == sum(data[:size].count(frame.image.tobytes()) for frame in given_frames)


def test_a_damaged_frame_is_told_and_the_others_are_played(tmp_path: Path) -> None:
    given_frames = frames(3)
    recorded(tmp_path / "r", given_frames)
    data = bytearray((tmp_path / "r").read_bytes())
    data[data.index(given_frames[1].image.tobytes()) + 5] ^= 1
    (tmp_path / "r").write_bytes(data)
    with RecordingSource(tmp_path / "r") as source:
        assert np.array_equal(source.read().image, given_frames[0].image)  # type: ignore[union-attr]
        with pytest.raises(CorruptFrameError, match="frame 1 does not fit its checksum") as caught:
            source.read()
        assert caught.value.index == 1
        assert np.array_equal(source.read().image, given_frames[2].image)  # type: ignore[union-attr]


@given(st.integers(0, 2000), st.integers(0, 255))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
def test_a_wrong_byte_anywhere_gives_typed_errors_alone(tmp_path: Path, at: int, value: int) -> None:
    path = tmp_path / "whole"
    if not path.exists():
        recorded(path, frames(3, (4, 4)))
    data = bytearray(path.read_bytes())
    data[at % len(data)] = value
    (tmp_path / "bad").write_bytes(data)
    try:
        source = RecordingSource(tmp_path / "bad")
    except SourceFormatError:
        return
    with source:
        for _ in range(4):
            with suppress(CorruptFrameError):
                source.read()


@pytest.mark.parametrize(
    "content",
    [b"", b"edge-recording/2", MAGIC + b"x" * 99, MAGIC + struct.pack("<IQI", 2, 0, 0) + b"{}",
     MAGIC + struct.pack("<IQI", 16, 0, 0) + b'{"kind":"frame"}', MAGIC + struct.pack("<IQI", 9, 0, 0) + b"not JSON:"],
)  # fmt: skip
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(SourceFormatError, match="x"):
        RecordingSource(tmp_path / "x")
    with pytest.raises(SourceError, match="cannot be opened"):
        RecordingSource(tmp_path / "none")


def test_the_file_is_bounded_and_whole_when_full(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"r is full at 0\.01 MiB"):
        recorded(tmp_path / "r", frames(100), max_mb=0.01)
    assert os.listdir(tmp_path) == ["r"]
    assert (tmp_path / "r").stat().st_size <= 0.01 * 2**20
    with RecordingSource(tmp_path / "r") as source:
        assert source.account is not None
        assert source.account["frames"] == len(list(source)) > 1
    with pytest.raises(ConfigError, match="max_mb"):
        RecorderSink(tmp_path / "r", max_mb=0)


def test_a_full_disk_leaves_a_partial_recording(tmp_path: Path, limit: Callable[[int], Any]) -> None:
    sink = RecorderSink(tmp_path / "r")
    sink.open()
    given_frames = frames(9)
    sink.write(Result(frame=given_frames[0], branch="seg", state="fresh"))
    with limit(sink._file.size + 50):
        with pytest.raises(OSError, match="large"):
            sink.write(Result(frame=given_frames[1], branch="seg", state="fresh"))
        with pytest.raises(OSError, match="large"):
            sink.close()
    sink.close()
    assert os.listdir(tmp_path) == ["r.partial"]
    with RecordingSource(tmp_path / "r.partial") as source:
        assert len(list(source)) == 1


def test_writing_before_open_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="not open"):
        RecorderSink(tmp_path / "r").write(Result(frame=frames(1)[0], branch="seg", state="fresh"))
    with pytest.raises(ConfigError, match="not a folder"):
        RecorderSink(tmp_path / "none" / "r").open()
