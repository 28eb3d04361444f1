"""The public surface: every module says what it offers, in order, and everything offered is explained."""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {"edge_runtime": ROOT / "runtime", "edge_export": ROOT / "export", "edge_sdk": ROOT}


def modules() -> dict[str, Path]:
    """Every module of the three distributions by its import name."""
    found = {}
    for package, place in PACKAGES.items():
        for path in sorted((place / package).rglob("*.py")):
            parts = path.relative_to(place).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}


def exported(tree: ast.Module) -> list[str] | None:
    """`__all__` as it is written, None when there is none or it is not a plain list of strings."""
    for node in tree.body:
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets):
                value = ast.literal_eval(node.value)
                return value if isinstance(value, list) and all(isinstance(item, str) for item in value) else None
    return None


def order(name: str) -> tuple[int, str]:
    """Constants, then classes, then the rest, as the linter sorts them."""
    plain = name.strip("_")
    return (0 if plain.isupper() else 1 if plain[:1].isupper() else 2), name


def defined(tree: ast.Module) -> list[ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]:
    """Functions and classes of a module's top level."""
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return [node for node in tree.body if isinstance(node, kinds)]


def module_of(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] in PACKAGES:
            raise
        pytest.skip(f"{error.name} is not installed")


def test_there_is_something_to_test() -> None:
    assert len(MODULES) > 150
    assert {name.split(".")[0] for name in MODULES} == set(PACKAGES)


@pytest.mark.parametrize("name", MODULES)
def test_all_is_explicit_sorted_and_complete(name: str) -> None:
    names = exported(TREES[name])
    assert names is not None, f"{name} has no explicit __all__"
    assert names == sorted(set(names), key=order), f"{name}: __all__ is not sorted, or names one twice"
    private = [item for item in names if item.startswith("_") and not item.startswith("__")]
    assert private == [], f"{name}: __all__ offers private names"


@pytest.mark.parametrize("name", MODULES)
def test_every_name_of_all_is_there(name: str) -> None:
    module = module_of(name)
    for item in exported(TREES[name]) or []:
        assert getattr(module, item, None) is not None, f"{name}.{item}"


@pytest.mark.parametrize("name", MODULES)
def test_what_another_module_takes_is_offered(name: str) -> None:
    imports = [node for node in ast.walk(TREES[name]) if isinstance(node, ast.ImportFrom) and node.module in TREES]
    for node in imports:
        module = str(node.module)
        taken = {alias.name for alias in node.names if f"{module}.{alias.name}" not in TREES}
        assert taken <= set(exported(TREES[module]) or []), f"{name} takes from {module} what is not in its __all__"


@pytest.mark.parametrize("name", MODULES)
def test_everything_offered_is_explained(name: str) -> None:
    tree = TREES[name]
    assert ast.get_docstring(tree), f"{name} has no docstring"
    offered = set(exported(tree) or [])
    for node in defined(tree):
        if node.name in offered:
            assert ast.get_docstring(node), f"{name}.{node.name} has no docstring"
            for method in public_methods(node):
                told = ast.get_docstring(method) or node.bases or method.name in documented(tree)
                assert told, f"{name}.{node.name}.{method.name} has no docstring"


def public_methods(node: ast.AST) -> list[ast.FunctionDef]:
    body = node.body if isinstance(node, ast.ClassDef) else []
    return [item for item in body if isinstance(item, ast.FunctionDef) and not item.name.startswith("_")]


def documented(tree: ast.Module) -> set[str]:
    """Methods that some class of the module explains: a protocol may speak for those that follow it."""
    return {method.name for node in defined(tree) for method in public_methods(node) if ast.get_docstring(method)}


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_passes_on_every_name_it_promises_to_a_type_checker(package: str) -> None:
    """The lazy table, the imports for type checkers and `__all__` say the same."""
    tree = TREES[package]
    typed = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(f"{package}.")
        for alias in node.names
    }
    names = set(exported(tree) or [])
    assert typed == {item for item in names if not item.startswith("__")}
    module = module_of(package)
    assert names <= set(dir(module))
    with pytest.raises(AttributeError, match="no_such_name"):
        module.no_such_name  # noqa: B018


@pytest.mark.parametrize("package", PACKAGES)
def test_a_class_is_the_same_however_it_is_imported(package: str) -> None:
    module = module_of(package)
    for item in exported(TREES[package]) or []:
        value = getattr(module, item)
        if inspect.isclass(value):
            assert getattr(importlib.import_module(value.__module__), value.__name__) is value
