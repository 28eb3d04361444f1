"""Scan areas found in drawn captures whose truth is known, and in exports of five devices."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from edge_runtime.errors import ConfigError, GeometryError
from edge_runtime.frame import Frame, FrameGeometry, Rectangle, ScanArea, Sector
from edge_runtime.preprocess import CropToScanArea, MaskOutside, Normalize, Preprocessor, PreprocessSpec, Resize
from edge_runtime.preprocess import detect_scan_area as detect

cv2 = pytest.importorskip("cv2")

SHAPE = (480, 640)
Image = npt.NDArray[np.uint8]


def capture(area: ScanArea, seed: int = 0, cyst: bool = True) -> Image:
    """Speckle in `area` with a black disc, on a page with text, a ruler and a thin line."""
    rng = np.random.default_rng(seed)
    noise = np.hypot(*(cv2.GaussianBlur(part, (0, 0), 1.5) for part in rng.normal(size=(2, *SHAPE))))
    page = np.clip(60 + 70 * noise / noise.mean() - 60 * rng.random(), 0, 255).astype(np.uint8)
    if cyst:
        cv2.circle(page, (320, 240), 35, 0, -1)
    page[~area.mask(SHAPE)] = 0
    for k, text in enumerate(("MI 1.2", "7.5 MHz")):
        cv2.putText(page, text, (8, 24 + 24 * k), cv2.FONT_HERSHEY_SIMPLEX, 0.5, 255, 1)
    page[20:460:40, 622:630] = 255
    return page


def overlap(one: ScanArea, other: ScanArea) -> float:
    a, b = one.mask(SHAPE), other.mask(SHAPE)
    return float((a & b).sum() / (a | b).sum())


sectors = st.builds(
    lambda radius, depth, left, right: Sector(
        apex_x=320.0,
        apex_y=40.0 - radius * min(np.cos(left), np.cos(right)),
        radius_min=radius,
        radius_max=radius + depth,
        angle_min=-left,
        angle_max=right,
    ),
    *(st.floats(8, 300), st.floats(250, 340), st.floats(0.35, 0.7), st.floats(0.35, 0.7)),
)


@given(sectors, st.integers(0, 99))
@settings(max_examples=10, phases=(Phase.explicit, Phase.generate))
def test_a_sector_is_found(sector: Sector, seed: int) -> None:
    found = detect(capture(sector, seed))
    assert isinstance(found, Sector)
    assert overlap(found, sector) > 0.985
    assert abs(found.angle_min - sector.angle_min) < 0.01
    assert abs(found.angle_max - sector.angle_max) < 0.01
    assert abs(found.radius_max - sector.radius_max) < 3


@given(st.integers(60, 200), st.integers(20, 80), st.integers(200, 340), st.integers(330, 390), st.integers(0, 99))
@settings(max_examples=10, phases=(Phase.explicit, Phase.generate))
def test_a_rectangle_is_found_to_the_pixel(x0: int, y0: int, width: int, height: int, seed: int) -> None:
    area = Rectangle(x0=x0, y0=y0, x1=x0 + width, y1=y0 + height)
    found = detect(capture(area, seed))
    assert isinstance(found, Rectangle)
    assert max(abs(getattr(found, k) - getattr(area, k)) for k in ("x0", "y0", "x1", "y1")) <= 1


def test_several_frames_see_what_is_dark_in_one() -> None:
    area = Rectangle(x0=120, y0=30, x1=500, y1=450)
    frames = [np.dstack([capture(area, k, cyst=False)] * 3) for k in range(3)]
    for k, frame in enumerate(frames):
        frame[30 + 140 * k : 170 + 140 * k, 120:500] = 0
    assert detect(frames) == area
    assert detect(frames[0]) != area


def test_what_is_found_crops_and_masks() -> None:
    sector = Sector(apex_x=320, apex_y=-60, radius_min=110, radius_max=480, angle_min=-0.5, angle_max=0.5)
    image = capture(sector)
    geometry = replace(FrameGeometry(), scan_area=detect(image))
    steps = (CropToScanArea(), MaskOutside(), Resize(height=128, width=128), Normalize())
    prepared = Preprocessor(PreprocessSpec(steps=steps))(Frame(image=image, index=0, arrival_ns=0, geometry=geometry))
    box = prepared.map.crop
    rows, columns = np.flatnonzero(sector.mask(SHAPE).any(1)), np.flatnonzero(sector.mask(SHAPE).any(0))
    wanted = (columns[0], rows[0], columns[-1] + 1 - columns[0], rows[-1] + 1 - rows[0])
    assert np.abs(np.subtract((box.x0, box.y0, box.width, box.height), wanted)).max() <= 5


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (np.zeros(SHAPE, np.uint8), "no part of the image"),
        (capture(Rectangle(x0=0, y0=0, x1=0, y1=0)), "no part of the image"),
        (np.where(np.hypot(*(np.mgrid[:480, :640] - 240)) < 200, 90, 0).astype(np.uint8), "no rectangle and no sector"),
        (capture(Rectangle(x0=0, y0=60, x1=640, y1=120), cyst=False), "a bar of"),
    ],
    ids=["black", "text", "disc", "bar"],
)
def test_other_pictures_are_refused(image: Image, said: str) -> None:
    with pytest.raises(GeometryError, match=said):
        detect(image)


@pytest.mark.parametrize(
    ("images", "said"),
    [
        ([], "no image"),
        ([np.zeros((40, 40), np.uint8), np.zeros((40, 41), np.uint8)], "frames of one shape"),
        (np.zeros((40, 40)), "float64"),
        (np.zeros((4, 4), np.uint8), "at least 16 x 16"),
    ],
)
def test_what_is_no_image_is_refused(images: list[Image], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        detect(images)


# read off the pictures by eye and by the first and last pixel above the page
DEVICES = {
    "clarius_axial-lateral-resolution-2020.png": (344, 160, 936, 800),
    "interson-image.jpg": (388, 60, 914, 851),
    "interson-phantom.png": (443, 54, 1003, 895),
    "sonosite-anon-eye1.jpg": (385, 40, 724, 641),
    "sonivate-anechoic_1-1.nrrd": (132, 3, 380, 511),
    "clarius-ocular-short.mp4": (263, 84, 1018, 875),
}


def device_frames(name: str) -> list[Image]:
    if "POCUS_DATA" not in os.environ:
        pytest.skip("POCUS_DATA is not set: no device exports")
    path = Path(os.environ["POCUS_DATA"]) / "devices" / name
    if path.suffix == ".mp4":
        video, frames = cv2.VideoCapture(str(path)), []
        while len(frames) < 12 and (read := video.read())[0]:
            frames.append(read[1])
        return frames
    if path.suffix == ".nrrd":
        import gzip

        pixels = gzip.decompress(path.read_bytes().split(b"\n\n", 1)[1])
        return [np.frombuffer(pixels, np.uint8).reshape(512, 512)]
    return [cv2.imread(str(path))]


@pytest.mark.parametrize("name", DEVICES)
def test_the_rectangles_of_devices_are_found(name: str) -> None:
    found = detect(device_frames(name))
    assert isinstance(found, Rectangle)
    assert np.abs(np.subtract((found.x0, found.y0, found.x1, found.y1), DEVICES[name])).max() <= 4


def test_the_slanted_sides_of_a_butterfly_are_found() -> None:
    found = detect(device_frames("butterfly-ocular-phantom.mp4"))
    assert isinstance(found, Sector)
    corners = [
        (found.apex_x + r * np.sin(a), found.apex_y + r * np.cos(a))
        for r in (found.radius_min, found.radius_max)
        for a in (found.angle_min, found.angle_max)
    ]
    assert (
        np.abs(np.subtract(corners, [(97, 203), (672, 203), (78, 885), (691, 885)])).max() <= 10
    )  # a line lies on top


@given(st.integers(0, 10_000), st.integers(16, 90), st.integers(16, 90), st.floats(0.5, 12), st.floats(0.05, 0.95))
@settings(max_examples=40)
def test_blobs_of_any_form_give_an_area_or_a_refusal(seed: int, h: int, w: int, sigma: float, share: float) -> None:
    noise = cv2.GaussianBlur(np.random.default_rng(seed).normal(size=(h, w)), (0, 0), sigma)
    image = np.where(noise > np.quantile(noise, share), 120, 0).astype(np.uint8)
    try:
        area = detect(image)
    except GeometryError:
        return
    assert area.mask((h, w)).any()
