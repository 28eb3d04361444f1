"""Measurements of a class in mm, or why there are none."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from edge_runtime.bundle.manifest_reading import Measure, Quantity
from edge_runtime.frame import FrameGeometry
from edge_runtime.metrics.outline import Outline, Uncertain, outline
from edge_runtime.result import Measurement

__all__ = ["measure"]

Unit = Literal["mm", "mm2"]


def measure(
    probability: npt.NDArray[np.float32], geometry: FrameGeometry, what: Measure, *, level: float = 0.5
) -> tuple[Measurement, ...]:
    """Every quantity of `what` from the map (H, W) of its class, in the pixels of `geometry`: of its largest region,
    holes filled.

    The boundary lies where the map crosses `level`. Withheld with a reason, in each quantity: without a trusted
    geometry; where nothing is above the level; where the image cuts the region off, but for the axes and circumference
    of the ellipse, which go on beyond; where no ellipse fits.
    """
    if not geometry.trusted:
        return tuple(_withheld(what, quantity, geometry.reason) for quantity in what.quantities)
    found = outline(probability, geometry.require_mm(), shear=geometry.shear, level=level)
    if found is None:
        return tuple(_withheld(what, quantity, f"no {what.label} in this frame") for quantity in what.quantities)
    return tuple(_one(found, what, quantity) for quantity in what.quantities)


def _one(found: Outline, what: Measure, quantity: Quantity) -> Measurement:
    if quantity in ("area", "perimeter", "diameter"):
        if found.cut:
            return _withheld(what, quantity, f"the image ends before the {what.label} does")
        ways = {"area": found.area, "perimeter": found.perimeter, "diameter": found.diameter}
        return _given(what, quantity, ways[quantity](what.spacing_rel))
    ellipse = found.ellipse()
    if ellipse is None:
        return _withheld(what, quantity, f"no ellipse fits the {what.label}")
    if quantity == "ellipse_circumference":
        return _given(what, quantity, found.circumference(ellipse, what.spacing_rel))
    half = ellipse.a if quantity == "ellipse_major" else ellipse.b
    return _given(what, quantity, found.axis(half, what.spacing_rel))


def _given(what: Measure, quantity: Quantity, found: Uncertain) -> Measurement:
    unit: Unit = "mm2" if quantity == "area" else "mm"
    return Measurement(label=what.label, quantity=quantity, unit=unit, value=found.value, uncertainty=found.sigma)


def _withheld(what: Measure, quantity: Quantity, reason: str) -> Measurement:
    unit: Unit = "mm2" if quantity == "area" else "mm"
    return Measurement(label=what.label, quantity=quantity, unit=unit, value=None, uncertainty=None, withheld=reason)
