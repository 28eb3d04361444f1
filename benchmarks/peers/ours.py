"""The runtime itself under the same feed: its live defaults, its own preprocessing, runner and postprocessing.

Modes: "" runs the first model alone without a deadline; "ladder" has all models as rungs under `budget_ms`.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.peers.feed import Feed, Job, frame_id, run_job
from benchmarks.peers.work import MEAN, STD, Work
from edge_runtime.bundle.manifest import InputSpec, OutputSpec
from edge_runtime.frame import Frame
from edge_runtime.postprocess import OutputsPostprocessor
from edge_runtime.preprocess import Normalize, Preprocessor, PreprocessSpec, Resize, ToGray
from edge_runtime.result import Outcome, Result
from edge_runtime.runners import Runner
from edge_runtime.runners.onnxruntime import OrtRunner
from edge_runtime.sinks import CallbackSink
from edge_runtime.sources import Source
from edge_runtime.streaming import Branch, Pipeline, Rung
from edge_runtime.streaming.table import ledger_line

__all__ = ["SIZE", "network_spec"]

SIZE = (160, 240)  # of the student: rows, columns
_WORK = ("preprocess", "infer", "postprocess", "refine")
_NOTHING = np.zeros((1, 1, 1, 1), np.float32)


def network_spec() -> PreprocessSpec:
    """The steps of the student, without the crop: the synthetic clip has no scan area."""
    height, width = SIZE
    return PreprocessSpec(
        steps=(ToGray(), Resize(height=height, width=width), Normalize(scale=1.0, mean=float(MEAN), std=float(STD)))
    )


class _Camera(Source):
    """The feed as a live source; a frame arrives when it was due."""

    def __init__(self, feed: Feed) -> None:
        super().__init__(name="feed", live=True, fps=feed.job.fps)
        self._feed = feed

    def _next(self) -> Frame | None:
        index = self._feed.read
        image = self._feed.next()
        return None if image is None else Frame(image=image, index=index, arrival_ns=self._feed.due_ns(index))


class _Bare:
    """A preprocessor that does nothing."""

    tensor = _NOTHING

    def __call__(self, frame: Frame) -> _Bare:
        return self

    def reset(self) -> None:
        return None


class _WorkRunner(Runner):
    """`Work` without a network: nothing, or a sleep."""

    def __init__(self, work: Work) -> None:
        spec = InputSpec(name="image", shape=(1, 1, 1, 1))
        super().__init__(name="work", variant="work", input=spec, outputs=())
        self._work = work
        self._image = np.zeros((1, 1), np.uint8)

    def _activate(self) -> None:
        return None

    def _infer(self, inputs: Any) -> dict[str, npt.NDArray[np.float32]]:
        self._work(self._image)
        return {}

    def _deactivate(self) -> None:
        return None


def _no_outcome(*_: Any, **__: Any) -> Outcome:
    return Outcome()


def _branch(job: Job, work: Work) -> Branch:
    if job.work != "onnx":
        return Branch(preprocess=_Bare(), rungs=(Rung(runner=_WorkRunner(work), postprocess=_no_outcome),))
    spec = network_spec()
    given = InputSpec(name="image", shape=(1, 1, *SIZE))
    output = OutputSpec(name="mask", shape=(1, 1, *SIZE), kind="mask_logits", classes=("head",))
    rungs = tuple(
        Rung(
            runner=OrtRunner(Path(path).read_bytes(), Path(path).stem, given, (output,), threads=1),
            postprocess=OutputsPostprocessor((output,), spec),
        )
        for path in (job.models if job.mode == "ladder" else job.models[:1])
    )
    return Branch(preprocess=Preprocessor(spec), rungs=rungs, budget_ms=job.budget_ms)


def run(job: Job, feed: Feed, work: Work) -> dict[str, object]:
    """One block of the runtime."""
    wanted = np.load(job.wanted) if job.wanted else None
    threads: list[int] = []

    def deliver(result: Result) -> None:
        index = frame_id(result.frame.image)
        feed.record(index, result.state)
        threads.append(threading.active_count())
        if job.work == "onnx":
            work.service_ns.append(sum(result.stages_ns.get(stage, 0) for stage in _WORK))
        if wanted is not None and result.mask is not None:
            feed.delivered[-1] = replace(feed.delivered[-1], dice=_dice(result.mask, wanted[index % len(wanted)]))

    pipeline = Pipeline({"model": _branch(job, work)}, sinks={"sink": CallbackSink(deliver)})
    report = pipeline.run(_Camera(feed))
    branch = report.branches["model"]
    return {
        "balances": report.balances,
        "ledger": ledger_line(branch.ledger),
        "miss_ratio": branch.miss_ratio,
        "decisions": branch.decisions,
        "queue_p50_ms": branch.latency["queue"].p50 if "queue" in branch.latency else None,
        "variants": branch.variants,
        "threads": [min(threads), max(threads)] if threads else [],
        "warnings": list(report.warnings),
        "ladder": [[rung.variant, (rung.median_ns or 0) / 1e6, rung.kept] for rung in branch.ladder],
    }


def _dice(found: npt.NDArray[np.uint8], wanted: npt.NDArray[np.uint8]) -> float:
    both, total = np.count_nonzero(found & wanted), np.count_nonzero(found) + np.count_nonzero(wanted)
    return 2 * both / total if total else 1.0


if __name__ == "__main__":
    run_job(run)
