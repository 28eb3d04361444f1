"""Every TensorRT name that the runtime uses is declared, and exists in the bindings of each version that is claimed."""

from __future__ import annotations

import ast
import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import edge_runtime
from edge_runtime.engines import _api, _cuda

TABLES = sorted((Path(__file__).parent / "names").glob("*.json"))
RUNTIME = Path(edge_runtime.__file__).parent
SOURCE = Path(_api.__file__)
# what is not TensorRT's in `_api.py`: our own objects and Python's
OURS = {
    "self", "flavour", "request", "log", "steps", "failures", "found", "tried", "error", "line", "name", "running",
    "re", "importlib", "module", "DTYPES",
}  # fmt: skip
OUR_MEMBERS = {"flavour", "_owner", "capabilities"}  # members of ours that may be looked into
BUILTINS = {"str", "bytes"}


def is_ours(node: ast.expr) -> bool:
    """Whether an attribute of `node` cannot be one of a TensorRT object."""
    if isinstance(node, ast.Name):
        return node.id in OURS
    if isinstance(node, ast.Attribute):
        return node.attr in OUR_MEMBERS and is_ours(node.value)
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id in BUILTINS
    return isinstance(node, (ast.Constant, ast.JoinedStr))


def used_names(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """(class, name) of every attribute in `tree`; an attribute of something unknown is an error."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            for base in node.bases:
                if isinstance(base, ast.Attribute):  # a class of TensorRT that Python code fills in
                    names = [item.name for item in node.body if isinstance(item, ast.FunctionDef)]
                    yield from ((base.attr, name) for name in names if not name.startswith("__"))
        if not isinstance(node, ast.Attribute) or node.attr.startswith("__"):
            continue
        value = node.value
        if isinstance(value, ast.Name) and value.id in _api.VARIABLES:
            yield _api.VARIABLES[value.id], node.attr
        elif isinstance(value, ast.Attribute) and isinstance(value.value, ast.Name) and value.value.id == "trt":
            yield value.attr, node.attr
        elif not is_ours(value):
            raise AssertionError(f"line {node.lineno}: .{node.attr} of something that is neither declared nor ours")


def declared(*tables: dict[str, tuple[str, ...]]) -> set[tuple[str, str]]:
    return {(kind, name) for table in tables for kind, names in table.items() for name in names}


def test_what_is_used_is_declared_and_the_other_way_round() -> None:
    assert set(used_names(ast.parse(SOURCE.read_text()))) == declared(_api.NAMES, _api.OPTIONAL)


@pytest.mark.parametrize("line", ["thing.deserialize()", "builder.make().plan", "self.engine.name", "config.x.y"])
def test_the_reader_of_the_source_lets_nothing_through(line: str) -> None:
    with pytest.raises(AssertionError, match="neither declared nor ours"):
        list(used_names(ast.parse(line)))


def test_optional_names_are_looked_for_before_they_are_used() -> None:
    """In the function that uses them, `hasattr(trt, ...)` raises an error of ours first."""
    tree = ast.parse(SOURCE.read_text())
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    (user,) = [node for node in functions if ("IBuilderConfig", "set_compute_capability") in set(used_names(node))]
    text = ast.unparse(user)
    assert text.index("hasattr(trt, 'ComputeCapability')") < text.index("set_compute_capability")
    assert declared(_api.OPTIONAL) - set(used_names(user)) == set()


def test_five_versions_are_recorded() -> None:
    found = {path.stem for path in TABLES}
    assert found == {"10.3.0", "10.13.3.9", "10.16.1.11", "11.4.0.106", "rtx-1.7.1.116"}


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_every_name_exists_in_the_bindings_of(path: Path) -> None:
    table = json.loads(path.read_text())["names"]
    known = {(kind, name) for kind, names in table.items() for name in names}
    assert len(known) > 1000
    assert declared(_api.NAMES) - known == set()
    optional = declared(_api.OPTIONAL) & known
    assert optional in (set(), declared(_api.OPTIONAL))  # all or none: one `hasattr` guards them all
    assert bool(optional) == ("rtx" in path.stem)


def test_a_name_that_tensorrt_11_removed_would_be_found() -> None:
    """The tables tell 10.16 from 11.4 where NVIDIA's migration guide says that they differ."""
    tables = {path.stem: json.loads(path.read_text())["names"] for path in TABLES}
    assert "FP16" in tables["10.16.1.11"]["BuilderFlag"]
    assert "FP16" not in tables["11.4.0.106"]["BuilderFlag"]
    assert "EXPLICIT_BATCH" not in tables["11.4.0.106"]["NetworkDefinitionCreationFlag"]


@pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx_bindings") is None, reason="TensorRT-RTX is not installed")
def test_the_recorded_names_of_rtx_are_those_of_the_installed_package() -> None:
    import tensorrt_rtx_bindings as rtx

    path = next((path for path in TABLES if path.stem == f"rtx-{rtx.__version__}"), None)
    if path is None:
        pytest.skip(f"TensorRT-RTX {rtx.__version__} is installed; recorded is another version")
    for kind, names in json.loads(path.read_text())["names"].items():
        item = rtx if kind == "module" else getattr(rtx, kind)
        assert set(names) <= set(dir(item))


CUDA_TABLES = sorted((Path(__file__).parent / "cuda_names").glob("*.json"))


def cuda_names() -> set[tuple[str, str]]:
    """(class, name) of all that `_cuda.py` takes from CUDA's bindings: members of `_api`, and calls by name."""
    found: set[tuple[str, str]] = set()
    for node in ast.walk(ast.parse(Path(_cuda.__file__).read_text())):
        if isinstance(node, ast.Attribute):
            text = ast.unparse(node)
            if text.startswith("self._api."):
                parts = text.split(".")[2:]
                found.add(("module", parts[0]))
                found |= {(parts[0], part) for part in parts[1:]}
            elif text.startswith("facts.") and text.count(".") == 1:
                found.add(("cudaDeviceProp", node.attr))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "self._call":
            assert isinstance(node.args[0], ast.Constant)
            found.add(("module", str(node.args[0].value)))
    return found


@pytest.mark.parametrize("path", CUDA_TABLES, ids=lambda path: path.stem)
def test_every_name_of_cuda_exists_in_cuda_python(path: Path) -> None:
    table = json.loads(path.read_text())["names"]
    known = {(kind, name) for kind, names in table.items() for name in names}
    used = cuda_names()
    assert len(used) >= 30
    assert ("module", "cudaGraphLaunch") in used
    assert used - known == set()


def test_cuda_12_and_13_are_recorded() -> None:
    assert {path.stem.split(".")[0] for path in CUDA_TABLES} == {"12", "13"}


def test_no_other_module_imports_tensorrt() -> None:
    for path in RUNTIME.rglob("*.py"):
        if path == SOURCE:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            assert not [name for name in names if name.startswith("tensorrt")], f"{path}:{node.lineno}"
