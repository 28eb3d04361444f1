"""`edge-runtime run --config stream.yaml`: a whole stream from a file."""

from __future__ import annotations

import json

import pytest

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
