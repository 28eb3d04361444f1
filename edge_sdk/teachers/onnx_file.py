"""An ONNX file as a teacher's forward pass: batches, channel order, chosen outputs, through ONNX Runtime."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from edge_runtime.errors import ConfigError, InferenceError
from edge_runtime.optional import require
from edge_sdk.teachers.state import first_line

__all__ = ["Layout", "external_sha256", "onnx_forward"]

Layout = Literal["NCHW", "NHWC"]
_GREY_OR_COLOUR = (1, 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Graph:
    """A loaded session and what is known of its one input; sizes the graph leaves open are None."""

    path: Path
    session: Any
    feed: str
    fetch: tuple[str, ...]
    layout: Layout
    output_layout: Layout
    batch: int | None
    frame: tuple[int | None, ...]

    def run(self, frames: Tensor) -> tuple[Tensor, ...]:
        """The fetched outputs for (N, C, H, W) float32 frames, channels first where they have four axes."""
        given = tuple(frames.shape[1:])
        if len(given) != 3 or any(want not in (None, have) for want, have in zip(self.frame, given, strict=True)):
            raise InferenceError(
                f"teacher {self.path.name}: it takes frames (channels, height, width) of "
                f"{tuple('any' if side is None else side for side in self.frame)}, not {given}; "
                "set the preprocessing to that, or export it with open sizes"
            )
        array = frames.cpu().numpy()
        array = np.ascontiguousarray(array.transpose(0, 2, 3, 1) if self.layout == "NHWC" else array)
        step = self.batch or len(array)
        parts = [self._run(array[k : k + step], step) for k in range(0, len(array), step)]
        joined = [np.concatenate(part) for part in zip(*parts, strict=True)]
        return tuple(torch.from_numpy(self._channels_first(part)) for part in joined)

    def _run(self, batch: npt.NDArray[Any], step: int) -> list[npt.NDArray[Any]]:
        count = len(batch)
        if count < step:  # a fixed batch is filled up with copies of the last frame, whose answers are dropped
            batch = np.concatenate([batch, np.repeat(batch[-1:], step - count, axis=0)])
        try:
            outputs = self.session.run(list(self.fetch), {self.feed: batch})
        except Exception as error:  # onnxruntime's own exceptions share no base class
            raise InferenceError(f"teacher {self.path.name}: ONNX Runtime failed: {first_line(error)}") from error
        for name, output in zip(self.fetch, outputs, strict=True):
            if not isinstance(output, np.ndarray) or output.ndim == 0 or len(output) != step:
                shape = getattr(output, "shape", type(output).__name__)
                raise InferenceError(
                    f"teacher {self.path.name}: output {name!r} for {step} frames is {shape}; "
                    "one entry per frame is needed"
                )
        return [output[:count] for output in outputs]

    def _channels_first(self, output: npt.NDArray[Any]) -> npt.NDArray[Any]:
        if self.output_layout == "NHWC" and output.ndim == 4:
            output = output.transpose(0, 3, 1, 2)
        return np.ascontiguousarray(output)


def onnx_forward(
    path: Path,
    *,
    layout: Layout = "NCHW",
    output_layout: Layout | None = None,
    outputs: str | Sequence[str] | None = None,
) -> Callable[[Tensor], Tensor | Mapping[str, Tensor]]:
    """The file's forward pass on the CPU: a tensor, or a mapping by name when `outputs` is a sequence of names.

    Raises `ConfigError` naming the file when it cannot be loaded, takes anything but one float32 image input, looks
    like the other channel order than `layout`, or leaves open which of several outputs is meant.
    """
    runtime = require("onnxruntime", "to run an ONNX teacher")
    try:
        session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own exceptions share no base class
        raise ConfigError(f"{path} cannot be loaded by ONNX Runtime: {first_line(error)}") from error
    for value in (layout, output_layout):
        if value not in ("NCHW", "NHWC", None):
            raise ConfigError(f"layout {value!r} is unknown; 'NCHW' (channels first) and 'NHWC' are")
    shape = _input_shape(path, session)
    _check_layout(path, shape, layout)
    frame = shape[1:] if layout == "NCHW" else (shape[3], shape[1], shape[2])
    fetch = _fetch(path, [output.name for output in session.get_outputs()], outputs)
    graph = _Graph(
        path=path,
        session=session,
        feed=session.get_inputs()[0].name,
        fetch=fetch,
        layout=layout,
        output_layout=output_layout or layout,
        batch=shape[0],
        frame=frame,
    )
    if outputs is None or isinstance(outputs, str):
        return lambda frames: graph.run(frames)[0]
    return lambda frames: dict(zip(fetch, graph.run(frames), strict=True))


def _input_shape(path: Path, session: Any) -> tuple[int | None, ...]:
    inputs = session.get_inputs()
    if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].type != "tensor(float)":
        found = ", ".join(f"{i.name} {i.type} {i.shape}" for i in inputs)
        raise ConfigError(f"{path} takes {found}; one float32 input (N, C, H, W) or (N, H, W, C) is needed")
    return tuple(side if isinstance(side, int) else None for side in inputs[0].shape)


def _check_layout(path: Path, shape: tuple[int | None, ...], layout: Layout) -> None:
    first, last = shape[1] in _GREY_OR_COLOUR, shape[3] in _GREY_OR_COLOUR
    seen = "NHWC" if last and not first else "NCHW" if first and not last else layout
    if seen != layout:
        order = "last" if seen == "NHWC" else "first"
        text = tuple("any" if side is None else side for side in shape)
        raise ConfigError(
            f"{path} takes {text}, which is channels-{order}, and layout is {layout!r}; "
            f"load it with layout={seen!r} (models from TensorFlow and Keras are NHWC)"
        )


def _fetch(path: Path, names: list[str], outputs: str | Sequence[str] | None) -> tuple[str, ...]:
    if outputs is None:
        if len(names) > 1:
            raise ConfigError(
                f"{path} has the outputs {names}; choose one with output_name, or declare a form for each"
            )
        return (names[0],)
    wanted = (outputs,) if isinstance(outputs, str) else tuple(outputs)
    unknown = [name for name in wanted if name not in names]
    if unknown:
        raise ConfigError(f"{path} has no output {unknown}; it has {names}")
    return wanted


def external_sha256(path: Path) -> str:
    """Hash over the files beside an ONNX file that hold its weights, "" when it holds them itself."""
    onnx = require("onnx", "to read which files an ONNX teacher consists of")
    try:
        graph = onnx.load(str(path), load_external_data=False).graph
    except Exception as error:  # protobuf's DecodeError has no public base
        raise ConfigError(f"{path} is not a readable ONNX file ({first_line(error)})") from error
    names = sorted({e.value for t in graph.initializer for e in t.external_data if e.key == "location"})
    digest = hashlib.sha256()
    for name in names:
        part = path.parent / cast(str, name)
        if not part.is_file():
            raise ConfigError(f"{path} keeps its weights in {name}, which is not beside it; copy both files")
        with part.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest() if names else ""
