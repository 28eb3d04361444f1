"""Largest regions and parted objects, against SciPy and the host's own decoder."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edge_runtime.bundle import OutputSpec
from edge_runtime.errors import ConfigError, InferenceError
from edge_runtime.frame import Frame, FrameGeometry
from edge_runtime.postprocess import OutputsPostprocessor, keep_largest, separate
from edge_runtime.preprocess import Normalize, Preprocessor, PreprocessSpec, Resize

pytest.importorskip("cv2")
Mask = npt.NDArray[np.uint8]
KNOWN = FrameGeometry(row_mm=0.5, column_mm=0.25, origin="simulated", trusted=True, reason="")
MASKS = hnp.arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.integers(0, 2))


@given(MASKS)
def test_the_largest_region_is_that_of_scipy(mask: Mask) -> None:
    ndimage = pytest.importorskip("scipy.ndimage", reason="SciPy is the peer")
    wanted = np.zeros_like(mask)
    for k in (1, 2):
        labels, count = ndimage.label(mask == k, np.ones((3, 3)))
        if count:
            wanted[labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))] = k
    found = mask.copy()
    keep_largest(found, 2)
    areas = [int((found == k).sum()) for k in (1, 2)]
    assert areas == [int((wanted == k).sum()) for k in (1, 2)]
    assert ((found == 0) | (found == mask)).all()
    again = found.copy()
    keep_largest(again, 2)
    assert np.array_equal(again, found)
    single = (mask == 1).astype(np.uint8)
    keep_largest(single, 1)
    assert np.array_equal(single, (found == 1).astype(np.uint8))


def discs(*centres: tuple[int, int, int], shape: tuple[int, int] = (48, 64)) -> Mask:
    y, x = np.mgrid[: shape[0], : shape[1]]
    mask = np.zeros(shape, np.uint8)
    for cx, cy, radius in centres:
        mask[np.hypot(x - cx, y - cy) <= radius] = 1
    return mask


TOUCHING = discs((16, 20, 9), (33, 20, 9), (52, 36, 6))
LINE = np.zeros(TOUCHING.shape, np.bool_)
LINE[:, 24:26] = True


def test_a_border_parts_touching_objects() -> None:
    assert separate(TOUCHING, np.zeros_like(LINE), 1).max() == 2
    numbers = separate(TOUCHING, LINE, 1)
    assert numbers.max() == 3
    assert np.array_equal(numbers > 0, TOUCHING > 0)  # the border's own pixels went to the nearest
    assert numbers[20, 24] == numbers[20, 16] != numbers[20, 33] == numbers[20, 25]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
@example(599)
def test_the_device_decides_as_the_host(seed: int) -> None:
    decode = pytest.importorskip("edge_sdk.tasks.instances.decode", reason="the host's decoder needs torch and SciPy")
    ndimage = pytest.importorskip("scipy.ndimage")
    rng = np.random.default_rng(seed)
    centres = [(int(x), int(y), int(r)) for x, y, r in rng.integers((6, 6, 3), (58, 42, 12), (5, 3))]
    mask = discs(*centres)
    edge = np.zeros(mask.shape, np.bool_)
    for cx, cy, radius in centres:
        y, x = np.mgrid[: mask.shape[0], : mask.shape[1]]
        edge |= np.abs(np.hypot(x - cx, y - cy) - radius) < 1
    wanted, _ = decode.separate(
        np.where(mask, 9, -9).astype(np.float32)[None], np.where(edge, 9, -9).astype(np.float32), min_area=1
    )
    found = separate(mask, edge, 1, min_area=1)
    assert found.max() == wanted.max()
    assert (np.equal(found > 0, wanted > 0)).all()
    partner = [0, *(np.bincount(wanted[found == n]).argmax() for n in range(1, found.max() + 1))]
    assert sorted(partner) == list(range(found.max() + 1))
    named = np.array(partner)[found]
    parts, _ = ndimage.label((mask > 0) & ~edge)
    seeds = np.isin(parts, [k for k in range(1, parts.max() + 1) if (parts == k).sum() >= 4])
    for n, other in {(int(named[at]), int(wanted[at])) for at in zip(*np.nonzero(named != wanted), strict=True)}:
        at = (named == n) & (wanted == other)  # the device's distances are within 2 %: only near ties may differ
        own, nearest = (ndimage.distance_transform_edt(~(seeds & (wanted == k)))[at] for k in (n, other))
        assert (own <= 1.05 * nearest + 1e-9).all()


def test_classes_specks_and_thin_parts() -> None:
    mask = discs((12, 20, 6), (40, 20, 6))
    mask[:, 32:] *= 2
    mask[2, 2] = 1  # a speck, left out
    mask[40:42, 5:20] = 1  # all border: no seed, an object by itself
    border = np.zeros(mask.shape, np.bool_)
    border[40:42] = True
    numbers = separate(mask, border, 2)
    assert numbers.max() == 3
    assert numbers[2, 2] == 0
    assert len({int(numbers[20, 12]), int(numbers[20, 40]), int(numbers[40, 10])}) == 3
    assert not separate(np.zeros_like(mask), border, 2).any()
    with pytest.raises(ConfigError):
        separate(mask, border[:3], 2)


SPEC = PreprocessSpec(steps=(Resize(height=48, width=64), Normalize()))
OUTPUTS = (
    OutputSpec(name="mask", shape=(1, 1, 48, 64), kind="mask_logits", classes=("cyst",)),
    OutputSpec(name="border", shape=(1, 1, 48, 64), kind="border", of="mask", threshold=0.6, temperature=2.0),
)


@pytest.mark.parametrize("times", [1, 3])
def test_objects_in_source_pixels(times: int) -> None:
    read = OutputsPostprocessor(OUTPUTS, SPEC)
    frame = Frame(image=np.zeros((48 * times, 64 * times), np.uint8), index=0, arrival_ns=0, geometry=KNOWN)
    level = 2 * np.log(0.6 / 0.4)  # the border's threshold, over its temperature
    outputs = {
        "mask": np.where(TOUCHING, 20, -20).astype(np.float32)[None, None],
        "border": np.where(LINE, level + 1, level - 1).astype(np.float32)[None, None],
    }
    found = read(outputs, Preprocessor(SPEC)(frame), frame)
    assert found.instances is not None
    assert found.mask is not None
    assert not found.instances.flags.writeable
    assert np.array_equal(found.instances > 0, found.mask > 0)
    assert [item.number for item in found.objects] == [1, 2, 3]
    for item in found.objects:
        own = found.instances == item.number
        assert item.area.pixels == own.sum()
        assert item.area.mm2 == pytest.approx(own.sum() * 0.125)
        assert own[item.y0 : item.y1, item.x0 : item.x1].sum() == own.sum()
    right = found.objects[1]
    assert (right.x0, right.x1) == pytest.approx((25 * times, 43 * times), abs=2 * times)
    outputs["border"] -= 2
    assert len(read(outputs, Preprocessor(SPEC)(frame), frame).objects) == 2
    outputs["border"][0, 0, 0, 0] = np.nan
    with pytest.raises(InferenceError, match="border"):
        read(outputs, Preprocessor(SPEC)(frame), frame)


def test_the_largest_region_alone_is_counted() -> None:
    import msgspec

    largest = msgspec.structs.replace(OUTPUTS[0], keep="largest")
    frame = Frame(image=np.zeros((48, 64), np.uint8), index=0, arrival_ns=0, geometry=KNOWN)
    logits = np.where(TOUCHING, 20, -20).astype(np.float32)[None, None]
    found = OutputsPostprocessor((largest,), SPEC)({"mask": logits}, Preprocessor(SPEC)(frame), frame)
    assert found.areas[0].pixels == int((TOUCHING[:, :44] > 0).sum())
    assert found.mask is not None
    assert not found.mask[36, 52]
