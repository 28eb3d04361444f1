"""The engine cache: what it loads, what it refuses, what it forgets, who waits."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.engines import EngineCache, EngineKey, Machine
from edge_runtime.engines import cache as cache_module
from edge_runtime.engines.key import machine_facts
from edge_runtime.errors import ConfigError, RunnerError

KEY = EngineKey(
    model_sha256="ab" * 32,
    flavour="tensorrt",
    tensorrt="10.3.0.30",
    machine=Machine(
        gpu="Orin", compute_capability="8.7", sms=16, cuda_driver=12060, cuda_runtime=12060, l4t="L4T 36.4.4",
        power_mode="0 (MAXN)",
    ),
    device="gpu",
    profile="fixed",
    flags=("no tf32", "strongly typed"),
    optimization_level=3,
    workspace_mb=1024,
)  # fmt: skip
OTHER = {
    "model_sha256": "cd" * 32, "flavour": "tensorrt_rtx", "tensorrt": "10.4.0.1", "device": "dla0",
    "profile": "batch 1 1 8", "flags": ("strongly typed",), "optimization_level": 5, "workspace_mb": 512,
}  # fmt: skip
OTHER_MACHINE = {
    "gpu": "Thor", "compute_capability": "11.0", "sms": 20, "cuda_driver": 13000, "cuda_runtime": 13000,
    "l4t": "L4T 38.2.0", "power_mode": "2 (30W)",
}  # fmt: skip


def changed(name: str) -> EngineKey:
    if name in OTHER:
        return msgspec.structs.replace(KEY, **{name: OTHER[name]})
    machine = msgspec.structs.replace(KEY.machine, **{name: OTHER_MACHINE[name]})
    return msgspec.structs.replace(KEY, machine=machine)


def test_the_key_has_every_field_in_the_tables_above() -> None:
    fields = {field.name for kind in (EngineKey, Machine) for field in msgspec.structs.fields(kind)} - {"machine"}
    assert fields == set(OTHER) | set(OTHER_MACHINE)


@pytest.mark.parametrize("name", [*OTHER, *OTHER_MACHINE])
def test_each_part_of_the_key_gives_another_engine_and_is_named(cache: EngineCache, name: str) -> None:
    other = changed(name)
    assert other.digest != KEY.digest
    cache.store(KEY, "fp16", b"plan")
    assert cache.load(KEY) == b"plan"
    assert cache.load(other) is None
    (reason,) = cache.explain("fp16", other)
    assert reason.startswith(f"{name}: ")
    assert "->" in reason


def test_reasons_of_a_first_and_of_a_lost_engine(cache: EngineCache) -> None:
    assert cache.explain("fp16", KEY) == ("no engine was built under the name 'fp16' before",)
    cache.store(KEY, "fp16", b"plan")
    cache.remove(KEY)
    assert cache.explain("fp16", KEY) == ("the engine is not in the cache any more",)
    (cache.folder / "fp16.last.json").write_text("{")
    assert "cannot be read" in cache.explain("fp16", KEY)[0]


@settings(max_examples=25)
@given(plan=st.binary(max_size=300))
def test_a_plan_comes_back_as_it_was(tmp_path_factory: pytest.TempPathFactory, plan: bytes) -> None:
    cache = EngineCache(tmp_path_factory.mktemp("cache") / "engines")
    cache.store(KEY, "a", plan)
    assert cache.load(KEY) == plan


@settings(max_examples=40)
@given(data=st.data())
def test_no_changed_byte_is_loaded(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    cache = EngineCache(tmp_path_factory.mktemp("cache") / "engines")
    path = cache.store(KEY, "a", b"executable code")
    raw = bytearray(path.read_bytes())
    index = data.draw(st.integers(0, len(raw) - 1))
    raw[index] ^= data.draw(st.integers(1, 255))
    path.write_bytes(raw)
    with pytest.raises(RunnerError, match="remove it"):
        cache.load(KEY)


@pytest.mark.parametrize("size", [0, 1, 84, 90])
def test_a_cut_file_is_refused(cache: EngineCache, size: int) -> None:
    path = cache.store(KEY, "a", b"executable code")
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(RunnerError, match="remove it"):
        cache.load(KEY)


def test_an_engine_of_another_key_is_refused_under_this_name(cache: EngineCache) -> None:
    path = cache.store(changed("gpu"), "a", b"plan")
    path.rename(cache.path(KEY))
    with pytest.raises(RunnerError, match="not the engine file that its name says"):
        cache.load(KEY)


def test_a_link_out_of_the_cache_is_not_followed(cache: EngineCache, tmp_path) -> None:
    cache.store(KEY, "a", b"plan")
    outside = tmp_path / "outside.engine"
    cache.path(KEY).rename(outside)
    cache.path(KEY).symlink_to(outside)
    with pytest.raises(RunnerError, match="not a plain file"):
        cache.load(KEY)
    cache.path(KEY).unlink()
    cache.path(KEY).mkdir()
    with pytest.raises(RunnerError, match="not a plain file"):
        cache.load(KEY)


def test_the_folder_is_private(cache: EngineCache, tmp_path) -> None:
    assert stat.S_IMODE(cache.folder.stat().st_mode) == 0o700
    cache.store(KEY, "a", b"plan")
    assert stat.S_IMODE(cache.path(KEY).stat().st_mode) == 0o600
    for mode in (0o755, 0o770, 0o701):
        cache.folder.chmod(mode)
        with pytest.raises(ConfigError, match=rf"mode {mode:04o}.*executable code"):
            EngineCache(cache.folder)
    cache.folder.chmod(0o700)
    link = tmp_path / "link"
    link.symlink_to(cache.folder)
    with pytest.raises(ConfigError, match="must be a folder of this user"):
        EngineCache(link)
    file = tmp_path / "file"
    file.write_bytes(b"")
    with pytest.raises(ConfigError):
        EngineCache(file)
    with pytest.raises(ConfigError):
        EngineCache(file / "below")


def test_the_folder_of_another_user_is_refused(cache: EngineCache, monkeypatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(ConfigError, match="must be a folder of this user"):
        EngineCache(cache.folder)


def test_the_default_folder(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert EngineCache().folder == tmp_path / "pocus-edge" / "engines"


@pytest.mark.parametrize("name", ["", "../x", "a/b", "-a", "a" * 101, "a\n"])
def test_names_that_are_refused(cache: EngineCache, name: str) -> None:
    with pytest.raises(ConfigError, match="is not allowed"):
        cache.explain(name, KEY)


def test_the_engine_used_longest_ago_is_removed_first(tmp_path) -> None:
    cache = EngineCache(tmp_path / "engines", max_mb=1)
    keys = [msgspec.structs.replace(KEY, workspace_mb=number) for number in range(1, 5)]
    for age, key in enumerate(keys[:3]):
        path = cache.store(key, "a", bytes(300_000))
        cache.write_log(key, ["said"])
        os.utime(path, ns=(age, age))
    assert cache.load(keys[0]) is not None  # and so used just now
    cache.store(keys[3], "a", bytes(300_000))
    assert [cache.load(key) is not None for key in keys] == [True, False, True, True]
    assert not cache.log_path(keys[1]).exists()
    cache.store(msgspec.structs.replace(KEY, workspace_mb=9), "a", bytes(2_000_000))  # over the cap on its own
    assert len(list(cache.folder.glob("*.engine"))) == 1
    with pytest.raises(ConfigError, match="max_mb is 0"):
        EngineCache(tmp_path / "engines", max_mb=0)


def test_nothing_is_left_when_writing_fails(cache: EngineCache, monkeypatch) -> None:
    def full(path: Any, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache_module, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        cache.store(KEY, "a", b"plan")
    assert list(cache.folder.iterdir()) == []


def test_timing_caches_belong_to_one_tensorrt_on_one_machine(cache: EngineCache) -> None:
    assert cache.timing(KEY) == b""
    cache.store_timing(KEY, b"timings")
    assert cache.timing(KEY) == b"timings"
    assert cache.timing(changed("model_sha256")) == b"timings"
    for name in ("tensorrt", "flavour", "gpu", "power_mode", "cuda_driver"):
        assert cache.timing(changed(name)) == b""
    (path,) = cache.folder.glob("*.timing")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(RunnerError, match="damaged"):
        cache.timing(KEY)
    cache.remove_timing(KEY)
    assert cache.timing(KEY) == b""


COUNT = """
import sys
from pathlib import Path
from edge_runtime.engines import EngineCache
count = Path(sys.argv[1]) / "count"
for _ in range(100):
    with EngineCache(sys.argv[1]).lock():
        count.write_text(str(int(count.read_text()) + 1))
"""


def test_two_processes_never_hold_the_lock_at_once(cache: EngineCache) -> None:
    (cache.folder / "count").write_text("0")
    workers = [subprocess.Popen([sys.executable, "-c", COUNT, str(cache.folder)]) for _ in range(2)]
    assert [worker.wait(60) for worker in workers] == [0, 0]
    assert (cache.folder / "count").read_text() == "200"


def test_who_waits_is_told_once(cache: EngineCache) -> None:
    told: list[str] = []
    inside, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with cache.lock():
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    inside.wait(10)

    def waiting() -> None:
        told.append("waiting")
        leave.set()

    with cache.lock(waiting):
        pass
    thread.join()
    assert told == ["waiting"]


def test_machine_facts_of_a_jetson_and_ahead_of_time(tmp_path) -> None:
    from edge_runtime.engines._cuda import Gpu

    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/nv_tegra_release").write_text("# R36 (release), REVISION: 4.4, GCID: 1, BOARD: generic\n")
    (tmp_path / "var/lib/nvpmodel").mkdir(parents=True)
    (tmp_path / "var/lib/nvpmodel/status").write_text("pmode:0002")
    gpu = Gpu(name="Orin", capability="8.7", sms=16, integrated=True, maps_host=True, driver=12060, runtime=12060)
    found = machine_facts(gpu, root=tmp_path)
    assert (found.gpu, found.compute_capability, found.sms) == ("Orin", "8.7", 16)
    assert found.l4t.startswith("L4T 36.4.4")
    assert found.power_mode.startswith("2")
    ahead = machine_facts(None, ("SM86", "SM89"), root=tmp_path)
    assert (ahead.gpu, ahead.compute_capability, ahead.l4t) == ("ahead of time", "SM86 SM89", "")
