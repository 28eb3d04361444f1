from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime.errors import ConfigError, PipelineError, SourceFormatError
from edge_runtime.frame import Frame
from edge_runtime.result import (
    Area,
    ClassScore,
    Detection,
    Finding,
    GateScore,
    Instance,
    Measurement,
    Result,
)
from edge_runtime.sinks import (
    ContactSheetSink,
    JsonlSink,
    OverlayVideoSink,
    Sink,
    contact_sheet,
    read_jsonl,
    write_png,
)
from edge_runtime.sinks.record import result_fields


def result(index: int, shape: tuple[int, int] = (240, 320)) -> Result:
    image = np.full(shape, 8 * index % 256, np.uint8)
    return Result(
        frame=Frame(image=image, index=index, arrival_ns=1000 * index, device_ns=7),
        branch="seg",
        state="fresh",
        mask=np.ones(shape, np.uint8),
        probability=np.ones((4, 4), np.float32),
        areas=(Area(label="cyst", pixels=9, mm2=None, withheld="no calibration"),),
        classes=(ClassScore(label="benign", probability=0.75),),
        detections=(Detection(label="cyst", score=0.5, x0=1.0, y0=2.0, x1=3.5, y1=4.0),),
        objects=(
            Instance(number=1, area=Area(label="cyst", pixels=9, mm2=None, withheld="-"), x0=1, y0=2, x1=4, y1=5),
        ),
        measurements=(
            Measurement(label="cyst", quantity="diameter", unit="mm", value=None, uncertainty=None, withheld="-"),
        ),
        findings=(Finding(rule="size", label="cyst", quantity="area", value=900.0, least=None, most=10.0),),
        gates=(GateScore(output="mask", score=3.5, threshold=2.0),),
        uncertainty=0.25,
        variant="int8",
        runner="ort",
        bundle_sha256="ab",
        preprocess_sha256="cd",
        deadline_ns=1000 * index + 500,
        done_ns=1000 * index + 400,
        stages_ns={"capture": 100, "infer": 200},
        waits_ns={"queue": 100},
        extra={"error": "PATIENT^NAME"},
    )


# what is recorded of the outputs of `result`
OUTPUTS: dict[str, Any] = {
    "areas": [{"label": "cyst", "pixels": 9, "mm2": None, "withheld": "no calibration"}],
    "classes": [{"label": "benign", "probability": 0.75}],
    "detections": [{"label": "cyst", "score": 0.5, "x0": 1.0, "y0": 2.0, "x1": 3.5, "y1": 4.0}],
    "objects": [
        {
            "number": 1,
            "area": {"label": "cyst", "pixels": 9, "mm2": None, "withheld": "-"},
            "x0": 1,
            "y0": 2,
            "x1": 4,
            "y1": 5,
        },
    ],
    "measurements": [
        {
            "label": "cyst",
            "quantity": "diameter",
            "unit": "mm",
            "value": None,
            "uncertainty": None,
            "withheld": "-",
        },
    ],
    "findings": [
        {
            "rule": "size",
            "label": "cyst",
            "quantity": "area",
            "value": 900.0,
            "least": None,
            "most": 10.0,
            "reason": "",
        },
    ],
    "gates": [{"output": "mask", "score": 3.5, "threshold": 2.0, "beyond": True}],
}


def fill(sink: Sink, n: int) -> None:
    sink.open()
    for index in range(n):
        sink.write(result(index))


def test_a_record_can_be_read_back_and_holds_no_pixels_and_no_extra(tmp_path: Path) -> None:
    sink = JsonlSink(tmp_path / "run.jsonl")
    fill(sink, 3)
    sink.close()
    record = read_jsonl(tmp_path / "run.jsonl")
    assert not record.truncated
    assert [r["frame"] for r in record.results] == [0, 1, 2]
    assert record.results[2] == {
        "branch": "seg",
        "frame": 2,
        "state": "fresh",
        "reason": "",
        "missed": False,
        "outputs_from": -1,
        "arrival_ns": 2000,
        "device_ns": 7,
        "deadline_ns": 2500,
        "done_ns": 2400,
        "stages_ns": {"capture": 100, "infer": 200},
        "waits_ns": {"queue": 100},
        **OUTPUTS,
        "uncertainty": 0.25,
        "pose": None,
        "imu": None,
        "variant": "int8",
        "runner": "ort",
        "bundle_sha256": "ab",
        "preprocess_sha256": "cd",
    }
    assert b"PATIENT" not in (tmp_path / "run.jsonl").read_bytes()
    assert os.listdir(tmp_path) == ["run.jsonl"]


@pytest.mark.parametrize(("score", "beyond"), [(1.5, False), (2.0, False), (2.5, True)])
def test_the_record_says_whether_a_frame_lies_beyond_a_gate(score: float, beyond: bool) -> None:
    marked = replace(result(0), gates=(GateScore(output="mask", score=score, threshold=2.0),))
    assert [gate["beyond"] for gate in result_fields(marked)["gates"]] == [beyond]


def test_a_record_cut_anywhere_gives_the_results_before_the_cut(tmp_path: Path) -> None:
    sink = JsonlSink(tmp_path / "run.jsonl")
    fill(sink, 3)
    assert os.listdir(tmp_path) == ["run.jsonl.partial"]
    data = (tmp_path / "run.jsonl.partial").read_bytes()
    assert data.count(b"\n") == 4
    cut = tmp_path / "cut"
    header = data.index(b"\n") + 1
    for size in (*range(header, len(data), 5), len(data)):
        cut.write_bytes(data[:size])
        record = read_jsonl(cut)
        assert len(record.results) == data[:size].count(b"\n") - 1
        assert record.truncated is (data[size - 1 : size] != b"\n")
    sink.close()


def test_what_a_crash_left_is_kept(tmp_path: Path) -> None:
    for n in (1, 2):
        sink = JsonlSink(tmp_path / "run.jsonl")
        fill(sink, n)
        sink.close()
        (tmp_path / "run.jsonl").rename(tmp_path / "run.jsonl.partial")  # as if it had never been closed
    sink = JsonlSink(tmp_path / "run.jsonl")
    fill(sink, 3)
    sink.close()
    assert sorted(os.listdir(tmp_path)) == ["run.jsonl", "run.jsonl.cut-1", "run.jsonl.cut-2"]
    names = ("run.jsonl.cut-1", "run.jsonl.cut-2", "run.jsonl")
    assert [len(read_jsonl(tmp_path / name).results) for name in names] == [1, 2, 3]


def test_a_record_that_could_not_be_written_whole_never_gets_its_name(
    tmp_path: Path, limit: Callable[[int], Any]
) -> None:
    sink = JsonlSink(tmp_path / "run.jsonl")
    fill(sink, 2)
    with limit(sink._file.size + 100), pytest.raises(OSError, match="large"):
        sink.write(result(2))
    sink.close()
    assert os.listdir(tmp_path) == ["run.jsonl.partial"]
    record = read_jsonl(tmp_path / "run.jsonl.partial")
    assert (len(record.results), record.truncated) == (2, True)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}\n",
        b'{"schema":"other/1"}\n',
        b"\x00\xff\n",
        b'{"\xff":1}\n',
        b'{"schema":"edge-runtime.results/1"}\n[1]\n{}\n',
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(SourceFormatError, match="x"):
        read_jsonl(tmp_path / "x")


def test_writing_before_open_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="not open"):
        JsonlSink(tmp_path / "run.jsonl").write(result(0))
    with pytest.raises(ConfigError, match="sync_every"):
        JsonlSink(tmp_path / "run.jsonl", sync_every=0)


@pytest.mark.parametrize("make", [JsonlSink, OverlayVideoSink, ContactSheetSink])
def test_a_missing_folder_is_an_error_before_the_start(tmp_path: Path, make: Callable[[Path], Sink]) -> None:
    pytest.importorskip("cv2")
    suffix = ".webm" if make is OverlayVideoSink else ".x"
    with pytest.raises(ConfigError, match="is not a folder"):
        make(tmp_path / "none" / f"out{suffix}").open()


@pytest.mark.parametrize("suffix", [".webm", ".mp4", ".avi"])
def test_a_video_has_a_frame_for_each_result_and_appears_at_close(tmp_path: Path, suffix: str) -> None:
    cv2 = pytest.importorskip("cv2")
    path = tmp_path / f"out{suffix}"
    sink = OverlayVideoSink(path, fps=25)
    fill(sink, 12)
    sink.write(result(12, (300, 300)))
    assert not path.exists()
    sink.close()
    assert os.listdir(tmp_path) == [path.name]
    video = cv2.VideoCapture(str(path))
    assert video.get(cv2.CAP_PROP_FPS) == pytest.approx(25, abs=0.1)
    shades = []
    while (read := video.read())[0]:
        assert read[1].shape == (594, 640, 3)
        shades.append(float(read[1][400:440, 500:560].mean()))
    assert len(shades) == 13
    assert shades[:12] == sorted(shades[:12])


def test_no_result_no_video(tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    for sink in (OverlayVideoSink(tmp_path / "a.webm"), ContactSheetSink(tmp_path / "b.png")):
        sink.open()
        sink.close()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("bad", [{"fps": 0}, {"fps": float("nan")}])
def test_bad_video_settings_are_refused(tmp_path: Path, bad: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="fps"):
        OverlayVideoSink(tmp_path / "a.webm", **bad)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"suffix is '\.gif'"):
        OverlayVideoSink(tmp_path / "a.gif")


@pytest.mark.parametrize(("n", "kept"), [(1, 1), (8, 8), (9, 5), (16, 8), (17, 5), (1000, 8)])
def test_a_sheet_is_spread_over_a_stream_of_unknown_length(tmp_path: Path, n: int, kept: int) -> None:
    pytest.importorskip("cv2")
    sink = ContactSheetSink(tmp_path / "sheet.png", count=8)
    small = result(0, (16, 16))
    sink.open()
    numbers: list[int] = []
    for number in range(n):
        before = len(sink._images)
        sink.write(small)
        stride = sink._stride
        numbers = list(range(0, number + 1, stride))
        assert len(sink._images) == len(numbers) <= 8
        assert len(sink._images) != before or number % stride
    sink.close()
    assert len(numbers) == kept
    assert (tmp_path / "sheet.png").stat().st_size > 0


def test_a_sheet_has_its_pictures_in_order(tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    pictures = [np.full((30, 40, 3), (10 * k, 0, 5), np.uint8) for k in range(5)]
    sheet = contact_sheet(pictures, columns=3, width=40)
    assert sheet.shape == (60, 120, 3)
    centres = [sheet[15 + 30 * (k // 3), 20 + 40 * (k % 3)].tolist() for k in range(6)]
    assert centres == [[10 * k, 0, 5] for k in range(5)] + [[0, 0, 0]]
    write_png(tmp_path / "sheet.png", sheet)
    assert np.array_equal(cv2.imread(str(tmp_path / "sheet.png"))[:, :, ::-1], sheet)
    assert contact_sheet(pictures[:2], columns=4, width=40).shape == (30, 80, 3)
    with pytest.raises(ConfigError, match="no pictures"):
        contact_sheet([])
    with pytest.raises(ConfigError, match="0 pictures"):
        ContactSheetSink(tmp_path / "x.png", count=0)
