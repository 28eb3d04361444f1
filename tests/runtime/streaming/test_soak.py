from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

from edge_runtime.frame import Frame
from edge_runtime.result import Result
from edge_runtime.runners.fake import FakeRunner
from edge_runtime.sinks import CallbackSink
from edge_runtime.streaming import Branch, Pipeline

N = 100_000


class Same:
    """The same image again and again."""

    name, live, fps = "same", False, None

    def __init__(self, image: Any) -> None:
        self.image, self.index = image, 0

    def read(self) -> Frame | None:
        self.index += 1
        return Frame(image=self.image, index=self.index, arrival_ns=self.index) if self.index <= N else None


@pytest.mark.slow
def test_memory_does_not_grow_over_100_000_frames(
    make_branch: Callable[..., Branch], frames: Callable[..., Any]
) -> None:
    sizes: list[int] = []

    def look(result: Result) -> None:
        if result.frame.index in (N // 10, N):
            sizes.append(tracemalloc.get_traced_memory()[0])

    tracemalloc.start()
    try:
        report = Pipeline(
            {"seg": make_branch(FakeRunner())}, sinks={"s": CallbackSink(look)}, warm_up_runs=0, freeze_gc=False
        ).run(Same(frames(1).image(0)))
    finally:
        tracemalloc.stop()
    assert report.branches["seg"].ledger.fresh == N
    assert sizes[1] - sizes[0] < 200_000
