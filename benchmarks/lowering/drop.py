"""What each variant loses against fp32 on the test splits, through the device's own runner."""

from __future__ import annotations

import numpy as np
import onnx

from benchmarks.distill.stored import paired_bootstrap
from benchmarks.figures import Figure, judged
from benchmarks.lowering.cases import Float64, Lowered, Student, lowered, scores, student, tensors
from edge_export import run_model
from edge_export._simulate import simulate_types

__all__ = ["circumference_error", "dice_drop", "measure_variant_drop", "typed_scores"]

ALLOWED_POINTS = {"fp16": 0.05, "int8": 0.3, "int8-cpu": 0.3}
ALLOWED_MM = 0.2


def measure_variant_drop() -> list[Figure]:
    """Dice drop of every variant of both students; for heads the circumference's error too."""
    figures = []
    for name in ("hc18", "usgra"):
        of, files = student(name), lowered(name)
        images = of.case.read("test")
        reference = scores(of, files.files["fp32"], images)
        for variant, allowed in ALLOWED_POINTS.items():
            found = scores(of, files.files[variant], images)
            typed = found if variant == "int8-cpu" else typed_scores(of, files.files[variant])
            figures.append(_drop(name, variant, reference, found, typed, allowed, files))
            if "hc_error_mm" in found:
                figures.append(_circumference(name, variant, reference, found))
    return figures


def typed_scores(of: Student, data: bytes) -> dict[str, Float64]:
    """Scores of the test split with every FP16 tensor rounded to FP16, which ONNX Runtime's CPU backend does not do."""
    images = of.case.read("test")
    simulated = simulate_types(onnx.load_model_from_string(data))
    found = run_model(simulated, tensors(of.case, images), optimize=False)
    scored = of.case.score(np.concatenate([outputs["mask"] for outputs in found]), images)
    return {name: np.asarray(values, np.float64) for name, values in scored.items()}


def dice_drop(reference: dict[str, Float64], found: dict[str, Float64]) -> tuple[float, tuple[float, float]]:
    """Mean drop in Dice points, and its 95 % interval over images."""
    drops = 100 * (reference["dice"] - found["dice"])
    return float(drops.mean()), paired_bootstrap(drops[None])


def circumference_error(found: dict[str, Float64]) -> float:
    """Mean absolute error in mm against the published circumference."""
    return float(np.abs(found["hc_error_mm"]).mean())


def _drop(
    name: str,
    variant: str,
    reference: dict[str, Float64],
    found: dict[str, Float64],
    typed: dict[str, Float64],
    allowed: float,
    files: Lowered,
) -> Figure:
    drop, interval = dice_drop(reference, found)
    rounded, other = dice_drop(reference, typed)
    if rounded > drop:
        drop, interval = rounded, other
    row = files.report.variant(variant)
    return judged(
        name=f"{name}, {variant}: Dice drop against fp32",
        value=drop,
        goal=f"<= {allowed:g} points",
        unit="points",
        n=len(reference["dice"]),
        spread=f"95 % of images {interval[0]:.3f} to {interval[1]:.3f}",
        detail={
            "fp32 Dice": float(reference["dice"].mean()),
            "range method": files.method,
            "points lost on held-out exams of the train split": files.tried,
            "with every FP16 tensor rounded": rounded,
            "file bytes": row.file_bytes,
            "share of fp32": row.size_ratio,
            "TensorRT-RTX": row.rtx.status,
        },
    )


def _circumference(name: str, variant: str, reference: dict[str, Float64], found: dict[str, Float64]) -> Figure:
    change = circumference_error(found) - circumference_error(reference)
    moved = np.abs(found["hc_error_mm"] - reference["hc_error_mm"])
    return Figure(
        name=f"{name}, {variant}: change of the circumference's mean error",
        value=change,
        goal=f"within {ALLOWED_MM:g} mm",
        unit="mm",
        n=len(moved),
        met=abs(change) <= ALLOWED_MM,
        spread=f"fp32 errs by {circumference_error(reference):.2f} mm; largest move of an image {moved.max():.2f} mm",
    )
