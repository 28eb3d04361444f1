"""Acceptance of a model file by tools that are not ours: onnx.checker, ONNX Runtime, TensorRT-RTX."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx

from edge_export._graph import main_input, single_line
from edge_runtime.errors import LoweringError
from edge_runtime.optional import require

__all__ = ["GateError", "GateReport", "check_model", "open_session", "rtx_gate", "run_model"]

_RTX_MODULE = "tensorrt_rtx_bindings"
_INSTALL = "pip install 'pocus-edge-export[trt-check]'"


@dataclass(frozen=True, slots=True, kw_only=True)
class GateError:
    """One complaint of the parser: its error code, the node it names (may be empty), the operator, the text."""

    code: str
    node: str
    operator: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GateReport:
    """What TensorRT-RTX said about one file.

    `status`: `accepted` parsed and built; `refused` by parser or builder, with `errors` or `reason`; `crashed` the
    process ended or ran past its time; `not tried` with the reason, never a pass. `layers` of the parsed
    network; `engine_bytes` of the plan; `seconds` wall time of parsing and building.
    """

    status: Literal["accepted", "refused", "crashed", "not tried"]
    reason: str = ""
    errors: tuple[GateError, ...] = ()
    compute_capabilities: tuple[str, ...] = ()
    version: str = ""
    layers: int = 0
    engine_bytes: int = 0
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)


def open_session(model: onnx.ModelProto | bytes, *, threads: int = 1, optimize: bool = True) -> Any:
    """An ONNX Runtime CPU session on the model's bytes. Raises `LoweringError` when it does not load.

    With `optimize` ONNX Runtime removes Casts and computes FP16 parts in float32; without, every tensor is
    rounded to the type that the file gives it, which is nearer to what a typed engine does.
    """
    runtime = require("onnxruntime", "to load the model")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if not optimize:
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    data = model if isinstance(model, bytes) else model.SerializeToString()
    try:
        return runtime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise LoweringError(f"ONNX Runtime does not load the model: {single_line(error)}") from error


def run_model(
    model: onnx.ModelProto | bytes,
    samples: Sequence[npt.NDArray[np.float32]],
    *,
    threads: int = 1,
    optimize: bool = True,
) -> list[dict[str, npt.NDArray[Any]]]:
    """Outputs by name for each input tensor of `samples`, on the CPU (see `open_session`). Raises `LoweringError`."""
    session = open_session(model, threads=threads, optimize=optimize)
    name, names = session.get_inputs()[0].name, [item.name for item in session.get_outputs()]
    return [dict(zip(names, session.run(names, {name: sample}), strict=True)) for sample in samples]


def check_model(model: onnx.ModelProto) -> None:
    """Full `onnx.checker` with shape inference, then load and run once on zeros in ONNX Runtime.

    Raises `LoweringError` with the tool's own words when either refuses.
    """
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:
        raise LoweringError(f"onnx.checker refuses the model: {single_line(error)}") from error
    _, shape = main_input(model)
    try:
        run_model(model, [np.zeros(shape, np.float32)])
    except LoweringError:
        raise
    except Exception as error:
        raise LoweringError(f"ONNX Runtime cannot run the model: {single_line(error)}") from error


def rtx_gate(
    model_bytes: bytes, compute_capabilities: Sequence[str] = ("SM86", "SM89"), *, timeout_s: float = 300.0
) -> GateReport:
    """Parse and build with TensorRT-RTX, ahead of time, without a GPU.

    It proves that NVIDIA's parser reads the graph and that its types are consistent; it does not prove that
    JetPack's TensorRT builds it (its builder is another one and accepts some graphs that are not legal ONNX). The
    work runs in a process of its own, because a native crash must not take the caller down.
    """
    wanted = tuple(compute_capabilities)
    if importlib.util.find_spec(_RTX_MODULE) is None:
        reason = f"{_RTX_MODULE} is not installed; {_INSTALL}"
        return GateReport(status="not tried", reason=reason, compute_capabilities=wanted)
    begin = time.monotonic()
    command = [sys.executable, "-m", "edge_export._rtx_worker", *wanted]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    try:
        done = subprocess.run(command, input=model_bytes, capture_output=True, timeout=timeout_s, env=environment)
    except subprocess.TimeoutExpired:
        reason = f"no answer within {timeout_s:g} s"
        return GateReport(status="crashed", reason=reason, compute_capabilities=wanted, seconds=timeout_s)
    seconds = time.monotonic() - begin
    lines = done.stdout.decode(errors="replace").strip().splitlines()
    if done.returncode != 0 or not lines:
        tail = " ".join(done.stderr.decode(errors="replace").split())[-300:]
        reason = f"the builder's process ended with code {done.returncode}: {tail}"
        return GateReport(status="crashed", reason=reason, compute_capabilities=wanted, seconds=seconds)
    answer = json.loads(lines[-1])
    errors = tuple(GateError(**item) for item in answer.pop("errors"))
    return GateReport(**answer, errors=errors, compute_capabilities=wanted)
