from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from edge_runtime.frame import Frame
from edge_runtime.result import Area, ClassScore, Detection, Finding, GateScore, Measurement, Result, State
from edge_runtime.sinks import draw_overlay
from edge_runtime.sinks.overlay import _finding_text, draw_notice

pytest.importorskip("cv2")

SHAPES = [(240, 320), (480, 640), (100, 60), (1080, 1920), (33, 501)]


def result(
    shape: tuple[int, ...] = (240, 320), state: State = "fresh", *, areas: tuple[Area, ...] = (), masked: bool = True
) -> Result:
    image = np.full(shape, 90, np.uint8)
    mask: npt.NDArray[np.uint8] | None = None
    if masked:
        mask = np.zeros(shape[:2], np.uint8)
        mask[shape[0] // 4 : shape[0] // 2, shape[1] // 4 : shape[1] // 2] = 1
    frame = Frame(image=image, index=12, arrival_ns=1_000_000)
    return Result(
        frame=frame, branch="seg", state=state, mask=mask, areas=areas, outputs_from=9, done_ns=13_500_000, variant="v"
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_small_frames_are_enlarged_by_a_whole_factor_and_sides_are_even(shape: tuple[int, int]) -> None:
    drawn = draw_overlay(result(shape))
    assert drawn.dtype == np.uint8
    assert drawn.shape[0] >= 480
    assert drawn.shape[0] % 2 == drawn.shape[1] % 2 == 0
    assert drawn.shape[1] >= 480
    factor = max(1, -(-480 // shape[0]))
    left = (max(480, shape[1] * factor) - shape[1] * factor) // 2
    y, x = shape[0] * factor * 7 // 8, left + shape[1] * factor * 7 // 8
    assert drawn[y, x].tolist() == [90, 90, 90]


def test_the_mask_is_tinted_outlined_and_where_it_belongs() -> None:
    plain, drawn = draw_overlay(result(masked=False)), draw_overlay(result())
    changed = (plain != drawn).any(axis=2)
    rows, columns = np.nonzero(changed[:480])
    assert (rows.min(), columns.min()) == pytest.approx((120, 160), abs=2)
    assert (rows.max(), columns.max()) == pytest.approx((240, 320), abs=2)
    assert changed[130:230, 170:310].all()
    assert drawn[120, 240].sum() > drawn[180, 240].sum()


def test_classes_have_colours_of_their_own() -> None:
    two = result()
    assert two.mask is not None
    two.mask[180:200, 200:220] = 2
    drawn = draw_overlay(two)
    assert drawn[180, 240].tolist() != drawn[380, 420].tolist()


@pytest.mark.parametrize("state", ["degraded", "stale", "failed"])
def test_anything_but_fresh_is_framed_and_labelled(state: State) -> None:
    fresh, drawn = draw_overlay(result()), draw_overlay(result(state=state))
    edge = drawn[:480, 2]
    assert (edge == edge[0]).all()
    assert edge[0].tolist() != [90, 90, 90]
    label = (drawn[8:36, 6:200] == edge[0]).all(axis=2)
    assert label.mean() > 0.3
    assert (fresh[:480, 2] == 90).all()


def test_areas_are_listed_known_or_withheld() -> None:
    known = Area(label="cyst", pixels=100, mm2=31.4)
    withheld = Area(label="cyst", pixels=100, mm2=None, withheld="no calibration")
    shown = [draw_overlay(result(areas=(area,))) for area in (known, withheld)]
    below = [image[480 + 31 :].max(axis=2) > 100 for image in shown]
    assert all(area.sum() > 100 for area in below)
    assert (below[0] != below[1]).any()
    many = draw_overlay(result(areas=(known,) * 5))
    assert many.shape[0] >= shown[0].shape[0] + 3 * 26


def test_colour_frames_keep_their_colour_and_the_source_is_left_alone() -> None:
    colour = result((240, 320, 3), masked=False)
    colour.frame.image[:] = (10, 20, 30)
    before = colour.frame.image.copy()
    assert draw_overlay(colour)[300, 300].tolist() == [10, 20, 30]
    assert np.array_equal(colour.frame.image, before)
    large = result((600, 800), masked=True)
    draw_overlay(large)
    assert (large.frame.image == 90).all()


def test_long_and_foreign_text_stays_inside() -> None:
    strange = result((240, 60), areas=(Area(label="Ω" * 200, pixels=1, mm2=1.0),))
    strange.branch = "b" * 300
    drawn = draw_overlay(strange)
    assert drawn[:, -4:].max() == 0 or (drawn[480:, -4:] == 0).all()


def full(state: State) -> Result:
    """A result with something of everything."""
    made = result(state=state, areas=(Area(label="cyst", pixels=100, mm2=31.4),))
    made.measurements = (
        Measurement(label="cyst", quantity="diameter", unit="mm", value=12.3, uncertainty=0.4),
        Measurement(label="cyst", quantity="area", unit="mm2", value=None, uncertainty=None, withheld="no calibration"),
    )
    made.classes = (ClassScore(label="benign", probability=0.75),)
    made.detections = (Detection(label="cyst", score=0.5, x0=200, y0=150, x1=260, y1=200),)
    made.findings = (Finding(rule="size", label="cyst", quantity="area", value=31.4, least=None, most=10.0),)
    made.image = np.full((240, 320), 200, np.uint8)
    return made


def test_of_a_stale_or_failed_result_nothing_but_the_label_is_drawn() -> None:
    for state in ("stale", "failed"):
        drawn, bare = draw_overlay(full(state)), draw_overlay(result(state=state, masked=False))
        assert np.array_equal(drawn[:511], bare[:511])
        assert drawn[511:].max() == 0  # the room for the numbers is kept, so that the picture stands still
    told = draw_overlay(full("stale"), stale_outputs=True)
    assert (told[300, 560] == 200).all()
    assert told[511:].max() > 200
    assert np.array_equal(draw_overlay(full("failed"), stale_outputs=True), draw_overlay(full("failed")))


def test_every_number_of_a_result_has_its_line() -> None:
    made = full("fresh")
    lines = 1 + len(made.areas) + len(made.measurements) + 1
    assert draw_overlay(made).shape[0] == 480 + 26 * lines + 10
    band = draw_overlay(made)[480:]
    rows = [band[5 + 26 * k : 31 + 26 * k].max(axis=2) > 100 for k in range(lines)]
    assert all(row.sum() > 100 for row in rows)


def test_a_frame_beyond_the_gate_is_labelled() -> None:
    made = result()
    made.gates = (GateScore(output="mask", score=1.0, threshold=2.0),)
    assert np.array_equal(draw_overlay(made), draw_overlay(result()))
    made.gates = (GateScore(output="mask", score=3.0, threshold=2.0),)
    edge = draw_overlay(made)[:480, 2]
    assert (edge == edge[0]).all()
    assert edge[0].tolist() == [255, 120, 40]
    degraded = result(state="degraded")
    one = draw_overlay(degraded)
    degraded.gates = made.gates
    assert (one != draw_overlay(degraded)).any()  # a label more


@pytest.mark.parametrize(
    ("value", "least", "most", "reason", "text"),
    [
        (31.4, None, 10.0, "", "IMPLAUSIBLE: cyst area 31.4 above 10"),
        (3.0, 5.0, 10.0, "", "IMPLAUSIBLE: cyst area 3 below 5"),
        (30.0, 5.0, 10.0, "", "IMPLAUSIBLE: cyst area 30 above 10"),
        (None, 5.0, 10.0, "no calibration", "NOT CHECKED: cyst area (no calibration)"),
    ],
)
def test_broken_rules_are_labelled(
    value: float | None, least: float | None, most: float | None, reason: str, text: str
) -> None:
    finding = Finding(rule="size", label="cyst", quantity="area", value=value, least=least, most=most, reason=reason)
    assert _finding_text(finding) == text
    made = result()
    made.findings = (finding,)
    one = draw_overlay(made)
    assert one[:480, 2].tolist() == [[255, 120, 40]] * 480
    made.findings = (finding,) * 5
    assert (draw_overlay(made)[:200] != one[:200]).any()
    assert draw_overlay(made).shape == one.shape == draw_overlay(result()).shape


def test_a_notice_is_a_picture_of_its_text() -> None:
    one, two = draw_notice("WAITING"), draw_notice("THE STREAM HAS ENDED")
    assert one.shape == two.shape == (480, 640, 3)
    assert (one != two).any()
    assert one[60:470, 20:-20].max() == 0


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 1), (16, 2000), (30, 900, 3)])
def test_a_frame_of_any_shape_has_its_state_below_and_stays_within_bounds(shape: tuple[int, ...]) -> None:
    drawn = draw_overlay(result(shape=shape, state="stale"))
    assert drawn.shape[1] <= 8192
    assert drawn.shape[0] <= 6000
    band = drawn[-60:, :120].reshape(-1, 3).astype(int)
    assert (np.abs(band - (255, 120, 40)).sum(axis=1) < 30).any()  # the word, in the colour of the state
