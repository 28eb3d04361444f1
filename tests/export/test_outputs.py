"""A network of all kinds of output: lowered, held against itself, packaged, and streamed to a record."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from onnx import helper
from torch import Tensor, nn

from edge_export import ModelCard, export_torch, lower, package, verify_agreement
from edge_runtime.bundle import Bundle, Calibration, InputSpec, OutputSpec
from edge_runtime.errors import ConfigError, LoweringError
from edge_runtime.loading import load
from edge_runtime.preprocess.spec import Normalize, PreprocessSpec, Resize, ToGray
from edge_runtime.result import Result
from edge_runtime.session import RunSettings, run_stream
from edge_runtime.sinks import CollectSink, draw_overlay, read_jsonl
from edge_runtime.sources import ArraySource

SIDE = 32
PREPROCESS = PreprocessSpec(steps=(ToGray(), Resize(height=SIDE, width=SIDE), Normalize(mean=0.5, std=0.25)))
SHAPE = (1, 1, SIDE, SIDE)
OUTPUTS = (
    OutputSpec(
        name="mask",
        shape=SHAPE,
        kind="mask_logits",
        classes=("bright",),
        calibration=Calibration(over="pixels", n=100, ece_before=0.2, ece_after=0.05),
    ),
    OutputSpec(name="spread", shape=SHAPE, kind="uncertainty", of="mask"),
    OutputSpec(name="class", shape=(1, 2), kind="class_logits", classes=("dark", "light")),
    OutputSpec(name="boxes", shape=(1, 64, 5), kind="boxes", classes=("cell",), threshold=0.6),
    OutputSpec(name="frame", shape=SHAPE, kind="image"),
)


class Everything(nn.Module):
    """Says of a frame where it is bright, how bright it is, in which of 8 x 8 cells, and hands it through."""

    def __init__(self) -> None:
        super().__init__()
        self.blur = nn.Conv2d(1, 1, 3, padding=1, bias=False)
        nn.init.constant_(self.blur.weight, 1 / 9)
        size = SIDE / 8
        y, x = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
        corners = torch.stack([x, y, x + 1, y + 1], -1).reshape(1, 64, 4) * size
        self.corners: Tensor
        self.register_buffer("corners", corners)

    def forward(self, frame: Tensor) -> tuple[Tensor, ...]:
        smooth = self.blur(frame)
        cells = nn.functional.avg_pool2d(smooth, SIDE // 8).reshape(1, 64, 1)
        level = smooth.mean(dim=(2, 3))
        boxes = torch.cat([self.corners + 0 * cells, 4 * cells], 2)
        return 4 * smooth, torch.exp(-smooth * smooth), torch.cat([-level, level], 1), boxes, frame + 0 * smooth


def frame(seed: int) -> npt.NDArray[np.uint8]:
    image = np.random.default_rng(seed).integers(0, 60, (64, 96), dtype=np.uint8)
    image[16:32, 24:60] = 240
    return image


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    names = tuple(output.name for output in OUTPUTS)
    model = export_torch(Everything().eval(), SHAPE, input_name="input", output_names=names)
    inputs = [((np.random.default_rng(k).random(SHAPE) - 0.5) / 0.25).astype(np.float32) for k in range(6)]
    models, report = lower(model, inputs, precisions=("fp32", "fp16"), rtx=False)
    contract = {"input_spec": InputSpec(name="input", shape=SHAPE), "output_specs": OUTPUTS}
    return {"models": models, "report": report, "inputs": inputs, "contract": contract}


def test_packaged_loaded_and_streamed(made: dict[str, Any], tmp_path: Path) -> None:
    models = made["models"]
    verification = verify_agreement(models, inputs=made["inputs"], student=models["fp32"], **made["contract"])
    assert verification.score("fp32").least == 1
    path = package(
        tmp_path / "all.edge",
        name="all",
        version="1",
        models=models,
        report=made["report"],
        output_specs=OUTPUTS,
        preprocess=PREPROCESS,
        golden_inputs=made["inputs"][:2],
        card=ModelCard(intended_use="Test.", training_data="None.", limits="All."),
        verification=verification,
        created=datetime(2026, 1, 31, tzinfo=UTC),
    )
    with Bundle.open(path) as bundle:
        assert (bundle.manifest.schema_version, bundle.manifest.outputs) == (2, OUTPUTS)
        assert bundle.manifest.variants[0].scores == {"agreement": 1.0}
        assert "equal decisions" in bundle.card()
    assert all(test.agreement >= test.min_agreement for test in load(path).self_tests)
    memory = CollectSink()
    source = ArraySource(np.stack([frame(k) for k in range(3)]), fps=30.0)
    run_stream(path, source, RunSettings(pace="lossless"), record=tmp_path / "run", sinks={"memory": memory})
    results: list[Result] = list(memory.results)
    assert len(results) == 3
    for result in results:
        check(result)
    record = read_jsonl(tmp_path / "run" / "results.jsonl")
    assert [row["classes"][0]["label"] for row in record.results] == ["dark"] * 3
    assert record.results[0]["detections"][0]["label"] == "cell"


def check(result: Result) -> None:
    assert result.mask is not None
    assert result.mask[20:28, 28:56].all()
    assert result.image is not None
    assert result.image[24, 40] > 200
    assert result.uncertainty_map is not None
    assert result.uncertainty is not None
    assert result.classes[0].probability > 0.5
    assert result.detections
    for box in result.detections:
        assert result.frame.image[int(box.y0) + 3, int(box.x0) + 4] > 200
    assert draw_overlay(result).shape[2] == 3


def test_a_variant_that_decides_otherwise_is_refused_unless_overridden(made: dict[str, Any]) -> None:
    other = Everything().eval()
    with torch.no_grad():
        other.blur.weight.neg_()
    names = tuple(output.name for output in OUTPUTS)
    wrong = export_torch(other, SHAPE, input_name="input", output_names=names).SerializeToString()
    arguments = {"inputs": made["inputs"], "student": made["models"]["fp32"], **made["contract"]}
    with pytest.raises(LoweringError, match=r"fp16: mask agrees in .* spread|fp16: mask agrees in"):
        verify_agreement({"fp16": wrong}, **arguments)
    report = verify_agreement({"fp16": wrong}, **arguments, overrides={"fp16": "a test"})
    assert report.score("fp16").override == "a test"
    assert report.score("fp16").failures


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": []}, "0 inputs"),
        ({"min_agreement": {}}, "have no gate"),
        ({"overrides": {"fp16": " "}}, "carries a reason"),
    ],
)
def test_bad_arguments(made: dict[str, Any], change: dict[str, Any], message: str) -> None:
    arguments = {"inputs": made["inputs"], "student": made["models"]["fp32"], **made["contract"], **change}
    with pytest.raises(ConfigError, match=message):
        verify_agreement({"fp16": made["models"]["fp16"]}, **arguments)


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.5])
def test_a_picture_of_nothing_or_of_no_numbers_is_refused(build: Any, value: float) -> None:
    """Where the student's picture is black there is no signal to hold noise against; only an equal one passes."""

    def constant(value: float) -> bytes:
        nodes = [
            helper.make_node("Mul", ["image", "zero"], ["black"]),
            helper.make_node("Add", ["black", "c"], ["mask"]),
        ]
        constants = {"zero": np.float32(0), "c": np.float32(value)}
        return bytes(build(nodes, constants, input_shape=SHAPE).SerializeToString())

    arguments: dict[str, Any] = {
        "inputs": [np.ones(SHAPE, np.float32)],
        "student": constant(0.0),
        "input_spec": InputSpec(name="image", shape=SHAPE),
        "output_specs": (OutputSpec(name="mask", shape=SHAPE, kind="image"),),
    }
    assert not verify_agreement({"fp16": constant(0.0)}, **arguments).failed
    reasons = r"mask has -300\.0 dB" if np.isfinite(value) else r"fp16: its outputs are not finite, mask has -300\.0 dB"
    with pytest.raises(LoweringError, match=reasons):
        verify_agreement({"fp16": constant(value)}, **arguments)


def test_a_failure_says_where_and_how_sure(made: dict[str, Any]) -> None:
    other = Everything().eval()
    with torch.no_grad():
        other.blur.weight.neg_()
    names = tuple(output.name for output in OUTPUTS)
    wrong = lower(
        export_torch(other, SHAPE, output_names=names, input_name="input"),
        made["inputs"],
        precisions=("fp16",),
        rtx=False,
    )[0]
    report = verify_agreement(
        {"fp16": wrong["fp16"]}, inputs=made["inputs"], student=made["models"]["fp32"], **made["contract"], refuse=False
    )
    score = report.failed[0]
    assert "'Conv_0' (Conv)" in score.divergence
    low, high = score.agreement_interval["mask"] or (0.0, 0.0)
    assert low <= score.agreement["mask"] <= high
    with pytest.raises(LoweringError, match="on onnxruntime; it diverges first at node"):
        report.require_passed()
