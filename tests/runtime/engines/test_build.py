"""Building: with the real TensorRT-RTX ahead of time (no GPU), and with a fake TensorRT where a GPU is needed."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from typing import Any

import pytest

from edge_runtime.engines import (
    BuildSettings,
    EngineCache,
    available,
    build_engine,
    open_engine,
    prove_precision,
)
from edge_runtime.engines._api import load
from edge_runtime.errors import (
    ConfigError,
    MissingDependencyError,
    ModelRefusedError,
    ProviderUnavailableError,
    RunnerError,
)

needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx_bindings") is None, reason="TensorRT-RTX is not installed (trt-check extra)"
)
AHEAD = BuildSettings(capabilities=("SM86",), flavour="tensorrt_rtx")


@needs_rtx
def test_rtx_builds_ahead_of_time_once(cache, half_model):
    steps: list[tuple[str, int, int]] = []
    first = build_engine(half_model, name="fp16", settings=AHEAD, cache=cache, progress=lambda *a: steps.append(a))
    assert first.built
    assert first.reasons == ("no engine was built under the name 'fp16' before",)
    assert first.size > 10_000
    assert first.path.stat().st_size == first.size + 84
    assert ("Building engine", 1, 6) in steps
    assert all(0 < done <= total for _, done, total in steps)
    assert "INFO: Opset version:" in first.log.read_text()
    second = build_engine(half_model, name="fp16", settings=AHEAD, cache=cache)
    assert (second.built, second.reasons, second.path) == (False, (), first.path)


@needs_rtx
def test_rtx_is_built_again_for_what_changed(cache, model, half_model):
    build_engine(half_model, name="student", settings=AHEAD, cache=cache)
    for settings, file, told in (
        (BuildSettings(capabilities=("SM89",), flavour="tensorrt_rtx"), half_model, "compute_capability: SM86 -> SM89"),
        (AHEAD, model, "model_sha256: "),
    ):
        found = build_engine(file, name="student", settings=settings, cache=cache)
        assert found.built
        assert any(reason.startswith(told) for reason in found.reasons), found.reasons
    both = BuildSettings(capabilities=("SM86", "SM89"), flavour="tensorrt_rtx", workspace_mb=64, optimization_level=5)
    found = build_engine(model, name="student", settings=both, cache=cache)
    assert {reason.split(":")[0] for reason in found.reasons} == {
        "compute_capability", "workspace_mb", "optimization_level"
    }  # fmt: skip


@needs_rtx
def test_rtx_builds_a_damaged_engine_again_and_says_so(cache, half_model):
    first = build_engine(half_model, name="fp16", settings=AHEAD, cache=cache)
    first.path.write_bytes(first.path.read_bytes()[:-1])
    again = build_engine(half_model, name="fp16", settings=AHEAD, cache=cache)
    assert again.built
    assert "is damaged" in again.reasons[0]
    assert not build_engine(half_model, name="fp16", settings=AHEAD, cache=cache).built


@needs_rtx
def test_rtx_refuses_bytes_that_are_no_model_and_keeps_the_log(cache):
    with pytest.raises(ModelRefusedError, match=r"tensorrt_rtx .* refuses the model: .*The build log is "):
        build_engine(b"rubbish", name="x", settings=AHEAD, cache=cache)
    (log,) = cache.folder.glob("*.log")
    assert "ERROR" in log.read_text()
    assert not list(cache.folder.glob("*.engine"))


@needs_rtx
@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (BuildSettings(capabilities=("SM99",), flavour="tensorrt_rtx"), r"SM99.*is not known.*'SM86'"),
        (BuildSettings(capabilities=("SM86",), flavour="tensorrt_rtx", batch=(1, 1, 8)), "batch is fixed"),
    ],
)
def test_rtx_says_what_cannot_be_had(cache, half_model, settings, told):
    with pytest.raises(ConfigError, match=told):
        build_engine(half_model, name="x", settings=settings, cache=cache)


@needs_rtx
def test_rtx_has_no_dla(cache, half_model):
    settings = BuildSettings(capabilities=("SM86",), flavour="tensorrt_rtx", dla=0)
    with pytest.raises(ProviderUnavailableError, match="DLA core 0 was asked for, this machine has 0"):
        build_engine(half_model, name="x", settings=settings, cache=cache)


@needs_rtx
def test_what_progress_raises_ends_the_build(cache, half_model):
    def stop(phase: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_engine(half_model, name="x", settings=AHEAD, cache=cache, progress=stop)
    assert not list(cache.folder.glob("*.engine"))
    assert build_engine(half_model, name="x", settings=AHEAD, cache=cache).built


@needs_rtx
def test_two_processes_build_one_engine(cache, half_model, tmp_path):
    (tmp_path / "model.onnx").write_bytes(half_model)
    code = (
        "import sys; from pathlib import Path; from edge_runtime.engines import *\n"
        "file = build_engine(Path(sys.argv[1]).read_bytes(), name='x', cache=EngineCache(sys.argv[2]),\n"
        "    settings=BuildSettings(capabilities=('SM86',), flavour='tensorrt_rtx'))\n"
        "print(file.built)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "model.onnx"), str(cache.folder)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = sorted(process.communicate(timeout=120)[0].strip() for process in running)
    assert answers == ["False", "True"]


@needs_rtx
def test_rtx_keeps_no_timing_cache(cache, half_model):
    """In TensorRT-RTX timing caches do nothing since 1.2 and warn; warnings are errors here."""
    build_engine(half_model, name="x", settings=AHEAD, cache=cache)
    assert not list(cache.folder.glob("*.timing"))


@needs_rtx
def test_rtx_loads_an_engine_where_there_is_a_driver(cache, half_model):
    file = build_engine(half_model, name="x", settings=AHEAD, cache=cache)
    try:
        engine = open_engine(file, cache)
    except RunnerError as error:
        if "cudaError 35" not in str(error):
            raise
        pytest.skip("no CUDA driver: an engine cannot be loaded here")
    assert engine.tensors()


def test_fake_tensorrt_is_asked_for_what_was_set(fake, cache, model):
    settings = BuildSettings(workspace_mb=64, optimization_level=5)
    file = build_engine(model, name="x", settings=settings, cache=cache)
    assert file.key.flavour == "tensorrt"
    assert file.key.tensorrt == "10.3.0"
    assert file.key.machine.gpu == "Fake GPU"
    asked = fake.settings
    assert (asked["workspace"], asked["builder_optimization_level"]) == (64 << 20, 5)
    assert asked["profiling_verbosity"] == "detailed"
    assert asked["cleared_tf32"]
    assert "profiled" not in asked


def test_fake_tensorrt_timings_are_kept_for_the_next_build(fake, cache, model, half_model):
    build_engine(model, name="a", cache=cache)
    build_engine(half_model, name="b", cache=cache)
    assert fake.timing_taken == [b"", b"+timing"]
    build_engine(model, name="c", settings=BuildSettings(timing_cache=False, workspace_mb=2), cache=cache)
    assert len(fake.timing_taken) == 2


def test_fake_tensorrt_timings_of_another_gpu_are_dropped_and_logged(fake, cache, model, half_model):
    build_engine(model, name="a", cache=cache)
    fake.timing_matches = False
    file = build_engine(half_model, name="b", cache=cache)
    assert "WARNING: the stored timing cache is of another GPU or TensorRT" in file.log.read_text()
    (path,) = cache.folder.glob("*.timing")
    path.write_bytes(b"damaged")
    file = build_engine(model, name="c", settings=BuildSettings(workspace_mb=2), cache=cache)
    assert "a new timing cache is begun" in file.log.read_text()


def test_fake_tensorrt_parser_errors_name_the_node(fake, cache):
    with pytest.raises(ModelRefusedError, match=r"node '/up/Resize' \(Resize\): mode is not supported"):
        build_engine(b"bad", name="x", cache=cache)


def test_fake_tensorrt_builder_errors_are_told_with_the_log(fake, cache, model):
    fake.plan_fails = True
    told: list[str] = []
    with pytest.raises(RunnerError, match=r"built no engine: ERROR: no kernel for /enc/Conv\. The build log is"):
        build_engine(model, name="x", cache=cache, told=told)
    assert told == ["INFO: building", "ERROR: no kernel for /enc/Conv"]
    assert not list(cache.folder.glob("*.engine"))


def test_fake_tensorrt_puts_an_engine_on_the_dla_with_the_gpu_behind_it(fake, cache, model):
    settings = BuildSettings(dla=1)
    with pytest.raises(ProviderUnavailableError, match="DLA core 1 was asked for, this machine has 0"):
        build_engine(model, name="x", settings=settings, cache=cache)
    fake.dla_cores = 2
    file = build_engine(model, name="x", settings=settings, cache=cache)
    assert file.key.device == "dla1"
    assert (fake.settings["default_device_type"], fake.settings["DLA_core"]) == ("dla", 1)
    assert fake.settings["set_fallback"]
    with pytest.raises(ConfigError, match="not ahead of time"):
        build_engine(model, name="x", settings=BuildSettings(capabilities=("SM86",)), cache=cache)


def _open(model: bytes, dims: list[Any]) -> bytes:
    onnx = pytest.importorskip("onnx")
    found = onnx.load_from_string(model)
    for item in (*found.graph.input, *found.graph.output):
        for dim, size in zip(item.type.tensor_type.shape.dim, dims, strict=False):
            if size is not None:
                dim.dim_param = size
    return bytes(found.SerializeToString())


def test_fake_tensorrt_profiles_an_open_batch_and_no_other_dimension(fake, cache, model):
    opened = _open(model, ["n"])
    build_engine(opened, name="x", settings=BuildSettings(batch=(1, 2, 8)), cache=cache)
    assert fake.settings["profile x"] == ((1, 1, 16, 16), (2, 1, 16, 16), (8, 1, 16, 16))
    assert fake.settings["profiled"]
    with pytest.raises(ModelRefusedError, match=r"only the batch may be open"):
        build_engine(_open(model, [None, None, "h"]), name="x", cache=cache)


def test_fake_tensorrt_proves_precision_by_what_the_engine_says(fake, cache, model):
    engine = open_engine(build_engine(model, name="x", cache=cache), cache)
    assert prove_precision(engine, model, "fp16").shares() == {"fp16": 1.0}
    with pytest.raises(RunnerError, match=r"int8 was asked for; the engine computes 0 of 1.*/enc/Conv.*fp16"):
        prove_precision(engine, model, "int8")
    fake.load_fails = True
    with pytest.raises(RunnerError, match="of another GPU"):
        open_engine(build_engine(model, name="x", cache=cache), cache)
    file = build_engine(model, name="x", cache=cache)
    file.path.unlink()
    with pytest.raises(RunnerError, match="is gone"):
        open_engine(file, cache)


def test_fake_an_engine_that_is_there_is_taken_while_another_is_built(fake, cache, model):
    first = build_engine(model, name="x", cache=cache)
    with cache.lock():  # a build of another model that takes minutes
        again = build_engine(model, name="x", cache=cache)
    assert (again.built, again.path) == (False, first.path)


def test_fake_available(fake):
    assert available() is None
    assert fake.cuda.calls == []  # looking takes nothing on the GPU
    fake.cuda.devices = 0
    assert "no NVIDIA GPU" in str(available())


@pytest.mark.parametrize(
    ("version", "fine"), [("10.2.9", False), ("10.3.0", True), ("11.4.0.106", True), ("12.0", False)]
)
def test_fake_versions_that_are_taken(fake, version, fine):
    fake.__version__ = version
    if fine:
        assert load().version == version
        return
    with pytest.raises(MissingDependencyError, match=r"10\.3 to 11\.x can be used"):
        load()


def test_flavours(monkeypatch):
    with pytest.raises(ConfigError, match="'cudnn' is not known"):
        load("cudnn")
    for name in ("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingDependencyError, match=r"tried tensorrt: .*tensorrt_rtx_bindings: .*apt install"):
        load()
    assert "apt install" in str(available())


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"workspace_mb": 0}, "workspace_mb is 0"),
        ({"workspace_mb": 70000}, "1 to 65536"),
        ({"optimization_level": 6}, "0 to 5"),
        ({"dla": -1}, "dla is -1"),
        ({"batch": (2, 1, 4)}, "least <= best <= most"),
        ({"batch": (0, 1, 4)}, "1 <= least"),
        ({"capabilities": ("8.6",)}, "'SM86'"),
    ],
)
def test_settings_out_of_range(values, told):
    with pytest.raises(ConfigError, match=told):
        BuildSettings(**values)


def test_the_cache_is_the_default_one_without_another(fake, model, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    file = build_engine(model, name="x")
    assert file.path.parent == EngineCache().folder == tmp_path / "pocus-edge" / "engines"
