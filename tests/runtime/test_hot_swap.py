"""A real bundle exchanged under a stream of a real runner."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from multiprocessing import spawn
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edge_runtime import rehearsal
from edge_runtime.bundle import reader
from edge_runtime.errors import (
    BundleError,
    BundleIntegrityError,
    BundleSignatureError,
    ConfigError,
    EdgeError,
    PipelineError,
)
from edge_runtime.frame import Frame
from edge_runtime.hot_swap import swap_bundle
from edge_runtime.loading import load
from edge_runtime.rehearsal import LoadOptions, Rehearsal, rehearse
from edge_runtime.sinks import CollectSink
from edge_runtime.sinks.recording import frame_block
from edge_runtime.sources import ArraySource, PacedSource
from edge_runtime.streaming import Pipeline

pytest.importorskip("onnxruntime")
pytest.importorskip("cv2")

V1 = Path(__file__).parents[1] / "data" / "v1.edge"
IMAGE = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
FRAME = Frame(image=IMAGE, index=0, arrival_ns=0)


def test_a_bundle_is_exchanged_and_a_damaged_one_is_not(tmp_path: Path) -> None:
    model = load(V1, variant="fp32")
    damaged = tmp_path / "damaged.edge"
    content = bytearray(V1.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    pipeline = Pipeline({"seg": model.branch(budget_ms=5000.0, cadence=1)}, warm_up_runs=1, freeze_gc=False)
    with pipeline:
        pipeline.start()
        pipeline.push(IMAGE)
        first = pipeline.poll(20_000.0)
        assert first is not None
        assert first.variant == "fp32"
        with pytest.raises(EdgeError) as caught:
            swap_bundle(pipeline, "seg", damaged)
        assert isinstance(caught.value, BundleIntegrityError) or "damaged.edge" in str(caught.value)
        with pytest.raises(ConfigError, match="no branch 'liver'"):
            swap_bundle(pipeline, "liver", V1)
        loaded = swap_bundle(pipeline, "seg", V1, variant="fp16", trial_frames=0)
        pipeline.push(IMAGE)
        second = pipeline.poll(20_000.0)
        assert second is not None
        assert (second.variant, second.bundle_sha256) == ("fp16", loaded.sha256)
        report = pipeline.drain()
    assert report.event_counts == {"swap_failed": 1, "swapped": 1}
    assert report.branches["seg"].budget_ms == 5000.0


def test_models_that_the_rehearsal_inspected_are_not_inspected_in_the_live_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pipeline = Pipeline({"seg": load(V1, variant="fp32").branch()}, warm_up_runs=1, freeze_gc=False)

    def inspect(*_: Any) -> None:
        raise AssertionError("inspected again")

    monkeypatch.setattr(reader, "inspect_model", inspect)
    with pipeline:
        assert swap_bundle(pipeline, "seg", V1, variant="fp16", trial_frames=0).runners[0].variant == "fp16"
    with pytest.raises(AssertionError, match="inspected again"):
        load(V1, variant="fp16")


class Live:
    """A stream of 5 ms frames in the background, whose results are kept, until the end of `with`."""

    def __init__(self) -> None:
        self.results = CollectSink(capacity=500)
        self.pipeline = Pipeline(
            {"seg": load(V1, variant="fp32").branch(budget_ms=5000.0)},
            sinks={"all": self.results},
            warm_up_runs=1,
            freeze_gc=False,
        )
        self.source = PacedSource(ArraySource(np.stack([IMAGE] * 4)), fps=200, loop_s=1e6)
        self.thread = threading.Thread(target=lambda: self.pipeline.run(self.source))

    def __enter__(self) -> Live:
        self.thread.start()
        while not self.results.results and self.thread.is_alive():
            time.sleep(0.001)
        return self

    def __exit__(self, *error: object) -> None:
        self.pipeline.stop()
        self.thread.join(20)
        assert not self.thread.is_alive()


def test_a_live_stream_goes_on_while_a_bundle_is_rehearsed(tmp_path: Path) -> None:
    with Live() as live:
        loaded = swap_bundle(live.pipeline, "seg", V1, variant="fp16", trial_frames=3)
    assert [test.variant for test in loaded.self_tests] == ["fp16"]
    variants = [result.variant for result in live.results.results]
    at = variants.index("fp16")
    assert at > 10  # the old branch went on meanwhile
    assert set(variants[at:]) == {"fp16"}
    report = live.pipeline.report
    assert report.balances
    assert report.branches["seg"].ledger.failed == {}
    assert report.event_counts == {"swapped": 1}
    ladder = report.branches["seg"].ladder
    assert [(rung.variant, rung.runs, rung.kept) for rung in ladder] == [("fp16", 1, True)]
    assert ladder[0].median_ns is not None


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("import time; time.sleep(600)", r"no answer within 0.5 s and was killed"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", r"ended by SIGSEGV without an answer"),
        ("import os, sys; print('out of cheese', file=sys.stderr); os._exit(3)", r"exit 3 .*out of cheese"),
        ("import os; os.write(1, b'nonsense'); os._exit(0)", r"exit 0 without an answer"),
    ],
)
def test_a_rehearsal_that_hangs_or_dies_changes_nothing(
    body: str, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The child imports another `rehearsal` from a folder that comes first on the path."""
    package = tmp_path / "edge_runtime"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "rehearsal.py").write_text(f"def main():\n    {body}\n")
    children: list[subprocess.Popen[bytes]] = []

    class Watched(subprocess.Popen[bytes]):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            children.append(self)

    monkeypatch.setattr(subprocess, "Popen", Watched)
    monkeypatch.syspath_prepend(str(tmp_path))
    with Live() as live:
        with pytest.raises(PipelineError, match=message):
            swap_bundle(live.pipeline, "seg", V1, rehearsal_s=0.5 if "600" in body else 60.0)
        assert children[0].returncode is not None  # reaped
    assert {result.variant for result in live.results.results} == {"fp32"}
    assert live.pipeline.report.event_counts == {"swap_failed": 1}


def test_the_child_ends_itself_when_nobody_is_left_to_kill_it() -> None:
    request = rehearsal._Request(
        path=str(V1), options=LoadOptions(), frame=frame_block(FRAME), runs=10_000_000, timeout_s=0.7
    )
    code = f"import sys; sys.path[:] = {sys.path!r}; from edge_runtime.rehearsal import main; main()"
    done = subprocess.run(
        [sys.executable, "-I", "-c", code],
        input=msgspec.msgpack.encode(request), capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == -signal.SIGALRM


def test_errors_of_the_child_keep_their_class(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no ladder for 'openvino'"):
        rehearse(V1, LoadOptions(target="openvino"), FRAME, runs=1, timeout_s=60)
    with pytest.raises(BundleSignatureError, match="key"):
        rehearse(V1, LoadOptions.of(trust=[bytes(range(32))], require_signature=True), FRAME, runs=1, timeout_s=60)
    with pytest.raises(BundleError, match="not here"):
        rehearse(tmp_path / "not here.edge", LoadOptions(), FRAME, runs=1, timeout_s=60)


def test_a_rehearsal_measures_what_load_and_warm_up_would(tmp_path: Path) -> None:
    key = V1.with_name("v1.pub.pem")
    found = rehearse(V1, LoadOptions.of(trust=[key], require_signature=True), FRAME, runs=2, timeout_s=60)
    model = load(V1, trust=[key], require_signature=True)
    assert (found.sha256, found.signed_by) == (model.sha256, model.signed_by)
    assert found.self_tests == model.self_tests
    assert {report.variant for report in found.reports} == {"fp32", "fp16"}
    assert found.rungs[0].variant == "fp32"
    assert {(stage, place) for stage, place, _ in found.costs} == {
        (stage, place) for stage in ("preprocess", "infer", "postprocess") for place in range(len(found.rungs))
    }


def test_bad_requests_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"unknown options \['varaint'\]"):
        LoadOptions.of(varaint="fp32")
    with pytest.raises(ConfigError, match="timeout_s is 0"):
        rehearse(V1, LoadOptions(), FRAME, runs=1, timeout_s=0)
    spawn.set_executable("/nowhere/python")
    try:
        with pytest.raises(PipelineError, match=r"no interpreter .*nowhere.*set_executable"):
            rehearse(V1, LoadOptions(), FRAME, runs=1, timeout_s=60)
    finally:
        spawn.set_executable(sys.executable)


def test_a_file_that_changes_after_its_rehearsal_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def stale(*args: Any, **options: Any) -> Rehearsal:
        return msgspec.structs.replace(rehearse(*args, **options), sha256="0" * 64)

    monkeypatch.setattr("edge_runtime.hot_swap.rehearse", stale)
    with Live() as live, pytest.raises(BundleIntegrityError, match="changed while it was rehearsed"):
        swap_bundle(live.pipeline, "seg", V1)
