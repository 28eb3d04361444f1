"""The keys of the table; what measures them is imported when it runs."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

from benchmarks.figures import Figure, Row

__all__ = ["ROWS"]


def _row(key: str, what: str, module: str) -> Row:
    def measure() -> Sequence[Figure]:
        found: Sequence[Figure] = getattr(import_module(f"benchmarks.lowering.{module}"), f"measure_{key}")()
        return found

    return Row(key=key, what=what, measure=measure)


ROWS = [
    _row("variant_drop", "fp16 and int8 against fp32, test splits", "drop"),
    _row("ort_default", "ONNX Runtime's default quantization beside ours", "ort_default"),
    _row("mixed_precision", "a depthwise-separable student that INT8 may hurt", "mixed"),
    _row("calibration_frames", "16 frames by k-means against 16 at random", "frames"),
    _row("x86_int8", "INT8 on x86, one thread, interleaved", "x86"),
    _row("foreign_onnx", "a network from elsewhere, without torch", "foreign"),
    _row("trt_gate", "TensorRT-RTX takes every variant", "gate"),
    _row("onnx_nodes", "the ONNX backend's node tests through our runner", "nodes"),
    _row("gpu_engines", "engines on a GPU", "engines"),
]
