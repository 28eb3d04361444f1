"""A user's mistake is one line on stderr and the documented exit code; nothing is written, no traceback is shown."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("cv2")
pytest.importorskip("onnxruntime")
pytest.importorskip("cryptography")

Make = Callable[[Path], Path]


def refused(found, code: int, *words: str) -> None:
    """One line `error: ...` after the settings, nothing on stdout, no traceback."""
    assert found.exit_code == code, found.stderr
    assert found.stdout == ""
    assert "Traceback" not in found.stderr
    lines = [line for line in found.stderr.splitlines() if not line.startswith("settings: ")]
    assert lines[0].startswith("error: "), found.stderr
    for word in words:
        assert word in found.stderr


def text_file(folder: Path) -> Path:
    (folder / "text.edge").write_text("not a bundle\n")
    return folder / "text.edge"


def empty_file(folder: Path) -> Path:
    (folder / "empty.edge").write_bytes(b"")
    return folder / "empty.edge"


def truncated(folder: Path) -> Path:
    data = (folder / "v1.edge").read_bytes()
    (folder / "cut.edge").write_bytes(data[: len(data) // 2])
    return folder / "cut.edge"


def flipped(folder: Path) -> Path:
    data = bytearray((folder / "v1.edge").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "flip.edge").write_bytes(data)
    return folder / "flip.edge"


BAD_BUNDLES: dict[str, Make] = {
    "missing": lambda folder: folder / "none.edge",
    "directory": lambda folder: folder,
    "text": text_file,
    "empty": empty_file,
    "truncated": truncated,
    "flipped bit": flipped,
}


@pytest.mark.parametrize(
    ("kind", "command"),
    [
        (kind, command)
        for kind in BAD_BUNDLES
        for command in ("inspect", "verify", "run")
        if (kind, command) != ("flipped bit", "inspect")  # the bit lies in a member, which inspect does not read
    ],
)
def test_bad_bundle_is_exit_3(call, edge, frames, tmp_path, kind, command):
    bad = BAD_BUNDLES[kind](tmp_path)
    source = (frames, "--lossless", "--record", tmp_path / "record") if command == "run" else ()
    refused(call(command, bad, *source), 3, bad.name)
    assert not (tmp_path / "record").exists()


def test_wrong_key(call, edge, frames, tmp_path):
    from edge_runtime.bundle import generate_key

    generate_key(tmp_path / "p.pem", tmp_path / "other.pem")
    refused(call("verify", edge, "--trust", tmp_path / "other.pem"), 3, "not trusted")
    refused(call("run", edge, frames, "--lossless", "--trust", tmp_path / "other.pem"), 3, "not trusted")
    refused(call("verify", edge, "--trust", tmp_path / "p.pem"), 2, "private key")
    refused(call("verify", edge, "--trust", tmp_path / "none.pem"), 2, "none.pem")
    refused(call("verify", edge, "--trust", frames), 2, "frames.npy")


def test_unsigned_where_a_signature_is_required(call, edge, key, frames, tmp_path):
    from msgspec.structs import replace

    from edge_runtime.bundle import Bundle, write_bundle

    with Bundle.open(edge) as bundle:
        members = {member.path: bundle.read(member.path) for member in bundle.manifest.members}
        write_bundle(tmp_path / "plain.edge", replace(bundle.manifest, members=()), members)
    trusted = ("--trust", key)
    refused(call("verify", tmp_path / "plain.edge", *trusted), 3, "not signed")
    refused(
        call("run", tmp_path / "plain.edge", frames, "--lossless", *trusted, "--require-signature"), 3, "not signed"
    )
    found = call("verify", tmp_path / "plain.edge")
    assert (found.exit_code, "not signed" in found.stdout) == (0, True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--budget-ms", "0"), ("budget_ms is 0.0",)),
        (("--budget-ms", "-3"), ("budget_ms is -3.0",)),
        (("--budget-ms", "nan"), ("budget_ms is nan",)),
        (("--budget-ms", "inf"), ("budget_ms is inf",)),
        (("--fps", "0"), ("fps is 0.0",)),
        (("--loop-s", "-1"), ("loop_s is -1.0",)),
        (("--threads", "0"), ("threads is 0",)),
        (("--lossless", "--fps", "30"), ("lossless run takes every frame once",)),
        (("--require-signature",), ("public key in trust",)),
        (("--lossless", "--variant", "int2"), ("int2", "fp32")),
        (("--max-miss-pct", "101"), ("max-miss-pct is 101",)),
        (("--max-miss-pct", "nan"), ("max-miss-pct is nan",)),
    ],
)
def test_bad_option(call, edge, frames, tmp_path, arguments, words):
    refused(call("run", edge, frames, *arguments, "--record", tmp_path / "record"), 2, *words)
    assert not (tmp_path / "record").exists()


@pytest.mark.parametrize("arguments", [("run",), ("run", "a.edge"), ("nonsense",), ("inspect", "a", "--nonsense")])
def test_usage(call, arguments):
    found = call(*arguments)
    assert (found.exit_code, found.stdout) == (2, "")
    assert "Usage:" in found.stderr


def test_a_word_where_a_number_belongs(call, edge, frames):
    found = call("run", edge, frames, "--budget-ms", "fast")
    assert (found.exit_code, found.stdout) == (2, "")
    assert "--budget-ms" in found.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("budget: 20\n", ("unknown key 'budget'", "did you mean 'budget_ms'?", "known keys: target, variant")),
        ("zzzz: 20\n", ("unknown key 'zzzz'", "known keys: target, variant", "require_signature")),
        ("- a\n- b\n", ("holds a list", "mapping")),
        ("just text\n", ("holds a str", "mapping")),
        ("a: [1\n", ("not valid YAML",)),
        ("budget_ms: fast\n", ("budget_ms", "Expected `float`")),
        ("pace: fastest\n", ("pace", "fastest")),
        ("threads: 1.5\n", ("threads", "Expected `int`")),
        ("budget_ms: -1\n", ("budget_ms is -1",)),
        ("!!python/object/apply:os.getcwd []\n", ("not valid YAML",)),
    ],
)
def test_bad_settings_file(call, edge, frames, tmp_path, text, words):
    config = tmp_path / "run.yaml"
    config.write_text(text)
    refused(call("run", edge, frames, "--config", config), 2, "run.yaml", *words)


@pytest.mark.parametrize("make", [lambda p: p / "none.yaml", lambda p: p])
def test_settings_file_that_is_not_there(call, edge, frames, tmp_path, make):
    refused(call("run", edge, frames, "--config", make(tmp_path)), 2, "cannot be read")


def test_settings_file_that_is_not_text(call, edge, frames):
    refused(call("run", edge, frames, "--config", frames), 2, "frames.npy cannot be read")


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda p: p / "none.dcm", "none.dcm"),
        (text_file, "not a kind of file that is read"),
        (empty_file, "empty"),
        (lambda p: p / "v1.edge", "not a kind of file"),
        (lambda p: (p / "void").mkdir() or p / "void", "no image"),
    ],
)
def test_source_that_is_none(call, edge, tmp_path, make, word):
    refused(call("run", edge, make(tmp_path), "--lossless", "--record", tmp_path / "record"), 4, word)
    assert not (tmp_path / "record").exists()


def test_source_without_a_rate_asks_for_fps(call, edge, frames, tmp_path):
    refused(call("run", edge, frames, "--record", tmp_path / "record"), 4, "give fps")
    assert not (tmp_path / "record").exists()


def test_numbers_that_are_no_frames(call, edge, tmp_path):
    np.save(tmp_path / "f.npy", np.zeros((2, 8, 8)))
    found = call("run", edge, tmp_path / "f.npy", "--lossless")
    assert found.exit_code in (2, 4)
    assert "Traceback" not in found.stderr
    assert "float64" in found.stderr


def test_dicom_that_is_not_ultrasound(call, edge):
    pytest.importorskip("pydicom")
    from pydicom.data import get_testdata_file

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = get_testdata_file("rtplan.dcm", download=False)
    refused(call("run", edge, path, "--lossless"), 4, "rtplan.dcm")


def test_corrupt_dicom(call, edge, tmp_path):
    pytest.importorskip("pydicom")
    from pydicom import examples

    data = examples.get_path("ybr_color").read_bytes()
    (tmp_path / "cut.dcm").write_bytes(data[: len(data) // 3])
    (tmp_path / "head.dcm").write_bytes(data[:400])
    for name, word in (("cut.dcm", "cut short"), ("head.dcm", "holds no image")):
        refused(call("run", edge, tmp_path / name, "--lossless", "--record", tmp_path / "record"), 4, name, word)
    assert not (tmp_path / "record").exists()


@pytest.mark.parametrize("below", ["frames.npy/record", "frames.npy"])
def test_record_where_no_folder_can_be(call, edge, frames, tmp_path, below):
    refused(call("run", edge, frames, "--lossless", "--record", tmp_path / below), 2, "cannot be made a folder")
    assert sorted(item.name for item in tmp_path.iterdir()) == ["frames.npy", "v1.edge"]


def test_a_recording_that_is_not_whole_is_exit_4_with_the_report(call, edge, frames, tmp_path):
    (tmp_path / "record" / "results.jsonl").mkdir(parents=True)
    found = call("run", edge, frames, "--lossless", "--record", tmp_path / "record")
    assert found.exit_code == 4, found.stderr
    assert "8 arrived" in found.stdout
    assert "error: record was not written whole: IsADirectoryError" in found.stderr
    assert "Traceback" not in found.stderr


def test_a_stream_of_failed_frames_is_exit_4(call, edge, frames, monkeypatch):
    from edge_runtime.errors import InferenceError
    from edge_runtime.runners import OrtRunner

    calls, allowed = [], 10**6
    real = OrtRunner._infer

    def counted(self, inputs):
        calls.append(1)
        if len(calls) > allowed:
            raise InferenceError("the backend is gone")
        return real(self, inputs)

    monkeypatch.setattr(OrtRunner, "_infer", counted)
    line = ("run", edge, frames, "--lossless", "--no-verify", "--variant", "fp32")
    assert call(*line).exit_code == 0
    allowed = len(calls) - 8  # the warm-up's
    calls.clear()
    found = call(*line)
    assert allowed > 0
    assert found.exit_code == 4, found.stdout
    assert "all 8 frames failed" in found.stderr
    assert "8 failed" in found.stdout


def test_a_bundle_from_another_name_is_still_one(call, edge, tmp_path):
    shutil.copy(edge, tmp_path / "name without suffix")
    assert call("inspect", tmp_path / "name without suffix").exit_code == 0
