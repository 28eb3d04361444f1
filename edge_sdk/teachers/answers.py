"""A teacher's answers in half precision: asked batch by batch, cut to what float16 holds, hashed."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from edge_runtime.errors import ConfigError, InferenceError
from edge_sdk.progress import Progress, ProgressEvent
from edge_sdk.teachers.forms import OutputForm
from edge_sdk.teachers.teacher import Teacher

__all__ = ["CLIP", "TASK", "answers_sha256", "ask", "check_inputs", "compress"]

CLIP = 30.0
"""Largest logit that is kept: a sigmoid there is 0 or 1 to float32."""
TASK = "teacher answers"
_FLOAT16_MAX = 65504.0


def compress(answer: Tensor, form: OutputForm, label: str) -> npt.NDArray[np.float16]:
    """`answer` as float16. Logits are cut to +-`CLIP`; values must fit, else `InferenceError`.

    Where the largest of several classes' logits is above `CLIP`, all classes of that pixel are shifted down first:
    a softmax does not change by it, and two sure classes stay apart.
    """
    if form.values == "values":
        top = float(answer.abs().max()) if answer.numel() else 0.0
        if top > _FLOAT16_MAX:
            raise InferenceError(f"{label}: values up to {top:.3g} do not fit half precision (65504); scale them")
    else:
        if form.channels > 1:
            axis = -1 if form.layout == "rows" else 1
            answer = answer - (answer.amax(dim=axis, keepdim=True) - CLIP).clamp(min=0)
        answer = answer.clamp(-CLIP, CLIP)
    half: npt.NDArray[np.float16] = np.ascontiguousarray(answer.to(torch.float16).numpy())
    return half


def ask(
    teacher: Teacher, inputs: Tensor, progress: Progress, *, start: int = 0, batch_size: int = 16
) -> Iterator[dict[str, npt.NDArray[np.float16]]]:
    """Answers to `inputs` (N, C, H, W) from frame `start` on, one batch at a time, with progress and time left."""
    began, total = time.perf_counter(), len(inputs)
    label = f"teacher {teacher.name}"
    for first in range(start, total, batch_size):
        outputs = teacher.outputs(inputs[first : first + batch_size])
        yield {name: compress(outputs[name], form, label) for name, form in teacher.forms.items()}
        done = min(first + batch_size, total)
        eta_s = (time.perf_counter() - began) / (done - start) * (total - done)
        progress(ProgressEvent(task=TASK, step=done, total=total, eta_s=eta_s))


def answers_sha256(answers: npt.NDArray[np.float16]) -> str:
    """Hash of the shape and values of `answers`, the same wherever they are kept."""
    digest = hashlib.sha256(f"float16|{answers.shape}|".encode())
    for part in answers:
        digest.update(np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()


def check_inputs(inputs: Tensor) -> None:
    """Raise `ConfigError` unless `inputs` are frames (N, C, H, W) with at least one."""
    if inputs.ndim != 4 or len(inputs) == 0:
        raise ConfigError(f"the teacher is asked about {tuple(inputs.shape)}; frames (N, C, H, W) are needed, N >= 1")
