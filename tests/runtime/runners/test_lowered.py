"""Every variant that `lower` makes, on each CPU runner, beside the fp32 variant; read back on OpenVINO."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edge_runtime.bundle.manifest import InputSpec, OutputSpec
from edge_runtime.runners import OpenVinoRunner, OrtRunner, available_runners

onnx = pytest.importorskip("onnx")
pytest.importorskip("edge_export")
pytest.importorskip("onnxruntime")
if reason := available_runners()["openvino"]:
    pytest.skip(reason, allow_module_level=True)

SHAPE = (1, 1, 32, 32)
INPUT = InputSpec(name="x", shape=SHAPE)
OUTPUTS = (OutputSpec(name="y", shape=SHAPE, kind="raw"),)
CONVOLUTIONS = 5
Float32 = npt.NDArray[np.float32]


def network() -> Any:
    """Five 3 x 3 convolutions of 16 channels with ReLU between, random weights of variance 2 / n."""
    rng = np.random.default_rng(0)
    nodes, kernels, before, channels = [], [], "x", 1
    for k in range(CONVOLUTIONS):
        last = k == CONVOLUTIONS - 1
        wanted, after = (1, "y") if last else (16, f"c{k}")
        weight = rng.normal(size=(wanted, channels, 3, 3)) * np.sqrt(2 / (9 * channels))
        kernels.append(onnx.numpy_helper.from_array(weight.astype(np.float32), f"w{k}"))
        attributes = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
        nodes.append(onnx.helper.make_node("Conv", [before, f"w{k}"], [after], name=f"conv{k}", **attributes))
        if not last:
            nodes.append(onnx.helper.make_node("Relu", [after], [f"r{k}"], name=f"relu{k}"))
        before, channels = f"r{k}", wanted
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, SHAPE) for name in "xy"]
    graph = onnx.helper.make_graph(nodes, "five", ends[:1], ends[1:], kernels)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture(scope="module")
def images() -> list[Float32]:
    rng = np.random.default_rng(1)
    return [rng.random(SHAPE, np.float32) for _ in range(8)]


@pytest.fixture(scope="module")
def variants(images: list[Float32]) -> dict[str, bytes]:
    from edge_export import lower

    wanted = ("fp32", "fp16", "int8", "int8-cpu")
    files, _ = lower(network(), images, precisions=wanted, targets=("jetpack6", "ort-cpu", "openvino"), rtx=False)
    return dict(files)


@pytest.mark.parametrize("kind", [OrtRunner, OpenVinoRunner], ids=["onnxruntime", "openvino"])
def test_each_variant_is_near_fp32_on_each_runner(
    kind: type[OrtRunner] | type[OpenVinoRunner], variants: dict[str, bytes], images: list[Float32]
) -> None:
    """Signal to noise: 11 bits of fp16 leave 50 dB, 8 bits about 25 after four quantized layers."""
    least_db = {"fp32": 100.0, "fp16": 50.0, "int8": 22.0, "int8-cpu": 22.0}
    assert set(variants) == set(least_db)
    with OrtRunner(variants["fp32"], "fp32", INPUT, OUTPUTS) as reference:
        wanted = np.stack([reference.infer({"x": image})["y"].copy() for image in images])
    for name, model in variants.items():
        with kind(model, name, INPUT, OUTPUTS) as runner:
            found = np.stack([runner.infer({"x": image})["y"].copy() for image in images])
        noise = max(float(np.square(found - wanted).mean()), 1e-30)
        assert 10 * np.log10(float(np.square(wanted).mean()) / noise) > least_db[name], (name, kind.__name__)


def test_openvino_computes_the_quantized_convolutions_in_integers(variants: dict[str, bytes]) -> None:
    for name, wanted in (("fp32", 0), ("fp16", 0), ("int8", 3), ("int8-cpu", 4)):
        with OpenVinoRunner(variants[name], name, INPUT, OUTPUTS) as runner:
            found = runner.precisions("Convolution")  # type: ignore[attr-defined]
        assert sum(found.values()) == CONVOLUTIONS
        assert found.get("i8", 0) + found.get("u8", 0) == wanted, (name, found)
