"""The fake-quantized network against ONNX Runtime on the file it stands for, before and after training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from edge_export import Ranges, check_model, collect_ranges, export_torch, run_model, tidy, to_int8
from edge_export.cpu_int8 import to_cpu_int8
from edge_runtime.errors import ConfigError, LoweringError
from edge_sdk.config import AugmentConfig, NetworkConfig, OptimiserConfig
from edge_sdk.progress import ProgressEvent
from edge_sdk.qat import Emit, FakeQuantNetwork, QatConfig, QatResult, qat
from edge_sdk.students import build_network

SHAPE = (1, 1, 16, 24)
STILL = AugmentConfig(flip=0, min_scale=1, gain=0, gamma=0, noise=0)
# (form, largest difference as a share of what quantization itself changes): FP16 rounds before the steps do, int32
# biases are rounded too, and either now and then crosses a step; with all else in float32 only ties are left
EMITS: dict[str, tuple[Emit, float]] = {
    "tensorrt, float32": (lambda model, ranges: to_int8(model, ranges=ranges, data_max=1e-9), 0.1),
    "tensorrt": (lambda model, ranges: to_int8(model, ranges=ranges), 0.95),
    "tensorrt, float weights": (lambda model, ranges: to_int8(model, ranges=ranges, weights_as="float"), 0.95),
    "tensorrt, opset 19, float32": (
        lambda model, ranges: to_int8(model, ranges=ranges, qdq_form="opset19", data_max=1e-9),
        0.15,
    ),
    "cpu": (lambda model, ranges: to_cpu_int8(model, ranges=ranges), 0.4),
    "cpu, some excluded": (lambda model, ranges: to_cpu_int8(model, ranges=ranges, exclude=["Conv_2"]), 0.4),
}


def frames(count: int = 6) -> list[npt.NDArray[np.float32]]:
    """Noise: what varies little is magnified by the network, rounding with it."""
    return list(np.random.default_rng(0).normal(size=(count, *SHAPE)).astype(np.float32))


@pytest.fixture(scope="module", params=["plain", "depthwise"])
def model(request: pytest.FixtureRequest) -> onnx.ModelProto:
    return alive(NetworkConfig(width=4, depth=3, stem_stride=2, block=request.param))


def alive(config: NetworkConfig) -> onnx.ModelProto:
    """A network whose every layer has the mean 0 and variance 1 of training, where a fresh one fades to a constant."""
    network = build_network(config, seed=1).train()
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = 1.0
    with torch.no_grad():
        network(torch.from_numpy(np.concatenate(frames())))
    return export_torch(network.eval(), SHAPE, max_abs=1e-3)


def settings(epochs: int = 3, **others: object) -> QatConfig:
    optimiser = OptimiserConfig(epochs=epochs, batch_size=3, learning_rate=3e-3, weight_decay=0, threads=1)
    return QatConfig(optimiser=optimiser, augment=STILL, **others)  # type: ignore[arg-type]


def difference(network: FakeQuantNetwork, file: onnx.ModelProto) -> float:
    """Mean |torch - file| over mean |float32 model - file|, the file run as it is typed."""
    wanted = np.concatenate([answer["mask"] for answer in run_model(file, frames(), optimize=False)])
    unrounded = np.concatenate([answer["mask"] for answer in run_model(network.model, frames())])
    with torch.no_grad():
        found = network(torch.from_numpy(np.concatenate(frames())))["mask"].numpy()
    return float(np.abs(found - wanted).mean() / np.abs(unrounded - wanted).mean())


@pytest.mark.parametrize("form", EMITS)
def test_the_network_computes_what_the_file_does_before_and_after_training(form: str, model: onnx.ModelProto) -> None:
    (emit, largest), ranges = EMITS[form], collect_ranges(model, frames())
    assert difference(FakeQuantNetwork(model, emit(model, ranges)), emit(model, ranges)) < largest
    found = qat(model, frames(), ranges=ranges, emit=emit, config=settings())
    file = emit(found.model, found.ranges)
    check_model(file)
    assert difference(FakeQuantNetwork(found.model, file), file) < largest
    assert [n.op_type for n in file.graph.node] == [n.op_type for n in emit(model, ranges).graph.node]
    assert found.model.SerializeToString() != model.SerializeToString()


@pytest.mark.parametrize("form", ["tensorrt, float32", "cpu"])
def test_the_file_has_the_steps_that_were_learned(form: str, model: onnx.ModelProto) -> None:
    emit, ranges = EMITS[form][0], collect_ranges(model, frames())
    network = FakeQuantNetwork(model, emit(model, ranges))
    with torch.no_grad():
        for k, step in enumerate(network.log_steps.values()):
            step.fill_(0.01 * (k + 1))
    again = FakeQuantNetwork(model, emit(*network.result(ranges)))
    wanted = {
        network.names[key]: (steps.scale * float(network.log_steps[network.key(key)].detach().exp()), steps.zero)
        for key, steps in network.steps.items()
    }
    found = {again.names[key]: (steps.scale, steps.zero) for key, steps in again.steps.items()}
    assert found.keys() == wanted.keys()
    for name, (scale, zero) in wanted.items():
        assert found[name] == (pytest.approx(scale, rel=1e-5), zero)


def test_training_brings_the_file_nearer_to_the_float_model() -> None:
    model = alive(NetworkConfig(width=4, depth=2, block="depthwise"))
    ranges = collect_ranges(model, frames())
    narrow = Ranges(
        absmax=ranges.absmax,
        clip={name: value / 3 for name, value in ranges.clip.items()},
        method="minmax",
        n_inputs=6,
        inputs_sha256="",
    )
    wanted = run_model(model, frames())

    def error(item: onnx.ModelProto, found: Ranges) -> float:
        answers = run_model(to_int8(item, ranges=found), frames())
        return float(np.mean([np.square(a["mask"] - w["mask"]).mean() for a, w in zip(answers, wanted, strict=True)]))

    trained = qat(model, frames(), ranges=narrow, config=settings(20, distance="mse"))
    assert error(trained.model, trained.ranges) < 0.7 * error(model, narrow)
    assert trained.fit.losses[-1] < 0.7 * trained.fit.losses[0]
    held = qat(model, frames(), ranges=narrow, config=settings(1, distance="mse", learn_scales=False))
    plan = FakeQuantNetwork(model, to_int8(model, ranges=narrow))
    for name in plan.names.values():
        assert held.ranges.clip[name] >= narrow.clip[name] * (1 - 1e-6)  # a group's largest


def test_labels_join_the_loss_and_a_stopped_run_ends_the_same(model: onnx.ModelProto, tmp_path: Path) -> None:
    ranges, labels = collect_ranges(model, frames()), np.zeros((6, *SHAPE[2:]), np.uint8)
    labels[:, 4:9, 5:15] = 1

    def run(checkpoint: Path | None, stop: int = 0) -> QatResult:
        return qat(
            model,
            frames(),
            ranges=ranges,
            labels=labels,
            config=settings(4, distill_weight=0.2),
            checkpoint=checkpoint,
            progress=_stop_after(stop),
        )

    whole = run(None)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run.checkpoint", stop=2)
    again = run(tmp_path / "run.checkpoint")
    assert again.fit.resumed_epochs == 2
    assert again.model.SerializeToString() == whole.model.SerializeToString()
    assert again.ranges.clip == whole.ranges.clip
    assert whole.fit.losses[-1] < whole.fit.losses[0]


def _stop_after(epoch: int) -> Callable[[ProgressEvent], None]:
    def listen(event: ProgressEvent) -> None:
        if epoch and event.step == epoch:
            raise KeyboardInterrupt

    return listen


@pytest.mark.parametrize(
    ("operator", "attributes"),
    [
        ("LeakyRelu", {"alpha": 0.2}),
        ("Sigmoid", {}),
        ("HardSwish", {}),
        ("HardSigmoid", {"alpha": 0.3}),
        ("Softmax", {"axis": 1}),
        ("GlobalAveragePool", {}),
        ("MaxPool", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
        ("AveragePool", {"kernel_shape": [2, 2], "strides": [2, 2]}),
        ("Flatten", {}),
        ("Transpose", {"perm": [0, 2, 3, 1]}),
    ],
)
def test_operators_are_those_of_onnx_runtime(operator: str, attributes: dict[str, object]) -> None:
    made = _around(helper.make_node(operator, ["t"], ["mask"], **attributes))
    _same(made)


def test_operators_with_constants_are_those_of_onnx_runtime() -> None:
    ints = {"shape": np.array([1, -1, 7]), "starts": np.array([1]), "ends": np.array([7]), "axes": np.array([3])}
    floats = {
        "low": np.float32(-0.1),
        "high": np.float32(0.2),
        "half": np.float32(0.5),
        "scales": np.array([1, 1, 2, 2], np.float32),
        "up": np.random.default_rng(2).normal(size=(4, 2, 2, 2)).astype(np.float32),
    }
    values = {**ints, **floats}
    for node in (
        helper.make_node("Clip", ["t", "low", "high"], ["mask"]),
        helper.make_node("Clip", ["t", "", "high"], ["mask"]),
        helper.make_node("Mul", ["t", "half"], ["mask"]),
        helper.make_node("Sub", ["half", "t"], ["mask"]),
        helper.make_node("Reshape", ["t", "shape"], ["mask"]),
        helper.make_node("Slice", ["t", "starts", "ends", "axes"], ["mask"]),
        helper.make_node("Concat", ["t", "t"], ["mask"], axis=1),
        helper.make_node("Resize", ["t", "", "scales"], ["mask"], mode="linear"),
        helper.make_node(
            "Resize",
            ["t", "", "scales"],
            ["mask"],
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        ),
        helper.make_node("ConvTranspose", ["t", "up"], ["mask"], kernel_shape=[2, 2], strides=[2, 2]),
    ):
        _same(_around(node, {name: values[name] for name in node.input if name in values}))


def _around(node: onnx.NodeProto, constants: dict[str, npt.NDArray[np.generic]] | None = None) -> onnx.ModelProto:
    """A convolution to 4 channels, then `node`."""
    weight = np.random.default_rng(1).normal(size=(4, 1, 3, 3)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["image", "w"], ["t"], name="c", kernel_shape=[3, 3], pads=[1, 0, 0, 1]), node],
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, (1, 1, 8, 12))],
        [helper.make_tensor_value_info("mask", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(v, k) for k, v in {"w": weight, **(constants or {})}.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    return tidy(onnx.shape_inference.infer_shapes(made))


def _same(model: onnx.ModelProto) -> None:
    samples = list(np.random.default_rng(3).normal(size=(2, 1, 1, 8, 12)).astype(np.float32))
    wanted = np.concatenate([answer["mask"] for answer in run_model(model, samples)])
    with torch.no_grad():
        found = FakeQuantNetwork(model, model)(torch.from_numpy(np.concatenate(samples)))["mask"].numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_what_cannot_be_trained_through_is_refused_by_name() -> None:
    made = _around(helper.make_node("Erf", ["t"], ["mask"]))
    with pytest.raises(LoweringError, match=r"Erf_0 \(Erf\)"):
        FakeQuantNetwork(made, made)
    pooled = _around(helper.make_node("MaxPool", ["t"], ["mask"], kernel_shape=[3, 3], ceil_mode=1))
    with pytest.raises(LoweringError, match="ceil_mode"):
        FakeQuantNetwork(pooled, pooled)(torch.zeros(1, 1, 8, 12))
    resized = _around(helper.make_node("Resize", ["t", "", "s"], ["mask"], mode="cubic"), {"s": np.ones(4, np.float32)})
    with pytest.raises(LoweringError, match="mode cubic"):
        FakeQuantNetwork(resized, resized)(torch.zeros(1, 1, 8, 12))


def test_inputs_and_labels_that_do_not_fit_are_refused(model: onnx.ModelProto) -> None:
    ranges = collect_ranges(model, frames())
    with pytest.raises(ConfigError, match="no inputs"):
        qat(model, [], ranges=ranges)
    with pytest.raises(ConfigError, match="labels have shape"):
        qat(model, frames(), ranges=ranges, labels=np.zeros((2, 3, 4), np.uint8))
    with pytest.raises(ConfigError, match="distill_weight is 0"):
        QatConfig(distill_weight=0)
