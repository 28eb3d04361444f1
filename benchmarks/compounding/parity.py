"""`parity`: five volumes that the reference reconstructor made of the spine sweep, voxel by voxel."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from benchmarks.compounding.cases import CLIP, FAN, Pixels, read_volume, spine_pixels, sweep_of, sweeps
from benchmarks.compounding.reference import POINT, emulate, fan_runs, fill_sticks
from benchmarks.figures import Figure
from edge_runtime.reconstruct import CompoundKernel, CompoundMode, compound
from edge_runtime.reconstruct.compare import parity

__all__ = ["Case", "fourteen_bits", "measure_parity", "ours"]

GOAL = ">= 99.9 % of filled voxels equal"
BIAS = 2.0**-20  # voxels; an address that lies exactly between two voxels in 14 bits goes up, as in the reference

U8 = npt.NDArray[np.uint8]
F64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A reference volume and how it was made."""

    name: str
    file: str
    mode: CompoundMode
    kernel: CompoundKernel
    fan: bool = False
    sticks: bool = False
    planes: int | None = None


CASES = {
    "NNLATE": Case(
        name="NNLATE", file="VolumeReconstructorTestNNLATEvolumeRef.mha", mode="latest", kernel="nearest", fan=True
    ),
    "LNMAXI": Case(name="LNMAXI", file="VolumeReconstructorTestLNMAXIvolumeRef.mha", mode="max", kernel="linear"),
    "NNMEAN": Case(
        name="NNMEAN", file="VolumeReconstructorTestNNMEANvolumeRef.mha", mode="mean", kernel="nearest", sticks=True
    ),
    "LNMEAN": Case(
        name="LNMEAN",
        file="VolumeReconstructorTestLNMEANvolumeRef.mha",
        mode="mean",
        kernel="linear",
        fan=True,
        sticks=True,
    ),
    "Reconstructed": Case(
        name="Reconstructed",
        file="SpinePhantomFreehandReconstructed.mha",
        mode="mean",
        kernel="linear",
        sticks=True,
        planes=104,
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FanArea:
    """The scan area that the reference's rules give a clip rectangle and a fan."""

    clip: tuple[int, int, int, int] = CLIP
    fan: tuple[float, float, float, float, float, float] = FAN

    def mask(self, shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
        """(H, W) bool, true where the reference takes the pixel."""
        inside = np.zeros(shape, np.bool_)
        for y, x0, x1 in fan_runs(shape, self.clip, self.fan):
            inside[y, x0:x1] = True
        return inside


def fourteen_bits(to_voxels: F64) -> F64:
    """The matrices as the reference holds them."""
    return np.rint(to_voxels * (1 << POINT)) / (1 << POINT)


def ours(pixels: Pixels, case: Case, *, rounded: bool) -> U8:
    """The volume of the runtime on the reference's lattice; `rounded` gives it the reference's 14-bit matrices."""
    origin, shape = pixels.extent(CLIP if case.fan else None)
    matrices = pixels.to_voxels(origin)
    if rounded:
        matrices = fourteen_bits(matrices)
        matrices[:, :3, 3] += BIAS
    sweep, grid = sweep_of(pixels.frames, matrices, shape)
    if case.fan:
        area = FanArea()
        geometry = [replace(sweep.geometry_of(k), scan_area=area) for k in range(len(sweep))]  # type: ignore[arg-type]
        sweep = replace(sweep, geometry=geometry)
    return compound(sweep, mode=case.mode, kernel=case.kernel, grid=grid).data


def emulated(pixels: Pixels, case: Case) -> U8:
    """The volume that the emulation of the reference makes."""
    origin, shape = pixels.extent(CLIP if case.fan else None)
    shape = shape if case.planes is None else (case.planes, *shape[1:])
    size = (pixels.frames.shape[1], pixels.frames.shape[2])
    runs = fan_runs(size, CLIP, FAN) if case.fan else fan_runs(size)
    matrices = fourteen_bits(pixels.to_voxels(origin))
    data, weight = emulate(pixels.frames, matrices, shape, runs, mode=case.mode, kernel=case.kernel)
    return fill_sticks(data, weight) if case.sticks else data


def _figure(name: str, data: U8, truth: U8, *, goal: bool = True) -> Figure:
    found = parity(data, truth)
    equal = 100 * found.equal
    return Figure(
        name=name,
        value=equal,
        goal=GOAL if goal else "stated, no goal",
        unit="%",
        n=found.voxels,
        met=equal >= 99.9 if goal else None,
        spread=f"within 2 levels {100 * found.within_2:.3f} %, worst {found.worst}",
    )


def measure_parity() -> list[Figure]:
    """The runtime and the emulation against the reference volumes; shares over voxels filled in either."""
    pixels, folder = spine_pixels(), sweeps() / "plus_spine"
    truth = {key: read_volume(folder / case.file) for key, case in CASES.items()}
    figures = []
    for key in ("NNLATE", "LNMAXI"):
        figures.append(
            _figure(f"{key}, the reference's 14-bit matrices", ours(pixels, CASES[key], rounded=True), truth[key])
        )
        plain = ours(pixels, CASES[key], rounded=False)
        figures.append(_figure(f"{key}, matrices as recorded", plain, truth[key], goal=False))
    for key, name in (
        ("NNMEAN", "NNMEAN, emulated 8-bit mean and sticks"),
        ("LNMEAN", "LNMEAN, emulated 8-bit mean and sticks"),
        ("Reconstructed", "SpinePhantomFreehandReconstructed, sticks on the emulation"),
    ):
        figures.append(_figure(name, emulated(pixels, CASES[key]), truth[key]))
    return figures
