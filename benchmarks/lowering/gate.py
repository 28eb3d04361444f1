"""Whether TensorRT-RTX's parser and builder take every variant of every student family, without a GPU."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import nn

from benchmarks.figures import Figure
from edge_export import GateReport, check_model, collect_ranges, export_torch, require_clean, rtx_gate, to_fp16, to_int8
from edge_export._lint import LintTarget
from edge_runtime.bundle import ALLOWED_OPERATORS

__all__ = ["FAMILIES", "VARIANTS", "Family", "exported", "judge", "measure_trt_gate", "ort_default"]

Float32 = npt.NDArray[np.float32]
SIDE = 64

# the forms of a variant, and the targets that each is linted for
VARIANTS: dict[str, tuple[LintTarget, ...]] = {
    "fp32": ("jetpack6", "jetpack7", "tensorrt11", "rtx"),
    "fp16": ("jetpack6", "jetpack7", "tensorrt11", "rtx"),
    "int8 (opset 17 form)": ("jetpack6", "jetpack7", "tensorrt11", "rtx"),
    "int8 (opset 19 form)": ("jetpack7", "tensorrt11", "rtx"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A kind of student: its module with random weights (seed 0), what it takes, what it answers with."""

    make: Callable[[], nn.Module]
    shape: tuple[int, int, int, int] = (1, 1, SIDE, SIDE)
    outputs: tuple[str, ...] = ("mask",)
    max_abs: float = 1e-3


def _unet(**settings: Any) -> nn.Module:
    from edge_sdk.students import UNet

    return UNet(**{"width": 8, "depth": 3, **settings})


def _spread() -> nn.Module:
    from edge_sdk.config import NetworkConfig
    from edge_sdk.uncertainty.distilled import spread_student

    return spread_student(NetworkConfig(width=8, depth=3))


def _classifier() -> nn.Module:
    from edge_sdk.students.classifier import FrameClassifier

    return FrameClassifier(1, 3, width=8, depth=3)


def _clips(pool: Any) -> nn.Module:
    from edge_sdk.students.classifier import ClipClassifier

    return ClipClassifier(4, 3, width=8, depth=3, pool=pool)


def _detector() -> nn.Module:
    from edge_sdk.students.detector import Detector

    return Detector(width=8, stages=4, levels=2, pyramid=16).exportable(SIDE, SIDE)


def _instances() -> nn.Module:
    from edge_sdk.students.instances import InstanceUNet

    return InstanceUNet(width=8, depth=3)


def _multitask() -> nn.Module:
    from edge_sdk.students.multitask import MultiTaskUNet

    return MultiTaskUNet(classes=3, values=1, width=8, depth=3)


def _restorer(scale: Any) -> nn.Module:
    from edge_sdk.students.restorer import Restorer

    return Restorer(width=8, depth=3, scale=scale)


_CLIP = (1, 4, SIDE, SIDE)
FAMILIES: dict[str, Family] = {
    "segmentation": Family(make=lambda: _unet(classes=3)),
    "ultra-light": Family(make=lambda: _unet(width=4, depth=4, max_width=24, convs=1, stem_stride=2)),
    "depthwise": Family(make=lambda: _unet(block="depthwise")),
    "uncertainty": Family(make=_spread, outputs=("mask", "uncertainty")),
    "classifier": Family(make=_classifier, outputs=("class",)),
    "clips": Family(make=lambda: _clips("mean_max"), shape=_CLIP, outputs=("class",)),
    "clips with attention": Family(make=lambda: _clips("attention"), shape=_CLIP, outputs=("class",)),
    "detector": Family(make=_detector, outputs=("boxes",), max_abs=1e-2),
    "instances": Family(make=_instances, outputs=("mask", "border")),
    "multitask": Family(make=_multitask, outputs=("mask", "class", "value")),
    "denoiser": Family(make=lambda: _restorer(1), outputs=("restored",)),
    "enlarger": Family(make=lambda: _restorer(2), outputs=("restored",)),
}


def frames(family: str) -> list[Float32]:
    """Two tensors for the ranges: the gate asks for types and forms, not for accuracy."""
    generator = np.random.default_rng(0)
    return [generator.standard_normal(FAMILIES[family].shape).astype(np.float32) for _ in range(2)]


@cache
def exported(family: str) -> onnx.ModelProto:
    """The family's student as float32 ONNX."""
    torch.set_num_threads(1)
    kind = FAMILIES[family]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = kind.make()
    return export_torch(module, kind.shape, output_names=kind.outputs, max_abs=kind.max_abs)


def lowered(family: str, variant: str) -> onnx.ModelProto:
    """One variant of one family. Raises `LoweringError` where a lint rule or onnx.checker refuses it."""
    model = exported(family)
    if variant != "fp32":
        ranges = collect_ranges(model, frames(family))
        if variant == "fp16":
            model = to_fp16(model, ranges=ranges)
        else:
            model = to_int8(model, ranges=ranges, qdq_form="opset19" if "19" in variant else "opset17")
    for target in VARIANTS[variant]:
        require_clean(model, target)
    check_model(model)
    return model


def judge(family: str, variant: str) -> GateReport:
    """What TensorRT-RTX says for SM86 and SM89."""
    return rtx_gate(lowered(family, variant).SerializeToString())


def ort_default(model: onnx.ModelProto, samples: Sequence[Float32]) -> bytes:
    """ONNX Runtime's static quantization with its defaults: int32 biases, zero points that are not zero."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    name = model.graph.input[0].name

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = iter(samples)

        def get_next(self) -> dict[str, Float32] | None:
            sample = next(self.left, None)
            return None if sample is None else {name: sample}

    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
        onnx.save(model, source)
        quantize_static(source, target, Reader(), quant_format=QuantFormat.QDQ)
        return target.read_bytes()


def measure_trt_gate() -> list[Figure]:
    """Variants that build, and whether a bad graph is refused by name."""
    names = [(family, variant) for family in FAMILIES for variant in VARIANTS]
    reports = {f"{family}, {variant}": judge(family, variant) for family, variant in names}
    bad = rtx_gate(ort_default(exported("segmentation"), frames("segmentation")))
    if any(report.status == "not tried" for report in (*reports.values(), bad)):
        return [
            Figure(name="variants that build", value=None, goal="100 %", unit="%", n=0, met=None, reason=bad.reason)
        ]
    built = [name for name, report in reports.items() if report.status == "accepted"]
    refused = {name: f"{r.status}: {r.reason}" for name, r in reports.items() if r.status != "accepted"}
    used = {node.op_type for family in FAMILIES for node in exported(family).graph.node}
    seconds = [report.seconds for report in reports.values()]
    nodes = [f"{item.node} ({item.operator})" for item in bad.errors if item.node]
    named = bad.status == "refused" and bool(nodes)
    detail: dict[str, object] = {
        "refused": refused,
        "families": sorted(FAMILIES),
        "variants": list(VARIANTS),
        "compute capabilities": list(bad.compute_capabilities),
        "TensorRT-RTX": bad.version,
        "operators that students use": sorted(used),
        "allowed operators that none uses": sorted(ALLOWED_OPERATORS - used),
    }
    return [
        Figure(
            name="variants of all families that TensorRT-RTX builds", value=100.0 * len(built) / len(reports),
            goal="100 %", unit="%", n=len(reports), met=not refused,
            spread=f"{min(seconds):.1f} to {max(seconds):.1f} s each", detail=detail,
        ),
        Figure(
            name="ONNX Runtime's default quantization refused, node named", value=named,
            goal="yes", unit="", n=1, met=named, spread=", ".join(nodes[:3]),
            detail={"nodes": nodes, "reason": bad.reason},
        ),
    ]  # fmt: skip
