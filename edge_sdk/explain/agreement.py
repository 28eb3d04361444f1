"""How far two explanations agree, as numbers, and against what chance would give."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from edge_runtime.errors import ConfigError

__all__ = ["CamAgreement", "cam_agreement", "chance_iou"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CamAgreement:
    """For N frames: `spearman` in [-1, 1] and `top_iou` in [0, 1], (N,) float64; `undefined` frames without evidence.

    A map that is the same everywhere ranks nothing: such a frame counts as no agreement, 0 in both, and is counted
    in `undefined`.
    """

    spearman: npt.NDArray[np.float64]
    top_iou: npt.NDArray[np.float64]
    undefined: int


def cam_agreement(first: Tensor, second: Tensor, *, top: float = 0.2, area: Tensor | None = None) -> CamAgreement:
    """Agreement of maps (N, H, W), frame by frame.

    `spearman` is the rank correlation over the frame's pixels, ties sharing their mean rank (Adebayo et al., NeurIPS
    2018, compare maps so); `top_iou` the intersection over union of the `top` share of pixels with the largest
    values, of which pixels with no evidence at all are never part. `area` (H, W) or (N, H, W) bool restricts both to
    the scan area. Raises `ConfigError` for shapes that differ, an empty area, or `top` outside (0, 1).
    """
    if first.shape != second.shape or first.ndim != 3:
        raise ConfigError(f"maps are {tuple(first.shape)} and {tuple(second.shape)}; equal (N, H, W) are needed")
    if not 0 < top < 1:
        raise ConfigError(f"top is {top}; a share between 0 and 1 is needed")
    masks = np.ones(tuple(first.shape), bool) if area is None else np.broadcast_to(area.numpy(), tuple(first.shape))
    spearman, top_iou = np.zeros(len(first)), np.zeros(len(first))
    undefined = 0
    for k, (a, b) in enumerate(zip(first.double().numpy(), second.double().numpy(), strict=True)):
        mask = masks[k]
        if not mask.any():
            raise ConfigError(f"the area of frame {k} is empty; give at least one pixel")
        one, two = a[mask], b[mask]
        if np.ptp(one) == 0 or np.ptp(two) == 0:
            undefined += 1
            continue
        spearman[k] = _spearman(one, two)
        top_iou[k] = _top_iou(one, two, top)
    return CamAgreement(spearman=spearman, top_iou=top_iou, undefined=undefined)


def chance_iou(top: float = 0.2) -> float:
    """The IoU of two independent random sets that each hold a `top` share of many pixels."""
    return top / (2 - top)


def _spearman(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
    from scipy.stats import rankdata

    return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])


def _top_iou(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64], top: float) -> float:
    sets = [_top_set(values, top) for values in (a, b)]
    union = int((sets[0] | sets[1]).sum())
    return float((sets[0] & sets[1]).sum() / union) if union else 0.0


def _top_set(values: npt.NDArray[np.float64], top: float) -> npt.NDArray[np.bool_]:
    count = max(1, round(top * values.size))
    threshold = np.partition(values, values.size - count)[values.size - count]
    chosen: npt.NDArray[np.bool_] = (values >= threshold) & (values > 0)
    return chosen
