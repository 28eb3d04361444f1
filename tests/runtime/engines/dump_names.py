"""Write the names of TensorRT's and CUDA's Python bindings, from wheels of the package index; no GPU is needed.

    python tests/runtime/engines/dump_names.py                  four TensorRT versions and TensorRT-RTX into `names/`,
                                                                two of cuda-python into `cuda_names/`
    python tests/runtime/engines/dump_names.py 10.9.0.34        one more TensorRT

The libraries behind the bindings are not on the index, so three empty libraries with the nine symbols that the bindings
link against stand in for them (a C compiler is needed): the import succeeds, and `dir()` of every class is the truth
about names, not about behaviour. TensorRT-RTX is dumped as installed; cuda-python's bindings need no library to import.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

NAMES = Path(__file__).with_name("names")
VERSIONS = ("10.3.0", "10.13.3.9", "10.16.1.11", "11.4.0.106")
PACKAGE = "tensorrt-cu12-bindings"
CUDA_VERSIONS = ("12.8.0", "13.5.0")
CUDA_PACKAGE, CUDA_MODULE = "cuda-bindings", "cuda.bindings.runtime"
CUDA_CLASSES = ("module", "cudaDeviceProp", "cudaMemcpyKind", "cudaStreamCaptureMode")
RTX = "tensorrt_rtx_bindings"
SYMBOLS = (
    "createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL",
    "createNvOnnxParser_INTERNAL", "createNvOnnxParserRefitter_INTERNAL", "getBuilderPluginRegistry",
    "getPluginRegistry", "getNvOnnxParserVersion", "initLibNvInferPlugins",
)  # fmt: skip
LIBRARIES = ("nvinfer", "nvonnxparser", "nvinfer_plugin")
DUMP = """
import importlib, json, sys
sys.path.insert(0, sys.argv[2])
module = importlib.import_module(sys.argv[1])
names = {"module": sorted(n for n in dir(module) if n[0] != "_")}
for name in names["module"]:
    item = getattr(module, name)
    if isinstance(item, type):
        names[name] = sorted(n for n in dir(item) if n[0] != "_")
print(json.dumps(names))
"""


def stubs(folder: Path, major: str) -> None:
    """Three libraries that export the symbols and do nothing."""
    source = folder / "stub.c"
    source.write_text("".join(f"void *{symbol}(void) {{ return 0; }}\n" for symbol in SYMBOLS))
    for library in LIBRARIES:
        name = f"lib{library}.so.{major}"
        command = ["cc", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", str(folder / name), str(source)]
        subprocess.run(command, check=True)


def names_of(module: str, folder: Path) -> dict[str, list[str]]:
    """Public names of the module and its classes, imported in a process of its own."""
    environment = {**os.environ, "LD_LIBRARY_PATH": str(folder)}
    command = [sys.executable, "-c", DUMP, module, str(folder)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    found: dict[str, list[str]] = json.loads(done.stdout)
    return found


def write(package: str, version: str, wheel_sha256: str, names: dict[str, list[str]], folder: Path = NAMES) -> None:
    """One JSON file a version, one class a line."""
    folder.mkdir(exist_ok=True)
    head = {"package": package, "version": version, "wheel_sha256": wheel_sha256}
    lines = [f' "{key}": {json.dumps(value)},' for key, value in head.items()]
    lines.append(' "names": {')
    lines.append(",\n".join(f"  {json.dumps(name)}: {json.dumps(values)}" for name, values in sorted(names.items())))
    stem = "rtx-" if "rtx" in package else ""
    (folder / f"{stem}{version}.json").write_text("\n".join(["{", *lines, " }", "}"]) + "\n")


def unpack(folder: Path, *requirements: str) -> str:
    """Download wheels and unpack them into `folder`; the first one's sha256."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
    subprocess.run([*pip, *requirements], check=True)
    for wheel in folder.glob("*.whl"):
        zipfile.ZipFile(wheel).extractall(folder)
    first = requirements[0].split("==")[0].replace("-", "_")
    return hashlib.sha256(next(folder.glob(f"{first}-*.whl")).read_bytes()).hexdigest()


def dump(version: str) -> None:
    """The bindings of one TensorRT version."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sha256 = unpack(folder, f"{PACKAGE}=={version}")
        stubs(folder, version.split(".")[0])
        write(PACKAGE, version, sha256, names_of("tensorrt_bindings", folder))


def dump_cuda(version: str) -> None:
    """The runtime API of one version of cuda-python: its functions, constants, and the classes that are used."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sha256 = unpack(folder, f"{CUDA_PACKAGE}=={version}", "cuda-pathfinder")
        names = names_of(CUDA_MODULE, folder)
        kept = {kind: [item for item in names[kind] if kind != "module" or item[:4] == "cuda"] for kind in CUDA_CLASSES}
        write(CUDA_PACKAGE, version, sha256, kept, NAMES.with_name("cuda_names"))


if __name__ == "__main__":
    for wanted in sys.argv[1:] or VERSIONS:
        dump(wanted)
    if not sys.argv[1:]:
        import tensorrt_rtx_bindings

        write(RTX, tensorrt_rtx_bindings.__version__, "", names_of(RTX, NAMES))
        for wanted in CUDA_VERSIONS:
            dump_cuda(wanted)
