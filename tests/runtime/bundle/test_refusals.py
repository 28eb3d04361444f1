"""One crafted file for every refusal of `docs/bundle.md`: the error class, and what the message must say."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import edge_craft as craft
import pytest
from edge_craft import CONTENT, Part, edge, lying, parts, zipped

from edge_runtime.bundle import Limits, verify_bundle
from edge_runtime.errors import BundleError, BundleFormatError, BundleIntegrityError, BundleVersionError

GOOD = edge()
CARD = "card.md"
FORMAT, INTEGRITY = BundleFormatError, BundleIntegrityError
Table = dict[str, tuple[Callable[[], bytes], type[BundleError], str]]


def renamed(name: bytes) -> bytes:
    """`card.md` under another name, in the headers and in the manifest."""
    text = json.dumps(craft.manifest()).encode().replace(b"card.md", b"\\u0000".join(name.split(b"\0")))
    return zipped([Part(b"manifest.json", text), Part(name, CONTENT[CARD]), *parts()[2:]])


def reordered() -> bytes:
    first, card, *rest = parts()
    return zipped([first, *rest, card])


def text(old: str, new: str) -> bytes:
    """The good manifest with a piece of its JSON replaced."""
    source = json.dumps(craft.manifest())
    assert source.count(old) == 1, old
    return edge(document=source.replace(old, new).encode())


def changed(section: str, **fields: Any) -> bytes:
    """The good manifest with fields of the first entry of `section` (or the section itself) changed."""
    plain = craft.manifest()
    target = plain[section][0] if isinstance(plain[section], list) else plain[section]
    target |= fields
    return edge(document=plain)


def overlapping() -> bytes:
    """Two directory entries that share one local header: the core of a zip bomb."""
    whole = parts()
    offset = 30 + len(b"manifest.json") + len(whole[0].data)
    whole.insert(2, Part(b"card2.md", b"", central={"offset": offset}))
    return zipped(whole)


CONTAINER: Table = {
    "empty": (lambda: b"", FORMAT, "not a .edge file"),
    "not a zip": (lambda: b"safetensors" * 10, FORMAT, "no ZIP archive"),
    "zip with no member": (lambda: zipped([]), FORMAT, "does not begin with manifest.json"),
    "truncated in the end record": (lambda: GOOD[:-10], FORMAT, "truncated"),
    "truncated in the middle": (lambda: GOOD[: len(GOOD) // 2], FORMAT, "truncated"),
    "prefix, offsets shifted": (lambda: zipped(parts(), prefix=b"#!/bin/sh\n"), FORMAT, "10 hidden bytes"),
    "prefix, offsets not": (lambda: b"MZ" + GOOD, FORMAT, "bytes before the archive"),
    "suffix": (lambda: GOOD + b"tail", FORMAT, "4 bytes behind the end record"),
    "archive comment": (lambda: zipped(parts(), suffix=b"hi", comment=2), FORMAT, "behind the end record"),
    "two archives": (lambda: GOOD + GOOD, FORMAT, "bytes before the archive"),
    "gap between members": (lambda: lying(CARD, gap=b"secret"), FORMAT, "6 hidden bytes stand before member"),
    "hidden before directory": (lambda: zipped(parts(), hidden=b"xyz"), FORMAT, "3 hidden bytes stand before the"),
    "overlap": (overlapping, FORMAT, "overlaps"),
    "several disks": (lambda: zipped(parts(), disk=1), FORMAT, "several disks"),
    "entry count too low": (lambda: zipped(parts(), here=5, total=5), FORMAT, "between the directory and"),
    "entry count too high": (lambda: zipped(parts(), here=7, total=7), FORMAT, "shorter than its number"),
    "directory size lies": (lambda: zipped(parts(), size=3), FORMAT, "bytes before the archive"),
    "directory far too long": (lambda: zipped(parts(), hidden=bytes(9000), size=9300), FORMAT, "something else"),
    "zip64 count": (lambda: zipped(parts(), here=0xFFFF, total=0xFFFF), FORMAT, "ZIP64"),
    "zip64 offset": (lambda: zipped(parts(), offset=0xFFFFFFFF), FORMAT, "ZIP64"),
    "zip64 member": (lambda: lying(CARD, both={"packed": 0xFFFFFFFF}), FORMAT, "ZIP64"),
    "zip64 extra": (lambda: lying(CARD, both={"extra": b"\1\0\0\0"}), FORMAT, "extra field"),
    "member comment": (lambda: lying(CARD, central={"comment": b"hi"}), FORMAT, "comment"),
    "local extra only": (lambda: lying(CARD, local={"extra": b"\1\0\0\0"}), FORMAT, "disagrees"),
    "local name differs": (lambda: lying(CARD, local={"name": b"cord.md"}), FORMAT, "disagrees"),
    "local size differs": (lambda: lying(CARD, local={"size": 1}), FORMAT, "disagrees"),
    "local method differs": (lambda: lying(CARD, local={"method": 8}), FORMAT, "disagrees"),
    "two sizes": (lambda: lying(CARD, both={"packed": 3}), FORMAT, "two sizes"),
    "compressed": (lambda: lying(CARD, both={"method": 8}), FORMAT, "compressed (method 8)"),
    "encrypted": (lambda: lying(CARD, both={"flags": 1}), FORMAT, "encrypted"),
    "data descriptor": (lambda: lying(CARD, both={"flags": 8}), FORMAT, "flags 0x0008"),
    "symbolic link": (lambda: lying(CARD, central={"mode": 0o120777}), FORMAT, "symbolic link"),
    "device": (lambda: lying(CARD, central={"mode": 0o020666}), FORMAT, "special file"),
    "other date": (lambda: lying(CARD, both={"date": 99}), FORMAT, "not of v1"),
    "executable bit": (lambda: lying(CARD, central={"mode": 0o100755}), FORMAT, "not of v1"),
    "declared size past the end": (
        lambda: lying(CARD, both={"packed": 200 << 20, "size": 200 << 20}), FORMAT, "runs past",
    ),
    "declared size over the cap": (
        lambda: lying(CARD, both={"packed": 3 << 30, "size": 3 << 30}), FORMAT, "over the cap",
    ),
    "wrong crc": (lambda: lying(CARD, both={"crc": 1}), INTEGRITY, "CRC-32"),
    "duplicate": (lambda: zipped([*parts(), parts()[1]]), FORMAT, "twice"),
    "duplicate but for case": (
        lambda: zipped([*parts(), Part(b"CARD.md", b"")]), FORMAT, "twice, once as 'card.md'",
    ),
    "absolute name": (lambda: renamed(b"/etc/passwd"), FORMAT, "absolute"),
    "dot-dot name": (lambda: renamed(b"golden/../../x"), FORMAT, "'..'"),
    "backslash name": (lambda: renamed(b"golden\\x.npy"), FORMAT, "backslash"),
    "drive name": (lambda: renamed(b"C:card.md"), FORMAT, "drive"),
    "NUL name": (lambda: renamed(b"card.md\0.png"), FORMAT, "NUL"),
    "folder": (lambda: renamed(b"card/"), FORMAT, "not made of"),
    "hidden name": (lambda: renamed(b".card.md"), FORMAT, "not made of"),
    "name not ASCII": (lambda: renamed("cärd.md".encode()), FORMAT, "not ASCII"),
    "name too long": (lambda: renamed(b"a" * 121), FORMAT, "over the cap of 120"),
    "unnamed member": (lambda: zipped([*parts(), Part(b"extra.bin", b"")]), FORMAT, "not named in the manifest"),
    "named and absent": (lambda: zipped(parts()[:-1]), FORMAT, "not in the file"),
    "out of order": (reordered, FORMAT, "out of order"),
    "manifest not first": (lambda: zipped(parts()[::-1]), FORMAT, "does not begin with manifest.json"),
    "wrong size": (lambda: changed("members", size=8), INTEGRITY, "the manifest says 8"),
    "wrong hash": (lambda: changed("members", sha256="0" * 64), INTEGRITY, "sha256"),
}  # fmt: skip

VARIANT = craft.manifest()["variants"][0]
OUTPUT = craft.manifest()["outputs"][0]
MANIFEST: Table = {
    "later schema": (lambda: edge(schema_version=4), BundleVersionError, "schema version 4; this reader knows 1 to 3"),
    "later schema, new fields": (lambda: edge(schema_version=5, lora=[]), BundleVersionError, "schema version 5"),
    "schema is true": (lambda: edge(schema_version=True), FORMAT, "a whole number is needed"),
    "schema missing": (lambda: text('"schema_version": 1, ', ""), FORMAT, "schema_version None"),
    "not an object": (lambda: edge(document=b"[]"), FORMAT, "no JSON object"),
    "not JSON": (lambda: edge(document=b"{"), FORMAT, "not JSON"),
    "UTF-16": (lambda: edge(document="{}".encode("utf-16")), FORMAT, "not JSON in UTF-8"),
    "nested deep": (lambda: edge(document=b"[" * 200_000), FORMAT, "not JSON"),
    "endless digits": (lambda: text('"schema_version": 1', '"schema_version": ' + "9" * 5000), FORMAT, "not JSON"),
    "unknown field": (lambda: edge(plugin="x.so"), FORMAT, "unknown field `plugin`"),
    "wrong type": (lambda: changed("variants", macs="many"), FORMAT, "at `$.variants[0].macs`"),
    "duplicate key": (lambda: text('"name": "tiny"', '"name": "a", "name": "b"'), FORMAT, "'name' twice"),
    "NaN": (lambda: text('"parity_abs": 0.0001', '"parity_abs": NaN'), FORMAT, "finite"),
    "infinity": (lambda: text('"parity_abs": 0.0001', '"parity_abs": -Infinity'), FORMAT, "finite"),
    "overflow": (lambda: text('"parity_abs": 0.0001', '"parity_abs": 1e999'), FORMAT, "finite"),
    "control character": (lambda: edge(intended_use="\x1b[2J"), FORMAT, "control character"),
    "text turned round": (lambda: edge(name="a\u202eb"), FORMAT, "control character"),
    "no name": (lambda: edge(name=""), FORMAT, "not empty"),
    "date of another form": (lambda: edge(created="yesterday"), FORMAT, "like 2026-"),
    "model absent": (lambda: changed("variants", model="variants/b.onnx"), FORMAT, "not among the members"),
    "model elsewhere": (lambda: changed("variants", model="golden/0_in.npy"), FORMAT, "its form is"),
    "golden absent": (lambda: changed("golden", input="golden/9.npy"), FORMAT, "golden[0].input is"),
    "golden output absent": (
        lambda: changed("golden", outputs={"y": "golden/9.npy"}), FORMAT, "golden[0].outputs.y is",
    ),
    "golden of other outputs": (
        lambda: changed("golden", outputs={"z": "golden/0_out.npy"}), FORMAT, "['y'] are needed",
    ),
    "evidence absent": (lambda: changed("evidence", path="evidence/x.json"), FORMAT, "evidence[0].path is"),
    "card absent": (lambda: edge({k: v for k, v in CONTENT.items() if k != CARD}), FORMAT, "card is 'card.md'"),
    "card elsewhere": (lambda: edge(card="evidence/dice.json"), FORMAT, "its form is"),
    "member without a role": (lambda: edge(evidence=[]), FORMAT, "used by no part"),
    "members not sorted": (lambda: edge(members=craft.manifest()["members"][::-1]), FORMAT, "not sorted"),
    "member twice": (
        lambda: edge(members=[craft.manifest()["members"][0], *craft.manifest()["members"]]), FORMAT, "twice",
    ),
    "manifest names itself": (lambda: changed("members", path="manifest.json"), FORMAT, "twice"),
    "member escapes": (lambda: changed("members", path="../x"), FORMAT, "'..'"),
    "negative size": (lambda: changed("members", size=-1), FORMAT, "size -1"),
    "hash in capitals": (lambda: changed("members", sha256="A" * 64), FORMAT, "lower-case hex"),
    "no variants": (lambda: edge(variants=[]), FORMAT, "variants are empty"),
    "variant id twice": (lambda: edge(variants=[VARIANT, VARIANT]), FORMAT, "occurs twice: ['a']"),
    "variant id odd": (lambda: changed("variants", id="../a"), FORMAT, "an id has"),
    "ladder unknown variant": (lambda: edge(ladders={"ort-cpu": ["b"]}), FORMAT, "unknown variants ['b']"),
    "ladder empty": (lambda: edge(ladders={"ort-cpu": []}), FORMAT, "is empty"),
    "ladder repeats": (lambda: edge(ladders={"ort-cpu": ["a", "a"]}), FORMAT, "occurs twice"),
    "ladder unknown target": (lambda: edge(ladders={"tpu": ["a"]}), FORMAT, "tpu"),
    "unknown step": (lambda: edge(preprocess={"steps": [{"step": "exec"}]}), FORMAT, "exec"),
    "negative dim": (lambda: changed("input", shape=[1, 1, -4, 4]), FORMAT, "input.shape"),
    "input over the cap": (lambda: changed("input", shape=[1, 1, 1 << 20, 1 << 20]), FORMAT, "input.shape"),
    "no outputs": (lambda: edge(outputs=[]), FORMAT, "outputs are empty"),
    "output twice": (lambda: edge(outputs=[OUTPUT, OUTPUT]), FORMAT, "outputs name occurs twice"),
    "classes per channel": (lambda: changed("outputs", classes=["a", "b"]), FORMAT, "2 classes for 1"),
    "mask of rank 2": (lambda: changed("outputs", shape=[1, 2]), FORMAT, "N, C, H, W"),
    "threshold": (lambda: changed("outputs", threshold=1.5), FORMAT, "threshold 1.5"),
    "temperature": (lambda: changed("outputs", temperature=0.0), FORMAT, "temperature 0"),
    "agreement": (lambda: changed("variants", min_agreement=2.0), FORMAT, "min_agreement 2.0"),
    "parity": (lambda: changed("variants", parity_abs=-1.0), FORMAT, "parity_abs -1.0"),
    "opset differs from the model": (lambda: changed("variants", opset=18), FORMAT, "the manifest says 18"),
    "input name differs": (lambda: changed("input", name="z"), FORMAT, "the model has inputs ['x']"),
    "input shape differs": (lambda: changed("input", shape=[1, 1, 8, 8]), FORMAT, "input 'x' of the model"),
}  # fmt: skip

NPY = "golden/0_in.npy"
HEADER = "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 1, 4, 4), }"


def with_array(header: str, data: bytes = bytes(64), version: bytes = b"\x01\x00") -> bytes:
    return edge(CONTENT | {NPY: craft.npy(header, data, version)})


CONTENTS: Table = {
    "npy magic": (lambda: edge(CONTENT | {NPY: b"NUMPY" * 9}), FORMAT, "not a .npy"),
    "npy version": (lambda: with_array(HEADER, version=b"\x04\x00"), FORMAT, "not a .npy"),
    "npy pickle": (lambda: with_array(HEADER.replace("<f4", "|O")), FORMAT, "'|O'"),
    "npy float64": (lambda: with_array(HEADER.replace("<f4", "<f8")), FORMAT, "'<f8'"),
    "npy big-endian": (lambda: with_array(HEADER.replace("<f4", ">f4")), FORMAT, "'>f4'"),
    "npy Fortran": (lambda: with_array(HEADER.replace("False", "True")), FORMAT, "Fortran order True"),
    "npy structured": (lambda: with_array(HEADER.replace("'<f4'", "[('a', '<f4')]")), FORMAT, "plain form"),
    "npy code": (lambda: with_array(HEADER.replace("False", "exit()")), FORMAT, "plain form"),
    "npy huge": (
        lambda: with_array(HEADER.replace("(1, 1, 4, 4)", "(99999999, 99999999, 99999999)")), FORMAT, "needs",
    ),
    "npy short": (lambda: with_array(HEADER, bytes(63)), FORMAT, "needs 64 bytes of values, 63"),
    "npy long": (lambda: with_array(HEADER, bytes(65)), FORMAT, "needs 64 bytes of values, 65"),
    "npy header cut": (lambda: edge(CONTENT | {NPY: b"\x93NUMPY\x01\x00\xff\x00{"}), FORMAT, "header says 255"),
    "npy NaN": (lambda: with_array(HEADER, b"\0\0\xc0\x7f" * 16), FORMAT, "NaN"),
    "npy other shape": (
        lambda: with_array(HEADER.replace("(1, 1, 4, 4)", "(16,)")), FORMAT, "shape (16,), the manifest says",
    ),
    "card not UTF-8": (lambda: edge(CONTENT | {CARD: b"\xff"}), FORMAT, "not UTF-8"),
    "evidence not JSON": (lambda: edge(CONTENT | {"evidence/dice.json": b"{"}), FORMAT, "not JSON"),
}  # fmt: skip

TABLE = CONTAINER | MANIFEST | CONTENTS


def test_the_file_the_table_varies_is_good(tmp_path: Path) -> None:
    path = tmp_path / "good.edge"
    path.write_bytes(GOOD)
    report = verify_bundle(path)
    assert list(report.models) == ["a"]
    assert report.signature is None


@pytest.mark.parametrize("name", TABLE)
def test_refused(name: str, tmp_path: Path) -> None:
    build, error, fragment = TABLE[name]
    path = tmp_path / "bad.edge"
    path.write_bytes(build())
    with pytest.raises(BundleError) as caught:
        verify_bundle(path)
    assert type(caught.value) is error, caught.value
    assert fragment in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("limits", "fragment"),
    [
        (Limits(file_bytes=100), "Limits.file_bytes"),
        (Limits(members=3), "Limits.members"),
        (Limits(member_bytes=20), "over the cap of 20"),
        (Limits(manifest_bytes=50), "over the cap of 50"),
        (Limits(name_bytes=14), "over the cap of 14"),
        (Limits(array_bytes=80), "Limits.array_bytes"),
    ],
)
def test_over_a_cap(limits: Limits, fragment: str, tmp_path: Path) -> None:
    path = tmp_path / "big.edge"
    path.write_bytes(GOOD)
    with pytest.raises(BundleFormatError, match=fragment):
        verify_bundle(path, limits=limits)
