"""The package is cheap to import and gives every name that it lists."""

from __future__ import annotations

import subprocess
import sys

import pytest

import edge_export


def test_import_is_lazy():
    code = (
        "import sys, edge_export\n"
        "print([m for m in ('torch', 'onnx', 'onnxruntime', 'numpy') if m in sys.modules])\n"
        "edge_export.to_int8, edge_export.package, edge_export.lint, edge_export.lower, edge_export.verify_variants\n"
        "print('torch' in sys.modules)\n"
    )
    path = ":".join(item for item in sys.path if item)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": path}
    )
    assert done.stdout.split("\n")[:2] == ["[]", "False"]


def test_names_are_sorted_and_there():
    assert edge_export.__all__ == sorted(edge_export.__all__)
    assert dir(edge_export) == edge_export.__all__
    for name in edge_export.__all__:
        assert getattr(edge_export, name) is not None
    with pytest.raises(AttributeError, match="no_such"):
        edge_export.no_such  # noqa: B018
