"""A variant on one of the device's runners, without a bundle around it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from edge_runtime.bundle.manifest import InputSpec, OutputSpec
from edge_runtime.errors import ConfigError
from edge_runtime.runners import RUNNER_TARGETS, available_runners, open_runner

__all__ = ["DEFAULT_RUNNER", "check_runners", "run_variant", "runners_of"]

Float32 = npt.NDArray[np.float32]

DEFAULT_RUNNER = "onnxruntime"


def check_runners(runners: Sequence[str]) -> None:
    """Raise `ConfigError` unless every name is a runner that can be used on this machine."""
    known = available_runners()
    for name in runners:
        if name not in known:
            raise ConfigError(f"runner {name!r} is not known; there is {sorted(known)}")
        if known[name] is not None:
            raise ConfigError(f"runner {name!r} cannot be used here: {known[name]}")
    if not runners:
        raise ConfigError(f"no runners; name at least one of {sorted(known)}")


def runners_of(variant: str, runners: Sequence[str], targets: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """The `runners` that `targets[variant]` allows; all of them for a variant without targets.

    A variant that is written for none of them is run on ONNX Runtime, which computes what the file says although no
    device would run it there.
    """
    if variant not in targets:
        return tuple(runners)
    return tuple(name for name in runners if RUNNER_TARGETS[name] in targets[variant]) or (DEFAULT_RUNNER,)


def run_variant(
    data: bytes,
    name: str,
    inputs: Sequence[Float32],
    input_spec: InputSpec,
    output_specs: tuple[OutputSpec, ...],
    *,
    runner: str = DEFAULT_RUNNER,
) -> list[dict[str, Float32]]:
    """Outputs by name of a variant for each input, by one of the runtime's runners on one thread (copies).

    The values are as they come, NaN and infinities too. Raises `RunnerError` and its kin when the runner refuses the
    model or an input.
    """
    check_runners([runner])
    with open_runner(runner, data, name, input_spec, output_specs) as opened:
        found = (opened.infer({input_spec.name: sample}) for sample in inputs)
        return [{name: array.copy() for name, array in outputs.items()} for outputs in found]
