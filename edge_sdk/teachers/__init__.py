"""Teachers: anything that maps frames to dense outputs, behind one callable.

A teacher may be a module, a TorchScript file, or an ONNX file (so TensorFlow and Keras models too). Whatever
combines several of them later only has to map inputs to logits as well: `Teacher` takes any callable.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from edge_runtime.atomic import replacing
from edge_runtime.errors import ConfigError, InferenceError
from edge_runtime.optional import require

__all__ = ["Teacher", "load_state_dict", "load_teacher", "module_sha256", "save_state_dict", "teacher_from_module"]

OutputKind = Literal["logits", "probabilities"]
_PROBABILITY_MARGIN = 1e-6


@dataclass(frozen=True, kw_only=True, eq=False)
class Teacher:
    """A frozen network: (N, C_in, H, W) float32 frames -> (N, classes, H, W) float32 logits, without gradient.

    `forward` may be anything with that signature; with `output` "probabilities" it gives a sigmoid's or softmax's
    result, which is turned back into logits. `name` stands in messages and reports, `sha256` identifies the weights.
    """

    name: str
    forward: Callable[[Tensor], Tensor]
    classes: int
    sha256: str = ""
    output: OutputKind = "logits"

    def __call__(self, frames: Tensor) -> Tensor:
        """Logits of `frames`; raises `InferenceError` for outputs of another shape or that are not finite."""
        with torch.inference_mode():
            outputs = self.forward(frames)
            expected = (frames.shape[0], self.classes, *frames.shape[2:])
            if not isinstance(outputs, Tensor) or tuple(outputs.shape) != expected:
                got = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
                raise InferenceError(
                    f"teacher {self.name}: the output for frames {tuple(frames.shape)} is {got}; "
                    f"{expected} is needed (one plane of logits per class at the input's size)"
                )
            bad = int((~torch.isfinite(outputs)).sum())
            if bad:
                raise InferenceError(
                    f"teacher {self.name}: {bad} of {outputs.numel()} output values are NaN or infinite; "
                    "check its weights and that its preprocessing is the one configured"
                )
            outputs = outputs.float()
            return outputs if self.output == "logits" else self._to_logits(outputs)

    def _to_logits(self, probabilities: Tensor) -> Tensor:
        low, high = float(probabilities.min()), float(probabilities.max())
        if low < -1e-3 or high > 1 + 1e-3:
            raise InferenceError(
                f"teacher {self.name}: outputs span [{low:.3g}, {high:.3g}], which are not probabilities; "
                "set its output to 'logits'"
            )
        clipped = probabilities.clamp(_PROBABILITY_MARGIN, 1 - _PROBABILITY_MARGIN)
        return torch.logit(clipped) if self.classes == 1 else clipped.log()


def module_sha256(module: nn.Module) -> str:
    """Hash of a module's parameters and buffers: names, dtypes, shapes and values, in the order of their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        array = np.ascontiguousarray(tensor.detach().cpu().numpy())
        digest.update(f"{name}|{array.dtype}|{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def teacher_from_module(module: nn.Module, *, classes: int, name: str = "", output: OutputKind = "logits") -> Teacher:
    """A teacher from a module, which is put into evaluation mode and asked for no gradients."""
    module.eval().requires_grad_(False)
    label = name or type(module).__name__
    return Teacher(name=label, forward=module, classes=classes, sha256=module_sha256(module), output=output)


def save_state_dict(module: nn.Module, path: Path) -> None:
    """Write the module's tensors to `path` atomically, in the form that `load_state_dict` reads."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
    with replacing(path) as temporary:
        torch.save(state, temporary)


def load_state_dict(path: Path) -> dict[str, Tensor]:
    """Read a state dict of tensors, and nothing else: no code of the file is ever run.

    Raises `ConfigError` when the file is missing, is not a torch file, needs code to be unpickled, or holds other
    things than named tensors.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ConfigError(f"{path} does not exist; give the path of a state dict") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise ConfigError(
            f"{path} is refused: it is not a plain state dict of tensors, and a file that needs code to be loaded "
            f"can run anything ({_first_line(error)}). Save module.state_dict() instead, or export to ONNX."
        ) from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) and isinstance(k, str) for k, v in state.items()):
        raise ConfigError(f"{path} holds {type(state).__name__}, not named tensors; save module.state_dict()")
    return state


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def load_teacher(
    path: Path, *, classes: int, module: nn.Module | None = None, output: OutputKind = "logits"
) -> Teacher:
    """A teacher from a file: ONNX (`.onnx`), TorchScript, or a state dict for the given `module`.

    With `module` the file is read as a state dict; without it, as TorchScript or ONNX by its suffix. TorchScript
    runs no Python, but is a program all the same: take it from a source you trust. Raises `ConfigError` naming the
    file when it cannot be read or does not fit the module.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"teacher file {path} does not exist")
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    if module is not None:
        _load_into(module, path)
        forward: Callable[[Tensor], Tensor] = module.eval().requires_grad_(False)
    elif path.suffix.lower() == ".onnx":
        forward = _onnx_forward(path)
    else:
        forward = _torchscript_forward(path)
    return Teacher(name=path.name, forward=forward, classes=classes, sha256=sha256, output=output)


def _load_into(module: nn.Module, path: Path) -> None:
    try:
        module.load_state_dict(load_state_dict(path))
    except RuntimeError as error:
        raise ConfigError(f"{path} does not fit {type(module).__name__}: {error}") from error


def _torchscript_forward(path: Path) -> Callable[[Tensor], Tensor]:
    try:
        script = torch.jit.load(str(path), map_location="cpu").eval()  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError) as error:
        raise ConfigError(
            f"{path} is neither ONNX nor TorchScript ({_first_line(error)}). A state dict needs its network: "
            "give it as `module`. A pickled module is never loaded, because loading it runs its code."
        ) from error
    return cast(Callable[[Tensor], Tensor], script)


def _onnx_forward(path: Path) -> Callable[[Tensor], Tensor]:
    runtime = require("onnxruntime", "to run an ONNX teacher")
    try:
        session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own exceptions share no base class
        raise ConfigError(f"{path} cannot be loaded by ONNX Runtime: {_first_line(error)}") from error
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].type != "tensor(float)":
        found = ", ".join(f"{i.name} {i.type} {i.shape}" for i in inputs)
        raise ConfigError(f"{path} takes {found}; one float32 input (N, C, H, W) is needed")
    fixed_batch = inputs[0].shape[0] if isinstance(inputs[0].shape[0], int) else None

    def forward(frames: Tensor) -> Tensor:
        array = np.ascontiguousarray(frames.cpu().numpy())
        step = fixed_batch or len(array)
        if len(array) % step:
            raise ConfigError(f"{path} has a fixed batch of {step}, which does not divide {len(array)} frames")
        batches = [array[k : k + step] for k in range(0, len(array), step)]
        parts = [_run(path.name, session, inputs[0].name, outputs[0].name, batch) for batch in batches]
        return torch.from_numpy(np.concatenate(parts))

    return forward


def _run(name: str, session: Any, feed: str, fetch: str, batch: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    try:
        return cast("np.ndarray[Any, Any]", session.run([fetch], {feed: batch})[0])
    except Exception as error:  # onnxruntime's own exceptions share no base class
        raise InferenceError(f"teacher {name}: ONNX Runtime failed: {_first_line(error)}") from error
