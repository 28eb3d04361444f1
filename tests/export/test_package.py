"""Packaging: what stands in the file, that it opens, that it is signed, and what is refused."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edge_export import ModelCard, lower, measure_parity, package, self_test, verify_variants
from edge_export._ladders import ladders
from edge_runtime.bundle import Bundle, generate_key, verify_bundle
from edge_runtime.errors import BundleError, BundleSignatureError, ConfigError, SelfTestError
from edge_runtime.preprocess.spec import Normalize, PreprocessSpec, Resize, ToGray

CARD = ModelCard(intended_use="Find dark discs.", training_data="Simulated discs.", limits="Discs only.")
TITLES = [
    "Lowering",
    "Bill of materials (CycloneDX 1.6)",
    "Metadata (MONAI vocabulary)",
    "Verification",
    "Bench",
]
MOMENT = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)


@pytest.fixture(scope="module")
def parts(lowered, trained, contract):
    models, report = lowered
    verification = verify_variants(
        models, inputs=trained.inputs[:20], labels=trained.labels[:20], student=trained.logits, **contract,
        max_drop_points={"fp32": 5.0, "fp16": 5.0, "int8": 5.0},
    )  # fmt: skip
    return {
        "name": "discs",
        "version": "1.0.0",
        "models": models,
        "report": report,
        "output_specs": contract["output_specs"],
        "preprocess": PreprocessSpec(steps=(ToGray(), Resize(height=48, width=48), Normalize())),
        "golden_inputs": trained.inputs[:2],
        "card": CARD,
        "verification": verification,
        "created": MOMENT,
    }


def test_the_file_holds_what_it_says(parts, tmp_path):
    path = package(tmp_path / "discs.edge", **parts, evidence={"Bench": {"ms": [1.0, 2.0]}})
    assert verify_bundle(path).signature is None
    with Bundle.open(path) as bundle:
        manifest = bundle.manifest
        assert [v.id for v in manifest.variants] == ["fp32", "fp16", "int8"]
        assert manifest.created == "2026-01-31T12:00:00Z"
        assert manifest.ladders == {
            "ort-cpu": ("fp32", "fp16", "int8"),
            "openvino": ("fp32",),
            "tensorrt": ("fp16", "int8"),
        }
        assert all(bundle.model(name) == data for name, data in parts["models"].items())
        assert [title for title, _ in bundle.evidence()] == TITLES
        assert "not a medical device" in bundle.card().lower()
        for word in ("Find dark discs.", "Simulated discs.", "Discs only.", "| int8 | 18 |"):
            assert word in bundle.card()
        (image, outputs), _ = bundle.golden()
        np.testing.assert_array_equal(image, parts["golden_inputs"][0])
        assert outputs["mask"].shape == (1, 1, 48, 48)
        bounds = [v.parity_abs for v in manifest.variants]
        assert 0 < bounds[0] < bounds[1] < bounds[2] < 0.2 * np.abs(outputs["mask"]).max()
        assert manifest.variants[2].scores["dice"] > 0.9
    assert [item.name for item in tmp_path.iterdir()] == ["discs.edge"]


def test_same_arguments_same_bytes(parts, tmp_path):
    left, right = package(tmp_path / "a.edge", **parts), package(tmp_path / "b.edge", **parts)
    assert left.read_bytes() == right.read_bytes()


def test_signed_in_one_go(parts, tmp_path):
    generate_key(tmp_path / "private.pem", tmp_path / "public.pem")
    generate_key(tmp_path / "other.pem", tmp_path / "other.pub")
    path = package(tmp_path / "a.edge", **parts, private_key=tmp_path / "private.pem")
    report = verify_bundle(path, trust=[tmp_path / "public.pem"], require_signature=True)
    assert report.signature is not None
    assert report.signature.trusted
    with pytest.raises(BundleSignatureError):
        verify_bundle(path, trust=[tmp_path / "other.pub"], require_signature=True)


def test_a_wrong_model_fails_the_self_test_and_leaves_the_old_file(parts, tmp_path, monkeypatch):
    path = package(tmp_path / "a.edge", **parts)
    before = path.read_bytes()
    from edge_export import _package

    real = _package.measure_parity
    monkeypatch.setattr(_package, "measure_parity", lambda p, *rest: type(real(p, *rest))(absolute=0.0, agreement=1.0))
    with pytest.raises(SelfTestError, match="differs from the golden samples"):
        package(path, **parts)
    assert path.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == ["a.edge"]
    self_test(path)


def test_a_changed_weight_is_outside_the_bounds(parts, contract, trained):
    from edge_export import run_variant

    specs = contract["output_specs"]
    model = onnx.load_model_from_string(parts["models"]["fp16"])
    weight = model.graph.initializer[-2]
    weight.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(weight), weight.name))
    run = lambda data: run_variant(data, "x", trained.inputs[:2], contract["input_spec"], specs)  # noqa: E731
    golden = run(parts["models"]["fp32"])
    bounds = measure_parity("fp16", run(parts["models"]["fp16"]), golden, specs)
    wrong = run(model.SerializeToString())
    error = max(np.abs(w["mask"] - g["mask"]).max() for w, g in zip(wrong, golden, strict=True))
    assert error > 3 * bounds.absolute


def test_an_opset19_file_is_no_rung_for_the_cpu(student, trained, parts, tmp_path):
    models, report = lower(student, trained.calibration, qdq_form="opset19", targets=("tensorrt11", "rtx"), rtx=False)
    chosen = {**parts, "models": {k: models[k] for k in ("fp32", "fp16")}, "report": report, "verification": None}
    path = package(tmp_path / "a.edge", **chosen)
    with Bundle.open(path) as bundle:
        assert bundle.manifest.ladders["tensorrt"] == ("fp16",)
        assert "Not verified against labels." in bundle.card()
    assert ladders(models, report, None) == {
        "ort-cpu": ("fp32", "fp16"),
        "openvino": ("fp32",),
        "tensorrt": ("fp16", "int8"),
    }


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"golden_inputs": []}, "golden inputs"),
        ({"models": {}}, "must hold fp32"),
        ({"evidence": {"Lowering": 1}}, "are taken"),
        ({"evidence": {"Bad": float("nan")}}, "is not JSON"),
        ({"evidence": {"Bad": object()}}, "is not JSON"),
    ],
)
def test_bad_arguments(parts, tmp_path, change, match):
    with pytest.raises(ConfigError, match=match):
        package(tmp_path / "a.edge", **{**parts, **change})
    assert not list(tmp_path.iterdir())


def test_bad_name_is_refused_by_the_writer(parts, tmp_path):
    with pytest.raises(BundleError, match="not empty"):
        package(tmp_path / "a.edge", **{**parts, "name": ""})
    assert not list(tmp_path.iterdir())
