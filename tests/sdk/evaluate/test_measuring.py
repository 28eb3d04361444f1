"""One image's figures against the runtime's metrics and closed forms; what is empty; the way of the device."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edge_runtime.bundle import Bundle
from edge_runtime.errors import ConfigError, InferenceError
from edge_runtime.frame import Frame, FrameGeometry
from edge_runtime.metrics.calibration import expected_calibration_error
from edge_runtime.metrics.segmentation import assd, dice, hausdorff95
from edge_runtime.postprocess import MaskPostprocessor
from edge_runtime.preprocess import Preprocessor
from edge_runtime.preprocess.spec import Normalize, PreprocessSpec, Resize, Stack
from edge_sdk.evaluate import (
    Case,
    CohortConfig,
    EvaluateConfig,
    Prediction,
    QuantityConfig,
    SystemConfig,
    measure,
    open_systems,
    system_from_callable,
)
from edge_sdk.evaluate.measuring import border_band

V1 = Path(__file__).parents[2] / "data" / "v1.edge"
KNOWN = FrameGeometry(row_mm=0.3, column_mm=0.2, origin="user", trusted=True, reason="")
SAME = PreprocessSpec(steps=(Resize(height=24, width=32), Normalize()))


def case(geometry: FrameGeometry = KNOWN, truth: float | None = None) -> Case:
    here = Path("x.png")
    return Case(
        name="x.png", cohort="c", image=here, mask=here, mask_values=(0, 255), group="", geometry=geometry, row={},
        truth=truth,
    )  # fmt: skip


def prediction(mask: npt.ArrayLike, probability: npt.ArrayLike | None = None) -> Prediction:
    mask = np.asarray(mask, np.uint8)
    planes = np.asarray((mask > 0)[None] if probability is None else probability, np.float32)
    return Prediction(mask=mask, probabilities=planes)


def measured(found: Prediction, labels: npt.ArrayLike, **more: Any) -> dict[str, float]:
    place = more.pop("case", case())
    return measure(found, np.asarray(labels, np.uint8), place, border_px=3, **more).values


@settings(max_examples=30)
@given(st.integers(0, 9999), st.sampled_from([KNOWN, FrameGeometry()]))
def test_every_metric_is_the_runtimes_own(seed: int, geometry: FrameGeometry) -> None:
    rng = np.random.default_rng(seed)
    truth, mask = (rng.random((2, 14, 17)) < rng.uniform(0.05, 0.6)).astype(np.uint8)
    probability = rng.random((1, 14, 17)).astype(np.float32)
    if not truth.any() or not mask.any():
        return
    found = measured(prediction(mask, probability), truth, case=case(geometry))
    spacing = (0.3, 0.2) if geometry is KNOWN else (1.0, 1.0)
    assert found["dice"] == found["f1"] == dice(mask, truth)
    assert found["hd95"] == pytest.approx(hausdorff95(mask, truth, spacing))
    assert found["assd"] == pytest.approx(assd(mask, truth, spacing))
    assert found["ece"] == pytest.approx(expected_calibration_error(probability.ravel(), truth.ravel()))


def test_a_miss_costs_the_diagonal_and_two_empty_masks_nothing() -> None:
    empty, full = np.zeros((30, 40), np.uint8), np.ones((30, 40), np.uint8)
    missed = measure(prediction(empty), full, case(), border_px=3)
    assert missed.missed
    assert missed.values["hd95"] == missed.values["assd"] == pytest.approx(math.hypot(30 * 0.3, 40 * 0.2))
    assert missed.values["dice"] == missed.values["recall"] == 0
    both = measure(prediction(empty), empty, case(), border_px=3)
    assert not both.missed
    assert (both.values["dice"], both.values["hd95"]) == (1, 0)
    assert math.isnan(both.values["ap"])
    assert math.isnan(both.values["auroc"])


def test_several_classes_are_averaged() -> None:
    labels = np.zeros((10, 12), np.uint8)
    labels[:4], labels[6:] = 1, 2
    mask = np.where(labels == 2, 0, labels)
    planes = np.stack([mask == 1, mask == 2]).astype(np.float32)
    found = measure(prediction(mask, planes), labels, case(), border_px=2)
    assert found.values["dice"] == 0.5
    assert found.missed


@pytest.mark.parametrize(("offset", "kind"), [(0.0, "ellipse_circumference"), (-2.0, "ellipse_circumference")])
def test_the_circumference_is_in_millimetres_on_pixels_that_are_not_square(offset: float, kind: Any) -> None:
    y, x = np.mgrid[:200, :300]
    mask = (((x - 150) * 0.2 / 20) ** 2 + ((y - 100) * 0.3 / 20) ** 2 <= 1).astype(np.uint8)
    quantity = QuantityConfig(column="hc", kind=kind, offset_px=offset)
    wanted = 2 * math.pi * (20 + offset * math.sqrt(0.06))
    found = measured(prediction(mask), mask, case=case(truth=wanted + 5), quantity=quantity)
    assert found["quantity"] == pytest.approx(wanted, rel=0.003)
    assert found["quantity_error"] == pytest.approx(5, abs=0.4)


def test_an_area_a_miss_and_a_missing_reference() -> None:
    mask = np.zeros((20, 20), np.uint8)
    mask[5:10, 5:15] = 1
    area = QuantityConfig(column="area", kind="area")
    assert measured(prediction(mask), mask, case=case(truth=3.0), quantity=area)["quantity"] == pytest.approx(50 * 0.06)
    length = QuantityConfig(column="hc")
    nothing = measured(prediction(0 * mask), mask, case=case(truth=70.0), quantity=length)
    assert (nothing["quantity"], nothing["quantity_error"]) == (0, 70)
    assert math.isnan(measured(prediction(mask), mask, quantity=length)["quantity_error"])
    with pytest.raises(ConfigError, match=r"x\.png: hc is asked for in mm, and no pixel size"):
        measured(prediction(mask), mask, case=case(FrameGeometry(), truth=1.0), quantity=length)


def test_the_band_is_what_lies_within_the_distance_of_the_border() -> None:
    truth = np.zeros((9, 40), bool)
    truth[:, 20:] = True
    assert np.flatnonzero(border_band(truth, 3)[4]).tolist() == [17, 18, 19, 20, 21, 22]
    assert border_band(np.zeros((4, 5), bool), 1).all()


def frame(colour: bool = False) -> Frame:
    image = np.random.default_rng(2).integers(0, 255, (50, 70, 3) if colour else (50, 70)).astype(np.uint8)
    return Frame(image=image, index=0, arrival_ns=0, geometry=KNOWN)


class Planes(nn.Module):
    def __init__(self, planes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, planes, 3, padding=1)

    def forward(self, x: Any) -> Any:
        return 20 * self.conv(x)


@pytest.mark.parametrize("classes", [("a",), ("a", "b")])
def test_a_module_goes_the_devices_way(classes: tuple[str, ...]) -> None:
    system = system_from_callable("m", Planes(1 if len(classes) == 1 else 3), SAME, classes, temperature=2.0)
    found = system(frame())
    prepared = Preprocessor(SAME)(frame())
    wanted = MaskPostprocessor(system.output)({"mask": system._infer(prepared.tensor)}, prepared, frame())
    assert np.array_equal(found.mask, wanted.mask)
    assert found.probabilities.shape == (len(classes), 50, 70)
    if len(classes) == 1:
        assert np.array_equal(found.mask, found.probabilities[0] > 0.5)
    else:
        planes = np.concatenate([1 - found.probabilities.sum(axis=0, keepdims=True), found.probabilities])
        assert np.mean(found.mask == planes.argmax(axis=0)) > 0.999


def test_every_variant_of_a_bundle_is_a_system_with_the_bundles_preprocessing() -> None:
    config = EvaluateConfig(
        cohorts=(CohortConfig(images="", masks=""),), systems=(SystemConfig(path=V1.name),), classes=("bright",)
    )
    with open_systems(config, V1.parent) as systems, Bundle.open(V1) as bundle:
        assert [system.name for system in systems] == ["v1/fp32", "v1/fp16"]
        assert {system.sha256 for system in systems} == {bundle.sha256}
        assert systems[0].preprocess == bundle.manifest.preprocess
        masks = [system(frame(colour=True)).mask for system in systems]
        assert masks[0].shape == (50, 70)
        assert np.mean(masks[0] == masks[1]) > 0.99


def test_systems_that_do_not_fit_are_refused_by_file(scripts: dict[str, Path]) -> None:
    def config(*systems: SystemConfig, classes: tuple[str, ...] = ("a",)) -> EvaluateConfig:
        values = tuple(range(len(classes) + 1))
        cohort = CohortConfig(images="", masks="", mask_values=values)
        return EvaluateConfig(cohorts=(cohort,), systems=systems, classes=classes)

    def opened(settings: EvaluateConfig) -> None:
        with open_systems(settings, Path()):
            pass

    with pytest.raises(ConfigError, match=r"v1\.edge gives 1 planes of logits; 3 are needed"):
        opened(config(SystemConfig(path=str(V1)), classes=("a", "b")))
    with pytest.raises(ConfigError, match=r"teacher\.pt does not say how frames are prepared"):
        opened(config(SystemConfig(path=str(scripts["teacher"]))))
    with pytest.raises(ConfigError, match="folds is 0"):
        opened(config(SystemConfig(path="m{fold}.pt")))
    with pytest.raises(ConfigError, match="different names"):
        config(SystemConfig(path="a.pt"), SystemConfig(path="b/a.pt"))
    stacked = PreprocessSpec(steps=(*SAME.steps, Stack(n=3)))
    with pytest.raises(ConfigError, match="stacks frames"):
        system_from_callable("m", Planes(1), stacked, ("a",))
    with pytest.raises(InferenceError, match=r"f\.png, system m .*NaN|not finite"):
        system_from_callable("m", lambda x: x * float("nan"), SAME, ("a",))(frame(), file="f.png")
    with pytest.raises(ConfigError, match=r"f\.png, system m .*to_gray"):
        system_from_callable("m", Planes(1), SAME, ("a",))(frame(colour=True), file="f.png")
