"""One set of hand-made models on every backend: what comes out, and what is refused. Needs no onnx."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "bundle"))
sys.path.insert(0, str(Path(__file__).parent))
import edge_craft as craft
from small_nets import CHANNELS, STEP, fp16_net, fp32_net, int8_net, slow_net, three_convolutions

from edge_runtime.bundle.manifest import InputSpec, OutputSpec
from edge_runtime.errors import InferenceError, ModelRefusedError, RunnerError
from edge_runtime.runners import OpenVinoRunner, OrtRunner, Runner, available_runners

Float32 = npt.NDArray[np.float32]
Make = Callable[..., Runner]

INPUT = InputSpec(name="x", shape=craft.SHAPE)
OUTPUT = OutputSpec(name="y", shape=craft.SHAPE, kind="raw")
X = np.linspace(-1, 1, 16, dtype=np.float32).reshape(craft.SHAPE)


def _tensorrt(*arguments: Any, **options: Any) -> Runner:
    from edge_runtime.runners.tensorrt import TensorRtRunner

    options.pop("threads", None)
    return TensorRtRunner(*arguments, **options)


KINDS: dict[str, Make] = {"onnxruntime": OrtRunner, "openvino": OpenVinoRunner, "tensorrt": _tensorrt}


@pytest.fixture(params=[pytest.param(n, marks=pytest.mark.gpu) if n == "tensorrt" else n for n in KINDS])
def make(request: pytest.FixtureRequest) -> Make:
    """Makes a runner of this backend: `make(model, outputs=..., input=..., **options)`; skips where there is none."""
    name = request.param
    if reason := available_runners()[name]:
        pytest.skip(reason)

    def build(model: bytes, outputs: tuple[OutputSpec, ...] = (OUTPUT,), input: InputSpec = INPUT, **o: Any) -> Runner:
        return KINDS[name](model, "a", input, outputs, **o)

    return build


# --- what comes out -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "atol"),
    [
        (fp32_net, 1e-5),
        (fp16_net, 3 * 144 * 2.0**-11),  # three sums of up to 144 terms of size one, each rounded to 11 bits
        (int8_net, 2 * STEP),  # half a step in each of 144 terms of weight about 1/12, twice, at random signs
    ],
    ids=["fp32", "fp16", "int8"],
)
def test_each_precision_is_near_the_definition(make: Make, model: Callable[[], bytes], atol: float) -> None:
    wanted = three_convolutions(X)
    assert np.abs(wanted).max() > 0.2
    with make(model()) as runner:
        np.testing.assert_allclose(runner.infer({"x": X})["y"], wanted, atol=atol, rtol=1e-5)


def test_several_outputs_are_each_in_an_array_of_its_own(make: Make) -> None:
    ends = {"inputs": [craft.value_info("x", craft.SHAPE)]}
    ends["outputs"] = [craft.value_info("y", craft.SHAPE), craft.value_info("z", craft.SHAPE)]
    model = craft.model(craft.graph([craft.node("Relu", ["x"], ["y"]), craft.node("Neg", ["x"], ["z"])], **ends))
    outputs = tuple(OutputSpec(name=name, shape=craft.SHAPE, kind="raw") for name in "zy")  # the manifest's own order
    with make(model, outputs) as runner:
        found = runner.infer({"x": X})
        assert list(found) == ["z", "y"]
        np.testing.assert_array_equal(found["y"], np.maximum(X, 0))
        np.testing.assert_array_equal(found["z"], -X)
        assert not np.shares_memory(found["y"], found["z"])


def test_a_nan_stays_in_its_call(make: Make) -> None:
    """It is passed on, not hidden, and the next call knows nothing of it."""
    spoilt = X.copy()
    spoilt[0, 0, 1, 2] = np.nan
    with make(craft.net(craft.node("Neg", ["x"], ["y"]))) as runner:
        found = runner.infer({"x": spoilt})["y"]
        np.testing.assert_array_equal(np.isnan(found), np.isnan(spoilt))
        np.testing.assert_array_equal(runner.infer({"x": X})["y"], -X)


def test_an_array_that_may_not_be_written_to_is_read(make: Make) -> None:
    frozen = X.copy()
    frozen.flags.writeable = False
    with make(craft.relu_net()) as runner:
        for image in (frozen, X, frozen):
            np.testing.assert_array_equal(runner.infer({"x": image})["y"], np.maximum(X, 0))


def test_inputs_that_are_dropped_between_calls_are_kept_alive(make: Make) -> None:
    with make(craft.relu_net()) as runner:
        for k in range(50):
            runner.infer({"x": np.full(craft.SHAPE, k, np.float32)})
            np.full(craft.SHAPE, -1, np.float32)  # would reuse memory that was let go
            np.testing.assert_array_equal(runner.infer({"x": X + k})["y"], np.maximum(X + k, 0))


# --- what is refused ----------------------------------------------------------------------------------------------


def test_bytes_that_are_no_model_are_refused_each_time(make: Make) -> None:
    for bad in (b"", b"garbage", b"\x08\x08" * 100, craft.relu_net()[:-9]):
        runner = make(bad)
        for _ in range(2):  # a failed activation leaves it closed
            with pytest.raises(ModelRefusedError, match="variant 'a'"), runner:
                pass
        with pytest.raises(RunnerError, match="not active"):
            runner.infer({"x": X})


@pytest.mark.parametrize(
    ("input", "output", "told"),
    [
        (InputSpec(name="image", shape=craft.SHAPE), OUTPUT, "inputs"),
        (InputSpec(name="x", shape=(1, 1, 8, 8)), OUTPUT, "inputs"),
        (INPUT, OutputSpec(name="mask", shape=craft.SHAPE, kind="raw"), "outputs"),
        (INPUT, OutputSpec(name="y", shape=(1, 2, 4, 4), kind="raw"), "outputs"),
    ],
)
def test_a_model_that_is_not_the_manifests_is_refused(make: Make, input: Any, output: Any, told: str) -> None:
    with pytest.raises(ModelRefusedError, match=f"'a': .*{told} are"), make(craft.relu_net(), (output,), input):
        pass


@pytest.mark.parametrize(
    "shape_and_type", [((1, 1, 4, 4), 11), ((1, 1, 4, 4), 10), ((1, 1, 4), 1)], ids=["double", "half", "rank 3"]
)
def test_ends_of_another_type_or_rank_are_refused(make: Make, shape_and_type: tuple[tuple[int, ...], int]) -> None:
    shape, kind = shape_and_type
    ends = {key: [craft.value_info(name, shape, kind)] for key, name in (("inputs", "x"), ("outputs", "y"))}
    model = craft.model(craft.graph([craft.node("Relu", ["x"], ["y"])], **ends))
    with pytest.raises(ModelRefusedError, match="the manifest says"), make(model):
        pass


def test_an_unknown_operator_is_named_and_nothing_is_written(make: Make, capfd: pytest.CaptureFixture[str]) -> None:
    with (
        pytest.raises(ModelRefusedError, match="NoSuchOperator"),
        make(craft.net(craft.node("NoSuchOperator", ["x"], ["y"]))),
    ):
        pass
    assert capfd.readouterr() == ("", "")


def test_a_call_that_takes_too_long_is_ended_every_time(make: Make, capfd: pytest.CaptureFixture[str]) -> None:
    shape = (1, CHANNELS, 128, 128)
    ends = InputSpec(name="x", shape=shape), (OutputSpec(name="y", shape=shape, kind="raw"),)
    with make(slow_net(128, 40), ends[1], ends[0], timeout_s=0.001) as runner:
        for _ in range(2):
            with pytest.raises(InferenceError, match=r"variant 'a' ran longer than 0\.001 s"):
                runner.infer({"x": np.ones(shape, np.float32)})
    with make(slow_net(128, 2), ends[1], ends[0], timeout_s=60) as runner:
        assert not runner.infer({"x": np.ones(shape, np.float32)})["y"].any()
    assert capfd.readouterr() == ("", "")


def test_an_unchecked_array_of_another_shape_fails_the_call_alone(make: Make) -> None:
    """`check=False` skips a check in Python, not the safety of memory."""
    with make(craft.relu_net()) as runner:
        wanted = runner.infer({"x": X})["y"].copy()
        for wrong in (X[:, :, :1], X[..., :2], np.zeros((1, 1, 64, 64), np.float32)):
            with pytest.raises(InferenceError, match="variant 'a' failed"):
                runner.infer({"x": wrong}, check=False)
        np.testing.assert_array_equal(runner.infer({"x": X})["y"], wanted)
