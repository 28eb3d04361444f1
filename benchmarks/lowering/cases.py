"""The stored students that the table lowers, the frames that choose their ranges, and their scores by variant."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import onnx

from benchmarks.distill.cases import CASES
from benchmarks.distill.segmentation import Case, Images, network
from benchmarks.distill.stored import STORED, load_weights
from edge_export import LoweringReport, collect_ranges, export_torch, lower, run_variant, to_int8
from edge_export.cpu_int8 import to_cpu_int8
from edge_export.ranges import METHODS, Method
from edge_runtime.atomic import write_bytes
from edge_runtime.bundle.manifest import InputSpec, OutputSpec
from edge_runtime.preprocess import Preprocessor
from edge_sdk.frames import network_inputs

__all__ = ["Lowered", "Student", "calibration_frames", "logits", "lowered", "scores", "student", "tensors"]

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
BUILD = STORED.parents[2] / "build" / "lowering"
N_FRAMES = 32


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Student:
    """A distilled network as float32 ONNX, with the case that it was trained for and the manifest's words for it."""

    case: Case
    model: onnx.ModelProto
    input: InputSpec
    outputs: tuple[OutputSpec, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lowered:
    """Its files by variant, the report, the method that was chosen, and the Dice points lost on held-out exams."""

    files: Mapping[str, bytes]
    report: LoweringReport
    method: Method
    tried: dict[str, dict[str, float]]


@cache
def student(name: str) -> Student:
    """The stored student of the case called `name`; its ONNX is kept under build/, by the hash of the weights."""
    case = CASES[name]
    weights = (STORED / name / "student.safetensors").read_bytes()
    path = BUILD / f"{name}-{hashlib.sha256(weights).hexdigest()[:12]}.onnx"
    shape = Preprocessor(case.spec).output_shape
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        module = load_weights(name, "student", network(case, "student"))
        write_bytes(path, export_torch(module, shape).SerializeToString())
    model = onnx.load(path)
    planes = model.graph.output[0].type.tensor_type.shape.dim[1].dim_value
    classes = ("target",) if planes == 1 else tuple(f"class{k}" for k in range(planes))
    mask = OutputSpec(name="mask", shape=(1, planes, *shape[2:]), kind="mask_logits", classes=classes)
    sizes = (shape[0], shape[1], shape[2], shape[3])
    return Student(case=case, model=model, input=InputSpec(name="image", shape=sizes), outputs=(mask,))


def tensors(case: Case, images: Images) -> list[Float32]:
    """The network's inputs, (1, C, H, W) each."""
    return list(network_inputs(images.labelled.frames, case.spec)[:, None])


def calibration_frames(case: Case, images: Images, count: int = N_FRAMES) -> list[Float32]:
    """Inputs of `count` images spread evenly over `images`."""
    chosen = np.linspace(0, len(images.names) - 1, count).round().astype(int)
    return tensors(case, images.part([int(k) for k in chosen]))


def logits(of: Student, data: bytes, images: Images) -> Float32:
    """(N, C, h, w) of one variant's file by the device's ONNX Runtime runner, one thread."""
    found = run_variant(data, "variant", tensors(of.case, images), of.input, of.outputs)
    return np.concatenate([outputs["mask"] for outputs in found])


def scores(of: Student, data: bytes, images: Images) -> dict[str, Float64]:
    """The case's scores of each image, by name."""
    found = of.case.score(logits(of, data, images), images)
    return {name: np.asarray(values, np.float64) for name, values in found.items()}


@cache
def lowered(name: str) -> Lowered:
    """Every variant, its range method chosen on exams of the train split that gave no frame to the ranges then.

    The method is the one whose worse INT8 form loses least there.
    """
    of = student(name)
    images = of.case.read("train")
    fitted, held = images.halves()
    frames = calibration_frames(of.case, fitted)
    reference = scores(of, of.model.SerializeToString(), held)["dice"]
    tried: dict[str, dict[str, float]] = {}
    for method in METHODS:
        ranges = collect_ranges(of.model, frames, method=method)
        forms = {"int8": to_int8(of.model, ranges=ranges), "int8-cpu": to_cpu_int8(of.model, ranges=ranges)}
        tried[method] = {
            key: round(100 * float(np.mean(reference - scores(of, form.SerializeToString(), held)["dice"])), 3)
            for key, form in forms.items()
        }
    method = min(METHODS, key=lambda m: max(tried[m].values()))
    files, report = lower(
        of.model,
        calibration_frames(of.case, images),
        precisions=("fp32", "fp16", "int8", "int8-cpu"),
        method=method,
    )
    return Lowered(files=files, report=report, method=method, tried=tried)
