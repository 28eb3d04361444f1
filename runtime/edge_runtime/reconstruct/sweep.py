"""`Sweep`: the frames of one movement of the probe and where each was taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ConfigError, ReconstructionError
from edge_runtime.frame import FrameGeometry
from edge_runtime.geometry import PoseOrigin, is_rigid

__all__ = ["RIGID_TOLERANCE", "FrameStack", "Sweep"]

RIGID_TOLERANCE = 1e-4


class FrameStack(Protocol):
    """N grey images, each read when asked for; an (N, H, W) uint8 array or memory map is one."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> npt.NDArray[np.uint8]: ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sweep:
    """Frames with their poses.

    `frames`: N images (H, W) uint8, read one at a time. `T_world_image`: (N, 4, 4) float64, rigid, mm; image
    frame x lateral, y axial, z elevational, origin at the centre of pixel (0, 0). `geometry`: one for all
    frames, or N. `times_ns`: (N,) int64, not decreasing, or None. `pose_origin`: where the poses come from.

    Raises `ReconstructionError` when there is no frame and `ConfigError` when counts, shapes or matrices are
    wrong. Images are checked when they are read.
    """

    frames: FrameStack
    T_world_image: npt.NDArray[np.float64]
    geometry: FrameGeometry | Sequence[FrameGeometry]
    times_ns: npt.NDArray[np.int64] | None = None
    pose_origin: PoseOrigin = "tracker"

    def __post_init__(self) -> None:
        n, T = len(self.frames), self.T_world_image
        if n == 0:
            raise ReconstructionError("the sweep has no frame; at least one is needed")
        if T.shape != (n, 4, 4):
            raise ConfigError(f"T_world_image has shape {T.shape} for {n} frames; ({n}, 4, 4) is needed")
        bad = [k for k in range(n) if not is_rigid(T[k], RIGID_TOLERANCE)]
        if bad:
            raise ConfigError(
                f"T_world_image is not rigid at frames {bad[:5]} ({len(bad)} of {n}): take the pixel scale out "
                "and put it into FrameGeometry, and leave out frames whose tracking failed"
            )
        if not isinstance(self.geometry, FrameGeometry) and len(self.geometry) != n:
            raise ConfigError(f"{len(self.geometry)} geometries for {n} frames; give one, or one per frame")
        self._check_times(n)

    def _check_times(self, n: int) -> None:
        times = self.times_ns
        if times is None:
            return
        if times.shape != (n,) or times.dtype != np.int64:
            raise ConfigError(f"times_ns has shape {times.shape} and dtype {times.dtype}; ({n},) int64 is needed")
        if (np.diff(times) < 0).any():
            k = int(np.argmax(np.diff(times) < 0))
            raise ConfigError(
                f"times_ns goes back after frame {k} ({times[k]} to {times[k + 1]}); sort the frames by time"
            )

    def __len__(self) -> int:
        return len(self.frames)

    def image(self, index: int) -> npt.NDArray[np.uint8]:
        """Frame `index`, (H, W) uint8; `ConfigError` when it is of another kind."""
        image = np.asarray(self.frames[index])
        if image.ndim != 2 or image.dtype != np.uint8 or 0 in image.shape:
            raise ConfigError(
                f"frame {index} has shape {image.shape} and dtype {image.dtype}; (H, W) uint8 grey is needed"
            )
        return image

    def geometry_of(self, index: int) -> FrameGeometry:
        """Geometry of frame `index`."""
        return self.geometry if isinstance(self.geometry, FrameGeometry) else self.geometry[index]

    def with_poses(self, T_world_image: npt.NDArray[np.float64], pose_origin: PoseOrigin) -> Sweep:
        """The same frames at other poses (N, 4, 4), such as after optimisation."""
        return replace(self, T_world_image=T_world_image, pose_origin=pose_origin)
