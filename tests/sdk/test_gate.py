"""Gates fitted on the host: rates on known distributions, the bundle's way, and unlike frames told from real ones."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
import torch

from edge_runtime.bundle import OutputSpec
from edge_runtime.errors import ConfigError
from edge_runtime.frame import Frame
from edge_runtime.metrics.classification import auroc
from edge_sdk.config import NetworkConfig
from edge_sdk.gate import WithFeatures, fit_energy_gate, fit_mahalanobis_gate, gate_scores
from edge_sdk.students import build_network

FEATURES = OutputSpec(name="f", shape=(1, 6), kind="features")
CLASSES = OutputSpec(name="c", shape=(1, 3), kind="class_logits", classes=("a", "b", "c"))
RNG = np.random.default_rng(2)
MIX = RNG.standard_normal((6, 6))


def drawn(n: int, seed: int) -> npt.NDArray[np.float32]:
    return np.asarray(np.random.default_rng(seed).standard_normal((n, 6)) @ MIX, np.float32)


def test_distances_of_gaussian_features_are_those_of_chi() -> None:
    """Squared distances of six Gaussian features follow chi^2 with six degrees, whatever mixes them."""
    stats = pytest.importorskip("scipy.stats")
    gate = fit_mahalanobis_gate(drawn(20_000, 0), drawn(3_000, 1), FEATURES, over="draws")
    assert gate.threshold**2 == pytest.approx(stats.chi2.ppf(0.95, 6), rel=0.08)
    assert gate.false_alarm == pytest.approx(0.05)
    fresh = gate_scores(drawn(2_000, 2), msgspec.structs.replace(FEATURES, gate=gate))
    assert (fresh > gate.threshold).mean() == pytest.approx(0.05, abs=0.02)


def test_a_class_has_a_mean_of_its_own() -> None:
    labels = np.arange(400) % 2
    features = drawn(400, 3) + labels[:, None].astype(np.float32) * 30
    gate = fit_mahalanobis_gate(features, features, FEATURES, over="draws", labels=labels)
    one = fit_mahalanobis_gate(features, features, FEATURES, over="draws")
    middle = np.asarray(features.mean(axis=0, keepdims=True), np.float32)
    assert len(gate.means) == 2
    assert gate_scores(middle, msgspec.structs.replace(FEATURES, gate=gate))[0] > gate.threshold
    assert gate_scores(middle, msgspec.structs.replace(FEATURES, gate=one))[0] < 0.01


def test_fewer_frames_than_features_still_give_a_gate() -> None:
    gate = fit_mahalanobis_gate(drawn(4, 5), drawn(40, 6), FEATURES, over="draws")
    assert np.isfinite(gate.threshold)


def test_the_rate_is_at_most_what_was_asked_for() -> None:
    logits = RNG.standard_normal((59, 3)).astype(np.float32)
    for rate in (0.02, 0.05, 0.5):
        gate = fit_energy_gate(logits, CLASSES, over="draws", false_alarm=rate, temperature=2.0)
        scores = gate_scores(logits, msgspec.structs.replace(CLASSES, gate=gate))
        assert gate.false_alarm == (scores > gate.threshold).mean() <= rate
        assert gate.false_alarm > rate - 1 / 59
        assert (gate.n, gate.over, gate.temperature) == (59, "draws", 2.0)
    ties = fit_energy_gate(np.zeros((40, 3), np.float32), CLASSES, over="one frame, again")
    assert ties.false_alarm == 0


BAD: list[tuple[Any, str]] = [
    (lambda: fit_energy_gate(np.zeros((19, 3), np.float32), CLASSES, over="x"), "20 or more"),
    (lambda: fit_energy_gate(np.zeros((19, 3), np.float32), CLASSES, over="x", false_alarm=0.0), "above 0"),
    (lambda: fit_energy_gate(np.zeros((20, 2), np.float32), CLASSES, over="x"), "as output 'c'"),
    (lambda: fit_mahalanobis_gate(drawn(1, 0), drawn(20, 0), FEATURES, over="x"), "two finite rows"),
    (lambda: fit_mahalanobis_gate(drawn(5, 0) * np.nan, drawn(20, 0), FEATURES, over="x"), "two finite rows"),
    (lambda: fit_mahalanobis_gate(np.ones((5, 6), np.float32), drawn(20, 0), FEATURES, over="x"), "the same in every"),
    (lambda: WithFeatures(torch.nn.Identity(), torch.nn.Identity()), "no module of the network"),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_what_cannot_be_fitted(call: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        call()


def test_features_leave_the_network_beside_its_answer() -> None:
    network = build_network(NetworkConfig(width=4, depth=3, max_width=16)).eval()
    frames = torch.rand(2, 1, 32, 32)
    kept: list[torch.Tensor] = []
    with torch.inference_mode():
        answer, features = WithFeatures(network, network.encoder[-1]).eval()(frames)
        network.encoder[-1].register_forward_hook(lambda module, inputs, output: kept.append(output))
        assert torch.equal(answer, network(frames))
    assert torch.equal(features, kept[0].mean(dim=(2, 3)))
    assert features.shape == (2, 16)


@pytest.mark.slow
@pytest.mark.skipif("POCUS_DATA" not in os.environ, reason="POCUS_DATA is not set")
def test_the_head_student_tells_other_frames() -> None:
    """`docs/postprocessing.md` has these figures: run with -s to print them."""
    from benchmarks.distill.cases import HC18, USGRA
    from benchmarks.distill.segmentation import network
    from benchmarks.distill.stored import load_weights
    from edge_sdk.frames import network_inputs

    torch.set_num_threads(1)
    student = load_weights(HC18.name, "student", network(HC18, "student"))
    both = WithFeatures(student, student.encoder[-1])

    def answers(frames: list[Frame]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        inputs = torch.from_numpy(network_inputs(frames, HC18.spec))
        with torch.inference_mode():
            parts = [both(inputs[k : k + 16]) for k in range(0, len(inputs), 16)]
        return tuple(np.concatenate([part[i].numpy() for part in parts]) for i in (0, 1))  # type: ignore[return-value]

    fit, held = HC18.read("train").halves()
    known = list(HC18.read("test").labelled.frames)
    rng, shape = np.random.default_rng(0), known[0].shape
    unlike = {
        "usgra": list(USGRA.read("test").labelled.frames),
        "noise": [plain(rng.integers(0, 256, shape, np.uint8)) for _ in range(40)],
        "dark": [plain(np.clip(rng.normal(8, 4, shape), 0, 255).astype(np.uint8)) for _ in range(40)],
        "black": [plain(np.zeros(shape, np.uint8))],
        "upside down": [plain(np.ascontiguousarray(frame.image[::-1])) for frame in known],
    }
    mask = OutputSpec(name="mask", shape=(1, 1, 160, 240), kind="mask_logits", classes=("head",))
    (held_logits, held_features), (_, features) = (
        answers(list(held.labelled.frames)),
        answers(list(fit.labelled.frames)),
    )
    vector = OutputSpec(name="features", shape=(1, features.shape[1]), kind="features")
    energy = msgspec.structs.replace(mask, gate=fit_energy_gate(held_logits, mask, over="held-out exams"))
    far = msgspec.structs.replace(
        vector, gate=fit_mahalanobis_gate(features, held_features, vector, over="held-out exams")
    )
    ours = answers(known)
    for k, output in enumerate((energy, far)):
        assert output.gate is not None
        inside = gate_scores(ours[k], output)
        print(f"{output.gate.__class__.__name__}: alarms on test {(inside > output.gate.threshold).mean():.3f}")
        for name, frames in unlike.items():
            scores = gate_scores(answers(frames)[k], output)
            area = auroc(np.concatenate([inside, scores]), np.repeat([0, 1], [len(inside), len(scores)]))
            beyond = (scores > output.gate.threshold).mean()
            print(f"  {name}: AUROC {area:.4f}, beyond {beyond:.3f}, n {len(inside)} + {len(scores)}")
            assert name == "upside down" or (area > 0.99 and beyond > 0.95)


def plain(image: npt.NDArray[np.uint8]) -> Frame:
    return Frame(image=image, index=0, arrival_ns=0)


def test_from_the_fit_to_a_frame_through_a_bundle(tmp_path: Path) -> None:
    """Gates, rules and measurements as they leave the host are what the device computes, to the last bit."""
    export = pytest.importorskip("edge_export")
    pytest.importorskip("onnxruntime")
    from edge_runtime.bundle.manifest_reading import Measure, Rule
    from edge_runtime.frame import FrameGeometry
    from edge_runtime.loading import load
    from edge_runtime.preprocess import Normalize, Preprocessor, PreprocessSpec, Resize

    network = build_network(NetworkConfig(width=4, depth=3, max_width=16)).eval()
    both = WithFeatures(network, network.encoder[-1]).eval()
    inputs = [np.random.default_rng(k).random((1, 1, 32, 32), np.float32) for k in range(24)]
    with torch.inference_mode():
        logits, features = both(torch.from_numpy(np.concatenate(inputs)))
    mask = OutputSpec(name="mask", shape=(1, 1, 32, 32), kind="mask_logits", classes=("head",))
    vector = OutputSpec(name="features", shape=(1, 16), kind="features")
    outputs = (
        msgspec.structs.replace(
            mask,
            keep="largest",
            gate=fit_energy_gate(logits.numpy(), mask, over="noise"),
            rules=(Rule(name="never", label="head", quantity="area_share", least=2.0),),
            measure=(Measure(label="head", quantities=("area",), spacing_rel=0.01),),
        ),
        msgspec.structs.replace(
            vector, gate=fit_mahalanobis_gate(features.numpy(), features.numpy(), vector, over="noise")
        ),
    )
    model = export.export_torch(both, (1, 1, 32, 32), input_name="input", output_names=("mask", "features"))
    models, report = export.lower(model, inputs, precisions=("fp32",), rtx=False)
    spec = PreprocessSpec(steps=(Resize(height=32, width=32), Normalize(mean=0, std=1, scale=255)))
    path = export.package(
        tmp_path / "gated.edge",
        name="gated",
        version="1",
        models=models,
        report=report,
        output_specs=outputs,
        preprocess=spec,
        golden_inputs=inputs[:1],
        card=export.ModelCard(intended_use="Test.", training_data="None.", limits="All."),
    )
    loaded = load(path)
    assert (loaded.manifest.schema_version, loaded.manifest.outputs) == (3, outputs)
    (rung,) = loaded.branch().rungs
    image = np.random.default_rng(0).integers(0, 256, (32, 32), np.uint8)
    frame = Frame(image=image, index=0, arrival_ns=0, geometry=FrameGeometry(reason="a screen capture"))
    prepared = Preprocessor(spec)(frame)
    with rung.runner as runner:
        found: Any = rung.postprocess(
            runner.infer({"input": prepared.tensor}), prepared, frame, mask_out=None, probability_out=None
        )
    with torch.inference_mode():
        wanted = both(torch.from_numpy(prepared.tensor.copy()))
    assert [gate.output for gate in found.gates] == ["mask", "features"]
    for gate, values, output in zip(found.gates, wanted, outputs, strict=True):
        assert gate.score == pytest.approx(gate_scores(values.numpy(), output)[0], rel=1e-4)
    assert [finding.rule for finding in found.findings] == ["never"]
    assert found.measurements[0].withheld == "a screen capture"
