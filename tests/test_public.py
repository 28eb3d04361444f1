"""Every package lists its public names: sorted, complete, there; and every module of the three says what it offers."""

from __future__ import annotations

import ast
import importlib
import pkgutil
from pathlib import Path

import pytest

import edge_export
import edge_runtime
import edge_sdk

ROOTS = (edge_runtime, edge_export, edge_sdk)
MODULES = sorted(
    {root.__name__ for root in ROOTS}
    | {m.name for root in ROOTS for m in pkgutil.walk_packages(root.__path__, f"{root.__name__}.")}
)
PACKAGES = [name for name in MODULES if Path(str(importlib.util.find_spec(name).origin)).name == "__init__.py"]


def source(name: str) -> ast.Module:
    return ast.parse(Path(str(importlib.util.find_spec(name).origin)).read_text(encoding="utf-8"))


def listed(name: str) -> list[str] | None:
    """`__all__` as it stands in the source, None when there is none."""
    for node in source(name).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets):
            return ast.literal_eval(node.value)  # type: ignore[union-attr]
    return None


def kind_and_name(name: str) -> tuple[int, str]:
    """Constants, classes, the rest: the order that the linter writes."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2), name


@pytest.mark.parametrize("name", MODULES)
def test_names_are_listed_and_sorted(name: str) -> None:
    names = listed(name)
    if names is None and name.rsplit(".", 1)[1].startswith("_"):
        return  # a private module or a script
    assert names is not None, f"{name} has no __all__"
    assert len(names) == len(set(names))
    assert names in (sorted(names), sorted(names, key=kind_and_name))


@pytest.mark.parametrize("name", PACKAGES)
def test_every_listed_name_can_be_had(name: str) -> None:
    module = importlib.import_module(name)
    for public in listed(name) or ():
        assert getattr(module, public) is not None
        assert public in dir(module)
    with pytest.raises(AttributeError, match="no_such_name"):
        module.no_such_name  # noqa: B018


@pytest.mark.parametrize("name", PACKAGES)
def test_nothing_public_is_missing_from_the_list(name: str) -> None:
    """What a package's `__init__` imports from its own modules is either listed or begins with an underscore."""
    names = set(listed(name) or ())
    for node in source(name).body:
        blocks = node.body if isinstance(node, ast.If) else [node]  # also `if TYPE_CHECKING`
        for part in blocks:
            if isinstance(part, ast.ImportFrom) and (part.module or "").startswith(f"{name}."):
                brought = {alias.asname or alias.name for alias in part.names}
                assert brought <= names, f"{name} imports {sorted(brought - names)} and does not list them"
            elif isinstance(part, ast.FunctionDef | ast.ClassDef) and not part.name.startswith("_"):
                assert part.name in names, f"{name} defines {part.name} and does not list it"


def test_lazy_names_are_those_that_type_checkers_see() -> None:
    for root in ROOTS:
        typed = {
            alias.asname or alias.name
            for node in source(root.__name__).body
            if isinstance(node, ast.If)
            for part in node.body
            if isinstance(part, ast.ImportFrom)
            for alias in part.names
        }
        assert typed | {"__version__"} >= set(root.__all__) - {"__version__"}, root.__name__
