"""Teachers from files: ONNX, TorchScript, state dicts; what else is handed in is refused with the way out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from edge_runtime.errors import ConfigError
from edge_sdk.teachers.forms import OutputForm, OutputKind
from edge_sdk.teachers.identity import module_identity
from edge_sdk.teachers.onnx_file import Layout, external_sha256, onnx_forward
from edge_sdk.teachers.state import first_line, load_into
from edge_sdk.teachers.teacher import Teacher

__all__ = ["load_teacher"]

_TF2ONNX = "python -m tf2onnx.convert"
_CONVERT = {
    ".h5": f"{_TF2ONNX} --keras {{path}} --output {{stem}}.onnx --opset 17",
    ".hdf5": f"{_TF2ONNX} --keras {{path}} --output {{stem}}.onnx --opset 17",
    ".keras": "python -c \"import keras; keras.saving.load_model('{path}').export('{stem}.onnx', format='onnx')\"",
    ".tflite": f"{_TF2ONNX} --tflite {{path}} --output {{stem}}.onnx --opset 17",
    ".pb": f"{_TF2ONNX} --saved-model {{parent}} --output {{stem}}.onnx --opset 17",
}


def load_teacher(
    path: Path,
    *,
    classes: int = 0,
    module: nn.Module | None = None,
    output: OutputKind = "logits",
    form: OutputForm | Mapping[str, OutputForm] | None = None,
    layout: Layout = "NCHW",
    output_layout: Layout | None = None,
    output_name: str | int | None = None,
    key: str = "",
) -> Teacher:
    """A teacher from a file: ONNX (`.onnx`), TorchScript, or a state dict for the given `module`.

    With `module` the file is read as a state dict (`.safetensors`, or torch's form; see `load_state_dict` for
    `key`); without it, as TorchScript or ONNX by its suffix. TorchScript runs no Python, but is a program all the
    same: take it from a source you trust. `classes`, `output`, `form` and `output_name` are those of `Teacher`.

    `layout` is the channel order of an ONNX file's input, `output_layout` that of its four-axis outputs (by default
    the same). Frames are (N, C, H, W) on this side whatever the file wants.

    The teacher's `sha256` is the file's own where nothing else decides what it computes; a module's structure, the
    channel order and files beside an ONNX file are hashed with it otherwise. Raises `ConfigError` naming the file
    when it cannot be read, does not fit the module, or is of a kind that has to be converted first.
    """
    path = Path(path)
    _refuse_foreign(path)
    sha256 = _file_sha256(path)
    forward: Callable[[Tensor], Any]
    if module is not None:
        load_into(module, path, key=key)
        forward = module.eval().requires_grad_(False)
        sha256 = module_identity(module, sha256)
    elif path.suffix.lower() == ".onnx":
        several = isinstance(form, Mapping)
        if isinstance(output_name, int):
            raise ConfigError(f"{path}: output_name is {output_name}; an ONNX file's outputs have names, give one")
        forward = onnx_forward(
            path,
            layout=layout,
            output_layout=output_layout,
            outputs=list(cast("Mapping[str, OutputForm]", form)) if several else output_name,
        )
        options = [layout, output_layout or layout, output_name or "", external_sha256(path)]
        if options != ["NCHW", "NCHW", "", ""]:
            sha256 = hashlib.sha256(repr([sha256, *options]).encode()).hexdigest()
        output_name = None
    else:
        forward = _torchscript_forward(path)
    if layout == "NHWC" and path.suffix.lower() != ".onnx":
        raise ConfigError(f"{path}: layout is for ONNX files; torch networks take channels first")
    return Teacher(
        name=path.name,
        forward=forward,
        classes=classes,
        sha256=sha256,
        output=output,
        form=form,
        output_name=output_name,
    )


def _file_sha256(path: Path) -> str:
    if not path.is_file():
        raise ConfigError(f"teacher file {path} does not exist")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _refuse_foreign(path: Path) -> None:
    """Raise `ConfigError` with the command that converts a TensorFlow or Keras file, and for bare weights."""
    if path.is_dir() and (path / "saved_model.pb").is_file():
        path = path / "saved_model.pb"
    suffix = path.suffix.lower()
    if path.exists() and suffix in _CONVERT:
        command = _CONVERT[suffix].format(path=path, parent=path.parent, stem=path.stem)
        raise ConfigError(
            f"{path} is a TensorFlow or Keras file, which is not read here. Convert it where TensorFlow is installed "
            f"(pip install tf2onnx), then load the .onnx file with layout='NHWC': {command}"
        )


def _torchscript_forward(path: Path) -> Callable[[Tensor], Any]:
    if path.suffix.lower() == ".safetensors":
        raise ConfigError(f"{path} holds weights alone; give their network as `module`")
    try:
        script = torch.jit.load(str(path), map_location="cpu").eval()  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError) as error:
        raise ConfigError(
            f"{path} is neither ONNX nor TorchScript ({first_line(error)}). A state dict needs its network: "
            "give it as `module`. A pickled module is never loaded, because loading it runs its code."
        ) from error
    return cast("Callable[[Tensor], Any]", script)
