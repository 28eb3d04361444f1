"""Making a `.edge` file: same content, same bytes; whole or not at all; nothing that the reader would refuse."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import msgspec

from edge_runtime.bundle._file import replace_file
from edge_runtime.bundle._manifest_check import MANIFEST, SIGNATURE, encode_manifest
from edge_runtime.bundle._names import check_name
from edge_runtime.bundle._signature import make_signature
from edge_runtime.bundle._zip import write_archive
from edge_runtime.bundle.limits import DEFAULT_LIMITS, Limits
from edge_runtime.bundle.manifest import Manifest, Member
from edge_runtime.bundle.reader import Bundle, BundleReport, Key, verify_bundle
from edge_runtime.errors import BundleError, BundleFormatError

__all__ = ["sign_bundle", "write_bundle"]


def write_bundle(
    path: Path | str, manifest: Manifest, members: Mapping[str, bytes], *, limits: Limits = DEFAULT_LIMITS
) -> BundleReport:
    """Write an unsigned bundle of `manifest` and `members` (content by path; `manifest.members` is filled in).

    The bytes follow from the arguments alone. The file is verified as `verify_bundle` does before it appears at `path`,
    replacing an older one. Raises what the reader would raise, and `BundleError` when the disk refuses.
    """
    if manifest.members:
        raise BundleFormatError("manifest.members is filled in from the members; leave it empty")
    paths = sorted(check_name(name, limits.name_bytes) for name in members)
    _check_total(sum(len(members[name]) for name in paths), limits)
    listed = tuple(
        Member(path=name, size=len(members[name]), sha256=hashlib.sha256(members[name]).hexdigest()) for name in paths
    )
    data = encode_manifest(msgspec.structs.replace(manifest, members=listed))
    return _write(Path(path), [(MANIFEST, data), *((name, members[name]) for name in paths)], limits)


def sign_bundle(
    path: Path | str,
    private_key: Key,
    out: Path | str | None = None,
    *,
    password: bytes | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> BundleReport:
    """Sign the bundle at `path` with an ed25519 private key (PEM file or bytes), in place or to `out`.

    The bundle is verified first, an older signature is replaced, the identity (`sha256`) stays. Raises as
    `verify_bundle`, `ConfigError` for a bad key, `MissingDependencyError` without `cryptography`.
    """
    with Bundle.open(path, limits=limits) as bundle:
        signature = make_signature(bundle.manifest_bytes, private_key, password)
        contents = [(member.path, bundle.read(member.path)) for member in bundle.manifest.members]
        parts = [(MANIFEST, bundle.manifest_bytes), *contents, (SIGNATURE, signature)]
    return _write(Path(path if out is None else out), parts, limits)


def _write(path: Path, parts: list[tuple[str, bytes]], limits: Limits) -> BundleReport:
    reports: list[BundleReport] = []

    def check(temporary: Path) -> None:
        try:
            reports.append(verify_bundle(temporary, limits=limits))
        except BundleError as error:
            raise type(error)(str(error).replace(str(temporary), str(path))) from error

    replace_file(path, lambda stream: write_archive(stream, parts), check)
    return replace(reports[0], path=path)


def _check_total(total: int, limits: Limits) -> None:
    if total > limits.file_bytes:
        raise BundleFormatError(
            f"the members have {total} bytes, over the cap of {limits.file_bytes} (Limits.file_bytes)"
        )
