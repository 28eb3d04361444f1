"""A recipe that asks for a gate: its bundle accepts frames of its own kind and refuses others, on the device's road."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edge_runtime.bundle import Bundle
from edge_runtime.bundle.manifest_reading import EnergyGate, MahalanobisGate
from edge_runtime.errors import ConfigError
from edge_runtime.frame import Frame
from edge_runtime.loading import load
from edge_runtime.preprocess import Preprocessor
from edge_runtime.result import GateScore
from edge_sdk.gate import fit_mahalanobis_gate, gate_scores, mahalanobis_in_folds
from edge_sdk.recipe import effective_yaml, parse_recipe, run_recipe
from edge_sdk.recipe_export import ExportSection

cv2: Any = pytest.importorskip("cv2")

Image = npt.NDArray[np.uint8]
N_TRAIN, N_TEST = 60, 10
CARD = "card: {intended_use: Tests., training_data: Discs., limits: All., license: cc0-1.0}"
RECIPE = """
name: discs
data: {kind: folder, images: images, masks: masks, manifest: m.csv, group: exam}
classes: [disc]
unlabelled: []
preprocess: {steps: [{step: to_gray}, {step: resize, height: 32, width: 32}, {step: normalize}]}
teacher: {train: {network: &net {width: 6, depth: 3}, optimiser: &opt {epochs: 15, batch_size: 10,
  learning_rate: 5.0e-3, threads: 1}}}
distill: {network: *net, optimiser: *opt}
export:
  rtx: false
  precisions: [int8]
  max_drop_points: {int8: 20}
  gate: {score: SCORE, false_alarm: 0.05}
  reading:
    keep: largest
    smoothing: 0.5
    rules: [{name: no jump, label: disc, quantity: centre_jump, most: 0.1}]
    measure: [{label: disc, quantities: [diameter], spacing_rel: 0.01}]
  CARD
""".replace("CARD", CARD)


def disc(rng: np.random.Generator) -> tuple[Image, Image]:
    """A dark disc in speckled tissue, and its mask, (48, 48)."""
    y, x = np.mgrid[:48, :48]
    centre, radius = rng.uniform(18, 30, 2), rng.uniform(8, 12)
    inside = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 < radius**2
    image = np.where(inside, 30, 130) * rng.rayleigh(0.8, inside.shape)
    blurred: Image = np.asarray(np.clip(cv2.GaussianBlur(image, (0, 0), 1), 0, 255), np.uint8)
    return blurred, inside.astype(np.uint8) * 255


def unlike(kind: str, rng: np.random.Generator) -> Image:
    """What the student never saw: white noise, an empty screen, bright stripes as of muscle."""
    if kind == "noise":
        return rng.integers(0, 256, (48, 48), dtype=np.uint8)
    if kind == "empty":
        return np.full((48, 48), 3, np.uint8)
    rows = 200 + 55 * np.sin(np.arange(48)[:, None] * 1.3 + rng.uniform(0, 6))
    return np.asarray(np.clip(rows + rng.normal(0, 5, (48, 48)), 0, 255), np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("gated")
    rows = ["file,split,exam"]
    for name in ("images", "masks"):
        (made / name).mkdir()
    for k in range(N_TRAIN + N_TEST):
        image, mask = disc(np.random.default_rng(k))
        cv2.imwrite(str(made / "images" / f"{k}.png"), image)
        cv2.imwrite(str(made / "masks" / f"{k}.png"), mask)
        rows.append(f"{k}.png,{'train' if k < N_TRAIN else 'test'},e{k // 2}")
    (made / "m.csv").write_text("\n".join(rows) + "\n")
    return made


@pytest.mark.parametrize(
    ("score", "kinds"),
    [("energy", ("noise", "stripes")), ("mahalanobis", ("noise", "stripes", "empty"))],  # dark as a disc: sure of it
)
def test_a_bundle_of_a_recipe_refuses_other_frames_and_accepts_its_own(
    folder: Path, score: str, kinds: tuple[str, ...]
) -> None:
    (folder / "r.yaml").write_text(RECIPE.replace("SCORE", score))
    report = run_recipe(folder / "r.yaml", folder / "out")  # the second of both takes the student from the cache
    file = folder / "out" / report["export"]["file"]
    own = [disc(np.random.default_rng(1000 + k))[0] for k in range(40)]
    for variant in ("fp32", "int8"):
        assert np.mean([gate.beyond for gate in scores(file, variant, own)]) <= 0.15
        for kind in kinds:
            strange = [unlike(kind, np.random.default_rng(k)) for k in range(10)]
            assert all(gate.beyond for gate in scores(file, variant, strange)), (variant, kind)
    with Bundle.open(file) as bundle:
        bundle.verify_all()
        output = bundle.manifest.outputs[-1]
        mask = bundle.manifest.outputs[0]
        assert (mask.keep, mask.smoothing, mask.rules[0].name) == ("largest", 0.5, "no jump")
        assert mask.measure[0].quantities == ("diameter",)
        gate = output.gate
        assert isinstance(gate, EnergyGate if score == "energy" else MahalanobisGate)
        assert gate.n == N_TRAIN
        assert 0 < gate.false_alarm <= 0.05
        (path,) = [item.path for item in bundle.manifest.evidence if item.title == "Gate"]
        proof = json.loads(bundle.read(path))
        assert proof["threshold"] == gate.threshold
        assert (proof["held_out_frames"], len(proof["held_out"])) == (N_TEST, 2)
        assert f"{gate.threshold:.4g}" in bundle.card()
        assert f"{N_TRAIN} frames of training" in bundle.card()


def scores(file: Path, variant: str, images: list[Image]) -> list[GateScore]:
    """Of frames through preprocessing, network and postprocessing as on a device."""
    loaded = load(file, variant=variant)
    (rung,) = loaded.branch().rungs
    found = []
    with rung.runner as runner:
        prepare = Preprocessor(loaded.manifest.preprocess)
        for k, image in enumerate(images):
            frame = Frame(image=image, index=k, arrival_ns=k)
            prepared = prepare(frame)
            answer = runner.infer({loaded.manifest.input.name: prepared.tensor})
            outcome: Any = rung.postprocess(answer, prepared, frame, mask_out=None, probability_out=None)
            found.append(outcome.gates[0])
    return found


@pytest.mark.parametrize(
    ("gate", "task", "message"),
    [
        ("{score: energy}", "detection", "score is energy; detection has mahalanobis"),
        ("{score: mahalanobis}", "classification", "score is mahalanobis; classification has energy"),
        ("{score: softmax}", "segmentation", "softmax"),
        ("{false_alarm: 0}", "segmentation", "gate: false_alarm is 0"),
        ("{false_alarm: 1.5}", "segmentation", "gate: false_alarm is 1.5"),
        ("{rate: 0.1}", "segmentation", "rate"),
    ],
)
def test_wrong_gates_are_refused(gate: str, task: str, message: str) -> None:
    text = {
        "segmentation": "name: a\ndata: {kind: folder, images: i, masks: m, manifest: m.csv}\nclasses: [a]\n",
        "detection": "task: detection\nname: a\ndata: {images: i, boxes: b.csv, manifest: m.csv}\nclasses: [a]\n",
        "classification": "task: classification\nname: a\nclasses: [{name: a}, {name: b}]\ndata: {manifest: m.csv}\n",
    }[task]
    with pytest.raises(ConfigError, match=message):
        parse_recipe(f"{text}export:\n  gate: {gate}\n  {CARD}\n")


@pytest.mark.parametrize(
    ("reading", "message"),
    [
        ("{smoothing: 0}", "export: reading: .*smoothing 0.0; above 0"),
        ("{rules: [{name: a, label: cyst, quantity: parts, most: 1}]}", "is of 'cyst'; the classes .*disc"),
        ("{measure: [{label: disc, quantities: [], spacing_rel: 0.1}]}", "measures nothing of 'disc'"),
        ("{measure: [{label: disc, quantities: [weight], spacing_rel: 0.1}]}", "weight"),
    ],
)
def test_a_reading_that_no_device_takes_is_refused_before_training(folder: Path, reading: str, message: str) -> None:
    head, _, _ = RECIPE.partition("  gate:")
    (folder / "bad.yaml").write_text(f"{head}  reading: {reading}\n  {CARD}\n")
    with pytest.raises(ConfigError, match=message):
        run_recipe(folder / "bad.yaml", folder / "never")
    assert not (folder / "never").exists()


def test_a_reading_belongs_to_masks() -> None:
    text = "task: classification\nname: a\nclasses: [{name: a}, {name: b}]\ndata: {manifest: m.csv}\n"
    with pytest.raises(ConfigError, match="reading is given; it is of masks, and the task is classification"):
        parse_recipe(f"{text}export:\n  reading: {{keep: largest}}\n  {CARD}\n")


def test_the_gate_is_part_of_the_effective_recipe() -> None:
    whole = parse_recipe(RECIPE.replace("SCORE", "energy"))
    assert isinstance(whole.export, ExportSection)
    assert whole.export.gate
    assert parse_recipe(effective_yaml(whole)) == whole
    without = parse_recipe(RECIPE.replace("gate: {score: SCORE, false_alarm: 0.05}", ""))
    assert "gate" not in effective_yaml(without)


def test_too_few_frames_for_the_rate_are_refused(folder: Path) -> None:
    (folder / "few.yaml").write_text(RECIPE.replace("score: SCORE, false_alarm: 0.05", "false_alarm: 0.01"))
    with pytest.raises(ConfigError, match="60 held-out frames at a false-alarm rate of"):
        run_recipe(folder / "few.yaml", folder / "out")


def test_a_threshold_of_folds_holds_for_new_frames() -> None:
    """Few frames for many features: distances of the fitted frames promise a rate that new ones break by far."""
    from edge_runtime.bundle import OutputSpec

    rng = np.random.default_rng(4)
    scale = np.geomspace(1, 100, 24)
    features, new = ((rng.standard_normal((n, 24)) * scale).astype(np.float32) for n in (60, 4000))
    output = OutputSpec(name="f", shape=(1, 24), kind="features")
    groups = [str(k // 2) for k in range(60)]
    plain = fit_mahalanobis_gate(features, features, output, over="x", false_alarm=0.1)
    folded = mahalanobis_in_folds(features, groups, output, over="x", false_alarm=0.1)
    assert (folded.means, folded.whitening) == (plain.means, plain.whitening)
    distances = gate_scores(new, OutputSpec(name="f", shape=(1, 24), kind="features", gate=plain))
    assert (distances > plain.threshold).mean() > 0.25
    assert (distances > folded.threshold).mean() <= 0.18
    with pytest.raises(ConfigError, match="59 groups of 60 frames"):
        mahalanobis_in_folds(features, groups[:-1], output, over="x")
