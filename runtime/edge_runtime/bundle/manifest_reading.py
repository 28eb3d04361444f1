"""How an output is read beyond its numbers: gates, plausibility rules and measurements, as data in the manifest."""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = ["EnergyGate", "Gate", "MahalanobisGate", "Measure", "Quantity", "Rule", "RuleQuantity"]

RuleQuantity = Literal[
    "area_mm2", "area_share", "centre_x", "centre_y", "centre_jump", "centre_jump_mm", "area_jump", "parts"
]
Quantity = Literal["area", "perimeter", "diameter", "ellipse_circumference", "ellipse_major", "ellipse_minor"]


class _Struct(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Unknown fields are refused, so that a later reader cannot misread an older file's meaning."""


class EnergyGate(_Struct, frozen=True, kw_only=True, tag="energy", tag_field="score"):
    """A frame is beyond it when its energy exceeds `threshold` (Liu et al., NeurIPS 2020, equation 4), in logits.

    E = -T log sum exp(f / T) of the logits f at T = `temperature`. Of a mask the logits are taken relative to the
    background's, (0, z) where there is one plane, and E is the mean over the pixels whose probability of being in any
    class exceeds 0.001: it is 0, the highest, where there are none. `false_alarm` is the share of `n` held-out frames
    that lie beyond the threshold, `over` says which frames these were.
    """

    threshold: float
    false_alarm: float
    n: int
    over: str
    temperature: float = 1.0


class MahalanobisGate(_Struct, frozen=True, kw_only=True, tag="mahalanobis", tag_field="score"):
    """A frame is beyond it when its features are further than `threshold` from every mean (Lee et al., NeurIPS 2018).

    The distance to `means[k]` (D,) is |W (f - mean)|, in standard deviations: W is lower triangular with W^T W the
    inverse of the covariance that all classes share, row i of `whitening` its first i + 1 numbers. Maps of features
    are averaged over their pixels first. `false_alarm`, `n` and `over` as in `EnergyGate`.
    """

    means: tuple[tuple[float, ...], ...]
    whitening: tuple[tuple[float, ...], ...]
    threshold: float
    false_alarm: float
    n: int
    over: str


Gate = EnergyGate | MahalanobisGate


class Rule(_Struct, frozen=True, kw_only=True):
    """What is plausible of a class of a mask: `quantity` of `label` within `least` and `most`, ends included.

    - "area_mm2"; "area_share" of the frame's pixels; "parts", the number of 8-connected regions.
    - "centre_x", "centre_y": place of the centre of area, 0 left or top to 1 right or bottom of the frame.
    - "centre_jump": way of the centre since the last frame read, in diagonals of the frame for each frame of the
      source in between; "centre_jump_mm" in mm for each. "area_jump": change of the area over the larger of both, for
      each.

    Only areas and parts are asked of a class that is not there.
    """

    name: str
    label: str
    quantity: RuleQuantity
    least: float | None = None
    most: float | None = None


class Measure(_Struct, frozen=True, kw_only=True):
    """Which `quantities` of the class `label` are measured in mm.

    `spacing_rel` is the standard uncertainty of the pixel size over the pixel size (0.01 for 1 %), which is the
    imaging device's; it must be stated.
    """

    label: str
    quantities: tuple[Quantity, ...]
    spacing_rel: float
