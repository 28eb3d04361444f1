"""`Pipeline`: named branches on one source, results to sinks or to the caller."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import TracebackType

from edge_runtime.clock import Clock, MonotonicClock
from edge_runtime.errors import ConfigError, PipelineError
from edge_runtime.frame import Frame
from edge_runtime.result import Result
from edge_runtime.sinks.base import Sink
from edge_runtime.streaming.branch import Branch
from edge_runtime.streaming.contracts import FrameSource
from edge_runtime.streaming.lane import Lane, SinkLane
from edge_runtime.streaming.report import StreamReport, build_report
from edge_runtime.streaming.run import StreamRun
from edge_runtime.streaming.step import BranchStep
from edge_runtime.streaming.warmup import Ladder, synthetic_frame, warm_up

__all__ = ["Pipeline"]


class Pipeline:
    """Runs each frame of a source through one or more branches within their budgets.

    Threads: capture, compute (all branches, in the order given), one for each sink. A live source keeps its rhythm
    (latest frame wins); any other source is processed without loss, in order, on the first rung, and budgets are not
    applied to it.

    `with pipeline:` activates the runners and warms up once for several streams; without it `run` and `stream` do so
    themselves. `warm_up_runs` calls measure each rung (0: none, ladders stay as declared) on `warm_up_frame` (by
    default 480 x 640 noise; give one of your frames when sizes differ). `queue` is the depth of the mailbox before
    the compute thread for sources that are not live. `pool_slots` results a branch may be held at once by sinks and
    by the caller (default: as many as the sinks' mailboxes can hold, and 3). `join_timeout_s` bounds the wait for
    the threads once the stream is over. `freeze_gc` collects garbage after warm-up and keeps what is then alive out
    of later collections.
    """

    def __init__(
        self,
        branches: Mapping[str, Branch],
        *,
        sinks: Mapping[str, Sink] | None = None,
        clock: Clock | None = None,
        warm_up_runs: int = 5,
        warm_up_frame: Frame | None = None,
        queue: int = 4,
        pool_slots: int | None = None,
        join_timeout_s: float = 10.0,
        freeze_gc: bool = True,
    ) -> None:
        if not branches:
            raise ConfigError("a pipeline without branches has nothing to do; give it at least one Branch")
        self.branches = dict(branches)
        self.sinks = dict(sinks or {})
        for name, sink in self.sinks.items():
            if sink.branch is not None and sink.branch not in self.branches:
                raise ConfigError(f"sink {name!r} asks for branch {sink.branch!r}; there is {sorted(self.branches)}")
        if queue < 1 or warm_up_runs < 0 or join_timeout_s <= 0:
            raise ConfigError(
                f"queue {queue}, warm_up_runs {warm_up_runs}, join_timeout_s {join_timeout_s}: "
                "at least 1, at least 0 and above 0 are needed"
            )
        self.clock: Clock = clock or MonotonicClock()
        self.warm_up_runs = warm_up_runs
        self.queue = queue
        self._warm_up_frame = warm_up_frame
        self._pool_slots = pool_slots
        self._join_timeout_s = join_timeout_s
        self._freeze_gc = freeze_gc
        self._active: ExitStack | None = None
        self._ladders: dict[str, Ladder] = {}
        self._run: StreamRun | None = None
        self._running = False

    def __enter__(self) -> Pipeline:
        if self._active is not None:
            raise PipelineError("the pipeline is open already; one `with` at a time")
        with ExitStack() as stack:
            for branch in self.branches.values():
                for rung in branch.rungs:
                    stack.enter_context(rung.runner)
            frame = self._warm_up_frame or synthetic_frame(self.clock)
            self._ladders = {
                name: warm_up(branch, frame, runs=self.warm_up_runs, clock=self.clock)
                for name, branch in self.branches.items()
            }
            if self._freeze_gc:
                gc.collect()
                gc.freeze()
                stack.callback(gc.unfreeze)
            self._active = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._active is not None:
            active, self._active = self._active, None
            active.close()

    def run(self, source: FrameSource) -> StreamReport:
        """Stream until the source ends or `stop()` is called; blocks, and can be interrupted.

        Raises what the source raised, `PipelineError` for a thread that would not stop, and whatever bug stopped the
        stream; `report` is there even then.
        """
        with self._streaming(source, ()) as run:
            run.threads.wait()
        return self.report

    def stream(self, source: FrameSource, *, capacity: int = 2) -> Iterator[Result]:
        """The results in order, as they come; each is valid until the next is asked for (else `copy()` it).

        The caller is one more sink: on a live source at most `capacity` results wait for it and the oldest is dropped.
        Leaving the loop early stops the stream. Raises as `run` does.
        """
        lane = Lane("stream", clock=self.clock, live=source.live, capacity=capacity)
        with self._streaming(source, (lane,)):
            try:
                while (item := lane.take()) is not None:
                    ticket, result = item
                    try:
                        yield result
                    finally:
                        lane.settle(ticket, result)
            finally:
                lane.close(discard=True)

    def stop(self) -> None:
        """End the running stream soon, from any thread; frames not yet taken are dropped as `stopped`."""
        if self._run is not None:
            self._run.stop()

    @property
    def report(self) -> StreamReport:
        """Of the running stream as it stands, else of the last one. `PipelineError` before the first."""
        if self._run is None:
            raise PipelineError("no stream has been run yet; call run() or stream() first")
        return build_report(self._run, warm_up_runs=self.warm_up_runs, queue=self.queue)

    @contextmanager
    def _streaming(self, source: FrameSource, more: tuple[Lane, ...]) -> Iterator[StreamRun]:
        """Everything around a stream: activation, sinks, start, and an end that cannot hang."""
        if self._running:
            raise PipelineError("a stream is running on this pipeline; stop it first, or make a second pipeline")
        self._running = True
        try:
            with ExitStack() as stack:
                if self._active is None:
                    stack.enter_context(self)
                run = self._run = self._prepare(source, more)
                run.threads.start()
                try:
                    yield run
                except BaseException:
                    run.stop()
                    raise
                finally:
                    run.join(self._join_timeout_s)
                if run.failure is not None:
                    raise run.failure
        finally:
            self._running = False

    def _prepare(self, source: FrameSource, more: tuple[Lane, ...]) -> StreamRun:
        lanes: list[Lane] = [
            SinkLane(name, sink, clock=self.clock, live=source.live) for name, sink in self.sinks.items()
        ]
        lanes += more
        capacity = sum(lane.capacity + 1 for lane in lanes)
        slots = self._pool_slots or capacity + 3
        steps = {
            name: BranchStep(name, branch, self._ladders[name], clock=self.clock, live=source.live, slots=slots)
            for name, branch in self.branches.items()
        }
        for branch in self.branches.values():
            branch.preprocess.reset()
        with ExitStack() as opened:  # when one sink cannot be opened, the ones before it are closed again
            for sink in self.sinks.values():
                sink.open()
                opened.callback(sink.close)
            opened.pop_all()
        return StreamRun(source, steps, lanes, clock=self.clock, queue=self.queue)
