"""From the bytes of `manifest.json` to a `Manifest` whose every reference and number has been checked."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import msgspec

from edge_runtime.bundle._manifest_outputs import check_of_version, check_outputs, without_newer_fields
from edge_runtime.bundle._names import check_distinct, check_name
from edge_runtime.bundle.limits import Limits
from edge_runtime.bundle.manifest import SCHEMA_VERSION, Manifest, Variant
from edge_runtime.errors import BundleFormatError, BundleVersionError

__all__ = ["MANIFEST", "SIGNATURE", "decode_manifest", "encode_manifest", "roles"]

MANIFEST, SIGNATURE = "manifest.json", "signature.json"
SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
VARIANT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
CREATED = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", re.ASCII)
# characters that reorder or hide text on a terminal, beside the control characters
BIDIRECTIONAL = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def decode_manifest(data: bytes, limits: Limits) -> Manifest:
    """The checked manifest.

    Raises `BundleVersionError` for another schema version, else `BundleFormatError` with the path of the first fault.
    """
    if len(data) > limits.manifest_bytes:
        raise BundleFormatError(f"manifest.json has {len(data)} bytes, over the cap of {limits.manifest_bytes}")
    raw = _parse(data)
    if not isinstance(raw, dict):
        raise BundleFormatError("manifest.json is no JSON object")
    version = raw.get("schema_version")
    if type(version) is not int:
        raise BundleFormatError(f"manifest.json has schema_version {version!r}; a whole number is needed")
    if not 1 <= version <= SCHEMA_VERSION:
        raise BundleVersionError(
            f"has schema version {version}; this reader knows 1 to {SCHEMA_VERSION}. Update pocus-edge-runtime"
        )
    _check_texts(raw)
    check_of_version(raw, version)
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise BundleFormatError(f"manifest.json is not valid: {error}") from error
    _check(manifest, limits)
    return manifest


def encode_manifest(manifest: Manifest) -> bytes:
    """The manifest's JSON, indented, fields in declared order; without those of later versions than its own.

    Raises `BundleFormatError` for a number that is not finite, and where its version cannot say what is in it.
    """
    plain = msgspec.to_builtins(manifest)
    without_newer_fields(plain, manifest)
    for path, value in _leaves(plain):
        if isinstance(value, float) and not math.isfinite(value):
            raise BundleFormatError(f"manifest.json: {path} is {value}; numbers are finite")
    return msgspec.json.format(msgspec.json.encode(plain), indent=2) + b"\n"


def roles(manifest: Manifest) -> Iterator[tuple[str, str, re.Pattern[str]]]:
    """Every reference to a member: where it stands in the manifest, the path, and the form the path must have."""
    for i, variant in enumerate(manifest.variants):
        yield f"variants[{i}].model", variant.model, re.compile(r"variants/[^/]+\.onnx")
    for i, sample in enumerate(manifest.golden):
        for where, path in [("input", sample.input), *((f"outputs.{k}", v) for k, v in sample.outputs.items())]:
            yield f"golden[{i}].{where}", path, re.compile(r"golden/[^/]+\.npy")
    for i, evidence in enumerate(manifest.evidence):
        yield f"evidence[{i}].path", evidence.path, re.compile(r"evidence/[^/]+\.json")
    yield "card", manifest.card, re.compile(r"card\.md")


def _parse(data: bytes) -> Any:
    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(items)
        if len(result) != len(items):
            keys = [key for key, _ in items]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise BundleFormatError(f"manifest.json has the key {twice!r} twice in one object")
        return result

    def number(text: str) -> float:
        value = float(text)
        if not math.isfinite(value):
            raise BundleFormatError(f"manifest.json holds the number {text[:40]}; numbers are finite")
        return value

    try:
        return json.loads(
            data.decode("utf-8"),
            object_pairs_hook=pairs,
            parse_float=number,
            parse_constant=cast(Callable[[str], Any], number),
        )
    except (ValueError, RecursionError) as error:
        raise BundleFormatError(f"manifest.json is not JSON in UTF-8: {error}") from error


def _leaves(value: Any) -> Iterator[tuple[str, Any]]:
    """All keys and values with their path, without recursion."""
    stack = [("$", value)]
    while stack:
        path, item = stack.pop()
        if isinstance(item, dict):
            for key, inner in item.items():
                yield path, key
                stack.append((f"{path}.{key}", inner))
        elif isinstance(item, list | tuple):
            stack += [(f"{path}[{index}]", inner) for index, inner in enumerate(item)]
        else:
            yield path, item


def _check_texts(raw: dict[str, Any]) -> None:
    """Refuse characters by which a manifest could draw on the terminal of who inspects it."""
    for path, value in _leaves(raw):
        for character in value if isinstance(value, str) else "":
            if (unicodedata.category(character) == "Cc" and character not in "\n\t") or character in BIDIRECTIONAL:
                raise BundleFormatError(f"manifest.json: {path!r} holds the control character {character!r}")


def _check(manifest: Manifest, limits: Limits) -> None:
    _need(bool(manifest.name and manifest.version), "name and version are not empty")
    _need(bool(CREATED.fullmatch(manifest.created)), f"created is {manifest.created!r}; like 2026-01-31T12:00:00Z")
    _check_shape("input.shape", manifest.input.shape, limits)
    _need(bool(manifest.outputs), "outputs are empty; a model has at least one")
    _check_unique("outputs name", [output.name for output in manifest.outputs])
    for output in manifest.outputs:
        _check_shape(f"output {output.name!r}: shape", output.shape, limits)
        _check_unique(f"output {output.name!r}: classes", output.classes)
    check_outputs(manifest.outputs)
    _need(bool(manifest.variants), "variants are empty; a bundle has at least one")
    _check_unique("variants id", [variant.id for variant in manifest.variants])
    for variant in manifest.variants:
        _check_variant(variant)
    _check_ladders(manifest)
    names = {output.name for output in manifest.outputs}
    for i, sample in enumerate(manifest.golden):
        _need(
            set(sample.outputs) == names,
            f"golden[{i}] has outputs {sorted(sample.outputs)}; {sorted(names)} are needed",
        )
    _check_members(manifest, limits)


def _check_members(manifest: Manifest, limits: Limits) -> None:
    paths = [member.path for member in manifest.members]
    _need(len(paths) + 2 <= limits.members, f"{len(paths)} members, over the cap of {limits.members}")
    for member in manifest.members:
        check_name(member.path, limits.name_bytes)
        _need(0 <= member.size <= limits.member_bytes, f"member {member.path!r} has size {member.size}")
        _need(bool(SHA256.fullmatch(member.sha256)), f"member {member.path!r} has no lower-case hex sha256")
    check_distinct([MANIFEST, SIGNATURE, *paths], "manifest")
    _need(paths == sorted(paths), "members are not sorted by path")
    used = set()
    for where, path, form in roles(manifest):
        _need(bool(form.fullmatch(path)), f"{where} is {path!r}; its form is {form.pattern}")
        _need(path in paths, f"{where} is {path!r}, which is not among the members")
        used.add(path)
    _need(used == set(paths), f"members {sorted(set(paths) - used)} are used by no part of the manifest")


def _check_shape(where: str, shape: Sequence[int], limits: Limits) -> None:
    fits = 1 <= len(shape) <= limits.rank and min(shape) >= 1 and math.prod(shape) <= limits.elements
    _need(
        fits, f"{where} is {list(shape)}; 1 to {limits.rank} axes, each at least 1, at most {limits.elements} elements"
    )


def _check_variant(variant: Variant) -> None:
    where = f"variant {variant.id!r}"
    _need(bool(VARIANT_ID.fullmatch(variant.id)), f"{where}: an id has 1 to 64 of A-Z a-z 0-9 . _ -")
    _need(variant.opset >= 1 and variant.macs >= 0, f"{where} has opset {variant.opset}, macs {variant.macs}")
    _need(variant.parity_abs >= 0, f"{where} has parity_abs {variant.parity_abs}; 0 or more")
    _need(0 <= variant.min_agreement <= 1, f"{where} has min_agreement {variant.min_agreement}; 0 to 1")


def _check_ladders(manifest: Manifest) -> None:
    known = {variant.id for variant in manifest.variants}
    for target, ladder in manifest.ladders.items():
        _need(bool(ladder), f"the ladder of {target} is empty; leave the target out")
        _check_unique(f"ladder of {target}", ladder)
        unknown = [rung for rung in ladder if rung not in known]
        _need(not unknown, f"the ladder of {target} names unknown variants {unknown}; known: {sorted(known)}")


def _check_unique(what: str, values: Sequence[str]) -> None:
    twice = sorted({value for value in values if values.count(value) > 1})
    _need(not twice, f"{what} occurs twice: {twice}")


def _need(holds: bool, otherwise: str) -> None:
    if not holds:
        raise BundleFormatError(f"manifest.json: {otherwise}")
