"""`ReconstructSettings`: how a recording becomes a volume."""

from __future__ import annotations

import math
from typing import Literal, get_args

import msgspec
import numpy as np

from edge_runtime.errors import ConfigError
from edge_runtime.reconstruct.compound import CompoundKernel, CompoundMode

__all__ = ["MIB", "ReconstructSettings"]

MIB = 1 << 20
VOLUME_BYTES = 5  # grey level and float32 weight of a voxel
MAX_OFFSET_MS = 1e9


class ReconstructSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How a recording becomes a volume.

    `transform`: the chain that takes pixels to the world, by name. `spacing_mm`: (z, y, x). `origin_mm` (x, y, z), the
    world position of the centre of voxel (0, 0, 0), and `shape` (z, y, x) in voxels are taken exactly as they are
    given; without them the smallest lattice that holds the sweep is made, and with `origin_mm` alone it reaches from
    there to the far end of the sweep. `mode`, `kernel` and `average`: see `Compounder`. `invalid`, `repeated`,
    `max_gap_ms`: see `sweep_of_sequence`. `offset_ms`: the image's clock less the tracker's; other than 0, poses are
    interpolated to the images' times. `max_mib`: memory that sums and volume may take together. `threads`: 1 to
    64; the result does not depend on it.

    A weighted mean (kernel `nearest`, mode `mean`): with `depth_halving_mm` the weight of a pixel halves with each so
    many mm of depth, with `incidence` it falls with the angle between beam and surface (`incidence_weights`), and maps
    of confidence may be given to `reconstruct`; they are multiplied. Raises `ConfigError` for a value out of range or
    settings that exclude each other.
    """

    transform: str = "ImageToReference"
    spacing_mm: tuple[float, float, float] = (0.5, 0.5, 0.5)
    origin_mm: tuple[float, float, float] | None = None
    shape: tuple[int, int, int] | None = None
    mode: CompoundMode = "mean"
    kernel: CompoundKernel = "linear"
    average: int = 1
    depth_halving_mm: float | None = None
    incidence: bool = False
    invalid: Literal["drop", "error"] = "drop"
    repeated: Literal["keep", "drop", "error"] = "keep"
    offset_ms: float = 0.0
    max_gap_ms: float | None = None
    max_mib: int = 2048
    threads: int = 1

    def __post_init__(self) -> None:
        if self.mode not in get_args(CompoundMode) or self.kernel not in get_args(CompoundKernel):
            raise ConfigError(
                f"mode {self.mode!r} with kernel {self.kernel!r}: modes are {', '.join(get_args(CompoundMode))}; "
                f"kernels are {', '.join(get_args(CompoundKernel))}"
            )
        if self.shape is not None and self.origin_mm is None:
            raise ConfigError(f"shape {self.shape} without origin_mm: give the position of voxel (0, 0, 0) too")
        if not np.isfinite(self.origin_mm or 0).all():
            raise ConfigError(f"origin_mm {self.origin_mm}: three finite numbers (x, y, z) in mm are needed")
        if self.max_mib < 1 or not 1 <= self.threads <= 64:
            raise ConfigError(
                f"max_mib {self.max_mib} and threads {self.threads}: at least 1, and 1 to 64, are allowed"
            )
        if not 1 <= self.average <= 8 or (self.average > 1 and self.mode != "mean"):
            raise ConfigError(f"average {self.average} with mode {self.mode!r}: 1 to 8, and above 1 only for a mean")
        if not abs(self.offset_ms) <= MAX_OFFSET_MS:
            raise ConfigError(f"offset_ms {self.offset_ms}: a number of at most {MAX_OFFSET_MS:g} ms is needed")
        for name in ("depth_halving_mm", "max_gap_ms"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ConfigError(f"{name} is {value}; a positive number is needed")
        if self.weighted:
            self.require_weighted()

    @property
    def weighted(self) -> bool:
        """Whether pixels are weighted by depth or incidence."""
        return self.incidence or self.depth_halving_mm is not None

    def require_weighted(self) -> None:
        """Raises `ConfigError` when these settings exclude weights for the pixels."""
        if (self.mode, self.kernel, self.average) != ("mean", "nearest", 1):
            raise ConfigError(
                f"weights with mode {self.mode!r}, kernel {self.kernel!r}, average {self.average}: a weighted mean is "
                "made with kernel 'nearest', mode 'mean' and average 1"
            )

    def voxel_bytes(self, *, weighted: bool) -> int:
        """Memory of a voxel: its sums, grey level and weight."""
        sums = 32 if weighted else 16 if (self.mode, self.kernel) == ("mean", "linear") else 8
        return sums + VOLUME_BYTES
