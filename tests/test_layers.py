"""Imports go one way: edge_sdk -> edge_export -> edge_runtime, and the device never sees the host's packages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PLACES = (ROOT / "runtime", ROOT / "export", ROOT)
HOST = ("torch", "onnx", "edge_export", "edge_sdk")
HEAVY = ("onnxruntime", "cv2", "numba", "pydicom", "scipy", "h5py", "cryptography", "typer")
WALK = """
import importlib, json, pkgutil, sys
package, skipped = sys.argv[1], set(sys.argv[2:])
names, missing = [package], {}
for found in pkgutil.walk_packages(importlib.import_module(package).__path__, package + "."):
    if found.name not in skipped:
        names.append(found.name)
for name in names:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing[name] = error.name
tops = sorted({name.split(".")[0] for name in sys.modules})
print(json.dumps({"modules": names, "loaded": tops, "missing": missing}))
"""


def walk(package: str, *skipped: str, places: tuple[Path, ...] = PLACES) -> dict[str, object]:
    """Import every module of `package` in a process of its own; what was walked, what is then loaded."""
    return run(WALK, package, *skipped, places=places)


def run(code: str, *arguments: str, places: tuple[Path, ...] = PLACES) -> dict[str, object]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, places))}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return answer


def forbidden(answer: dict[str, object], names: tuple[str, ...]) -> list[str]:
    loaded = answer["loaded"]
    assert isinstance(loaded, list)
    return sorted(set(loaded) & set(names))


def test_no_module_of_the_runtime_brings_a_package_of_the_host() -> None:
    answer = walk("edge_runtime")
    assert len(answer["modules"]) > 100  # type: ignore[arg-type]
    assert answer["missing"] == {}
    assert forbidden(answer, HOST) == []


def test_importing_the_runtime_brings_no_extra() -> None:
    code = "import json, sys, edge_runtime; print(json.dumps({'loaded': [m.split('.')[0] for m in sys.modules]}))"
    assert forbidden(run(code), (*HOST, *HEAVY)) == []


@pytest.mark.skipif(find_spec("torch") is None or find_spec("onnx") is None, reason="needs the host's packages")
def test_only_one_module_of_the_export_brings_torch() -> None:
    answer = walk("edge_export", "edge_export.torch_export")
    assert forbidden(answer, ("torch", "edge_sdk")) == []
    answer = walk("edge_export")
    assert forbidden(answer, ("torch", "edge_sdk")) == ["torch"]


@pytest.mark.parametrize("name", [*HOST, "scipy"])
def test_the_check_can_fail(tmp_path: Path, name: str) -> None:
    """A package with one bad import, deep inside, is found out."""
    inner = tmp_path / "offender" / "deep"
    inner.mkdir(parents=True)
    (tmp_path / "offender" / "__init__.py").write_text("")
    (inner / "__init__.py").write_text("")
    (inner / "guilty.py").write_text(f"import {name}\n")
    (tmp_path / f"{name}.py").write_text("")  # stands for the package, so that the test needs no torch
    answer = walk("offender", places=(tmp_path,))
    assert answer["modules"] == ["offender", "offender.deep", "offender.deep.guilty"]
    assert forbidden(answer, (name,)) == [name]
    assert forbidden(walk("offender", "offender.deep.guilty", places=(tmp_path,)), (name,)) == []


def test_a_module_that_cannot_be_imported_is_told(tmp_path: Path) -> None:
    (tmp_path / "offender").mkdir()
    (tmp_path / "offender" / "__init__.py").write_text("")
    (tmp_path / "offender" / "bad.py").write_text("import no_such_package_anywhere\n")
    answer = walk("offender", places=(tmp_path,))
    assert answer["missing"] == {"offender.bad": "no_such_package_anywhere"}
