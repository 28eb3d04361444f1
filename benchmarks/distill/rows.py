"""The keys of the table; what measures and trains them is imported when it runs."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

from benchmarks.figures import Row, row_of

__all__ = ["ROWS"]


@cache
def _train(module: str, key: str) -> Callable[[], object]:
    """The training of `key`; one function per key, so that rows that share it train once."""

    def train() -> Any:
        from edge_sdk.display import show_progress

        with show_progress() as progress:
            return getattr(import_module(f"benchmarks.distill.{module}"), f"train_{key}")(progress)

    return train


def _row(key: str, what: str, module: str, fresh: tuple[str, str] | None = None) -> Row:
    return row_of(f"benchmarks.distill.{module}", key, what, _train(*fresh) if fresh else None)


_HC18 = ("segmentation_rows", "hc18")
_USGRA = ("segmentation_rows", "usgra")

ROWS = [
    _row("hc18_teacher", "fetal heads, teacher, test split", "segmentation_rows", _HC18),
    _row("hc18_student", "fetal heads, distilled student", "segmentation_rows", _HC18),
    _row("kd_gain", "the same student from labels alone", "segmentation_rows", _HC18),
    _row("ultra_light", "at most 35 k parameters", "segmentation_rows", _HC18),
    _row("usgra_student", "nerve and vessel", "segmentation_rows", _USGRA),
    _row("label_free_gain", "a held-out shift, adapted without labels", "adapt", ("adapt", "label_free_gain")),
    _row("usgra_detection", "boxes of nerves and vessels", "detection", ("detection", "usgra_detection")),
    _row("lung_clips", "clips by patient", "lung", ("lung", "lung_clips")),
    _row("denoise", "speckle and noise taken off frames", "denoise", ("denoise", "denoise")),
    _row("audit_power", "planted and absent harm in a subgroup", "audit"),
    _row("explanation_check", "Grad-CAM of teacher and student", "explain"),
    _row("calibration", "the band around the true boundary", "calibration", ("calibration", "calibration")),
    _row("metric_parity", "against MONAI, scikit-image, pycocotools", "parity"),
    _row("resume", "killed and resumed", "resume"),
]
