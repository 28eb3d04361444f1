"""Damaged, hostile and foreign files: the right error of the tree, and no patient string in it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom")
cv2 = pytest.importorskip("cv2")

from edge_runtime.errors import (  # noqa: E402
    ConfigError,
    CorruptFrameError,
    EdgeError,
    MissingDependencyError,
    SourceError,
    SourceFormatError,
)
from edge_runtime.sources import DicomSource, open_source  # noqa: E402

PIXELS = bytes(48 * 64)
SECRET = "SECRET"
Make = Callable[..., Path]
Jpegs = Callable[..., list[bytes]]
RLE = "1.2.840.10008.1.2.5"


def test_a_file_cut_anywhere_is_refused(make_dicom: Make, make_jpegs: Jpegs) -> None:
    for path in (make_dicom(make_jpegs(3), name="a.dcm"), make_dicom(PIXELS * 3, name="b.dcm", NumberOfFrames=3)):
        whole = path.read_bytes()
        rng = np.random.default_rng(0)
        cuts = {1, 127, 130, 132, 140, 200, len(whole) - 9, len(whole) - 1, *rng.integers(2, len(whole), 60).tolist()}
        for cut in sorted(cuts):
            path.write_bytes(whole[:cut])
            with pytest.raises(SourceFormatError) as caught:
                DicomSource(path)
            assert SECRET not in str(caught.value)


@pytest.mark.parametrize("seed", range(4))
def test_random_damage_gives_frames_or_an_error_of_the_tree(seed: int, make_dicom: Make, make_jpegs: Jpegs) -> None:
    path = make_dicom(make_jpegs(3))
    whole = path.read_bytes()
    rng = np.random.default_rng(seed)
    for _ in range(60):
        damaged = bytearray(whole)
        for at in rng.integers(0, len(whole), 3):
            damaged[at] = rng.integers(0, 256)
        path.write_bytes(damaged)
        assert SECRET not in outcome_of(path)


def outcome_of(path: Path) -> str:
    """What reading every frame says; an error outside the tree goes through."""
    said = ""
    try:
        with DicomSource(path) as source:
            for _ in range(source.frame_count or 0):
                try:
                    source.read()
                except CorruptFrameError as error:
                    said += str(error)
    except EdgeError as error:
        said += str(error)
    return said


@pytest.mark.parametrize(
    "spoil",
    [
        lambda jpeg: jpeg[: len(jpeg) // 2],
        lambda jpeg: b"\0" * len(jpeg),
        lambda jpeg: jpeg[:2] + b"\0\0" + jpeg[4:],
        lambda jpeg: jpeg[:-40] + b"\xff\x17" * 10 + jpeg[-20:],
        lambda jpeg: jpeg[:4],
    ],
    ids=["half", "zeros", "no-marker", "stray-markers", "four-bytes"],
)
def test_one_damaged_frame_leaves_the_others_readable(
    spoil: Callable[[bytes], bytes], make_dicom: Make, make_jpegs: Jpegs
) -> None:
    jpegs = make_jpegs(4)
    jpegs[2] = spoil(jpegs[2])
    with DicomSource(make_dicom(jpegs)) as source:
        indices = []
        for k in range(4):
            if k == 2:
                with pytest.raises(CorruptFrameError, match="frame 2") as caught:
                    source.read()
                assert caught.value.index == 2
                continue
            frame = source.read()
            assert frame is not None
            indices.append(frame.index)
        assert (indices, source.read()) == ([0, 1, 3], None)


def test_a_jpeg_of_another_size_than_announced_is_refused_before_it_is_decoded(
    make_dicom: Make, make_jpegs: Jpegs
) -> None:
    bomb = bytearray(make_jpegs(1)[0])
    at = bomb.index(b"\xff\xc0")
    bomb[at + 5 : at + 9] = b"\xff\xff\xff\xff"
    with DicomSource(make_dicom([bytes(bomb)])) as source, pytest.raises(CorruptFrameError, match="65535 x 65535"):
        source.read()


def test_a_damaged_frame_of_a_plugin_names_its_index(make_dicom: Make) -> None:
    path = make_dicom([b"\x01\0\0\0" + bytes(60), b"\x7f" * 64], syntax=RLE, SamplesPerPixel=1,
                      PhotometricInterpretation="MONOCHROME2")  # fmt: skip
    with DicomSource(path) as source:
        for k in range(2):
            with pytest.raises(CorruptFrameError) as caught:
                source.read()
            assert caught.value.index == k


@pytest.mark.parametrize(
    ("elements", "message"),
    [
        ({"Rows": 0}, "Rows is 0"),
        ({"NumberOfFrames": 0}, "NumberOfFrames is 0"),
        ({"NumberOfFrames": -4}, "NumberOfFrames is -4"),
        ({"BitsAllocated": 32, "BitsStored": 32}, "32 of 32 bits"),
        ({"BitsAllocated": 1, "BitsStored": 1}, "1 of 1 bits"),
        ({"BitsStored": 9}, "9 of 8 bits"),
        ({"PhotometricInterpretation": "HSV"}, "'HSV' is not read"),
        ({"SamplesPerPixel": 3}, "3 samples per pixel do not fit MONOCHROME2"),
        ({"NumberOfFrames": 9}, "cut short: 27648 bytes"),
        ({"Rows": 60000, "Columns": 60000}, "at most"),
        ({"NumberOfFrames": 2**31 - 1, "Rows": 512, "Columns": 512}, "raise max_samples"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "palette"),
        ({"BitsAllocated": 16, "BitsStored": 12, "Rows": 24, "WindowCenter": 1, "WindowWidth": 0}, "window width"),
        ({"BitsAllocated": 16, "BitsStored": 12, "Rows": 24, "WindowCenter": 1, "WindowWidth": 9,
          "VOILUTFunction": "OTHER"}, "VOI LUT function"),
    ],
)  # fmt: skip
def test_announced_nonsense_is_refused(elements: dict[str, Any], message: str, make_dicom: Make) -> None:
    with pytest.raises(SourceFormatError, match=message):
        DicomSource(make_dicom(PIXELS, **elements))


def test_fewer_frames_than_announced_are_refused(make_dicom: Make, make_jpegs: Jpegs) -> None:
    with pytest.raises(SourceFormatError, match="5 frames are announced, 3 found"):
        DicomSource(make_dicom(make_jpegs(3), NumberOfFrames=5, table=False))


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.4.100", "1.2.840.10008.1.2.1.99", "1.2.3.4"])
def test_another_transfer_syntax_is_refused_with_the_list(syntax: str, make_dicom: Make) -> None:
    path = make_dicom(PIXELS)
    data = path.read_bytes()
    old = b"1.2.840.10008.1.2.1\0"
    at = data.index(old)
    new = syntax.encode() + b"\0" * (len(syntax) % 2)
    head = data[: at - 2] + len(new).to_bytes(2, "little") + new + data[at + len(old) :]
    length = int.from_bytes(data[140:144], "little") + len(new) - len(old)
    path.write_bytes(head[:140] + length.to_bytes(4, "little") + head[144:])
    with pytest.raises(SourceFormatError, match=r"is not read; convert the file to one of: .*JPEG baseline"):
        DicomSource(path)


def test_objects_without_an_image_are_refused(make_dicom: Make) -> None:
    with pytest.raises(SourceFormatError, match="no pixel data"):
        DicomSource(make_dicom(None))

    def strip(ds: Any) -> None:
        del ds.Rows
        del ds.Columns

    with pytest.raises(SourceFormatError, match="holds no image"):
        DicomSource(make_dicom(None, edit=strip))

    def index(ds: Any) -> None:
        ds.SOPClassUID = "1.2.840.10008.1.3.10"

    with pytest.raises(SourceFormatError, match="DICOMDIR is an index"):
        DicomSource(make_dicom(PIXELS, edit=index))


def test_twelve_bit_jpeg_is_refused(make_dicom: Make, make_jpegs: Jpegs) -> None:
    elements = {"BitsAllocated": 16, "BitsStored": 12, "HighBit": 11}
    with pytest.raises(SourceFormatError, match="8-bit JPEG is read"):
        DicomSource(make_dicom(make_jpegs(1), syntax="1.2.840.10008.1.2.4.51", **elements))


def test_a_missing_decoder_names_the_extra(make_dicom: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    from pydicom.pixels import get_decoder

    syntax = "1.2.840.10008.1.2.4.90"
    monkeypatch.setattr(get_decoder(syntax), "_available", {})
    path = make_dicom([bytes(16)], syntax=syntax, SamplesPerPixel=1, PhotometricInterpretation="MONOCHROME2")
    with pytest.raises(MissingDependencyError, match=r"pip install 'pocus-edge-runtime\[dicom\]'"):
        DicomSource(path)


def test_no_patient_string_leaves_the_file(
    make_dicom: Make, make_jpegs: Jpegs, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG), DicomSource(make_dicom(make_jpegs(1))) as source:
        frame = source.read()
    told = f"{caplog.text} {source.name} {source.timing_note} {source.geometry_note} {frame!r} {vars(source)}"
    assert SECRET not in told


@pytest.mark.parametrize("options", [{"color": "grey"}, {"region": 0}, {"region": -1}])
def test_a_bad_argument_is_a_config_error(options: dict[str, Any], make_dicom: Make) -> None:
    with pytest.raises(ConfigError):
        DicomSource(make_dicom(PIXELS), **options)


def test_paths_that_are_no_file(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.dcm", tmp_path):
        with pytest.raises(SourceError, match="cannot be opened"):
            DicomSource(path)
    (tmp_path / "empty.dcm").touch()
    with pytest.raises(SourceFormatError, match="empty"):
        DicomSource(tmp_path / "empty.dcm")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(make_dicom: Make) -> None:
    path = make_dicom(PIXELS)
    path.chmod(0)
    for opener in (DicomSource, open_source):
        with pytest.raises(SourceError, match="cannot be opened"):
            opener(path)


def test_a_file_cut_while_it_is_open(make_dicom: Make, make_jpegs: Jpegs) -> None:
    path = make_dicom(make_jpegs(40, size=(48, 64)))
    with DicomSource(path) as source:
        os.truncate(path, 3000)
        outcomes = []
        for k in range(40):
            try:
                source.read()
            except CorruptFrameError as error:
                outcomes.append(error.index == k)
        assert outcomes
        assert all(outcomes)


def test_a_closed_source_says_so(make_dicom: Make) -> None:
    source = DicomSource(make_dicom(PIXELS))
    source.close()
    source.close()
    for action in (source.read, source.rewind):
        with pytest.raises(SourceError, match="is closed"):
            action()
