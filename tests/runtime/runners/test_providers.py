"""Execution providers of ONNX Runtime: what was asked for and not obtained is an error. The GPU is a fake."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "bundle"))
import edge_craft as craft

from edge_runtime.bundle.manifest import InputSpec, OutputSpec
from edge_runtime.errors import ConfigError, ProviderUnavailableError
from edge_runtime.runners import OrtRunner
from edge_runtime.runners import onnxruntime as module
from edge_runtime.runners._ort_provider import CPU, CUDA, TENSORRT, foreign_nodes, provider_options

INPUT = InputSpec(name="x", shape=craft.SHAPE)
OUTPUTS = tuple(OutputSpec(name=name, shape=craft.SHAPE, kind="raw") for name in "yz")
X = np.linspace(-1, 1, 16, dtype=np.float32).reshape(craft.SHAPE)


class Value:
    """An OrtValue in pretended GPU memory."""

    def __init__(self, shape: list[int]) -> None:
        self.held = np.zeros(shape, np.float32)

    def update_inplace(self, array: Any) -> None:
        self.held[...] = array

    def numpy(self) -> Any:
        return self.held.copy()


class Binding:
    def __init__(self) -> None:
        self.inputs: dict[str, Value] = {}
        self.outputs: dict[str, Value] = {}
        self.synchronized = 0

    def bind_ortvalue_input(self, name: str, value: Value) -> None:
        self.inputs[name] = value

    def bind_ortvalue_output(self, name: str, value: Value) -> None:
        self.outputs[name] = value

    def synchronize_outputs(self) -> None:
        self.synchronized += 1


class Session:
    """y = -x, z = 2x on a GPU; `runs_on` and `parts` are what it says about itself."""

    def __init__(self, ort: Any, providers: list[str], options: list[dict[str, str]], settings: dict[str, str]) -> None:
        self.providers, self.options, self.settings = ort.runs_on or providers, options, settings
        self.parts = ort.parts or [(providers[0], [("Conv", "c0")])]

    def get_providers(self) -> list[str]:
        return [*self.providers, CPU]

    def get_provider_graph_assignment_info(self) -> list[Any]:
        return [
            SimpleNamespace(
                ep_name=ep, get_nodes=lambda n=n: [SimpleNamespace(op_type=op, name=name) for op, name in n]
            )
            for ep, n in self.parts
        ]

    def get_inputs(self) -> list[Any]:
        return [SimpleNamespace(name="x", shape=list(craft.SHAPE), type="tensor(float)")]

    def get_outputs(self) -> list[Any]:
        return [SimpleNamespace(name=name, shape=list(craft.SHAPE), type="tensor(float)") for name in "yz"]

    def io_binding(self) -> Binding:
        return Binding()

    def run_with_iobinding(self, binding: Binding, options: Any) -> None:
        x = binding.inputs["x"].held
        binding.outputs["y"].held[...] = -x
        binding.outputs["z"].held[...] = 2 * x


class FakeOrt:
    """As much of the package `onnxruntime` as the runner uses, on a machine with an NVIDIA GPU."""

    __version__ = "1.99.0"
    RunOptions = SimpleNamespace

    def __init__(self, runs_on: list[str] | None = None, parts: Any = None) -> None:
        self.runs_on, self.parts = runs_on, parts
        self.made: list[Session] = []
        self.OrtValue = SimpleNamespace(ortvalue_from_shape_and_type=self._value)

    def _value(self, shape: list[int], dtype: Any, device: str, index: int) -> Value:
        assert (dtype, device, index) == (np.float32, "cuda", 0)
        return Value(shape)

    def get_available_providers(self) -> list[str]:
        return [TENSORRT, CUDA, CPU]

    def SessionOptions(self) -> Any:
        entries: dict[str, str] = {}
        return SimpleNamespace(entries=entries, add_session_config_entry=entries.__setitem__)

    def InferenceSession(self, model: bytes, *, sess_options: Any, providers: Any, provider_options: Any) -> Session:
        self.made.append(Session(self, providers, provider_options, sess_options.entries))
        return self.made[-1]


def gpu(monkeypatch: pytest.MonkeyPatch, ort: FakeOrt, provider: str = CUDA, **options: Any) -> OrtRunner:
    monkeypatch.setattr(module, "require", lambda name, purpose: ort)
    return OrtRunner(b"", "a", INPUT, OUTPUTS, provider=provider, **options)


def test_a_gpu_gets_the_input_and_gives_every_output(monkeypatch: pytest.MonkeyPatch) -> None:
    ort = FakeOrt()
    with gpu(monkeypatch, ort, cuda_graph=True) as runner:
        first = runner.infer({"x": X})
        np.testing.assert_array_equal(first["y"], -X)
        np.testing.assert_array_equal(first["z"], 2 * X)
        second = runner.infer({"x": X + 1})
        assert second["y"] is first["y"]  # the arrays are kept
        np.testing.assert_array_equal(second["y"], -X - 1)
        assert runner._binding.synchronized == 2  # type: ignore[attr-defined]
    assert ort.made[0].options == [{"device_id": "0", "enable_cuda_graph": "1", "use_tf32": "0"}]
    assert ort.made[0].settings["session.disable_cpu_ep_fallback"] == "1"


def test_a_session_that_fell_back_to_the_cpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """What onnxruntime-gpu does where the CUDA libraries cannot be loaded."""
    refused = pytest.raises(ProviderUnavailableError, match="CUDAExecutionProvider was asked for, the session runs on")
    with refused, gpu(monkeypatch, FakeOrt(runs_on=[CPU])):
        pass


def test_nodes_that_run_elsewhere_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [(TENSORRT, [("Conv", "c0")]), (CUDA, [("Resize", "r0"), ("Resize", "r1")]), (CPU, [("Shape", "s")])]
    with (
        pytest.raises(ProviderUnavailableError, match=r"2 x Resize \(CUDAEx.*, 1 x Shape \(CPUEx.* run elsewhere"),
        gpu(monkeypatch, FakeOrt(parts=parts), TENSORRT),
    ):
        pass


def test_an_older_onnxruntime_has_no_record_of_its_nodes() -> None:
    assert foreign_nodes(object(), CUDA) == ""


@pytest.mark.parametrize(
    ("provider", "options", "told"),
    [
        (CPU, {"cuda_graph": True}, "cuda_graph belongs to"),
        (CPU, {"engine_cache": "engines"}, "engine_cache belongs to"),
        (CUDA, {"engine_cache": "engines"}, "engine_cache belongs to"),
    ],
)
def test_an_option_of_another_provider_is_refused(provider: str, options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        OrtRunner(b"", "a", INPUT, OUTPUTS, provider=provider, **options)


def test_tensorrt_keeps_engines_and_timings_and_leaves_precision_to_the_graph() -> None:
    options = provider_options(TENSORRT, cuda_graph=False, engine_cache="engines")
    assert options["trt_engine_cache_enable"] == options["trt_timing_cache_enable"] == "1"
    assert options["trt_engine_cache_path"] == options["trt_timing_cache_path"] == "engines"
    assert {options[f"trt_{name}_enable"] for name in ("fp16", "bf16", "int8")} == {"0"}
    assert "trt_engine_cache_enable" not in provider_options(TENSORRT, cuda_graph=True, engine_cache=None)
    assert provider_options(CPU, cuda_graph=False, engine_cache=None) == {}


@pytest.mark.parametrize("provider", [CUDA, TENSORRT])
def test_a_gpu_that_this_machine_lacks_is_refused_with_what_there_is(provider: str) -> None:
    ort = pytest.importorskip("onnxruntime")
    if provider in ort.get_available_providers():
        pytest.skip("this onnxruntime has the provider")
    runner = OrtRunner(craft.relu_net(), "a", INPUT, OUTPUTS[:1], provider=provider)
    with pytest.raises(ProviderUnavailableError, match=r"'CPUExecutionProvider'\].*Install onnxruntime-gpu"), runner:
        pass


def test_every_node_is_on_the_cpu_when_the_cpu_was_asked_for() -> None:
    ort = pytest.importorskip("onnxruntime")
    with OrtRunner(craft.relu_net(), "a", INPUT, OUTPUTS[:1]) as runner:
        session = runner._session  # type: ignore[attr-defined]
        assert foreign_nodes(session, CPU) == ""
        if hasattr(ort.InferenceSession, "get_provider_graph_assignment_info"):
            assert foreign_nodes(session, CUDA) == "1 x Relu (CPUExecutionProvider)"


@pytest.mark.gpu
def test_cuda_computes_the_same(tmp_path: Path) -> None:
    ort = pytest.importorskip("onnxruntime")
    if CUDA not in ort.get_available_providers():
        pytest.skip("needs onnxruntime-gpu and an NVIDIA GPU")
    for options in ({}, {"cuda_graph": True}):
        with OrtRunner(craft.relu_net(), "a", INPUT, OUTPUTS[:1], provider=CUDA, **options) as runner:
            for image in (X, -X):
                np.testing.assert_array_equal(runner.infer({"x": image})["y"], np.maximum(image, 0))
