"""A freehand sweep through a field of scatterers, with everything about it known."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_runtime.buffers import ImuSamples
from edge_runtime.reconstruct import Sweep
from edge_sdk.simulate._checks import require
from edge_sdk.sweeps.anatomy import Anatomy
from edge_sdk.sweeps.echo import EchoField
from edge_sdk.sweeps.imu import ImuModel, ImuTruth, simulate_imu
from edge_sdk.sweeps.settings import Disturbance, Receiver, SweepProbe

__all__ = ["TrueSweep", "sweep_through"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrueSweep:
    """A simulated sweep and its truth.

    `sweep.T_world_image` are the exact poses. The world is that of the tissue at rest: what frame n shows at depth y
    rests at depth `y / (1 - compression[n])` below the face, and is moved by `breathing_mm[n]` (x, y, z of the world).
    `compression` (N,), `breathing_mm` (N, 3), `gain_db` (N,) float64. `imu` and `imu_truth` are None unless asked for.
    """

    sweep: Sweep
    compression: Floats
    breathing_mm: Floats
    gain_db: Floats
    imu: ImuSamples | None
    imu_truth: ImuTruth | None

    @property
    def images(self) -> npt.NDArray[np.uint8]:
        """The frames as one array (N, H, W) uint8, not copied."""
        return np.asarray(self.sweep.frames)


def sweep_through(
    anatomy: Anatomy,
    T_world_image: Floats,
    seed: int,
    *,
    fps: float = 30.0,
    probe: SweepProbe | None = None,
    receiver: Receiver | None = None,
    disturbance: Disturbance | None = None,
    imu: ImuModel | None = None,
) -> TrueSweep:
    """The frames that `probe` takes of `anatomy` at poses `T_world_image` (N, 4, 4), `fps` to the second.

    `seed` draws noise, gain, phases of breathing and compression, and the inertial errors; the tissue itself depends
    on `anatomy` alone, so two sweeps through one anatomy see the same speckle where they cross. Raises `ConfigError`
    for numbers out of range and poses that are not rigid, `ReconstructionError` for no pose.
    """
    require(seed >= 0, "seed", seed, "give a whole number >= 0")
    require(0 < fps <= 1000, "fps", fps, "give up to 1000 frames per second")
    probe, receiver = probe or SweepProbe(), receiver or Receiver()
    disturbance = disturbance or Disturbance()
    n = len(T_world_image)
    times = np.rint(np.arange(n) * (1e9 / fps)).astype(np.int64)
    sweep = Sweep(
        frames=np.zeros((n, *probe.shape), np.uint8),
        T_world_image=np.asarray(T_world_image, np.float64),
        geometry=probe.geometry,
        times_ns=times,
    )
    rng, of_noise, of_imu = (np.random.default_rng([seed, k]) for k in range(3))
    seconds = times * 1e-9
    compression = _compression(rng, seconds, disturbance)
    breathing = _breathing(rng, seconds, disturbance)
    gain = _gain(rng, seconds, receiver)
    field = EchoField(anatomy, probe)
    images = _images(field, receiver, sweep.T_world_image, compression, breathing, gain, of_noise)
    samples, truth = (None, None) if imu is None else simulate_imu(sweep.T_world_image, times, imu, of_imu)
    return TrueSweep(
        sweep=Sweep(frames=images, T_world_image=sweep.T_world_image, geometry=probe.geometry, times_ns=times),
        compression=compression,
        breathing_mm=breathing,
        gain_db=gain,
        imu=samples,
        imu_truth=truth,
    )


def _images(
    field: EchoField,
    receiver: Receiver,
    poses: Floats,
    compression: Floats,
    breathing: Floats,
    gain: Floats,
    rng: np.random.Generator,
) -> npt.NDArray[np.uint8]:
    images = np.empty((len(poses), *field.probe.shape), np.uint8)
    shown = np.zeros(field.probe.shape, np.float32)
    recent: deque[npt.NDArray[np.float32]] = deque(maxlen=receiver.averaging)
    for k, (T, c, moved, db) in enumerate(zip(poses, compression, breathing, gain, strict=True)):
        T_tissue_image = T.copy()
        T_tissue_image[:3, 3] -= moved
        field.receive(T_tissue_image, float(c))
        keep = receiver.persistence if k else 0.0
        field.show(receiver, float(db), rng, keep, shown, images[k])
        if receiver.averaging > 1:
            recent.append(shown.copy())
            images[k] = np.rint(np.mean(recent, axis=0))
    return images


def _compression(rng: np.random.Generator, t: Floats, disturbance: Disturbance) -> Floats:
    """Two slow waves about the mean, in [0, 0.5]."""
    phase = rng.uniform(0, 2 * np.pi, 2)
    rate = 2 * np.pi * disturbance.compression_hz
    wave = 0.7 * np.sin(rate * t + phase[0]) + 0.3 * np.sin(2.3 * rate * t + phase[1])
    return np.asarray(np.clip(disturbance.compression + disturbance.compression_swing * wave, 0.0, 0.5))


def _breathing(rng: np.random.Generator, t: Floats, disturbance: Disturbance) -> Floats:
    """cos^4, which rests longer at the end of breathing out (Lujan et al., Med. Phys. 26:715, 1999)."""
    wave = np.cos(np.pi * disturbance.breathing_hz * t + rng.uniform(0, np.pi)) ** 4
    return np.asarray(wave[:, None] * np.array(disturbance.breathing_mm))


def _gain(rng: np.random.Generator, t: Floats, receiver: Receiver) -> Floats:
    """Steady gain, a slow wander of 2 s, and turns of the knob that stay."""
    gain = np.full(len(t), receiver.gain_db)
    memory = np.exp(-np.diff(t, prepend=t[:1]) / 2.0)
    kicks, wander = rng.standard_normal(len(t)), 0.0
    for k in range(len(t)):
        wander = kicks[0] if k == 0 else memory[k] * wander + np.sqrt(1 - memory[k] ** 2) * kicks[k]
        gain[k] += receiver.gain_wander_db * wander
    for _ in range(int(rng.poisson(receiver.gain_steps))):
        gain[int(rng.integers(len(t))) :] += rng.uniform(2, 6) * rng.choice((-1.0, 1.0))
    return gain
