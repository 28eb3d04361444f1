"""The keys of the table; what measures and trains them is imported when it runs."""

from __future__ import annotations

from benchmarks.figures import row_of

__all__ = ["ROWS"]


def _train() -> object:
    from benchmarks.lowering.depthwise import train

    return train()


ROWS = [
    row_of("benchmarks.lowering.drop", "variant_drop", "fp16 and int8 against fp32, test splits"),
    row_of("benchmarks.lowering.ort_default", "ort_default", "ONNX Runtime's default quantization beside ours"),
    row_of("benchmarks.lowering.mixed", "mixed_precision", "a depthwise-separable student that INT8 may hurt", _train),
    row_of("benchmarks.lowering.frames", "calibration_frames", "16 frames by k-means against 16 at random"),
    row_of("benchmarks.lowering.x86", "x86_int8", "INT8 on x86, one thread, interleaved"),
    row_of("benchmarks.lowering.foreign", "foreign_onnx", "a network from elsewhere, without torch"),
    row_of("benchmarks.lowering.gate", "trt_gate", "TensorRT-RTX takes every variant"),
    row_of("benchmarks.lowering.nodes", "onnx_nodes", "the ONNX backend's node tests through our runner"),
    row_of("benchmarks.lowering.engines", "gpu_engines", "engines on a GPU"),
]
