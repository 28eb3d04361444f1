"""A missing package says how to get it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from edge_runtime import optional
from edge_runtime.errors import MissingDependencyError
from edge_runtime.optional import EXTRAS, is_available, require


def test_what_is_there_is_given() -> None:
    assert require("json", "for nothing") is json
    assert is_available("json")


@pytest.mark.parametrize("name", sorted(EXTRAS))
def test_the_install_line_of_each_package(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)  # what import makes an ImportError of
    assert not is_available(name)
    with pytest.raises(MissingDependencyError) as caught:
        require(name, "to do a thing")
    assert f"{name} is needed to do a thing" in str(caught.value)
    assert f"pip install 'pocus-edge-runtime[{EXTRAS[name]}]'" in str(caught.value)
    assert isinstance(caught.value.__cause__, ImportError)


def test_a_part_of_a_package_has_the_line_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pydicom", "pydicom.pixels"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingDependencyError, match=r"pocus-edge-runtime\[dicom\]"):
        require("pydicom.pixels", "to read")


def test_a_package_of_no_extra_is_installed_by_its_name() -> None:
    with pytest.raises(MissingDependencyError, match="pip install no_such_package_anywhere"):
        require("no_such_package_anywhere", "to test")


def test_a_package_that_fails_otherwise_is_not_called_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_package_for_test.py").write_text("raise ZeroDivisionError\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ZeroDivisionError):
        require("broken_package_for_test", "to test")


def test_every_extra_exists() -> None:
    tomllib = pytest.importorskip("tomllib", reason="the standard library reads TOML from 3.11 on")
    path = Path(__file__).parents[2] / "runtime" / "pyproject.toml"
    extras = tomllib.loads(path.read_text())["project"]["optional-dependencies"]
    assert set(optional.EXTRAS.values()) <= set(extras)
