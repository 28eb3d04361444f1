"""Cines: the same tissue frame after frame, moving, with exact areas."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from edge_sdk.simulate._checks import require, require_shape
from edge_sdk.simulate._echo import prepare
from edge_sdk.simulate.frame import SimulatedFrame, render
from edge_sdk.simulate.motion import Motion
from edge_sdk.simulate.probe import ProbeModel
from edge_sdk.simulate.scene import Scene

__all__ = ["simulate_cine"]


def simulate_cine(
    scene: Scene,
    probe: ProbeModel,
    n_frames: int,
    fps: float = 30.0,
    motion: Motion | None = None,
    seed: int = 0,
    shape: tuple[int, int] = (256, 256),
) -> Iterator[SimulatedFrame]:
    """Frames 0 to `n_frames` - 1 at `fps`, `time_ns` from 0, with mask and areas (mm^2) exact for each.

    Scatterers are drawn once and move with the tissue, so speckle does too; electronic noise is new in every frame.
    None for `motion` is a `Motion` that only pulsates. Frame i is the same whatever `n_frames` is. Raises
    `ConfigError` for arguments out of range, at the call.
    """
    require(n_frames > 0, "n_frames", n_frames, "give at least 1 frame")
    require(math.isfinite(fps) and fps > 0, "fps", fps, "give frames per second > 0")
    require(seed >= 0, "seed", seed, "give a whole number >= 0")
    require_shape(shape)
    return _frames(scene, probe, n_frames, fps, motion or Motion(), seed, shape)


def _frames(
    scene: Scene, probe: ProbeModel, n_frames: int, fps: float, motion: Motion, seed: int, shape: tuple[int, int]
) -> Iterator[SimulatedFrame]:
    setup = prepare(scene, probe, np.random.default_rng(seed))
    for index in range(n_frames):
        moved = motion.at(scene, index / fps)
        rng = np.random.default_rng([seed, index])
        yield render(setup, rng, shape, moved, index, round(index * 1e9 / fps))
