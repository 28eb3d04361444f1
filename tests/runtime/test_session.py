"""A bundle on a real cine with the usual sinks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime.errors import BundleSignatureError, ConfigError, EdgeError
from edge_runtime.frame import FrameGeometry
from edge_runtime.result import Result
from edge_runtime.session import BRANCH, RunSettings, read_settings, run_stream
from edge_runtime.sinks import CallbackSink, read_jsonl
from edge_runtime.sources import ArraySource, Source, open_source

pytest.importorskip("onnxruntime")
pytest.importorskip("cv2")

DATA = Path(__file__).parents[1] / "data"
V1, KEY = DATA / "v1.edge", DATA / "v1.pub.pem"
BRIGHT = np.kron(np.eye(4, dtype=np.uint8) * 255, np.ones((16, 16), np.uint8))


def cine() -> Source:
    """The colour cine in pydicom's wheel: 30 frames, and a calibration that cannot be trusted."""
    examples = pytest.importorskip("pydicom.examples")
    return open_source(examples.get_path("ybr_color"))


def arrays(frames: int = 6, trusted: bool = True) -> ArraySource:
    geometry = FrameGeometry(row_mm=0.5, column_mm=0.5, origin="user", trusted=True, reason="")
    stack = np.repeat(BRIGHT[None], frames, axis=0)
    return ArraySource(stack, fps=30.0, geometry=geometry if trusted else FrameGeometry(reason="none given"))


def test_a_second_of_a_real_cine_live(tmp_path: Path) -> None:
    results: list[Result] = []
    sink = CallbackSink(lambda result: results.append(result.copy()), capacity=64)
    settings = RunSettings(loop_s=1.0, fps=30.0, budget_ms=5000.0, video=False)
    report = run_stream(V1, cine(), settings, record=tmp_path / "record", sinks={"mine": sink})
    branch = report.branches[BRANCH]
    assert report.balances
    assert branch.ledger.arrived == 30
    assert branch.ledger.in_flight == 0
    assert {area.withheld != "" for result in results for area in result.areas} == {True}
    assert {result.mask.shape for result in results if result.mask is not None} == {(240, 320)}
    assert sorted(path.name for path in (tmp_path / "record").iterdir()) == [
        "contact.png",
        "report.json",
        "results.jsonl",
    ]
    record = read_jsonl(tmp_path / "record" / "results.jsonl")
    assert not record.truncated
    assert 1 <= len(record.results) <= 30
    assert record.results[0]["areas"][0]["mm2"] is None
    told = json.loads((tmp_path / "record" / "report.json").read_text())
    assert told["settings"]["loop_s"] == 1.0
    assert told["bundle"]["name"] == "v1-sample"
    assert [test["variant"] for test in told["self_tests"]] == ["fp32", "fp16"]


def test_a_lossless_run_takes_every_frame_once() -> None:
    indices: list[int] = []
    sink = CallbackSink(lambda result: indices.append(result.frame.index))
    report = run_stream(V1, cine(), RunSettings(pace="lossless"), sinks={"mine": sink})
    ledger = report.branches[BRANCH].ledger
    assert indices == list(range(30))
    assert (ledger.arrived, ledger.in_flight, report.balances) == (30, 0, True)


def test_areas_of_a_known_picture_in_mm2() -> None:
    """Four bright squares of 16 x 16 pixels of 0.5 mm on a network of a quarter of the size.

    The model smooths with [1 2 1]/4 both ways and cuts at one half; of each corner only a round bit is lost.
    """
    areas: list[float] = []
    sink = CallbackSink(lambda result: areas.append(result.areas[0].mm2 or 0.0))
    run_stream(V1, arrays(), RunSettings(pace="lossless"), sinks={"mine": sink})
    assert len(set(areas)) == 1
    assert areas[0] == pytest.approx(4 * 16 * 16 * 0.25, rel=0.06)


def test_the_record_of_a_run_names_no_folder(tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    settings = RunSettings(pace="lossless", trust=(str(KEY),), require_signature=True, video=False)
    run_stream(V1, arrays(), settings, record=tmp_path / "deep" / "record")
    text = (tmp_path / "deep" / "record" / "report.json").read_text()
    told = json.loads(text)
    assert told["settings"]["trust"] == ["v1.pub.pem"]
    assert told["signed_by"]
    assert str(DATA) not in text
    assert str(tmp_path) not in text


def test_with_video(tmp_path: Path) -> None:
    run_stream(V1, arrays(), RunSettings(pace="lossless"), record=tmp_path)
    assert (tmp_path / "overlay.webm").stat().st_size > 100


def test_a_bundle_that_is_refused_leaves_nothing_behind_and_closes_the_source(tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    source = arrays()
    bad = tmp_path / "bad.edge"
    bad.write_bytes(V1.read_bytes()[:-40])
    with pytest.raises(EdgeError):
        run_stream(bad, source, RunSettings(), record=tmp_path / "record")
    assert not (tmp_path / "record").exists()
    unsigned_key = tmp_path / "no.pem"
    with pytest.raises((ConfigError, BundleSignatureError)):
        run_stream(V1, arrays(), RunSettings(trust=(str(unsigned_key),)), record=tmp_path / "record")
    assert not (tmp_path / "record").exists()


def test_a_record_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="name another"):
        run_stream(V1, arrays(), RunSettings(pace="lossless"), record=tmp_path / "file" / "record")


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"budget": 20}, "budget.*known keys: target.*budget_ms"),
        ({"budget_ms": "fast"}, "budget_ms"),
        ({"budget_ms": 0}, "budget_ms is 0"),
        ({"budget_ms": float("nan")}, "budget_ms is nan"),
        ({"fps": -5}, "fps is -5"),
        ({"loop_s": float("inf")}, "loop_s is inf"),
        ({"timeout_s": 0}, "timeout_s is 0"),
        ({"threads": 0}, "threads is 0"),
        ({"threads": 1.5}, "threads"),
        ({"pace": "slow"}, "pace"),
        ({"target": "abacus"}, "target"),
        ({"require_signature": True}, "public key"),
        ({"pace": "lossless", "fps": 20}, "lossless run takes every frame once"),
    ],
)
def test_settings_that_cannot_be_are_refused_with_their_origin(values: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=f"(?s)settings.yaml.*{told}"):
        read_settings(values, "settings.yaml")


def test_settings_that_can_be() -> None:
    assert read_settings({}, "nowhere") == RunSettings()
    found = read_settings({"pace": "lossless", "threads": 2, "trust": ["a.pem"]}, "a file")
    assert found == RunSettings(pace="lossless", threads=2, trust=("a.pem",))
