"""Each filter against a peer or its formula, on noise and on simulated speckle; state; order and range."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.errors import ConfigError, GeometryError
from edge_runtime.frame import Frame, FrameGeometry, Rectangle, Sector
from edge_runtime.preprocess import (
    Bilateral,
    Clahe,
    CropToScanArea,
    EqualizeHistogram,
    Gamma,
    Letterbox,
    MaskBoxes,
    MaskColor,
    MaskOutside,
    Median,
    MinMax,
    Normalize,
    Persistence,
    Preprocessor,
    PreprocessSpec,
    Resize,
    Srad,
    Stack,
    Step,
    ToGray,
    ToPolar,
    Unsharp,
    ZScore,
)

cv2 = pytest.importorskip("cv2")

H, W = 61, 83
SIZE, PIXELS = Resize(height=H, width=W), Normalize(scale=1.0)
Image = npt.NDArray[np.uint8]


def speckle(seed: int = 0, shape: tuple[int, int] = (H, W)) -> Image:
    """Log-compressed Rayleigh speckle with a dark disc, blurred by a point-spread function."""
    rng = np.random.default_rng(seed)
    field = rng.normal(size=(2, *shape))
    field = np.stack([cv2.GaussianBlur(part, (0, 0), 1.2) for part in field])
    envelope = np.hypot(*field)
    y, x = np.mgrid[: shape[0], : shape[1]]
    envelope[np.hypot(x - shape[1] / 2, y - shape[0] / 2) < shape[0] / 4] *= 0.15
    level = 255 + 255 / 50 * 20 * np.log10(envelope / envelope.max())
    return np.clip(np.rint(level), 0, 255).astype(np.uint8)


def frame(image: Image, index: int = 0, geometry: FrameGeometry | None = None) -> Frame:
    return Frame(image=image, index=index, arrival_ns=0, geometry=geometry or FrameGeometry())


def apply(image: Image, *steps: Step) -> Any:
    """The image after `steps` at its own size, in grey levels."""
    return Preprocessor(PreprocessSpec(steps=(*steps, SIZE, PIXELS)))(frame(image)).tensor[0, 0].astype(int)


def worst(found: npt.ArrayLike, wanted: npt.ArrayLike) -> float:
    return float(np.abs(np.asarray(found) - np.asarray(wanted)).max())


@pytest.mark.parametrize("size", [3, 5, 7])
def test_median_is_scipys(size: int) -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    assert worst(apply(speckle(), Median(size=size)), ndimage.median_filter(speckle(), size, mode="nearest")) == 0


def test_equalisation_is_scikit_images() -> None:
    """OpenCV leaves the lowest level out of the cumulative sum, so that it maps to 0; with that, within one level."""
    image = speckle()
    found = apply(image, EqualizeHistogram())
    counts = np.bincount(image.ravel(), minlength=256)
    above = counts.cumsum() - counts[image.min()]
    assert worst(found, np.rint(255 * above / above[-1])[image]) <= 1
    exposure = pytest.importorskip("skimage.exposure")
    peer = exposure.equalize_hist(image) * 255
    share = counts[image.min()] / image.size
    assert worst(found, np.clip((peer / 255 - share) / (1 - share), 0, 1) * 255) <= 1


def test_clahe_is_opencvs_and_without_a_limit_equalises_each_tile() -> None:
    image = speckle(shape=(64, 80))
    step = (Clahe(clip_limit=2.0, tiles=4), Resize(height=64, width=80), PIXELS)
    found = Preprocessor(PreprocessSpec(steps=step))(frame(image)).tensor[0, 0]
    assert np.array_equal(found, cv2.createCLAHE(2.0, (4, 4)).apply(image))
    one = Preprocessor(PreprocessSpec(steps=(Clahe(clip_limit=100, tiles=1), *step[1:])))(frame(image)).tensor[0, 0]
    counts = np.bincount(image.ravel(), minlength=256)
    limit = int(100 * image.size / 256)
    assert counts.max() < limit
    assert worst(one, np.rint(counts.cumsum() * 255 / image.size)[image]) <= 1


@pytest.mark.parametrize("gamma", [0.4, 1.0, 2.2])
def test_gamma_is_scikit_images(gamma: float) -> None:
    exposure = pytest.importorskip("skimage.exposure")
    ramp = np.resize(np.arange(256, dtype=np.uint8), (H, W))
    assert worst(apply(ramp, Gamma(gamma=gamma)), exposure.adjust_gamma(ramp / 255, gamma) * 255) <= 0.5


@pytest.mark.parametrize(("sigma", "amount"), [(1.0, 0.5), (2.5, 1.5)])
def test_unsharp_is_scikit_images(sigma: float, amount: float) -> None:
    filters = pytest.importorskip("skimage.filters")
    peer = filters.unsharp_mask(speckle() / 255.0, radius=sigma, amount=amount) * 255
    assert worst(apply(speckle(), Unsharp(sigma=sigma, amount=amount)), peer) <= 1


def test_bilateral_is_its_formula() -> None:
    step, image = Bilateral(diameter=5, sigma_grey=25.0, sigma_px=2.0), speckle()
    padded = np.pad(image.astype(float), 2, mode="reflect")
    total, weights = np.zeros((H, W)), np.zeros((H, W))
    for dy in range(-2, 3):
        for dx in range(-2, 3):
            if np.hypot(dx, dy) > 2:  # a disc
                continue
            other = padded[2 + dy : 2 + dy + H, 2 + dx : 2 + dx + W]
            weight = np.exp(-(dx**2 + dy**2) / 8 - (other - image) ** 2 / (2 * 25**2))
            total, weights = total + weight * other, weights + weight
    assert worst(apply(image, step), total / weights) <= 1


def srad_by_the_paper(image: Image, step: Srad) -> npt.NDArray[np.float64]:
    """Yu and Acton's equations, term by term in float64."""
    k = step.dynamic_range_db * np.log(10) / (20 * 255)
    now = np.exp(k * image)
    for n in range(step.iterations):
        q0 = step.q0 * np.exp(-step.decay * step.time_step * n)
        p = np.pad(now, 1, mode="edge")
        north, south, west, east = (q - now for q in (p[:-2, 1:-1], p[2:, 1:-1], p[1:-1, :-2], p[1:-1, 2:]))
        gradient = (north**2 + south**2 + west**2 + east**2) / now**2
        laplace = (north + south + west + east) / now
        q = (gradient / 2 - laplace**2 / 16) / (1 + laplace / 4) ** 2
        c = np.clip(1 / (1 + (q - q0**2) / (q0**2 * (1 + q0**2))), 0, 1)
        c_south, c_east = np.pad(c, ((0, 1), (0, 0)), mode="edge")[1:], np.pad(c, ((0, 0), (0, 1)), mode="edge")[:, 1:]
        now = now + step.time_step / 4 * (c_south * south + c * north + c_east * east + c * west)
    return np.log(now) / k


@pytest.mark.parametrize("step", [Srad(), Srad(iterations=7, time_step=1.0, q0=0.2, dynamic_range_db=8.7)])
def test_srad_is_the_papers_within_one_grey_level(step: Srad) -> None:
    pytest.importorskip("numba")
    assert worst(apply(speckle(), step), srad_by_the_paper(speckle(), step)) <= 1


def test_srad_smooths_speckle_and_keeps_the_edge_of_a_cyst() -> None:
    pytest.importorskip("numba")
    image = speckle(shape=(120, 120))
    steps = (Srad(iterations=40), Resize(height=120, width=120), PIXELS)
    found = Preprocessor(PreprocessSpec(steps=steps))(frame(image)).tensor[0, 0]
    y, x = np.mgrid[:120, :120]
    radius = np.hypot(x - 60, y - 60)
    tissue, cyst = radius > 40, radius < 22
    assert found[tissue].std() < 0.6 * image[tissue].std()
    before = image[tissue].mean() - image[cyst].mean()
    assert found[tissue].mean() - found[cyst].mean() > 0.9 * before


def test_a_flat_image_stays_flat() -> None:
    pytest.importorskip("numba")
    for level in (0, 1, 77, 255):
        image = np.full((H, W), level, np.uint8)
        for step in (Median(), Bilateral(), Srad(), Unsharp(), Persistence()):
            assert (apply(image, step) == level).all(), step


@given(st.floats(0, 0.9), st.lists(st.integers(1, 2), min_size=1, max_size=12))
@settings(max_examples=25)
def test_persistence_is_its_recursion_and_starts_anew_after_a_gap(weight: float, jumps: list[int]) -> None:
    prep = Preprocessor(PreprocessSpec(steps=(Persistence(weight=weight), Resize(height=5, width=7), PIXELS)))
    rng, index, average = np.random.default_rng(0), 0, None
    for jump in jumps:
        image = rng.integers(0, 256, (5, 7), np.uint8)
        index += jump
        average = image if average is None or jump > 1 else weight * average + (1 - weight) * image
        assert worst(prep(frame(image, index)).tensor[0, 0], average) <= 0.51
    prep.reset()
    image = rng.integers(0, 256, (5, 7), np.uint8)
    assert np.array_equal(prep(frame(image, index + 1)).tensor[0, 0], image)


def value(image: Image, *steps: Step) -> Any:
    return Preprocessor(PreprocessSpec(steps=steps))(frame(image)).tensor[0, 0].copy()


@pytest.mark.parametrize("first", [True, False])
def test_z_score_and_min_max_are_their_formulas_where_they_stand(first: bool) -> None:
    exposure = pytest.importorskip("skimage.exposure")
    image = speckle(shape=(120, 160))
    size = Resize(height=60, width=80)
    small = value(image, size, PIXELS)
    measured = image if first else small
    zscore = value(image, *((ZScore(), size) if first else (size, ZScore())))
    assert np.allclose(zscore, (small - measured.mean(dtype=float)) / measured.std(dtype=float), atol=1e-5)
    minmax = value(image, *((MinMax(), size) if first else (size, MinMax())))
    limits = (float(measured.min()), float(measured.max()))
    assert np.allclose(minmax, exposure.rescale_intensity(small, limits, (0, 1)), atol=1e-6)


def test_a_flat_image_has_values_of_zero() -> None:
    flat = np.full((20, 20), 130, np.uint8)
    for step in (ZScore(), MinMax()):
        assert not value(flat, Resize(height=9, width=9), step).any()


def test_the_border_of_a_letterbox_is_neither_measured_nor_filtered() -> None:
    image = speckle(shape=(60, 120))
    box, inner = Letterbox(height=64, width=64, fill=200), slice(16, 48)
    found = value(image, box, Median(size=5), Clahe(), ZScore())
    bare = value(image, Resize(height=32, width=64), Median(size=5), Clahe(), ZScore())
    assert np.array_equal(found[inner], bare)
    assert len(np.unique(np.concatenate([found[:16], found[48:]]))) == 1


def test_masking_blackens_what_it_names_alone() -> None:
    area = Rectangle(x0=10, y0=5, x1=70, y1=50)
    geometry = FrameGeometry(scan_area=area)
    image = np.maximum(speckle(), 1)
    steps = (MaskBoxes(boxes=((20, 10, 30, 20), (60, 40, 1000, 1000))), MaskOutside(), SIZE, PIXELS)
    found = Preprocessor(PreprocessSpec(steps=steps))(frame(image, geometry=geometry)).tensor[0, 0]
    keep = area.mask((H, W))
    keep[10:20, 20:30] = False
    keep[40:, 60:] = False
    assert np.array_equal(found, np.where(keep, image, 0))


def test_colour_is_masked_and_grows() -> None:
    rgb = np.repeat(np.maximum(speckle(), 1)[..., None], 3, axis=2)
    rgb[20:24, 30:40] = (255, 200, 0)
    rgb[50, 60] = (90, 130, 90)  # 40 apart: below the spread
    plain = apply(rgb, ToGray())
    for grow in (0, 2):
        found = apply(rgb, MaskColor(spread=48, grow=grow), ToGray())
        wanted = plain.copy()
        wanted[20 - grow : 24 + grow, 30 - grow : 40 + grow] = 0
        assert np.array_equal(found, wanted)


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ((Median(size=4), SIZE, PIXELS), "median size is 4; an odd number"),
        ((Median(size=33), SIZE, PIXELS), "median size is 33; 3 to 31"),
        ((SIZE, PIXELS, Median()), "the order must be"),
        ((ZScore(), SIZE, Median()), "no grey levels for a filter"),
        ((ZScore(), Median(), SIZE), "the order must be"),
        ((ZScore(), SIZE, PIXELS), "exactly one size step and one normalize"),
        ((Median(), ToGray(), SIZE, PIXELS), "the order must be"),
        ((ToGray(), MaskColor(), SIZE, PIXELS), "put mask_color before"),
        ((Gamma(gamma=0.0), SIZE, PIXELS), "gamma gamma is 0.0; 0.1 to 10"),
        ((Gamma(gamma=float("nan")), SIZE, PIXELS), "gamma is nan"),
        ((Srad(iterations=0), SIZE, PIXELS), "iterations is 0; 1 to 200"),
        ((Srad(time_step=1.5), SIZE, PIXELS), "time_step is 1.5"),
        ((Clahe(tiles=0), SIZE, PIXELS), "tiles is 0; 1 to 32"),
        ((Persistence(weight=1.0), SIZE, PIXELS), "weight is 1.0; 0 to 0.99"),
        ((MaskBoxes(boxes=()), SIZE, PIXELS), "0 boxes; 1 to 64"),
        ((MaskBoxes(boxes=((5, 5, 5, 9),)), SIZE, PIXELS), r"\(5, 5, 5, 9\)"),
        ((Unsharp(sigma=0.0), SIZE, PIXELS), "sigma is 0.0"),
        ((Bilateral(diameter=2), SIZE, PIXELS), "diameter is 2"),
    ],
)
def test_refusals_say_the_value_and_what_is_allowed(steps: tuple[Step, ...], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Preprocessor(PreprocessSpec(steps=steps))


EVERY = (
    *(Median(), Bilateral(diameter=3), Clahe(tiles=3), EqualizeHistogram(), Gamma(gamma=0.7), Unsharp()),
    *(Persistence(), Srad(iterations=2)),
)


@given(st.lists(st.sampled_from(EVERY), max_size=4), st.lists(st.sampled_from(EVERY), max_size=4), st.data())
@settings(max_examples=40)
def test_any_filters_on_either_side_of_the_size_leave_no_trace(
    before: list[Step], after: list[Step], data: st.DataObject
) -> None:
    """A long-used object gives the bits of a fresh one once the stream has a gap; views and letterboxes included."""
    pytest.importorskip("numba")
    size = data.draw(st.sampled_from([Resize(height=20, width=31), Letterbox(height=24, width=40, fill=7)]))
    steps: tuple[Step, ...] = (MaskOutside(), *before, size, *after, ZScore(), Stack(n=2))
    used = Preprocessor(PreprocessSpec(steps=steps))
    geometry = FrameGeometry(scan_area=Rectangle(x0=3, y0=4, x1=50, y1=40))
    for k in range(3):
        used(frame(speckle(k), k, geometry if k % 2 else None))
    item = frame(speckle(9), 10, geometry)
    assert np.array_equal(used(item).tensor, Preprocessor(PreprocessSpec(steps=steps))(item).tensor)
    assert np.isfinite(used(item).tensor).all()


WHERE = st.sampled_from(
    [Resize(height=180, width=200), Letterbox(height=200, width=160), ToPolar(height=220, width=200)]
)
KEEPING = tuple(step for step in EVERY if not isinstance(step, EqualizeHistogram))


@given(
    st.tuples(st.floats(110, 210), st.floats(95, 175)), WHERE, st.lists(st.sampled_from(KEEPING), max_size=2), st.data()
)
@settings(max_examples=30)
def test_a_disc_comes_back_to_its_pixels_and_millimetres(
    centre: tuple[float, float], size: Step, filters: list[Step], data: st.DataObject
) -> None:
    """Whatever the steps: its centre within half a source pixel, its area in mm^2 within 4 %."""
    pytest.importorskip("numba")
    area = data.draw(
        st.sampled_from(
            [
                Rectangle(x0=40, y0=30, x1=290, y1=230),
                Sector(apex_x=160, apex_y=-60, radius_min=90, radius_max=290, angle_min=-0.6, angle_max=0.6),
            ]
        )
    )
    geometry = FrameGeometry(row_mm=0.2, column_mm=0.1, scan_area=area, origin="user", trusted=True, reason="")
    y, x = np.mgrid[:240, :320]
    distance = np.hypot(x - centre[0], y - centre[1])
    image = (40 + 170 * np.clip(22.5 - distance, 0, 1)).astype(np.uint8)
    after = data.draw(st.booleans())
    middle = (size, *filters) if after else (*filters, size)
    prep = Preprocessor(PreprocessSpec(steps=(CropToScanArea(), MaskOutside(), *middle, MinMax())))
    prepared = prep(frame(image, geometry=geometry))
    back = prepared.map.probability_to_source(prepared.tensor[0, 0])
    near = distance < 32
    inner, outer = np.median(back[distance < 12]), np.median(back[near & (distance > 27)])
    found = (back > (inner + outer) / 2) & near
    assert np.hypot(x[found].mean() - centre[0], y[found].mean() - centre[1]) <= 0.5
    mm2 = np.count_nonzero(found) * geometry.pixel_area_mm2
    assert abs(mm2 / (np.pi * 22**2 * 0.02) - 1) < 0.04


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (1, 50), (7, 1)])
@pytest.mark.parametrize(
    "step", [*EVERY, Median(size=31), Bilateral(diameter=15), Clahe(tiles=32), Unsharp(sigma=10.0)]
)
def test_images_smaller_than_a_filter_are_filtered(shape: tuple[int, int], step: Step) -> None:
    pytest.importorskip("numba")
    small = Letterbox(height=5, width=9)
    for steps in ((step, small, ZScore()), (small, step, MinMax())):
        tensor = Preprocessor(PreprocessSpec(steps=steps))(
            frame(speckle(shape=(80, 80))[: shape[0], : shape[1]].copy())
        )
        assert np.isfinite(tensor.tensor).all()


def test_a_box_that_hides_nothing_of_a_smaller_image_is_refused() -> None:
    run = Preprocessor(PreprocessSpec(steps=(MaskBoxes(boxes=((60, 10, 70, 20),)), SIZE, PIXELS)))
    run(Frame(image=np.zeros((96, 128), np.uint8), index=0, arrival_ns=0))
    with pytest.raises(GeometryError, match=r"mask_boxes holds \(60, 10, 70, 20\), outside of the image of 50 x 40"):
        run(Frame(image=np.zeros((40, 50), np.uint8), index=1, arrival_ns=1))
