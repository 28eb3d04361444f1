"""Reading and writing good bundles; writing whole or not at all; what happens on a failing disk."""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from pathlib import Path
from typing import Any

import edge_craft as craft
import msgspec
import numpy as np
import pytest
from edge_craft import CONTENT
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edge_runtime.bundle import Bundle, Limits, Manifest, npy_bytes, verify_bundle, write_bundle
from edge_runtime.bundle._npy import parse_npy
from edge_runtime.errors import BundleError, BundleFormatError, BundleIntegrityError, ConfigError, ModelRefusedError

MANIFEST = msgspec.convert(craft.manifest() | {"members": []}, Manifest)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "good.edge"
    write_bundle(path, MANIFEST, CONTENT)
    return path


def test_what_is_written_is_read(path: Path) -> None:
    with Bundle.open(path) as bundle:
        assert {member.path: bundle.read(member.path) for member in bundle.manifest.members} == CONTENT
        assert msgspec.structs.replace(bundle.manifest, members=()) == MANIFEST
        assert bundle.sha256 == hashlib.sha256(bundle.manifest_bytes).hexdigest()
        assert bundle.signature is None
        assert bundle.model("a") == CONTENT["variants/a.onnx"]
        assert bundle.model_facts("a").operators == {"Relu": 1}
        assert bundle.ladder("ort-cpu") == (bundle.variant("a"),)
        assert bundle.card() == "# Card\n"
        assert bundle.evidence() == [("Dice", {"dice": 0.9})]
        ((array, outputs),) = bundle.golden()
        assert array.shape == outputs["y"].shape == craft.SHAPE
        assert not array.flags.writeable


def test_same_content_same_bytes(path: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.edge"
    report = write_bundle(again, MANIFEST, dict(reversed(CONTENT.items())))
    assert again.read_bytes() == path.read_bytes()
    assert report.size == again.stat().st_size


def test_the_standard_library_writes_the_same_archive(path: Path) -> None:
    """The one encoding is what `zipfile` writes for a fixed date and mode; so every ZIP tool can look inside."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        assert archive.testzip() is None
        copy = io.BytesIO()
        with zipfile.ZipFile(copy, "w", zipfile.ZIP_STORED) as other:
            for name in names:
                info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
                info.create_system, info.external_attr = 3, 0o100644 << 16
                other.writestr(info, archive.read(name))
    assert names == ["manifest.json", *sorted(CONTENT)]
    assert copy.getvalue() == path.read_bytes()


def test_asking_for_what_is_not_there(path: Path) -> None:
    with Bundle.open(path) as bundle:
        for ask in (lambda: bundle.read("x"), lambda: bundle.variant("b"), lambda: bundle.ladder("tensorrt")):
            with pytest.raises(ConfigError, match=r"good\.edge: no "):
                ask()
    with pytest.raises(BundleError, match="closed"):
        bundle.read("card.md")


def test_paths_that_are_no_regular_file(path: Path, tmp_path: Path) -> None:
    link, pipe = tmp_path / "link.edge", tmp_path / "pipe.edge"
    link.symlink_to(path)
    os.mkfifo(pipe)
    for bad, fragment in [(link, "symbolic link"), (pipe, "regular file"), (tmp_path, "regular file")]:
        with pytest.raises(BundleFormatError, match=fragment):
            Bundle.open(bad)
    for bad, fragment in [(tmp_path / "absent", "No such file"), (Path("a\0b"), "cannot be opened")]:
        with pytest.raises(BundleFormatError, match=fragment):
            Bundle.open(bad)


def test_check_and_use_see_the_same_bytes(path: Path) -> None:
    """The path is replaced after opening; the open bundle still reads the file that it checked."""
    with Bundle.open(path) as bundle:
        path.with_suffix(".new").write_bytes(b"other")
        os.replace(path.with_suffix(".new"), path)
        assert bundle.read("card.md") == CONTENT["card.md"]


def test_changed_in_place_while_open(path: Path) -> None:
    with Bundle.open(path) as bundle:
        data = path.read_bytes()
        with path.open("r+b") as stream:
            stream.seek(data.index(b"# Card"))
            stream.write(b"# Evil")
        with pytest.raises(BundleIntegrityError, match=r"card\.md"):
            bundle.read("card.md")
        with path.open("r+b") as stream:
            stream.seek(data.index(CONTENT["variants/a.onnx"]))
            stream.write(b"\xff")
        for inspected in (False, True):
            with pytest.raises(BundleIntegrityError, match=r"variants/a\.onnx"):
                bundle.model("a", inspected=inspected)
        os.truncate(path, 100)
        with pytest.raises(BundleFormatError, match="became shorter"):
            bundle.read("variants/a.onnx")


def test_no_descriptor_is_left_open(path: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.edge"
    bad.write_bytes(craft.edge(schema_version=4))
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
    if before is None:
        pytest.skip("no /proc on this system")
    for _ in range(5):
        with pytest.raises(BundleError):
            Bundle.open(bad)
        verify_bundle(path)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("members", "error", "fragment"),
    [
        ({"variants/a.onnx": craft.endless_loop()}, ModelRefusedError, "control flow"),
        ({"golden/0_in.npy": b"x"}, BundleFormatError, "not a .npy"),
        ({"extra.bin": b""}, BundleFormatError, "used by no part"),
        ({"../x": b""}, BundleFormatError, "'..'"),
        ({"manifest.json": b""}, BundleFormatError, "twice"),
    ],
)
def test_what_the_reader_refuses_is_not_written(
    members: dict[str, bytes], error: type[BundleError], fragment: str, tmp_path: Path
) -> None:
    path = tmp_path / "new.edge"
    with pytest.raises(error) as caught:
        write_bundle(path, MANIFEST, CONTENT | members)
    assert fragment in str(caught.value)
    assert ".tmp" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_manifests_that_cannot_be_written(tmp_path: Path) -> None:
    path = tmp_path / "new.edge"
    variant = msgspec.structs.replace(MANIFEST.variants[0], scores={"dice": float("nan")})
    with pytest.raises(BundleFormatError, match=r"variants\[0\]\.scores\.dice is nan"):
        write_bundle(path, msgspec.structs.replace(MANIFEST, variants=(variant,)), CONTENT)
    with pytest.raises(BundleFormatError, match="leave it empty"):
        write_bundle(path, msgspec.convert(craft.manifest(), Manifest), CONTENT)
    with pytest.raises(BundleFormatError, match=r"Limits\.file_bytes"):
        write_bundle(path, MANIFEST, CONTENT, limits=Limits(file_bytes=10))
    with pytest.raises(BundleError, match="cannot be written"):
        write_bundle(tmp_path / "absent" / "new.edge", MANIFEST, CONTENT)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("failing", ["fsync", "replace"])
@pytest.mark.parametrize("old", [None, b"the old file"])
def test_a_failing_disk_leaves_the_old_file(
    failing: str, old: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "new.edge"
    if old is not None:
        path.write_bytes(old)

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(BundleError, match=r"new\.edge: cannot be written: No space left"):
        write_bundle(path, MANIFEST, CONTENT)
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == ([] if old is None else [("new.edge", old)])


def test_file_and_folder_are_synced_around_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    fsync, rename = os.fsync, os.replace
    monkeypatch.setattr(
        os, "fsync", lambda fd: (calls.append("dir" if os.path.isdir(f"/dev/fd/{fd}") else "file"), fsync(fd))
    )
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("replace"), rename(a, b)))
    write_bundle(tmp_path / "new.edge", MANIFEST, CONTENT)
    assert calls == ["file", "replace", "dir"]


@given(array=arrays.arrays(np.float32, arrays.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4),
                           elements=st.floats(width=32, allow_nan=False, allow_infinity=False)))  # fmt: skip
def test_npy_round_trip_and_numpy_as_peer(array: Any) -> None:
    data = npy_bytes(array)
    theirs = io.BytesIO()
    np.lib.format.write_array(theirs, array, version=(1, 0))
    assert np.array_equal(np.load(io.BytesIO(data), allow_pickle=False), array)
    for source in (data, theirs.getvalue()):
        read = parse_npy(source)
        assert read.shape == array.shape
        assert np.array_equal(read, array)


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_npy_versions(version: tuple[int, int]) -> None:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.arange(6, dtype="<f4").reshape(2, 3), version=version)
    assert parse_npy(stream.getvalue()).tolist() == [[0, 1, 2], [3, 4, 5]]
