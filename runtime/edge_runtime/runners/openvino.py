"""The OpenVINO runner: Intel's inference engine for x86 and ARM processors."""

from __future__ import annotations

import sys
from collections import Counter
from math import ceil
from types import ModuleType
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edge_runtime.bundle._onnx_walk import walk_model
from edge_runtime.bundle.limits import DEFAULT_LIMITS
from edge_runtime.bundle.manifest import InputSpec, OutputSpec
from edge_runtime.errors import ConfigError, InferenceError, ModelRefusedError, ProviderUnavailableError, RunnerError
from edge_runtime.optional import require
from edge_runtime.runners.base import Arrays, Interface, Runner, require_limits

__all__ = ["OpenVinoRunner", "import_openvino"]

_TELEMETRY = "openvino_telemetry"
_TYPES = {"f32": "float32", "f16": "float16"}  # OpenVINO's names as NumPy's; others are told as they are
_HINTS = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
_REDUCED = {"f16", "bf16"}  # what a float32 computation must not be done in unasked
_INTEGER = {"i8", "u8"}
_LOOPS = {"Loop", "If", "TensorIterator"}
_NOISE = (  # lines of its exceptions that stand in every one
    "Exception from", "Check '", "[ ERROR ]", "FrontEnd API failed", "Model wasn't fully converted", "Summary:",
    "Failed operations detailed log", "To facilitate the conversion",
)  # fmt: skip
# attributes that openvino 2026.4 reads and passes over: ONNX's node tests of them fail without an error
_MISREAD = {"Resize": ("antialias", "exclude_outside")}
_STORED = {"Const", "Input", "Output", "Reorder"}  # layers that hold or move numbers and compute none


def import_openvino() -> ModuleType:
    """Import `openvino` without its telemetry.

    `openvino` reports every import to Google Analytics and keeps a client id in `~/intel`, unless its own stub takes
    the place of the package `openvino_telemetry`, which is what it does when that package cannot be imported. A program
    that has imported `openvino` before this call has sent its report already. Raises `MissingDependencyError`.
    """
    if "openvino" in sys.modules or _TELEMETRY in sys.modules:
        return require("openvino", "to run models with OpenVINO")
    sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # what import makes an ImportError of
    try:
        return require("openvino", "to run models with OpenVINO")
    finally:
        del sys.modules[_TELEMETRY]


class OpenVinoRunner(Runner):
    """One model on OpenVINO: loaded from bytes, never from a path, on exactly the device that was asked for.

    Inputs are read where they lie (a read-only array is copied first) and outputs written into arrays that are kept.
    `device` is a name of `openvino.Core().available_devices`; AUTO, MULTI and HETERO choose by themselves and are
    refused. `arithmetic` is what float layers are computed in: OpenVINO's own default is bfloat16 on a processor with
    AMX and float16 on ARM, this one's is float32; quantized layers are computed in integers whatever it says. With
    `precision` "int8" at least one layer must be computed in 8-bit integers. A call that runs longer than `timeout_s`
    is cancelled at the end of the layer that it is in, and raises `InferenceError`.

    Activation raises `ProviderUnavailableError` when the device is absent, or threads, arithmetic or integers are not
    obtained; `ModelRefusedError` when OpenVINO does not read the model or is known to compute it otherwise than ONNX
    defines it, when it has control flow (which could not be cancelled), or when its inputs and outputs are not the
    manifest's; `MissingDependencyError` without openvino.
    """

    def __init__(
        self,
        model: bytes,
        variant: str,
        input: InputSpec,
        outputs: tuple[OutputSpec, ...],
        *,
        device: str = "CPU",
        threads: int = 1,
        timeout_s: float | None = None,
        arithmetic: Literal["f32", "f16", "bf16"] = "f32",
        precision: Literal["fp32", "fp16", "int8"] | None = None,
    ) -> None:
        super().__init__(name="openvino", variant=variant, input=input, outputs=outputs)
        require_limits(threads, timeout_s)
        if arithmetic not in _HINTS:
            raise ConfigError(f"arithmetic is {arithmetic!r}; {sorted(_HINTS)} are allowed")
        self.device = device
        self.threads = threads
        self.timeout_s = timeout_s
        self.arithmetic = arithmetic
        self.precision = precision
        self._model = model
        self._arrays: dict[str, npt.NDArray[np.float32]] = {}
        self._bound: npt.NDArray[np.float32] | None = None
        self._compiled: Any = None
        self._request: Any = None

    def _activate(self) -> None:
        self._ov: Any = import_openvino()
        core = self._core()
        compiled = self._compile(core, self._read(core))
        self._require_manifest(
            _interface(compiled.inputs, {self.input.name}),
            _interface(compiled.outputs, {spec.name for spec in self.outputs}),
        )
        self._require_obtained(compiled)
        request = compiled.create_infer_request()
        arrays = {spec.name: np.empty(spec.shape, np.float32) for spec in self.outputs}
        for name, array in arrays.items():
            request.set_tensor(name, self._ov.Tensor(array, shared_memory=True))
        self._compiled, self._request, self._arrays = compiled, request, arrays

    def _core(self) -> Any:
        core = self._ov.Core()
        if self.device not in core.available_devices:
            raise ProviderUnavailableError(
                f"device {self.device!r} was asked for; this OpenVINO {self._ov.__version__} has "
                f"{core.available_devices}. Ask for one of these, or install the device's driver"
            )
        return core

    def _read(self, core: Any) -> Any:
        try:
            model = core.read_model(self._model)
        except Exception as error:  # a RuntimeError for whatever it is
            raise ModelRefusedError(f"openvino does not read variant {self.variant!r}: {_reason(error)}") from error
        loops = sorted({node.get_type_name() for node in model.get_ops()} & _LOOPS)
        if loops:
            raise ModelRefusedError(
                f"variant {self.variant!r} has control flow ({', '.join(loops)}), which openvino cannot end; unroll it"
            )
        for node in walk_model(self._model, DEFAULT_LIMITS).growing:
            wrong = [name for name in _MISREAD.get(node.operator, ()) if any(node.numbers.get(name, ()))]
            if wrong:
                raise ModelRefusedError(
                    f"variant {self.variant!r} has a {node.operator} with {', '.join(wrong)}, which openvino computes "
                    "otherwise than ONNX defines it; run it on onnxruntime, or export without"
                )
        return model

    def _compile(self, core: Any, model: Any) -> Any:
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
            "INFERENCE_PRECISION_HINT": self.arithmetic,
        }
        if self.device == "CPU":  # threads stay where the system puts them: two runners would be pinned to one core
            settings |= {"INFERENCE_NUM_THREADS": str(self.threads), "ENABLE_CPU_PINNING": "NO"}
        try:
            return core.compile_model(model, self.device, settings)
        except Exception as error:
            raise ModelRefusedError(
                f"openvino does not compile variant {self.variant!r} for {self.device}: {_reason(error)}"
            ) from error

    def _require_obtained(self, compiled: Any) -> None:
        """Raise `ProviderUnavailableError` for a device, threads or arithmetic other than what was asked for."""
        devices = list(compiled.get_property("EXECUTION_DEVICES"))
        if devices != [self.device]:
            raise ProviderUnavailableError(f"{self.device} was asked for, the model runs on {devices}")
        if self.device == "CPU":
            threads = int(compiled.get_property("INFERENCE_NUM_THREADS"))
            if threads != self.threads:
                raise ProviderUnavailableError(
                    f"{self.threads} threads were asked for, OpenVINO grants {threads} here; ask for at most these"
                )
        hint = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        found = _precisions(compiled)
        unasked = sorted((_REDUCED - {self.arithmetic}) & set(found))
        if hint != self.arithmetic or unasked:
            raise ProviderUnavailableError(
                f"{self.arithmetic} arithmetic was asked for variant {self.variant!r}, {self.device} has {hint} and "
                f"computes layers in {sorted(found)}; ask for what the device has, or leave it at f32"
            )
        if self.precision == "int8" and not _INTEGER & set(found):
            raise ProviderUnavailableError(
                f"variant {self.variant!r} is quantized and {self.device} computes no layer of it in 8-bit integers "
                f"(but in {sorted(found)}); use the fp32 variant here"
            )

    def precisions(self, layer: str | None = None) -> dict[str, int]:
        """Number of computing layers by the precision they are executed in ("f32", "u8", "i8" ...).

        Read back from the compiled model's runtime graph; layers that hold or move numbers (constants, inputs, outputs,
        reorders) are left out. `layer` counts one type alone, for example "Convolution". Raises `RunnerError` outside
        the context manager.
        """
        if self._compiled is None:
            raise RunnerError(f"runner {self.name!r} is not active; use it inside `with runner:`")
        return _precisions(self._compiled, layer)

    def _infer(self, inputs: Arrays) -> dict[str, npt.NDArray[np.float32]]:
        array = np.ascontiguousarray(inputs[self.input.name], np.float32)
        bound = self._bound
        try:
            if bound is None or bound.ctypes.data != array.ctypes.data or bound.shape != array.shape:
                self._bound = None
                array = array if array.flags.writeable else array.copy()  # read-only memory cannot be shared
                self._request.set_tensor(self.input.name, self._ov.Tensor(array, shared_memory=True))
                self._bound = array  # kept alive while it is set
            if self.timeout_s is None:
                self._request.infer(share_outputs=True)
            else:
                self._infer_within(self.timeout_s)
        except InferenceError:
            raise
        except Exception as error:
            raise InferenceError(f"variant {self.variant!r} failed: {_reason(error)}") from error
        return self._arrays

    def _infer_within(self, limit_s: float) -> None:
        request = self._request
        request.start_async()
        if request.wait_for(ceil(1000 * limit_s)):
            request.wait()  # raises what went wrong
            return
        request.cancel()
        try:
            request.wait()
        except RuntimeError as error:  # cancelled, or failed too late to matter
            raise self._too_long(limit_s) from error
        raise self._too_long(limit_s)

    def _deactivate(self) -> None:
        self._request = self._compiled = self._bound = None
        self._arrays = {}


def _interface(ports: Any, wanted: set[str]) -> Interface:
    """Name, shape and dtype of each port; of several names of one port the wanted one."""
    found = {}
    for port in ports:
        names = sorted(port.get_names())
        name = next((name for name in names if name in wanted), names[0] if names else "")
        shape = tuple(-1 if size.is_dynamic else size.get_length() for size in port.get_partial_shape())
        kind = port.get_element_type().to_string()
        found[name] = (shape, _TYPES.get(kind, kind))
    return found


def _precisions(compiled: Any, layer: str | None = None) -> dict[str, int]:
    found: Counter[str] = Counter()
    for node in compiled.get_runtime_model().get_ops():
        facts = node.get_rt_info()
        kind, precision = _told(facts["layerType"]), _told(facts["runtimePrecision"])
        if kind == layer or (layer is None and kind not in _STORED):
            found[precision] += 1
    return dict(found)


def _told(value: Any) -> str:
    return str(value.astype(str) if hasattr(value, "astype") else value)


def _reason(error: Exception) -> str:
    """What an exception of OpenVINO says, without the lines about its own sources."""
    lines = [line.strip() for line in str(error).splitlines()]
    telling = [line for line in lines if line and not line.startswith(_NOISE)]
    return (" ".join(telling) or type(error).__name__)[:300]
