"""The tree of errors is the one that is drawn, with its exit codes."""

from __future__ import annotations

import re

import pytest

from edge_runtime import errors
from edge_runtime.errors import CorruptFrameError, EdgeError

DRAWN = re.findall(r"^    ([│ ]*)(?:[├└]── )?(\w+Error) +(\d)", errors.__doc__ or "", re.MULTILINE)


def test_every_error_is_drawn_once_and_exported() -> None:
    names = [name for _, name, _ in DRAWN]
    assert sorted(["EdgeError", *names]) == errors.__all__
    assert errors.__all__ == sorted(errors.__all__)


def test_exit_codes_and_parents_are_as_drawn() -> None:
    parents: dict[int, type[EdgeError]] = {}
    for indent, name, code in DRAWN:
        kind = getattr(errors, name)
        depth = len(indent) // 4
        parents[depth] = kind
        assert kind.exit_code == int(code), name
        assert kind.__bases__ == (parents[depth - 1] if depth else EdgeError,), name


@pytest.mark.parametrize("name", errors.__all__)
def test_every_error_has_a_docstring_and_can_be_caught_as_one(name: str) -> None:
    kind = getattr(errors, name)
    assert kind.__doc__
    assert issubclass(kind, EdgeError)
    made = kind("message", 7) if kind is CorruptFrameError else kind("message")
    assert str(made) == "message"


def test_a_corrupt_frame_says_which() -> None:
    assert CorruptFrameError("damaged", 12).index == 12
