"""`Pipeline`: named branches on one source, results to sinks or to the caller."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edge_runtime.clock import Clock, MonotonicClock
from edge_runtime.errors import ConfigError, PipelineError
from edge_runtime.frame import Frame, FrameGeometry
from edge_runtime.result import Result
from edge_runtime.sinks.base import Sink
from edge_runtime.streaming.arguments import checked_branches, checked_sinks, require_source
from edge_runtime.streaming.background import Background
from edge_runtime.streaming.beside import Beside
from edge_runtime.streaming.branch import Branch
from edge_runtime.streaming.contracts import FrameSource
from edge_runtime.streaming.describe import describe
from edge_runtime.streaming.intake import Intake
from edge_runtime.streaming.journal import Journal
from edge_runtime.streaming.lane import Lane, SinkLane
from edge_runtime.streaming.records import Observer, StreamEvent
from edge_runtime.streaming.report import StreamReport, build_report
from edge_runtime.streaming.run import RunSettings, StreamRun
from edge_runtime.streaming.scheduling import Scheduling
from edge_runtime.streaming.step import BranchStep
from edge_runtime.streaming.swap import exchange
from edge_runtime.streaming.thermal import CapHook
from edge_runtime.streaming.warmup import Ladder, synthetic_frame, warm_up
from edge_runtime.streaming.watchdog import Watchdogs

if TYPE_CHECKING:  # sources stand on streaming
    from edge_runtime.sources.push import PushSource

__all__ = ["Pipeline"]

_INTAKE, _WATCHDOGS, _SCHEDULING = Intake(), Watchdogs(), Scheduling()


class Pipeline:
    """Runs each frame of a source through one or more branches within their budgets.

    Threads: capture, compute (all branches, in the order given), one for each sink, and one that watches; one more
    with `on_event`. A live source keeps its rhythm
    (latest frame wins); any other source is processed without loss, in order, on the first rung, and budgets are not
    applied to it.

    `with pipeline:` activates the runners and warms up once for several streams; without it `run` and `stream` do so
    themselves. `warm_up_runs` calls measure each rung (0: none, ladders stay as declared) on `warm_up_frame` (by
    default 480 x 640 noise; give one of your frames when sizes differ). `queue` is the depth of the mailbox before
    the compute thread for sources that are not live. `pool_slots` results a branch may be held at once by sinks and
    by the caller (default: as many as the sinks' mailboxes can hold, and 3). `join_timeout_s` bounds the wait for
    the threads once the stream is over. `freeze_gc` collects garbage after warm-up and keeps what is then alive out
    of later collections.

    `intake` says what happens to odd frames, `watchdogs` what is watched, `caps` are hooks that hold the ladders down
    (heat, power mode), `scheduling` is asked of the kernel, `beside` are poses and inertial samples (by default the
    `poses` of the source, where it has them). `on_event` is called with each event, in a thread of its own; `observe`
    with every record, at once.
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
        intake: Intake = _INTAKE,
        watchdogs: Watchdogs = _WATCHDOGS,
        scheduling: Scheduling = _SCHEDULING,
        caps: Sequence[CapHook] = (),
        beside: Beside | None = None,
        on_event: Callable[[StreamEvent], None] | None = None,
        observe: Observer | None = None,
    ) -> None:
        self.branches = checked_branches(branches)
        self.sinks = checked_sinks(sinks, self.branches)
        if queue < 1 or warm_up_runs < 0 or join_timeout_s <= 0:
            raise ConfigError(
                f"queue {queue}, warm_up_runs {warm_up_runs}, join_timeout_s {join_timeout_s}: "
                "at least 1, at least 0 and above 0 are needed"
            )
        self.clock: Clock = clock or MonotonicClock()
        self.warm_up_runs = warm_up_runs
        self.queue = queue
        self._settings = RunSettings(
            queue=queue, intake=intake, watchdogs=watchdogs, scheduling=scheduling, caps=tuple(caps)
        )
        self._beside = beside
        self._on_event, self._observe = on_event, observe
        self._background: Background | None = None
        self._held: dict[str, ExitStack] = {}  # the active runners of each branch
        self._exchanging = threading.Lock()
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
        self._activate()
        return self

    def _activate(self) -> None:
        with ExitStack() as stack:
            stack.callback(self._release_runners)
            for name, branch in self.branches.items():
                held = self._held[name] = ExitStack()
                for rung in branch.rungs:
                    held.enter_context(rung.runner)
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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        finally:
            self._deactivate()

    def _deactivate(self) -> None:
        active, self._active = self._active, None
        if active is not None:
            active.close()

    def _release_runners(self) -> None:
        with self._exchanging:  # an exchange that is under way ends first
            with ExitStack() as all_held:
                for held in self._held.values():
                    all_held.enter_context(held)
            self._held.clear()

    def run(self, source: FrameSource) -> StreamReport:
        """Stream until the source ends or `stop()` is called; blocks, and can be interrupted.

        Raises `ConfigError` for what is no source, what the source raised, `PipelineError` for a thread that would not
        stop, and whatever bug stopped the stream; `report` is there even then.
        """
        require_source(source)
        with self._streaming(source) as run:
            run.threads.wait()
        return self.report

    def stream(self, source: FrameSource, *, capacity: int = 2) -> Iterator[Result]:
        """The results in order, as they come; each is valid until the next is asked for (else `copy()` it).

        The caller is one more sink: on a live source at most `capacity` results wait for it and the oldest is dropped.
        Leaving the loop early stops the stream. Raises as `run` does.
        """
        require_source(source)
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

    def start(self, source: FrameSource | None = None, *, capacity: int = 2) -> None:
        """Begin a stream in the background and return; `poll` its results, `drain` it at the end.

        Without a source frames come by `push`, into a live `PushSource` (give your own for another policy, rate or
        clock). At most `capacity` results wait to be polled: on a live stream the oldest is then dropped and counted,
        on any other the stream waits.
        """
        if self._background is not None:
            raise PipelineError("a stream was started already; call drain() or close() before the next start()")
        if source is None:
            from edge_runtime.sources.push import PushSource  # sources stand on streaming

            source = PushSource(clock=self.clock)
        require_source(source)
        lane = Lane("poll", clock=self.clock, live=source.live, capacity=capacity)
        self._background = Background(self._streaming(source, (lane,)), source, lane)

    def push(
        self,
        image: npt.NDArray[np.uint8],
        *,
        device_ns: int | None = None,
        arrival_ns: int | None = None,
        geometry: FrameGeometry | None = None,
        copy: bool = True,
    ) -> bool:
        """Hand in one image (as `PushSource.push`); False when the stream is over and it was dropped. Any thread.

        Raises `PipelineError` unless a stream was started that takes pushed frames; `ConfigError` for what is no image.
        """
        return self._pushed().push(image, device_ns=device_ns, arrival_ns=arrival_ns, geometry=geometry, copy=copy)

    def end(self) -> None:
        """No more frames are pushed: those inside are worked on, then `poll` gives None for good. Any thread."""
        self._pushed().end()

    def poll(self, timeout_ms: float | None = 0.0) -> Result | None:
        """The next result of the started stream, valid until the next `poll`; by one thread.

        None when there is none within `timeout_ms` (None: wait) or none will come: `over` tells which.
        """
        return self._started().poll(timeout_ms)

    @property
    def over(self) -> bool:
        """Whether the started stream has ended and all its results were polled."""
        return self._started().over

    def drain(self) -> StreamReport:
        """End the started stream: what was pushed is worked on and delivered to the sinks, what is not polled is
        dropped (`closed`). Any other source is stopped. Bounded by `join_timeout_s`; raises as `run` does."""
        background = self._started()
        self._background = None
        end = getattr(background.source, "end", self.stop)  # a PushSource can end, anything else is stopped
        end()
        background.close()
        return self.report

    def close(self) -> None:
        """Stop the started stream, if there is one, without waiting for frames inside; raises as `run` does."""
        background, self._background = self._background, None
        if background is not None:
            if not background.over:
                self.stop()
            background.close()

    def _started(self) -> Background:
        if self._background is None:
            raise PipelineError("no stream was started; call start() first, or use run() or stream()")
        return self._background

    def _pushed(self) -> PushSource:
        from edge_runtime.sources.push import PushSource

        source = self._started().source
        if not isinstance(source, PushSource):
            raise PipelineError(
                f"source {source.name!r} gives its own frames; start() without a source takes pushed ones"
            )
        return source

    def describe(self) -> dict[str, Any]:
        """The effective settings, JSON-ready: each branch with its bundle, rungs, budget and policies, each sink, and
        what the whole is run with."""
        return describe(self.branches, self.sinks, self._settings, warm_up_runs=self.warm_up_runs)

    def newest_frame(self, branch: str) -> Frame:
        """The frame of the newest good result of `branch` in the running stream, else the one for warm-up."""
        newest = self._run.steps[branch].newest if self._run is not None and self._running else None
        return newest.frame if newest is not None else self._warm_up_frame or synthetic_frame(self.clock)

    def tell(self, message: str, *, branch: str = "", frame: int | None = None) -> None:
        """Put an event of the program's own (`told`) into the report of the running stream. Any thread."""
        if self._run is None or not self._running:
            raise PipelineError("no stream is running that could be told something")
        self._run.journal.tell("told", message, branch=branch, frame=frame)

    def swap(self, name: str, make: Callable[[], Branch], *, trial_frames: int = 30, timeout_s: float = 30.0) -> None:
        """Exchange a branch while the stream runs, as `edge_runtime.streaming.swap.exchange` says.

        Loads, warms up and waits in the calling thread, which must not be one of the stream's (a sink, a callback).
        Raises what `make`, loading and warm-up raise (nothing has changed then) and `PipelineError` when the new
        branch failed a frame of its trial (the old one is back) or there is no such branch.
        """
        if name not in self.branches:
            raise ConfigError(f"there is no branch {name!r} to exchange; there is {sorted(self.branches)}")
        with self._exchanging:
            done = exchange(
                name,
                make,
                self._run if self._running else None,
                before=self.branches[name],
                frame=self.newest_frame(name),
                warm_up_runs=self.warm_up_runs,
                trial_frames=trial_frames,
                timeout_s=timeout_s,
                clock=self.clock,
            )
            self.branches[name], self._ladders[name] = done.branch, done.ladder
            old = self._held.pop(name, None)
            if old is None:  # not open: the next stream activates it
                done.active.close()
            else:
                self._held[name] = done.active
                old.close()

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
    def _streaming(self, source: FrameSource, more: tuple[Lane, ...] = ()) -> Iterator[StreamRun]:
        """Everything around a stream: activation, sinks, start, and an end that cannot hang."""
        if self._running:
            raise PipelineError("a stream is running on this pipeline; stop it first, or make a second pipeline")
        self._running = True
        try:
            with ExitStack() as stack:
                if self._active is None:
                    stack.callback(self._deactivate)
                    self._activate()
                run = self._run = self._prepare(source, more)
                run.start()
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
        journal = Journal(clock=self.clock, observe=self._observe, on_event=self._on_event)
        live = source.live
        steps = {
            name: BranchStep(
                name,
                branch,
                self._ladders[name],
                clock=self.clock,
                live=live,
                fps=source.fps,
                slots=slots,
                journal=journal,
            )
            for name, branch in self.branches.items()
        }
        for branch in self.branches.values():
            branch.reset()
        with ExitStack() as opened:  # when one sink cannot be opened, the ones before it are closed again
            for sink in self.sinks.values():
                sink.open()
                opened.callback(sink.close)
            opened.pop_all()
        poses = getattr(source, "poses", None)
        beside = self._beside or (None if poses is None else Beside(poses=poses))
        return StreamRun(
            source, steps, lanes, clock=self.clock, journal=journal, settings=self._settings, beside=beside
        )
