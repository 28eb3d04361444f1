"""Mixed precision and QAT on the depthwise-separable student: what naive INT8 loses, and what either wins back."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from benchmarks.distill.cases import HC18, larger
from benchmarks.distill.segmentation import Images
from benchmarks.distill.stored import paired_bootstrap
from benchmarks.figures import Figure
from benchmarks.lowering import depthwise
from benchmarks.lowering.cases import tensors
from benchmarks.lowering.gate import ort_default
from edge_export import collect_ranges, export_torch, run_model
from edge_export.cpu_int8 import to_cpu_int8
from edge_export.mixed import Latency, interleaved_ms, mixed_precision
from edge_export.sensitivity import Trials
from edge_runtime.errors import LoweringError
from edge_runtime.metrics.segmentation import dice
from edge_runtime.runners.openvino import import_openvino
from edge_sdk.config import AugmentConfig, OptimiserConfig
from edge_sdk.frames import grey_scale, network_masks
from edge_sdk.qat import QatConfig, qat

__all__ = ["measure_mixed_precision"]

Inputs = list[npt.NDArray[np.float32]]

_GOAL = "at least 80 % of naive INT8's loss (> 1 point) won back, at most 15 % of the speed-up given up"
_NAIVE_FRAMES = 4
_SHOWN = ("ONNX Runtime's default", "int8, 30 frames")


def dice_points(model: onnx.ModelProto, inputs: Inputs, images: Images) -> npt.NDArray[np.float64]:
    """Dice of every image in its own pixels, in points."""
    answers = run_model(model, inputs)
    pairs = zip(answers, images.labelled.masks, strict=True)
    return np.array([100 * dice(larger(a["mask"][0, 0], truth.shape) > 0, truth) for a, truth in pairs])


def openvino_latency(sample: npt.NDArray[np.float32], rounds: int = 30) -> Latency:
    """CPU milliseconds in OpenVINO, one thread, float32 where the file is float32."""
    openvino: Any = import_openvino()

    def measure(models: Sequence[onnx.ModelProto]) -> list[float]:
        core, calls = openvino.Core(), []
        options = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
        for model in models:
            request = core.compile_model(
                core.read_model(model.SerializeToString()), "CPU", options
            ).create_infer_request()
            calls.append(lambda request=request: request.infer({0: sample}))
        return interleaved_ms(calls, rounds=rounds)

    return measure


@cache
def _model() -> onnx.ModelProto:
    return export_torch(depthwise.load(), (1, 1, 160, 240))


def measure_mixed_precision() -> list[Figure]:
    """Chosen on the held-out exams of the train split, told on the test split."""
    model, (train, held) = _model(), depthwise.held_out()
    frames, held_inputs = tensors(HC18, train), tensors(HC18, held)
    few = collect_ranges(model, frames[:_NAIVE_FRAMES])
    ranges = collect_ranges(model, frames[::4])
    naive = to_cpu_int8(model, ranges=few, exclude_head=False)
    latency = openvino_latency(frames[0])
    trials = Trials(
        lambda names: to_cpu_int8(model, ranges=few, exclude=names, exclude_head=False),
        lambda item: float(dice_points(item, held_inputs, held).mean()),
    )
    detail: dict[str, object] = {}
    variants = {
        "float32": model,
        "naive int8": naive,
        "ONNX Runtime's default": onnx.load_from_string(ort_default(model, frames[:_NAIVE_FRAMES])),
        "int8, 30 frames": to_cpu_int8(model, ranges=ranges),
    }
    try:
        mixed = mixed_precision(model, trials, latency=latency)
        variants["mixed"] = trials.quantize(frozenset(mixed.exclude))
        detail["mixed"] = mixed.to_dict()
    except LoweringError as error:
        detail["mixed"] = str(error)
    config = QatConfig(
        optimiser=OptimiserConfig(
            epochs=2, batch_size=8, learning_rate=3e-4, weight_decay=0.0, schedule="cosine", warmup=0.05, threads=1
        ),
        augment=AugmentConfig(flip=0.5, min_scale=0.8),
    )
    labels = network_masks(train.labelled, HC18.spec, 1)
    trained = qat(
        model,
        frames,
        ranges=few,
        emit=lambda item, found: to_cpu_int8(item, ranges=found, exclude_head=False),
        labels=labels,
        config=config,
        scale=grey_scale(HC18.spec),
    )
    variants["qat"] = to_cpu_int8(trained.model, ranges=trained.ranges, exclude_head=False)
    return _figures(variants, latency(list(variants.values())), detail)


def _figures(variants: dict[str, onnx.ModelProto], times: list[float], detail: dict[str, object]) -> list[Figure]:
    test = HC18.read("test")
    inputs = tensors(HC18, test)
    scores = {name: dice_points(item, inputs, test) for name, item in variants.items()}
    cost = dict(zip(variants, times, strict=True))
    naive_loss = float((scores["float32"] - scores["naive int8"]).mean())
    gained = cost["float32"] / cost["naive int8"]
    figures = []
    for name in variants:
        if name == "float32":
            continue
        drops = scores["float32"] - scores[name]
        low, high = paired_bootstrap([drops.tolist()])
        speed = cost["float32"] / cost[name]
        hurts = naive_loss > 1
        back = 1 - float(drops.mean()) / naive_loss if hurts else float("nan")
        given_up = (gained - speed) / (gained - 1) if gained > 1 else float("nan")
        told = f"{back:.0%} won back" if hurts else "naive int8 loses too little for a share of it to mean anything"
        goal = "shown side by side" if name in _SHOWN else _GOAL
        if name == "naive int8":
            goal = "the student is hurt by more than 1 point"
        met = hurts if name == "naive int8" else (back >= 0.8 and given_up <= 0.15) if hurts else None
        figures.append(
            Figure(
                name=f"Dice lost by {name}",
                value=float(drops.mean()),
                goal=goal,
                unit="points",
                n=len(drops),
                met=None if name in _SHOWN else met,
                spread=f"95 % interval {low:.3f} to {high:.3f}; {speed:.2f} times float32 in OpenVINO, one thread; "
                f"{told}, {given_up:.0%} of the speed-up given up",
                detail=detail if name == "mixed" else {"dice": float(scores[name].mean()), "ms": cost[name]},
            )
        )
    return figures
