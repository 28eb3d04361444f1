"""Which runners there are on this machine, and one for a bundle's variant."""

from __future__ import annotations

import sys
from importlib.util import find_spec

from edge_runtime.bundle import Bundle
from edge_runtime.bundle.manifest import InputSpec, OutputSpec, Precision, Target
from edge_runtime.errors import ConfigError
from edge_runtime.runners._ort_provider import CPU
from edge_runtime.runners.base import Runner
from edge_runtime.runners.onnxruntime import OrtRunner
from edge_runtime.runners.openvino import OpenVinoRunner

__all__ = ["RUNNER_TARGETS", "available_runners", "create_runner", "open_runner"]

# runner -> the ladder of a bundle that is written for it
RUNNER_TARGETS: dict[str, Target] = {"onnxruntime": "ort-cpu", "openvino": "openvino", "tensorrt": "tensorrt"}


def available_runners() -> dict[str, str | None]:
    """Name of each shipped runner with None, or the reason why it cannot be used here.

    ONNX Runtime and OpenVINO are looked for and not imported; TensorRT is, where it is installed.
    """
    from edge_runtime import engines

    packages = {"onnxruntime": "ort", "openvino": "openvino"}
    found = {
        name: None if _is_installed(name) else f"{name} is not installed: pip install 'pocus-edge-runtime[{extra}]'"
        for name, extra in packages.items()
    }
    return {**found, "tensorrt": engines.available()}


def _is_installed(name: str) -> bool:
    if name in sys.modules:
        return sys.modules[name] is not None
    return find_spec(name) is not None


def create_runner(
    bundle: Bundle,
    variant_id: str,
    *,
    runner: str = "onnxruntime",
    provider: str | None = None,
    threads: int = 1,
    timeout_s: float | None = None,
    inspected: bool = False,
) -> Runner:
    """A runner for one variant, not yet activated; the model's bytes are checked while they are read.

    `inspected` as in `Bundle.model`: the same bytes were checked before, and only their hash is.

    As `open_runner`; OpenVINO and TensorRT read back what they compute in: a variant's precision that is not obtained
    is an error on activation. Raises as `open_runner` and `Bundle.model`, and `ConfigError` for an unknown variant.
    """
    _require_known(runner)
    return open_runner(
        runner,
        bundle.model(variant_id, inspected=inspected),
        variant_id,
        bundle.manifest.input,
        bundle.manifest.outputs,
        provider=provider,
        threads=threads,
        timeout_s=timeout_s,
        precision=bundle.variant(variant_id).precision,
    )


def open_runner(
    runner: str,
    model: bytes,
    variant: str,
    input: InputSpec,
    outputs: tuple[OutputSpec, ...],
    *,
    provider: str | None = None,
    threads: int = 1,
    timeout_s: float | None = None,
    precision: Precision | None = None,
) -> Runner:
    """The runner of that name on the bytes of a model, not yet activated.

    `provider` is what the runner calls the thing that computes: an execution provider of ONNX Runtime (None: the
    CPU's), a device of OpenVINO (None: "CPU"); TensorRT has none. `precision` is what OpenVINO and TensorRT must read
    back (None: whatever they choose). Raises `ConfigError` for an unknown runner, or a provider where there is none to
    choose.
    """
    _require_known(runner)
    if runner == "onnxruntime":
        chosen = CPU if provider is None else provider
        return OrtRunner(model, variant, input, outputs, provider=chosen, threads=threads, timeout_s=timeout_s)
    if runner == "openvino":
        device = "CPU" if provider is None else provider
        return OpenVinoRunner(
            model, variant, input, outputs, device=device, threads=threads, timeout_s=timeout_s, precision=precision
        )
    if provider is not None:
        raise ConfigError(f"provider {provider!r} is given; the tensorrt runner has none, leave it out")
    from edge_runtime.runners.tensorrt import TensorRtRunner

    return TensorRtRunner(model, variant, input, outputs, precision=precision, timeout_s=timeout_s)


def _require_known(runner: str) -> None:
    if runner not in RUNNER_TARGETS:
        raise ConfigError(f"runner {runner!r} is not known; there is {sorted(RUNNER_TARGETS)}")
