"""Beams: depth and lateral place of every pixel, by hand; the scan area guessed from grey values."""

from __future__ import annotations

import math

import pytest
import torch

from edge_runtime.errors import ConfigError
from edge_runtime.frame import Rectangle, Sector
from edge_sdk.augment.beams import BEAMS, beam_field, beams_of, scan_support
from edge_sdk.batch import Batch, Field

SECTOR = Sector(
    apex_x=31.5, apex_y=-20, radius_min=20, radius_max=68, angle_min=-0.5, angle_max=0.5
)  # in a 48 x 64 frame


def _batch(targets: dict[str, Field], n: int = 1) -> Batch:
    return Batch(inputs=torch.ones(n, 1, 48, 64), labelled=torch.ones(n, dtype=torch.bool), targets=targets)


def test_straight_beams_are_rows_and_columns() -> None:
    depth, lateral, inside = beam_field([None], (4, 8)).values[0]
    assert torch.allclose(depth[:, 3], torch.tensor([0.125, 0.375, 0.625, 0.875]))
    assert torch.allclose(lateral[2], torch.arange(-7, 8, 2) / 8)
    assert inside.all()


def test_a_rectangle_ends_where_its_geometry_says() -> None:
    area = Rectangle(x0=10, y0=4, x1=50, y1=44)
    depth, lateral, inside = beam_field([area], (48, 64)).values[0]
    assert torch.equal(inside > 0, torch.from_numpy(area.mask((48, 64))))
    assert depth[24, 0] == pytest.approx(0.5)
    assert lateral[0, 30] == pytest.approx(0.0)


def test_a_sector_has_rays() -> None:
    depth, lateral, inside = beam_field([SECTOR], (48, 64)).values[0]
    assert torch.equal(inside > 0, torch.from_numpy(SECTOR.mask((48, 64))))
    x, y = 40, 30
    radius, angle = math.hypot(x - 31.5, y + 20), math.atan2(x - 31.5, y + 20)
    assert depth[y, x] == pytest.approx((radius - 20) / 48, abs=1e-5)
    assert lateral[y, x] == pytest.approx(angle / 0.5, abs=1e-5)


def test_coarse_planes_keep_the_field_of_view() -> None:
    fine, coarse = beam_field([SECTOR], (48, 64)), beam_field([SECTOR], (48, 64), step=4)
    assert coarse.values.shape == (1, 3, 12, 16)
    batch = _batch({BEAMS: coarse})
    beams = beams_of(batch, batch.inputs)
    assert (beams.depth[0, 0] - fine.values[0, 0])[4:-4, 4:-4].abs().max() < 0.02


def test_the_scan_area_is_guessed_from_what_is_not_black() -> None:
    area = torch.from_numpy(SECTOR.mask((48, 64)))
    grey = torch.where(area, 0.5, 0.0)[None, None]
    grey[0, 0, 20:28, 28:36] = 0  # a dark cyst within
    assert torch.equal(scan_support(grey)[0, 0], area)
    assert not scan_support(torch.zeros(2, 1, 8, 8)).any()


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="0 scan areas"):
        beam_field([], (8, 8))
    with pytest.raises(ConfigError, match="step 0"):
        beam_field([None], (8, 8), step=0)
    batch = _batch({BEAMS: Field(values=torch.zeros(1, 2, 48, 64), kind="dense")})
    with pytest.raises(ConfigError, match=r"\(1, 2, 48, 64\)"):
        beams_of(batch, batch.inputs)
