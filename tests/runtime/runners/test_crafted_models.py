"""ONNX Runtime on models made by hand, so that these run without onnx and on every supported version."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "bundle"))
import edge_craft as craft

from edge_runtime.bundle.manifest import InputSpec, OutputSpec
from edge_runtime.errors import InferenceError, ModelRefusedError
from edge_runtime.runners import OrtRunner

pytest.importorskip("onnxruntime")

INPUT = InputSpec(name="x", shape=craft.SHAPE)
OUTPUTS = (OutputSpec(name="y", shape=craft.SHAPE, kind="raw"),)
X = np.linspace(-1, 1, 16, dtype=np.float32).reshape(craft.SHAPE)


def runner(model: bytes, **options: Any) -> OrtRunner:
    return OrtRunner(model, "a", INPUT, OUTPUTS, **options)


def watchdogs() -> int:
    return sum(thread.name == "inference-watchdog" for thread in threading.enumerate())


def test_a_model_from_bytes_gives_the_closed_form() -> None:
    with runner(craft.relu_net()) as ready:
        assert np.array_equal(ready.infer({"x": X})["y"], np.maximum(X, 0))


def test_an_endless_loop_is_ended_every_time_and_leaves_no_thread() -> None:
    before = watchdogs()
    with runner(craft.endless_loop(), timeout_s=0.1) as ready:
        assert watchdogs() == before + 1
        for _ in range(3):
            with pytest.raises(InferenceError, match=r"variant 'a' ran longer than 0\.1 s and was ended"):
                ready.infer({"x": X})
    assert watchdogs() == before


def test_an_array_of_another_shape_never_reaches_the_model_unchecked() -> None:
    """`check=False` skips a check in Python, not the safety of memory."""
    with runner(craft.relu_net()) as ready:
        wanted = ready.infer({"x": X})["y"].copy()
        # the first begins where the array of the call before it begins
        for wrong in (X[:, :, :1], X[..., :2], np.zeros((1, 1, 64, 64), np.float32)):
            with pytest.raises(InferenceError, match="variant 'a' failed"):
                ready.infer({"x": wrong}, check=False)
        assert np.array_equal(ready.infer({"x": X})["y"], wanted)


def test_pool_threads_do_not_spin_between_frames() -> None:
    with runner(craft.relu_net(), threads=2) as ready:
        options = ready._session.get_session_options()  # type: ignore[attr-defined]
        assert options.get_session_config_entry("session.force_spinning_stop") == "1"
        assert options.intra_op_num_threads == 2


def test_a_refused_model_is_said_once_and_nothing_is_written(capfd: pytest.CaptureFixture[str]) -> None:
    unknown = craft.net(craft.node("NoSuchOperator", ["x"], ["y"]))
    with pytest.raises(ModelRefusedError, match="NoSuchOperator"), runner(unknown):
        pass
    assert capfd.readouterr() == ("", "")


def test_an_ended_call_writes_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with runner(craft.endless_loop(), timeout_s=0.05) as ready, pytest.raises(InferenceError):
        ready.infer({"x": X})
    assert capfd.readouterr() == ("", "")
