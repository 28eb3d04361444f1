"""The only module that touches TensorRT objects: TensorRT 10.3 to 11.x and TensorRT-RTX, loaded from the system.

`VARIABLES` says which class an object behind each variable name has, `NAMES` which of its names are used, `OPTIONAL`
which of them are looked for first because some version lacks them. A test reads this file's syntax tree, refuses any
attribute of anything else, and holds both tables against the names dumped from the bindings of each version.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from edge_runtime.errors import (
    ConfigError,
    MissingDependencyError,
    ModelRefusedError,
    ProviderUnavailableError,
    RunnerError,
)

__all__ = ["Context", "Engine", "Flavour", "PlanRequest", "PlanResult", "Progress", "TensorInfo", "build_plan", "load"]

MODULES = {"tensorrt": ("tensorrt",), "tensorrt_rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings")}
OLDEST, NEWEST = (10, 3), (12, 0)  # TensorRT proper; TensorRT-RTX counts on its own, from 1.2
OLDEST_RTX = (1, 2)

VARIABLES = {
    "trt": "module",
    "builder": "Builder",
    "network": "INetworkDefinition",
    "config": "IBuilderConfig",
    "parser": "OnnxParser",
    "problem": "ParserError",
    "profile": "IOptimizationProfile",
    "tensor": "ITensor",
    "timing": "ITimingCache",
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "context": "IExecutionContext",
    "inspector": "EngineInspector",
}
NAMES = {
    "module": (
        "Builder", "BuilderFlag", "DeviceType", "ILogger", "IProgressMonitor", "LayerInformationFormat",
        "MemoryPoolType", "NetworkDefinitionCreationFlag", "OnnxParser", "ProfilingVerbosity", "Runtime",
        "TensorIOMode",
    ),
    "Builder": (
        "build_serialized_network", "create_builder_config", "create_network", "create_optimization_profile",
        "num_DLA_cores",
    ),
    "BuilderFlag": ("GPU_FALLBACK", "TF32"),
    "DeviceType": ("DLA",),
    "EngineInspector": ("execution_context", "get_engine_information"),
    "IBuilderConfig": (
        "DLA_core", "add_optimization_profile", "builder_optimization_level", "clear_flag", "create_timing_cache",
        "default_device_type", "get_timing_cache", "profiling_verbosity", "progress_monitor", "set_flag",
        "set_memory_pool_limit", "set_timing_cache",
    ),
    "ICudaEngine": (
        "create_engine_inspector", "create_execution_context", "get_tensor_dtype", "get_tensor_mode", "get_tensor_name",
        "get_tensor_shape", "num_io_tensors",
    ),
    "IExecutionContext": ("execute_async_v3", "set_input_shape", "set_tensor_address"),
    "ILogger": ("log",),
    "INetworkDefinition": ("get_input", "num_inputs", "num_layers"),
    "IOptimizationProfile": ("set_shape",),
    "IProgressMonitor": ("phase_finish", "phase_start", "step_complete"),
    "ITensor": ("name", "shape"),
    "ITimingCache": ("serialize",),
    "LayerInformationFormat": ("JSON",),
    "MemoryPoolType": ("WORKSPACE",),
    "NetworkDefinitionCreationFlag": ("STRONGLY_TYPED",),
    "OnnxParser": ("get_error", "num_errors", "parse"),
    "ParserError": ("desc", "node_name", "node_operator"),
    "ProfilingVerbosity": ("DETAILED",),
    "Runtime": ("DLA_core", "deserialize_cuda_engine"),
    "TensorIOMode": ("INPUT",),
}  # fmt: skip
OPTIONAL = {
    "module": ("ComputeCapability",),
    "IBuilderConfig": ("num_compute_capabilities", "set_compute_capability"),
}
DTYPES = {"FLOAT": "float32", "HALF": "float16", "INT8": "int8", "INT32": "int32", "INT64": "int64", "BOOL": "bool"}

Progress = Callable[[str, int, int], None]
"""Called with the phase's name, steps done and steps in all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flavour:
    """The TensorRT at hand: "tensorrt" or "tensorrt_rtx", its full version, the module."""

    name: str
    version: str
    module: Any = field(repr=False, compare=False)

    @property
    def rtx(self) -> bool:
        """Whether it is TensorRT-RTX."""
        return self.name == "tensorrt_rtx"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRequest:
    """What to build and how; `batch` is (least, best, most) for a first dimension left open.

    `capabilities` names the GPUs to build for ahead of time ("SM86"; TensorRT-RTX alone), empty for the one at hand.
    `timing` holds the bytes of an earlier timing cache, None to build without one.
    """

    model: bytes = field(repr=False)
    workspace_mb: int
    optimization_level: int
    dla: int | None
    batch: tuple[int, int, int] | None
    capabilities: tuple[str, ...]
    timing: bytes | None = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanResult:
    """The serialized plan, the timing cache afterwards (None where there is none), layers of the parsed network."""

    plan: bytes = field(repr=False)
    timing: bytes | None = field(repr=False)
    layers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorInfo:
    """An input or output of an engine; -1 in `shape` is an open dimension."""

    name: str
    is_input: bool
    dtype: str
    shape: tuple[int, ...]


def load(name: str | None = None) -> Flavour:
    """The TensorRT of this system; "tensorrt" before "tensorrt_rtx" unless one is named.

    Raises `ConfigError` for another name, `MissingDependencyError` when none can be imported or its version is not
    one of 10.3 to 11.x (TensorRT-RTX: from 1.2).
    """
    if name is not None and name not in MODULES:
        raise ConfigError(f"TensorRT flavour {name!r} is not known; there is {sorted(MODULES)}")
    tried = []
    for flavour in (name,) if name else tuple(MODULES):
        for module_name in MODULES[flavour]:
            try:
                module: Any = importlib.import_module(module_name)
            except (ImportError, OSError) as error:  # a bindings wheel without its libraries raises either
                tried.append(f"{module_name}: {error}")
                continue
            return _checked(Flavour(name=flavour, version=str(module.__version__), module=module))
    raise MissingDependencyError(
        f"TensorRT is needed to build and run engines; tried {'; '.join(tried)}. On a Jetson install JetPack's: "
        "sudo apt install python3-libnvinfer; elsewhere: pip install tensorrt or tensorrt-rtx"
    )


def _checked(flavour: Flavour) -> Flavour:
    found = tuple(int(part) for part in re.findall(r"\d+", flavour.version)[:2])
    usable = found >= OLDEST_RTX if flavour.rtx else OLDEST <= found < NEWEST
    if not usable:
        allowed = "1.2 and later" if flavour.rtx else "10.3 to 11.x"
        raise MissingDependencyError(f"{flavour.name} is {flavour.version}; {allowed} can be used: install one")
    return flavour


def build_plan(flavour: Flavour, request: PlanRequest, log: list[str], progress: Progress | None = None) -> PlanResult:
    """Parse and build one strongly typed network; every line that TensorRT says is appended to `log`.

    TF32 is switched off, so that what the graph calls float32 is computed in float32. Raises `ModelRefusedError` with
    the parser's words and the node, `ProviderUnavailableError` for a DLA core that is not there, `ConfigError` for a
    batch on a graph whose batch is fixed, `RunnerError` when the builder gives no plan.
    """
    trt = flavour.module
    logger = _logger(trt, log)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(request.model):
        raise ModelRefusedError(f"{flavour.name} {flavour.version} refuses the model: {_complaints(parser, log)}")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, request.workspace_mb << 20)
    config.builder_optimization_level = request.optimization_level
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.clear_flag(trt.BuilderFlag.TF32)
    _open_batch(builder, network, config, request.batch)
    _place(trt, builder, config, request, flavour)
    failures: list[BaseException] = []
    monitor = None if progress is None else _monitor(trt, progress, failures)
    if monitor is not None:
        config.progress_monitor = monitor
    uses_timing = request.timing is not None and not flavour.rtx  # in TensorRT-RTX they are no-ops since 1.2
    if request.timing is not None and uses_timing:
        timing = _timing(config, request.timing, log)
    memory = builder.build_serialized_network(network, config)
    if failures:
        raise failures[0]
    if memory is None:
        raise RunnerError(f"{flavour.name} {flavour.version} built no engine: {_said(log)}")
    kept = None
    if uses_timing:
        timing = config.get_timing_cache()
        kept = bytes(timing.serialize())
    return PlanResult(plan=bytes(memory), timing=kept, layers=int(network.num_layers))


def _logger(trt: Any, log: list[str]) -> Any:
    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, text: str) -> None:
            log.append(f"{str(severity).rpartition('.')[2]}: {text}")

    return Log()


def _monitor(trt: Any, progress: Progress, failures: list[BaseException]) -> Any:
    """Phases and steps told to `progress`; what it raises ends the build and is kept in `failures`."""
    steps: dict[str, int] = {}

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            steps[phase_name] = num_steps

        def step_complete(self, phase_name: str, step: int) -> bool:
            try:
                progress(phase_name, step + 1, steps.get(phase_name, 0))
            except BaseException as error:  # an exception must not unwind through TensorRT's C++ frames
                failures.append(error)
            return not failures

        def phase_finish(self, phase_name: str) -> None:
            steps.pop(phase_name, None)

    return Monitor()


def _complaints(parser: Any, log: list[str]) -> str:
    found = []
    for index in range(parser.num_errors):
        problem = parser.get_error(index)
        node, operator, text = problem.node_name(), problem.node_operator(), problem.desc()
        where = f"node {node!r} ({operator}): " if node else ""
        found.append(f"{where}{text}")
    return "; ".join(found) or _said(log)


def _said(log: list[str]) -> str:
    """The last errors in `log`, else its last line."""
    errors = [line for line in log if line.startswith(("ERROR", "INTERNAL_ERROR"))]
    return "; ".join(errors[-3:]) or (log[-1] if log else "it gave no reason")


def _open_batch(builder: Any, network: Any, config: Any, batch: tuple[int, int, int] | None) -> None:
    """One optimisation profile over the inputs whose first dimension is open; any other open one is refused."""
    profile, opened = builder.create_optimization_profile(), 0
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        name, shape = str(tensor.name), tuple(tensor.shape)
        if all(size >= 0 for size in shape):
            continue
        if any(size < 0 for size in shape[1:]):
            raise ModelRefusedError(f"input {name!r} has shape {shape}; only the batch may be open. Fix the others")
        profile.set_shape(name, *((size, *shape[1:]) for size in batch or (1, 1, 1)))
        opened += 1
    if batch is not None and not opened:
        raise ConfigError(
            f"batch is {batch}, the model's batch is fixed; leave the option out, or export an open batch"
        )
    if opened:
        config.add_optimization_profile(profile)


def _place(trt: Any, builder: Any, config: Any, request: PlanRequest, flavour: Flavour) -> None:
    if request.dla is not None:
        if request.dla >= builder.num_DLA_cores:
            raise ProviderUnavailableError(
                f"DLA core {request.dla} was asked for, this machine has {builder.num_DLA_cores}; "
                "leave the option out to build for the GPU"
            )
        config.default_device_type = trt.DeviceType.DLA
        config.DLA_core = request.dla
        config.set_flag(trt.BuilderFlag.GPU_FALLBACK)  # what fell back is read from the engine afterwards
    if not request.capabilities:
        return
    if not hasattr(trt, "ComputeCapability"):
        raise ConfigError(f"{flavour.name} {flavour.version} builds for the GPU at hand alone, not ahead of time")
    if not all(hasattr(trt.ComputeCapability, name) for name in request.capabilities):
        known = [name for name in dir(trt.ComputeCapability) if name.startswith("SM")]
        raise ConfigError(f"GPU {list(request.capabilities)} is not known to {flavour.name}; there is {known}")
    config.num_compute_capabilities = len(request.capabilities)
    for index, name in enumerate(request.capabilities):
        config.set_compute_capability(getattr(trt.ComputeCapability, name), index)


def _timing(config: Any, stored: bytes, log: list[str]) -> Any:
    """Give the builder the stored timing cache; one of another GPU or version is dropped, and the log says so."""
    timing = config.create_timing_cache(stored)
    if timing is not None and config.set_timing_cache(timing, False):
        return timing
    log.append("WARNING: the stored timing cache is of another GPU or TensorRT; a new one is begun")
    timing = config.create_timing_cache(b"")
    if not config.set_timing_cache(timing, False):
        raise RunnerError(f"TensorRT takes no timing cache: {_said(log)}; build without one (timing_cache=False)")
    return timing


class Engine:
    """A plan made ready on the current CUDA device. Raises `RunnerError` when TensorRT does not take it."""

    def __init__(self, flavour: Flavour, plan: bytes, *, dla: int | None = None) -> None:
        trt = flavour.module
        self.flavour = flavour
        self.log: list[str] = []
        self._trt = trt
        self._logger = _logger(trt, self.log)
        runtime = trt.Runtime(self._logger)
        if dla is not None:
            runtime.DLA_core = dla
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise RunnerError(f"{flavour.name} {flavour.version} does not load the engine: {_said(self.log)}")
        self._runtime, self._engine = runtime, engine

    def tensors(self) -> tuple[TensorInfo, ...]:
        """Inputs and outputs in the engine's order."""
        trt, engine, found = self._trt, self._engine, []
        for index in range(engine.num_io_tensors):
            name = engine.get_tensor_name(index)
            dtype = str(engine.get_tensor_dtype(name)).rpartition(".")[2]
            found.append(
                TensorInfo(
                    name=name,
                    is_input=engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT,
                    dtype=DTYPES.get(dtype, dtype),
                    shape=tuple(engine.get_tensor_shape(name)),
                )
            )
        return tuple(found)

    def inspect(self, running: Context | None = None) -> str:
        """The engine inspector's JSON; with a context whose input shapes are set, open dimensions are filled in."""
        trt, engine = self._trt, self._engine
        inspector = engine.create_engine_inspector()
        if running is not None:
            inspector.execution_context = running.handle
        return str(inspector.get_engine_information(trt.LayerInformationFormat.JSON))

    def context(self) -> Context:
        """A new execution context. Raises `RunnerError` when there is no memory for it."""
        engine = self._engine
        context = engine.create_execution_context()
        if context is None:
            raise RunnerError(f"{self.flavour.name} makes no execution context: {_said(self.log)}; free GPU memory")
        return Context(context, self)


class Context:
    """One execution of an engine at a time, on addresses that are set once."""

    def __init__(self, handle: Any, owner: Engine) -> None:
        self.handle = handle
        self._owner = owner  # the engine must outlive it

    def bind(self, name: str, address: int, shape: tuple[int, ...] | None = None) -> None:
        """Give a tensor its device address, an input its shape too. Raises `RunnerError` when it is refused."""
        context = self.handle
        if shape is not None and not context.set_input_shape(name, shape):
            raise RunnerError(f"input {name!r} of shape {shape} is outside the engine's profile: {self._reason()}")
        if not context.set_tensor_address(name, address):
            raise RunnerError(f"the engine refuses the memory of {name!r}: {self._reason()}")

    def enqueue(self, stream: int) -> None:
        """Put one inference on a CUDA stream. Raises `RunnerError`."""
        context = self.handle
        if not context.execute_async_v3(stream):
            raise RunnerError(f"TensorRT did not start the inference: {self._reason()}")

    def _reason(self) -> str:
        return _said(self._owner.log)
