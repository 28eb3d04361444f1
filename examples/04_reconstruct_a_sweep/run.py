"""Build a volume from a tracked sweep, frame by frame. See the README beside this file."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from edge_runtime.reconstruct import Compounder, Sweep, Volume, compare, draw_slices, grid_of_sweep, write_nrrd
from edge_runtime.sinks import write_png
from edge_sdk.simulate import simulate_sweep

simulated = simulate_sweep(seed=3, n_frames=80)
sweep = Sweep(
    frames=simulated.frames,
    T_world_image=simulated.T_world_image,
    times_ns=simulated.time_ns,
    geometry=simulated.geometry,
)
grid = grid_of_sweep(sweep, spacing_mm=0.4)
compounder = Compounder(grid, mode="mean", kernel="linear")
for k in range(len(sweep)):  # beside a live stream: one call for each frame, as its pose is known
    compounder.insert(sweep.image(k), sweep.T_world_image[k], sweep.geometry_of(k))
volume = compounder.volume()

# the field that the frames were taken from, at the voxels of the volume
points = grid.to_world(np.indices(grid.shape).reshape(3, -1).T)
field = np.clip(np.rint(simulated.field(points)), 0, 255).astype(np.uint8).reshape(grid.shape)
truth = Volume(data=field, spacing_mm=grid.spacing_mm, T_world_volume=grid.T_world_volume)

folder = Path(tempfile.mkdtemp(prefix="sweep-"))
write_nrrd(folder / "volume.nrrd", volume)
write_png(folder / "slices.png", draw_slices(volume, truth))
error = compare(volume, truth)
print(f"{len(sweep)} frames, volume {volume.data.shape} (z, y, x) of {grid.spacing_mm[0]} mm")
print(
    f"mean absolute error {error.mean_absolute:.2f} grey levels in the {100 * error.swept_share:.0f} % that was swept"
)
print(f"{folder / 'volume.nrrd'}, {folder / 'slices.png'}")
