"""What ONNX Runtime's execution providers need beyond the session: options, proof of assignment, buffers on a GPU."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.bundle.manifest import InputSpec
from edge_runtime.errors import ConfigError

__all__ = ["CPU", "CUDA", "TENSORRT", "DeviceBuffers", "foreign_nodes", "install_line", "provider_options"]

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"

_INSTALL = {
    CUDA: "Install onnxruntime-gpu in place of onnxruntime",
    TENSORRT: "Install onnxruntime-gpu in place of onnxruntime, and TensorRT",
}


def install_line(provider: str) -> str:
    """What to do about an absent provider, the beginning of a sentence."""
    return _INSTALL.get(provider, "Install a build with it")


def provider_options(provider: str, *, cuda_graph: bool, engine_cache: Path | str | None) -> dict[str, str]:
    """Options of `provider` as ONNX Runtime spells them.

    TensorRT's precision switches are off: they allow other precisions than the graph's own, and TensorRT 11 has none.
    Raises `ConfigError` for an option that the provider does not have.
    """
    if cuda_graph and provider not in (CUDA, TENSORRT):
        raise ConfigError(f"cuda_graph belongs to {CUDA} and {TENSORRT}, not to {provider}")
    if engine_cache is not None and provider != TENSORRT:
        raise ConfigError(f"engine_cache belongs to {TENSORRT}, not to {provider}")
    switch = str(int(cuda_graph))
    if provider == CUDA:
        return {"device_id": "0", "enable_cuda_graph": switch, "use_tf32": "0"}
    if provider != TENSORRT:
        return {}
    options = {
        "device_id": "0",
        "trt_cuda_graph_enable": switch,
        "trt_fp16_enable": "0",
        "trt_bf16_enable": "0",
        "trt_int8_enable": "0",
    }
    if engine_cache is not None:
        folder = str(engine_cache)
        options |= {"trt_engine_cache_enable": "1", "trt_engine_cache_path": folder}
        options |= {"trt_timing_cache_enable": "1", "trt_timing_cache_path": folder}
    return options


def foreign_nodes(session: Any, provider: str) -> str:
    """The nodes that `session` has assigned to another provider, as text; empty when there are none.

    Asks ONNX Runtime for its record of the partitioning (1.24 and later, `session.record_ep_graph_assignment_info`).
    Before, `session.disable_cpu_ep_fallback` is the proof: such a session is not created when a node is left over.
    """
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return ""
    foreign: Counter[str] = Counter()
    for part in session.get_provider_graph_assignment_info():
        if part.ep_name != provider:
            foreign.update(f"{node.op_type} ({part.ep_name})" for node in part.get_nodes())
    return ", ".join(f"{count} x {name}" for name, count in sorted(foreign.items())[:6])


class DeviceBuffers:
    """One input and the outputs of a session in GPU memory that is kept: fixed addresses, as a CUDA graph needs."""

    def __init__(self, ort: Any, binding: Any, input: InputSpec, arrays: dict[str, npt.NDArray[np.float32]]) -> None:
        def on_device(shape: tuple[int, ...]) -> Any:
            return ort.OrtValue.ortvalue_from_shape_and_type(list(shape), np.float32, "cuda", 0)

        self._arrays = arrays
        self._binding = binding
        self._input = on_device(input.shape)
        self._outputs = {name: on_device(array.shape) for name, array in arrays.items()}
        binding.bind_ortvalue_input(input.name, self._input)
        for name, value in self._outputs.items():
            binding.bind_ortvalue_output(name, value)

    def upload(self, array: npt.NDArray[np.float32]) -> None:
        """Copy `array` (the input's shape) to the GPU."""
        self._input.update_inplace(array)

    def download(self) -> None:
        """Wait for the GPU and copy every output into its array."""
        self._binding.synchronize_outputs()
        for name, array in self._arrays.items():
            np.copyto(array, self._outputs[name].numpy())
