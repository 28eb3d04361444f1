"""The doctor on this machine, and on machines built of files."""

from __future__ import annotations

import getpass
import importlib.util
import os
import platform
import sys
from pathlib import Path

import pytest

from edge_runtime import doctor
from edge_runtime.doctor import Finding, examine
from edge_runtime.runners import available_runners

JETSON = {
    "proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd asimdhp asimddp atomics\n"
    "processor\t: 1\nFeatures\t: fp asimd asimdhp asimddp atomics\n",
    "proc/meminfo": "MemTotal:        7802812 kB\nMemFree:  1 kB\nMemAvailable:    5242880 kB\n",
    "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
    "proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  540.4.0  Release Build\n",
    "dev/nvhost-gpu": "",
    "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n",
    "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=15W >\nCPU_ONLINE CORE_0 1\n< POWER_MODEL ID=2 NAME=MAXN_SUPER >\n",
    "var/lib/nvpmodel/status": "pmode:0002\n",
    "usr/lib/aarch64-linux-gnu/libnvinfer.so.10.3.0": "",
    "sys/devices/system/clocksource/clocksource0/current_clocksource": "arch_sys_counter\n",
}
X86 = "processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: fpu {}\n"


def machine(root: Path, files: dict[str, str]) -> dict[str, Finding]:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return {finding.name: finding for finding in examine(root=root)}


def test_a_jetson_is_recognized(tmp_path: Path) -> None:
    found = machine(tmp_path, JETSON)
    assert found["jetson"].detail == "L4T 36.4.3, JetPack 6.2, NVIDIA Jetson Orin Nano Developer Kit"
    assert found["power mode"].detail == "2 (MAXN_SUPER)"
    assert found["gpu"] == Finding(name="gpu", state="ok", detail="NVIDIA GPU, driver 540.4.0")
    assert found["memory"].detail == "7.4 GiB, 5.0 GiB available"
    assert found["cores"].detail.startswith("2,")
    assert "asimddp (dot product)" in found["cpu"].detail
    assert "i8mm" not in found["cpu"].detail
    assert "10.3.0" in found["tensorrt"].detail
    assert found["clock"].state == "ok"


@pytest.mark.parametrize(
    ("release", "told"),
    [
        ("# R38 (release), REVISION: 2.1, GCID: 1", "L4T 38.2.1, JetPack 7.0"),
        ("# R36 (release), REVISION: 4.0, GCID: 1", "L4T 36.4.0, JetPack 6.1"),
        ("# R99 (release), REVISION: 1.0, GCID: 1", "L4T 99.1.0, JetPack unknown"),
        ("garbage", "cannot be understood"),
    ],
)
def test_releases_of_jetson_linux(tmp_path: Path, release: str, told: str) -> None:
    assert told in machine(tmp_path, {"etc/nv_tegra_release": release})["jetson"].detail


def test_a_jetson_that_hides_its_power_mode_is_warned_about(tmp_path: Path) -> None:
    found = machine(tmp_path, {"etc/nv_tegra_release": JETSON["etc/nv_tegra_release"]})
    assert found["power mode"].state == "warn"
    assert "nvpmodel -q" in found["power mode"].fix


@pytest.mark.parametrize(
    ("flags", "state", "told"),
    [
        ("avx2 avx512f avx512_vnni", "ok", "INT8 has instructions"),
        ("avx2 avx_vnni", "ok", "INT8 has instructions"),
        ("avx2 avx512f", "ok", "INT8 is no faster"),
        ("sse2", "warn", "none of"),
    ],
)
def test_what_a_processor_means_for_int8(tmp_path: Path, flags: str, state: str, told: str) -> None:
    cpu = machine(tmp_path, {"proc/cpuinfo": X86.format(flags)})["cpu"]
    assert cpu.state == state
    assert cpu.detail.startswith("Some CPU; ")
    assert told in cpu.detail


def test_an_empty_machine_gives_warnings_and_no_error(tmp_path: Path) -> None:
    found = machine(tmp_path, {})
    assert {name: found[name].state for name in ("cpu", "memory", "gpu")} == {
        "cpu": "warn",
        "memory": "warn",
        "gpu": "missing",
    }
    assert not {"jetson", "power mode"} & set(found)


def test_a_gpu_that_a_container_does_not_see(tmp_path: Path) -> None:
    files = {"proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue\n"}
    gpu = machine(tmp_path, files)["gpu"]
    assert gpu.state == "warn"
    assert "550.54.15" in gpu.detail
    assert "container" in gpu.fix


def test_a_gpu_by_its_model(tmp_path: Path) -> None:
    files = {
        "dev/nvidia0": "",
        "proc/driver/nvidia/gpus/0000:01:00.0/information": "Model: \t\t NVIDIA X\nGPU UUID: 7\n",
    }
    assert machine(tmp_path, files)["gpu"].detail == "NVIDIA X, driver version not told"


def test_a_container_limit_and_a_slow_clock_are_warned_about(tmp_path: Path) -> None:
    files = {
        "proc/cpuinfo": X86.format("avx2") * 4,
        "sys/fs/cgroup/cpu.max": "150000 100000\n",
        "sys/devices/system/clocksource/clocksource0/current_clocksource": "hpet",
        "proc/meminfo": "MemTotal: 500000 kB\nMemAvailable: 1000 kB\n",
    }
    found = machine(tmp_path, files)
    assert found["cores"].state == "warn"
    assert "allows 1.5 at a time" in found["cores"].detail
    assert found["clock"].state == "warn"
    assert found["memory"].state == "warn"


def test_a_limit_above_the_cores_is_none(tmp_path: Path) -> None:
    for quota in ("max 100000", "400000 100000"):
        files = {"proc/cpuinfo": X86.format("avx2") * 4, "sys/fs/cgroup/cpu.max": quota}
        assert machine(tmp_path, files)["cores"].state == "ok"


def test_files_of_garbage_raise_nothing(tmp_path: Path) -> None:
    found = machine(tmp_path, dict.fromkeys(JETSON, "\0\x01 : : \n:::\n"))
    assert found["jetson"].state == "warn"


def test_this_machine() -> None:
    findings = examine()
    names = [finding.name for finding in findings]
    assert len(set(names)) == len(names)
    assert {"python", "numpy", "cpu", "gpu", "clock", "realtime", "extra ort", "tensorrt"} <= set(names)
    assert {f"runner {name}" for name in available_runners()} <= set(names)
    assert all(finding.detail for finding in findings)
    assert findings[0].to_dict() == {
        "name": "python",
        "state": findings[0].state,
        "detail": findings[0].detail,
        "fix": findings[0].fix,
    }


def test_nothing_names_the_host_or_the_user() -> None:
    told = " ".join(" ".join(finding.to_dict().values()) for finding in examine())
    for secret in (platform.node(), str(Path.home()), os.getcwd()):
        if len(secret) > 3:
            assert secret not in told
    if len(getpass.getuser()) > 4:
        assert getpass.getuser() not in told


def test_a_missing_extra_has_its_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(doctor, "find_spec", lambda name: None if name in ("numba", "gdcm") else real(name))
    found = {finding.name: finding for finding in examine()}
    assert found["extra recon"].state == "missing"
    assert found["extra recon"].fix == "pip install 'pocus-edge-runtime[recon]'"
    assert "numba not installed" in found["extra recon"].detail
    if "dicom decoders" in found:
        assert "JPEG lossless no" in found["dicom decoders"].detail


def test_each_runner_says_what_it_computes_on_or_what_it_lacks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = machine(tmp_path, {"proc/cpuinfo": X86.format("avx2 avx512f avx512_vnni amx_int8")})
    for name, reason in available_runners().items():
        finding = found[f"runner {name}"]
        assert finding.state == ("ok" if reason is None else "missing")
        if reason is None and name != "tensorrt":
            assert finding.detail.endswith("INT8 by avx512_vnni, amx_int8")
        elif reason is not None:
            assert finding.fix
    if "openvino" in sys.modules:
        assert "CPU (" in found["runner openvino"].detail
    plain = machine(tmp_path, {"proc/cpuinfo": X86.format("avx2")})
    if plain["runner onnxruntime"].state == "ok":
        assert "no INT8 instructions" in plain["runner onnxruntime"].detail
    real = importlib.util.find_spec
    monkeypatch.setattr(doctor, "find_spec", lambda name: None if name in ("onnxruntime", "openvino") else real(name))
    absent = machine(tmp_path, {})
    assert absent["runner onnxruntime"].fix == "pip install 'pocus-edge-runtime[ort]'"
    assert absent["runner openvino"].fix == "pip install 'pocus-edge-runtime[openvino]'"


def test_a_broken_package_is_a_finding_without_its_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> object:
        raise AttributeError("/home/somebody/lib/broken.so: undefined symbol\nsecond line")

    monkeypatch.setattr(doctor.importlib, "import_module", broken)
    found = {finding.name: finding for finding in examine()}
    assert found["numpy"].state == "warn"
    assert found["numpy"].detail == "could not be examined: AttributeError: broken.so: undefined symbol"


def test_the_scheduler_of_this_thread_is_left_alone() -> None:
    if not hasattr(os, "sched_getscheduler"):
        pytest.skip("no schedulers on this system")
    before = os.sched_getscheduler(0)
    examine()
    assert os.sched_getscheduler(0) == before


def test_the_extras_are_those_of_the_distribution() -> None:
    tomllib = pytest.importorskip("tomllib", reason="the standard library reads TOML from 3.11 on")
    path = Path(__file__).parents[2] / "runtime" / "pyproject.toml"
    extras = tomllib.loads(path.read_text())["project"]["optional-dependencies"]
    extras.pop("cpu")
    assert {extra: {line.split(">=")[0] for line in lines} for extra, lines in extras.items()} == {
        extra: {distribution for _, distribution in parts} for extra, parts in doctor.EXTRAS.items()
    }
