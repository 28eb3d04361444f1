"""What is particular to OpenVINO: what it computes in, what it grants, and that it tells nobody."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "bundle"))
sys.path.insert(0, str(Path(__file__).parent))
import edge_craft as craft
import small_nets as models

from edge_runtime.bundle.manifest import InputSpec, OutputSpec
from edge_runtime.errors import ConfigError, MissingDependencyError, ModelRefusedError, ProviderUnavailableError
from edge_runtime.runners import OpenVinoRunner, available_runners
from edge_runtime.runners import openvino as module

if reason := available_runners()["openvino"]:
    pytest.skip(reason, allow_module_level=True)

INPUT = InputSpec(name="x", shape=craft.SHAPE)
OUTPUTS = (OutputSpec(name="y", shape=craft.SHAPE, kind="raw"),)


def runner(model: bytes, **options: Any) -> OpenVinoRunner:
    return OpenVinoRunner(model, "a", INPUT, OUTPUTS, **options)


def test_float_layers_are_computed_in_float32_on_every_processor() -> None:
    """OpenVINO's own default is bfloat16 where the processor has AMX, and float16 on ARM."""
    for model in (models.fp32_net(), models.fp16_net()):
        with runner(model) as ready:
            assert ready.precisions("Convolution") == {"f32": 3}  # type: ignore[attr-defined]
            assert not {"bf16", "f16"} & set(ready.precisions())  # type: ignore[attr-defined]


def test_a_quantized_convolution_is_computed_in_integers() -> None:
    with runner(models.int8_net(), precision="int8") as ready:
        found = ready.precisions("Convolution")  # type: ignore[attr-defined]
    assert sum(found.values()) == 3
    assert found.get("i8", 0) + found.get("u8", 0) == 1
    assert found["f32"] == 2


def test_integers_that_were_asked_for_and_not_obtained_are_an_error() -> None:
    made = runner(models.fp32_net(), precision="int8")
    with pytest.raises(ProviderUnavailableError, match=r"computes no layer of it in 8-bit.*'f32'.*fp32 variant"), made:
        pass


def test_arithmetic_that_was_asked_for_and_not_obtained_is_an_error() -> None:
    """Either the processor has bfloat16 and the layers say so, or it is refused; float32 in silence never."""
    made = runner(models.fp32_net(), arithmetic="bf16")
    has_it = "BF16" in module.import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    refused = pytest.raises(ProviderUnavailableError, match="bf16 arithmetic was asked for")
    with nullcontext() if has_it else refused, made:
        assert "bf16" in made.precisions("Convolution")


@pytest.mark.parametrize("device", ["AUTO", "HETERO:CPU", "MULTI:CPU", "NPU.7", "cpu", ""])
def test_a_device_that_is_absent_or_chooses_by_itself_is_refused(device: str) -> None:
    with pytest.raises(ProviderUnavailableError, match=r"was asked for.*has \['CPU'"), runner(b"", device=device):
        pass


def test_more_threads_than_there_are_are_refused() -> None:
    with (
        pytest.raises(ProviderUnavailableError, match="4096 threads were asked for, OpenVINO grants"),
        runner(craft.relu_net(), threads=4096),
    ):
        pass


def test_threads_are_granted_and_pinned_to_no_core() -> None:
    for threads in range(1, min(3, len(os.sched_getaffinity(0))) + 1):
        with runner(craft.relu_net(), threads=threads) as ready:
            compiled = ready._compiled  # type: ignore[attr-defined]
            assert int(compiled.get_property("INFERENCE_NUM_THREADS")) == threads
            assert int(compiled.get_property("NUM_STREAMS")) == 1
            assert not compiled.get_property("ENABLE_CPU_PINNING")


@pytest.mark.parametrize("options", [{"threads": 0}, {"timeout_s": 0.0}, {"timeout_s": -1}, {"arithmetic": "f64"}])
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        runner(b"", **options)


def test_control_flow_is_refused_because_it_could_not_be_cancelled() -> None:
    with pytest.raises(ModelRefusedError, match=r"control flow \(Loop\)"), runner(craft.endless_loop(), timeout_s=0.1):
        pass


@pytest.mark.parametrize("attribute", ["antialias", "exclude_outside"])
def test_a_resize_that_it_computes_otherwise_is_refused(attribute: str) -> None:
    """ONNX's own node tests fail on these without an error."""
    scales = craft.float32s("s", [1.0, 1.0, 1.0, 1.0])
    for value in (0, 1):
        node = craft.node("Resize", ["x", "", "s"], ["y"], **{attribute: value})
        made = runner(craft.net(node, initializers=[scales], opset=18))
        refused = pytest.raises(ModelRefusedError, match=f"Resize with {attribute}.*onnxruntime")
        with refused if value else nullcontext(), made:
            pass


def test_precisions_are_told_of_an_active_runner_alone() -> None:
    with pytest.raises(Exception, match="not active"):
        runner(craft.relu_net()).precisions()


def test_arrays_are_shared_and_not_copied() -> None:
    image = np.ones(craft.SHAPE, np.float32)
    with runner(craft.relu_net()) as ready:
        found = ready.infer({"x": image})["y"]
        request = ready._request  # type: ignore[attr-defined]
        assert request.get_tensor("x").data.ctypes.data == image.ctypes.data
        assert request.get_tensor("y").data.ctypes.data == found.ctypes.data


def test_without_openvino_the_install_line_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str, purpose: str) -> None:
        raise MissingDependencyError(f"{name} is needed {purpose}")

    monkeypatch.setattr(module, "require", absent)
    with pytest.raises(MissingDependencyError, match="openvino is needed to run models"), runner(b""):
        pass


IMPORT = """
import sys
from edge_runtime.runners.openvino import import_openvino
openvino = import_openvino()
assert import_openvino() is openvino
assert "openvino_telemetry" not in sys.modules
assert [name for name in sys.modules if name.startswith("openvino_telemetry.")] == []
"""


def test_the_import_reports_to_nobody_and_writes_nothing(tmp_path: Path) -> None:
    """Without the stub the import posts to Google Analytics and leaves `~/intel` with a client id."""
    environment = {key: value for key, value in os.environ.items() if key not in ("CI", "TF_BUILD", "JENKINS_URL")}
    done = subprocess.run(
        [sys.executable, "-c", IMPORT],
        env={**environment, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


def test_no_module_of_the_runtime_imports_it_by_itself() -> None:
    code = (
        "import sys, edge_runtime.runners, edge_runtime.loading, edge_runtime.doctor\n"
        "from edge_runtime.runners import available_runners\n"
        "assert not [n for n in sys.modules if n.startswith(('openvino', 'tensorrt'))], 'imported'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
