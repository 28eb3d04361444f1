"""What ONNX Runtime must refuse, and what must not hang."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edge_runtime.bundle import Bundle, InputSpec, OutputSpec
from edge_runtime.errors import (
    ConfigError,
    InferenceError,
    MissingDependencyError,
    ModelRefusedError,
    ProviderUnavailableError,
)
from edge_runtime.runners import OrtRunner
from edge_runtime.runners import onnxruntime as module

ort = pytest.importorskip("onnxruntime")

V1 = Path(__file__).parents[2] / "data" / "v1.edge"
SHAPE = (1, 1, 16, 16)
INPUT = InputSpec(name="x", shape=SHAPE)
OUTPUT = OutputSpec(name="y", shape=SHAPE, kind="mask_logits", classes=("bright",))
ZEROS: npt.NDArray[np.float32] = np.zeros(SHAPE, np.float32)


@pytest.fixture(scope="module")
def model() -> bytes:
    with Bundle.open(V1) as bundle:
        return bundle.model("fp32")


def runner(model: bytes, input: InputSpec = INPUT, output: OutputSpec = OUTPUT, **options: Any) -> OrtRunner:
    return OrtRunner(model, "fp32", input, (output,), **options)


@pytest.mark.parametrize("variant", ["fp32", "fp16"])
def test_the_golden_outputs_are_reproduced(variant: str) -> None:
    with Bundle.open(V1) as bundle:
        samples, tolerance = bundle.golden(), bundle.variant(variant).parity_abs
        made = OrtRunner(bundle.model(variant), variant, bundle.manifest.input, bundle.manifest.outputs)
    with made:
        for given, wanted in samples:
            np.testing.assert_allclose(made.infer({"x": given})["y"], wanted["y"], atol=tolerance)


def test_an_unknown_provider_is_named_beside_those_there_are(model: bytes) -> None:
    with pytest.raises(ProviderUnavailableError, match="CPUExecutionProvider"), runner(model, provider="NoSuch"):
        pass


def test_a_provider_that_does_not_take_the_model_is_no_silent_cpu(model: bytes) -> None:
    others = [name for name in ort.get_available_providers() if name == "AzureExecutionProvider"]
    if not others:
        pytest.skip("this onnxruntime has no provider that takes no node")
    with pytest.raises(ProviderUnavailableError, match="AzureExecutionProvider"), runner(model, provider=others[0]):
        pass


@pytest.mark.parametrize("bad", [b"", b"garbage", b"\x08\x08" * 100])
def test_bytes_that_are_no_model_are_refused(bad: bytes) -> None:
    made = runner(bad)
    with pytest.raises(ModelRefusedError, match="'fp32'"), made:
        pass
    with pytest.raises(ModelRefusedError), made:  # a failed activation leaves it closed
        pass


def test_a_cut_model_is_refused(model: bytes) -> None:
    for size in range(1, len(model), 17):
        with pytest.raises(ModelRefusedError), runner(model[:size]):
            pass


@pytest.mark.parametrize(
    ("input", "output", "told"),
    [
        (InputSpec(name="image", shape=SHAPE), OUTPUT, "inputs"),
        (InputSpec(name="x", shape=(1, 1, 8, 8)), OUTPUT, "inputs"),
        (INPUT, OutputSpec(name="mask", shape=SHAPE, kind="raw"), "outputs"),
        (INPUT, OutputSpec(name="y", shape=(1, 2, 16, 16), kind="raw"), "outputs"),
    ],
)
def test_a_model_that_is_not_the_manifests_is_refused(
    model: bytes, input: InputSpec, output: OutputSpec, told: str
) -> None:
    with pytest.raises(ModelRefusedError, match=f"its {told} are"), runner(model, input, output):
        pass


@pytest.mark.parametrize("options", [{"threads": 0}, {"timeout_s": 0.0}, {"timeout_s": -1.0}, {"timeout_s": math.nan}])
def test_options_out_of_range_are_refused(model: bytes, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        runner(model, **options)


def test_threads_reach_the_session_and_do_not_change_the_result(model: bytes) -> None:
    image = np.random.default_rng(0).random(SHAPE, np.float32)
    outputs = []
    for threads in (1, 2):
        with runner(model, threads=threads) as made:
            outputs.append(made.infer({"x": image})["y"].copy())
            assert made._session.get_session_options().intra_op_num_threads == threads  # type: ignore[attr-defined]
    np.testing.assert_array_equal(*outputs)


def test_without_onnxruntime_the_install_line_is_said(model: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str, purpose: str) -> None:
        raise MissingDependencyError(f"{name} is needed {purpose}")

    monkeypatch.setattr(module, "require", absent)
    with pytest.raises(MissingDependencyError, match="onnxruntime is needed to run models"), runner(model):
        pass


def test_a_timeout_that_is_not_reached_changes_nothing(model: bytes) -> None:
    with runner(model, timeout_s=30) as made:
        for _ in range(20):
            assert made.infer({"x": ZEROS})["y"].shape == SHAPE


def endless() -> bytes:
    """y = x after a loop that never ends: no trip count, condition always true."""
    onnx = pytest.importorskip("onnx")
    helper, kinds = onnx.helper, onnx.TensorProto
    carried = helper.make_tensor_value_info("b", kinds.FLOAT, SHAPE)
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["d"]), helper.make_node("Identity", ["a"], ["b"])],
        "body",
        [
            helper.make_tensor_value_info("i", kinds.INT64, []),
            helper.make_tensor_value_info("c", kinds.BOOL, []),
            helper.make_tensor_value_info("a", kinds.FLOAT, SHAPE),
        ],
        [helper.make_tensor_value_info("d", kinds.BOOL, []), carried],
    )
    true = helper.make_tensor("true", kinds.BOOL, [], [True])
    loop = helper.make_node("Loop", ["", "true", "x"], ["y"], body=body)
    ends = [helper.make_tensor_value_info(name, kinds.FLOAT, SHAPE) for name in "xy"]
    graph = helper.make_graph([loop], "endless", ends[:1], ends[1:], [true])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    data: bytes = made.SerializeToString()
    return data


def test_an_endless_model_is_ended_and_the_next_runner_works(model: bytes) -> None:
    """The guard of the bundle refuses a Loop; the watchdog holds for what gets past it."""
    with runner(endless(), timeout_s=0.2) as stuck:
        for _ in range(2):
            with pytest.raises(InferenceError, match=r"longer than 0\.2 s"):
                stuck.infer({"x": ZEROS})
    with runner(model, timeout_s=30) as made:
        assert made.infer({"x": ZEROS})["y"].shape == SHAPE


def test_a_failing_model_fails_the_call_alone() -> None:
    """A Reshape that cannot be done at run time: `InferenceError`, and the next call runs."""
    onnx = pytest.importorskip("onnx")
    helper, kinds = onnx.helper, onnx.TensorProto
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["m"], keepdims=0),
        helper.make_node("Cast", ["m"], ["n"], to=kinds.INT64),
        helper.make_node("Gather", ["shapes", "n"], ["s"], axis=0),
        helper.make_node("Reshape", ["x", "s"], ["y"]),
    ]
    shapes = helper.make_tensor("shapes", kinds.INT64, [2, 4], [*SHAPE, 1, 1, 7, 7])
    ends = [helper.make_tensor_value_info(name, kinds.FLOAT, SHAPE) for name in "xy"]
    graph = helper.make_graph(nodes, "reshape", ends[:1], ends[1:], [shapes])
    data = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    with runner(data) as made:
        with pytest.raises(InferenceError, match="'fp32' failed"):
            made.infer({"x": ZEROS + 1})
        np.testing.assert_array_equal(made.infer({"x": ZEROS})["y"], ZEROS)
