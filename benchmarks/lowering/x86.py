"""INT8 on this machine's processor: speed against ONNX Runtime fp32, and what a processor without VNNI makes of it.

`python -m benchmarks.lowering.x86 NAME MODEL OUT` writes the logits of the test split, computed by OpenVINO; the table
calls it with ONEDNN_MAX_CPU_ISA=AVX2, which takes VNNI away and is read when OpenVINO is loaded.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from time import perf_counter_ns

import numpy as np

from benchmarks.distill.stored import paired_bootstrap
from benchmarks.figures import Figure, judged
from benchmarks.lowering.cases import Float64, lowered, scores, student, tensors
from edge_export import ModelCard, package
from edge_runtime import loading
from edge_runtime.clock import MonotonicClock
from edge_runtime.runners import OpenVinoRunner, OrtRunner, available_runners
from edge_runtime.streaming.warmup import Ladder, warm_up
from edge_sdk.frames import frames_of
from edge_sdk.simulate import training_frame

__all__ = ["has_vnni", "measure_x86_int8"]

NAME = "hc18"
ROUNDS = 200
GOALS = {"ort int8-cpu": 1.1, "openvino int8-cpu": 1.5}


def has_vnni() -> bool | None:
    """Whether the processor multiplies 8-bit integers into 32 bits at once; None where Linux does not say."""
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return None
    words = set(path.read_text().split())
    return bool(words & {"avx512_vnni", "avx_vnni"})


def measure_x86_int8() -> list[Figure]:
    """Ratios, file size, the drop without VNNI, and the rung that warm-up puts last."""
    times = _times()
    share = lowered(NAME).report.variant("int8-cpu").size_ratio
    parameters = sum(int(np.prod(item.dims)) for item in student(NAME).model.graph.initializer)
    figures = [_ratio(times, key, goal) for key, goal in GOALS.items()]
    figures.append(
        judged(
            name=f"file of int8-cpu, a student of {parameters / 1e6:.2f} M parameters",
            value=100 * share,
            goal="<= 40 % of fp32",
            unit="%",
            n=1,
        )
    )
    return [*figures, _without_vnni(), _ladder(times)]


@cache
def _times() -> dict[str, Float64]:
    """Milliseconds of each contestant by round; all take their turn in every round, one call before the timed one."""
    of, files = student(NAME), lowered(NAME).files
    sample = {of.input.name: tensors(of.case, of.case.read("test"))[0]}
    kinds = {"ort": OrtRunner, "openvino": OpenVinoRunner}
    with ExitStack() as stack:
        runners = {
            f"{on} {variant}": stack.enter_context(kind(files[variant], variant, of.input, of.outputs, threads=1))
            for on, kind in kinds.items()
            for variant in ("fp32", "int8-cpu")
        }
        found: dict[str, list[float]] = {key: [] for key in runners}
        for _ in range(ROUNDS):
            for key, runner in runners.items():
                runner.infer(sample)
                began = perf_counter_ns()
                runner.infer(sample)
                found[key].append((perf_counter_ns() - began) / 1e6)
    return {key: np.asarray(values) for key, values in found.items()}


def _ratio(times: dict[str, Float64], key: str, goal: float) -> Figure:
    """The smaller of the ratio of the minima and that of the medians."""
    base, other = times["ort fp32"], times[key]
    least, middle = base.min() / other.min(), float(np.median(base) / np.median(other))
    low, high = np.percentile(base / other, (25, 75))
    return judged(
        name=f"{NAME}, {key} against ort fp32, one thread",
        value=min(least, middle),
        goal=f">= {goal:g}",
        unit="times",
        n=ROUNDS,
        spread=f"minima {least:.2f}, medians {middle:.2f}, quartiles of rounds {low:.2f} to {high:.2f}; "
        f"VNNI: {has_vnni()}",
        detail={"minimum ms": {name: float(v.min()) for name, v in times.items()}, "vnni": has_vnni()},
    )


def _without_vnni() -> Figure:
    """Dice drop of the same file where pairs of products saturate."""
    of = student(NAME)
    images = of.case.read("test")
    with tempfile.TemporaryDirectory() as folder:
        model, out = Path(folder) / "int8-cpu.onnx", Path(folder) / "logits.npy"
        model.write_bytes(lowered(NAME).files["int8-cpu"])
        command = [sys.executable, "-m", "benchmarks.lowering.x86", NAME, str(model), str(out)]
        environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
        found = of.case.score(np.load(out), images)
    reference = scores(of, lowered(NAME).files["fp32"], images)
    drops = 100 * (reference["dice"] - np.asarray(found["dice"]))
    low, high = paired_bootstrap(drops[None])
    return judged(
        name=f"{NAME}, int8-cpu on OpenVINO kept to AVX2 without VNNI: Dice drop",
        value=drops.mean(),
        goal="<= 0.3 points",
        unit="points",
        n=len(drops),
        spread=f"95 % of images {low:.3f} to {high:.3f}",
    )


def _warmed(folder: Path) -> Ladder:
    """The ladder that the runtime makes of a bundle of all variants on this machine."""
    of, made = student(NAME), lowered(NAME)
    picture = training_frame(7, 0)
    frame = frames_of(picture.image[None], [picture.geometry])[0]
    path = package(
        folder / "x86.edge",
        name="x86",
        version="1.0.0",
        models=made.files,
        report=made.report,
        output_specs=of.outputs,
        preprocess=of.case.spec,
        golden_inputs=tensors(of.case, of.case.read("train"))[:1],
        card=ModelCard(intended_use="A measurement.", training_data="See the case.", limits="Not shipped."),
    )
    branch = loading.load(path, runner="auto", threads=1).branch()
    with ExitStack() as stack:
        for rung in branch.rungs:
            stack.enter_context(rung.runner)
        return warm_up(branch, frame, runs=30, clock=MonotonicClock())


def _ladder(times: dict[str, Float64]) -> Figure:
    with tempfile.TemporaryDirectory() as folder:
        ladder = _warmed(Path(folder))
    measured = {f"{r.runner} {r.variant}": r.median_ns for r in ladder.reports if r.median_ns is not None}
    last = ladder.rungs[-1].runner
    fastest = min(measured, key=lambda key: measured[key] or 0)
    chosen = f"{last.name} {last.variant}"
    cost, least = measured[chosen] or 0, measured[fastest] or 1
    return Figure(
        name="the ladder's cheapest rung is the fastest measured, to the 5 % that a rung must gain",
        value=cost * 0.95 <= least,
        goal="yes",
        unit="",
        n=len(measured),
        met=cost * 0.95 <= least,
        spread=f"{chosen}; interleaved fastest: {min(times, key=lambda key: float(np.median(times[key])))}",
        detail={
            "medians ms": {key: (value or 0) / 1e6 for key, value in measured.items()},
            "runners": available_runners(),
        },
    )


def _write_logits(name: str, model: Path, out: Path) -> None:
    of = student(name)
    with OpenVinoRunner(model.read_bytes(), "int8-cpu", of.input, of.outputs, threads=1) as runner:
        inputs = tensors(of.case, of.case.read("test"))
        np.save(out, np.concatenate([runner.infer({of.input.name: item})["mask"].copy() for item in inputs]))


if __name__ == "__main__":
    _write_logits(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
