from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from edge_runtime.telemetry import GcPause, GcPauses


class Steps:
    """A clock that moves 5 ms at each look."""

    def __init__(self) -> None:
        self.now = 0

    def now_ns(self) -> int:
        self.now += 5_000_000
        return self.now


@pytest.fixture
def quiet() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("quiet")
def test_every_collection_is_measured() -> None:
    told: list[GcPause] = []
    with GcPauses(note=told.append, clock=Steps()) as pauses:  # type: ignore[arg-type]
        for generation in (0, 2, 2):
            loop: list[object] = []
            loop.append(loop)
            del loop
            gc.collect(generation)
    gc.collect()
    assert [(pause.generation, pause.end_ns - pause.start_ns) for pause in told] == [
        (0, 5_000_000), (2, 5_000_000), (2, 5_000_000),
    ]  # fmt: skip
    assert told[0].collected >= 1
    assert pauses.to_dict() == {
        "pauses": 3,
        "total_ms": 15.0,
        "longest_ms": 5.0,
        "generations": {"0": 1, "2": 2},
    }
    assert pauses._called not in gc.callbacks


@pytest.mark.usefixtures("quiet")
def test_a_collection_that_runs_at_the_start_is_left_out() -> None:
    with GcPauses() as pauses:
        pauses._called("stop", {"generation": 2, "collected": 0})
    assert pauses.to_dict() == {"pauses": 0, "total_ms": 0.0, "longest_ms": 0.0, "generations": {}}
