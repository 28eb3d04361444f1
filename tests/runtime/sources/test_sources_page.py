"""The page on sources names every source and every fault, and quotes what is really said."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from edge_runtime import sources
from edge_runtime.errors import ConfigError
from edge_runtime.sources import Source, TransformGraph
from edge_runtime.sources.faults import FaultKind

PAGE = (Path(__file__).parents[3] / "docs" / "sources.md").read_text(encoding="utf-8")
ROWS = {line.split("`")[1]: line for line in PAGE.splitlines() if line.startswith("| `") and line.count("|") >= 7}


def test_every_source_and_option_has_its_place() -> None:
    found = {
        name: thing
        for name in sources.__all__
        if inspect.isclass(thing := getattr(sources, name)) and issubclass(thing, Source) and thing is not Source
    }
    assert set(ROWS) == set(found)
    for name, thing in found.items():
        options = [p.name for p in inspect.signature(thing).parameters.values() if p.kind is p.KEYWORD_ONLY]
        for option in set(options) - {"clock", "name"}:
            assert f"`{option}`" in ROWS[name], f"{name}: {option}"


def test_every_fault_is_named() -> None:
    for kind in get_args(FaultKind):
        assert f"`{kind}`" in PAGE


def test_the_error_is_quoted_as_it_is() -> None:
    eye = np.eye(4)
    graph = TransformGraph({f"{name}ToTracker": eye for name in ("Probe", "Reference", "Stylus")})
    with pytest.raises(ConfigError) as caught:
        graph.resolve("ImageToReference")
    assert str(caught.value) in " ".join(PAGE.split())
