"""Measurements in a result: discs through preprocessing and back, withheld where there is nothing to believe."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edge_runtime.bundle import OutputSpec
from edge_runtime.bundle.manifest_reading import Measure
from edge_runtime.frame import Frame, FrameGeometry, Sector
from edge_runtime.postprocess import OutputsPostprocessor
from edge_runtime.preprocess import Letterbox, Normalize, Preprocessor, PreprocessSpec, Resize, Step, ToPolar
from edge_runtime.result import Measurement, Outcome

pytest.importorskip("cv2")
KNOWN = FrameGeometry(row_mm=0.2, column_mm=0.15, origin="simulated", trusted=True, reason="")
WHAT: tuple[Any, ...] = ("area", "perimeter", "diameter", "ellipse_circumference", "ellipse_major", "ellipse_minor")
SHAPE, RADIUS, CENTRE, WIDTH = (160, 200), 8.0, (14.0, 15.0), 0.5  # pixels; mm


def seen(step: Step, geometry: FrameGeometry = KNOWN, planes: int = 1, **change: Any) -> Outcome:
    """A disc in mm whose border is `WIDTH` mm wide (logistic), as the network would see it."""
    centre, radius = change.get("centre", CENTRE), change.get("radius", RADIUS)
    spec = PreprocessSpec(steps=(step, Normalize()))
    frame = Frame(image=np.zeros(SHAPE, np.uint8), index=0, arrival_ns=0, geometry=geometry)
    prepared = Preprocessor(spec)(frame)
    height, width = prepared.tensor.shape[2:]
    y, x = np.mgrid[:height, :width]
    at = prepared.map.to_source(np.stack([x, y], axis=-1)) * (0.15, 0.2)
    logits = ((radius - np.hypot(at[..., 0] - centre[0], at[..., 1] - centre[1])) / WIDTH).astype(np.float32)
    classes = ("cyst",) if planes == 1 else ("none", "vessel", "cyst")
    stack = logits[None] if planes == 1 else np.stack([np.zeros_like(logits), np.full_like(logits, -30), logits])
    output = OutputSpec(
        name="y",
        shape=(1, planes, height, width),
        kind="mask_logits",
        classes=classes,
        measure=(Measure(label="cyst", quantities=WHAT, spacing_rel=0.01),),
    )
    return OutputsPostprocessor((output,), spec)({"y": stack[None]}, prepared, frame)


def by_name(outcome: Outcome) -> dict[str, Measurement]:
    return {item.quantity: item for item in outcome.measurements}


SECTOR = Sector(apex_x=100, apex_y=-20, radius_min=10, radius_max=190, angle_min=-0.8, angle_max=0.8, aspect=4 / 3)


@pytest.mark.parametrize("planes", [1, 3])
@pytest.mark.parametrize("step", [Resize(height=80, width=80), Letterbox(height=96, width=96)])
def test_a_disc_in_millimetres(step: Step, planes: int) -> None:
    found = by_name(seen(step, planes=planes))
    wanted = {
        "area": math.pi * RADIUS**2, "perimeter": 2 * math.pi * RADIUS, "diameter": 2 * RADIUS,
        "ellipse_circumference": 2 * math.pi * RADIUS, "ellipse_major": 2 * RADIUS, "ellipse_minor": 2 * RADIUS,
    }  # fmt: skip
    assert {name: item.value for name, item in found.items()} == pytest.approx(wanted, rel=0.015)
    # the slope of a logistic is 1 / 4 WIDTH, of the Gaussian it is read as 1 / (sigma sqrt(2 pi))
    sigma = 4 * WIDTH / math.sqrt(2 * math.pi)
    assert found["diameter"].uncertainty == pytest.approx(math.hypot(0.16, 2 * sigma), rel=0.1)
    assert found["area"].uncertainty == pytest.approx(
        math.hypot(0.02 * wanted["area"], wanted["perimeter"] * sigma), rel=0.1
    )
    assert (found["area"].unit, found["perimeter"].unit, found["area"].label) == ("mm2", "mm", "cyst")


def test_a_polar_image_is_measured_in_source_pixels() -> None:
    geometry = FrameGeometry(row_mm=0.2, column_mm=0.15, scan_area=SECTOR, trusted=True, reason="", origin="user")
    found = by_name(seen(ToPolar(height=128, width=128), geometry))
    assert found["diameter"].value == pytest.approx(16, rel=0.03)
    assert found["area"].value == pytest.approx(64 * math.pi, rel=0.03)


def test_millimetres_are_withheld_with_the_reason() -> None:
    found = seen(Resize(height=80, width=80), FrameGeometry(reason="a screen capture")).measurements
    assert [item.quantity for item in found] == list(WHAT)
    assert {(item.value, item.uncertainty, item.withheld) for item in found} == {(None, None, "a screen capture")}


def test_nothing_there_and_cut_off() -> None:
    empty = by_name(seen(Resize(height=80, width=80), radius=-9))
    assert {item.withheld for item in empty.values()} == {"no cyst in this frame"}
    cut = by_name(seen(Resize(height=80, width=80), centre=(5.0, 15.0)))
    assert {cut[name].withheld for name in ("area", "perimeter", "diameter")} == {"the image ends before the cyst does"}
    assert cut["ellipse_major"].value == pytest.approx(16, rel=0.06)


def test_a_temperature_widens_the_doubt_and_moves_nothing() -> None:
    """Twice the temperature is half the slope: the same disc, twice as uncertain at its border."""
    import msgspec

    spec = PreprocessSpec(steps=(Resize(height=80, width=80), Normalize()))
    frame = Frame(image=np.zeros((80, 80), np.uint8), index=0, arrival_ns=0, geometry=KNOWN)
    y, x = np.mgrid[:80, :80]
    logits: npt.NDArray[np.float32] = (25 - np.hypot(x - 40, y - 40)).astype(np.float32)[None, None] / 2
    what = (Measure(label="cyst", quantities=("diameter",), spacing_rel=0.0),)
    output = OutputSpec(name="y", shape=(1, 1, 80, 80), kind="mask_logits", classes=("cyst",), measure=what)
    plain, warm = (
        OutputsPostprocessor((msgspec.structs.replace(output, temperature=t),), spec)(
            {"y": logits}, Preprocessor(spec)(frame), frame
        )
        for t in (1.0, 2.0)
    )
    assert plain.probability is not None
    assert warm.probability is not None
    assert np.allclose(np.log(warm.probability / (1 - warm.probability)), np.clip(logits[0, 0] / 2, -16, 16), atol=0.1)
    (one,), (two,) = plain.measurements, warm.measurements
    assert one.uncertainty is not None
    assert two.value == pytest.approx(one.value, rel=2e-3)
    assert two.uncertainty == pytest.approx(2 * one.uncertainty, rel=0.05)
