"""Which lists of steps are a preprocessing, and which are refused."""

from __future__ import annotations

from itertools import permutations, product

import msgspec
import pytest

from edge_runtime.errors import ConfigError
from edge_runtime.preprocess import (
    CropToScanArea,
    Letterbox,
    Normalize,
    Preprocessor,
    PreprocessSpec,
    Resize,
    Stack,
    Step,
    ToGray,
)

pytest.importorskip("cv2")

CROP, GRAY, SIZE, BOX, NORM, STACK = (
    CropToScanArea(),
    ToGray(),
    Resize(height=8, width=8),
    Letterbox(height=8, width=8),
    Normalize(),
    Stack(n=2),
)
ALLOWED = {
    (*head, size, NORM, *tail)
    for head in ((), (CROP,), (GRAY,), (CROP, GRAY), (GRAY, CROP))
    for size in (SIZE, BOX)
    for tail in ((), (STACK,))
}


def accepted(steps: tuple[Step, ...]) -> bool:
    try:
        Preprocessor(PreprocessSpec(steps=steps))
    except ConfigError:
        return False
    return True


def test_of_all_orders_exactly_the_documented_ones_are_taken() -> None:
    every = [order for n in range(6) for order in permutations((CROP, GRAY, SIZE, BOX, NORM, STACK), n)]
    assert {order for order in every if accepted(order)} == ALLOWED


@pytest.mark.parametrize("twice", [CROP, GRAY, SIZE, BOX, NORM, STACK])
def test_no_step_stands_twice(twice: Step) -> None:
    for steps in ALLOWED:
        assert not accepted((*steps, twice)) or twice not in steps
        assert not accepted((twice, *steps)) or twice not in steps


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ((), "exactly one size step"),
        ((SIZE,), "exactly one size step and one normalize"),
        ((NORM, SIZE), "the order must be"),
        ((SIZE, BOX, NORM), "exactly one size step"),
        ((Resize(height=0, width=8), NORM), "height is 0; 1 to 4096"),
        ((Resize(height=8, width=5000), NORM), "width is 5000"),
        ((Letterbox(height=8, width=8, fill=256), NORM), "fill is 256; 0 to 255"),
        ((SIZE, Normalize(std=0.0)), "std 0.0"),
        ((SIZE, Normalize(scale=-1.0)), "scale -1.0"),
        ((SIZE, Normalize(mean=float("nan"))), "mean nan"),
        ((SIZE, Normalize(std=float("inf"))), "std inf"),
        ((SIZE, NORM, Stack(n=0)), "stack n is 0"),
        ((SIZE, NORM, Stack(n=2, stride=0)), "stack stride is 0"),
        ((SIZE, NORM, Stack(n=1000)), "stack n is 1000; 1 to 64"),
    ],
)
def test_refusals_say_the_value_and_what_is_allowed(steps: tuple[Step, ...], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Preprocessor(PreprocessSpec(steps=steps))


def test_the_hash_tells_specs_apart_and_survives_json() -> None:
    specs = [PreprocessSpec(steps=steps) for steps in ALLOWED]
    specs += [
        PreprocessSpec(steps=(Resize(height=h, width=8, interpolation=i), Normalize(std=s)))
        for h, i, s in product((4, 5), ("area", "linear"), (1.0, 2.0))
    ]
    assert len({spec.sha256 for spec in specs}) == len({*specs})
    for spec in specs:
        again = msgspec.json.decode(spec.to_json(), type=PreprocessSpec)
        assert (again, Preprocessor(again).sha256) == (spec, spec.sha256)
