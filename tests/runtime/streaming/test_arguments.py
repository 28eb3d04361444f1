"""What a pipeline is given in error: each mistake is told with the value, what is needed, and the next step."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edge_runtime.errors import ConfigError
from edge_runtime.runners.fake import FakeRunner
from edge_runtime.sinks import CollectSink
from edge_runtime.streaming import Branch, Pipeline

MakeBranch = Callable[..., Branch]


class Model:
    """As a loaded model: it has a `branch()`."""

    def branch(self) -> None:
        """Never called."""


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ([], "branches is a list; a mapping of names to Branch is needed"),
        (None, "branches is NoneType None; a mapping"),
        ("seg", "branches is str 'seg'"),
        (Model(), "such as {'name': model.branch()}"),
        ({}, "at least one Branch"),
        ({"s": Model()}, "branch 's' is a Model; a Branch is needed: use model.branch()"),
        ({"s": "m.edge"}, "branch 's' is str 'm.edge'; a Branch is needed: use model.branch() of what load() returns"),
    ],
)
def test_what_is_no_mapping_of_branches_is_refused(given: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(told)):
        Pipeline(given)


def test_a_branch_alone_or_under_a_number_is_refused(make_branch: MakeBranch) -> None:
    branch = make_branch(FakeRunner())
    with pytest.raises(
        ConfigError, match=re.escape("a Branch; a mapping of names to Branch is needed, such as {'name'")
    ):
        Pipeline(branch)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="branches has the name 1; a name is a str"):
        Pipeline({1: branch})  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ([CollectSink()], "sinks is a list; a mapping of names to Sink is needed, such as {'results'"),
        (CollectSink(), "sinks is a CollectSink; a mapping"),
        ({"c": print}, "sink 'c' is a builtin_function_or_method; a Sink is needed: wrap it in CallbackSink"),
        ({"c": "out.jsonl"}, "sink 'c' is str 'out.jsonl'; a Sink is needed: use one of edge_runtime.sinks"),
        ({2: CollectSink()}, "sinks has the name 2"),
        ({"c": CollectSink(branch="other")}, "asks for branch 'other'; there is ['seg']"),
    ],
)
def test_what_is_no_mapping_of_sinks_is_refused(make_branch: MakeBranch, given: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(told)):
        Pipeline({"seg": make_branch(FakeRunner())}, sinks=given)


@pytest.mark.parametrize("given", ["x.mp4", Path("x.mp4"), 0, None, [], SimpleNamespace(name="x", live=False, fps=1)])
def test_what_gives_no_frames_is_refused_before_anything_is_loaded(make_branch: MakeBranch, given: Any) -> None:
    pipeline = Pipeline({"seg": make_branch(FakeRunner())})
    with pytest.raises(ConfigError, match="something that gives frames is needed: use open_source"):
        pipeline.run(given)
    with pytest.raises(ConfigError, match="use open_source"):
        next(pipeline.stream(given))
    if given is not None:  # start() takes pushed frames then
        with pytest.raises(ConfigError, match="use open_source"):
            pipeline.start(given)
