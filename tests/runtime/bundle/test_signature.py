"""Signing, trust, keys; and the exhaustive test: no flipped bit of a signed bundle goes unseen."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import edge_craft as craft
import pytest
from edge_craft import Part, parts, zipped

from edge_runtime.bundle import Bundle, generate_key, load_trusted_key, private_key_id, sign_bundle, verify_bundle
from edge_runtime.errors import BundleError, BundleFormatError, BundleSignatureError, ConfigError

pytest.importorskip("cryptography", reason="signatures need the extra 'sign'")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("keys")
    generate_key(folder / "private.pem", folder / "public.pem")
    return folder / "private.pem", folder / "public.pem"


@pytest.fixture
def unsigned(tmp_path: Path) -> Path:
    path = tmp_path / "unsigned.edge"
    path.write_bytes(craft.edge())
    return path


@pytest.fixture
def signed(unsigned: Path, keys: tuple[Path, Path]) -> Path:
    path = unsigned.with_name("signed.edge")
    sign_bundle(unsigned, keys[0], path)
    return path


def signature_of(path: Path) -> bytes:
    """`signature.json` as it stands last in the file, by the end of its content."""
    data = path.read_bytes()
    start = data.index(b'{"algorithm"')
    return data[start : data.index(b"}", start) + 1]


def with_signature(path: Path, signature: bytes) -> Path:
    path.write_bytes(zipped([*parts(), Part(b"signature.json", signature)]))
    return path


def test_signing_keeps_the_identity(unsigned: Path, signed: Path, keys: tuple[Path, Path]) -> None:
    key = load_trusted_key(keys[1])
    before, after = verify_bundle(unsigned), verify_bundle(signed, trust=[keys[1]], require_signature=True)
    assert before.sha256 == after.sha256 == hashlib.sha256(parts()[0].data).hexdigest()
    assert after.signature is not None
    assert (after.signature.key_id, after.signature.trusted) == (key.key_id, True)
    assert key.key_id == hashlib.sha256(key.raw).hexdigest()


def test_trust_as_path_text_pem_bytes_or_raw_bytes(signed: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    public = keys[1]
    raw = load_trusted_key(public).raw
    generate_key(tmp_path / "o", tmp_path / "other.pem")
    for key in (public, str(public), public.read_bytes(), raw):
        report = verify_bundle(signed, trust=[tmp_path / "other.pem", key], require_signature=True)
        assert report.signature is not None
        assert report.signature.trusted


def test_signing_again_replaces(signed: Path, tmp_path: Path) -> None:
    key_id = generate_key(tmp_path / "k", tmp_path / "k.pub")
    assert private_key_id(tmp_path / "k") == key_id
    report = sign_bundle(signed, (tmp_path / "k").read_bytes())
    assert report.signature is not None
    assert report.signature.key_id == key_id
    assert verify_bundle(signed, trust=[tmp_path / "k.pub"], require_signature=True).path == signed


def test_without_trust_a_signature_is_only_named(signed: Path) -> None:
    with Bundle.open(signed) as bundle:
        assert bundle.signature is not None
        assert not bundle.signature.trusted


def test_wrong_key(signed: Path, tmp_path: Path) -> None:
    generate_key(tmp_path / "o", tmp_path / "o.pub")
    with pytest.raises(BundleSignatureError, match="not trusted"):
        Bundle.open(signed, trust=[tmp_path / "o.pub"])


def test_key_id_of_a_trusted_key_on_the_signature_of_another(unsigned: Path, keys: tuple[Path, Path]) -> None:
    folder = unsigned.parent
    generate_key(folder / "o", folder / "o.pub")
    sign_bundle(unsigned, folder / "o")
    forged = json.loads(signature_of(unsigned)) | {"key_id": load_trusted_key(keys[1]).key_id}
    with_signature(unsigned, json.dumps(forged, separators=(",", ":")).encode())
    with pytest.raises(BundleSignatureError, match="did not sign"):
        Bundle.open(unsigned, trust=[keys[1]])
    with Bundle.open(unsigned) as bundle:
        assert bundle.signature is not None
        assert not bundle.signature.trusted


def test_changed_manifest_with_the_old_signature(signed: Path, keys: tuple[Path, Path]) -> None:
    other = zipped([*parts(version="2.0"), Part(b"signature.json", signature_of(signed))])
    signed.write_bytes(other)
    with pytest.raises(BundleSignatureError, match="changed after signing"):
        Bundle.open(signed, trust=[keys[1]])


def test_missing_signature(unsigned: Path, keys: tuple[Path, Path]) -> None:
    with Bundle.open(unsigned, trust=[keys[1]]) as bundle:
        assert bundle.signature is None
    with pytest.raises(BundleSignatureError, match="is not signed"):
        Bundle.open(unsigned, trust=[keys[1]], require_signature=True)
    with pytest.raises(ConfigError, match="no key is trusted"):
        Bundle.open(unsigned, require_signature=True)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"ed25519", b"rsa"),
        (b'{"alg', b'{"public_key":"AAAA","alg'),
        (b'{"alg', b'{ "alg'),
        (b'"key_id":"', b'"key_id":"\\u001b'),
        (b'"signature":"', b'"signature":"AAAA'),
        (b'=="', b'"'),
        (b"}", b',"algorithm":"ed25519"}'),
        (b'{"algorithm"', b'[{"algorithm"'),
    ],
)
def test_signature_of_another_form(old: bytes, new: bytes, signed: Path) -> None:
    good = signature_of(signed)
    assert old in good
    with pytest.raises(BundleFormatError, match=r"signature\.json"):
        Bundle.open(with_signature(signed, good.replace(old, new, 1)))


def test_signature_over_its_cap(unsigned: Path) -> None:
    with pytest.raises(BundleFormatError, match="over the cap of 1024"):
        Bundle.open(with_signature(unsigned, b" " * 1025))


def refused(path: Path, public: bytes) -> bool:
    try:
        with Bundle.open(path, trust=[public], require_signature=True) as bundle:
            bundle.verify_all()
    except BundleError:
        return True
    return False


def test_no_flipped_bit_goes_unseen(signed: Path, keys: tuple[Path, Path]) -> None:
    """Stronger than needed: every flip is refused, also where it would change nothing that is used."""
    good, raw = signed.read_bytes(), load_trusted_key(keys[1]).raw
    assert not refused(signed, raw)
    assert len(good) < 6000
    unseen = []
    with signed.open("r+b", buffering=0) as stream:
        for at in range(len(good)):
            for bit in range(8):
                stream.seek(at)
                stream.write(bytes([good[at] ^ 1 << bit]))
                if not refused(signed, raw):
                    unseen.append((at, bit))
            stream.seek(at)
            stream.write(good[at : at + 1])
    assert unseen == []
    assert signed.read_bytes() == good


def test_openssl_agrees(signed: Path, keys: tuple[Path, Path]) -> None:
    """The same signature, checked by another program over the bytes of manifest.json."""
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("openssl is not on PATH")
    value, manifest = signed.with_name("value"), signed.with_name("manifest.json")
    value.write_bytes(base64.b64decode(json.loads(signature_of(signed))["signature"]))
    manifest.write_bytes(parts()[0].data)
    command = [program, "pkeyutl", "-verify", "-pubin", "-inkey", str(keys[1]), "-rawin", "-in", str(manifest)]
    run = subprocess.run([*command, "-sigfile", str(value)], capture_output=True, text=True, check=False)
    if "rawin" in run.stderr:
        pytest.skip("this openssl is too old for ed25519 over a file")
    assert run.returncode == 0, run.stderr
    manifest.write_bytes(parts()[0].data + b" ")
    assert subprocess.run([*command, "-sigfile", str(value)], capture_output=True, check=False).returncode != 0


def test_private_key_is_private_and_nothing_is_overwritten(tmp_path: Path) -> None:
    private, public = tmp_path / "k", tmp_path / "k.pub"
    generate_key(private, public)
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    before = private.read_bytes(), public.read_bytes()
    with pytest.raises(ConfigError, match="exists"):
        generate_key(private, tmp_path / "new.pub")
    with pytest.raises(ConfigError, match="exists"):
        generate_key(tmp_path / "new", public)
    with pytest.raises(ConfigError, match="cannot be written"):
        generate_key(tmp_path / "absent" / "k", tmp_path / "new.pub")
    assert (private.read_bytes(), public.read_bytes()) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["k", "k.pub"]


def test_bad_keys_are_configuration_errors(unsigned: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    rsa = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ec")
    serialization = pytest.importorskip("cryptography.hazmat.primitives.serialization")
    public = rsa.generate_private_key(rsa.SECP256R1()).public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    for source, fragment in [
        (keys[0], "private key"),
        (b"nonsense", "not a public key"),
        (pem, "ed25519 public key is needed"),
        (tmp_path / "absent.pem", "cannot be read"),
    ]:
        with pytest.raises(ConfigError, match=fragment):
            load_trusted_key(source)
    with pytest.raises(ConfigError, match="not a readable private key") as caught:
        sign_bundle(unsigned, keys[1])
    assert "PUBLIC" not in str(caught.value)


def test_encrypted_private_key(unsigned: Path, keys: tuple[Path, Path]) -> None:
    serialization = pytest.importorskip("cryptography.hazmat.primitives.serialization")
    key = serialization.load_pem_private_key(keys[0].read_bytes(), None)
    best = serialization.BestAvailableEncryption(b"word")
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, best)
    with pytest.raises(ConfigError, match="not a readable private key"):
        sign_bundle(unsigned, pem)
    assert sign_bundle(unsigned, pem, password=b"word").signature is not None


def test_reading_imports_no_cryptography(signed: Path) -> None:
    code = (
        "import sys; from edge_runtime.bundle import verify_bundle; verify_bundle(sys.argv[1]); "
        "assert not {'cryptography', 'onnx', 'torch', 'cv2', 'onnxruntime'} & set(sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code, str(signed)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
