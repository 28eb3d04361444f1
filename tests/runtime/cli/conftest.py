"""`call(...)`: a command of `edge-runtime` in this process; files to give it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("typer")
pytest.importorskip("yaml")

DATA = Path(__file__).parents[2] / "data"
Call = Callable[..., Any]


@pytest.fixture
def call() -> Call:
    """`call(*arguments)` -> result with `exit_code`, `stdout` and `stderr`."""
    from typer.testing import CliRunner

    from edge_runtime.cli.app import app

    return lambda *arguments: CliRunner().invoke(app, [str(item) for item in arguments])


@pytest.fixture
def edge(tmp_path: Path) -> Path:
    """A copy of the signed v1 file."""
    return Path(shutil.copy(DATA / "v1.edge", tmp_path / "v1.edge"))


@pytest.fixture
def key() -> Path:
    """The public key that signed it."""
    return DATA / "v1.pub.pem"


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    """Eight frames (8, 20, 24) uint8 in a .npy file, without timing."""
    path = tmp_path / "frames.npy"
    np.save(path, np.random.default_rng(0).integers(0, 255, (8, 20, 24), dtype=np.uint8))
    return path
