"""What training sees: inputs, named targets and a teacher's answers, each saying how geometry acts on it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor

from edge_runtime.errors import ConfigError

__all__ = ["Batch", "Field", "Kind", "TrainingSet"]

Kind = Literal["fixed", "labels", "dense", "boxes"]
_DIMENSIONS = {"labels": 3, "dense": 4, "boxes": 3}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Field:
    """Values of N samples, and what a change of the frames' geometry does to them.

    - "fixed" (N, ...): nothing (a class, class logits);
    - "labels" (N, H, W) integers at input size: they move by nearest neighbour;
    - "dense" (N, C, h, w) numbers over the input's field of view, at any resolution: they move bilinearly;
    - "boxes" (N, M, 5) float32 rows (label, x0, y0, x1, y1) in input pixels, half open, label -1 for padding: they
      move as the box around their moved corners, clipped to the frame.

    `sha256` is the hash of the values where it is known already (answers on disk), so that nobody reads them for it.
    Raises `ConfigError` for another number of dimensions.
    """

    values: Tensor
    kind: Kind
    sha256: str = ""

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ConfigError(f"field kind is {self.kind!r}; {', '.join(get_args(Kind))} are allowed")
        wanted = _DIMENSIONS.get(self.kind)
        if wanted is not None and self.values.dim() != wanted:
            raise ConfigError(
                f"a {self.kind!r} field has shape {tuple(self.values.shape)}; {wanted} dimensions are needed"
            )

    def rows(self, indices: Tensor) -> Field:
        """The samples of `indices` (K,): integers as int64, other numbers as float32."""
        values = self.values[indices]
        return Field(values=values.float() if values.is_floating_point() else values.long(), kind=self.kind)

    def digest(self) -> str:
        """Hash of kind, dtype, shape and values."""
        head = f"{self.kind}|{self.values.dtype}|{tuple(self.values.shape)}|{self.sha256}"
        digest = hashlib.sha256(head.encode())
        if not self.sha256:
            digest.update(_bytes(self.values))
        return digest.hexdigest()


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Samples:
    inputs: Tensor
    labelled: Tensor
    targets: Mapping[str, Field] = field(default_factory=dict)
    soft: Mapping[str, Field] = field(default_factory=dict)

    def target(self, name: str) -> Tensor:
        """The truth called `name`; raises `ConfigError` with the names that are there."""
        return _find(self.targets, name, "target")

    def soft_target(self, name: str) -> Tensor:
        """The teacher's answer called `name`; raises `ConfigError` with the names that are there."""
        return _find(self.soft, name, "soft target")


def _find(fields: Mapping[str, Field], name: str, what: str) -> Tensor:
    if name not in fields:
        raise ConfigError(f"{what} {name!r} is not in the batch; it holds {sorted(fields) or 'none'}")
    return fields[name].values


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch(_Samples):
    """What one training step sees.

    `inputs` (N, C, H, W) float32, a clip's frames as channels; `labelled` (N,) bool, false where `targets` mean
    nothing; `targets` the truth and `soft` the teacher's answers by name. Segmentation calls both "mask".
    """


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainingSet(_Samples):
    """All training samples: `Batch`'s fields over N samples, in memory or memory-mapped, inputs float32 or float16.

    `scale` is the (mean, std) of the preprocessing's `Normalize`. Raises `ConfigError` for no samples, unequal numbers
    of them, or "labels" of another size than the inputs.
    """

    scale: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        if self.inputs.dim() != 4:
            raise ConfigError(f"inputs have shape {tuple(self.inputs.shape)}; (N, C, H, W) is needed")
        lengths = {"inputs": len(self.inputs), "labelled": len(self.labelled)}
        for prefix, fields in (("target", self.targets), ("soft target", self.soft)):
            for name, values in fields.items():
                lengths[f"{prefix} {name!r}"] = len(values.values)
                if values.kind == "labels" and values.values.shape[1:] != self.inputs.shape[2:]:
                    raise ConfigError(
                        f"{prefix} {name!r} is {tuple(values.values.shape[1:])}, the inputs are "
                        f"{tuple(self.inputs.shape[2:])}; equal sizes are needed"
                    )
        if len(self.inputs) == 0 or len(set(lengths.values())) != 1:
            raise ConfigError(f"numbers of samples differ or are 0: {lengths}; all must be equal, not 0")

    def batch(self, indices: Tensor) -> Batch:
        """The samples of `indices` (K,) int64."""
        return Batch(
            inputs=self.inputs[indices].float(),
            labelled=self.labelled[indices],
            targets={name: values.rows(indices) for name, values in self.targets.items()},
            soft={name: values.rows(indices) for name, values in self.soft.items()},
        )

    @property
    def sha256(self) -> str:
        """Hash of everything that is trained on."""
        digest = hashlib.sha256(repr(self.scale).encode())
        for tensor in (self.inputs, self.labelled):
            digest.update(_bytes(tensor))
        for prefix, fields in (("target", self.targets), ("soft", self.soft)):
            for name in sorted(fields):
                digest.update(f"{prefix}|{name}|{fields[name].digest()}".encode())
        return digest.hexdigest()
