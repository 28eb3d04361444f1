"""The ONNX Runtime runner."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.bundle.manifest import InputSpec, OutputSpec
from edge_runtime.clock import MonotonicClock
from edge_runtime.errors import InferenceError, ModelRefusedError, ProviderUnavailableError
from edge_runtime.optional import require
from edge_runtime.runners._ort_provider import (
    CPU,
    CUDA,
    TENSORRT,
    DeviceBuffers,
    foreign_nodes,
    install_line,
    provider_options,
)
from edge_runtime.runners.base import Arrays, Interface, Runner, require_limits

__all__ = ["OrtRunner"]

_QUIET = 4  # fatal errors only: the others are raised, and said once
_TYPES = {"tensor(float)": "float32"}


class OrtRunner(Runner):
    """One model on ONNX Runtime: loaded from bytes, never from a path, on exactly the provider that was asked for.

    Inputs are read where they lie and outputs written into arrays that are kept, so a call copies nothing. `threads` is
    ONNX Runtime's intra-op count. With `timeout_s` a call that runs longer is ended and raises `InferenceError`.

    `provider` is one of `onnxruntime.get_available_providers()`. With CUDA or TensorRT the arrays are copied to and
    from the GPU; `cuda_graph` (both) records the launches of the first call and replays them. TensorRT builds an engine
    on activation and keeps it, with its timing cache, in the folder `engine_cache`, which must be yours alone: an
    engine is executable code. TensorRT's own precision switches stay off: precision is what the graph says.

    Construction raises `ConfigError` for an option that the provider does not have. Activation raises
    `ProviderUnavailableError` when the provider is absent or any node is assigned to another one, `ModelRefusedError`
    when ONNX Runtime does not load the model or its inputs and outputs are not the manifest's,
    `MissingDependencyError` without onnxruntime.
    """

    def __init__(
        self,
        model: bytes,
        variant: str,
        input: InputSpec,
        outputs: tuple[OutputSpec, ...],
        *,
        provider: str = CPU,
        threads: int = 1,
        timeout_s: float | None = None,
        cuda_graph: bool = False,
        engine_cache: Path | str | None = None,
    ) -> None:
        super().__init__(name="onnxruntime", variant=variant, input=input, outputs=outputs)
        require_limits(threads, timeout_s)
        self.provider = provider
        self.threads = threads
        self._provider_options = provider_options(provider, cuda_graph=cuda_graph, engine_cache=engine_cache)
        self._model = model
        self._timeout_ns = None if timeout_s is None else round(timeout_s * 1e9)
        self._arrays: dict[str, npt.NDArray[np.float32]] = {}
        self._bound: npt.NDArray[np.float32] | None = None
        self._session: Any = None
        self._binding: Any = None
        self._device: DeviceBuffers | None = None
        self._watchdog: _Watchdog | None = None

    def _activate(self) -> None:
        self._ort: Any = require("onnxruntime", "to run models")
        session = self._open()
        self._require_manifest(_interface(session.get_inputs()), _interface(session.get_outputs()))
        binding = session.io_binding()
        arrays = {spec.name: np.empty(spec.shape, np.float32) for spec in self.outputs}
        if self.provider in (CUDA, TENSORRT):
            self._device = DeviceBuffers(self._ort, binding, self.input, arrays)
        else:
            for name, array in arrays.items():
                binding.bind_output(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
        self._session, self._binding, self._arrays = session, binding, arrays
        self._options: Any = self._ort.RunOptions()
        self._options.log_severity_level = _QUIET
        self._watchdog = None if self._timeout_ns is None else _Watchdog(self._options, self._timeout_ns)

    def _open(self) -> Any:
        ort = self._ort
        available = ort.get_available_providers()
        if self.provider not in available:
            raise ProviderUnavailableError(
                f"{self.provider} was asked for; this onnxruntime {ort.__version__} has {available}. "
                f"{install_line(self.provider)}, or ask for one of these"
            )
        try:
            session = ort.InferenceSession(
                self._model,
                sess_options=self._session_options(),
                providers=[self.provider],
                provider_options=[self._provider_options],
            )
        except Exception as error:  # onnxruntime raises a dozen classes without a base of their own
            if self.provider != CPU:
                raise ProviderUnavailableError(
                    f"{self.provider} does not take the whole of variant {self.variant!r}: {_first(error)}. "
                    f"Ask for {CPU}, or lower the model for this provider"
                ) from error
            raise ModelRefusedError(f"onnxruntime does not load variant {self.variant!r}: {_first(error)}") from error
        obtained = session.get_providers()
        if not obtained or obtained[0] != self.provider:
            raise ProviderUnavailableError(f"{self.provider} was asked for, the session runs on {obtained}")
        if foreign := foreign_nodes(session, self.provider):
            raise ProviderUnavailableError(
                f"{self.provider} was asked for; of variant {self.variant!r} {foreign} run elsewhere. "
                f"Ask for {CPU}, or lower the model for this provider"
            )
        return session

    def _session_options(self) -> Any:
        options = self._ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _QUIET
        options.use_deterministic_compute = True
        # pool threads that spin until the next frame take the processor from capture and sinks
        options.add_session_config_entry("session.force_spinning_stop", "1")
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")  # unknown before 1.24: ignored
        if self.provider != CPU:  # else nodes that the provider does not take run on the CPU unseen
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        return options

    def _infer(self, inputs: Arrays) -> dict[str, npt.NDArray[np.float32]]:
        array = inputs[self.input.name]
        if array is not self._bound:
            array = np.ascontiguousarray(array, np.float32)
        watchdog, device = self._watchdog, self._device
        try:
            if device is None:
                self._bind(array)
            else:
                device.upload(array)
            if watchdog is not None:
                watchdog.arm()
            self._session.run_with_iobinding(self._binding, self._options)
            if device is not None:
                device.download()
        except Exception as error:
            if watchdog is not None and watchdog.fired:
                raise self._too_long((self._timeout_ns or 0) / 1e9) from error
            raise InferenceError(f"variant {self.variant!r} failed: {_first(error)}") from error
        finally:
            if watchdog is not None:
                watchdog.disarm()
        return self._arrays

    def _bind(self, array: npt.NDArray[np.float32]) -> None:
        bound = self._bound
        if array is bound:
            return
        if bound is None or bound.ctypes.data != array.ctypes.data or bound.shape != array.shape:
            self._binding.bind_input(self.input.name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
        self._bound = array  # kept alive while it is bound

    def _deactivate(self) -> None:
        if self._watchdog is not None:
            self._watchdog.close()
            self._watchdog = None
        self._device = None
        self._binding = self._session = self._bound = None
        self._arrays = {}


def _interface(ends: Any) -> Interface:
    return {end.name: (tuple(end.shape), _TYPES.get(end.type, end.type)) for end in ends}


class _Watchdog:
    """Ends a run of ONNX Runtime that lasts longer than `limit_ns`; one sleeping thread for all calls."""

    def __init__(self, options: Any, limit_ns: int) -> None:
        self._options = options
        self._limit_ns = limit_ns
        self._clock = MonotonicClock()
        self._changed = threading.Condition()
        self._due_ns: int | None = None
        self._closed = False
        self.fired = False
        self._thread = threading.Thread(target=self._watch, name="inference-watchdog", daemon=True)
        self._thread.start()

    def arm(self) -> None:
        with self._changed:
            self.fired = self._options.terminate = False
            self._due_ns = self._clock.now_ns() + self._limit_ns
            self._changed.notify()

    def disarm(self) -> None:
        with self._changed:
            self._due_ns = None

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _watch(self) -> None:
        with self._changed:
            while not self._closed:
                left = None if self._due_ns is None else self._due_ns - self._clock.now_ns()
                if left is not None and left <= 0:
                    self.fired = self._options.terminate = True
                    self._due_ns = left = None
                self._clock.wait(self._changed, left)


def _first(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
