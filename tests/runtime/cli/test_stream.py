"""`edge-runtime run --config stream.yaml`: a whole stream from a file."""

from __future__ import annotations

import json

import pytest

from edge_runtime.sinks import read_jsonl
from edge_runtime.sinks.recording import MAGIC

pytest.importorskip("cv2")
pytest.importorskip("onnxruntime")


def test_a_stream_file_is_run_alone(call, edge, frames, tmp_path):
    config = tmp_path / "stream.yaml"
    config.write_text(f"source: {{open: {frames}, pace: lossless}}\nbranches: {{seg: {{bundle: {edge}}}}}\n")
    found = call("run", "--config", config, "--json")
    assert found.exit_code == 0, found.stderr
    assert json.loads(found.stdout)["branches"]["seg"]["ledger"]["fresh"] == 8
    assert "stuck_s: 5.0" in found.stderr  # the effective settings


def test_what_does_not_fit_together_is_refused(call, edge, frames, tmp_path):
    config = tmp_path / "stream.yaml"
    config.write_text(f"source: {{open: {frames}}}\nbranches: {{seg: {{bundle: {edge}}}}}\n")
    for arguments, words in (
        (("--config", config, "--fps", "5", "--record", tmp_path), f"write fps, record into {config}"),
        ((), "or --config with a stream file"),
        ((edge,), "needs a SOURCE"),
        ((edge, frames, "--config", config), "unknown key 'source'"),
    ):
        found = call("run", *arguments)
        assert found.exit_code == 2
        assert words in found.stderr


def test_the_line_adds_to_the_sinks_of_the_file(call, edge, frames, tmp_path):
    config, log, lines = tmp_path / "stream.yaml", tmp_path / "log.jsonl", tmp_path / "lines.jsonl"
    config.write_text(
        f"source: {{open: {frames}, pace: lossless}}\nbranches: {{seg: {{bundle: {edge}}}}}\n"
        f"sinks: {{log: {{kind: jsonl, path: {log}}}, kept: {{kind: recorder, path: {tmp_path / 'kept.rec'}}}}}\n"
    )
    found = call(
        "run", "--config", config, "--json", "--ndjson", lines, "--save-frames", tmp_path / "more.rec",
        "--trace", tmp_path / "trace.json",
    )  # fmt: skip
    assert found.exit_code == 0, found.stderr
    assert sorted(json.loads(found.stdout)["sinks"]) == ["kept", "log", "ndjson", "recorder"]
    assert len(read_jsonl(log).results) == len(read_jsonl(lines).results) == 8
    assert (tmp_path / "kept.rec").read_bytes()[:16] == (tmp_path / "more.rec").read_bytes()[:16] == MAGIC
    assert json.loads((tmp_path / "trace.json").read_text())


def test_names_files_and_ports_are_used_once(call, edge, frames, tmp_path):
    config, log = tmp_path / "stream.yaml", tmp_path / "log.jsonl"
    head = f"source: {{open: {frames}}}\nbranches: {{seg: {{bundle: {edge}}}}}\n"
    one = f"sinks: {{log: {{kind: jsonl, path: {log}}}, show: {{kind: mjpeg, port: 8099}}}}\n"
    trace = tmp_path / "trace.json"
    for sinks, line, words in (
        (one, ("--ndjson", log), f"sink 'log' and --ndjson would both use {log}"),
        (one, ("--mjpeg-port", "8099"), "sink 'show' and --mjpeg-port would both use port 8099"),
        (one, ("--metrics-port", "8099"), "sink 'show' and --metrics-port would both use port 8099"),
        (one, ("--trace", trace, "--save-frames", trace), "would both use"),
        ("sinks: {ndjson: {kind: jsonl, path: a}}\n", ("--ndjson", log), "sink 'ndjson' is one that the command line"),
        ("sinks: {a: {kind: jsonl, path: x}, b: {kind: video, path: x}}\n", (), "sink 'a' and sink 'b' would both use"),
    ):
        config.write_text(head + sinks)
        found = call("run", "--config", config, *line)
        assert found.exit_code == 2, found.stderr
        assert words in found.stderr
        assert not list(tmp_path.glob("*.partial")), "nothing was begun"
