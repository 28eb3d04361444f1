"""`edge-runtime run` with what it can show and write beside the report."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime.sinks import read_jsonl
from edge_runtime.sinks.replaying import RecordingSource
from edge_runtime.telemetry import read_trace

pytest.importorskip("typer")
pytest.importorskip("yaml")
pytest.importorskip("cv2")
pytest.importorskip("onnxruntime")

DATA = Path(__file__).parents[2] / "data"


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Any]:
    """`run(*options)`: the command on eight frames, in this process."""
    from typer.testing import CliRunner

    from edge_runtime.cli.app import app

    edge = shutil.copy(DATA / "v1.edge", tmp_path / "v1.edge")
    frames = np.random.default_rng(0).integers(0, 255, (8, 20, 24), dtype=np.uint8)
    np.save(tmp_path / "frames.npy", frames)
    command = ["run", str(edge), str(tmp_path / "frames.npy")]
    return lambda *options: CliRunner().invoke(app, [*command, *map(str, options)])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_results_and_frames_are_written_and_the_collector_is_reported(run: Callable[..., Any], tmp_path: Path) -> None:
    found = run("--lossless", "--ndjson", tmp_path / "r.ndjson", "--save-frames", tmp_path / "f", "--json")
    assert found.exit_code == 0, found.stderr
    report = json.loads(found.stdout)
    assert set(report["garbage_collection"]) == {"pauses", "total_ms", "longest_ms", "generations"}
    results = read_jsonl(tmp_path / "r.ndjson").results
    assert [result["frame"] for result in results] == list(range(8))
    for result in results:
        assert len(result["bundle_sha256"]) == len(result["preprocess_sha256"]) == 64
        assert result["variant"]
        assert result["runner"] == "onnxruntime"
    with RecordingSource(tmp_path / "f") as source:
        assert source.account == {"frames": 8, "not_recorded": 0, "results": {"fresh": 8}}
        assert all(told["digests"]["mask"] for told in source.results)
        assert np.array_equal(np.stack([frame.image for frame in source]), np.load(tmp_path / "frames.npy"))
    assert "garbage collection, warm-up included: " in run("--lossless").stdout


def test_the_live_view_can_be_seen_while_it_runs(run: Callable[..., Any]) -> None:
    port, seen = free_port(), threading.Event()

    def look() -> None:
        while not seen.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            try:
                connection.request("GET", "/")
                if connection.getresponse().status == 200:
                    seen.set()
            except ConnectionError:
                threading.Event().wait(0.01)
            finally:
                connection.close()

    viewer = threading.Thread(target=look)
    viewer.start()
    found = run("--fps", "20", "--loop-s", "2", "--mjpeg-port", port)
    seen.set() if found.exit_code else seen.wait(10)
    viewer.join(10)
    assert found.exit_code == 0, found.stderr
    assert f"http://127.0.0.1:{port}/" in found.stderr
    assert "sink live view" in found.stdout


def test_a_trace_is_written_and_the_stream_can_be_scraped(run: Callable[..., Any], tmp_path: Path, trace: Any) -> None:
    port, seen = free_port(), threading.Event()
    texts: list[str] = []

    def scrape() -> None:
        while not seen.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            try:
                connection.request("GET", "/metrics")
                texts.append(connection.getresponse().read().decode())
                if 'outcome="fresh"' in texts[-1]:
                    seen.set()
            except ConnectionError:
                threading.Event().wait(0.01)
            finally:
                connection.close()

    scraper = threading.Thread(target=scrape)
    scraper.start()
    found = run("--fps", "20", "--loop-s", "2", "--trace", tmp_path / "t.json", "--metrics-port", port, "--json")
    seen.set() if found.exit_code else seen.wait(10)
    scraper.join(10)
    assert found.exit_code == 0, found.stderr
    assert 'edge_runtime_frames_arrived_total{branch="segmentation"}' in texts[-1]
    written = trace(read_trace(tmp_path / "t.json"))
    written.check()
    ledger = json.loads(found.stdout)["branches"]["segmentation"]["ledger"]
    frames = [e for e in written.events if e["ph"] == "X" and written.tracks[e["tid"]] == "segmentation: frames"]
    assert sum(e["args"]["outcome"] == "fresh" for e in frames) == ledger["fresh"]
    assert written.instants("segmentation: decisions")


def test_what_was_recorded_is_run_again(run: Callable[..., Any], tmp_path: Path) -> None:
    first = tmp_path / "first"
    assert run("--lossless", "--save-frames", first).exit_code == 0
    first.replace(tmp_path / "frames.npy")  # opened by its content
    assert run("--lossless", "--save-frames", tmp_path / "again").exit_code == 0
    with RecordingSource(tmp_path / "frames.npy") as one, RecordingSource(tmp_path / "again") as two:
        assert one.account == two.account
        assert [told["digests"] for told in one.results] == [told["digests"] for told in two.results]


def test_mistakes_are_said_before_the_start(run: Callable[..., Any], tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        for options, words in (
            (("--ndjson", tmp_path / "none" / "r"), "is not a folder"),
            (("--save-frames", tmp_path / "none" / "f"), "is not a folder"),
            (("--mjpeg-port", taken.getsockname()[1]), "choose another port"),
            (("--metrics-port", taken.getsockname()[1]), "choose another port"),
            (("--trace", tmp_path / "none" / "t.json"), "is not a folder"),
            (("--mjpeg-port", 70000), "65535"),
        ):
            found = run("--lossless", *options)
            assert found.exit_code == 2
            assert words in found.stderr
