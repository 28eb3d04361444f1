"""A scan area that is found once and laid on every frame, with the millimetres left as they are."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.errors import ConfigError, CorruptFrameError, GeometryError
from edge_runtime.frame import Frame, FrameGeometry, Rectangle
from edge_runtime.sources import ArraySource, ReplaySource, find_scan_area, open_source, with_scan_area

cv2 = pytest.importorskip("cv2")

AREA = Rectangle(x0=40, y0=20, x1=120, y1=100)
MM = FrameGeometry(row_mm=0.5, column_mm=0.25, origin="user", trusted=True, reason="")


def captures(count: int = 4, size: tuple[int, int] = (120, 160)) -> np.ndarray:
    """A page with speckle inside `AREA`."""
    images = np.zeros((count, *size), np.uint8)
    images[:, 20:100, 40:120] = np.random.default_rng(0).integers(40, 200, (count, 80, 80), np.uint8)
    return images


def test_the_area_is_found_once_and_every_frame_is_still_there() -> None:
    images = captures()
    source = with_scan_area(ArraySource(images, geometry=MM, fps=10))
    frames = list(source)
    assert [frame.index for frame in frames] == [0, 1, 2, 3]
    assert {frame.geometry.scan_area for frame in frames} == {AREA}
    assert (frames[3].geometry.row_mm, frames[3].geometry.trusted) == (0.5, True)
    assert np.array_equal(frames[3].image, images[3])


def test_what_is_known_is_kept_and_another_size_goes_without() -> None:
    own = FrameGeometry(scan_area=Rectangle(x0=1, y0=1, x1=5, y1=5))
    script = [
        Frame(image=captures()[0], index=0, arrival_ns=0),
        Frame(image=captures()[0], index=1, arrival_ns=1, geometry=own),
        Frame(image=captures()[0, ::2, ::2].copy(), index=2, arrival_ns=2),
    ]
    areas = [frame.geometry.scan_area for frame in with_scan_area(ReplaySource(script), frames=1)]
    assert areas == [AREA, own.scan_area, None]
    given = Rectangle(x0=0, y0=0, x1=9, y1=9)
    assert [f.geometry.scan_area for f in with_scan_area(ReplaySource(script[:1]), given)] == [given]


def test_of_a_live_source_the_frames_that_were_looked_at_are_gone() -> None:
    script = [Frame(image=image, index=k, arrival_ns=0) for k, image in enumerate(captures())]
    source = with_scan_area(ReplaySource(script, live=True), frames=2)
    assert [frame.index for frame in source] == [2, 3]


def test_damaged_frames_are_passed_over_and_none_at_all_is_refused() -> None:
    bad = CorruptFrameError("torn", 0)
    good = Frame(image=captures()[0], index=1, arrival_ns=0)
    assert find_scan_area(ReplaySource([bad, good])) == (AREA, (120, 160))
    with pytest.raises(GeometryError, match="gave no frame"):
        find_scan_area(ReplaySource([bad]))
    with pytest.raises(GeometryError, match="brighter than the page"):
        with_scan_area(ArraySource(np.zeros((2, 64, 64), np.uint8)))
    with pytest.raises(ConfigError, match="frames is 0"):
        find_scan_area(ReplaySource([good]), frames=0)


def test_the_clips_of_hand_held_devices() -> None:
    folder = os.environ.get("POCUS_DATA")
    if not folder:
        pytest.skip("POCUS_DATA does not name the folder of real data")
    with with_scan_area(open_source(Path(folder, "devices", "clarius-ocular-short.mp4"))) as source:
        area = next(iter(source)).geometry.scan_area
    assert isinstance(area, Rectangle)  # the edges as read by eye
    assert np.abs(np.array([area.x0, area.y0, area.x1, area.y1]) - [263, 84, 1018, 875]).max() <= 2


def test_the_still_image_of_a_hand_held_device_brings_its_millimetres() -> None:
    folder = os.environ.get("POCUS_DATA")
    if not folder:
        pytest.skip("POCUS_DATA does not name the folder of real data")
    with with_scan_area(open_source(Path(folder, "devices", "sonivate-anechoic_1-1.nrrd"))) as source:
        (frame,) = source
    assert frame.shape == (512, 512)
    assert frame.geometry.trusted
    assert frame.geometry.row_mm == pytest.approx(0.0776, abs=1e-4)
    assert isinstance(frame.geometry.scan_area, Rectangle)
