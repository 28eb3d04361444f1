"""Scores of gates against closed forms, and frames that are marked as out of distribution."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edge_runtime.bundle import Bundle, OutputSpec, write_bundle
from edge_runtime.bundle.manifest_reading import EnergyGate, MahalanobisGate, Rule
from edge_runtime.errors import ConfigError, InferenceError
from edge_runtime.frame import Frame
from edge_runtime.loading import load
from edge_runtime.postprocess import GateReader, OutputsPostprocessor
from edge_runtime.postprocess.gates import class_energy, mask_energy
from edge_runtime.preprocess import Normalize, Preprocessor, PreprocessSpec, Resize
from edge_runtime.result import GateScore, Result
from edge_runtime.sources import ArraySource
from edge_runtime.streaming import Pipeline

pytest.importorskip("cv2")
V1 = Path(__file__).parents[1] / "data" / "v1.edge"
SPEC = PreprocessSpec(steps=(Resize(height=8, width=8), Normalize()))
FITTED: dict[str, Any] = {"false_alarm": 0.05, "n": 40, "over": "held-out frames"}
CLASSES = OutputSpec(
    name="c", shape=(1, 3), kind="class_logits", classes=("a", "b", "c"), gate=EnergyGate(threshold=-3.0, **FITTED)
)
MASK = OutputSpec(
    name="m", shape=(1, 1, 8, 8), kind="mask_logits", classes=("cyst",), gate=EnergyGate(threshold=-2.0, **FITTED)
)
FAR = MahalanobisGate(means=((0.0, 0.0), (10.0, 0.0)), whitening=((1.0,), (-0.5, 0.5)), threshold=3.0, **FITTED)
FEATURES = OutputSpec(name="f", shape=(1, 2, 4, 4), kind="features", gate=FAR)
LOGITS = hnp.arrays(np.float32, st.integers(2, 6), elements=st.floats(-40, 40, width=32))


@given(LOGITS, st.floats(0.2, 10))
def test_the_energy_of_classes(logits: npt.NDArray[np.float32], temperature: float) -> None:
    wanted = -temperature * math.log(sum(math.exp(float(z) / temperature) for z in logits))
    assert class_energy(logits, temperature) == pytest.approx(wanted, rel=1e-6, abs=1e-6)


def test_one_logit_stands_against_zero() -> None:
    assert class_energy(np.array([2.0], np.float32), 1.5) == pytest.approx(class_energy(np.array([0.0, 2.0]), 1.5))


def test_the_energy_of_a_mask_is_that_of_the_pixels_in_question() -> None:
    logits = np.full((1, 4, 4), -30, np.float32)
    assert mask_energy(logits) == 0  # nothing there: the highest
    logits[0, :2] = 3
    assert mask_energy(logits) == pytest.approx(-math.log(1 + math.exp(3)), rel=1e-6)
    assert mask_energy(logits, 2.0) == pytest.approx(-2 * math.log(1 + math.exp(1.5)), rel=1e-6)
    several = np.concatenate([np.zeros_like(logits), logits]) + np.float32(7)  # a shift says nothing
    assert mask_energy(several) == pytest.approx(mask_energy(logits), rel=1e-5)
    three = np.zeros((3, 1, 1), np.float32)
    assert mask_energy(three) == pytest.approx(-math.log(3))


def test_the_distance_of_features() -> None:
    """Whitening W with W^T W the inverse covariance: |W (f - mean)| to the nearer mean, of maps pooled first."""
    whitening = np.array([[1.0, 0.0], [-0.5, 0.5]])
    inverse = whitening.T @ whitening
    rng = np.random.default_rng(0)
    for _ in range(20):
        maps = rng.standard_normal((1, 2, 4, 4)).astype(np.float32) * 9
        f = maps.mean(axis=(2, 3))[0]
        wanted = min(math.sqrt((f - mean) @ inverse @ (f - mean)) for mean in np.array(FAR.means))
        assert GateReader(FEATURES)(maps).score == pytest.approx(wanted, rel=1e-5)


def test_a_frame_beyond_a_gate_says_so() -> None:
    read, prepare = OutputsPostprocessor((MASK, CLASSES, FEATURES), SPEC), Preprocessor(SPEC)
    frame = Frame(image=np.zeros((8, 8), np.uint8), index=0, arrival_ns=0)
    known = {
        "m": np.full((1, 1, 8, 8), 6, np.float32),
        "c": np.array([[9, 0, 0]], np.float32),
        "f": np.zeros((1, 2, 4, 4), np.float32),
    }
    outcome = read(known, prepare(frame), frame)
    assert [gate.output for gate in outcome.gates] == ["m", "c", "f"]
    assert not any(gate.beyond for gate in outcome.gates)
    result = Result(frame=frame, branch="b", state="fresh", gates=outcome.gates)
    assert result.out_of_distribution is None
    strange = read(known | {"f": np.full((1, 2, 4, 4), 50, np.float32)}, prepare(frame), frame)
    assert strange.mask is not None  # marked, not taken away
    result = Result(frame=frame, branch="b", state="fresh", gates=strange.gates)
    assert result.out_of_distribution == GateScore(output="f", score=strange.gates[2].score, threshold=3.0)
    assert result.copy().out_of_distribution == result.out_of_distribution


def test_a_score_at_the_threshold_is_within() -> None:
    assert not GateScore(output="f", score=3.0, threshold=3.0).beyond


def test_what_cannot_be_scored() -> None:
    with pytest.raises(InferenceError, match="not finite"):
        GateReader(FEATURES)(np.full((1, 2, 4, 4), np.nan, np.float32))
    with pytest.raises(ConfigError, match="has no gate"):
        GateReader(msgspec.structs.replace(FEATURES, gate=None))


def test_the_report_of_a_stream_counts_marked_results(tmp_path: Path) -> None:
    """A gate that every frame lies beyond and a rule that none keeps, written into a bundle: the report says so."""
    pytest.importorskip("onnxruntime")
    with Bundle.open(V1) as bundle:
        manifest = bundle.manifest
        members = {member.path: bundle.read(member.path) for member in manifest.members}
    (output,) = manifest.outputs
    never = Rule(name="twice the frame", label=output.classes[0], quantity="area_share", least=2.0)
    marked = msgspec.structs.replace(output, gate=EnergyGate(threshold=-1e6, **FITTED), rules=(never,))
    told = msgspec.structs.replace(manifest, schema_version=3, outputs=(marked,), members=())
    write_bundle(tmp_path / "marked.edge", told, members)
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64), np.uint8)
    branch = load(tmp_path / "marked.edge", variant="fp32", verify=False).branch()
    with Pipeline({"model": branch}) as pipeline:
        report = pipeline.run(ArraySource(images))
    assert report.branches["model"].marked == {f"{output.name} beyond its gate": 3, "rule 'twice the frame'": 3}
    assert f"branch model: 3 of 3 results are marked: {output.name} beyond its gate" in report.warnings
    assert report.to_dict()["branches"]["model"]["marked"]["rule 'twice the frame'"] == 3
