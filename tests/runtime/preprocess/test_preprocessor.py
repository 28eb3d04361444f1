"""Frames to tensors: against area averages by overlap, scikit-image, closed forms; changing frames; bad frames."""

from __future__ import annotations

import hashlib
import tracemalloc
from itertools import cycle

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.errors import ConfigError, GeometryError
from edge_runtime.frame import Frame, FrameGeometry, Rectangle, ScanArea, Sector
from edge_runtime.preprocess import (
    CropToScanArea,
    Letterbox,
    Normalize,
    Preprocessor,
    PreprocessSpec,
    Resize,
    Step,
    ToGray,
)

cv2 = pytest.importorskip("cv2")

PIXELS = Normalize(scale=1.0)  # tensors hold pixel values
SECTOR = Sector(apex_x=80.0, apex_y=-20.0, radius_min=30.0, radius_max=130.0, angle_min=-0.6, angle_max=0.5)


def prepare(*steps: Step) -> Preprocessor:
    return Preprocessor(PreprocessSpec(steps=steps))


def frame(image: npt.NDArray[np.uint8], area: ScanArea | None = None, index: int = 0) -> Frame:
    geometry = FrameGeometry(row_mm=0.2, column_mm=0.1, scan_area=area, origin="user", trusted=True, reason="")
    return Frame(image=image, index=index, arrival_ns=0, geometry=geometry)


def noise(*shape: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def overlap(source: int, target: int) -> npt.NDArray[np.float64]:
    """(target, source) weights of area averaging: the share of each target pixel that a source pixel covers."""
    scale = source / target
    left = np.maximum(np.arange(target)[:, None] * scale, np.arange(source)[None])
    right = np.minimum((np.arange(target)[:, None] + 1) * scale, np.arange(source)[None] + 1)
    return np.maximum(right - left, 0) / scale


@given(st.integers(9, 90), st.integers(9, 90), st.integers(1, 9), st.integers(1, 9))
def test_shrinking_averages_areas(h: int, w: int, H: int, W: int) -> None:
    image = noise(h, w)
    found = prepare(Resize(height=H, width=W), PIXELS)(frame(image)).tensor[0, 0]
    wanted = overlap(h, H) @ image @ overlap(w, W).T
    assert np.abs(found - wanted).max() <= 0.51  # half a grey level of rounding


@pytest.mark.parametrize("interpolation", ["area", "linear"])
def test_growing_is_linear_as_in_scikit_image(interpolation: str) -> None:
    transform = pytest.importorskip("skimage.transform")
    image = noise(30, 41)
    found = prepare(Resize(height=100, width=64, interpolation=interpolation), PIXELS)(frame(image)).tensor[0, 0]
    peer = transform.resize(image, (100, 64), order=1, mode="edge", anti_aliasing=False, preserve_range=True)
    assert np.abs(found - peer).max() <= 1.0


def test_halving_agrees_with_scikit_image() -> None:
    transform = pytest.importorskip("skimage.transform")
    image = noise(64, 96)
    found = prepare(Resize(height=32, width=32), PIXELS)(frame(image)).tensor[0, 0]
    assert np.abs(found - transform.downscale_local_mean(image, (2, 3))).max() <= 0.51


@pytest.mark.parametrize(("h", "w"), [(120, 20), (20, 120)])
def test_one_axis_shrinks_while_the_other_grows(h: int, w: int) -> None:
    y, x = np.mgrid[:h, :w]
    image = (40 + 1.5 * y * (100 / h) + 0.5 * x * (100 / w)).astype(np.uint8)
    prepared = prepare(Resize(height=50, width=50), PIXELS)(frame(image))
    at = prepared.map.to_source(np.stack(np.mgrid[:50, :50][::-1], axis=-1))
    wanted = 40 + 1.5 * at[..., 1] * (100 / h) + 0.5 * at[..., 0] * (100 / w)
    inner = slice(5, -5)
    assert np.abs(prepared.tensor[0, 0] - wanted)[inner, inner].max() <= 1.6  # image and result are both rounded


def test_grey_is_bt601_rounded() -> None:
    rgb = noise(512, 512, 3)
    found = prepare(ToGray(), Resize(height=512, width=512), PIXELS)(frame(rgb)).tensor[0, 0]
    exact = rgb @ np.array([0.299, 0.587, 0.114])
    assert np.abs(found - exact).max() <= 0.5 + 0.01  # the weights are fixed-point: a tie may fall the other way
    equal = np.repeat(np.arange(256, dtype=np.uint8), 3).reshape(16, 16, 3)
    grey = prepare(ToGray(), Resize(height=16, width=16), PIXELS)(frame(equal)).tensor[0, 0]
    assert np.array_equal(grey.ravel(), np.arange(256))


def test_a_grey_frame_passes_to_gray_as_it_is() -> None:
    image = noise(16, 16)
    steps = (Resize(height=16, width=16), PIXELS)
    assert np.array_equal(prepare(ToGray(), *steps)(frame(image)).tensor, prepare(*steps)(frame(image)).tensor)


@given(st.floats(0.5, 500), st.floats(-3, 3), st.floats(0.01, 10))
def test_normalize_is_the_formula_rounded_once(scale: float, mean: float, std: float) -> None:
    image = np.arange(256, dtype=np.uint8).reshape(16, 16)
    steps = (Resize(height=16, width=16), Normalize(scale=scale, mean=mean, std=std))
    found = prepare(*steps)(frame(image)).tensor
    assert found.dtype == np.float32
    assert np.array_equal(found.ravel(), ((np.arange(256) / scale - mean) / std).astype(np.float32))


def test_letterbox_keeps_the_aspect_and_centres() -> None:
    prepared = prepare(Letterbox(height=64, width=64, fill=9), PIXELS)(frame(np.full((100, 200), 200, np.uint8)))
    wanted = np.full((64, 64), 9)
    wanted[16:48] = 200
    assert np.array_equal(prepared.tensor[0, 0], wanted)
    assert prepared.map.scale == (200 / 64, 100 / 32)
    resized = prepare(Resize(height=64, width=64), PIXELS)(frame(np.full((100, 200), 200, np.uint8)))
    assert np.array_equal(resized.tensor[0, 0], np.full((64, 64), 200))


def test_the_border_is_filled_anew_when_the_content_moves() -> None:
    prep = prepare(Letterbox(height=32, width=32, fill=3), PIXELS)
    for shape in ((60, 20), (20, 60), (60, 20), (33, 33)):
        image = np.full(shape, 255, np.uint8)
        assert np.array_equal(
            prep(frame(image)).tensor, prepare(Letterbox(height=32, width=32, fill=3), PIXELS)(frame(image)).tensor
        )


SIZES = st.sampled_from([Resize(height=48, width=40), Letterbox(height=48, width=40), Letterbox(height=30, width=70)])


@given(SIZES, st.integers(20, 200), st.integers(20, 200), st.data())
def test_a_dot_comes_back_to_within_half_a_network_pixel(step: Step, h: int, w: int, data: st.DataObject) -> None:
    y, x = data.draw(st.integers(0, h - 1)), data.draw(st.integers(0, w - 1))
    image = np.zeros((h, w), np.uint8)
    image[y, x] = 255
    prepared = prepare(step, PIXELS)(frame(image))
    tensor = prepared.tensor[0, 0]
    v, u = np.unravel_index(int(tensor.argmax()), tensor.shape)
    sx, sy = prepared.map.scale
    error = np.abs(prepared.map.to_source((u, v)) - (x, y))
    # a dot across two network pixels: after rounding to grey levels either may be the brighter one
    slack = 0.5 + sx * sy / 255
    assert (error <= np.array([max(1, sx), max(1, sy)]) * slack + 1e-9).all()


@pytest.mark.parametrize("step", [Resize(height=96, width=96), Letterbox(height=96, width=96)])
def test_a_disc_keeps_its_area_in_mm2(step: Step) -> None:
    y, x = np.mgrid[:300, :400]
    image = np.where(np.hypot(x - 190.3, y - 141.8) < 70, 255, 0).astype(np.uint8)
    prepared = prepare(step, Normalize())(frame(image))
    soft = float(prepared.tensor.sum()) * prepared.geometry.pixel_area_mm2
    assert abs(soft / (np.count_nonzero(image) * 0.02) - 1) < 0.005


def test_the_scan_area_lies_in_the_network_image_where_it_is_drawn() -> None:
    area = SECTOR.mask((140, 180))
    image = np.where(area, 255, 0).astype(np.uint8)
    prepared = prepare(CropToScanArea(), Resize(height=128, width=128), Normalize())(frame(image, SECTOR))
    assert prepared.geometry.scan_area is not None
    there, drawn = prepared.geometry.scan_area.mask((128, 128)), prepared.tensor[0, 0] > 0.5
    assert (there & drawn).sum() / (there | drawn).sum() > 0.98
    for edge in (drawn[:4], drawn[-4:], drawn[:, :4], drawn[:, -4:]):  # cropped to the bounding box: all sides touch
        assert edge.any()


angles = st.floats(-3.1, 3.1)


@given(st.floats(-50, 150), st.floats(-50, 150), st.floats(0, 60), st.floats(1, 90), angles, angles, st.floats(0.5, 2))
def test_the_crop_is_the_box_around_a_sector(
    apex_x: float, apex_y: float, inner: float, depth: float, a: float, b: float, aspect: float
) -> None:
    sector = Sector(
        apex_x=apex_x,
        apex_y=apex_y,
        radius_min=inner,
        radius_max=inner + depth,
        angle_min=min(a, b),
        angle_max=max(a, b),
        aspect=aspect,
    )
    prep = prepare(CropToScanArea(), Resize(height=8, width=8), Normalize())
    # the truth: points all along the border of the sector
    t = np.linspace(min(a, b), max(a, b), 2001)
    r = np.linspace(inner, inner + depth, 50)
    xs = apex_x + aspect * np.concatenate([r * np.sin(e) for e in (a, b)] + [e * np.sin(t) for e in (r[0], r[-1])])
    ys = apex_y + np.concatenate([r * np.cos(e) for e in (a, b)] + [e * np.cos(t) for e in (r[0], r[-1])])
    rows, columns = np.flatnonzero(sector.mask((120, 160)).any(1)), np.flatnonzero(sector.mask((120, 160)).any(0))
    try:
        crop = prep(frame(noise(120, 160), sector)).map.crop
    except GeometryError:
        assert not len(rows)
        return
    if len(rows):
        assert crop.y0 <= rows[0] + 1e-9
        assert crop.y0 + crop.height > rows[-1] - 1e-9
        assert crop.x0 <= columns[0]
        assert crop.x0 + crop.width > columns[-1]
    assert crop.x0 >= min(max(0, xs.min() - 0.01), 160)
    assert crop.y0 >= min(max(0, ys.min() - 0.01), 120)
    assert crop.x0 + crop.width - 1 <= max(0, xs.max() + 0.01)
    assert crop.y0 + crop.height - 1 <= max(0, ys.max() + 0.01)


def test_a_rectangle_is_half_open() -> None:
    prep = prepare(CropToScanArea(), Resize(height=8, width=8), PIXELS)
    crop = prep(frame(noise(50, 60), Rectangle(x0=10, y0=5.5, x1=20, y1=30.2))).map.crop
    assert (crop.x0, crop.width, crop.y0, crop.height) == (10, 10, 6, 25)


@pytest.mark.parametrize(
    "area",
    [
        Rectangle(x0=100, y0=0, x1=120, y1=20),
        Rectangle(x0=10.2, y0=10.2, x1=10.8, y1=20),
        Rectangle(x0=20, y0=0, x1=10, y1=20),
        Rectangle(x0=float("nan"), y0=0, x1=10, y1=20),
        Rectangle(x0=0, y0=0, x1=float("inf"), y1=float("nan")),
    ],
)
def test_a_scan_area_outside_the_image_is_refused(area: Rectangle) -> None:
    with pytest.raises(GeometryError, match="scan area"):
        prepare(CropToScanArea(), Resize(height=8, width=8), PIXELS)(frame(noise(50, 60), area))


def test_without_a_crop_step_or_area_the_whole_image_counts() -> None:
    whole = (0, 0, 60, 50)
    for prep, area in (
        (prepare(Resize(height=8, width=8), PIXELS), SECTOR),
        (prepare(CropToScanArea(), Resize(height=8, width=8), PIXELS), None),
    ):
        crop = prep(frame(noise(50, 60), area)).map.crop
        assert (crop.x0, crop.y0, crop.width, crop.height) == whole


def test_colour_without_to_gray_is_refused() -> None:
    with pytest.raises(ConfigError, match="put to_gray before the size step"):
        prepare(Resize(height=8, width=8), PIXELS)(frame(noise(20, 20, 3)))


def test_a_refused_frame_leaves_the_next_ones_alone() -> None:
    prep = prepare(CropToScanArea(), Resize(height=8, width=8), PIXELS)
    before = prep(frame(noise(50, 60))).tensor.copy()
    for bad in (frame(noise(20, 20, 3)), frame(noise(50, 60), Rectangle(x0=100, y0=0, x1=120, y1=20))):
        with pytest.raises((ConfigError, GeometryError)):
            prep(bad)
        assert np.array_equal(prep(frame(noise(50, 60))).tensor, before)


SPEC = PreprocessSpec(steps=(CropToScanArea(), ToGray(), Letterbox(height=32, width=48), Normalize(mean=0.2, std=0.3)))


@given(st.lists(st.tuples(st.integers(10, 70), st.integers(10, 70), st.booleans(), st.booleans()), max_size=6))
def test_what_came_before_leaves_no_trace(kinds: list[tuple[int, int, bool, bool]]) -> None:
    """Training and the device call the same code; a long-used object gives the bits of a fresh one."""
    used = Preprocessor(SPEC)
    for h, w, colour, cropped in kinds:
        area = Rectangle(x0=2, y0=3, x1=w - 2, y1=h - 1) if cropped else None
        item = frame(noise(h, w, 3) if colour else noise(h, w), area)
        one, other = used(item), Preprocessor(SPEC)(item)
        assert np.array_equal(one.tensor, other.tensor)
        assert (one.map, one.geometry) == (other.map, other.geometry)


def test_linear_has_the_same_bits_on_every_machine() -> None:
    y, x = np.mgrid[:97, :131]
    image = (((x * 7 + y * 13) ^ (x * y)) & 255).astype(np.uint8)
    prep = prepare(Letterbox(height=64, width=64, interpolation="linear"), Normalize(mean=0.5, std=0.25))
    found = hashlib.sha256(prep(frame(image)).tensor.astype("<f4").tobytes()).hexdigest()
    assert found == "06c77c402bbeca55f5f37dbfc3f2f2533a6c9b99fb0acdbe7a5772cff3827f14"


def test_buffers_are_kept_and_nothing_large_is_allocated() -> None:
    prep = prepare(CropToScanArea(), ToGray(), Letterbox(height=256, width=256), Normalize())
    frames = [frame(noise(300, 400, 3, seed=i), SECTOR, index=i) for i in range(3)]
    tensor = prep(frames[0]).tensor
    assert tensor.shape == prep.output_shape == (1, 1, 256, 256)
    assert tensor.flags.c_contiguous
    tracemalloc.start()
    try:
        for item, _ in zip(cycle(frames), range(20), strict=False):
            assert np.shares_memory(prep(item).tensor, tensor)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 32_768  # the tensor alone has 262,144 bytes
