"""What every system is given: clips with frame numbers in them, and real networks of a chosen cost."""

from __future__ import annotations

import hashlib
import os
import statistics
import time
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from benchmarks.peers.install import ROOT
from benchmarks.peers.work import Work
from edge_runtime.bundle import Bundle

__all__ = ["BUNDLE", "SHAPE", "calibrated_passes", "ensemble", "head_clip", "masks_of", "speckle_clip"]

BUNDLE = ROOT / "examples" / "fetal_head" / "fetal_head.edge"
SHAPE = (480, 640)
FRAMES = 24
_WORK = ROOT / "build" / "peers" / "material"
_PROBES = (1, 5)  # passes timed to find the cost of one
Image = npt.NDArray[np.uint8]


def ensemble(passes: int) -> Path:
    """The student of the shipped bundle, run `passes` times on frames rolled by a few pixels; the logits' mean.

    An ensemble by translation: every pass is real work, and fewer of them are a cheaper model that is nearly as good.
    """
    with Bundle.open(BUNDLE) as bundle:
        model = bundle.model("fp32")
    path = _WORK / f"passes_{passes}_{hashlib.sha256(model).hexdigest()[:12]}.onnx"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        temporary.write_bytes(_repeated(onnx.load_from_string(model), passes).SerializeToString())
        temporary.replace(path)
    return path


def _repeated(model: Any, passes: int) -> Any:
    graph = model.graph
    given, output = graph.input[0], graph.output[0]
    kept = {tensor.name for tensor in graph.initializer} | {""}
    constants = list(graph.initializer)
    nodes: list[Any] = []
    means: list[str] = []
    for place in range(passes):
        shift = (place + 1) // 2 * 2 * (1 if place % 2 else -1)
        names = {given.name: _rolled(nodes, constants, given.name, shift, f"in{place}")}
        for node in graph.node:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            copy.name = f"p{place}/{node.name}"
            copy.input[:] = [n if n in kept else names.get(n, f"p{place}/{n}") for n in node.input]
            copy.output[:] = [n if n in kept else f"p{place}/{n}" for n in node.output]
            nodes.append(copy)
        means.append(_rolled(nodes, constants, f"p{place}/{output.name}", -shift, f"out{place}"))
    nodes.append(helper.make_node("Mean", means, [output.name]))
    made = helper.make_model(
        helper.make_graph(nodes, f"{passes} passes", [given], [output], constants),
        opset_imports=model.opset_import,
        ir_version=model.ir_version,
    )
    onnx.checker.check_model(made)
    return made


def _rolled(nodes: list[Any], constants: list[Any], name: str, shift: int, prefix: str) -> str:
    """Columns rolled by `shift`: two slices, put together the other way round."""
    if shift == 0:
        return name
    values = {"zero": [0], "cut": [-shift], "end": [2**31 - 1], "axis": [3]}
    for key, value in values.items():
        constants.append(numpy_helper.from_array(np.array(value, np.int64), f"{prefix}/{key}"))
    ends = {"right": ("cut", "end"), "left": ("zero", "cut")}
    for part, (start, end) in ends.items():
        inputs = [name, f"{prefix}/{start}", f"{prefix}/{end}", f"{prefix}/axis"]
        nodes.append(helper.make_node("Slice", inputs, [f"{prefix}/{part}"]))
    nodes.append(helper.make_node("Concat", [f"{prefix}/right", f"{prefix}/left"], [f"{prefix}/all"], axis=3))
    return f"{prefix}/all"


@cache
def _pass_ms() -> tuple[float, float]:
    """Milliseconds of a frame without any pass, and of one pass; medians of alternating runs.

    The thread's CPU time, which other load on the machine disturbs less than the wall clock.
    """
    works = {n: Work("onnx", model=str(ensemble(n))) for n in _PROBES}
    image, spent = np.zeros(SHAPE, np.uint8), {n: list[int]() for n in _PROBES}
    for _ in range(12):
        for n, work in works.items():
            start_ns = time.thread_time_ns()
            work(image)
            spent[n].append(time.thread_time_ns() - start_ns)
    few, many = (statistics.median(spent[n]) / 1e6 for n in _PROBES)
    one = (many - few) / (_PROBES[1] - _PROBES[0])
    return few - _PROBES[0] * one, one


def calibrated_passes(wanted_ms: float) -> int:
    """How many passes take about `wanted_ms` a frame on this machine now, resizing and mask included."""
    rest, one = _pass_ms()
    return max(1, round((wanted_ms - rest) / one))


def speckle_clip() -> Path:
    """(24, 480, 640) uint8: speckle with a moving dark ellipse, the same on every machine."""
    path = _WORK / "speckle.npy"
    if not path.exists():
        rng = np.random.default_rng(5)
        frames = []
        for index in range(FRAMES):
            grey = cv2.GaussianBlur(rng.normal(90, 60, SHAPE).astype(np.float32), (0, 0), 1.5)
            grey = 90 + 2.5 * (grey - 90)
            cv2.ellipse(grey, (300 + 3 * index, 240), (130, 95), 20, 0, 360, 30, -1)
            cv2.ellipse(grey, (300 + 3 * index, 240), (130, 95), 20, 0, 360, 220, 5)
            frames.append(np.clip(grey, 0, 255).astype(np.uint8))
        _save(path, np.stack(frames))
    return path


def head_clip() -> Path | None:
    """(24, 480, 640) uint8: frames of fetal heads of the test split, the network's own kind of picture.

    None without the data (POCUS_DATA).
    """
    root = os.environ.get("POCUS_DATA")
    if not root:
        return None
    path = _WORK / "heads.npy"
    if not path.exists():
        from benchmarks.distill.cases import HC18

        frames = HC18.read("test").labelled.frames[:FRAMES]
        _save(path, np.stack([cv2.resize(_grey(frame.image), SHAPE[::-1]) for frame in frames]))
    return path


def _grey(image: Image) -> Image:
    found: Any = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return np.asarray(found, np.uint8)


def masks_of(clip: Path, model: Path) -> Path:
    """(n, 480, 640) uint8 masks of `model` on every frame of `clip`, by `Work`, one after the other."""
    path = clip.with_name(f"{clip.stem}_{model.stem}_masks.npy")
    if not path.exists():
        work = Work("onnx", model=str(model))
        masks = [work(frame) for frame in np.load(clip)]
        _save(path, np.stack([mask for mask in masks if mask is not None]))
    return path


def _save(path: Path, array: Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp.npy")
    np.save(temporary, array)
    temporary.replace(path)
