"""The compiled sums against plain NumPy, pixel by pixel: any pose, mask, box and size of image, from 1x1 on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.reconstruct.scan import mask_to_runs

pytest.importorskip("numba")

from edge_runtime.reconstruct import _kernels as kernels

SHAPE = np.array([9, 8, 7], np.int64)  # x, y, z
ONE = 1 << 40


@dataclass
class Case:
    image: np.ndarray
    mask: np.ndarray
    address: np.ndarray
    box: np.ndarray

    def addresses(self):
        """Addresses (N, 3) and values (N,) of the pixels of the mask that lie in the box, in raster order."""
        y, x = np.nonzero(self.mask)
        p = self.address[0] + x[:, None] * self.address[1] + y[:, None] * self.address[2]
        inside = ((p >> 40 >= self.box[0]) & (p >> 40 < self.box[1])).all(1)
        return p[inside], self.image[y[inside], x[inside]].astype(np.int64)

    def call(self, kernel, acc, *rest):
        return kernel(self.image, mask_to_runs(self.mask), self.address, SHAPE, self.box, acc, *rest)


@st.composite
def cases(draw, overlap=0, wide=(False, True)):
    """Steps from none at all to three voxels a pixel, with ties: whole and half voxels as well as any number."""
    height, width = draw(st.integers(1, 12)), draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    if draw(st.sampled_from(wide)):
        image = rng.integers(0, 16321, (height, width), np.uint16)
    else:
        image = rng.integers(0, 256, (height, width), np.uint8)
    scale = draw(st.sampled_from([0.03, 0.1, 0.4, 3.0]))
    steps = rng.uniform(-scale, scale, (2, 3)) * rng.integers(0, 2, (2, 3))
    if draw(st.booleans()):
        steps = np.rint(steps * 16) / 16  # crosses several axes at one pixel
    centre = rng.uniform(0, SHAPE)
    origin = centre - steps[0] * width / 2 - steps[1] * height / 2
    if draw(st.booleans()):
        origin = np.rint(origin * 16) / 16
    address = np.rint(np.stack([origin, *steps]) * ONE).astype(np.int64)
    low = rng.integers(0, SHAPE - overlap)
    high = rng.integers(low + 1, SHAPE - overlap + 1)
    mask = rng.random((height, width)) < draw(st.sampled_from([0.5, 0.95, 1.1]))
    return Case(image, mask, address, np.stack([low, high]).astype(np.int64))


def flat(voxels):
    return (voxels[:, 2] * SHAPE[1] + voxels[:, 1]) * SHAPE[0] + voxels[:, 0]


@settings(max_examples=300, deadline=None)
@given(case=cases(), area=st.sampled_from([1, 4, 64]))
def test_nearest_mean_is_the_sum_of_its_pixels(case, area):
    p, values = case.addresses()
    truth = np.zeros(SHAPE.prod(), np.int64)
    np.add.at(truth, flat(p >> 40), values + (area << kernels.SUM_BITS))
    acc = np.zeros_like(truth)
    assert case.call(kernels.nearest_mean, acc, 1, area) == len(p)
    np.testing.assert_array_equal(acc, truth)
    case.call(kernels.nearest_mean, acc, -1, area)
    assert not acc.any()


@settings(max_examples=200, deadline=None)
@given(case=cases(wide=(False,)))
def test_nearest_max_and_latest_take_the_right_pixel(case):
    p, values = case.addresses()
    brightest, last = np.zeros(SHAPE.prod(), np.int64), np.zeros(SHAPE.prod(), np.int64)
    at = flat(p >> 40)
    np.maximum.at(brightest, at, values)
    last[at] = values  # the last one assigned stays
    acc = np.zeros_like(last)
    case.call(kernels.nearest_max, acc)
    np.testing.assert_array_equal(acc >> kernels.SUM_BITS, brightest)
    np.testing.assert_array_equal(acc & ((1 << kernels.SUM_BITS) - 1), np.bincount(at, minlength=len(acc)))
    acc[:] = 0
    case.call(kernels.nearest_key, acc, 1)
    np.testing.assert_array_equal(acc & 255, last)


@settings(max_examples=300, deadline=None)
@given(case=cases(overlap=1), area=st.sampled_from([1, 4]))
def test_linear_mean_shares_each_pixel_by_trilinear_weights(case, area):
    """Within 30 units of 2^-30 a segment, which are its cuts to integers, and exactly in the total."""
    p, values = case.addresses()
    f = (p & (ONE - 1)) / ONE
    truth = np.zeros((SHAPE.prod(), 2))
    for corner in np.ndindex(2, 2, 2):
        weight = np.where(corner, f, 1 - f).prod(1)
        np.add.at(truth, flat((p >> 40) + corner), np.stack([weight * values, weight * area], 1))
    acc = np.zeros(truth.shape, np.int64)
    assert case.call(kernels.linear_mean, acc, 1, area) == len(p)
    unit = 1 << kernels.WEIGHT_BITS
    assert acc.sum(axis=0).tolist() == [int(values.sum()) * unit, len(p) * area * unit]
    segments = np.bincount(flat(p >> 40), minlength=len(acc)).max(initial=0)
    np.testing.assert_allclose(acc / unit, truth, rtol=1e-12, atol=30 * 8 * (segments + 1) / unit)
    case.call(kernels.linear_mean, acc, -1, area)
    assert not acc.any()


@settings(max_examples=100, deadline=None)
@given(case=cases())
def test_bricks_met_are_those_that_hold_a_pixel_with_the_runs_that_do(case):
    side = 4
    runs = mask_to_runs(case.mask)
    truth: dict[tuple[int, ...], list[int]] = {}
    for r, (y, x0, x1) in enumerate(runs):
        x = np.arange(x0, x1)[:, None]
        bricks = (case.address[0] + x * case.address[1] + y * case.address[2] >> 40) // side
        for key in map(tuple, np.unique(bricks, axis=0).tolist()):
            truth.setdefault(key, []).append(r)
    low, high = np.array([-30] * 3) // side, np.array([40] * 3) // side
    truth = {k: v for k, v in truth.items() if (np.array(k) >= low).all() and (np.array(k) <= high).all()}
    found = kernels.met_bricks(runs, case.address, low, high, side)
    assert {tuple(row[:3]): tuple(row[3:]) for row in found.tolist()} == {
        k: (v[0], v[-1] + 1) for k, v in truth.items()
    }
