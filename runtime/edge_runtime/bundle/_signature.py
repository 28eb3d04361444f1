"""Ed25519 (RFC 8032) over the exact bytes of `manifest.json`; `cryptography` is imported when a key is used."""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import msgspec

from edge_runtime.errors import BundleFormatError, BundleSignatureError, ConfigError
from edge_runtime.optional import require

__all__ = [
    "SignatureInfo",
    "TrustedKey",
    "check_signature",
    "generate_key",
    "load_trusted_key",
    "make_signature",
    "private_key_id",
]

KEY_ID = re.compile(r"[0-9a-f]{64}", re.ASCII)
KEY_SOURCE_BYTES = 16 << 10  # a PEM key has about 120


class _Signature(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The content of `signature.json`. The public key is not in it: a key that came with the file proves nothing."""

    algorithm: Literal["ed25519"]
    key_id: str
    signature: str


@dataclass(frozen=True, kw_only=True)
class TrustedKey:
    """A public key the device was given: the 32 raw bytes."""

    raw: bytes

    @property
    def key_id(self) -> str:
        """Lower-case hex sha256 of the raw key."""
        return hashlib.sha256(self.raw).hexdigest()


@dataclass(frozen=True, kw_only=True)
class SignatureInfo:
    """What the file claims (`key_id`), and whether a trusted key has confirmed it (`trusted`)."""

    key_id: str
    trusted: bool


def load_trusted_key(source: Path | str | bytes) -> TrustedKey:
    """The public key in a PEM file, in PEM bytes, or in 32 raw bytes.

    Raises `ConfigError` when there is no ed25519 public key in it, `MissingDependencyError` without `cryptography`.
    """
    if isinstance(source, bytes) and len(source) == 32:
        return TrustedKey(raw=source)
    shown, data = _key_bytes(source)
    if b"PRIVATE KEY" in data:
        raise ConfigError(f"{shown} holds a private key; trust takes the public one, and the private one stays secret")
    serialization, ed25519 = _crypto()
    try:
        key = serialization.load_pem_public_key(data)
    except Exception as error:  # the package raises ValueError and its own types, by version
        raise ConfigError(f"{shown} is not a public key in PEM form: {error}") from error
    if not isinstance(key, ed25519.Ed25519PublicKey):
        raise ConfigError(f"{shown} holds a {type(key).__name__}; an ed25519 public key is needed")
    return TrustedKey(raw=key.public_bytes_raw())


def check_signature(
    manifest: bytes, signature: bytes | None, trust: Sequence[Path | str | bytes], required: bool
) -> SignatureInfo | None:
    """Check `signature.json` (or None) against the trusted keys.

    Without `trust` nothing is proved and `trusted` is False. Raises `BundleSignatureError` when the signature is absent
    though required, wrong, or by a key not in `trust`; `ConfigError` when it is required and nothing is trusted.
    """
    if required and not trust:
        raise ConfigError("a signature is required and no key is trusted; name a public key (trust=[...], --trust KEY)")
    if signature is None:
        if required:
            raise BundleSignatureError("is not signed and a signature is required; sign it (sign_bundle)")
        return None
    parsed = _parse(signature)
    if not trust:
        return SignatureInfo(key_id=parsed.key_id, trusted=False)
    keys = {key.key_id: key for key in map(load_trusted_key, trust)}
    if parsed.key_id not in keys:
        trusted = ", ".join(key_id[:16] for key_id in keys)
        raise BundleSignatureError(
            f"is signed by key {parsed.key_id[:16]}..., which is not trusted (trusted: {trusted})"
        )
    _verify(keys[parsed.key_id], base64.b64decode(parsed.signature), manifest)
    return SignatureInfo(key_id=parsed.key_id, trusted=True)


def make_signature(manifest: bytes, private_key: Path | str | bytes, password: bytes | None = None) -> bytes:
    """The content of `signature.json` for `manifest`, by an ed25519 private key in PEM form (PKCS #8).

    Raises `ConfigError` when the key cannot be read; its content is never part of a message.
    """
    key = _private_key(private_key, password)
    key_id = TrustedKey(raw=key.public_key().public_bytes_raw()).key_id
    value = base64.b64encode(key.sign(manifest)).decode("ascii")
    return _encode(_Signature(algorithm="ed25519", key_id=key_id, signature=value))


def private_key_id(private_key: Path | str | bytes, password: bytes | None = None) -> str:
    """The key id of what `private_key` signs, which is its public half's. Raises as `make_signature`."""
    return TrustedKey(raw=_private_key(private_key, password).public_key().public_bytes_raw()).key_id


def generate_key(private_path: Path | str, public_path: Path | str) -> str:
    """Make a key pair: a private PEM (PKCS #8, mode 0600) and a public PEM; returns the key id.

    Raises `ConfigError` when either file exists or cannot be written; then neither is left behind.
    """
    serialization, ed25519 = _crypto()
    key = ed25519.Ed25519PrivateKey.generate()
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)
    public = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    _create(Path(private_path), private, 0o600)
    try:
        _create(Path(public_path), public, 0o644)
    except BaseException:
        Path(private_path).unlink()
        raise
    return TrustedKey(raw=key.public_key().public_bytes_raw()).key_id


def _private_key(source: Path | str | bytes, password: bytes | None) -> Any:
    shown, data = _key_bytes(source)
    serialization, ed25519 = _crypto()
    try:
        key = serialization.load_pem_private_key(data, password=password)
    except Exception as error:
        raise ConfigError(f"{shown} is not a readable private key in PEM form ({type(error).__name__})") from error
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise ConfigError(f"{shown} holds a {type(key).__name__}; an ed25519 private key is needed")
    return key


def _parse(data: bytes) -> _Signature:
    try:
        parsed = msgspec.json.decode(data, type=_Signature)
        raw = base64.b64decode(parsed.signature, validate=True)
    except (msgspec.MsgspecError, UnicodeDecodeError, binascii.Error, ValueError) as error:
        raise BundleFormatError(f"signature.json is not valid: {error}") from error
    if len(raw) != 64 or not KEY_ID.fullmatch(parsed.key_id) or _encode(parsed) != data:
        raise BundleFormatError(
            "signature.json is not in the one form of v1: 64-byte signature, 64 hex digits, no spaces"
        )
    return parsed


def _encode(signature: _Signature) -> bytes:
    return msgspec.json.encode(signature)


def _verify(key: TrustedKey, signature: bytes, manifest: bytes) -> None:
    _, ed25519 = _crypto()
    exceptions = require("cryptography.exceptions", "to check a signature")
    try:
        ed25519.Ed25519PublicKey.from_public_bytes(key.raw).verify(signature, manifest)
    except exceptions.InvalidSignature as error:
        message = (
            f"has a manifest that key {key.key_id[:16]}... did not sign: changed after signing; get the file again"
        )
        raise BundleSignatureError(message) from error


def _crypto() -> tuple[Any, Any]:
    serialization: ModuleType = require("cryptography.hazmat.primitives.serialization", "for signatures and keys")
    return serialization, require("cryptography.hazmat.primitives.asymmetric.ed25519", "for signatures and keys")


def _key_bytes(source: Path | str | bytes) -> tuple[str, bytes]:
    if isinstance(source, bytes):
        return "the key", source
    try:
        with Path(source).open("rb") as stream:
            return str(source), stream.read(KEY_SOURCE_BYTES)
    except OSError as error:
        raise ConfigError(f"{source}: the key cannot be read: {error.strerror}") from error


def _create(path: Path, content: bytes, mode: int) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    except FileExistsError as error:
        raise ConfigError(f"{path} exists; a key is never overwritten, choose another name") from error
    except OSError as error:
        raise ConfigError(f"{path}: the key cannot be written: {error.strerror}") from error
    try:
        with os.fdopen(fd, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        raise ConfigError(f"{path}: the key cannot be written: {error.strerror}") from error
