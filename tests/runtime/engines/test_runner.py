"""The TensorRT runner's bookkeeping on a fake GPU: nothing here proves TensorRT's or CUDA's own behaviour."""

from __future__ import annotations

import gc
import threading
import warnings
from typing import Any

import msgspec
import numpy as np
import pytest

from edge_runtime.engines import BuildSettings
from edge_runtime.errors import (
    ConfigError,
    InferenceError,
    MissingDependencyError,
    ModelRefusedError,
    ProviderUnavailableError,
    RunnerError,
)
from edge_runtime.runners.onnxruntime import OrtRunner
from edge_runtime.runners.tensorrt import TensorRtRunner


@pytest.fixture
def make(fake, cache, manifest, model):
    def build(**options: Any) -> TensorRtRunner:
        return TensorRtRunner(model, "fp32", manifest.input, manifest.outputs, cache=cache, **options)

    return build


@pytest.fixture
def image(manifest):
    return np.random.default_rng(0).random(manifest.input.shape, np.float32)


def held(fake: Any) -> int:
    if fake.cuda.live:  # or they are in a cycle
        gc.collect()
    return len(fake.cuda.live)


def test_fake_runner_answers_what_onnxruntime_answers(make, manifest, model, image):
    with OrtRunner(model, "fp32", manifest.input, manifest.outputs) as peer:
        wanted = {name: array.copy() for name, array in peer.infer({manifest.input.name: image}).items()}
    for options in ({}, {"cuda_graph": False}, {"timeout_s": 5.0}):
        with make(**options) as runner:
            for name, array in runner.infer({manifest.input.name: image}).items():
                np.testing.assert_array_equal(array, wanted[name])


def test_fake_runner_replays_one_captured_graph(make, fake, manifest, image):
    with make() as runner:
        fake.cuda.calls.clear()
        first = {name: array.copy() for name, array in runner.infer({manifest.input.name: image}).items()}
        assert fake.cuda.calls == ["cudaSetDevice", "cudaGraphLaunch", "cudaStreamSynchronize"]
        runner.infer({manifest.input.name: image + 1})
        for name, array in runner.infer({manifest.input.name: image}).items():
            np.testing.assert_array_equal(array, first[name])
        assert runner.graph_refused == ""


def test_fake_runner_without_a_graph_copies_and_runs(make, fake, manifest, image):
    with make(cuda_graph=False) as runner:
        fake.cuda.calls.clear()
        runner.infer({manifest.input.name: image})
        copies = ["cudaMemcpyAsync"] * (1 + len(manifest.outputs))
        assert fake.cuda.calls == ["cudaSetDevice", *copies, "cudaStreamSynchronize"]


@pytest.mark.parametrize("call", ["cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaGraphInstantiate"])
def test_fake_runner_warns_when_the_graph_cannot_be_captured(make, fake, manifest, image, call):
    runner = make()
    fake.cuda.fail = call
    with pytest.warns(RuntimeWarning, match="runs without a CUDA graph.*cudaErrorMemoryAllocation"):
        runner.__enter__()
    fake.cuda.fail = ""
    assert call in runner.graph_refused
    assert np.isfinite(runner.infer({manifest.input.name: image})[manifest.outputs[0].name]).all()
    runner.__exit__(None, None, None)
    del runner
    assert held(fake) == 0


def test_fake_runner_frees_everything(make, fake, manifest, image):
    for options in ({}, {"cuda_graph": False}):
        runner = make(**options)
        with runner:
            runner.infer({manifest.input.name: image})
            assert held(fake) > 0
        assert held(fake) == 0
        with runner:
            runner.infer({manifest.input.name: image})
        assert held(fake) == 0


def test_fake_runner_outputs_outlive_the_runner_that_made_them(make, fake, manifest, image):
    with make() as runner:
        kept = runner.infer({manifest.input.name: image})[manifest.outputs[0].name]
        wanted = kept.copy()
    assert held(fake) == 1  # the page-locked block under `kept`
    np.testing.assert_array_equal(kept, wanted)
    del kept
    assert held(fake) == 0


def test_fake_runner_frees_everything_whichever_call_fails(make, fake, manifest):
    """Fail the first, the second, ... CUDA call of activation; each time nothing may be held afterwards."""
    make().__enter__().__exit__(None, None, None)
    gc.collect()
    failed = 0
    for number in range(1, 40):
        fake.cuda.calls.clear()
        fake.cuda.fail_at = number
        runner = make()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # a capture that fails is no error
            try:
                with runner:
                    pass
            except RunnerError as error:
                failed += "cudaErrorMemoryAllocation" in str(error)
        fake.cuda.fail_at = 0
        assert held(fake) == 0, number
    assert failed >= 6


@pytest.mark.parametrize("fault", ["load_fails", "context_fails", "run_fails"])
def test_fake_runner_says_what_tensorrt_refused(make, fake, fault):
    setattr(fake, fault, True)
    with pytest.raises(RunnerError, match=r"engine|context|start"):
        make().__enter__()
    assert held(fake) == 0


def test_fake_runner_maps_a_failing_call_to_an_inference_error(make, fake, manifest, image):
    with make() as runner:
        fake.cuda.fail = "cudaGraphLaunch"
        with pytest.raises(InferenceError, match=r"variant 'fp32' failed: cudaGraphLaunch"):
            runner.infer({manifest.input.name: image})
        fake.cuda.fail = ""
        runner.infer({manifest.input.name: image})


def test_fake_runner_stops_waiting_at_its_time_limit(make, fake, manifest, image):
    with make(timeout_s=0.01) as runner:
        fake.cuda.busy = True
        with pytest.raises(InferenceError, match="still works on a call"):
            runner.infer({manifest.input.name: image})
        fake.cuda.busy = False
        started = fake.cuda.cudaGraphLaunch

        def slow(graph: int, stream: int) -> tuple[int]:
            fake.cuda.busy = True
            answer: tuple[int] = started(graph, stream)
            return answer

        fake.cuda.cudaGraphLaunch = slow
        with pytest.raises(InferenceError, match=r"longer than 0\.01 s"):
            runner.infer({manifest.input.name: image})
        fake.cuda.busy = False


def test_fake_runner_refuses_an_engine_of_another_contract(fake, cache, manifest, model):
    other = msgspec.structs.replace(manifest.input, name="frames")
    with pytest.raises(ModelRefusedError, match=r"inputs are .*the manifest says.*frames"):
        TensorRtRunner(model, "fp32", other, manifest.outputs, cache=cache).__enter__()
    fewer = (msgspec.structs.replace(manifest.outputs[0], shape=(1, 9)),)
    with pytest.raises(ModelRefusedError, match="outputs are"):
        TensorRtRunner(model, "fp32", manifest.input, fewer, cache=cache).__enter__()
    assert held(fake) == 0


def test_fake_runner_does_not_run_a_precision_that_was_not_obtained(make, fake, monkeypatch):
    monkeypatch.setattr("edge_runtime.engines.build.wanted_precisions", lambda model: {"/enc/Conv": "fp16"})
    fake.precision = "Float"
    with pytest.raises(RunnerError, match=r"fp16 was asked for.*'/enc/Conv' \(fp32\)"):
        make(precision="fp16").__enter__()
    assert held(fake) == 0
    fake.precision = "Half"
    with make(precision="fp16") as runner:
        assert runner.report.shares() == {"fp16": 1.0}


def test_fake_runner_maps_host_memory_on_an_integrated_gpu_alone(make, fake, manifest, image):
    with pytest.raises(ProviderUnavailableError, match="does not share the host's memory"):
        make(mapped=True).__enter__()
    assert held(fake) == 0
    with make() as runner:
        wanted = runner.infer({manifest.input.name: image})[manifest.outputs[0].name].copy()
    fake.cuda.integrated = True
    fake.cuda.calls.clear()
    with make(mapped=True) as runner:
        found = runner.infer({manifest.input.name: image})
        np.testing.assert_array_equal(found[manifest.outputs[0].name], wanted)
        assert "cudaMemcpyAsync" not in fake.cuda.calls
        assert "cudaMalloc" not in fake.cuda.calls
        del found
    assert held(fake) == 0


def test_fake_runner_works_from_another_thread(make, manifest, image):
    found: list[Any] = []
    with make() as runner:
        thread = threading.Thread(target=lambda: found.append(runner.infer({manifest.input.name: image})))
        thread.start()
        thread.join()
    assert found


def test_fake_runner_takes_the_engine_from_the_cache(make, fake):
    with make() as runner:
        assert runner.engine_file.built
    with make() as runner:
        assert not runner.engine_file.built
    assert fake.builds == 1


@pytest.mark.parametrize(
    ("options", "told"),
    [({"timeout_s": 0.0}, "timeout_s is 0"), ({"settings": BuildSettings(capabilities=("SM86",))}, "ahead of time")],
)
def test_options_that_cannot_be(make, options, told):
    with pytest.raises(ConfigError, match=told):
        make(**options)


def test_without_a_gpu_the_fix_is_told(make, fake):
    fake.cuda.devices = 0
    with pytest.raises(ProviderUnavailableError, match=r"cudaErrorInsufficientDriver \(35\).*--gpus all"):
        make().__enter__()
    fake.cuda.devices = 1
    with pytest.raises(ProviderUnavailableError, match="device 3 was asked for; there are 1"):
        make(device=3).__enter__()


def test_without_tensorrt_the_fix_is_told(make, fake, monkeypatch):
    import sys

    for name in ("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingDependencyError, match=r"apt install python3-libnvinfer.*pip install"):
        make().__enter__()
