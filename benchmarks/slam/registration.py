"""`sweep_registration`: two simulated sweeps of one liver, one of them moved, registered to each other again.

Sixty-nine of the 200 poses of l2 are no rotations (off by up to 0.01; the reader leaves such frames out). Any 3 x 2
part of a matrix is a rotation, two pixel sizes and a shear, so each frame gets a geometry of its own and every pixel
lies exactly where the recorded matrix puts it. What the nearest rotations in their place would change is measured
beside. There is one such pair of sweeps: the settings are the defaults of the runtime, whose blur along the beam was
chosen on this pair with offsets of other seeds (1 and 2).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from benchmarks.compounding.cases import sweeps
from benchmarks.figures import Figure, judged
from edge_runtime.reconstruct import Sweep
from edge_runtime.slam import se3
from edge_runtime.slam.join import register_sweeps
from edge_runtime.sources.tracked import read_sequence, split_scale

__all__ = ["liver", "measure_sweep_registration", "offset", "recovered"]

F64 = npt.NDArray[np.float64]

SHIFT_MM, TURN_DEG = 10.0, 5.0
SEEDS = tuple(range(100, 108))


def liver(name: str, *, nearest_rotation: bool = False) -> Sweep:
    """Sweep `l2` or `r2`, all 200 frames; with `nearest_rotation` every rotation is first replaced by the nearest."""
    sequence = read_sequence(sweeps() / "ultranerf_liver" / f"{name}.igs.mha")
    assert sequence.frames is not None
    T_reference_probe = sequence.transforms["ProbeToReference"].copy()
    if nearest_rotation:
        u, _, v = np.linalg.svd(T_reference_probe[:, :3, :3])
        T_reference_probe[:, :3, :3] = u @ v
    placed = [split_scale(T) for T in T_reference_probe @ sequence.transforms["ImageToProbe"]]
    poses = np.stack([pose for pose, _ in placed])
    return Sweep(frames=sequence.frames, T_world_image=poses, geometry=[geometry for _, geometry in placed])


def middle(sweep: Sweep) -> F64:
    """World position (3,) of the middle of the images, mean over the frames."""
    at = []
    for k, T in enumerate(sweep.T_world_image):
        row_mm, column_mm = sweep.geometry_of(k).require_mm()
        rows, columns = sweep.image(k).shape
        at.append(T[:3, :3] @ (columns * column_mm / 2, rows * row_mm / 2, 0) + T[:3, 3])
    return np.asarray(np.mean(at, axis=0))


def offset(seed: int, centre: F64) -> F64:
    """A motion (4, 4) of exactly 10 mm and 5 degrees, about `centre`, in directions drawn with `seed`."""
    shift, axis = np.random.default_rng(seed).normal(size=(2, 3))
    T = se3.exp([*np.radians(TURN_DEG) * axis / np.linalg.norm(axis), 0, 0, 0])
    T[:3, 3] = centre - T[:3, :3] @ centre + SHIFT_MM * shift / np.linalg.norm(shift)
    return T


def recovered(fixed: Sweep, moving: Sweep, T_moved: F64) -> dict[str, float]:
    """How far the registration of `moving`, taken to `T_moved`, stays from undoing it: mm at its middle, degrees."""
    joined = register_sweeps(fixed, moving.with_poses(T_moved @ moving.T_world_image, "tracker"))
    left = joined.T_fixed_moving @ T_moved
    centre = middle(moving)
    return {
        "mm": float(np.linalg.norm(left[:3, :3] @ centre + left[:3, 3] - centre)),
        "degrees": float(np.degrees(np.linalg.norm(se3.log(left)[:3]))),
        "ncc": joined.ncc,
        "lead": joined.lead,
    }


def measure_sweep_registration() -> list[Figure]:
    """r2 moved by 10 mm and 5 degrees in eight directions, registered to l2; and not moved at all."""
    fixed, moving = liver("l2"), liver("r2")
    centre = middle(moving)
    found = [recovered(fixed, moving, offset(seed, centre)) for seed in SEEDS]
    still = recovered(fixed, moving, np.eye(4))
    nearest = liver("l2", nearest_rotation=True)
    rotated = [recovered(nearest, moving, offset(seed, centre)) for seed in SEEDS[:2]]
    figures = []
    for key, unit, bound in (("mm", "mm", "< 1 mm"), ("degrees", "degree", "< 0.5 degree")):
        values = [one[key] for one in found]
        figures.append(
            judged(
                name=f"simulated liver, 10 mm / 5 degree offset: worst residual, {unit}",
                value=max(values),
                goal=bound,
                unit=unit,
                n=len(values),
                spread=f"median {np.median(values):.3f}, least {min(values):.3f}; not moved {still[key]:.3f}; "
                f"l2 by its nearest rotations {max(one[key] for one in rotated):.3f} (n 2)",
                detail={"seeds": list(SEEDS), "each": found},
            )
        )
    return figures
