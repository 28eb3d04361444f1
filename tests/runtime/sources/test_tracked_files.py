"""Tracked recordings: round trips bit for bit, real files, peers, damaged files."""

from __future__ import annotations

import os
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.errors import ConfigError, EdgeError, SourceError, SourceFormatError
from edge_runtime.sources import TrackedSequence, read_sequence, write_sequence

NAMES = ("s.igs.mha", "s.seq.nrrd")


def made(seed: int = 0, n: int = 5, colour: bool = False, **change: Any) -> TrackedSequence:
    """A recording with everything that one can hold."""
    rng = np.random.default_rng(seed)
    shape = (n, 6, 7, 3) if colour else (n, 6, 7)
    probe = rng.normal(size=(n, 4, 4)) * 10.0 ** rng.integers(-300, 300, (n, 4, 4))
    tool = rng.normal(size=(n, 4, 4))
    tool[min(2, n - 1)] = np.nan
    values = {
        "frames": rng.integers(0, 256, shape, np.uint8),
        "orientation": "UN",
        "times_ns": np.array([10**18 + 1, 5, 5, -7, 10**9], np.int64)[:n],
        "transforms": {"ProbeToTracker": probe, "ToolToTracker": tool},
        "statuses": {
            "ProbeToTracker": ("OK", "INVALID", "OK", "OUT_OF_VIEW", "OK")[:n],
            "ToolToTracker": ("OK", "OK", "MISSING", "OK", "OK")[:n],
        },
        "image_statuses": ("OK", "OK", "INVALID", "OK", "OK")[:n],
        "fields": {"UltrasoundImageType": "BRIGHTNESS", "Note": "depth: 4 = cm, ü"},
        "frame_fields": {"FrameNumber": ("7", None, "9", "10", "11")[:n]},
    }
    return TrackedSequence(**(values | change))


def assert_same(a: TrackedSequence, b: TrackedSequence) -> None:
    """Equal in every bit."""
    assert (a.frames is None) == (b.frames is None)
    if a.frames is not None and b.frames is not None:
        assert a.frames.shape == b.frames.shape
        assert a.frames.tobytes() == b.frames.tobytes()
    assert (a.times_ns is None) == (b.times_ns is None)
    if a.times_ns is not None and b.times_ns is not None:
        np.testing.assert_array_equal(a.times_ns, b.times_ns)
    assert list(a.transforms) == list(b.transforms)
    for name, T in a.transforms.items():
        assert np.array_equal(T.view(np.int64), b.transforms[name].view(np.int64)), name
    for name in ("orientation", "statuses", "image_statuses", "fields", "frame_fields"):
        assert getattr(a, name) == getattr(b, name), name


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("colour", [False, True])
def test_a_round_trip_loses_no_bit(tmp_path: Path, name: str, compress: bool, colour: bool) -> None:
    sequence = made(colour=colour)
    write_sequence(tmp_path / name, sequence, compress=compress)
    assert_same(sequence, read_sequence(tmp_path / name))
    assert [p.name for p in tmp_path.iterdir()] == [name], "a temporary file was left"


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**20),
    times=st.lists(st.integers(-(2**61), 2**61), min_size=3, max_size=3),
    numbers=st.lists(st.floats(allow_nan=False), min_size=48, max_size=48),
    plain=st.booleans(),
)
def test_any_number_survives(
    tmp_path_factory: Any, seed: int, times: list[int], numbers: list[float], plain: bool
) -> None:
    folder = tmp_path_factory.mktemp("any")
    T = np.reshape(numbers, (3, 4, 4))
    sequence = made(seed, 3, times_ns=np.array(times, np.int64), transforms={"AToB": T}, statuses={})
    if plain:
        sequence = replace(sequence, times_ns=None, image_statuses=(), fields={}, frame_fields={}, orientation="XX")
    for name in NAMES:
        write_sequence(folder / name, sequence)
        assert_same(sequence, read_sequence(folder / name))


def test_the_list_axis_may_be_first_or_last(tmp_path: Path) -> None:
    for colour in (False, True):
        sequence = made(colour=colour)
        write_sequence(tmp_path / "first.seq.nrrd", sequence, list_axis="first")
        write_sequence(tmp_path / "last.seq.nrrd", sequence, list_axis="last")
        assert b"kinds: list" in (tmp_path / "first.seq.nrrd").read_bytes()
        assert b"domain list\n" in (tmp_path / "last.seq.nrrd").read_bytes()
        assert_same(read_sequence(tmp_path / "first.seq.nrrd"), read_sequence(tmp_path / "last.seq.nrrd"))


def test_transforms_alone_are_an_mha_of_no_pixels(tmp_path: Path) -> None:
    sequence = made(frames=None, orientation="XX")
    write_sequence(tmp_path / "t.igs.mha", sequence)
    assert b"DimSize = 0 0 5\n" in (tmp_path / "t.igs.mha").read_bytes()
    assert_same(sequence, read_sequence(tmp_path / "t.igs.mha"))
    with pytest.raises(ConfigError, match="without pixels"):
        write_sequence(tmp_path / "t.seq.nrrd", sequence)


SLICER = """NRRD0005
# as 3D Slicer writes it
type: unsigned char
dimension: 4
space: right-anterior-superior
sizes: {sizes}
space directions: {directions}
kinds: {kinds}
labels: {labels}
units: {units}
endian: little
encoding: raw
space origin: (1,2,3)
axis {axis} index type:=numeric
axis {axis} index values:=0.5 0.75 1.25
DataNodeClassName:=vtkMRMLScalarVolumeNode

"""


@pytest.mark.parametrize("axis", [0, 3])
@pytest.mark.parametrize(("unit", "scale"), [("s", 10**9), ("ms", 10**6)])
def test_a_file_of_slicer_is_read(tmp_path: Path, axis: int, unit: str, scale: int) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (3, 4, 5), np.uint8)
    order = ["5", "4", "1"]
    steps, kinds, blank = ["(0.2,0,0)", "(0,0.3,0)", "(0,0,1)"], ["domain"] * 3, ['""'] * 3
    for row, word in ((order, "3"), (steps, "none"), (kinds, "list")):
        row.insert(axis, word)
    labels, units = list(blank), list(blank)
    labels.insert(axis, '"time"')
    units.insert(axis, f'"{unit}"')
    head = SLICER.format(
        sizes=" ".join(order),
        directions=" ".join(steps),
        kinds=" ".join(kinds),
        labels=" ".join(labels),
        units=" ".join(units),
        axis=axis,
    )
    body = frames if axis == 3 else np.moveaxis(frames, 0, -1)
    path = tmp_path / "slicer.seq.nrrd"
    path.write_bytes(head.encode() + body.tobytes())
    sequence = read_sequence(path)
    assert sequence.frames is not None
    np.testing.assert_array_equal(sequence.frames, frames)
    assert sequence.times_ns is not None
    assert sequence.times_ns.tolist() == [scale // 2, scale * 3 // 4, scale * 5 // 4]
    assert (sequence.orientation, sequence.fields["DataNodeClassName"]) == ("XX", "vtkMRMLScalarVolumeNode")
    assert sequence.fields["space directions"] == "(0.2,0.0,0.0) (0.0,0.3,0.0) (0.0,0.0,1.0)"
    write_sequence(tmp_path / "again.seq.nrrd", sequence)
    assert_same(sequence, read_sequence(tmp_path / "again.seq.nrrd"))


def test_the_three_axes_of_plus_are_read(tmp_path: Path) -> None:
    head = (
        "NRRD0004\ndimension: 3\nencoding: raw\nendian: little\nkinds: domain domain              list\n"
        "sizes: 3 2                  2\nspace dimension: 2\nspace directions: (1,0) (0,1) none\nspace origin: (0,0)\n"
        "type: unsigned char\nultrasound image orientation:=MFA\nSeq_Frame0000_Timestamp:=1.5\n"
        "Seq_Frame0001_Timestamp:=2.5\nSeq_Frame0000_Status:=OK\nSeq_Frame0001_Status:=INVALID\n\n"
    )
    path = tmp_path / "plus.nrrd"
    path.write_bytes(head.encode() + bytes(range(12)))
    sequence = read_sequence(path)
    assert sequence.frames is not None
    assert sequence.frames.tolist() == [[[0, 1, 2], [3, 4, 5]], [[6, 7, 8], [9, 10, 11]]]
    assert (sequence.orientation, sequence.image_statuses) == ("MFA", ("OK", "INVALID"))
    assert sequence.images_usable.tolist() == [True, False]
    assert sequence.fields == {}


# --- what others make of it -------------------------------------------------------------------------------------------


def test_simpleitk_reads_the_same_pixels_and_fields(tmp_path: Path) -> None:
    sitk = pytest.importorskip("SimpleITK", reason="SimpleITK is not installed")
    sequence = made(fields={})
    for compress in (False, True):
        write_sequence(tmp_path / "s.igs.mha", sequence, compress=compress)
        image = sitk.ReadImage(str(tmp_path / "s.igs.mha"))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(image), sequence.frames)
        text = image.GetMetaData("Seq_Frame0001_ProbeToTrackerTransform")
        assert [float(x) for x in text.split()] == sequence.transforms["ProbeToTracker"][1].ravel().tolist()
        assert image.GetMetaData("Seq_Frame0003_ProbeToTrackerTransformStatus").strip() == "OUT_OF_VIEW"


def test_pynrrd_reads_the_same_pixels_and_pairs(tmp_path: Path) -> None:
    nrrd = pytest.importorskip("nrrd", reason="pynrrd is not installed")
    sequence = made(fields={})
    for list_axis in ("last", "first"):
        write_sequence(tmp_path / "s.seq.nrrd", sequence, list_axis=list_axis)  # type: ignore[arg-type]
        data, header = nrrd.read(str(tmp_path / "s.seq.nrrd"), index_order="C")
        frames = np.moveaxis(data, -1, 0)[:, 0] if list_axis == "first" else data[:, 0]
        np.testing.assert_array_equal(frames, sequence.frames)
        text = header["Seq_Frame0001_ProbeToTrackerTransform"]
        assert [float(x) for x in text.split()] == sequence.transforms["ProbeToTracker"][1].ravel().tolist()


# --- real files -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sweeps() -> Path:
    data = os.environ.get("POCUS_DATA")
    if not data or not Path(data, "sweeps").is_dir():
        pytest.skip("POCUS_DATA does not name the folder of real data")
    return Path(data, "sweeps")


REAL = {  # file: frames, height, width, orientation, usable records by transform
    "plus_bone/BoneUltrasound_L14.igs.mha": (21, 616, 820, "MF", {"Probe": 21, "Reference": 21, "Stylus": 21}),
    "plus_nwire/NwirePhantomFreehand.igs.mha": (97, 616, 820, "MFA", {"Probe": 97, "Reference": 97, "Stylus": 0}),
    "plus_spine/SpinePhantomFreehand.igs.mha": (21, 616, 820, "MFA", {"Probe": 21, "Reference": 21, "Stylus": 21}),
    "plus_trus/USTC_FrameGrabber_ProbeRotationData.igs.mha": (200, 480, 640, "MN", {"Probe": 200}),
}


@pytest.mark.parametrize("file", REAL)
def test_real_files_say_what_their_description_says(sweeps: Path, tmp_path: Path, file: str) -> None:
    sequence = read_sequence(sweeps / file)
    n, height, width, orientation, usable = REAL[file]
    assert sequence.frames is not None
    assert sequence.frames.shape == (n, height, width)
    assert sequence.orientation == orientation
    assert {name.split("To")[0]: int(sequence.usable(name).sum()) for name in sequence.transforms} == usable
    raw = (sweeps / file).read_bytes()
    body = raw[raw.index(b"LOCAL\n") + 6 :]
    assert sequence.frames.tobytes() == zlib.decompress(body)
    if n < 30:
        for name in NAMES:
            write_sequence(tmp_path / name, sequence, compress=False)
            assert_same(sequence, read_sequence(tmp_path / name))


def test_a_real_recording_of_transforms_alone(sweeps: Path, tmp_path: Path) -> None:
    path = sweeps / "plus_temporal" / "WaterTankBottomTranslationTrackerBuffer-trimmed.igs.mha"
    sequence = read_sequence(path)
    assert (sequence.frames, len(sequence), sequence.orientation) == (None, 801, "XX")
    assert sequence.times_ns is not None
    assert sequence.times_ns[0] == 7_415_679_586_000
    assert sequence.frame_fields["UnfilteredTimestamp"][0] == "7415.680000"
    write_sequence(tmp_path / "t.igs.mha", sequence)
    assert_same(sequence, read_sequence(tmp_path / "t.igs.mha"))


def test_simpleitk_agrees_on_a_real_file(sweeps: Path) -> None:
    sitk = pytest.importorskip("SimpleITK", reason="SimpleITK is not installed")
    path = sweeps / "plus_spine" / "SpinePhantomFreehand.igs.mha"
    image, sequence = sitk.ReadImage(str(path)), read_sequence(path)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), sequence.frames)
    for k in (0, 20):
        text = image.GetMetaData(f"Seq_Frame{k:04d}_ReferenceToTrackerTransform")
        assert [float(x) for x in text.split()] == sequence.transforms["ReferenceToTracker"][k].ravel().tolist()


# --- damaged files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("compress", [False, True])
def test_every_cut_is_refused(tmp_path: Path, name: str, compress: bool) -> None:
    write_sequence(tmp_path / name, made(n=2), compress=compress)
    whole = (tmp_path / name).read_bytes()
    for end in range(0, len(whole), 7):
        (tmp_path / name).write_bytes(whole[:end])
        with pytest.raises(SourceFormatError):
            read_sequence(tmp_path / name)


INSERTED = (b"9" * 9, b"-", b"nan", b"\n", b" ", b"=", b":", b"\xff", b"0", b"\n\n")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("compress", [False, True])
def test_damage_is_a_source_error_or_harmless(tmp_path: Path, name: str, compress: bool) -> None:
    path, refused = tmp_path / name, 0
    write_sequence(path, made(n=3), compress=compress)
    whole = path.read_bytes()
    header = whole.index(b"LOCAL\n" if name.endswith("mha") else b"\n\n")
    rng = np.random.default_rng(7)
    for turn in range(300):
        raw = bytearray(whole)
        for _ in range(int(rng.integers(1, 6))):
            at = int(rng.integers(0, header if turn % 3 else len(raw)))
            kind = rng.integers(0, 4)
            if kind == 0:
                raw[at % len(raw)] = rng.integers(0, 256)
            elif kind == 1:
                raw[at:at] = INSERTED[rng.integers(len(INSERTED))]
            elif kind == 2:
                del raw[at : at + int(rng.integers(1, 40))]
            else:
                to = int(rng.integers(0, len(raw)))
                raw[at : at + 20] = raw[to : to + 20]
        path.write_bytes(bytes(raw))
        try:
            sequence = read_sequence(path)
        except SourceError:
            refused += 1
        else:
            assert len(sequence) < 1000  # whatever it says now, it is a small recording
    assert refused > 100


@pytest.mark.parametrize("name", NAMES)
def test_a_declared_size_allocates_nothing(tmp_path: Path, name: str) -> None:
    import tracemalloc

    write_sequence(tmp_path / name, made(n=2))
    raw = (tmp_path / name).read_bytes()
    sizes = (b"DimSize = 7 6 2", b"sizes: 7 6 1 2")[name.endswith("nrrd")]
    for huge in (b" 999999999", b" 99999"):
        broken = raw.replace(sizes, sizes.replace(b" 7", huge).replace(b" 6", huge[:5]), 1)
        (tmp_path / f"huge-{name}").write_bytes(broken)
        tracemalloc.start()
        with pytest.raises(SourceFormatError, match=r"limit|cut short"):
            read_sequence(tmp_path / f"huge-{name}", max_bytes=2**40)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2_000_000


def test_many_declared_records_allocate_nothing(tmp_path: Path) -> None:
    head = (
        "ObjectType = Image\nNDims = 3\nDimSize = 0 0 {}\nSeq_Frame0000_AToBTransform = {}\nElementDataFile = LOCAL\n"
    )
    path = tmp_path / "m.igs.mha"
    path.write_text(head.format(999999999, "1 0 0 0 " * 4))
    with pytest.raises(SourceFormatError, match="most records lack"):
        read_sequence(path)
    path.write_text(head.format(1, "1 0 0 0 " * 3))
    with pytest.raises(SourceFormatError, match="16 numbers"):
        read_sequence(path)
    path.write_text(head.format(0, "1 0 0 0 " * 4))
    with pytest.raises(SourceFormatError, match="neither pixels nor transforms"):
        read_sequence(path)
    path.write_text(head.format(1, "1 0 0 0 " * 4).replace("Frame0000", "Frame0001"))
    with pytest.raises(SourceFormatError, match="record 1, but 1 records"):
        read_sequence(path)


CHANGES = {
    "ElementType = MET_UCHAR": ("ElementType = MET_SHORT", "MET_UCHAR is read"),
    "ElementDataFile = LOCAL": ("ElementDataFile = away.raw", "in one file"),
    "Kinds = domain domain list": ("Kinds = domain domain domain", "a sequence of flat"),
    "UltrasoundImageOrientation = UN": ("UltrasoundImageOrientation = AMF", "orientation 'AMF'"),
    "Seq_Frame0001_Timestamp = 0.000000005": ("Seq_Frame0001_Timestamp = nan", "seconds below"),
    "Seq_Frame0001_Timestamp": ("Seq_Frame0001_Otherstamp", "record 1 has no Timestamp"),
    "Seq_Frame0001_FrameNumber": ("Seq_FrameX_FrameNumber", "Seq_Frame<number>"),
    "CompressedData = False": ("CompressedData = Perhaps", "True or False"),
    "ObjectType = Image": ("ObjectType ! Image", "is not 'field = value'"),
}


@pytest.mark.parametrize("found", CHANGES)
def test_what_is_not_read_is_said(tmp_path: Path, found: str) -> None:
    write_sequence(tmp_path / "s.igs.mha", made(frame_fields={"FrameNumber": ("1",) * 5}), compress=False)
    raw = (tmp_path / "s.igs.mha").read_bytes()
    change, message = CHANGES[found]
    assert found.encode() in raw
    (tmp_path / "s.igs.mha").write_bytes(raw.replace(found.encode(), change.encode(), 1))
    with pytest.raises(SourceFormatError, match=message):
        read_sequence(tmp_path / "s.igs.mha")


def test_other_mistakes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="cannot read"):
        read_sequence(tmp_path / "absent.igs.mha")
    (tmp_path / "x").write_bytes(b"something else")
    with pytest.raises(SourceFormatError, match="neither a MetaImage nor"):
        read_sequence(tmp_path / "x")
    with pytest.raises(ConfigError, match="is written as"):
        write_sequence(tmp_path / "x.png", made())
    for change in (
        {"fields": {"a=b": "c"}},
        {"fields": {"a": " c"}},
        {"fields": {"a": "b\nc"}},
        {"fields": {"Seq_Frame0000_x": "b"}},
    ):
        with pytest.raises(ConfigError):
            write_sequence(tmp_path / "s.igs.mha", made(**change))
    for wrong in (
        {"times_ns": np.zeros(4, np.int64)},
        {"transforms": {"AToB": np.zeros((2, 4, 4))}, "statuses": {}},
        {"statuses": {"NoneToNone": ("OK",) * 5}},
        {"image_statuses": ("OK",)},
        {"frames": np.zeros((5, 0, 3), np.uint8)},
    ):
        with pytest.raises(EdgeError):
            made(**wrong)
