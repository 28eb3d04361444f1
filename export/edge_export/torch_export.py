"""From a torch module to a plain float32 ONNX model. The only module of the package that imports torch."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch

from edge_export._graph import default_opset, single_line
from edge_export._tidy import convert_opset, tidy
from edge_export.gate import check_model, run_model
from edge_runtime.errors import LoweringError

__all__ = ["DEFAULT_OPSET", "LOWEST_NATIVE_OPSET", "export_torch", "torch_parity"]

DEFAULT_OPSET = 18
LOWEST_NATIVE_OPSET = 18  # torch's exporter has no implementations below; lower ones are converted from here


def export_torch(
    module: torch.nn.Module,
    input_shape: Sequence[int],
    *,
    opset: int = DEFAULT_OPSET,
    input_name: str = "image",
    output_names: Sequence[str] = ("mask",),
    max_abs: float = 1e-4,
) -> onnx.ModelProto:
    """Export `module` in eval mode for one float32 input of the fixed shape `input_shape` (batch 1).

    It may answer with a tensor, a sequence, or a dict of them whose keys are `output_names` in that order.
    Opset 18 is the default: it is the lowest one that torch writes itself (17 exists only through the converter of the
    onnx package), it is below 19, where the Q/DQ of TensorRT 10.3 on JetPack 6 is well trodden, and every parser
    that is aimed at reads it. Another version asked for is delivered exactly or refused.

    The result holds no BatchNormalization and no Identity, all weights inside, and is checked in full by
    `onnx.checker`; on two seeded random inputs ONNX Runtime must agree with torch within `max_abs`.
    Raises `LoweringError` when torch cannot export, the opset is another one, or the outputs differ.
    The module's training flag is restored.
    """
    shape = tuple(int(size) for size in input_shape)
    if len(shape) < 2 or shape[0] != 1 or min(shape) < 1:
        raise LoweringError(f"input_shape is {shape}; a fixed shape with batch 1 is needed, such as (1, 1, 128, 128)")
    was_training = module.training
    module.eval()
    try:
        raw = _export(module, shape, max(opset, LOWEST_NATIVE_OPSET), input_name, list(output_names))
        model = tidy(convert_opset(raw, opset))
        if default_opset(model) != opset:
            raise LoweringError(f"asked for opset {opset} and got {default_opset(model)}")
        _check_form(model)
        check_model(model)
        generator = np.random.default_rng(0)
        samples = [generator.random(shape, dtype=np.float32), generator.standard_normal(shape).astype(np.float32)]
        error = torch_parity(module, model, samples)
    finally:
        module.train(was_training)
    if not error <= max_abs:
        raise LoweringError(f"the exported model differs from torch by {error:.3g}; at most {max_abs:.3g} is allowed")
    return model


def torch_parity(module: torch.nn.Module, model: onnx.ModelProto, samples: Sequence[npt.NDArray[np.float32]]) -> float:
    """Largest |torch - ONNX Runtime| over all outputs and samples, in the unit of the outputs.

    `module` must be in eval mode. Raises `LoweringError` when an output's shape differs or nothing was compared.
    """
    worst = 0.0
    for sample, found in zip(samples, run_model(model, samples), strict=True):
        with torch.no_grad():
            wanted = module(torch.from_numpy(sample))
        for tensor, (name, array) in zip(_in_order(wanted, list(found)), found.items(), strict=True):
            if tuple(tensor.shape) != array.shape:
                raise LoweringError(f"output {name!r} is {array.shape} in ONNX and {tuple(tensor.shape)} in torch")
            difference = np.abs(tensor.numpy().astype(np.float64) - array)
            worst = max(worst, float(difference.max())) if np.isfinite(difference).all() else float("inf")
    if not samples:
        raise LoweringError("no samples to compare on; give at least one")
    return worst


def _in_order(outputs: Any, names: list[str]) -> list[torch.Tensor]:
    """A module's answer, a tensor, a sequence or a mapping of them, in the order of the model's outputs.

    A mapping's keys must be `names`, in that order: torch's exporter numbers its values so.
    """
    if isinstance(outputs, torch.Tensor):
        return [outputs]
    if isinstance(outputs, Mapping):
        if list(outputs) != names:
            raise LoweringError(f"the module gives outputs {list(outputs)}; output_names are {names}, in that order")
        return list(outputs.values())
    return list(outputs)


def _check_form(model: onnx.ModelProto) -> None:
    left = [n.name for n in model.graph.node if n.op_type in ("BatchNormalization", "Identity", "Dropout")]
    if left:
        raise LoweringError(f"nodes {left} are left after export; they should have been folded or removed")


def _export(
    module: torch.nn.Module, shape: tuple[int, ...], opset: int, input_name: str, output_names: list[str]
) -> onnx.ModelProto:
    with _quiet():
        try:
            program = torch.onnx.export(
                module,
                (torch.zeros(shape),),
                dynamo=True,
                external_data=False,
                optimize=True,
                opset_version=opset,
                input_names=[input_name],
                output_names=output_names,
                verbose=False,
            )
        except Exception as error:
            raise LoweringError(f"torch cannot export this module at opset {opset}: {single_line(error)}") from error
    if program is None:
        raise LoweringError("torch.onnx.export returned nothing; a torch with the dynamo exporter is needed (>= 2.10)")
    model = program.model_proto
    if [item.name for item in model.graph.output] != output_names:
        found = [item.name for item in model.graph.output]
        raise LoweringError(f"the module gives outputs {found}; output_names names {output_names}")
    return model


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Drop the exporter's notes below ERROR and its warnings; exceptions pass."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
