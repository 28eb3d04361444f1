"""The commands of `edge-export`: what they print, what they end with."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from typer.testing import CliRunner

from edge_export import __version__
from edge_export.cli import app

V1 = Path(__file__).parents[1] / "data" / "v1.edge"
HEAVY = ("numpy", "onnx", "torch", "onnxruntime", "cv2", "pydicom", "cryptography", "scipy")
SPEC = """
name: line
version: "1"
model: model.onnx
classes: [bright]
intended_use: None.
training_data: None.
limits: None.
preprocess: {steps: [{step: resize, height: 16, width: 16}, {step: normalize}]}
frames: {path: frames.npy}
lowering: {precisions: [fp32], rtx: false}
"""


def call(*arguments):
    return CliRunner().invoke(app, [str(item) for item in arguments])


def refused(found, code: int, *words: str) -> None:
    assert (found.exit_code, found.stdout) == (code, ""), found.stderr
    assert "Traceback" not in found.stderr
    assert any(line.startswith("error: ") for line in found.stderr.splitlines()), found.stderr
    for word in words:
        assert word in found.stderr


@pytest.fixture
def folder(tmp_path):
    """spec.yaml, frames.npy and a model of one convolution."""
    weight = helper.make_tensor("w", TensorProto.FLOAT, (1, 1, 3, 3), np.linspace(-1, 1, 9))
    graph = helper.make_graph(
        [helper.make_node("Conv", ["image", "w"], ["mask"], name="conv", pads=[1, 1, 1, 1], kernel_shape=[3, 3])],
        "line",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, (1, 1, 16, 16))],
        [helper.make_tensor_value_info("mask", TensorProto.FLOAT, (1, 1, 16, 16))],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.save(model, tmp_path / "model.onnx")
    np.save(tmp_path / "frames.npy", np.random.default_rng(0).integers(0, 255, (4, 20, 20), dtype=np.uint8))
    (tmp_path / "spec.yaml").write_text(SPEC)
    return tmp_path


@pytest.mark.parametrize("command", [(), ("package",), ("lower",), ("verify",), ("lint",), ("keygen",), ("sign",)])
def test_every_command_has_help(command):
    found = call(*command, "--help")
    assert found.exit_code == 0
    assert "Usage:" in found.stdout


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom edge_export.cli import main\ntry:\n    main()\nexcept SystemExit as end:\n"
        f"    print('LOADED', [m for m in {HEAVY!r} if m in sys.modules], end.code)"
    )
    command = [sys.executable, "-c", code, "--help"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert found.stdout.splitlines()[-1] == "LOADED [] 0", found.stderr


def test_version():
    assert call("--version").stdout == f"{__version__}\n"


def test_package_then_keygen_then_sign_then_verify(folder):
    from edge_runtime.bundle import verify_bundle

    edge, private, public = (folder / name for name in ("a.edge", "k.pem", "k.pub"))
    made = call("package", folder / "spec.yaml", "--out", edge)
    assert made.exit_code == 0, made.stderr
    assert "not verified" in made.stdout
    assert "not signed" in made.stdout
    assert call("keygen", private, public).exit_code == 0
    before = edge.read_bytes()
    assert call("sign", edge, "--key", private, "--out", folder / "b.edge").exit_code == 0
    assert edge.read_bytes() == before
    assert call("sign", edge, "--key", private).exit_code == 0
    assert edge.read_bytes() == (folder / "b.edge").read_bytes()
    assert verify_bundle(edge, trust=[public], require_signature=True).signature.trusted
    facts = json.loads(call("package", folder / "spec.yaml", "--out", edge, "--key", private, "--json").stdout)
    assert facts["schema"] == "edge-export.package/1"
    assert facts["signed"] is True


def test_keygen_never_overwrites(folder):
    private, public = folder / "k.pem", folder / "k.pub"
    call("keygen", private, public)
    before = private.read_bytes(), public.read_bytes()
    refused(call("keygen", private, folder / "other.pub"), 2, "never overwritten")
    refused(call("keygen", folder / "other.pem", public), 2, "never overwritten")
    assert (private.read_bytes(), public.read_bytes()) == before
    assert not (folder / "other.pem").exists()
    assert not (folder / "other.pub").exists()


def test_lint_is_exit_1_when_a_rule_is_broken(folder):
    clean = call("lint", folder / "model.onnx")
    assert clean.exit_code == 0
    assert "0 errors" in clean.stderr
    model = onnx.load(folder / "model.onnx")
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    onnx.save(model, folder / "open.onnx")
    broken = call("lint", folder / "open.onnx", "--json")
    assert broken.exit_code == 1
    report = json.loads(broken.stdout)
    assert any(finding["severity"] == "error" for finding in report["findings"])
    assert "error" in call("lint", folder / "open.onnx").stdout


def test_mistakes(folder):
    out = folder / "a.edge"
    names = {item.name for item in folder.iterdir()}
    refused(call("package", folder / "none.yaml", "--out", out), 2, "none.yaml cannot be read")
    refused(call("package", folder / "frames.npy", "--out", out), 2, "cannot be read")
    refused(call("package", folder / "spec.yaml", "--out", folder / "none" / "a.edge"), 2, "folder that exists")
    refused(call("package", folder / "spec.yaml", "--out", out, "--key", folder / "none.pem"), 2, "none.pem")
    refused(call("package", folder / "spec.yaml", "--out", out, "--key", folder / "frames.npy"), 2, "private key")
    refused(call("lint", folder / "none.onnx"), 2, "none.onnx cannot be read")
    refused(call("lint", folder / "spec.yaml"), 1, "not an ONNX model")
    refused(call("lint", folder / "model.onnx", "--target", "phone"), 2, "choose one of")
    refused(call("sign", folder / "none.edge", "--key", V1), 3, "none.edge")
    refused(call("sign", folder / "spec.yaml", "--key", V1), 3, "spec.yaml")
    refused(call("sign", V1, "--key", folder / "none.pem", "--out", out), 2, "none.pem")
    assert {item.name for item in folder.iterdir()} == names


def test_a_failed_package_leaves_the_old_file(folder):
    out = folder / "a.edge"
    out.write_bytes(b"older")
    (folder / "spec.yaml").write_text(SPEC.replace("classes: [bright]", "classes: [a, b, c]"))
    refused(call("package", folder / "spec.yaml", "--out", out), 2, "names 3 classes for 1 channels")
    assert out.read_bytes() == b"older"


def test_a_bug_is_exit_70(folder, monkeypatch):
    monkeypatch.setattr("edge_export.commands.lint_file", lambda *_: 1 / 0)
    found = call("lint", folder / "model.onnx")
    assert found.exit_code == 70
    assert "ZeroDivisionError" in found.stderr


def test_lower_writes_the_variants_and_a_report(folder):
    np.save(folder / "inputs.npy", np.random.default_rng(0).random((3, 1, 16, 16), np.float32))
    (folder / "steps.yaml").write_text("steps: [{step: resize, height: 16, width: 16}, {step: normalize}]")
    options = ("--precision", "fp32", "--precision", "fp16", "--no-rtx")
    first = call("lower", folder / "model.onnx", "--frames", folder / "inputs.npy", "--out", folder / "a", *options)
    assert first.exit_code == 0, first.stderr
    assert "fp16" in first.stdout
    assert "lowering to fp32, fp16 with 3 frames ..." in first.stderr
    assert sorted(item.name for item in (folder / "a").iterdir()) == ["fp16.onnx", "fp32.onnx", "report.json"]
    found = call(
        "lower", folder / "model.onnx", "--frames", folder / "frames.npy", "--preprocess", folder / "steps.yaml",
        "--out", folder / "b", "--count", 2, "--json", *options,
    )  # fmt: skip
    report = json.loads(found.stdout)
    assert report == json.loads((folder / "b" / "report.json").read_text())
    assert report["schema"] == "edge-export.lower/1"
    assert report["lowering"]["ranges"]["n_inputs"] == 2


def test_lower_refuses_and_writes_nothing(folder):
    model, frames, out = folder / "model.onnx", folder / "frames.npy", folder / "out"
    np.save(folder / "inputs.npy", np.zeros((1, 1, 8, 8), np.float32))
    np.savez(folder / "archive.npz", a=np.zeros(3))
    refused(call("lower", model, "--frames", frames, "--out", out), 2, "uint8 (4, 20, 20)", "--preprocess")
    refused(call("lower", model, "--frames", folder / "spec.yaml", "--out", out), 2, "not an .npy file")
    refused(call("lower", model, "--frames", folder / "archive.npz", "--out", out), 2, "not an .npy file")
    refused(call("lower", model, "--frames", folder / "inputs.npy", "--out", out), 2, "(1, 1, 16, 16)", "(1, 1, 8, 8)")
    refused(call("lower", model, "--frames", folder / "inputs.npy", "--out", folder), 2, "not an empty folder")
    np.save(folder / "inputs.npy", np.random.default_rng(0).random((1, 1, 16, 16), np.float32))
    fine = ("lower", model, "--frames", folder / "inputs.npy", "--out", out)
    refused(call(*fine, "--precision", "int4"), 2, "int4")
    refused(call(*fine, "--exclude", "nothing", "--no-rtx"), 2, "nothing")
    assert not out.exists()


@pytest.fixture
def labelled(folder):
    """`folder` with two images, masks, and the bundle of its spec."""
    import cv2

    for name in ("images", "masks"):
        (folder / name).mkdir()
        for k in range(2):
            image = np.random.default_rng(k).integers(0, 256, (20, 20), dtype=np.uint8)
            cv2.imwrite(str(folder / name / f"{k}.png"), image if name == "images" else 255 * (image > 128))
    (folder / "spec.yaml").write_text(SPEC.replace("[fp32]", "[fp32, fp16]"))
    assert call("package", folder / "spec.yaml", "--out", folder / "a.edge").exit_code == 0
    return folder


def test_verify_a_bundle_and_a_spec(labelled):
    pairs = ("--images", labelled / "images", "--masks", labelled / "masks", "--gate", "fp16=5")
    found = call("verify", labelled / "a.edge", *pairs)
    assert found.exit_code == 0, found.stderr
    assert "every gate is met" in found.stderr
    lines = found.stdout.splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [["fp32", "onnxruntime"], ["fp16", "onnxruntime"]]
    assert all(line.endswith("passed") for line in lines[1:])
    report = json.loads(call("verify", labelled / "a.edge", *pairs, "--json").stdout)
    again = json.loads(call("verify", labelled / "spec.yaml", *pairs, "--json").stdout)
    assert report["schema"] == "edge-export.verify/1"
    assert (report["metric"], report["n_frames"], report["failed"]) == ("dice", 2, [])
    assert report["scores"] == again["scores"]
    unlabelled = ("verify", labelled / "a.edge", "--frames", labelled / "frames.npy", "--gate", "fp16=0.5")
    assert json.loads(call(*unlabelled, "--json").stdout)["metric"] == "agreement"
    assert "mask 1.0000" in call(*unlabelled).stdout


def test_verify_is_exit_1_when_a_gate_fails_and_says_where(labelled):
    pairs = ("--images", labelled / "images", "--masks", labelled / "masks")
    found = call("verify", labelled / "a.edge", *pairs, "--gate", "fp16=-50")
    assert found.exit_code == 1
    assert "FAILED" in found.stdout
    assert "every tensor equals the reference's" in found.stdout  # the weights are whole eighths
    assert "fp16 failed" in found.stderr
    report = json.loads(call("verify", labelled / "a.edge", *pairs, "--gate", "fp16=-50", "--json").stdout)
    assert report["failed"] == ["fp16"]


def test_verify_mistakes(labelled):
    edge, pairs = labelled / "a.edge", ("--images", labelled / "images", "--masks", labelled / "masks")
    refused(call("verify", edge), 2, "--images and --masks, or --frames")
    refused(call("verify", labelled / "spec.yaml"), 2, "has no verification")
    refused(call("verify", edge, "--images", labelled / "images"), 2, "give images and masks, or frames alone")
    refused(call("verify", edge, *pairs, "--mask-value", "0"), 2, "mask_values")
    refused(call("verify", edge, *pairs, "--runner", "abacus"), 2, "runner 'abacus' is not known")
    refused(call("verify", edge, *pairs, "--gate", "int2=1"), 2, "int2")
    refused(call("verify", labelled / "none.edge", *pairs), 3, "none.edge")
    assert call("verify", edge, *pairs, "--gate", "fp16").exit_code == 2
