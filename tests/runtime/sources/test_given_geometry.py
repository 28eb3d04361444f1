"""A geometry that the user gave is not carried over to images of another size, whatever way they come in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge_runtime.clock import ManualClock
from edge_runtime.errors import SourceError
from edge_runtime.frame import Frame, FrameGeometry, Rectangle
from edge_runtime.sources import (
    ImageFolderSource,
    PacedSource,
    PushSource,
    Reconnecting,
    ReplaySource,
    Source,
    with_geometry,
)

SMALL, LARGE = np.zeros((4, 6), np.uint8), np.zeros((8, 12), np.uint8)
MM = FrameGeometry(row_mm=0.5, column_mm=0.25, origin="user", trusted=True, reason="")


def replay(*images: np.ndarray) -> ReplaySource:
    return ReplaySource([Frame(image=image, index=k, arrival_ns=k) for k, image in enumerate(images)], fps=10)


def trusted(source: Source) -> list[bool]:
    return [frame.geometry.trusted for frame in source]


def test_another_size_has_no_millimetres_and_says_why() -> None:
    source = with_geometry(replay(SMALL, LARGE, SMALL), MM)
    frames = list(source)
    assert [frame.geometry.trusted for frame in frames] == [True, False, False]
    assert "from 4 x 6 to 8 x 12 pixels" in frames[1].geometry.reason
    source.rewind()
    assert trusted(source) == [True, False, False]


def test_a_scan_area_alone_is_withdrawn_too_and_nothing_else_is_touched() -> None:
    area = FrameGeometry(scan_area=Rectangle(x0=0, y0=0, x1=4, y1=3))
    assert [f.geometry.scan_area for f in with_geometry(replay(SMALL, LARGE), area)] == [area.scan_area, None]
    plain = FrameGeometry(reason="a phantom of unknown size")
    assert [f.geometry.reason for f in with_geometry(replay(SMALL, LARGE), plain)] == [plain.reason] * 2


def test_every_loop_of_a_recording_begins_with_what_was_given() -> None:
    source = PacedSource(with_geometry(replay(SMALL, LARGE), MM), loop_s=0.4, clock=ManualClock())
    assert trusted(source) == [True, False, True, False]


def test_pushed_images_of_another_size() -> None:
    source = PushSource(geometry=MM)
    for image in (SMALL, LARGE):
        source.push(image)
    source.push(LARGE, geometry=MM)  # whoever gives it with the image knows
    source.end()
    assert trusted(source) == [True, False, True]


def test_a_folder_of_mixed_sizes(tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    for name, image in (("a", SMALL), ("b", LARGE)):
        cv2.imwrite(str(tmp_path / f"{name}.png"), image)
    assert trusted(ImageFolderSource(tmp_path, mixed_sizes=True, geometry=MM)) == [True, False]


def test_what_comes_back_with_another_size_has_lost_its_calibration() -> None:
    openings = [SMALL, LARGE, SMALL]

    def factory() -> Source:
        frames = [Frame(image=openings.pop(0), index=0, arrival_ns=0)]
        return with_geometry(ReplaySource([*frames, *([SourceError("unplugged")] if openings else [])]), MM)

    source = Reconnecting(factory, first_s=0, clock=ManualClock())
    frames = list(source)
    assert [frame.geometry.trusted for frame in frames] == [True, False, True]
    assert "from 4 x 6 to 8 x 12 pixels" in frames[1].geometry.reason
