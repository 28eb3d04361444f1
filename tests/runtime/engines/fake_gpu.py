"""A pretend CUDA and a pretend TensorRT, so that paths that need a GPU run without one.

They prove our own bookkeeping (order of calls, who frees what, which error is told), never NVIDIA's behaviour; tests
that use them say `fake` in their name.

"Device" memory is host memory, a stream does its work at once, a captured graph is a list of calls. An engine is the
ONNX file itself, run by ONNX Runtime.
"""

from __future__ import annotations

import ctypes
import json
import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

OK, OUT_OF_MEMORY, INSUFFICIENT_DRIVER, NOT_READY = 0, 2, 35, 600


class FakeCuda(ModuleType):
    """`cuda.bindings.runtime`: what is allocated is in `live`; `fail` names a call that fails, or `fail_at` one."""

    cudaHostAllocDefault, cudaHostAllocMapped, cudaStreamNonBlocking = 0, 2, 1
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)

    def __init__(self) -> None:
        super().__init__("cuda.bindings.runtime")
        self.live: dict[int, Any] = {}
        self.calls: list[str] = []
        self.fail = ""
        self.fail_at = 0  # with `fail` empty: the number of the call that fails, counted from 1
        self.busy = False
        self.devices = 1
        self.integrated = False
        self.capturing: dict[int, list[Callable[[], None]]] = {}  # by stream

    def _enter(self, name: str) -> int:
        self.calls.append(name)
        return OUT_OF_MEMORY if name == self.fail or len(self.calls) == self.fail_at else OK

    def _hold(self, item: Any) -> int:
        address = ctypes.addressof(item) if isinstance(item, ctypes.Array) else id(item)
        self.live[address] = item
        return address

    def _do(self, stream: int, work: Callable[[], None]) -> None:
        if stream in self.capturing:
            self.capturing[stream].append(work)
        else:
            work()

    def cudaGetErrorName(self, error: int) -> tuple[int, bytes]:
        names = {OUT_OF_MEMORY: b"cudaErrorMemoryAllocation", INSUFFICIENT_DRIVER: b"cudaErrorInsufficientDriver"}
        return OK, names.get(error, b"cudaErrorUnknown")

    def cudaGetErrorString(self, error: int) -> tuple[int, bytes]:
        return OK, b"as the fake was told"

    def cudaGetLastError(self) -> tuple[int]:
        return (OK,)

    def cudaGetDeviceCount(self) -> tuple[int, int]:
        return (OK if self.devices else INSUFFICIENT_DRIVER), self.devices

    def cudaSetDevice(self, device: int) -> tuple[int]:
        return (self._enter("cudaSetDevice"),)

    def cudaDriverGetVersion(self) -> tuple[int, int]:
        return OK, 13000

    def cudaRuntimeGetVersion(self) -> tuple[int, int]:
        return OK, 12060

    def cudaGetDeviceProperties(self, device: int) -> tuple[int, Any]:
        return OK, SimpleNamespace(
            name=b"Fake GPU\0", major=8, minor=7, multiProcessorCount=4, integrated=self.integrated, canMapHostMemory=1
        )

    def _allocate(self, name: str, size: int) -> tuple[int, int]:
        error = self._enter(name)
        return error, 0 if error else self._hold((ctypes.c_byte * size)())

    def cudaHostAlloc(self, size: int, flags: int) -> tuple[int, int]:
        return self._allocate("cudaHostAlloc", size)

    def cudaMalloc(self, size: int) -> tuple[int, int]:
        return self._allocate("cudaMalloc", size)

    def cudaHostGetDevicePointer(self, address: int, flags: int) -> tuple[int, int]:
        return self._enter("cudaHostGetDevicePointer"), address

    def _free(self, address: int) -> tuple[int]:
        del self.live[address]
        return (OK,)

    cudaFreeHost = cudaFree = cudaStreamDestroy = cudaGraphDestroy = cudaGraphExecDestroy = _free

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[int, int]:
        error = self._enter("cudaStreamCreateWithFlags")
        return error, 0 if error else self._hold(SimpleNamespace())

    def cudaMemcpyAsync(self, to: int, source: int, size: int, kind: int, stream: int) -> tuple[int]:
        error = self._enter("cudaMemcpyAsync")
        if not error:
            self._do(stream, lambda: ctypes.memmove(to, source, size))
        return (error,)

    def cudaStreamSynchronize(self, stream: int) -> tuple[int]:
        return (self._enter("cudaStreamSynchronize"),)

    def cudaStreamQuery(self, stream: int) -> tuple[int]:
        return (NOT_READY if self.busy else OK,)

    def cudaStreamBeginCapture(self, stream: int, mode: int) -> tuple[int]:
        error = self._enter("cudaStreamBeginCapture")
        if not error:
            self.capturing[stream] = []
        return (error,)

    def cudaStreamEndCapture(self, stream: int) -> tuple[int, int]:
        work = self.capturing.pop(stream, None)
        error = self._enter("cudaStreamEndCapture")
        return error, None if error or work is None else self._hold(work)

    def cudaGraphInstantiate(self, graph: int, flags: int) -> tuple[int, int]:
        error = self._enter("cudaGraphInstantiate")
        return error, 0 if error else self._hold(list(self.live[graph]))

    def cudaGraphLaunch(self, graph: int, stream: int) -> tuple[int]:
        error = self._enter("cudaGraphLaunch")
        for work in [] if error else self.live[graph]:
            work()
        return (error,)


class FakeTensorRt(ModuleType):
    """`tensorrt`: the names that the runtime uses, with the ONNX file as the engine."""

    def __init__(self, cuda: FakeCuda, version: str = "10.3.0") -> None:
        super().__init__("tensorrt")
        import onnxruntime

        self.__version__ = version
        self.cuda, self.onnxruntime = cuda, onnxruntime
        self.precision = "Half"
        self.builds = 0
        self.timing_taken: list[bytes] = []
        self.timing_matches = True
        self.plan_fails = self.load_fails = self.context_fails = self.run_fails = False
        self.dla_cores = 0
        self.settings: dict[str, Any] = {}

        class ILogger:
            pass

        class IProgressMonitor:
            pass

        self.ILogger, self.IProgressMonitor = ILogger, IProgressMonitor
        self.NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1)
        self.MemoryPoolType = SimpleNamespace(WORKSPACE="workspace")
        self.ProfilingVerbosity = SimpleNamespace(DETAILED="detailed")
        self.BuilderFlag = SimpleNamespace(TF32="tf32", GPU_FALLBACK="fallback")
        self.DeviceType = SimpleNamespace(DLA="dla")
        self.TensorIOMode = SimpleNamespace(INPUT="input", OUTPUT="output")
        self.LayerInformationFormat = SimpleNamespace(JSON="json")

    def session(self, model: bytes) -> Any:
        """ONNX Runtime on one thread."""
        options = self.onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        return self.onnxruntime.InferenceSession(model, options)

    def Builder(self, logger: Any) -> Any:
        return _Builder(self, logger)

    def OnnxParser(self, network: Any, logger: Any) -> Any:
        return _Parser(self, network)

    def Runtime(self, logger: Any) -> Any:
        def deserialize(plan: bytes) -> Any:
            if self.load_fails:
                logger.log("Severity.ERROR", "the plan is of another GPU")
                return None
            return _Engine(self, plan)

        return SimpleNamespace(deserialize_cuda_engine=deserialize, DLA_core=-1)


class _Parser:
    def __init__(self, trt: FakeTensorRt, network: Any) -> None:
        self.trt, self.network, self.num_errors = trt, network, 0

    def parse(self, model: bytes) -> bool:
        try:
            session = self.trt.session(model)
        except Exception:
            self.num_errors = 1
            return False
        self.network.model = model
        for item in session.get_inputs():
            shape = tuple(size if isinstance(size, int) else -1 for size in item.shape)
            self.network.inputs.append(SimpleNamespace(name=item.name, shape=shape))
        self.network.num_inputs = len(self.network.inputs)
        return True

    def get_error(self, index: int) -> Any:
        return SimpleNamespace(
            node_name=lambda: "/up/Resize", node_operator=lambda: "Resize", desc=lambda: "mode is not supported"
        )


class _Builder:
    def __init__(self, trt: FakeTensorRt, logger: Any) -> None:
        self.trt, self.logger, self.num_DLA_cores = trt, logger, trt.dla_cores

    def create_network(self, flags: int) -> Any:
        assert flags == 2  # strongly typed
        network = SimpleNamespace(inputs=[], num_inputs=0, num_layers=7, model=b"")
        network.get_input = lambda index: network.inputs[index]
        return network

    def create_optimization_profile(self) -> Any:
        return SimpleNamespace(set_shape=lambda name, *shapes: self.trt.settings.update({f"profile {name}": shapes}))

    def create_builder_config(self) -> Any:
        return _Config(self.trt)

    def build_serialized_network(self, network: Any, config: Any) -> bytes | None:
        self.trt.builds += 1
        self.trt.settings |= vars(config)
        self.logger.log("Severity.INFO", "building")
        monitor = getattr(config, "progress_monitor", None)
        if monitor is not None:
            monitor.phase_start("Building engine", None, 2)
            if not all(monitor.step_complete("Building engine", step) for step in range(2)):
                return None
            monitor.phase_finish("Building engine")
        if self.trt.plan_fails:
            self.logger.log("Severity.ERROR", "no kernel for /enc/Conv")
            return None
        return bytes(network.model)


class _Config:
    def __init__(self, trt: FakeTensorRt) -> None:
        self._trt = trt
        self.set_memory_pool_limit = lambda pool, size: setattr(self, "workspace", size)
        self.clear_flag = lambda flag: setattr(self, f"cleared_{flag}", True)
        self.set_flag = lambda flag: setattr(self, f"set_{flag}", True)
        self.add_optimization_profile = lambda profile: setattr(self, "profiled", True)

    def create_timing_cache(self, data: bytes) -> Any:
        self._trt.timing_taken.append(data)
        return SimpleNamespace(data=data, serialize=lambda: data + b"+timing")

    def set_timing_cache(self, timing: Any, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        if timing.data and not self._trt.timing_matches:
            return False
        self._timing = timing
        return True

    def get_timing_cache(self) -> Any:
        return self._timing


class _Engine:
    def __init__(self, trt: FakeTensorRt, plan: bytes) -> None:
        self._trt = trt
        self._session = trt.session(plan)
        self._tensors = [(item, "input") for item in self._session.get_inputs()]
        self._tensors += [(item, "output") for item in self._session.get_outputs()]
        self.num_io_tensors = len(self._tensors)
        self._by_name = {item.name: (item, mode) for item, mode in self._tensors}

    def get_tensor_name(self, index: int) -> str:
        return str(self._tensors[index][0].name)

    def get_tensor_mode(self, name: str) -> str:
        return self._by_name[name][1]

    def get_tensor_dtype(self, name: str) -> str:
        return "DataType." + {"tensor(float)": "FLOAT"}[self._by_name[name][0].type]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(size if isinstance(size, int) else -1 for size in self._by_name[name][0].shape)

    def create_engine_inspector(self) -> Any:
        weights = {"Type": self._trt.precision, "Count": 9}
        layer = {"Name": "/enc/Conv", "LayerType": "CaskConvolution", "Weights": weights, "Inputs": [], "Outputs": []}
        text = json.dumps({"Layers": [layer], "Bindings": list(self._by_name)})
        return SimpleNamespace(get_engine_information=lambda form: text)

    def create_execution_context(self) -> Any:
        return None if self._trt.context_fails else _Context(self._trt, self._session)


class _Context:
    def __init__(self, trt: FakeTensorRt, session: Any) -> None:
        self._trt, self._session = trt, session
        self._addresses: dict[str, int] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._shapes[name] = shape
        return True

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        if self._trt.run_fails:
            return False
        self._trt.cuda._do(stream, self._run)
        return True

    def _run(self) -> None:
        feeds = {name: self._view(name, shape) for name, shape in self._shapes.items()}
        found = self._session.run(None, feeds)
        for item, value in zip(self._session.get_outputs(), found, strict=True):
            self._view(item.name, value.shape)[...] = value

    def _view(self, name: str, shape: tuple[int, ...]) -> Any:
        count = int(np.prod(shape))
        block = (ctypes.c_float * count).from_address(self._addresses[name])
        return np.frombuffer(block, np.float32).reshape(shape)


def install(monkeypatch: pytest.MonkeyPatch) -> FakeTensorRt:
    """Put both fakes where the runtime looks; the CUDA one is `.cuda` of what is returned."""
    pytest.importorskip("onnxruntime")
    cuda = FakeCuda()
    trt = FakeTensorRt(cuda)
    package, bindings = ModuleType("cuda"), ModuleType("cuda.bindings")
    package.__path__, bindings.__path__ = [], []
    for name, module in (("cuda", package), ("cuda.bindings", bindings), ("cuda.bindings.runtime", cuda)):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    return trt
