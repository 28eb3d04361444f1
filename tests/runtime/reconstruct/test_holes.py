from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.errors import ConfigError
from edge_runtime.reconstruct import Volume, compound, fill_holes

METHODS = ["gaussian", "inverse-distance", "nearest", "stick"]


def volume_of(data, swept, spacing=(1.0, 1.0, 1.0)):
    return Volume(
        data=np.where(swept, data, 0).astype(np.uint8),
        weight=swept.astype(np.float32),
        spacing_mm=spacing,
        T_world_volume=np.eye(4),
    )


@pytest.fixture
def holed():
    """A block of noise with a third of its voxels missing, inside a wide empty margin."""
    rng = np.random.default_rng(0)
    swept = np.zeros((20, 22, 24), bool)
    swept[6:14, 6:16, 6:18] = rng.random((8, 10, 12)) > 0.33
    return volume_of(rng.integers(1, 256, swept.shape), swept, (1.0, 0.8, 1.3))


@pytest.mark.parametrize("method", METHODS)
def test_only_holes_change_and_they_are_marked(holed, method):
    full = fill_holes(holed, method, limit_mm=3.0)
    np.testing.assert_array_equal(full.data[holed.swept], holed.data[holed.swept])
    np.testing.assert_array_equal(full.weight, holed.weight)
    assert not (full.filled & holed.swept).any()
    assert not ((full.data != holed.data) & ~full.filled).any()
    assert full.filled.sum() > 200
    block = np.zeros_like(full.filled)
    block[6:14, 6:16, 6:18] = True
    assert not (full.known & ~block).any(), "the sweep grew outwards"
    assert full.known[8:12, 8:14, 8:16].all()


def test_nearest_equals_the_exact_distance_transform(holed):
    ndimage = pytest.importorskip("scipy.ndimage")
    full = fill_holes(holed, "nearest", limit_mm=3.0)
    distance, at = ndimage.distance_transform_edt(~holed.swept, sampling=holed.spacing_mm, return_indices=True)
    # equally near voxels may be chosen either way, so compare distances: some voxel at that distance has that level
    assert (distance[full.filled] <= 3.0 + 1e-9).all()
    same = full.data == holed.data[tuple(at)]
    assert same[full.filled].mean() > 0.5
    seen = np.argwhere(holed.swept)
    for here in np.argwhere(full.filled & ~same):
        away = np.linalg.norm((seen - here) * holed.spacing_mm, axis=1)
        level = holed.data[tuple(seen[np.abs(away - away.min()) < 1e-9].T)]
        assert full.data[tuple(here)] in level


def test_gaussian_equals_normalised_convolution_by_brute_force(holed):
    limit = 3.0
    full = fill_holes(holed, "gaussian", limit_mm=limit)
    reach = [int(limit / s) for s in holed.spacing_mm]
    for z, y, x in np.argwhere(full.filled)[::7]:
        box = tuple(slice(c - r, c + r + 1) for c, r in zip((z, y, x), reach, strict=True))
        offsets = np.meshgrid(
            *[np.arange(-r, r + 1) * s for r, s in zip(reach, holed.spacing_mm, strict=True)], indexing="ij"
        )
        kernel = np.exp(-0.5 * sum(o**2 for o in offsets) / (limit / 3) ** 2) * holed.swept[box]
        assert abs((kernel * holed.data[box]).sum() / kernel.sum() - full.data[z, y, x]) <= 0.51


def test_inverse_distance_equals_the_sum_by_brute_force(holed):
    full = fill_holes(holed, "inverse-distance", limit_mm=2.5)
    seen = np.argwhere(holed.swept)
    for here in np.argwhere(full.filled)[::5]:
        away = np.linalg.norm((seen - here) * holed.spacing_mm, axis=1)
        near = away <= 2.5 + 1e-9
        expected = np.average(holed.data[tuple(seen[near].T)].astype(float), weights=1 / away[near])
        assert full.data[tuple(here)] == int(expected + 0.5)


def sticks_of_the_reference(data, swept, limit):
    """The rules of vtkIGSIOFillHolesInVolume::applySticks with one stick of `limit` voxels, in plain Python."""
    directions = [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, 0, 1), (0, 1, 1), (1, -1, 0), (1, 0, -1), (0, 1, -1)]
    directions += [(1, 1, 1), (-1, 1, 1), (1, -1, 1), (-1, -1, 1)]

    def walk(at, step, most):
        for j in range(1, most + 1):
            z, y, x = (a + j * s for a, s in zip(at, step[::-1], strict=True))
            if not (0 <= z < data.shape[0] and 0 <= y < data.shape[1] and 0 <= x < data.shape[2]):
                return None
            if swept[z, y, x]:
                return j, int(data[z, y, x])
        return None

    out, filled = data.copy(), np.zeros_like(swept)
    for at in product(*map(range, data.shape)):
        if swept[at]:
            continue
        sticks = []
        for d in directions:
            ahead = walk(at, d, limit - 1)
            behind = ahead and walk(at, tuple(-n for n in d), limit - 1 - ahead[0])
            if behind:
                f, r = ahead[0], behind[0]
                share = (r + 1) / (f + r + 1)
                length = (f + r + 1) ** 2 * sum(n * n for n in d)  # squared, exact
                weight = 1 / ((f + r + 1) * math.sqrt(sum(n * n for n in d)))
                sticks.append((length, weight, int((1 - share) * behind[1] + share * ahead[1])))
        if sticks:
            best = [(weight, value) for length, weight, value in sticks if length == min(sticks)[0]]
            out[at] = int(sum(w * v for w, v in best) / sum(w for w, _ in best))
            filled[at] = True
    return out, filled


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10**6), share=st.floats(0.02, 0.5), length=st.integers(3, 10))
def test_sticks_equal_the_rules_of_the_reference(seed, share, length):
    rng = np.random.default_rng(seed)
    swept = rng.random((7, 9, 8)) < share
    volume = volume_of(rng.integers(1, 256, swept.shape), swept, (0.5, 0.5, 0.5))
    full = fill_holes(volume, "stick", limit_mm=(length - 1) / 2 * 0.5)
    data, filled = sticks_of_the_reference(volume.data, swept, length)
    np.testing.assert_array_equal(full.filled, filled)
    np.testing.assert_array_equal(full.data, data)


@pytest.mark.parametrize("method", METHODS)
def test_a_region_is_filled_as_in_the_whole_volume(holed, method):
    whole = fill_holes(holed, method, limit_mm=3.0)
    region = (slice(5, 11), slice(8, 20), slice(3, None))
    part = fill_holes(holed, method, limit_mm=3.0, region=region)
    inside = np.zeros(holed.data.shape, bool)
    inside[region] = True
    np.testing.assert_array_equal(part.filled, whole.filled & inside)
    np.testing.assert_array_equal(part.data[inside], whole.data[inside])
    np.testing.assert_array_equal(part.data[~inside], holed.data[~inside])
    nothing = fill_holes(holed, method, region=(slice(0, 1), slice(0, 1), slice(0, 1)))
    assert not nothing.filled.any()


def test_a_region_that_is_no_box_is_refused(holed):
    for region in ((slice(0, 9, 2), slice(None), slice(None)), (slice(0, 1),)):
        with pytest.raises(ConfigError, match="three slices"):
            fill_holes(holed, region=region)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    share=st.floats(0.005, 0.6),
    limit=st.floats(0.4, 4.0),
    spacing=st.tuples(*[st.sampled_from([0.5, 0.8, 1.3])] * 3),
    method=st.sampled_from(METHODS),
)
def test_nothing_is_invented_out_of_reach(seed, share, limit, spacing, method):
    """What is filled lies between swept voxels, within the limit of one, its level between theirs; nothing beyond."""
    rng = np.random.default_rng(seed)
    swept = np.zeros((14, 13, 12), bool)
    swept[3:11, 2:11, 3:10] = rng.random((8, 9, 7)) < share
    full = fill_holes(volume_of(rng.integers(1, 256, swept.shape), swept, spacing), method, limit_mm=limit)
    at, seen = np.argwhere(full.filled), np.argwhere(swept)
    if not len(at):
        return
    assert (at >= seen.min(axis=0)).all(), "a slice before the first swept one was invented"
    assert (at <= seen.max(axis=0)).all(), "a slice after the last swept one was invented"
    away = np.abs(at[:, None] - seen)
    if method == "stick":
        most = int(2 * limit / max(spacing) + 1e-9)
        assert (away.max(axis=2).min(axis=1) <= most // 2).all()
    elif method == "gaussian":
        reach = [int(limit / s + 1e-9) for s in spacing]
        assert (away <= reach).all(axis=2).any(axis=1).all()
    else:
        assert (np.linalg.norm(away * spacing, axis=2).min(axis=1) <= limit + 1e-9).all()
    level = full.data[full.filled].astype(int)
    low, high = int(full.data[swept].min()), int(full.data[swept].max())
    assert level.min() >= low - (method == "stick")
    assert level.max() <= high


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("region", [None, (slice(5, 11), slice(8, 20), slice(3, None))])
def test_in_place_gives_the_same_and_copies_nothing(holed, method, region):
    whole = fill_holes(holed, method, limit_mm=3.0, region=region)
    own = volume_of(holed.data.copy(), holed.swept, holed.spacing_mm)
    found = fill_holes(own, method, limit_mm=3.0, region=region, in_place=True)
    assert found.data is own.data
    np.testing.assert_array_equal(found.data, whole.data)
    np.testing.assert_array_equal(found.filled, whole.filled)
    again = fill_holes(found, method, limit_mm=3.0, in_place=True)
    assert again.filled is found.filled
    np.testing.assert_array_equal(again.filled, fill_holes(whole, method, limit_mm=3.0).filled)
    held = fill_holes(whole, method, limit_mm=3.0)
    assert held.filled is not whole.filled


def test_in_place_of_what_cannot_be_written_is_refused(holed):
    holed.data.setflags(write=False)
    assert fill_holes(holed).filled.any()
    with pytest.raises(ConfigError, match="read-only"):
        fill_holes(holed, in_place=True)


@pytest.mark.parametrize("method", METHODS)
def test_a_gap_wider_than_the_limit_stays_open(method):
    swept = np.zeros((30, 5, 5), bool)
    swept[[0, 3, 6, 26]] = True
    full = fill_holes(volume_of(np.full(swept.shape, 90), swept), method, limit_mm=2.0)
    known = full.known.all(axis=(1, 2))
    np.testing.assert_array_equal(np.flatnonzero(known), [0, 1, 2, 3, 4, 5, 6, 26])
    assert (np.abs(full.data[full.known] - 90.0) <= (method == "stick")).all()


@pytest.mark.parametrize("method", METHODS)
def test_filling_a_constant_or_empty_or_whole_volume(holed, method):
    flat = fill_holes(volume_of(np.full(holed.data.shape, 133), holed.swept), method)
    low = 132 if method == "stick" else 133  # the reference cuts 132.999... of its two shares
    assert flat.data[flat.known].min() >= low
    assert flat.data[flat.known].max() == 133
    empty = volume_of(holed.data, np.zeros(holed.data.shape, bool))
    assert not fill_holes(empty, method).known.any()
    whole = Volume(data=holed.data, spacing_mm=holed.spacing_mm, T_world_volume=np.eye(4))
    assert not fill_holes(whole, method).filled.any()


def test_filled_voxels_of_a_sparse_sweep_are_close_to_the_truth(wire_sweep, wire_phantom):
    from edge_runtime.reconstruct import Sweep

    sparse = Sweep(
        frames=wire_sweep.frames[::4], T_world_image=wire_sweep.T_world_image[::4], geometry=wire_sweep.geometry
    )
    full = fill_holes(compound(sparse, 0.4))
    off = np.abs(full.data - full.grid.sample_field(wire_phantom))
    assert full.filled.mean() > 0.2
    assert off[full.filled].mean() < 3


@pytest.mark.parametrize("limit", [0.0, -1.0, np.nan, np.inf, 1000.0])
def test_bad_arguments_are_refused(holed, limit):
    with pytest.raises(ConfigError, match="limit_mm"):
        fill_holes(holed, limit_mm=limit)
    with pytest.raises(ConfigError, match="gaussian, inverse-distance, nearest, stick are allowed"):
        fill_holes(holed, "sticks")
