"""Build an engine on the device, or take it from the cache when nothing that it depends on has changed."""

from __future__ import annotations

import hashlib
import re
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edge_runtime.engines._api import Engine, Flavour, PlanRequest, PlanResult, Progress, build_plan, load
from edge_runtime.engines._cuda import Cuda
from edge_runtime.engines.cache import EngineCache
from edge_runtime.engines.key import EngineKey, machine_facts
from edge_runtime.engines.readback import EngineReport, read_engine, require_precision
from edge_runtime.engines.wanted import wanted_precisions
from edge_runtime.errors import ConfigError, EdgeError, ModelRefusedError, RunnerError

__all__ = ["BuildSettings", "EngineFile", "available", "build_engine", "open_engine", "prove_precision"]


class BuildSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How engines are built. Raises `ConfigError` for a value out of range.

    `workspace_mb` 1 to 65536: memory that a kernel may use; `optimization_level` 0 (fast build) to 5 (long search);
    `dla` a DLA core, what it cannot run goes to the GPU; `batch` (least, best, most) for models with an open batch;
    `capabilities` other GPUs to build for ahead of time ("SM86"; TensorRT-RTX alone); `timing_cache` keeps kernel
    timings for the next build (TensorRT-RTX has none); `flavour` "tensorrt" or "tensorrt_rtx", without it the one here.
    """

    workspace_mb: int = 1024
    optimization_level: int = 3
    dla: int | None = None
    batch: tuple[int, int, int] | None = None
    capabilities: tuple[str, ...] = ()
    timing_cache: bool = True
    flavour: str | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.workspace_mb <= 65536:
            raise ConfigError(f"workspace_mb is {self.workspace_mb}; 1 to 65536 is allowed")
        if not 0 <= self.optimization_level <= 5:
            raise ConfigError(f"optimization_level is {self.optimization_level}; 0 to 5 is allowed")
        if self.dla is not None and self.dla < 0:
            raise ConfigError(f"dla is {self.dla}; a core counted from 0, or nothing, is allowed")
        if self.batch is not None and not 1 <= self.batch[0] <= self.batch[1] <= self.batch[2]:
            raise ConfigError(f"batch is {self.batch}; 1 <= least <= best <= most is needed")
        bad = [name for name in self.capabilities if not re.fullmatch(r"SM\d{2,3}", name)]
        if bad:
            raise ConfigError(f"GPU {bad} is not a compute capability; write for example 'SM86'")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFile:
    """An engine in the cache. `built` says whether it was built now, `reasons` why; `seconds` what that took."""

    path: Path
    log: Path
    key: EngineKey
    built: bool
    reasons: tuple[str, ...]
    seconds: float
    size: int


def available(flavour: str | None = None) -> str | None:
    """None when engines can be built and run here, else what is missing and the fix."""
    try:
        load(flavour)
        Cuda()
    except EdgeError as error:
        return str(error)
    return None


def build_engine(
    model: bytes,
    *,
    name: str,
    settings: BuildSettings | None = None,
    cache: EngineCache | None = None,
    device: int = 0,
    progress: Progress | None = None,
    told: list[str] | None = None,
) -> EngineFile:
    """The engine of an ONNX `model` for this machine: from the cache, or built into it.

    `name` (letters, digits, '.', '_', '-') is what the engine is for; when it is built again `reasons` says what
    changed since it was last built under that name. Build lines go to the log beside the engine, also when the build
    fails, and are appended to `told`.

    Raises `MissingDependencyError` without TensorRT, or without cuda-python or a GPU unless `settings.capabilities`
    builds ahead of time; `ProviderUnavailableError`, `ModelRefusedError` (parser's words and the node), `ConfigError`
    (settings, cache folder), `RunnerError` (the builder's words and the path of the log).
    """
    settings = settings or BuildSettings()
    flavour = load(settings.flavour)
    key = engine_key(model, settings, flavour, device)
    cache = cache or EngineCache()
    begin = time.monotonic()

    def waiting() -> None:
        if progress is not None:
            progress("waiting for another build", 0, 0)

    plan, reasons = _stored(cache, key)
    if plan is None:
        with cache.lock(waiting):
            plan, damage = _stored(cache, key)  # another process may have built it meanwhile
            reasons = reasons or damage
            if plan is None:
                reasons = reasons or cache.explain(name, key)
                plan = _build(model, name, settings, flavour, key, cache, progress, told)
            else:
                reasons = ()
    return EngineFile(
        path=cache.path(key), log=cache.log_path(key), key=key, built=bool(reasons), reasons=reasons,
        seconds=time.monotonic() - begin, size=len(plan),
    )  # fmt: skip


def engine_key(model: bytes, settings: BuildSettings, flavour: Flavour, device: int = 0) -> EngineKey:
    """The key of `model` built with `settings` here; makes `device` current, unless `settings.capabilities` names GPUs
    to build for ahead of time."""
    gpu = None
    if not settings.capabilities:
        cuda = Cuda(device)
        cuda.use()
        gpu = cuda.gpu()
    return EngineKey(
        model_sha256=hashlib.sha256(model).hexdigest(),
        flavour=flavour.name,
        tensorrt=flavour.version,
        machine=machine_facts(gpu, settings.capabilities),
        device="gpu" if settings.dla is None else f"dla{settings.dla}",
        profile="fixed" if settings.batch is None else "batch " + " ".join(map(str, settings.batch)),
        flags=("no tf32", "strongly typed") + (() if settings.dla is None else ("gpu fallback",)),
        optimization_level=settings.optimization_level,
        workspace_mb=settings.workspace_mb,
    )


def _stored(cache: EngineCache, key: EngineKey) -> tuple[bytes | None, tuple[str, ...]]:
    """The plan in the cache, or None and what is wrong with the file; a damaged one is removed."""
    try:
        return cache.load(key), ()
    except RunnerError as error:
        cache.remove(key)
        return None, (str(error),)


def _build(
    model: bytes,
    name: str,
    settings: BuildSettings,
    flavour: Flavour,
    key: EngineKey,
    cache: EngineCache,
    progress: Progress | None,
    told: list[str] | None,
) -> bytes:
    """Build, keep the engine, the log and the timing cache; the log is kept when it fails as well."""
    log: list[str] = []
    request = PlanRequest(
        model=model, workspace_mb=settings.workspace_mb, optimization_level=settings.optimization_level,
        dla=settings.dla, batch=settings.batch, capabilities=settings.capabilities,
        timing=_stored_timing(cache, key, log) if settings.timing_cache else None,
    )  # fmt: skip
    try:
        result: PlanResult = build_plan(flavour, request, log, progress)
    except (ModelRefusedError, RunnerError) as error:
        raise type(error)(f"{error}. The build log is {cache.log_path(key)}") from error
    finally:
        cache.write_log(key, log)
        if told is not None:
            told += log
    cache.store(key, name, result.plan)
    if result.timing is not None:
        cache.store_timing(key, result.timing)
    return result.plan


def _stored_timing(cache: EngineCache, key: EngineKey, log: list[str]) -> bytes:
    try:
        return cache.timing(key)
    except RunnerError as error:
        log.append(f"WARNING: {error}; a new timing cache is begun")
        cache.remove_timing(key)
        return b""


def open_engine(file: EngineFile, cache: EngineCache, *, dla: int | None = None) -> Engine:
    """Make a cached engine ready on the current device, its hash checked first.

    Raises `RunnerError` when it is damaged, gone, or refused by TensorRT.
    """
    plan = cache.load(file.key)
    if plan is None:
        raise RunnerError(f"{file.path} is gone; build it again")
    return Engine(load(file.key.flavour), plan, dla=dla)


def prove_precision(engine: Engine, model: bytes, precision: str) -> EngineReport:
    """Read a loaded engine back and hold it against the precision that `model`'s graph asks for.

    Raises `RunnerError` naming the layers when `precision` ("fp16" or "int8") was asked for and not obtained.
    """
    report = read_engine(engine.inspect())
    require_precision(report, precision, wanted_precisions(model) or None)  # None: no node has a name
    return report
