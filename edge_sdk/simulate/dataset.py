"""Training sets of simulated frames, the same whatever the number of processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import numpy.typing as npt

from edge_runtime.frame import FrameGeometry
from edge_sdk.simulate._checks import require, require_shape
from edge_sdk.simulate.frame import SimulatedFrame, simulate_frame
from edge_sdk.simulate.sampling import random_probe, random_scene

__all__ = ["TrainingSet", "training_frame", "training_set"]

TrainingSet = tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], tuple[FrameGeometry, ...]]
Job = tuple[int, int, tuple[int, int]]


def training_frame(seed: int, index: int, shape: tuple[int, int] = (160, 160)) -> SimulatedFrame:
    """Frame `index` of the training set `seed`: a random probe over a random scene."""
    require_shape(shape)
    require(seed >= 0 and index >= 0, "seed, index", (seed, index), "give whole numbers >= 0")
    rng = np.random.default_rng([seed, index])
    probe = random_probe(rng)
    return simulate_frame(random_scene(rng, probe), probe, rng, shape)


def _one(job: Job) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], FrameGeometry]:
    seed, index, shape = job
    frame = training_frame(seed, index, shape)
    return frame.image, frame.mask, frame.geometry


def training_set(
    seed: int,
    n: int,
    shape: tuple[int, int] = (160, 160),
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> TrainingSet:
    """`n` random frames: images (n, H, W) uint8, masks (n, H, W) uint8 (1 anechoic), geometries (n).

    Depth, geometry, PSF, gain, dynamic range, TGC, noise, clutter, gamma, layers and inclusions are drawn for every
    frame; hypoechoic regions and shadows are dark but no targets, and about one frame in eight has no target. Frame i
    depends on (`seed`, i) alone: use different seeds for training, validation and test. `workers` > 1 uses spawned
    processes, so a script needs the `if __name__ == "__main__"` guard. `progress(done, n)` is called after
    every frame. Raises `ConfigError` for arguments out of range.
    """
    require(n > 0, "n", n, "give at least 1 frame")
    require(1 <= workers <= 256, "workers", workers, "give 1 to 256 processes")
    require(seed >= 0, "seed", seed, "give a whole number >= 0")
    require_shape(shape)
    images = np.empty((n, *shape), np.uint8)
    masks = np.empty((n, *shape), np.uint8)
    geometries = []
    for i, (image, mask, geometry) in enumerate(_run([(seed, i, shape) for i in range(n)], workers)):
        images[i], masks[i] = image, mask
        geometries.append(geometry)
        if progress is not None:
            progress(i + 1, n)
    return images, masks, tuple(geometries)


def _run(jobs: list[Job], workers: int) -> Iterator[tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], FrameGeometry]]:
    if workers == 1:
        yield from map(_one, jobs)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(_one, jobs, chunksize=8)
