"""docs/preprocessing.md names every step and every setting, and shows a picture that exists."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import msgspec
import pytest

from edge_runtime.preprocess import Step
from edge_runtime.preprocess.spec import NEW_STEPS

DOCS = Path(__file__).parents[3] / "docs"
FIRST_STEPS = {"crop_to_scan_area", "to_gray", "resize", "letterbox", "normalize", "stack"}
TEXT = (DOCS / "preprocessing.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", get_args(Step))
def test_every_step_has_a_row_with_its_settings(kind: type[msgspec.Struct]) -> None:
    row = TEXT[TEXT.index(f"| `{kind.__struct_config__.tag}` |") :].splitlines()[0]
    for field in kind.__struct_fields__:
        assert f"`{field}`" in row


def test_the_picture_exists() -> None:
    assert "images/preprocessing.png" in TEXT
    assert (DOCS / "images" / "preprocessing.png").stat().st_size < 300_000


def test_the_steps_that_older_bundles_know_are_not_new() -> None:
    tags = {str(kind.__struct_config__.tag) for kind in get_args(Step)}
    assert tags - NEW_STEPS == FIRST_STEPS
