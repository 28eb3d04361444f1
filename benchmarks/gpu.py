"""Students on an NVIDIA GPU: torch float16, ONNX Runtime's CUDA provider and TensorRT (or TensorRT-RTX) side by side.

`python -m benchmarks.gpu`; without a GPU every figure says what is missing. All contestants of one student take turns
in one loop, so that clocks and load are the same for all. "with transfers" is from a frame in host memory to a mask in
host memory, "on the device" between tensors that stay there. Weights are random (seed 0): no time depends on them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.figures import Figure, Row, main
from edge_runtime import engines
from edge_runtime.bundle.manifest import InputSpec, OutputSpec, Precision
from edge_runtime.engines._cuda import Cuda
from edge_runtime.errors import EdgeError

__all__ = ["ROUNDS", "ROWS", "STUDENTS", "Student", "compare", "figures", "measure_latency", "missing", "take_turns"]

ROUNDS = 1200
WARM_UP = 50
STUDENTS = ("hc18", "usgra")
TORCH = "torch fp16 eager"
GOAL = f"TensorRT >= 2 times {TORCH}"
Call = Callable[[], object]
Times = dict[str, npt.NDArray[np.int64]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Student:
    """One student: its torch module, the ONNX file of each variant, what goes in and comes out."""

    name: str
    module: Any
    models: Mapping[str, bytes]
    input: InputSpec
    outputs: tuple[OutputSpec, ...]


def missing() -> str:
    """What this machine lacks to compare anything; empty where torch has a GPU. What else lacks is told beside it."""
    import torch

    return "" if torch.cuda.is_available() else "no NVIDIA GPU that torch can use"


def student(name: str) -> Student:
    """The student of the segmentation set `name`, lowered on random frames."""
    import torch

    from benchmarks.distill.cases import CASES
    from benchmarks.distill.segmentation import network
    from edge_export import collect_ranges, export_torch, to_fp16, to_int8
    from edge_runtime.preprocess import Preprocessor

    case = CASES[name]
    torch.manual_seed(0)
    module = network(case, "student").eval()
    shape = Preprocessor(case.spec).output_shape
    base = export_torch(module, shape)
    generator = np.random.default_rng(0)
    ranges = collect_ranges(base, [generator.standard_normal(shape).astype(np.float32) for _ in range(4)])
    forms = {"fp16": to_fp16(base, ranges=ranges), "int8": to_int8(base, ranges=ranges)}
    with torch.inference_mode():
        answer = tuple(module(torch.zeros(shape)).shape)
    return Student(
        name=name,
        module=module,
        models={form: model.SerializeToString() for form, model in forms.items()},
        input=InputSpec(name="image", shape=shape),
        outputs=(OutputSpec(name="mask", shape=answer, kind="raw"),),
    )


@contextmanager
def torch_calls(student: Student) -> Iterator[dict[str, Call]]:
    """Torch in float16 on the GPU, as PyTorch users run it."""
    import torch

    torch.backends.cudnn.benchmark = True  # torch at its best: it tries its kernels during the warm-up
    module = student.module.half().cuda()
    frame = torch.rand(student.input.shape).pin_memory()
    there = frame.cuda().half()

    def whole() -> object:
        with torch.inference_mode():
            return module(frame.cuda(non_blocking=True).half()).float().cpu()

    def inside() -> object:
        with torch.inference_mode():
            found = module(there)
        torch.cuda.synchronize()
        return found

    yield {f"{TORCH}, with transfers": whole, f"{TORCH}, on the device": inside}


@contextmanager
def ort_calls(student: Student) -> Iterator[dict[str, Call]]:
    """ONNX Runtime's CUDA provider on the fp16 variant."""
    from edge_runtime.runners import OrtRunner

    frame = np.zeros(student.input.shape, np.float32)
    runner = OrtRunner(student.models["fp16"], "fp16", student.input, student.outputs, provider="CUDAExecutionProvider")
    with runner:
        yield {"ORT-CUDA fp16, with transfers": lambda: runner.infer({student.input.name: frame}, check=False)}


@contextmanager
def tensorrt_calls(
    student: Student, form: Precision, reports: dict[str, engines.EngineReport]
) -> Iterator[dict[str, Call]]:
    """The TensorRT runner on one variant, and the same engine's kernels alone; its read-back goes into `reports`."""
    from edge_runtime.runners.tensorrt import TensorRtRunner

    frame = np.zeros(student.input.shape, np.float32)
    cache = engines.EngineCache()
    runner = TensorRtRunner(
        student.models[form], f"{student.name}-{form}", student.input, student.outputs, cache=cache, precision=form
    )
    with runner, ExitStack() as stack:
        assert runner.engine_file is not None
        assert runner.report is not None
        reports[form] = runner.report
        label = f"{runner.engine_file.key.flavour} {form}"
        yield {
            f"{label}, with transfers": lambda: runner.infer({student.input.name: frame}, check=False),
            f"{label}, on the device": stack.enter_context(kernels(runner.engine_file, cache, student)),
        }


@contextmanager
def kernels(file: engines.EngineFile, cache: engines.EngineCache, student: Student) -> Iterator[Call]:
    """One inference of an engine between buffers on the device, captured in a CUDA graph."""
    cuda = Cuda()
    engine = engines.open_engine(file, cache)
    context = engine.context()
    with ExitStack() as stack:
        stream = cuda.stream()
        stack.callback(cuda.end_stream, stream)
        shapes = {spec.name: spec.shape for spec in student.outputs}
        for name, shape in {student.input.name: student.input.shape, **shapes}.items():
            address = cuda.malloc(4 * int(np.prod(shape)))
            stack.callback(cuda.free, address)
            context.bind(name, address, shape if name == student.input.name else None)
        context.enqueue(int(stream))
        cuda.wait(stream)
        cuda.begin_capture(stream)
        context.enqueue(int(stream))
        graph = cuda.end_capture(stream)
        stack.callback(cuda.end_graph, graph)

        def call() -> None:
            cuda.launch(graph, stream)
            cuda.wait(stream)

        yield call


def take_turns(calls: Mapping[str, Call], rounds: int = ROUNDS, warm_up: int = WARM_UP) -> Times:
    """Durations in ns of each call, (rounds,); every round runs all of them once, after `warm_up` rounds untimed."""
    found = {name: np.empty(rounds, np.int64) for name in calls}
    for number in range(-warm_up, rounds):
        for name, call in calls.items():
            begin = time.perf_counter_ns()
            call()
            if number >= 0:
                found[name][number] = time.perf_counter_ns() - begin
    return found


def compare(subject: Student, rounds: int = ROUNDS) -> tuple[Times, dict[str, str], dict[str, engines.EngineReport]]:
    """Times of all contestants, the reason of each that could not take part, and the engines' read-back."""
    reasons: dict[str, str] = {}
    reports: dict[str, engines.EngineReport] = {}
    contestants: dict[str, Callable[[], Any]] = {
        TORCH: lambda: torch_calls(subject),
        "ORT-CUDA fp16": lambda: ort_calls(subject),
        "TensorRT fp16": lambda: tensorrt_calls(subject, "fp16", reports),
        "TensorRT int8": lambda: tensorrt_calls(subject, "int8", reports),
    }
    with ExitStack() as stack:
        calls: dict[str, Call] = {}
        for name, opened in contestants.items():
            try:
                calls |= stack.enter_context(opened())
            except EdgeError as error:
                reasons[name] = str(error)
        return take_turns(calls, rounds), reasons, reports


def figures(name: str, times: Times, reasons: Mapping[str, str]) -> list[Figure]:
    """A figure a contestant (p50, with p99 and p99/p50 beside it), and the ratio of the faster TensorRT to torch."""
    found = []
    middle = {}
    for contestant, durations in times.items():
        p50, p99 = (float(np.percentile(durations, q)) / 1e6 for q in (50, 99))
        middle[contestant] = p50
        found.append(
            Figure(
                name=f"{name}: {contestant}, p50", value=p50, goal="", unit="ms", n=len(durations), met=None,
                spread=f"p99 {p99:.3f} ms, p99/p50 {p99 / p50:.2f}", detail={"p50_ms": p50, "p99_ms": p99},
            )
        )  # fmt: skip
    for contestant, reason in reasons.items():
        label = f"{name}: {contestant}, p50"
        found.append(Figure(name=label, value=None, goal="", unit="ms", n=0, met=None, reason=reason))
    found += [_ratio(name, middle, where, times) for where in ("with transfers", "on the device")]
    return found


def _ratio(name: str, middle: Mapping[str, float], where: str, times: Times) -> Figure:
    label = f"{name}: TensorRT against torch, {where}"
    best = {key: value for key, value in middle.items() if key.startswith("tensorrt") and key.endswith(where)}
    torch_ms = middle.get(f"{TORCH}, {where}")
    if not best or torch_ms is None:
        reason = "TensorRT or torch did not run; the figures beside this one say why"
        return Figure(name=label, value=None, goal=GOAL, unit="times", n=0, met=None, reason=reason)
    fastest = min(best, key=lambda key: best[key])
    value = torch_ms / best[fastest]
    return Figure(
        name=label, value=value, goal=GOAL, unit="times", n=len(times[fastest]), met=value >= 2,
        spread=f"{fastest} {best[fastest]:.3f} ms, {TORCH} {torch_ms:.3f} ms", detail={"fastest": fastest},
    )  # fmt: skip


def measure_latency() -> list[Figure]:
    """All students; or one figure that says what this machine lacks."""
    reason = missing()
    if reason:
        return [Figure(name="latency", value=None, goal=GOAL, unit="times", n=0, met=None, reason=reason)]
    found: list[Figure] = []
    for name in STUDENTS:
        times, reasons, _ = compare(student(name))
        found += figures(name, times, reasons)
    return found


ROWS = [Row(key="gpu_latency", what="students on the GPU, side by side", measure=measure_latency)]

if __name__ == "__main__":
    main("gpu", "On an NVIDIA GPU", ROWS)
