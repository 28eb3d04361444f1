"""Teachers' files and forms: channel order, batches, several outputs, weights in safetensors, identity, refusals."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edge_runtime.errors import ConfigError, InferenceError, MissingDependencyError
from edge_sdk.teachers import (
    OutputForm,
    Teacher,
    load_state_dict,
    load_teacher,
    module_identity,
    module_sha256,
    save_state_dict,
    teacher_from_module,
)

onnx: Any = pytest.importorskip("onnx")
helper: Any = pytest.importorskip("onnx.helper")
FRAMES = torch.rand((5, 1, 16, 24), generator=torch.Generator().manual_seed(0))
FLOAT = onnx.TensorProto.FLOAT


def write(path: Path, shape: list[Any], outputs: dict[str, tuple[str, list[Any]]], inputs: int = 1) -> Path:
    """An ONNX file whose outputs are operators on its first input; `Scale3` multiplies by 3."""
    nodes = [helper.make_node("Mul", ["x0", "three"], [name]) for name, (op, _) in outputs.items() if op == "Scale3"]
    nodes += [helper.make_node(op, ["x0"], [name]) for name, (op, _) in outputs.items() if op != "Scale3"]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(f"x{k}", FLOAT, shape) for k in range(inputs)],
        [helper.make_tensor_value_info(name, FLOAT, out) for name, (_, out) in outputs.items()],
        [helper.make_tensor("three", FLOAT, [1], [3.0])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def scale3(path: Path, shape: list[Any]) -> Path:
    return write(path, shape, {"y": ("Scale3", shape)})


@pytest.mark.parametrize("batch", ["n", 1, 2, 4, 8])
def test_open_and_fixed_batches(tmp_path: Path, batch: Any) -> None:
    teacher = load_teacher(scale3(tmp_path / "t.onnx", [batch, 1, 16, 24]), classes=1)
    assert torch.equal(teacher(FRAMES), FRAMES * 3)


def test_channels_last_files_take_and_give_channels_first(tmp_path: Path) -> None:
    path = scale3(tmp_path / "keras.onnx", ["n", 16, 24, 1])
    teacher = load_teacher(path, classes=1, layout="NHWC")
    assert torch.equal(teacher(FRAMES), FRAMES * 3)
    colour = torch.rand(2, 3, 16, 24)
    three = load_teacher(scale3(tmp_path / "rgb.onnx", ["n", "h", "w", 3]), classes=3, layout="NHWC")
    assert torch.equal(three(colour), colour * 3)
    assert three.sha256 != teacher.sha256


def test_the_wrong_channel_order_is_said(tmp_path: Path) -> None:
    last = scale3(tmp_path / "last.onnx", ["n", 16, 24, 1])
    with pytest.raises(ConfigError, match=r"last\.onnx.*channels-last.*layout='NHWC'"):
        load_teacher(last, classes=1)
    first = scale3(tmp_path / "first.onnx", ["n", 1, 16, 24])
    with pytest.raises(ConfigError, match=r"first\.onnx.*channels-first.*layout='NCHW'"):
        load_teacher(first, classes=1, layout="NHWC")
    with pytest.raises(ConfigError, match="layout 'HWC' is unknown"):
        load_teacher(first, classes=1, layout="HWC")  # type: ignore[arg-type]
    mixed = load_teacher(first, classes=1, output_layout="NHWC")
    with pytest.raises(InferenceError, match=r"first\.onnx.*\(5, 24, 1, 16\).*\(5, 1, 16, 24\) is needed"):
        mixed(FRAMES)
    turned = Teacher(name="t", forward=lambda x: x.permute(0, 2, 3, 1), classes=1)
    with pytest.raises(InferenceError, match="output_layout='NHWC'"):
        turned(FRAMES)


def test_one_of_several_outputs_by_name(tmp_path: Path) -> None:
    shape = ["n", 1, 16, 24]
    path = write(tmp_path / "two.onnx", shape, {"a": ("Scale3", shape), "b": ("Neg", shape)})
    with pytest.raises(ConfigError, match=r"two\.onnx has the outputs \['a', 'b'\]"):
        load_teacher(path, classes=1)
    with pytest.raises(ConfigError, match="no output"):
        load_teacher(path, classes=1, output_name="c")
    with pytest.raises(ConfigError, match="have names"):
        load_teacher(path, classes=1, output_name=1)
    a, b = (load_teacher(path, classes=1, output_name=name) for name in "ab")
    assert torch.equal(a(FRAMES), FRAMES * 3)
    assert torch.equal(b(FRAMES), -FRAMES)
    assert a.sha256 != b.sha256
    both = load_teacher(path, form={"b": OutputForm(channels=1), "a": OutputForm(channels=1, values="values")})
    found = both.outputs(FRAMES)
    assert torch.equal(found["a"], FRAMES * 3)
    assert torch.equal(found["b"], -FRAMES)
    with pytest.raises(ConfigError, match=r"\['a', 'b'\]"):
        both(FRAMES)


def test_a_classifier_and_a_denoiser_from_onnx(tmp_path: Path) -> None:
    path = write(tmp_path / "pool.onnx", ["n", 1, 16, 24], {"y": ("GlobalAveragePool", ["n", 1, 1, 1])})
    with pytest.raises(InferenceError, match=r"pool\.onnx.*one vector per frame"):
        load_teacher(path, form=OutputForm(channels=1, layout="vector"))(FRAMES)
    flat = write(tmp_path / "flat.onnx", ["n", 1, 16, 24], {"y": ("Flatten", ["n", 384])})
    assert load_teacher(flat, form=OutputForm(channels=384, layout="vector"))(FRAMES).shape == (5, 384)
    clean = scale3(tmp_path / "clean.onnx", ["n", 1, 16, 24])
    assert torch.equal(load_teacher(clean, form=OutputForm(channels=1, values="values"))(FRAMES), FRAMES * 3)


def test_inputs_that_are_no_frames_are_refused(tmp_path: Path) -> None:
    shape = ["n", 1, 16, 24]
    two = write(tmp_path / "two.onnx", shape, {"y": ("Neg", shape)}, inputs=2)
    with pytest.raises(ConfigError, match=r"two\.onnx takes x0 .*, x1 .*one float32 input"):
        load_teacher(two, classes=1)
    flat = write(tmp_path / "flat.onnx", ["n", 16], {"y": ("Neg", ["n", 16])})
    with pytest.raises(ConfigError, match=r"flat\.onnx takes"):
        load_teacher(flat, classes=1)
    teacher = load_teacher(scale3(tmp_path / "t.onnx", ["n", 3, 32, "w"]), classes=3)
    with pytest.raises(InferenceError, match=r"t\.onnx.*\(3, 32, 'any'\), not \(1, 16, 24\)"):
        teacher(FRAMES)


def test_weights_beside_an_onnx_file_are_part_of_its_identity(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", FLOAT, ["n", 1, 16, 24])],
        [helper.make_tensor_value_info("y", FLOAT, ["n", 1, 16, 24])],
        [onnx.numpy_helper.from_array(np.full((16, 24), 2, np.float32), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = tmp_path / "big.onnx"
    onnx.save(model, str(path), save_as_external_data=True, location="big.bin", size_threshold=0)
    before = load_teacher(path, classes=1)
    assert torch.equal(before(FRAMES), FRAMES * 2)
    weights = tmp_path / "big.bin"
    weights.write_bytes(np.full((16, 24), 4, np.float32).tobytes())
    assert load_teacher(path, classes=1).sha256 != before.sha256
    weights.unlink()
    with pytest.raises(ConfigError, match=r"big\.onnx"):
        load_teacher(path, classes=1)


@pytest.mark.parametrize("name", ["net.h5", "net.keras", "net.tflite", "saved_model.pb"])
def test_tensorflow_files_are_refused_with_the_conversion(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x89HDF")
    with pytest.raises(ConfigError, match=r"(tf2onnx\.convert|keras\.saving).*\.onnx") as found:
        load_teacher(tmp_path / name, classes=1)
    assert name in str(found.value)
    assert "layout='NHWC'" in str(found.value)
    if name == "saved_model.pb":
        with pytest.raises(ConfigError, match=f"--saved-model {tmp_path}"):
            load_teacher(tmp_path, classes=1)


def network(stride: int = 1) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3, stride, padding=1), nn.BatchNorm2d(2), nn.Conv2d(2, 1, 1))


def test_safetensors_and_torch_files_hold_the_same(tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    module = network()
    for name in ("w.safetensors", "w.pt"):
        save_state_dict(module, tmp_path / name)
    a, b = (load_state_dict(tmp_path / name) for name in ("w.safetensors", "w.pt"))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    teacher = load_teacher(tmp_path / "w.safetensors", classes=1, module=network())
    assert torch.equal(teacher(FRAMES), teacher_from_module(module, classes=1)(FRAMES))
    with pytest.raises(ConfigError, match="as `module`"):
        load_teacher(tmp_path / "w.safetensors", classes=1)
    (tmp_path / "bad.safetensors").write_bytes(b"nonsense" * 4)
    with pytest.raises(ConfigError, match=r"bad\.safetensors is not a readable"):
        load_state_dict(tmp_path / "bad.safetensors")


def test_safetensors_absent_says_the_install_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "w.safetensors").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(MissingDependencyError, match="pip install safetensors"):
        load_state_dict(tmp_path / "w.safetensors")


def test_the_entry_of_a_checkpoint(tmp_path: Path) -> None:
    module = network()
    torch.save({"epoch": 3, "state_dict": module.state_dict()}, tmp_path / "c.ckpt")
    with pytest.raises(ConfigError, match=r"c\.ckpt.*key='state_dict'"):
        load_state_dict(tmp_path / "c.ckpt")
    with pytest.raises(ConfigError, match=r"no entry 'model'.*\['epoch', 'state_dict'\]"):
        load_state_dict(tmp_path / "c.ckpt", key="model")
    assert load_teacher(tmp_path / "c.ckpt", classes=1, module=network(), key="state_dict").classes == 1


class _Doubled(nn.Sequential):
    def forward(self, input: Tensor) -> Tensor:
        found: Tensor = super().forward(input)  # type: ignore[no-untyped-call]
        return 2 * found


def test_equal_weights_in_another_network_are_another_teacher(tmp_path: Path) -> None:
    plain, strided, doubled = network(), network(stride=2), _Doubled(*network().children())
    tuned = network()
    tuned.gain = 2.0  # type: ignore[assignment]
    modules = [plain, strided, doubled, tuned]
    assert len({module_sha256(module) for module in modules}) == 1
    assert len({module_identity(module) for module in modules}) == 4
    assert module_identity(network()) == module_identity(plain.train())
    save_state_dict(plain, tmp_path / "w.pt")
    a = load_teacher(tmp_path / "w.pt", classes=1, module=network())
    b = load_teacher(tmp_path / "w.pt", form=OutputForm(channels=1, stride=2), module=network(stride=2))
    assert a.sha256 != b.sha256


def _class(factor: int) -> nn.Module:
    space: dict[str, Any] = {"nn": nn}
    exec(f"class Net(nn.Conv2d):\n  def forward(self, x):\n    return super().forward(x) * {factor}", space)
    torch.manual_seed(0)
    module: nn.Module = space["Net"](1, 1, 1)
    return module


def test_another_forward_in_a_class_of_the_same_name_is_another_teacher() -> None:
    assert module_identity(_class(2)) == module_identity(_class(2))
    assert module_identity(_class(2)) != module_identity(_class(3))


def test_coarser_planes_are_resized_only_when_asked_for() -> None:
    def half(x: Tensor) -> Tensor:
        return x[:, :, ::2, ::2]

    with pytest.raises(InferenceError, match=r"\(5, 1, 8, 12\).*stride=2"):
        Teacher(name="t", forward=half, classes=1)(FRAMES)
    assert Teacher(name="t", forward=half, form=OutputForm(channels=1, stride=2))(FRAMES).shape == (5, 1, 8, 12)
    resized = Teacher(name="t", forward=half, form=OutputForm(channels=1, stride=2, resize=True))(FRAMES)
    expected = nn.functional.interpolate(half(FRAMES), scale_factor=2, mode="bilinear", align_corners=False)
    assert torch.equal(resized, expected)
    odd = Teacher(name="t", forward=half, form=OutputForm(channels=1, stride=2))
    assert odd(FRAMES[..., :15, :23]).shape == (5, 1, 8, 12)
    large = Teacher(name="t", forward=lambda x: x.repeat(1, 1, 2, 2), form=OutputForm(channels=1, enlarge=2))
    assert large(FRAMES).shape == (5, 1, 32, 48)


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (lambda x: {"a": x}, r"teacher d: outputs \['b'\] are missing"),
        (lambda x: x, "gives a Tensor"),
        (lambda x: (x,), "tuple of 1"),
        (lambda x: {"a": x, "b": x[:, :, ::2]}, r"teacher d, output 'b'.*\(5, 1, 8, 24\)"),
        (lambda x: {"a": x * float("nan"), "b": x}, "output 'a': 1920 of 1920"),
    ],
)
def test_named_outputs_are_checked_one_by_one(forward: Any, message: str) -> None:
    forms = {"a": OutputForm(channels=1), "b": OutputForm(channels=1)}
    with pytest.raises(InferenceError, match=message):
        Teacher(name="d", forward=forward, form=forms).outputs(FRAMES)


def test_named_outputs_of_tuples_and_mappings() -> None:
    forms = {"a": OutputForm(channels=1), "b": OutputForm(channels=1, values="values")}
    for forward in (lambda x: (x, -x), lambda x: {"b": -x, "a": x, "more": 0}):
        found = Teacher(name="d", forward=forward, form=forms).outputs(FRAMES)
        assert torch.equal(found["b"], -found["a"])
    second = Teacher(name="d", forward=lambda x: (x, -x), classes=1, output_name=1)
    assert torch.equal(second(FRAMES), -FRAMES)
    with pytest.raises(InferenceError, match=r"no output 'z'; it gives \[0, 1\]"):
        Teacher(name="d", forward=lambda x: (x, -x), classes=1, output_name="z")(FRAMES)
    with pytest.raises(InferenceError, match="output_name"):
        Teacher(name="d", forward=lambda x: (x, -x), classes=1)(FRAMES)


def test_forms_that_make_no_sense_are_refused() -> None:
    cases: list[tuple[Any, str]] = [
        (lambda: OutputForm(channels=0), "at least 1"),
        (lambda: OutputForm(channels=1, layout="grid"), "grid"),  # type: ignore[arg-type]
        (lambda: OutputForm(channels=1, values="scores"), "scores"),  # type: ignore[arg-type]
        (lambda: OutputForm(channels=1, layout="vector", stride=2), "for planes"),
        (lambda: Teacher(name="t", forward=abs), "0 channels"),
        (lambda: Teacher(name="t", forward=abs, classes=2, form=OutputForm(channels=1)), "one of them"),
        (lambda: Teacher(name="t", forward=abs, form={}), "no output form"),
        (lambda: Teacher(name="t", forward=abs, form={"a": OutputForm(channels=1)}, output_name="a"), "output_name"),
    ]
    for make, message in cases:
        with pytest.raises(ConfigError, match=message):
            make()
