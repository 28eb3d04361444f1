"""Which variants a target runs, in which order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from edge_export._lint import LintTarget, lint
from edge_export._lower import LoweredVariant, LoweringReport
from edge_export.agree import AgreementReport
from edge_export.verify import VerificationReport
from edge_runtime.bundle.manifest import Target

__all__ = ["ladders"]

_STEP = 0.05  # points (or per cent of decisions): losses that differ by less are equal
# of equal accuracy, the first choice first. On a CPU the precise form comes first, because only measuring there can
# tell whether another is cheaper (warm-up does); on a GPU half precision costs half and FP32 is no rung beside it.
_COST: dict[Target, tuple[str, ...]] = {
    "ort-cpu": ("fp32", "fp16", "int8-cpu", "int8"),
    "openvino": ("fp32", "fp16", "int8-cpu", "int8"),
    "tensorrt": ("fp16", "fp32", "int8"),
}
_JUDGES: dict[Target, LintTarget] = {"ort-cpu": "ort-cpu", "openvino": "openvino", "tensorrt": "tensorrt11"}


def ladders(
    models: Mapping[str, bytes], report: LoweringReport, verification: VerificationReport | AgreementReport | None
) -> dict[Target, tuple[str, ...]]:
    """Variant ids by target, the least loss of accuracy first; of equal losses the one that is cheaper there.

    A variant is a rung where it is written for the target (`LoweredVariant.targets`) and the target's lint finds no
    error in it: an opset-19 int8 file, for example, is no rung for ONNX Runtime. Without `verification` the order is
    that of precision. FP32 is no rung for TensorRT where FP16 loses nothing.
    """
    found: dict[Target, tuple[str, ...]] = {}
    for target, judge in _JUDGES.items():
        rows = [
            row
            for row in map(report.variant, models)
            if target in row.targets and all(item.severity != "error" for item in lint(models[row.id], judge))
        ]
        rows.sort(key=lambda row: (_loss(row, verification), _rank(row, target)))
        ids = [row.id for row in rows]
        if target == "tensorrt" and "fp16" in ids and "fp32" in ids and ids.index("fp16") < ids.index("fp32"):
            ids.remove("fp32")
        if ids:
            found[target] = cast(tuple[str, ...], tuple(ids))
    return found


def _loss(row: LoweredVariant, verification: VerificationReport | AgreementReport | None) -> int:
    """The measured loss in steps of `_STEP`, not below 0: a variant better than its student is so by chance."""
    if verification is None:
        return 0
    if isinstance(verification, VerificationReport):
        score = verification.score(row.id)
        return round(max(0.0, score.drop_points, score.typed_drop_points) / _STEP)
    return round(100.0 * (1.0 - verification.score(row.id).least) / _STEP)


def _rank(row: LoweredVariant, target: Target) -> tuple[int, int]:
    order = _COST[target]
    name = row.id if row.id in order else row.precision
    return (order.index(name) if name in order else len(order), row.file_bytes)
