"""Things to be scored: networks of any form behind one call, from a frame to a mask in the frame's own pixels.

Every system goes the device's way: `Preprocessor`, network, `MaskPostprocessor`, so that what is scored is what would
be shown. A bundle's variants run in the device's ONNX Runtime runner, after its self-test.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from edge_runtime.bundle.manifest import OutputSpec
from edge_runtime.errors import ConfigError, EdgeError, InferenceError
from edge_runtime.frame import Frame
from edge_runtime.postprocess import MaskPostprocessor
from edge_runtime.preprocess import Preprocessor
from edge_runtime.preprocess.spec import Persistence, PreprocessSpec, Stack
from edge_runtime.runners import Runner
from edge_sdk.evaluate.config import EvaluateConfig, SystemConfig

__all__ = ["Prediction", "System", "open_systems", "system_from_callable"]

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prediction:
    """`mask` (H, W) uint8, as the device shows it, and `probabilities` (K, H, W) float32 of the K foreground classes,
    0 outside the crop; both in source pixels.
    """

    mask: npt.NDArray[np.uint8]
    probabilities: Float32


class System:
    """A named network with its preprocessing: `system(frame) -> Prediction`.

    `infer` maps (1, C, h, w) float32 to logits (1, P, h', w') float32, P 1 for one class, else one more than the
    classes. `origin` is the file that messages name, `sha256` identifies it. Not for more than one thread.
    """

    def __init__(
        self,
        name: str,
        preprocess: PreprocessSpec,
        infer: Callable[[Float32], Float32],
        output: OutputSpec,
        *,
        origin: str = "",
        sha256: str = "",
    ) -> None:
        if any(isinstance(step, (Persistence, Stack)) for step in preprocess.steps):
            raise ConfigError(f"system {name}: its preprocessing stacks frames; single images cannot be scored with it")
        self.name = name
        self.origin = origin or name
        self.sha256 = sha256
        self.preprocess = preprocess
        self.output = output
        self._infer = infer
        self._prepare = Preprocessor(preprocess)
        self._post = MaskPostprocessor(output)

    @property
    def classes(self) -> int:
        """Foreground classes."""
        return max(1, self.output.shape[1] - 1)

    def __call__(self, frame: Frame, *, file: str = "frame") -> Prediction:
        """The prediction for `frame`; raises `InferenceError` naming `file` and the system for outputs of another
        shape or that are not finite, `ConfigError` when the preprocessing does not take the frame.
        """
        try:
            prepared = self._prepare(frame)
            logits = self._infer(prepared.tensor)
            if logits.shape != self.output.shape:
                raise InferenceError(f"the output is {logits.shape}; {self.output.shape} is needed")
            found = self._post({self.output.name: logits}, prepared, frame)
        except EdgeError as error:
            raise type(error)(f"{file}, system {self.name} ({self.origin}): {error}") from error
        planes = _planes(logits[0], self.output.temperature)
        probabilities = np.stack([prepared.map.probability_to_source(plane) for plane in planes])
        return Prediction(mask=found.mask, probabilities=probabilities)


def _planes(logits: Float32, temperature: float) -> Float32:
    """(K, h, w) probabilities of the foreground classes from (P, h, w) logits."""
    scaled = logits.astype(np.float64) / temperature
    if len(scaled) == 1:
        return np.asarray(1 / (1 + np.exp(-np.clip(scaled, -80, 80))), np.float32)
    scaled = np.exp(scaled - scaled.max(axis=0))
    return np.asarray((scaled / scaled.sum(axis=0))[1:], np.float32)


def system_from_callable(
    name: str,
    forward: Callable[[Any], Any],
    preprocess: PreprocessSpec,
    classes: tuple[str, ...],
    *,
    threshold: float = 0.5,
    temperature: float = 1.0,
    origin: str = "",
    sha256: str = "",
) -> System:
    """A system from a torch module or a `Teacher`: (1, C, h, w) float32 tensor to (1, P, h, w) logits.

    `classes` names the foreground classes; a module is put into evaluation mode.
    """
    import torch

    if isinstance(forward, torch.nn.Module):
        forward.eval()
    height, width = Preprocessor(preprocess).output_shape[2:]
    planes = 1 if len(classes) == 1 else len(classes) + 1

    def infer(tensor: Float32) -> Float32:
        with torch.inference_mode():
            found = forward(torch.from_numpy(tensor.copy()))
        if not isinstance(found, torch.Tensor):
            raise InferenceError(f"the output is a {type(found).__name__}; one tensor of logits is needed")
        return np.asarray(found.float().cpu().numpy(), np.float32)

    output = OutputSpec(
        name="mask",
        shape=(1, planes, height, width),
        kind="mask_logits",
        classes=classes if planes == 1 else ("background", *classes),
        threshold=threshold,
        temperature=temperature,
    )
    return System(name, preprocess, infer, output, origin=origin, sha256=sha256)


@contextmanager
def open_systems(config: EvaluateConfig, base: Path, *, fold: int | None = None) -> Iterator[list[System]]:
    """Every system of `config`, a bundle's variants one by one, ready to be called inside the context.

    A network file without a `preprocess` of its own takes that of the settings, else that of the first bundle. Raises
    `ConfigError` naming the file for one that is missing or does not fit, and what `edge_runtime.loading.load` raises.
    """
    with ExitStack() as stack:
        found: dict[str, System] = {}
        bundles = {item.label: _bundle(item, config, base, fold, stack) for item in config.systems if item.is_bundle}
        shared = config.preprocess or next((item.preprocess for group in bundles.values() for item in group), None)
        for item in config.systems:
            for system in bundles.get(item.label) or [_network(item, config, base, fold, shared)]:
                if system.name in found:
                    raise ConfigError(f"two systems are called {system.name!r}; give one another name")
                found[system.name] = system
        yield list(found.values())


def _path(item: SystemConfig, base: Path, fold: int | None) -> Path:
    if "{fold}" in item.path and fold is None:
        raise ConfigError(f"system {item.label}: {item.path} has a {{fold}}, and folds is 0; set folds")
    path = base / (item.path.replace("{fold}", str(fold)) if fold is not None else item.path)
    if not path.is_file():
        raise ConfigError(f"system {item.label}: {path} does not exist")
    return path


def _bundle(item: SystemConfig, config: EvaluateConfig, base: Path, fold: int | None, stack: ExitStack) -> list[System]:
    from edge_runtime.bundle import Bundle
    from edge_runtime.loading import load

    path = _path(item, base, fold)
    with Bundle.open(path) as bundle:
        manifest = bundle.manifest
    wanted = item.variants or tuple(variant.id for variant in manifest.variants)
    systems = []
    for variant in wanted:
        model = load(path, variant=variant)
        output = model.manifest.outputs[0]
        _check_planes(f"{path}", output.shape[1] if len(output.shape) == 4 else 0, config)
        runner = stack.enter_context(model.runners[0])
        systems.append(
            System(
                f"{item.label}/{variant}",
                manifest.preprocess,
                _by_runner(runner, output.name),
                output,
                origin=str(path),
                sha256=model.sha256,
            )
        )
    return systems


def _by_runner(runner: Runner, output: str) -> Callable[[Float32], Float32]:
    return lambda tensor: runner.infer({runner.input.name: tensor})[output]


def _check_planes(origin: str, planes: int, config: EvaluateConfig) -> None:
    wanted = 1 if len(config.classes) == 1 else len(config.classes) + 1
    if planes != wanted:
        raise ConfigError(
            f"{origin} gives {planes} planes of logits; {wanted} are needed for the classes {list(config.classes)} "
            "(one for a single class, else one for each and the background)"
        )


def _network(
    item: SystemConfig, config: EvaluateConfig, base: Path, fold: int | None, shared: PreprocessSpec | None
) -> System:
    from edge_sdk.students import build_network
    from edge_sdk.teachers import load_teacher

    path = _path(item, base, fold)
    preprocess = item.preprocess or shared
    if preprocess is None:
        raise ConfigError(
            f"system {item.label}: {path} does not say how frames are prepared; give `preprocess` (a .edge file has it)"
        )
    planes = 1 if len(config.classes) == 1 else len(config.classes) + 1
    module = None
    if item.network is not None:
        channels = Preprocessor(preprocess).output_shape[1]
        module = build_network(item.network, in_channels=channels, classes=planes)
    teacher = load_teacher(path, classes=planes, module=module, output=item.output)
    digest = hashlib.sha256(repr([teacher.sha256, item.output, msgspec.json.encode(preprocess)]).encode()).hexdigest()
    return system_from_callable(
        item.label,
        teacher,
        preprocess,
        config.classes,
        threshold=item.threshold,
        temperature=item.temperature,
        origin=str(path),
        sha256=digest,
    )
