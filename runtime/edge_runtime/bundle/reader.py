"""Opening a `.edge` file: `Bundle` refuses what `docs/bundle.md` does not allow, and reads only what it has checked."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from edge_runtime.bundle._file import ByteSource
from edge_runtime.bundle._manifest_check import MANIFEST, SIGNATURE, decode_manifest
from edge_runtime.bundle._npy import parse_npy
from edge_runtime.bundle._signature import SignatureInfo, check_signature
from edge_runtime.bundle._zip import Entry, read_directory, read_member
from edge_runtime.bundle.limits import DEFAULT_LIMITS, Limits
from edge_runtime.bundle.manifest import InputSpec, Manifest, Member, OutputSpec, Variant
from edge_runtime.bundle.onnx_guard import ModelFacts, TensorFacts, inspect_model
from edge_runtime.errors import BundleError, BundleFormatError, BundleIntegrityError, ConfigError

__all__ = ["Bundle", "BundleReport", "Key", "verify_bundle"]

Array = npt.NDArray[np.float32]
Key = Path | str | bytes  # a PEM file, PEM bytes, or 32 raw bytes of a public key
SIGNATURE_BYTES = 1024
_Self = TypeVar("_Self", bound="Bundle")


@dataclass(frozen=True, kw_only=True)
class BundleReport:
    """What was found in a file that was verified whole; `size` in bytes, `models` by variant id."""

    path: Path
    sha256: str
    size: int
    signature: SignatureInfo | None
    manifest: Manifest
    models: dict[str, ModelFacts]


class Bundle:
    """An open `.edge` file; use it as a context manager.

    The descriptor is opened once; manifest, signature and structure are checked then. A member is checked when it is
    read, on the very bytes that are returned, so that nothing can change between check and use. May be read from
    several threads.
    """

    def __init__(self, path: Path, source: ByteSource, entries: tuple[Entry, ...], limits: Limits) -> None:
        self.path = path
        self._source = source
        self._entries = {entry.name: entry for entry in entries}
        self._limits = limits
        if not entries or entries[0].name != MANIFEST:
            raise BundleFormatError(f"does not begin with {MANIFEST}: not a .edge file")
        self._manifest_bytes = self._raw(MANIFEST, limits.manifest_bytes)
        self.signature: SignatureInfo | None = None
        self.manifest: Manifest

    @classmethod
    def open(
        cls: type[_Self],
        path: Path | str,
        *,
        trust: Sequence[Key] = (),
        require_signature: bool = False,
        limits: Limits = DEFAULT_LIMITS,
    ) -> _Self:
        """Open `path` and check structure, signature and manifest; no model or array is read yet.

        With `trust`, a signature must be by one of these keys; without, it is only named (`signature.trusted` False).
        With `require_signature` an unsigned file is refused too; a device sets both. Raises `BundleFormatError`,
        `BundleVersionError`, `BundleIntegrityError`, `BundleSignatureError`; `ConfigError` for a bad key;
        `MissingDependencyError` when a key is given and `cryptography` is not installed.
        """
        path = Path(path)
        with _named(path):
            source = ByteSource(path)
            try:
                bundle = cls(path, source, read_directory(source, limits), limits)
                bundle._check(trust, require_signature)
            except BaseException:
                source.close()
                raise
        return bundle

    def _check(self, trust: Sequence[Key], require_signature: bool) -> None:
        signature = self._raw(SIGNATURE, SIGNATURE_BYTES) if SIGNATURE in self._entries else None
        self.signature = check_signature(self._manifest_bytes, signature, trust, require_signature)
        self.manifest = decode_manifest(self._manifest_bytes, self._limits)
        self._members = {member.path: member for member in self.manifest.members}
        wanted = [MANIFEST, *self._members, *([SIGNATURE] if signature is not None else [])]
        for name in self._entries:
            if name not in wanted:
                raise BundleFormatError(f"member {name!r} is not named in the manifest")
        for name, member in self._members.items():
            self._check_size(name, member)
        if list(self._entries) != wanted:
            raise BundleFormatError(f"members are out of order: {MANIFEST}, then by path, {SIGNATURE} last")

    def _check_size(self, name: str, member: Member) -> None:
        entry = self._entries.get(name)
        if entry is None:
            raise BundleFormatError(f"member {name!r} is named in the manifest and not in the file")
        if entry.size != member.size:
            raise BundleIntegrityError(f"member {name!r} has {entry.size} bytes, the manifest says {member.size}")

    @property
    def sha256(self) -> str:
        """Hex sha256 of the manifest's exact bytes: the bundle's identity, whoever signed it."""
        return hashlib.sha256(self._manifest_bytes).hexdigest()

    @property
    def manifest_bytes(self) -> bytes:
        """The exact bytes that the signature covers."""
        return self._manifest_bytes

    def _raw(self, name: str, cap: int) -> bytes:
        entry = self._entries[name]
        if entry.size > cap:
            raise BundleFormatError(f"{name} has {entry.size} bytes, over the cap of {cap}")
        return read_member(self._source, entry)

    def read(self, name: str) -> bytes:
        """The content of the member `name`, size and sha256 checked on these bytes.

        Raises `BundleIntegrityError` when they differ, `ConfigError` for a name not in the manifest.
        """
        member = self._members.get(name)
        if member is None:
            raise ConfigError(f"{self.path}: no member {name!r}; members: {', '.join(self._members)}")
        with _named(self.path):
            content = read_member(self._source, self._entries[name])
            if len(content) != member.size or hashlib.sha256(content).hexdigest() != member.sha256:
                raise BundleIntegrityError(
                    f"member {name!r} does not match its sha256: damaged or changed; get it again"
                )
        return content

    def verify_contents(self) -> dict[str, ModelFacts]:
        """Check every member's hash and every member by its role; the models' facts by variant id.

        All that can be checked without running a model. Raises as `read`, `model`, `golden`, `card` and `evidence`.
        """
        self.verify_all()
        models = {variant.id: self.model_facts(variant.id) for variant in self.manifest.variants}
        self.golden()
        self.card()
        self.evidence()
        return models

    def verify_all(self) -> None:
        """Read every member and check its hash; raises as `read`."""
        for name in self._members:
            self.read(name)

    def variant(self, variant_id: str) -> Variant:
        """The variant of that id; `ConfigError` when there is none."""
        for variant in self.manifest.variants:
            if variant.id == variant_id:
                return variant
        known = ", ".join(variant.id for variant in self.manifest.variants)
        raise ConfigError(f"{self.path}: no variant {variant_id!r}; variants: {known}")

    def ladder(self, target: str) -> tuple[Variant, ...]:
        """The variants for `target`, first choice first; `ConfigError` when the bundle has no ladder for it."""
        for name, ids in self.manifest.ladders.items():
            if name == target:
                return tuple(self.variant(variant_id) for variant_id in ids)
        known = ", ".join(self.manifest.ladders) or "none"
        raise ConfigError(f"{self.path}: no ladder for target {target!r}; targets: {known}")

    def model(self, variant_id: str, *, inspected: bool = False) -> bytes:
        """The ONNX bytes of a variant, hash checked, passed by `inspect_model`, same contract as the manifest.

        `inspected` says that a bundle of this very `sha256` has given this model before: the hash alone is checked
        then. Raises `ModelRefusedError` when the device does not run such a model, else as `read`.
        """
        return self.read(self.variant(variant_id).model) if inspected else self._inspected(variant_id)[0]

    def model_facts(self, variant_id: str) -> ModelFacts:
        """What the model of a variant consists of; raises as `model`."""
        return self._inspected(variant_id)[1]

    def _inspected(self, variant_id: str) -> tuple[bytes, ModelFacts]:
        variant = self.variant(variant_id)
        data = self.read(variant.model)
        with _named(self.path, f"variant {variant_id!r}"):
            facts = inspect_model(data, self._limits)
            _check_contract(facts, variant, self.manifest)
        return data, facts

    def golden(self) -> list[tuple[Array, dict[str, Array]]]:
        """The golden samples: input and outputs by name, read-only float32, shapes as in the manifest.

        Raises `BundleFormatError` when an array is not as specified, else as `read`.
        """
        shapes = {output.name: output.shape for output in self.manifest.outputs}
        return [
            (
                self._array(sample.input, self.manifest.input.shape),
                {name: self._array(path, shapes[name]) for name, path in sample.outputs.items()},
            )
            for sample in self.manifest.golden
        ]

    def _array(self, name: str, shape: tuple[int, ...]) -> Array:
        data = self.read(name)
        with _named(self.path, f"member {name!r}"):
            array = parse_npy(data, self._limits)
            if array.shape != shape:
                raise BundleFormatError(f"array has shape {array.shape}, the manifest says {shape}")
        return array

    def card(self) -> str:
        """The model card, Markdown; `BundleFormatError` when it is not UTF-8."""
        with _named(self.path, self.manifest.card):
            try:
                return self.read(self.manifest.card).decode("utf-8")
            except UnicodeDecodeError as error:
                raise BundleFormatError(f"is not UTF-8: {error}") from error

    def evidence(self) -> list[tuple[str, Any]]:
        """Title and parsed JSON of every piece of evidence; `BundleFormatError` when one is not JSON."""
        found = []
        for item in self.manifest.evidence:
            data = self.read(item.path)
            try:
                found.append((item.title, json.loads(data.decode("utf-8"))))
            except (ValueError, RecursionError) as error:
                raise BundleFormatError(f"{self.path}: {item.path} is not JSON in UTF-8: {error}") from error
        return found

    def close(self) -> None:
        """Close the file; reading afterwards raises `BundleError`."""
        self._source.close()

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def verify_bundle(
    path: Path | str,
    *,
    trust: Sequence[Key] = (),
    require_signature: bool = False,
    limits: Limits = DEFAULT_LIMITS,
) -> BundleReport:
    """Check everything that can be checked without running a model: `Bundle.open`, then `Bundle.verify_contents`.

    Raises as these.
    """
    with Bundle.open(path, trust=trust, require_signature=require_signature, limits=limits) as bundle:
        return BundleReport(
            path=bundle.path, sha256=bundle.sha256, size=bundle._source.size, signature=bundle.signature,
            manifest=bundle.manifest, models=bundle.verify_contents(),
        )  # fmt: skip


@contextmanager
def _named(path: Path, part: str = "") -> Iterator[None]:
    """Put the file (and part) in front of a bundle error's message."""
    try:
        yield
    except BundleError as error:
        shown = str(error)
        prefix = f"{path}: {part}: " if part else f"{path}: "
        raise (error if shown.startswith(f"{path}:") else type(error)(prefix + shown)) from error.__cause__


def _check_contract(facts: ModelFacts, variant: Variant, manifest: Manifest) -> None:
    """The variant's model and the manifest must say the same of opset, input and outputs."""
    if facts.opset != variant.opset:
        raise BundleFormatError(f"the model has opset {facts.opset}, the manifest says {variant.opset}")
    _check_values("input", facts.inputs, (manifest.input,))
    _check_values("output", facts.outputs, manifest.outputs)


def _check_values(
    what: str, found: tuple[TensorFacts, ...], wanted: tuple[InputSpec, ...] | tuple[OutputSpec, ...]
) -> None:
    names = {fact.name: fact for fact in found}
    if len(names) != len(found) or set(names) != {spec.name for spec in wanted}:
        raise BundleFormatError(
            f"the model has {what}s {sorted(fact.name for fact in found)}, "
            f"the manifest says {sorted(spec.name for spec in wanted)}"
        )
    for spec in wanted:
        fact = names[spec.name]
        fits = fact.shape is None or (
            len(fact.shape) == len(spec.shape)
            and all(a in (None, b) for a, b in zip(fact.shape, spec.shape, strict=True))
        )
        if fact.dtype != spec.dtype or not fits:
            raise BundleFormatError(
                f"{what} {spec.name!r} of the model is {fact.dtype} {fact.shape}, "
                f"the manifest says {spec.dtype} {spec.shape}"
            )
