"""The TensorRT runner: TensorRT 10.3 to 11.x and TensorRT-RTX, on the engine that this machine built."""

from __future__ import annotations

import warnings
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.bundle.manifest import InputSpec, OutputSpec, Precision
from edge_runtime.clock import MonotonicClock
from edge_runtime.engines._api import Context, Engine
from edge_runtime.engines._cuda import Cuda
from edge_runtime.engines.build import BuildSettings, EngineFile, build_engine, open_engine, prove_precision
from edge_runtime.engines.cache import EngineCache
from edge_runtime.engines.readback import EngineReport
from edge_runtime.errors import ConfigError, InferenceError, ProviderUnavailableError, RunnerError
from edge_runtime.runners.base import Arrays, Interface, Runner

__all__ = ["TensorRtRunner"]

_POLL_NS = 50_000  # how often a call with a time limit looks whether the GPU is done


class TensorRtRunner(Runner):
    """One model on TensorRT: the engine comes from the cache or is built into it when the runner is activated.

    Inputs are copied into page-locked memory, outputs come in page-locked arrays that are kept, device memory is
    allocated once. With `cuda_graph` the transfers and kernels of a call are captured after one warm-up run and
    replayed; where that is not possible a `RuntimeWarning` says why and `graph_refused` keeps the reason. `mapped` lets
    an integrated GPU (Jetson) read and write host memory itself instead of copying. With `precision` the engine is read
    back, and not getting it is an error. With `timeout_s` a call that runs longer raises `InferenceError`; a kernel
    cannot be ended, so the calls after it fail as well until the GPU is done.

    Activation raises `MissingDependencyError` without TensorRT or cuda-python, `ProviderUnavailableError` without a
    GPU, or one that cannot do what was asked, `ModelRefusedError` when TensorRT refuses the model or its inputs and
    outputs are not the manifest's, `RunnerError` for all else. `engine_file` and `report` say what runs then.
    """

    def __init__(
        self,
        model: bytes,
        variant: str,
        input: InputSpec,
        outputs: tuple[OutputSpec, ...],
        *,
        precision: Precision | None = None,
        settings: BuildSettings | None = None,
        cache: EngineCache | None = None,
        device: int = 0,
        cuda_graph: bool = True,
        mapped: bool = False,
        timeout_s: float | None = None,
    ) -> None:
        super().__init__(name="tensorrt", variant=variant, input=input, outputs=outputs)
        if timeout_s is not None and not timeout_s > 0:
            raise ConfigError(f"timeout_s is {timeout_s}; above 0 is needed")
        self.settings = settings or BuildSettings()
        if self.settings.capabilities:
            raise ConfigError("a runner builds for the GPU at hand; `capabilities` is for builds ahead of time")
        self.precision = precision
        self.device = device
        self.cuda_graph = cuda_graph
        self.mapped = mapped
        self.graph_refused = ""
        self.engine_file: EngineFile | None = None
        self.report: EngineReport | None = None
        self._model = model
        self._cache = cache
        self._timeout_ns = None if timeout_s is None else round(timeout_s * 1e9)
        self._clock = MonotonicClock()
        self._forget()

    def _forget(self) -> None:
        self._cuda: Cuda | None = None
        self._engine: Engine | None = None
        self._context: Context | None = None
        self._stream: Any = None
        self._graph: Any = None
        self._host: dict[str, npt.NDArray[np.float32]] = {}
        self._on_device: dict[str, int] = {}

    def _activate(self) -> None:
        try:
            self._load()
        except BaseException:
            self._deactivate()
            raise

    def _load(self) -> None:
        self._cuda = cuda = Cuda(self.device)
        cuda.use()
        cache = self._cache or EngineCache()
        self.engine_file = build_engine(
            self._model, name=self.variant, settings=self.settings, cache=cache, device=self.device
        )
        self._engine = engine = open_engine(self.engine_file, cache, dla=self.settings.dla)
        self._require_manifest(self._interface(engine, is_input=True), self._interface(engine, is_input=False))
        self.report = None if self.precision is None else prove_precision(engine, self._model, self.precision)
        self._context = context = engine.context()
        self._stream = cuda.stream()
        self._allocate(cuda, context)
        self._enqueue()  # the warm-up: the first run may still compile or load kernels, so no time limit holds
        cuda.wait(self._stream)
        if self.cuda_graph:
            self._capture(cuda)

    def _interface(self, engine: Engine, *, is_input: bool) -> Interface:
        """The engine's inputs or outputs; an open batch takes the manifest's."""
        wanted = {self.input.name: self.input.shape, **{spec.name: spec.shape for spec in self.outputs}}
        return {
            item.name: (_filled(item.shape, wanted.get(item.name)), item.dtype)
            for item in engine.tensors()
            if item.is_input == is_input
        }

    def _allocate(self, cuda: Cuda, context: Context) -> None:
        if self.mapped:
            gpu = cuda.gpu()
            if not (gpu.integrated and gpu.maps_host):
                raise ProviderUnavailableError(
                    f"mapped memory was asked for; {gpu.name} does not share the host's memory, so each access would "
                    "cross the bus. Leave the option out"
                )
        shapes = {spec.name: spec.shape for spec in self.outputs}
        for name, shape in {self.input.name: self.input.shape, **shapes}.items():
            array = cuda.pinned(shape, np.float32, mapped=self.mapped)
            array[...] = 0
            self._host[name] = array
            address = cuda.device_address(array) if self.mapped else cuda.malloc(array.nbytes)
            self._on_device[name] = address
            context.bind(name, address, shape if name == self.input.name else None)

    def _enqueue(self) -> None:
        """Put the transfers and the kernels of one call on the stream."""
        cuda, context = self._ready()
        if not self.mapped:
            name = self.input.name
            cuda.upload(self._on_device[name], self._host[name], self._stream)
        context.enqueue(int(self._stream))
        if not self.mapped:
            for spec in self.outputs:
                cuda.download(self._host[spec.name], self._on_device[spec.name], self._stream)

    def _capture(self, cuda: Cuda) -> None:
        self.graph_refused = ""
        try:
            cuda.begin_capture(self._stream)
            try:
                self._enqueue()
            except RunnerError:
                cuda.abandon_capture(self._stream)
                raise
            self._graph = cuda.end_capture(self._stream)
        except RunnerError as error:
            self.graph_refused = str(error)
            warnings.warn(f"variant {self.variant!r} runs without a CUDA graph: {error}", RuntimeWarning, stacklevel=5)

    def _ready(self) -> tuple[Cuda, Context]:
        if self._cuda is None or self._context is None:
            raise RunnerError(f"runner {self.name!r} is not active; use it inside `with runner:`")
        return self._cuda, self._context

    def _infer(self, inputs: Arrays) -> dict[str, npt.NDArray[np.float32]]:
        cuda, _ = self._ready()
        try:
            cuda.use()  # the calling thread may be another one than last time
            if self._timeout_ns is not None and not cuda.done(self._stream):
                raise InferenceError(f"variant {self.variant!r}: the GPU still works on a call that ran out of time")
            np.copyto(self._host[self.input.name], inputs[self.input.name])
            if self._graph is None:
                self._enqueue()
            else:
                cuda.launch(self._graph, self._stream)
            self._wait()
        except InferenceError:
            raise
        except RunnerError as error:
            raise InferenceError(f"variant {self.variant!r} failed: {error}") from error
        return {spec.name: self._host[spec.name] for spec in self.outputs}

    def _wait(self) -> None:
        """Return when the stream is done; with a time limit, or raise `InferenceError` when it is over."""
        cuda, _ = self._ready()
        if self._timeout_ns is None:
            cuda.wait(self._stream)
            return
        due_ns = self._clock.now_ns() + self._timeout_ns
        while not cuda.done(self._stream):
            now_ns = self._clock.now_ns()
            if now_ns >= due_ns:
                limit_s = self._timeout_ns / 1e9
                raise InferenceError(f"variant {self.variant!r} ran longer than {limit_s:g} s; the GPU is still busy")
            self._clock.sleep_until_ns(min(due_ns, now_ns + _POLL_NS))

    def _deactivate(self) -> None:
        cuda = self._cuda
        if cuda is not None:
            # what cannot be freed is CUDA's error of an earlier call, already raised; the rest must still be freed
            if self._stream is not None:
                with suppress(RunnerError):
                    cuda.wait(self._stream)
            if self._graph is not None:
                with suppress(RunnerError):
                    cuda.end_graph(self._graph)
            self._context = self._engine = None
            for address in () if self.mapped else self._on_device.values():
                with suppress(RunnerError):
                    cuda.free(address)
            if self._stream is not None:
                with suppress(RunnerError):
                    cuda.end_stream(self._stream)
        self._forget()


def _filled(shape: tuple[int, ...], wanted: tuple[int, ...] | None) -> tuple[int, ...]:
    """`shape` with an open batch taken from the manifest."""
    return (wanted[0], *shape[1:]) if wanted is not None and shape[:1] == (-1,) else shape
