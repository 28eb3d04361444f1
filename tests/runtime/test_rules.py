"""Plausibility rules on planted squares: values in closed form, and what cannot be checked said."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edge_runtime.bundle import OutputSpec
from edge_runtime.bundle.manifest_reading import Rule
from edge_runtime.errors import ConfigError
from edge_runtime.frame import Frame, FrameGeometry
from edge_runtime.postprocess import OutputsPostprocessor, RuleChecker
from edge_runtime.preprocess import Normalize, Preprocessor, PreprocessSpec, Resize
from edge_runtime.result import Finding

pytest.importorskip("cv2")
KNOWN = FrameGeometry(row_mm=0.5, column_mm=0.25, origin="simulated", trusted=True, reason="")
SHAPE = (30, 40)


def frame(index: int = 0, geometry: FrameGeometry = KNOWN, shape: tuple[int, int] = SHAPE) -> Frame:
    return Frame(image=np.zeros(shape, np.uint8), index=index, arrival_ns=0, geometry=geometry)


def square(x: int, y: int, size: int = 4, value: int = 1, shape: tuple[int, int] = SHAPE) -> npt.NDArray[np.uint8]:
    mask = np.zeros(shape, np.uint8)
    mask[y : y + size, x : x + size] = value
    return mask


def rule(quantity: Any, least: float | None = None, most: float | None = None, label: str = "cyst") -> Rule:
    return Rule(name=f"the {quantity}", label=label, quantity=quantity, least=least, most=most)


def value_of(quantity: Any, *masks: tuple[int, npt.NDArray[np.uint8]], geometry: FrameGeometry = KNOWN) -> float | None:
    """What a rule that nothing satisfies finds in the last of the frames; None when it was not asked."""
    check = RuleChecker((rule(quantity, least=1e9),), ("cyst",))
    found: tuple[Finding, ...] = ()
    for index, mask in masks:
        found = check(mask, frame(index, geometry, mask.shape))
    return found[0].value if found else None


def test_values_in_closed_form() -> None:
    mask = square(10, 5)  # centre (11.5, 6.5)
    assert value_of("area_mm2", (0, mask)) == pytest.approx(16 * 0.125)
    assert value_of("area_share", (0, mask)) == pytest.approx(16 / 1200)
    assert value_of("centre_x", (0, mask)) == pytest.approx(12 / 40)
    assert value_of("centre_y", (0, mask)) == pytest.approx(7 / 30)
    assert value_of("parts", (0, mask | square(30, 20))) == 2
    assert value_of("centre_jump", (0, mask), (1, square(13, 9))) == pytest.approx(5 / 50)
    assert value_of("centre_jump", (0, mask), (2, square(13, 9))) == pytest.approx(5 / 50 / 2)
    assert value_of("centre_jump_mm", (0, mask), (1, square(13, 9))) == pytest.approx(math.hypot(0.75, 2))
    assert value_of("area_jump", (0, mask), (1, square(10, 5, 2))) == pytest.approx(12 / 16)
    assert value_of("area_jump", (4, mask), (8, square(10, 5, 2))) == pytest.approx(12 / 16 / 4)


def test_what_is_not_asked() -> None:
    empty, there = np.zeros(SHAPE, np.uint8), square(10, 5)
    for quantity in ("centre_x", "centre_y", "centre_jump", "centre_jump_mm"):
        assert value_of(quantity, (0, there), (1, empty)) is None
    assert value_of("centre_jump", (0, empty), (1, there)) is None  # appeared
    assert value_of("area_jump", (0, there)) is None  # the first frame
    assert value_of("area_jump", (3, there), (3, empty)) is None  # not later
    assert value_of("area_jump", (0, there), (1, np.zeros((20, 20), np.uint8))) is None  # another size
    assert value_of("area_mm2", (0, empty)) == 0
    assert value_of("area_jump", (0, there), (1, empty)) == 1
    check = RuleChecker((rule("centre_jump_mm", least=1e9), rule("area_jump", least=1e9)), ("cyst",))
    check(there, frame(0))
    assert len(check(there, frame(1))) == 2
    assert check(there, frame(2, FrameGeometry(row_mm=1, column_mm=1, trusted=True, reason=""))) == ()
    check.reset()
    assert check(there, frame(3)) == ()


def test_ends_are_plausible_and_beyond_is_told_with_name_and_value() -> None:
    rules = (rule("area_share", 16 / 1200, 16 / 1200), rule("centre_x", most=0.2))
    (found,) = RuleChecker(rules, ("cyst",))(square(10, 5), frame())
    assert (found.rule, found.label, found.quantity) == ("the centre_x", "cyst", "centre_x")
    assert found.value == pytest.approx(0.3)
    assert (found.least, found.most, found.reason) == (None, 0.2, "")


def test_millimetres_that_cannot_be_had_are_a_finding() -> None:
    blind = FrameGeometry(reason="the depth knob was turned")
    rules = (rule("area_mm2", most=1e9), rule("centre_jump_mm", most=1e9), rule("area_share", most=1))
    found = RuleChecker(rules, ("cyst",))(square(10, 5), frame(geometry=blind))
    assert [(item.rule, item.value, item.reason) for item in found] == [
        ("the area_mm2", None, "the depth knob was turned"),
        ("the centre_jump_mm", None, "the depth knob was turned"),
    ]


def test_classes_are_kept_apart() -> None:
    mask = np.maximum(square(2, 2), square(20, 10, 8, value=2))
    rules = (rule("area_share", most=0, label="p"), rule("area_share", most=0, label="q"))
    found = RuleChecker(rules, ("p", "q"))(mask, frame())
    assert [(item.label, item.value) for item in found] == [("p", pytest.approx(16 / 1200)), ("q", 64 / 1200)]
    with pytest.raises(ConfigError, match="liver"):
        RuleChecker((rule("area_share", most=1, label="liver"),), ("p", "q"))


def test_a_frame_is_marked_and_not_dropped() -> None:
    spec = PreprocessSpec(steps=(Resize(height=30, width=40), Normalize()))
    output = OutputSpec(
        name="y", shape=(1, 1, *SHAPE), kind="mask_logits", classes=("cyst",), rules=(rule("area_mm2", least=4.0),)
    )
    read, prepare, now = OutputsPostprocessor((output,), spec), Preprocessor(spec), frame()
    logits = np.where(square(10, 5), 20, -20).astype(np.float32)[None, None]
    found = read({"y": logits}, prepare(now), now)
    assert found.mask is not None
    assert np.array_equal(found.mask, square(10, 5))
    assert [(item.rule, item.value) for item in found.findings] == [("the area_mm2", 2.0)]
    assert read({"y": np.full_like(logits, 20)}, prepare(now), now).findings == ()
