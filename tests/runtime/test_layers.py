"""The device half stays on the device: no torch, no onnx, nothing from the host, and little at the start."""

from __future__ import annotations

import ast
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import edge_runtime

ROOT = Path(edge_runtime.__file__).parent
MODULES = sorted(
    {"edge_runtime", *(m.name for m in pkgutil.walk_packages([str(ROOT)], "edge_runtime."))}, key=lambda n: (len(n), n)
)
HOST = ("torch", "onnx", "edge_export", "edge_sdk", "monai", "lightning_fabric", "optuna")
# extras, by import name: none may be needed to import the package itself
EXTRAS = ("onnxruntime", "cv2", "numba", "pydicom", "cryptography", "typer", "rich", "yaml", "simplejpeg", "openvino")


def seen_after(statement: str, names: tuple[str, ...]) -> str:
    """Which of `names` are imported once `statement` has run in a fresh interpreter."""
    code = f"import sys\n{statement}\nprint(*[n for n in {names!r} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_no_module_brings_the_host_in() -> None:
    assert len(MODULES) > 80
    every = "import importlib\n" + f"for name in {MODULES!r}: importlib.import_module(name)"
    assert seen_after(every, HOST) == ""


def test_the_sources_name_no_host_module() -> None:
    """Also inside functions, which the test above does not run."""
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            found = [name for name in names if name.split(".")[0] in HOST]
            assert not found, f"{path.relative_to(ROOT)}:{node.lineno} imports {found}"


@pytest.mark.parametrize(
    "statement",
    [
        "import edge_runtime",
        "from edge_runtime import Frame, FrameGeometry, Pose, Result, EdgeError, PoseBuffer",
        "from edge_runtime import Bundle, Pipeline, load, open_source, Volume, Preprocessor, OrtRunner",
    ],
)
def test_names_come_without_their_extras(statement: str) -> None:
    assert seen_after(statement, EXTRAS) == ""


def test_the_package_alone_does_not_even_need_numpy() -> None:
    assert seen_after("import edge_runtime", ("numpy", "msgspec")) == ""
