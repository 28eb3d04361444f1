"""`edge-runtime run FILE SOURCE --scan-area`: the area that the frames of a capture get."""

from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.cli.run import _opened
from edge_runtime.errors import ConfigError
from edge_runtime.frame import Rectangle
from edge_runtime.sinks.replaying import RecordingSource

pytest.importorskip("onnxruntime")


@pytest.fixture
def capture(tmp_path):
    """Twelve frames (12, 200, 240) uint8: changing speckle in rows 20 to 180, columns 30 to 210, black around."""
    images = np.zeros((12, 200, 240), np.uint8)
    images[:, 20:180, 30:210] = np.random.default_rng(0).integers(40, 255, (12, 160, 180), dtype=np.uint8)
    path = tmp_path / "capture.npy"
    np.save(path, images)
    return path


def areas(path):
    with RecordingSource(path) as source:
        return [frame.geometry.scan_area for frame in source]


def test_a_rectangle_is_on_every_frame(call, edge, capture, tmp_path):
    kept = tmp_path / "kept.rec"
    line = ("run", edge, capture, "--lossless", "--save-frames", kept)
    found = call(*line, "--scan-area", "30,20,210,180")
    assert found.exit_code == 0, found.stderr
    assert areas(kept) == [Rectangle(x0=30, y0=20, x1=210, y1=180)] * 12


def test_it_is_found_in_the_first_frames(call, edge, capture, tmp_path):
    kept = tmp_path / "kept.rec"
    found = call("run", edge, capture, "--lossless", "--save-frames", kept, "--scan-area", "detect")
    assert found.exit_code == 0, found.stderr
    (area,) = set(areas(kept))
    assert isinstance(area, Rectangle)
    assert (area.x0, area.y0, area.x1, area.y1) == pytest.approx((30, 20, 210, 180), abs=2)


def test_without_it_there_is_none(capture):
    with _opened(str(capture), None) as source:
        assert {frame.geometry.scan_area for frame in source} == {None}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("find", r"`detect` or X0,Y0,X1,Y1.* is 'find'"),
        ("1,2,3", "3 numbers; 4 with commas"),
        ("1,2,nan,4", "finite numbers"),
        ("30,20,30,180", "0 <= X0 < X1"),
        ("-1,20,30,180", "0 <= X0 < X1"),
    ],
)
def test_what_is_no_area_is_refused_before_the_source_is_opened(tmp_path, given, told):
    with pytest.raises(ConfigError, match=told):
        _opened(str(tmp_path / "none.npy"), given)


def test_a_stream_file_says_it_itself(call, edge, capture, tmp_path):
    config = tmp_path / "stream.yaml"
    config.write_text(f"source: {{open: {capture}}}\nbranches: {{seg: {{bundle: {edge}}}}}\n")
    found = call("run", "--config", config, "--scan-area", "detect")
    assert found.exit_code == 2
    assert f"write scan_area into {config}" in found.stderr
