"""What `edge-runtime calibrate-elevation` does."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edge_runtime.cli.checks import check_out
from edge_runtime.cli.guard import Json, emit_json, guarded

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add `calibrate-elevation` to `app`."""
    app.command("calibrate-elevation")(calibrate)


@guarded
def calibrate(
    sweep: Annotated[Path, typer.Argument(metavar="SWEEP", help="Tracked recording, .igs.mha or .seq.nrrd.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Curve to write, .json.")],
    calibration: Annotated[Path | None, typer.Option(metavar="XML", help="Where ImageToProbe is.")] = None,
    transform: Annotated[str, typer.Option(help="The chain of transforms of the images.")] = "ImageToReference",
    bands: Annotated[int, typer.Option(help="Depth bands.")] = 3,
    patch_px: Annotated[int, typer.Option(help="Side of a patch in pixels.")] = 64,
    as_json: Json = False,
) -> None:
    """Learn how speckle decorrelates with distance, by depth, from a tracked sweep of the same probe."""
    from edge_runtime.calibration import read_calibration
    from edge_runtime.reconstruct import ReconstructSettings, open_sweep
    from edge_runtime.slam.elevation import calibrate_elevation, grid_of_sweep, write_curve

    check_out(out, (".json",), "a curve")
    constants = None if calibration is None else {"ImageToProbe": read_calibration(calibration)}
    found = open_sweep(sweep, ReconstructSettings(transform=transform), constants=constants).sweep
    curve = calibrate_elevation(found, grid=grid_of_sweep(found, patch_px=patch_px), bands=bands)
    write_curve(out, curve)
    facts = {
        "schema": "edge-runtime.calibrate-elevation/1",
        "out": str(out),
        "frames": len(found),
        "pairs": curve.pairs,
        "band_edges_mm": list(curve.band_edges_mm),
        "sigma_mm": list(curve.sigma_mm),
        "relative_error": curve.relative_error,
        "usable_mm": [curve.min_sigma * min(curve.sigma_mm), curve.max_sigma * max(curve.sigma_mm)],
    }
    if as_json:
        emit_json(facts)
        return
    for k, sigma in enumerate(curve.sigma_mm):
        low, high = curve.band_edges_mm[k : k + 2]
        typer.echo(
            f"depth {low:5.1f} to {high:5.1f} mm: sigma {sigma:.2f} mm, usable {curve.min_sigma * sigma:.2f} to "
            f"{curve.max_sigma * sigma:.2f} mm a step"
        )
    typer.echo(
        f"{curve.pairs} pairs of {len(found)} frames; a step left out is missed by {100 * curve.relative_error:.0f} %"
    )
    typer.echo(f"written to {out}")
