"""The three distributions carry one version, in their metadata and in their modules."""

from __future__ import annotations

import importlib
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MEMBERS = {"edge_sdk": ROOT, "edge_export": ROOT / "export", "edge_runtime": ROOT / "runtime"}


def declared(folder: Path) -> dict[str, object]:
    return tomllib.loads((folder / "pyproject.toml").read_text())["project"]


@pytest.mark.parametrize("name", MEMBERS)
def test_module_and_metadata_agree(name: str) -> None:
    assert importlib.import_module(name).__version__ == declared(MEMBERS[name])["version"]


def test_versions_are_equal_and_pinned_to_each_other() -> None:
    versions = {str(declared(folder)["version"]) for folder in MEMBERS.values()}
    assert len(versions) == 1
    (version,) = versions
    own = [d for folder in MEMBERS.values() for d in declared(folder)["dependencies"] if d.startswith("pocus-edge")]
    assert own
    assert all(d.endswith(f"=={version}") for d in own)
