"""ONNX Runtime's own static quantization with its defaults, on the same student and frames, beside ours."""

from __future__ import annotations

from benchmarks.figures import Figure
from benchmarks.lowering.cases import calibration_frames, lowered, scores, student
from benchmarks.lowering.drop import circumference_error, dice_drop
from benchmarks.lowering.gate import ort_default
from edge_export import rtx_gate

__all__ = ["measure_ort_default"]


def measure_ort_default() -> list[Figure]:
    """Dice drop, circumference, size and what TensorRT-RTX says, on the test split of fetal heads."""
    of, ours = student("hc18"), lowered("hc18")
    images = of.case.read("test")
    theirs = ort_default(of.model, calibration_frames(of.case, of.case.read("train")))
    reference = scores(of, ours.files["fp32"], images)
    gate = rtx_gate(theirs)
    files = {"ONNX Runtime's default": theirs, "int8": ours.files["int8"], "int8-cpu": ours.files["int8-cpu"]}
    accepted = {
        "ONNX Runtime's default": gate.status,
        "int8": ours.report.variant("int8").rtx.status,
        "int8-cpu": "not written for it",
    }
    figures = []
    for name, data in files.items():
        found = scores(of, data, images)
        drop, interval = dice_drop(reference, found)
        change = circumference_error(found) - circumference_error(reference)
        figures.append(
            Figure(
                name=f"hc18, {name}: Dice drop against fp32",
                value=drop,
                goal="shown side by side",
                unit="points",
                n=len(images.names),
                met=None,
                spread=f"95 % of images {interval[0]:.3f} to {interval[1]:.3f}; circumference {change:+.3f} mm; "
                f"{len(data) / len(ours.files['fp32']):.1%} of fp32's bytes; TensorRT-RTX: {accepted[name]}",
                detail={"bytes": len(data), "errors": [error.text for error in gate.errors] if data is theirs else []},
            )
        )
    return figures
