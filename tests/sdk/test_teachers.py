"""Teachers from modules and files, and every file that is refused."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edge_runtime.errors import ConfigError, InferenceError
from edge_sdk.students import UNet
from edge_sdk.teachers import (
    Teacher,
    load_state_dict,
    load_teacher,
    module_sha256,
    save_state_dict,
    teacher_from_module,
)


def _network(seed: int = 0, classes: int = 1) -> UNet:
    torch.manual_seed(seed)
    return UNet(classes=classes, width=4, depth=2).eval()


def _frames(n: int = 3) -> Tensor:
    return torch.rand((n, 1, 16, 24), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def onnx_file(tmp_path: Path) -> Path:
    helper: Any = pytest.importorskip("onnx.helper")
    onnx: Any = pytest.importorskip("onnx")
    scale = helper.make_tensor("scale", onnx.TensorProto.FLOAT, [1], [3.0])
    shape = ["n", 1, 16, 24]
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "scale"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, shape)],
        [scale],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = tmp_path / "teacher.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def test_a_module_teaches_without_gradient_and_in_evaluation_mode() -> None:
    network = _network().train()
    teacher = teacher_from_module(network, classes=1)
    with torch.no_grad():
        expected = network(_frames())
    assert torch.equal(teacher(_frames()), expected)
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_torchscript_state_dict_and_module_agree(tmp_path: Path) -> None:
    network = _network()
    expected = teacher_from_module(network, classes=1)(_frames())
    torch.jit.trace(network, _frames()).save(str(tmp_path / "t.pt"))
    save_state_dict(network, tmp_path / "s.pt")
    script = load_teacher(tmp_path / "t.pt", classes=1)
    state = load_teacher(tmp_path / "s.pt", classes=1, module=_network(seed=9))
    assert torch.allclose(script(_frames()), expected, atol=1e-5)
    assert torch.equal(state(_frames()), expected)


def test_onnx_runs_through_onnxruntime(onnx_file: Path) -> None:
    teacher = load_teacher(onnx_file, classes=1)
    assert torch.equal(teacher(_frames()), _frames() * 3)
    assert teacher.name == "teacher.onnx"
    assert len(teacher.sha256) == 64


def test_onnx_that_fails_while_running_is_an_error_of_the_tree(onnx_file: Path) -> None:
    with pytest.raises(InferenceError, match=r"teacher\.onnx"):
        load_teacher(onnx_file, classes=1)(torch.zeros(1, 1, 8, 8))


@pytest.mark.parametrize("classes", [1, 3])
def test_probabilities_become_logits(classes: int) -> None:
    logits = torch.randn((2, classes, 4, 4), generator=torch.Generator().manual_seed(0)) * 3
    probabilities = torch.sigmoid(logits) if classes == 1 else torch.softmax(logits, dim=1)
    teacher = Teacher(name="t", forward=lambda x: probabilities, classes=classes, output="probabilities")
    back = teacher(torch.zeros(2, 1, 4, 4))
    again = torch.sigmoid(back) if classes == 1 else torch.softmax(back, dim=1)
    assert torch.allclose(again, probabilities, atol=1e-5)


def test_logits_declared_as_probabilities_are_refused() -> None:
    teacher = Teacher(name="t", forward=lambda x: x * 0 + 4, classes=1, output="probabilities")
    with pytest.raises(InferenceError, match="not probabilities"):
        teacher(_frames())


@pytest.mark.parametrize("shape", [(3, 2, 16, 24), (3, 1, 8, 12), (3, 16, 24), (1, 1, 16, 24)])
def test_outputs_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    teacher = Teacher(name="odd", forward=lambda x: torch.zeros(shape), classes=1)
    with pytest.raises(InferenceError, match=r"teacher odd.*\(3, 1, 16, 24\) is needed"):
        teacher(_frames())


def test_outputs_that_are_no_tensor_are_refused() -> None:
    teacher = Teacher(name="odd", forward=lambda x: {"out": x}, classes=1)  # type: ignore[arg-type, return-value]
    with pytest.raises(InferenceError, match="dict"):
        teacher(_frames())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_outputs_that_are_not_finite_are_refused(value: float) -> None:
    def forward(frames: Tensor) -> Tensor:
        out = frames.clone()
        out[0, 0, 0, 0] = value
        return out

    with pytest.raises(InferenceError, match="1 of 1152 output values"):
        Teacher(name="odd", forward=forward, classes=1)(_frames())


class _Evil:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (os.environ["EVIL_MARK"],)


@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_a_pickle_that_needs_code_is_refused_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writer: str
) -> None:
    mark = tmp_path / "mark"
    monkeypatch.setenv("EVIL_MARK", str(mark))
    path = tmp_path / "evil.pt"
    if writer == "torch":
        torch.save({"w": _Evil()}, path)
    else:
        path.write_bytes(pickle.dumps({"w": _Evil()}))
    with pytest.raises(ConfigError, match=r"evil\.pt is refused.*state_dict"):
        load_state_dict(path)
    with pytest.raises(ConfigError, match=r"evil\.pt"):
        load_teacher(path, classes=1)
    assert not mark.exists()


def test_a_whole_pickled_module_is_refused(tmp_path: Path) -> None:
    torch.save(_network(), tmp_path / "module.pt")
    with pytest.raises(ConfigError, match=r"module\.pt is refused"):
        load_state_dict(tmp_path / "module.pt")


@pytest.mark.parametrize("content", [[1, 2], {"a": 1}, {1: torch.zeros(1)}])
def test_things_that_are_no_state_dict_are_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(ConfigError, match="not named tensors"):
        load_state_dict(tmp_path / "x.pt")


def test_a_state_dict_of_another_network_is_refused(tmp_path: Path) -> None:
    save_state_dict(nn.Conv2d(1, 1, 1), tmp_path / "x.pt")
    with pytest.raises(ConfigError, match=r"x\.pt does not fit UNet"):
        load_teacher(tmp_path / "x.pt", classes=1, module=_network())


@pytest.mark.parametrize(("name", "content"), [("x.onnx", b"nonsense"), ("x.pt", b""), ("x.pt", b"nonsense")])
def test_damaged_files_are_refused_by_name(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=name):
        load_teacher(tmp_path / name, classes=1)


def test_missing_files_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        load_teacher(tmp_path / "none.onnx", classes=1)
    with pytest.raises(ConfigError, match="does not exist"):
        load_state_dict(tmp_path / "none.pt")


def test_the_hash_follows_the_weights() -> None:
    assert module_sha256(_network(0)) == module_sha256(_network(0))
    assert module_sha256(_network(0)) != module_sha256(_network(1))


def test_saved_weights_are_read_back_equal(tmp_path: Path) -> None:
    network = _network().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    save_state_dict(network, tmp_path / "s.pt")
    state = load_state_dict(tmp_path / "s.pt")
    assert all(torch.equal(state[name], value) for name, value in network.state_dict().items())
    assert [path.name for path in tmp_path.iterdir()] == ["s.pt"]


def test_a_real_network_teaches_alike_from_torchscript_and_onnx() -> None:
    root = os.environ.get("POCUS_DATA")
    if not root:
        pytest.skip("POCUS_DATA is not set; it holds the real pretrained network")
    folder = Path(root) / "models" / "imfusion_carotid_unet"
    script = torch.jit.load(str(folder / "carotid.pt")).eval()
    frames = torch.from_numpy(np.random.default_rng(0).random((1, 1, 128, 128), np.float32))
    with torch.inference_mode():
        planes = script(frames).shape[1]
    a = load_teacher(folder / "carotid.pt", classes=planes)(frames)
    b = load_teacher(folder / "carotid.onnx", classes=planes)(frames)
    assert torch.allclose(a, b, atol=1e-3)
