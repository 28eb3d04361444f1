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
    assert found.stderr.startswith("error: "), found.stderr
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


@pytest.mark.parametrize("command", [(), ("package",), ("lint",), ("keygen",), ("sign",)])
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
    refused(call("package", folder / "spec.yaml", "--out", out), 2, "classes names 3 channels")
    assert out.read_bytes() == b"older"


def test_a_bug_is_exit_70(folder, monkeypatch):
    monkeypatch.setattr("edge_export.package_spec.lint_file", lambda *_: 1 / 0)
    found = call("lint", folder / "model.onnx")
    assert found.exit_code == 70
    assert "ZeroDivisionError" in found.stderr
