"""Holoscan with native Python operators. Modes: "default" (greedy scheduler, bounded queue of one) and "pop" (three
settings: no output condition, queue of size 1 that pops the oldest, event-based scheduler with workers)."""

# mypy: disable-error-code="import-not-found, misc"
# the rival is installed in an environment of its own

from __future__ import annotations

from typing import Any

from holoscan.conditions import CountCondition
from holoscan.core import Application, ConditionType, IOSpec, Operator, OperatorSpec
from holoscan.schedulers import EventBasedScheduler, GreedyScheduler

from benchmarks.peers.feed import Feed, Job, frame_id, run_job
from benchmarks.peers.work import Work

_WORKERS = 3


class _Packet:
    """What goes from operator to operator, by reference."""

    def __init__(self, image: Any) -> None:
        self.image = image
        self.mask: Any = None


class _Camera(Operator):
    """Waits for the next frame of the feed and emits it."""

    def __init__(self, *args: Any, feed: Feed, pop: bool, **kwargs: Any) -> None:
        self.feed, self.pop = feed, pop
        super().__init__(*args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        port = spec.output("out")
        if self.pop:
            port.condition(ConditionType.NONE)

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        image = self.feed.next()
        if image is None:
            self.stop_execution()
            return
        op_output.emit(_Packet(image), "out")


class _Step(Operator):
    """The work, handed on with the frame."""

    def __init__(self, *args: Any, work: Work, pop: bool, **kwargs: Any) -> None:
        self.work, self.pop = work, pop
        super().__init__(*args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        _input(spec, self.pop)
        port = spec.output("out")
        if self.pop:
            port.condition(ConditionType.NONE)

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        packet = op_input.receive("in")
        packet.mask = self.work(packet.image)
        op_output.emit(packet, "out")


class _Sink(Operator):
    """The end: note when the frame has come."""

    def __init__(self, *args: Any, feed: Feed, pop: bool, **kwargs: Any) -> None:
        self.feed, self.pop = feed, pop
        super().__init__(*args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        _input(spec, self.pop)

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        self.feed.record(frame_id(op_input.receive("in").image))


def _input(spec: OperatorSpec, pop: bool) -> None:
    if pop:
        spec.input("in", size=1, policy=IOSpec.QueuePolicy.POP)
    else:
        spec.input("in")


class _App(Application):
    def __init__(self, job: Job, feed: Feed, work: Work) -> None:
        super().__init__()
        self._parts = job, feed, work

    def compose(self) -> None:
        job, feed, work = self._parts
        pop = job.mode == "pop"
        camera = _Camera(self, CountCondition(self, job.frames + 1), feed=feed, pop=pop, name="camera")
        step = _Step(self, work=work, pop=pop, name="step")
        sink = _Sink(self, feed=feed, pop=pop, name="sink")
        self.add_flow(camera, step)
        self.add_flow(step, sink)


def run(job: Job, feed: Feed, work: Work) -> dict[str, object]:
    """One block of Holoscan."""
    app = _App(job, feed, work)
    if job.mode == "pop":
        app.scheduler(EventBasedScheduler(app, worker_thread_number=_WORKERS, name="scheduler"))
    else:
        app.scheduler(GreedyScheduler(app, name="scheduler"))
    app.run()
    return {}


if __name__ == "__main__":
    run_job(run)
