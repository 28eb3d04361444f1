"""A stream in the background: frames pushed, results polled, drained, closed; and the same in an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from edge_runtime.errors import ConfigError, PipelineError, SourceError
from edge_runtime.runners.fake import FakeRunner
from edge_runtime.sinks import CollectSink
from edge_runtime.sources import PushSource
from edge_runtime.streaming import Branch, Pipeline, astream

MakeBranch = Callable[..., Branch]
MakeFrames = Callable[..., Any]
IMAGE = np.arange(16 * 24, dtype=np.uint8).reshape(16, 24)


def quiet(branches: dict[str, Branch], **options: Any) -> Pipeline:
    return Pipeline(branches, **{"warm_up_runs": 0, "freeze_gc": False, **options})


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
        assert not thread.is_alive(), thread.name


def test_what_is_pushed_is_polled_in_order(make_branch: MakeBranch) -> None:
    pipeline = quiet({"seg": make_branch(FakeRunner())})
    pipeline.start(PushSource(capacity=10, policy="block", live=False))
    assert all(pipeline.push(IMAGE + k) for k in range(5))
    pipeline.end()
    found = []
    while (result := pipeline.poll(None)) is not None:
        assert result.mask is not None
        found.append((result.frame.index, result.mask.copy()))
    assert pipeline.over
    assert [index for index, _ in found] == [0, 1, 2, 3, 4]
    assert np.array_equal(found[2][1], (IMAGE + 2) >= 128)
    report = pipeline.drain()
    assert (report.branches["seg"].ledger.fresh, report.sinks["poll"].ledger.fresh, report.balances) == (5, 5, True)
    assert report.branches["seg"].pool_held == 0


def test_a_poll_does_not_wait_and_a_result_lives_until_the_next(make_branch: MakeBranch) -> None:
    pipeline = quiet({"seg": make_branch(FakeRunner())})
    pipeline.start()
    assert pipeline.poll() is None
    assert pipeline.poll(1.0) is None
    assert not pipeline.over
    pipeline.push(IMAGE)
    result = pipeline.poll(20_000.0)
    assert result is not None
    assert result.mask is not None
    assert pipeline.report.sinks["poll"].ledger.in_flight == 1
    assert pipeline.poll() is None
    assert pipeline.report.sinks["poll"].ledger.in_flight == 0
    pipeline.close()


def test_drain_works_on_what_is_inside_and_counts_what_nobody_polled(make_branch: MakeBranch) -> None:
    sink = CollectSink()
    pipeline = quiet({"seg": make_branch(FakeRunner())}, sinks={"s": sink})
    with pipeline:
        pipeline.start(PushSource(capacity=8, policy="block", live=False), capacity=1)
        for _ in range(8):
            pipeline.push(IMAGE)
        report = pipeline.drain()
        assert [result.frame.index for result in sink.results] == list(range(8))
        assert report.sinks["poll"].ledger.dropped == {"closed": 8}
        assert report.balances
        assert report.warnings == ()
        pipeline.start()
        pipeline.push(IMAGE)
        assert pipeline.poll(20_000.0) is not None
    assert pipeline.report.balances


def test_close_wakes_a_source_that_waits(make_branch: MakeBranch) -> None:
    pipeline = quiet({"seg": make_branch(FakeRunner())})
    pipeline.start(PushSource())
    pipeline.close()
    pipeline.close()
    assert pipeline.report.branches["seg"].ledger.arrived == 0
    waiting = PushSource()
    stopper = threading.Timer(0.05, pipeline.stop)
    stopper.start()
    report = pipeline.run(waiting)
    stopper.join(10)
    assert "stopped before its source ended" in report.to_text()


def test_misuse_of_the_background_is_refused(make_branch: MakeBranch, frames: MakeFrames) -> None:
    pipeline = quiet({"seg": make_branch(FakeRunner())})
    for call in (pipeline.poll, pipeline.drain, pipeline.end, lambda: pipeline.push(IMAGE), lambda: pipeline.over):
        with pytest.raises(PipelineError, match="no stream was started"):
            call()
    with pytest.raises(PipelineError, match="no stream is running"):
        pipeline.tell("hello")
    pipeline.start(frames(3))
    with pytest.raises(PipelineError, match="started already"):
        pipeline.start()
    with pytest.raises(PipelineError, match="gives its own frames"):
        pipeline.push(IMAGE)
    pipeline.close()
    pipeline.start()
    for bad in (np.zeros((0, 5), np.uint8), np.zeros((4, 4), np.float32)):
        with pytest.raises(ConfigError, match="frame 0: image has shape"):
            pipeline.push(bad)
    pipeline.tell("depth knob was turned")
    pipeline.end()
    assert pipeline.poll(None) is None
    assert pipeline.push(IMAGE) is False
    report = pipeline.drain()
    assert [(event.kind, event.message) for event in report.events] == [("told", "depth knob was turned")]


def test_a_source_that_dies_is_raised_at_the_end(make_branch: MakeBranch, frames: MakeFrames) -> None:
    def die(index: int) -> None:
        if index == 2:
            raise SourceError("unplugged")

    pipeline = quiet({"seg": make_branch(FakeRunner())})
    pipeline.start(frames(9, before=die))
    while pipeline.poll(None) is not None:
        pass
    with pytest.raises(SourceError, match="unplugged"):
        pipeline.close()
    assert pipeline.report.event_counts == {"source_lost": 1}


def test_two_pipelines_in_one_process_do_not_mix(make_branch: MakeBranch) -> None:
    pipelines = [quiet({"seg": make_branch(FakeRunner())}) for _ in range(2)]
    for pipeline in pipelines:
        pipeline.start(PushSource(capacity=50, policy="block", live=False), capacity=50)
    for k in range(50):
        pipelines[k % 2].push(np.full((8, 8), k, np.uint8))
    for which, pipeline in enumerate(pipelines):
        pipeline.end()
        values = []
        while (result := pipeline.poll(None)) is not None:
            values.append(int(result.frame.image[0, 0]))
        assert values == list(range(which, 50, 2))
        assert pipeline.drain().branches["seg"].ledger.fresh == 25


def test_async_for_gives_every_result_while_the_loop_goes_on(make_branch: MakeBranch, frames: MakeFrames) -> None:
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0)

    async def main() -> list[int]:
        ticking = asyncio.create_task(tick())
        found = [result.frame.index async for result in astream(pipeline, frames(20))]
        ticking.cancel()
        return found

    pipeline = quiet({"seg": make_branch(FakeRunner(latency_ms=1))})
    assert asyncio.run(main()) == list(range(20))
    assert ticks > 20
    report = pipeline.report
    assert (report.branches["seg"].ledger.fresh, report.warnings, report.branches["seg"].pool_held) == (20, (), 0)


def test_two_streams_in_one_event_loop(make_branch: MakeBranch, frames: MakeFrames) -> None:
    async def count(n: int) -> int:
        return len([0 async for _ in astream(quiet({"seg": make_branch(FakeRunner())}), frames(n))])

    async def main() -> list[int]:
        return list(await asyncio.gather(count(7), count(11)))

    assert asyncio.run(main()) == [7, 11]


@pytest.mark.parametrize("how", ["break", "cancel", "error"])
def test_leaving_an_async_stream_stops_it(make_branch: MakeBranch, frames: MakeFrames, how: str) -> None:
    pipeline = quiet({"seg": make_branch(FakeRunner())})

    async def consume() -> None:
        stream = astream(pipeline, PushSource() if how == "cancel" else frames(10**9))
        try:
            async for result in stream:
                if result.frame.index == 3 and how == "break":
                    break
                if result.frame.index == 3:
                    raise KeyError("mine")
        finally:
            await stream.aclose()  # type: ignore[attr-defined]

    async def main() -> None:
        task = asyncio.create_task(consume())
        if how == "cancel":
            await asyncio.sleep(0.05)
            task.cancel()
        await task

    if how == "break":
        asyncio.run(main())
    else:
        with pytest.raises(KeyError if how == "error" else asyncio.CancelledError):
            asyncio.run(main())
    assert pipeline.report.balances
    assert pipeline.report.branches["seg"].pool_held == 0


def test_an_async_stream_raises_what_the_source_raised(make_branch: MakeBranch, frames: MakeFrames) -> None:
    async def main() -> None:
        async for _ in astream(pipeline, frames(5, before=lambda index: 1 // (3 - index))):
            pass

    pipeline = quiet({"seg": make_branch(FakeRunner())})
    with pytest.raises(ZeroDivisionError):
        asyncio.run(main())
    assert pipeline.report.branches["seg"].ledger.fresh == 3
