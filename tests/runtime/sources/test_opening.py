"""`open_source` goes by content, and says what it reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

cv2 = pytest.importorskip("cv2")
pytest.importorskip("pydicom")

from edge_runtime.clock import ManualClock  # noqa: E402
from edge_runtime.errors import ConfigError, SourceError, SourceFormatError  # noqa: E402
from edge_runtime.frame import FrameGeometry  # noqa: E402
from edge_runtime.sources import (  # noqa: E402
    ArraySource,
    DicomSource,
    ImageFolderSource,
    VideoSource,
    open_source,
)

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 16, 16), dtype=np.uint8)
Make = Callable[..., Path]


def test_dicom_is_known_by_its_content_under_any_name(make_dicom: Make) -> None:
    path = make_dicom(bytes(48 * 64), name="movie.mp4")
    with open_source(path) as source:
        assert isinstance(source, DicomSource)
    bare = path.with_name("bare")
    bare.write_bytes(path.read_bytes()[132:])
    with open_source(path) as one, open_source(bare) as other:
        whole, short = one.read(), other.read()
    assert whole is not None
    assert short is not None
    np.testing.assert_array_equal(whole.image, short.image)


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"])
def test_a_dataset_without_any_file_meta(syntax: str, make_dicom: Make) -> None:
    samples = np.arange(48 * 64, dtype=">u2" if syntax.endswith("2.2") else "<u2")
    elements = {"BitsAllocated": 16, "BitsStored": 16, "HighBit": 15}
    path = make_dicom(samples.tobytes(), syntax=syntax, **elements)
    data = path.read_bytes()
    path.write_bytes(data[144 + int.from_bytes(data[140:144], "little") :])
    with open_source(path) as source:
        frame = source.read()
    assert frame is not None
    np.testing.assert_array_equal(frame.image.ravel(), np.rint(np.arange(48 * 64) / 65535 * 255))


def test_each_kind_is_opened(tmp_path: Path) -> None:
    np.save(tmp_path / "a.bin", IMAGES)
    (tmp_path / "a.bin.npy").rename(tmp_path / "array.dat")
    folder = tmp_path / "folder"
    folder.mkdir()
    cv2.imwrite(str(folder / "x.png"), IMAGES[0])
    clip = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(clip), cv2.VideoWriter_fourcc(*"MJPG"), 10.0, (16, 16), False)
    for image in IMAGES:
        writer.write(image)
    writer.release()
    clip = clip.rename(tmp_path / "clip.dcm")
    expected = {
        tmp_path / "array.dat": ArraySource,
        folder: ImageFolderSource,
        folder / "x.png": ImageFolderSource,
        clip: VideoSource,
    }
    for path, kind in expected.items():
        with open_source(str(path), clock=ManualClock(5)) as source:
            assert type(source) is kind
            frame = source.read()
            assert frame is not None
            assert frame.arrival_ns == 5
    assert isinstance(open_source(IMAGES, fps=3), ArraySource)


def test_an_array_file_is_mapped_not_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", IMAGES)
    with open_source(tmp_path / "a.npy") as source:
        assert [f.image.tobytes() for f in source] == [i.tobytes() for i in IMAGES]


def test_a_geometry_goes_onto_every_frame_of_any_kind() -> None:
    mm = FrameGeometry(row_mm=0.1, column_mm=0.1, origin="user", trusted=True, reason="")
    assert {f.geometry for f in open_source(IMAGES, geometry=mm)} == {mm}
    source = ArraySource(IMAGES)
    assert open_source(source) is source


def test_options_that_a_kind_does_not_have_are_refused(tmp_path: Path, make_dicom: Make) -> None:
    with pytest.raises(ConfigError, match=r"unknown option colour .*allowed: color, region, max_samples"):
        open_source(make_dicom(bytes(48 * 64)), colour="gray")
    with pytest.raises(ConfigError, match="open already"):
        open_source(ArraySource(IMAGES), fps=3)
    with pytest.raises(ConfigError, match="a float cannot be opened"):
        open_source(3.5)  # type: ignore[arg-type]


def test_what_cannot_be_read_is_refused_with_the_list(tmp_path: Path) -> None:
    cases = {
        "empty": b"",
        "text": b"hello, this is text\n" * 30,
        "zip": b"PK\x03\x04" + bytes(600),
        "zeros": bytes(999),
    }
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(SourceFormatError, match=r"Read: DICOM .* video .* folder .*npy"):
            open_source(tmp_path / name)
    with pytest.raises(SourceError, match="cannot be opened"):
        open_source(tmp_path / "absent")
    (tmp_path / "inside").mkdir()
    with pytest.raises(SourceError, match="no image in this folder"):
        open_source(tmp_path / "inside")


@pytest.mark.parametrize("spoil", [lambda b: b[:-5], lambda b: b[:20], lambda b: b[:6]])
def test_damaged_arrays_are_refused(spoil: Callable[[bytes], bytes], tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", IMAGES)
    whole = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(spoil(whole))
    with pytest.raises(SourceFormatError, match="not a whole"):
        open_source(tmp_path / "a.npy")


def test_arrays_of_objects_are_never_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(SourceFormatError, match="array of numbers"):
        open_source(tmp_path / "a.npy")
