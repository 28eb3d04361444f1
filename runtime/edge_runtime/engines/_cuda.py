"""CUDA through cuda-python's runtime bindings: every error raised, host memory that lives as long as its arrays."""

from __future__ import annotations

import ctypes
import importlib
import weakref
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import MissingDependencyError, ProviderUnavailableError, RunnerError

__all__ = ["Cuda", "Gpu"]

_NOT_READY = 600  # cudaErrorNotReady


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """The device in use. `integrated` shares the host's memory (Jetson); `maps_host` can read host memory itself."""

    name: str
    capability: str
    sms: int
    integrated: bool
    maps_host: bool
    driver: int
    runtime: int


class Cuda:
    """The calls of CUDA's runtime that are needed, on one device.

    Raises `MissingDependencyError` without cuda-python, `ProviderUnavailableError` without a driver or that device;
    every later call raises `RunnerError` with CUDA's words.
    """

    def __init__(self, device: int = 0) -> None:
        try:
            self._api: Any = importlib.import_module("cuda.bindings.runtime")
        except (ImportError, OSError, RuntimeError) as error:
            raise MissingDependencyError(
                f"cuda-python is needed to run engines ({error}). Install the major version of your CUDA driver: "
                "pip install 'cuda-python>=12.6,<13' (JetPack 6) or 'cuda-python>=13' (CUDA 13)"
            ) from error
        self.device = device
        status, count = self._api.cudaGetDeviceCount()
        if int(status) != 0 or not count:
            raise ProviderUnavailableError(
                f"no NVIDIA GPU can be used: {self._text(status) if int(status) else 'CUDA counts 0 devices'}. "
                "Install NVIDIA's driver; in a container pass the GPU in (--gpus all or --runtime nvidia)"
            )
        if not 0 <= device < count:
            raise ProviderUnavailableError(f"CUDA device {device} was asked for; there are {count}, counted from 0")

    def _text(self, error: Any) -> str:
        _, name = self._api.cudaGetErrorName(error)
        _, text = self._api.cudaGetErrorString(error)
        return f"{name.decode()} ({int(error)}), {text.decode()}"

    def _call(self, function: str, *arguments: Any) -> Any:
        error, *values = getattr(self._api, function)(*arguments)
        if int(error) != 0:
            raise RunnerError(f"{function}: {self._text(error)}")
        return values[0] if len(values) == 1 else tuple(values)

    def use(self) -> None:
        """Make the device current in the calling thread; the first time this takes memory on it."""
        self._call("cudaSetDevice", self.device)

    def gpu(self) -> Gpu:
        """What the device says about itself, with the driver's and runtime's CUDA version (13000 is 13.0)."""
        facts = self._call("cudaGetDeviceProperties", self.device)
        name = facts.name.decode() if isinstance(facts.name, bytes) else str(facts.name)
        return Gpu(
            name=name.rstrip("\0"),
            capability=f"{facts.major}.{facts.minor}",
            sms=int(facts.multiProcessorCount),
            integrated=bool(facts.integrated),
            maps_host=bool(facts.canMapHostMemory),
            driver=int(self._call("cudaDriverGetVersion")),
            runtime=int(self._call("cudaRuntimeGetVersion")),
        )

    def pinned(self, shape: tuple[int, ...], dtype: npt.DTypeLike, *, mapped: bool = False) -> npt.NDArray[Any]:
        """A page-locked array; the memory is freed with the last array that looks at it, whoever holds that."""
        kind = np.dtype(dtype)
        size = max(1, int(np.prod(shape)) * kind.itemsize)
        flags = self._api.cudaHostAllocMapped if mapped else self._api.cudaHostAllocDefault
        address = int(self._call("cudaHostAlloc", size, flags))
        block = (ctypes.c_byte * size).from_address(address)
        weakref.finalize(block, self._api.cudaFreeHost, address)
        found: npt.NDArray[Any] = np.frombuffer(memoryview(block), kind, count=int(np.prod(shape))).reshape(shape)
        return found

    def device_address(self, array: npt.NDArray[Any]) -> int:
        """Where the device sees a mapped array of `pinned`."""
        return int(self._call("cudaHostGetDevicePointer", array.ctypes.data, 0))

    def malloc(self, size: int) -> int:
        """Device memory of `size` bytes."""
        return int(self._call("cudaMalloc", max(1, size)))

    def free(self, address: int) -> None:
        """Give back device memory."""
        self._call("cudaFree", address)

    def stream(self) -> Any:
        """A stream that does not wait for the legacy default stream."""
        return self._call("cudaStreamCreateWithFlags", self._api.cudaStreamNonBlocking)

    def end_stream(self, stream: Any) -> None:
        """Destroy a stream."""
        self._call("cudaStreamDestroy", stream)

    def upload(self, address: int, array: npt.NDArray[Any], stream: Any) -> None:
        """Copy a pinned array to the device, on `stream`."""
        kind = self._api.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", address, array.ctypes.data, array.nbytes, kind, stream)

    def download(self, array: npt.NDArray[Any], address: int, stream: Any) -> None:
        """Copy from the device to a pinned array, on `stream`."""
        kind = self._api.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", array.ctypes.data, address, array.nbytes, kind, stream)

    def wait(self, stream: Any) -> None:
        """Return when the stream's work is done."""
        self._call("cudaStreamSynchronize", stream)

    def done(self, stream: Any) -> bool:
        """Whether the stream's work is done."""
        (error,) = self._api.cudaStreamQuery(stream)
        if int(error) == _NOT_READY:
            return False
        if int(error) != 0:
            raise RunnerError(f"cudaStreamQuery: {self._text(error)}")
        return True

    def begin_capture(self, stream: Any) -> None:
        """Record what this thread puts on the stream instead of doing it."""
        mode = self._api.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", stream, mode)

    def end_capture(self, stream: Any) -> Any:
        """The recorded work, ready to launch. Raises `RunnerError` when it cannot be captured."""
        graph = self._call("cudaStreamEndCapture", stream)
        try:
            return self._call("cudaGraphInstantiate", graph, 0)
        finally:
            self._call("cudaGraphDestroy", graph)

    def abandon_capture(self, stream: Any) -> None:
        """End a capture that failed half way and clear CUDA's last error; what it says is of no more use."""
        error, graph = self._api.cudaStreamEndCapture(stream)
        if int(error) == 0 and graph is not None:
            self._call("cudaGraphDestroy", graph)
        self._api.cudaGetLastError()

    def launch(self, graph: Any, stream: Any) -> None:
        """Replay a captured graph on `stream`."""
        self._call("cudaGraphLaunch", graph, stream)

    def end_graph(self, graph: Any) -> None:
        """Destroy a captured graph."""
        self._call("cudaGraphExecDestroy", graph)
