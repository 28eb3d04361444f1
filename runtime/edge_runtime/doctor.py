"""What this machine can run, and what to install for the rest. No network, no host name, no user name."""

from __future__ import annotations

import importlib
import platform
import re
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from edge_runtime import _machine
from edge_runtime.finding import Finding
from edge_runtime.runners import available_runners
from edge_runtime.runners.openvino import import_openvino

__all__ = ["Finding", "examine"]

# extra of pocus-edge-runtime -> (import name, distribution) of what it brings; a test holds it against pyproject.toml
EXTRAS: dict[str, tuple[tuple[str, str], ...]] = {
    "ort": (("onnxruntime", "onnxruntime"),),
    "openvino": (("openvino", "openvino"),),
    "trt": (("tensorrt", "tensorrt"), ("cuda", "cuda-python")),
    "cv": (("cv2", "opencv-python-headless"),),
    "dicom": (
        ("pydicom", "pydicom"),
        ("cv2", "opencv-python-headless"),
        ("simplejpeg", "simplejpeg"),
        ("pylibjpeg", "pylibjpeg"),
        ("openjpeg", "pylibjpeg-openjpeg"),
        ("jpeg_ls", "pyjpegls"),
        ("gdcm", "python-gdcm"),
    ),
    "video": (("cv2", "opencv-python-headless"),),
    "recon": (("numba", "numba"),),
    "slam": (("numba", "numba"), ("scipy", "scipy")),
    "tusrec": (("h5py", "h5py"),),
    "cli": (("typer", "typer"), ("rich", "rich"), ("yaml", "PyYAML")),
    "sign": (("cryptography", "cryptography"),),
}
DECODERS = (
    ("JPEG baseline", ("cv2",)),
    ("JPEG lossless", ("gdcm",)),
    ("JPEG 2000", ("openjpeg", "gdcm")),
    ("JPEG-LS", ("jpeg_ls", "gdcm")),
    ("RLE", ("pydicom",)),
)
BINDINGS = (
    ("TensorRT", ("tensorrt", "tensorrt_bindings"), ("tensorrt", "tensorrt_cu12_bindings", "tensorrt_cu13_bindings")),
    (
        "TensorRT-RTX",
        ("tensorrt_rtx", "tensorrt_rtx_bindings"),
        ("tensorrt_rtx", "tensorrt_rtx_cu12_bindings", "tensorrt_rtx_cu13_bindings"),
    ),
)
_PRECISIONS = {"FP32", "FP16", "BF16", "INT8"}  # the rest of OpenVINO's capabilities says nothing about speed
OPENCVS = ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")


def examine(*, root: Path = Path("/")) -> list[Finding]:
    """Look at interpreter, packages, processor, GPU, clock and scheduler; takes about a second.

    `root` is where `/proc`, `/dev`, `/etc`, `/sys`, `/usr` and `/var` are looked for. Never raises: what cannot be
    examined is a finding with state "warn".
    """
    checks: list[tuple[str, Callable[[], Finding | None]]] = [
        ("python", _python),
        ("numpy", lambda: _needed("numpy")),
        ("msgspec", lambda: _needed("msgspec")),
        *((f"extra {extra}", lambda extra=extra: _extra(extra)) for extra in EXTRAS),
        ("runner onnxruntime", lambda: _onnxruntime(root)),
        ("runner openvino", lambda: _openvino(root)),
        ("runner tensorrt", _tensorrt_runner),
        ("opencv", _opencv),
        ("dicom decoders", _decoders),
        ("tensorrt", lambda: _tensorrt(root)),
        ("gpu", lambda: _machine.gpu(root)),
        ("cpu", lambda: _machine.cpu(root)),
        ("cores", lambda: _machine.cores(root)),
        ("memory", lambda: _machine.memory(root)),
        ("jetson", lambda: _machine.jetson(root)),
        ("power mode", lambda: _machine.power_mode(root)),
        ("clock", lambda: _machine.clock(root)),
        ("realtime", _machine.realtime),
    ]
    return [finding for name, check in checks if (finding := _attempt(name, check)) is not None]


def _attempt(name: str, check: Callable[[], Finding | None]) -> Finding | None:
    try:
        return check()
    except Exception as error:  # a broken package may raise anything while it is imported: that is the finding
        detail = f"could not be examined: {type(error).__name__}: {_without_paths(str(error))}"
        return Finding(name=name, state="warn", detail=detail, fix="reinstall the package, or report this line")


def _without_paths(text: str) -> str:
    """The first line with only the last part of each path: folders may name a user."""
    first = (text.strip().splitlines() or ["no message"])[0]
    return re.sub(r"(?:[A-Za-z]:)?[/\\](?:[^\s/\\:'\"]+[/\\])*([^\s/\\:'\"]*)", r"\1", first)[:300]


def _python() -> Finding:
    told = f"{platform.python_implementation()} {platform.python_version()} on {platform.system()} {platform.machine()}"
    if not (3, 10) <= sys.version_info[:2] <= (3, 12):
        return Finding(name="python", state="warn", detail=told, fix="Python 3.10 to 3.12 are tested")
    return Finding(name="python", state="ok", detail=told)


def _needed(name: str) -> Finding:
    return Finding(name=name, state="ok", detail=str(importlib.import_module(name).__version__))


def _version(module: str, distribution: str) -> str | None:
    """The installed version; None when the module cannot be found. A system package may have no metadata."""
    if find_spec(module) is None:
        return None
    return _installed(distribution) or str(getattr(importlib.import_module(module), "__version__", "of the system"))


def _extra(extra: str) -> Finding:
    versions = {distribution: _version(module, distribution) for module, distribution in EXTRAS[extra]}
    detail = ", ".join(f"{name} {found or 'not installed'}" for name, found in versions.items())
    if None in versions.values():
        line = f"pip install 'pocus-edge-runtime[{extra}]'"
        return Finding(name=f"extra {extra}", state="missing", detail=detail, fix=line)
    return Finding(name=f"extra {extra}", state="ok", detail=detail)


def _onnxruntime(root: Path) -> Finding:
    name = "runner onnxruntime"
    if find_spec("onnxruntime") is None:
        return Finding(name=name, state="missing", detail="not installed", fix="pip install 'pocus-edge-runtime[ort]'")
    ort = importlib.import_module("onnxruntime")
    detail = f"{ort.__version__} with {', '.join(ort.get_available_providers())}; {_int8(root)}"
    return Finding(name=name, state="ok", detail=detail)


def _openvino(root: Path) -> Finding:
    name = "runner openvino"
    if find_spec("openvino") is None:
        fix = "pip install 'pocus-edge-runtime[openvino]'"
        return Finding(name=name, state="missing", detail="not installed", fix=fix)
    openvino = import_openvino()
    core = openvino.Core()
    devices = {device: core.get_property(device, "OPTIMIZATION_CAPABILITIES") for device in core.available_devices}
    told = ", ".join(f"{device} ({', '.join(sorted(_PRECISIONS & set(able)))})" for device, able in devices.items())
    version = openvino.__version__.split("-")[0]
    if not devices:
        fix = "reinstall openvino: it has a CPU device on every processor"
        return Finding(name=name, state="warn", detail=f"{version} without a device", fix=fix)
    return Finding(name=name, state="ok", detail=f"{version} with {told}; {_int8(root)}")


def _tensorrt_runner() -> Finding:
    reason = available_runners()["tensorrt"]
    if reason is None:
        return Finding(name="runner tensorrt", state="ok", detail="engines can be built and run here")
    said, _, fix = reason.partition(". ")
    return Finding(name="runner tensorrt", state="missing", detail=said, fix=fix)


def _int8(root: Path) -> str:
    found = _machine.int8_instructions(root)
    return f"INT8 by {', '.join(found)}" if found else "no INT8 instructions here, so INT8 is no faster than FP32"


def _opencv() -> Finding | None:
    if find_spec("cv2") is None:
        return None
    cv2 = importlib.import_module("cv2")
    information = cv2.getBuildInformation()
    answers = {
        name: re.search(rf"^\s*{name}:\s*(YES|NO)", information, re.MULTILINE) for name in ("FFMPEG", "GStreamer")
    }
    has = {name: found is not None and found[1] == "YES" for name, found in answers.items()}
    detail = f"{cv2.__version__}, " + ", ".join(f"{name} {'yes' if yes else 'no'}" for name, yes in has.items())
    installed = [name for name in OPENCVS if _installed(name)]
    if len(installed) > 1:
        fix = f"keep one of {', '.join(installed)}: they overwrite each other's files"
        return Finding(name="opencv", state="warn", detail=f"{detail}; installed more than once", fix=fix)
    if not any(has.values()):
        fix = "no video can be read or written: install opencv-python-headless, or a build with FFmpeg or GStreamer"
        return Finding(name="opencv", state="warn", detail=detail, fix=fix)
    return Finding(name="opencv", state="ok", detail=detail)


def _installed(distribution: str) -> str | None:
    """Version in the metadata of a distribution, None without it."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _decoders() -> Finding | None:
    if find_spec("pydicom") is None:
        return None
    able = {coding: any(find_spec(module) for module in modules) for coding, modules in DECODERS}
    detail = ", ".join(f"{coding} {'yes' if yes else 'no'}" for coding, yes in able.items())
    if all(able.values()):
        return Finding(name="dicom decoders", state="ok", detail=detail)
    return Finding(name="dicom decoders", state="missing", detail=detail, fix="pip install 'pocus-edge-runtime[dicom]'")


def _tensorrt(root: Path) -> Finding:
    told = []
    for name, modules, distributions in BINDINGS:
        if any(find_spec(module) is not None for module in modules):
            told.append(f"{name} bindings {next(filter(None, map(_installed, distributions)), 'of the system')}")
    library = _machine.tensorrt_library(root)
    if library:
        told.append(f"system library {library}")
    if library and len(told) == 1:
        return Finding(
            name="tensorrt",
            state="warn",
            detail=f"{told[0]}, no Python bindings here",
            fix="apt install python3-libnvinfer, then `python3 -m venv --system-site-packages`",
        )
    if told:
        return Finding(name="tensorrt", state="ok", detail=", ".join(told))
    return Finding(name="tensorrt", state="missing", detail="not found; bundles run on ONNX Runtime")
