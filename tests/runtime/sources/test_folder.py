"""Folders of images: order, depth, damage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

cv2 = pytest.importorskip("cv2")

from edge_runtime.errors import ConfigError, CorruptFrameError, SourceError  # noqa: E402
from edge_runtime.sources import ImageFolderSource  # noqa: E402

RGB = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)


def save(path: Path, image: np.ndarray) -> None:
    assert cv2.imwrite(str(path), image[..., ::-1] if image.ndim == 3 and image.shape[2] == 3 else image)


def test_files_come_in_natural_order_and_others_are_left_out(tmp_path: Path) -> None:
    for number in (10, 2, 1):
        save(tmp_path / f"f{number}.png", np.full((6, 8), number, np.uint8))
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / ".hidden.png").write_text("no image")
    (tmp_path / "sub.png").mkdir()
    with ImageFolderSource(tmp_path, fps=2) as source:
        frames = list(source)
    assert [int(f.image[0, 0]) for f in frames] == [1, 2, 10]
    assert [f.device_ns for f in frames] == [0, 500_000_000, 1_000_000_000]


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif"])
@pytest.mark.parametrize("image", [RGB, RGB[..., 0]], ids=["colour", "grey"])
def test_lossless_formats_are_read_unchanged(suffix: str, image: np.ndarray, tmp_path: Path) -> None:
    save(tmp_path / f"a{suffix}", image)
    frame = ImageFolderSource(tmp_path).read()
    assert frame is not None
    np.testing.assert_array_equal(frame.image, image)
    assert frame.device_ns is None


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("bits", [16, 12])
def test_sixteen_bits_are_scaled_by_the_bits_in_use(suffix: str, bits: int, tmp_path: Path) -> None:
    values = np.linspace(0, (1 << bits) - 1, 48).astype(np.uint16).reshape(6, 8)
    save(tmp_path / f"a{suffix}", values)
    frame = ImageFolderSource(tmp_path, bits=bits).read()
    assert frame is not None
    np.testing.assert_array_equal(frame.image, np.rint(values / ((1 << bits) - 1) * 255).astype(np.uint8))


def test_alpha_is_dropped(tmp_path: Path) -> None:
    rgba = np.dstack([RGB[..., ::-1], np.full((6, 8), 9, np.uint8)])
    assert cv2.imwrite(str(tmp_path / "a.png"), rgba)
    frame = ImageFolderSource(tmp_path).read()
    assert frame is not None
    np.testing.assert_array_equal(frame.image, RGB)


def test_a_change_of_size_is_an_error_of_that_frame_unless_meant(tmp_path: Path) -> None:
    for name, shape in (("a", (6, 8)), ("b", (8, 6)), ("c", (6, 8))):
        save(tmp_path / f"{name}.png", np.zeros(shape, np.uint8))
    source = ImageFolderSource(tmp_path)
    source.read()
    with pytest.raises(CorruptFrameError, match=r"b.png \(frame 1\) is 8 x 6, the frames before it are 6 x 8"):
        source.read()
    frame = source.read()
    assert frame is not None
    assert frame.index == 2
    assert [f.shape for f in ImageFolderSource(tmp_path, mixed_sizes=True)] == [(6, 8), (8, 6), (6, 8)]


def test_damaged_files_are_named_and_passed_over(tmp_path: Path) -> None:
    save(tmp_path / "a.png", RGB)
    whole = cv2.imencode(".jpg", RGB)[1].tobytes()
    (tmp_path / "b.jpg").write_bytes(whole[:-20])
    (tmp_path / "c.png").touch()
    (tmp_path / "d.png").write_text("text")
    cv2.imwritemulti(str(tmp_path / "e.tif"), [RGB, RGB])
    (tmp_path / "f.jpg").write_bytes(whole + b"a camera's notes")
    save(tmp_path / "g.tif", RGB.astype(np.float32))
    source = ImageFolderSource(tmp_path)
    outcomes = []
    for index in range(7):
        try:
            frame = source.read()
            outcomes.append("" if frame else None)
        except CorruptFrameError as error:
            outcomes.append(str(error) if error.index == index else None)
    assert [bool(o) for o in outcomes] == [False, True, True, True, True, False, True]
    for outcome, words in zip(outcomes[1:5], ("b.jpg", "c.png", "d.png", "e.tif (frame 4) holds 2 pages"), strict=True):
        assert outcome is not None
        assert words in outcome
    assert source.read() is None


def test_nothing_to_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no image in this folder"):
        ImageFolderSource(tmp_path)
    with pytest.raises(SourceError, match="cannot be listed"):
        ImageFolderSource(tmp_path / "absent")
    with pytest.raises(SourceError, match="list of image files is empty"):
        ImageFolderSource([])
    for options in ({"bits": 8}, {"bits": 17}, {"fps": -1.0}):
        with pytest.raises(ConfigError):
            ImageFolderSource(tmp_path, **options)  # type: ignore[arg-type]
