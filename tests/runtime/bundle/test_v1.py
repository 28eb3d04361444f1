"""The committed file of format version 1: every later reader gives these values. Change the reader, never this test."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.bundle import Bundle, verify_bundle
from edge_runtime.preprocess.spec import Normalize, Resize, ToGray

DATA = Path(__file__).parents[2] / "data"
FILE, KEY = DATA / "v1.edge", DATA / "v1.pub.pem"
FILE_SHA256 = "862fcaa5098c0297607439ba0102f15080e311e11ebfa9924609f319e2a8689c"
IDENTITY = "e905c8f6f27d9b36915baa712e00e7c1ff9224304efc8bfcaa4a279ebfb42329"
KEY_ID = "3eac320bd87030557963a7a15547bb614456c5315b0a252a4cba9cd9a579009a"
SHAPE = (1, 1, 16, 16)


def test_the_file_itself_is_untouched() -> None:
    data = FILE.read_bytes()
    assert hashlib.sha256(data).hexdigest() == FILE_SHA256
    assert len(data) <= 20_000


def test_identity_and_signature() -> None:
    pytest.importorskip("cryptography", reason="signatures need the extra 'sign'")
    report = verify_bundle(FILE, trust=[KEY], require_signature=True)
    assert report.sha256 == IDENTITY
    assert report.signature is not None
    assert (report.signature.key_id, report.signature.trusted) == (KEY_ID, True)


def test_manifest() -> None:
    with Bundle.open(FILE) as bundle:
        manifest = bundle.manifest
    assert (manifest.schema_version, manifest.name, manifest.version) == (1, "v1-sample", "1.0.0")
    assert (manifest.created, manifest.task) == ("2026-01-31T12:00:00Z", "segmentation")
    assert (manifest.input.name, manifest.input.shape, manifest.input.dtype) == ("x", SHAPE, "float32")
    (output,) = manifest.outputs
    assert (output.name, output.shape, output.kind, output.classes) == ("y", SHAPE, "mask_logits", ("bright",))
    assert (output.threshold, output.temperature) == (0.5, 1.0)
    assert manifest.preprocess.steps == (ToGray(), Resize(height=16, width=16), Normalize())
    assert manifest.ladders == {"ort-cpu": ("fp32", "fp16"), "tensorrt": ("fp16", "fp32")}
    fp32, fp16 = manifest.variants
    assert (fp32.id, fp32.precision, fp32.opset, fp32.macs, fp32.parity_abs) == ("fp32", "fp32", 17, 2304, 1e-5)
    assert (fp16.id, fp16.precision, fp16.min_agreement, fp16.scores) == ("fp16", "fp16", 0.99, {"dice": 1.0})
    assert [(item.path, item.title) for item in manifest.evidence] == [("evidence/parity.json", "Parity")]


def test_contents() -> None:
    with Bundle.open(FILE) as bundle:
        assert bundle.model_facts("fp32").operators == {"Conv": 1}
        assert bundle.model_facts("fp16").operators == {"Conv": 1, "Cast": 2}
        assert [len(bundle.model(variant)) for variant in ("fp32", "fp16")] == [180, 214]
        assert bundle.evidence() == [("Parity", {"max_abs": 0.0})]
        assert bundle.card().startswith("# v1-sample")
        golden = bundle.golden()
    sums = [(image.sum(dtype=np.float64), outputs["y"].sum(dtype=np.float64)) for image, outputs in golden]
    assert sums == [(129.50390625, -44.216796875), (129.9453125, -46.126953125)]
    assert [int((outputs["y"] > 0).sum()) for _, outputs in golden] == [121, 118]


@pytest.mark.parametrize("variant", ["fp32", "fp16"])
def test_golden_samples_on_a_backend(variant: str) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra 'ort'")
    with Bundle.open(FILE) as bundle:
        session = onnxruntime.InferenceSession(bundle.model(variant), providers=["CPUExecutionProvider"])
        for image, outputs in bundle.golden():
            (found,) = session.run(["y"], {"x": image})
            assert np.abs(found - outputs["y"]).max() <= bundle.variant(variant).parity_abs
