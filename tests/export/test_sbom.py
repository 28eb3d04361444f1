"""The bill of materials, the card's metadata and the ladders, against what is published about their forms."""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from dataclasses import replace
from datetime import datetime

import pytest

from edge_export import AgreementReport, AgreementScore, ModelCard, Origin, lower, package, verify_variants
from edge_export._card import render_card
from edge_export._ladders import ladders
from edge_export._monai import monai_metadata
from edge_export._sbom import bill_of_materials
from edge_runtime.bundle import Bundle
from edge_runtime.errors import ConfigError, LoweringError
from edge_runtime.preprocess.spec import Normalize, PreprocessSpec, Resize, ToGray
from edge_runtime.settings_file import parse_yaml

CARD = ModelCard(
    intended_use="Find dark discs.",
    training_data="Simulated discs.",
    limits="Discs only.",
    license="cc-by-4.0",
    tags=("discs",),
    held_out="simulated discs",
)
PREPROCESS = PreprocessSpec(steps=(ToGray(), Resize(height=48, width=48), Normalize()))
ORIGINS = (
    Origin(kind="data", name="discs", sha256="0" * 64, license="cc-by-4.0"),
    Origin(kind="teacher", name="teacher.pt", sha256="1" * 64),
    Origin(kind="recipe", name="discs.yaml", sha256="a" * 64),
)
# CycloneDX 1.6: values that `bom-1.6.schema.json` allows
COMPONENTS = {"application", "framework", "library", "container", "platform", "operating-system", "device",
              "device-driver", "firmware", "file", "machine-learning-model", "data", "cryptographic-asset"}  # fmt: skip


@pytest.fixture(scope="module")
def scored(lowered, trained, contract):
    models, _ = lowered
    return verify_variants(
        models, inputs=trained.inputs[:20], labels=trained.labels[:20], student=trained.logits, **contract,
        max_drop_points=dict.fromkeys(models, 5.0),
    )  # fmt: skip


@pytest.fixture(scope="module")
def bill(lowered, scored, contract):
    models, report = lowered
    return bill_of_materials(
        "discs", "1", "2026-01-31T12:00:00Z", card=CARD, models=models, report=report, verification=scored,
        origins=ORIGINS, **contract,
    )  # fmt: skip


def components(bill):
    return [bill["metadata"]["component"], *bill["components"]]


def test_required_fields_of_cyclonedx(bill):
    assert (bill["bomFormat"], bill["specVersion"], bill["version"]) == ("CycloneDX", "1.6", 1)
    assert re.fullmatch(r"urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", bill["serialNumber"])
    assert uuid.UUID(bill["serialNumber"][9:])
    assert datetime.fromisoformat(bill["metadata"]["timestamp"]).tzinfo is not None
    allowed = {"type", "bom-ref", "name", "version", "description", "hashes", "licenses", "modelCard", "data",
               "properties"}  # fmt: skip
    for item in [*components(bill), *bill["metadata"]["tools"]["components"]]:
        assert item["type"] in COMPONENTS
        assert item["name"]
        assert set(item) <= allowed
        for entry in item.get("hashes", ()):
            assert entry["alg"] == "SHA-256"
            assert re.fullmatch("[0-9a-f]{64}", entry["content"])
        assert ("data" in item) == (item["type"] == "data")
    refs = [item["bom-ref"] for item in components(bill)]
    assert len(set(refs)) == len(refs)
    for entry in bill["dependencies"]:
        assert {entry["ref"], *entry["dependsOn"]} <= set(refs)
    assert {entry["ref"] for entry in bill["metadata"]["component"]["modelCard"]["modelParameters"]["datasets"]} <= {
        item["bom-ref"] for item in bill["components"] if item["type"] == "data"
    }


def test_the_published_schema_accepts_it(bill):
    schema = pytest.importorskip("cyclonedx.schema", reason="cyclonedx-python-lib[json-validation] is not installed")
    validation = pytest.importorskip("cyclonedx.validation.json")
    found = validation.JsonStrictValidator(schema.SchemaVersion.V1_6).validate_str(json.dumps(bill))
    assert found is None, found


def test_it_says_what_the_model_was_made_of(bill, lowered, scored):
    models, report = lowered
    by_name = {item["name"]: item for item in components(bill)}
    assert by_name["discs:int8"]["hashes"][0]["content"] == hashlib.sha256(models["int8"]).hexdigest()
    assert by_name["teacher.pt"]["hashes"][0]["content"] == "1" * 64
    frames = next(item for name, item in by_name.items() if "quantization calibration" in name)
    assert frames["hashes"][0]["content"] == report.ranges.inputs_sha256
    metrics = bill["metadata"]["component"]["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    int8 = next(item for item in metrics if item["slice"] == "int8 on onnxruntime")
    low, high = scored.score("int8").dice_interval
    assert float(int8["value"]) == pytest.approx(scored.score("int8").dice, abs=1e-6)
    assert float(int8["confidenceInterval"]["lowerBound"]) == pytest.approx(low, abs=1e-6)
    assert float(int8["confidenceInterval"]["upperBound"]) == pytest.approx(high, abs=1e-6)
    assert "torch" in {item["name"] for item in bill["metadata"]["tools"]["components"]}


@pytest.mark.parametrize("change", [{"sha256": "0" * 63}, {"sha256": "G" * 64}, {"kind": "rumour"}, {"name": ""}])
def test_an_origin_of_another_form_is_refused(change):
    with pytest.raises(ConfigError, match="origin"):
        Origin(**{"kind": "data", "name": "x", "sha256": "0" * 64, **change})


def test_the_front_matter_is_what_hugging_face_reads(lowered, scored, contract):
    text = render_card("discs", "1", CARD, lowered[1], scored, contract["output_specs"])
    _, front, body = text.split("---\n", 2)
    found = parse_yaml(front, "card")
    assert found["license"] == "cc-by-4.0"
    assert found["pipeline_tag"] == "image-segmentation"
    assert {"ultrasound", "onnx", "int8", "discs"} <= set(found["tags"])
    (entry,) = found["model-index"]
    (result,) = entry["results"]
    assert entry["name"] == "discs"
    assert result["task"]["type"] == "image-segmentation"
    assert set(result["dataset"]) == {"type", "name"}
    assert [(m["type"], m["value"]) for m in result["metrics"]] == [("dice", row.dice) for row in scored.scores]
    assert body.lstrip().startswith("# discs 1")


def test_hugging_face_itself_reads_it(lowered, scored, contract):
    hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    text = render_card("discs", "1", CARD, lowered[1], scored, contract["output_specs"])
    data = hub.ModelCard(text).data
    assert [item.metric_value for item in data.eval_results] == [row.dice for row in scored.scores]


def test_metadata_in_the_words_of_monai(scored, contract):
    found = monai_metadata(
        "discs", "1", card=CARD, input_spec=contract["input_spec"], output_specs=contract["output_specs"],
        preprocess=PREPROCESS, verification=scored,
    )  # fmt: skip
    image = found["network_data_format"]["inputs"]["image"]
    assert (image["modality"], image["num_channels"], image["spatial_shape"]) == ("US", 1, [48, 48])
    mask = found["network_data_format"]["outputs"]["mask"]
    assert (mask["format"], mask["channel_def"]) == ("segmentation", {"0": "disc"})
    assert found["eval_metrics"]["mean_dice, int8 on onnxruntime"] == scored.score("int8").dice


def test_all_of_it_is_in_the_file_and_a_failed_gate_is_not_packaged(lowered, scored, contract, trained, tmp_path):
    models, report = lowered
    arguments = {
        "name": "discs", "version": "1", "models": models, "report": report, "preprocess": PREPROCESS, "card": CARD,
        "output_specs": contract["output_specs"], "golden_inputs": trained.inputs[:1], "origins": ORIGINS,
    }  # fmt: skip
    path = package(tmp_path / "a.edge", **arguments, verification=scored)
    with Bundle.open(path) as bundle:
        evidence = dict(bundle.evidence())
    assert evidence["Bill of materials (CycloneDX 1.6)"]["specVersion"] == "1.6"
    assert evidence["Metadata (MONAI vocabulary)"]["name"] == "discs"
    rows = [replace(row, passed=row.variant != "int8", drop_points=2.0) for row in scored.scores]
    with pytest.raises(LoweringError, match=r"int8 loses 2\.000 Dice points on onnxruntime"):
        package(tmp_path / "b.edge", **arguments, verification=replace(scored, scores=tuple(rows)))
    excused = tuple(replace(row, override="" if row.passed else "on the bench | only") for row in rows)
    path = package(tmp_path / "b.edge", **arguments, verification=replace(scored, scores=excused))
    with Bundle.open(path) as bundle:
        assert "**failed**, overridden: on the bench / only" in bundle.card()
    score = AgreementScore(
        variant="int8", agreement={"mask": 0.5}, sqnr_db={"mask": 3.0}, max_abs=1.0, file_bytes=1, failures=("few",)
    )
    bad = AgreementReport(n_frames=1, scores=(score,))
    with pytest.raises(LoweringError, match="int8: few"):
        package(tmp_path / "c.edge", **arguments, verification=bad)
    good = tuple(replace(score, variant=name, failures=()) for name in ("fp32", "fp16"))
    excused_too = AgreementReport(n_frames=1, scores=(*good, replace(score, override="a trial")))
    path = package(tmp_path / "c.edge", **arguments, verification=excused_too)
    with Bundle.open(path) as bundle:
        assert "**failed**, overridden: a trial (few" in bundle.card()
    assert sorted(item.name for item in tmp_path.iterdir()) == ["a.edge", "b.edge", "c.edge"]


def test_a_ladder_begins_with_what_loses_least(student, trained, scored):
    models, report = lower(
        student, trained.calibration, precisions=("fp32", "fp16", "int8", "int8-cpu"), rtx=False
    )  # fmt: skip
    assert ladders(models, report, None) == {
        "ort-cpu": ("fp32", "fp16", "int8-cpu", "int8"),
        "openvino": ("fp32", "int8-cpu"),
        "tensorrt": ("fp16", "int8"),
    }
    drops = {"fp32": -0.2, "fp16": 0.4, "int8": 0.1, "int8-cpu": 0.2}
    rows = [
        replace(scored.score("fp32"), variant=name, drop_points=drop, typed_drop_points=0.0)
        for name, drop in drops.items()
    ]
    assert ladders(models, report, replace(scored, scores=tuple(rows))) == {
        "ort-cpu": ("fp32", "int8", "int8-cpu", "fp16"),
        "openvino": ("fp32", "int8-cpu"),
        "tensorrt": ("fp32", "int8", "fp16"),
    }
