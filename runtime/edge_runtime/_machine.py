"""What the kernel tells about this machine. Every path starts at `root`, so that a test can build another machine.

Nothing here names the host or a user.
"""

from __future__ import annotations

import os
import re
import threading
import time
from pathlib import Path
from typing import Any

from edge_runtime.finding import Finding

__all__ = [
    "clock",
    "cores",
    "cpu",
    "gpu",
    "int8_instructions",
    "jetson",
    "memory",
    "power_mode",
    "realtime",
    "tensorrt_library",
]

# L4T release -> JetPack, from NVIDIA's archive of Jetson Linux releases
JETPACK = {
    "35.": "5",
    "36.2": "6.0 (preview)",
    "36.3": "6.0",
    "36.4.0": "6.1",
    "36.4.3": "6.2",
    "36.4.4": "6.2.1",
    "36.4.7": "6.2.1",
    "36.5": "6.2.2",
    "38.2": "7.0",
    "38.4": "7.1",
    "39.": "7.2",
}
INT8 = ("avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm")  # processor features, x86 then ARM
EXACT_CLOCKS = ("tsc", "arch_sys_counter", "kvm-clock")


def _text(path: Path) -> str:
    """The file as text without surrounding space or NUL; empty when it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0 \n\t")
    except OSError:
        return ""


def _field(text: str, name: str) -> str:
    found = re.search(rf"^{name}\s*:\s*(.*)$", text, re.MULTILINE)
    return found[1].strip() if found else ""


def cpu(root: Path) -> Finding:
    """Model and the features that decide whether INT8 and FP16 are worth it."""
    info = _text(root / "proc/cpuinfo")
    x86, arm = _field(info, "flags").split(), _field(info, "Features").split()
    model = _field(info, "model name") or _text(root / "proc/device-tree/model") or "unknown model"
    if x86:
        return _x86(model, x86)
    if arm:
        return _arm(model, arm)
    return Finding(name="cpu", state="warn", detail=f"{model}; the features cannot be read from /proc/cpuinfo")


def int8_instructions(root: Path) -> tuple[str, ...]:
    """The processor's features that multiply 8-bit integers; without any, INT8 is no faster than FP32."""
    info = _text(root / "proc/cpuinfo")
    features = {*_field(info, "flags").split(), *_field(info, "Features").split()}
    return tuple(name for name in INT8 if name in features)


def _x86(model: str, flags: list[str]) -> Finding:
    known = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8", "amx_bf16")
    present = ", ".join(flag for flag in known if flag in flags) or "none of " + ", ".join(known)
    if "avx2" not in flags:
        return Finding(
            name="cpu", state="warn", detail=f"{model}; {present}", fix="without AVX2 inference is several times slower"
        )
    if not set(INT8) & set(flags):
        return Finding(name="cpu", state="ok", detail=f"{model}; {present}; no VNNI, so INT8 is no faster than FP32")
    return Finding(name="cpu", state="ok", detail=f"{model}; {present}; INT8 has instructions of its own (VNNI or AMX)")


def _arm(model: str, features: list[str]) -> Finding:
    known = {"asimdhp": "FP16", "asimddp": "dot product", "i8mm": "INT8 matrix product", "bf16": "BF16"}
    present = ", ".join(f"{flag} ({meaning})" for flag, meaning in known.items() if flag in features)
    gain = "INT8 has instructions of its own" if {"asimddp", "i8mm"} & set(features) else "INT8 is no faster than FP32"
    return Finding(name="cpu", state="ok", detail=f"{model}; ARM with {present or 'plain NEON'}; {gain}")


def cores(root: Path) -> Finding:
    """Processors, those this process may use, and a container's limit."""
    listed = len(re.findall(r"^processor\s*:", _text(root / "proc/cpuinfo"), re.MULTILINE)) or os.cpu_count() or 1
    allowed = len(os.sched_getaffinity(0)) if root == Path("/") and hasattr(os, "sched_getaffinity") else listed
    detail = f"{listed}, of which this process may use {allowed}"
    quota = re.fullmatch(r"(\d+) (\d+)", _text(root / "sys/fs/cgroup/cpu.max"))
    if quota and int(quota[1]) < allowed * int(quota[2]):
        share = int(quota[1]) / int(quota[2])
        return Finding(
            name="cores",
            state="warn",
            detail=f"{detail}; a container limit allows {share:.2g} at a time",
            fix="raise the CPU limit: when it is used up, frames wait for the next period",
        )
    return Finding(name="cores", state="ok", detail=detail)


def memory(root: Path) -> Finding:
    """Memory, total and available."""
    info = _text(root / "proc/meminfo")
    numbers = [re.match(r"\d+", _field(info, name)) for name in ("MemTotal", "MemAvailable")]
    total, available = (int(found[0]) / 2**20 if found else None for found in numbers)
    if total is None or available is None:
        return Finding(name="memory", state="warn", detail="cannot be read from /proc/meminfo")
    detail = f"{total:.1f} GiB, {available:.1f} GiB available"
    if available < 0.5:
        return Finding(
            name="memory", state="warn", detail=detail, fix="free memory: a bundle and its buffers need about 0.5 GiB"
        )
    return Finding(name="memory", state="ok", detail=detail)


def gpu(root: Path) -> Finding:
    """An NVIDIA GPU: device nodes, driver, model."""
    nodes = [
        path for pattern in ("nvidia[0-9]*", "nvhost-gpu", "nvgpu") for path in sorted((root / "dev").glob(pattern))
    ]
    driver = re.search(r"Kernel Module.*?\s(\d+\.\d+(?:\.\d+)?)", _text(root / "proc/driver/nvidia/version"))
    models = [_field(_text(path), "Model") for path in sorted((root / "proc/driver/nvidia/gpus").glob("*/information"))]
    named = ", ".join(sorted(set(filter(None, models)))) or "NVIDIA GPU"
    version = f"driver {driver[1]}" if driver else "driver version not told"
    if nodes:
        return Finding(name="gpu", state="ok", detail=f"{named}, {version}")
    if driver:
        return Finding(
            name="gpu",
            state="warn",
            detail=f"{version} is loaded, no device node is seen",
            fix="in a container, pass the GPU in (for example --gpus all or --runtime nvidia)",
        )
    return Finding(name="gpu", state="missing", detail="no NVIDIA GPU is seen; models run on the CPU")


def jetson(root: Path) -> Finding | None:
    """The Jetson Linux release, and the JetPack it belongs to; None on another machine."""
    release = _text(root / "etc/nv_tegra_release")
    found = re.search(r"R(\d+) .*?REVISION:\s*([\d.]+)", release)
    if not release:
        return None
    if found is None:
        return Finding(name="jetson", state="warn", detail="a Jetson whose /etc/nv_tegra_release cannot be understood")
    version = f"{found[1]}.{found[2]}"
    matches = [name for prefix, name in JETPACK.items() if version == prefix or version.startswith(prefix)]
    jetpack = f"JetPack {matches[-1]}" if matches else "JetPack unknown"
    board = _text(root / "proc/device-tree/model")
    return Finding(name="jetson", state="ok", detail=f"L4T {version}, {jetpack}{', ' + board if board else ''}")


def power_mode(root: Path) -> Finding | None:
    """The power mode of a Jetson, from nvpmodel's own files; None on another machine."""
    if not (root / "etc/nv_tegra_release").exists():
        return None
    mode = re.search(r"pmode:\s*(\d+)", _text(root / "var/lib/nvpmodel/status"))
    if mode is None:
        return Finding(
            name="power mode",
            state="warn",
            detail="cannot be read",
            fix="note what `nvpmodel -q` says beside latencies",
        )
    config = _text(root / "etc/nvpmodel.conf")
    names = {int(number): name for number, name in re.findall(r"POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+?)\s*>", config)}
    number = int(mode[1])
    return Finding(name="power mode", state="ok", detail=f"{number} ({names.get(number, 'name not told')})")


def tensorrt_library(root: Path) -> str:
    """Version in the file name of the system's TensorRT library; empty when there is none."""
    folders = ("usr/lib/aarch64-linux-gnu", "usr/lib/x86_64-linux-gnu", "usr/lib64", "usr/local/tensorrt/lib")
    for folder in folders:
        for path in sorted((root / folder).glob("libnvinfer.so.*.*"), reverse=True):
            return path.name.removeprefix("libnvinfer.so.")
    return ""


def clock(root: Path) -> Finding:
    """Resolution of the monotonic clock and what drives it."""
    source = _text(root / "sys/devices/system/clocksource/clocksource0/current_clocksource")
    resolution_ns = round(time.get_clock_info("monotonic").resolution * 1e9)
    detail = f"monotonic, resolution {resolution_ns} ns, driven by {source or 'an unknown source'}"
    if resolution_ns > 100_000 or (source and source not in EXACT_CLOCKS):
        return Finding(
            name="clock", state="warn", detail=detail, fix="times below a millisecond are doubtful on this clock source"
        )
    return Finding(name="clock", state="ok", detail=detail)


def realtime() -> Finding:
    """Whether a thread may take the real-time scheduler: tried on a thread that ends at once."""
    outcome: list[Any] = []

    def attempt() -> None:
        try:
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))  # 0 is the calling thread alone
        except (OSError, AttributeError) as error:
            outcome.append(error)

    thread = threading.Thread(target=attempt, name="doctor-realtime")
    thread.start()
    thread.join()
    if not outcome:
        return Finding(name="realtime", state="ok", detail="SCHED_FIFO is permitted")
    return Finding(
        name="realtime",
        state="missing",
        detail="SCHED_FIFO is not permitted; other programs can delay a frame",
        fix="give CAP_SYS_NICE or an rtprio limit, for example `@video - rtprio 50` in /etc/security/limits.conf",
    )
