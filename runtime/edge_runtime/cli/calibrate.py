"""What `edge-runtime calibrate spatial`, `temporal` and `pivot` do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edge_runtime.cli.checks import check_out
from edge_runtime.cli.guard import Json, emit_json, guarded
from edge_runtime.errors import ConfigError
from edge_runtime.optional import require

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from edge_runtime.calibration import Residuals, WirePhantom, WirePoints

__all__ = ["register"]

Plot = Annotated[Path | None, typer.Option(metavar="PNG", help="Draw the residuals.")]
Out = Annotated[Path | None, typer.Option(metavar="XML", help="Write the transform, as PLUS does.")]
WORST_SHARE = 0.05  # which PLUS leaves out of its mean


def register(app: typer.Typer) -> None:
    """Add `calibrate` and its three commands to `app`."""
    group = typer.Typer(
        no_args_is_help=True, rich_markup_mode=None, help="Calibrate a tracked probe: image, clocks, or a tool's tip."
    )
    for command in (spatial, temporal, pivot):
        group.command()(command)
    app.add_typer(group, name="calibrate")


@guarded
def spatial(
    images: Annotated[
        Path, typer.Argument(metavar="IMAGES", help="Recording of an N-wire phantom (.igs.mha), or fCal results (XML).")
    ],
    phantom: Annotated[Path, typer.Option(metavar="XML", help="PLUS device set: the wires, and where they stand.")],
    out: Out = None,
    plot: Plot = None,
    validate: Annotated[
        Path | None, typer.Option(metavar="IMAGES", help="Other images of it; fCal results bring their own.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Find ImageToProbe, which `reconstruct --calibration` takes, from images of an N-wire phantom."""
    from edge_runtime.calibration import calibrate_image, read_phantom, reprojection_error, write_calibration

    _check_files(out, plot)
    known = read_phantom(phantom)
    points = _points(images, known, "calibration")
    found = calibrate_image(points.pixels, points.T_phantom_probe, known.wires)
    facts: dict[str, Any] = {
        "schema": "edge-runtime.calibrate.spatial/1",
        "transform": "ImageToProbe",
        "matrix": found.T_probe_image.tolist(),
        "images": len(points.pixels),
        "residuals": _numbers(found.residuals),
        "validation": None,
    }
    if validate is not None or _is_xml(images):
        kept = _points(validate or images, known, "validation")
        errors = reprojection_error(found.T_probe_image, kept.pixels, kept.T_phantom_probe, known.wires)
        facts["validation"] = _validation(errors)
    if out is not None:
        write_calibration(out, "ImageToProbe", found.T_probe_image, error_mm=found.residuals.mean)
    _draw(plot, found.residuals, "Spatial calibration")
    columns = [sum(row[k] ** 2 for row in facts["matrix"][:3]) ** 0.5 for k in range(2)]
    lines = [f"ImageToProbe of {facts['images']} images, pixels of {columns[0]:.5f} x {columns[1]:.5f} mm"]
    if facts["validation"] is not None:
        lines.append(
            "validation: {mean:.3f} mm, {mean_of_95:.3f} without the worst 5 %, n {n}".format(**facts["validation"])
        )
    _tell(as_json, facts, lines, out)


@guarded
def temporal(
    video: Annotated[Path, typer.Argument(metavar="VIDEO", help="Images of a flat bottom in water, with times.")],
    tracker: Annotated[
        Path, typer.Argument(metavar="TRACKER", help="Poses: .igs.mha or .seq.nrrd; or TUM, in metres.")
    ],
    transform: Annotated[str, typer.Option(help="The chain of transforms that moves.")] = "ProbeToTracker",
    max_offset_ms: Annotated[float, typer.Option(help="Offsets of up to this size are tried.")] = 500.0,
    plot: Plot = None,
    as_json: Json = False,
) -> None:
    """Find the offset of the images' clock against the tracker's; `reconstruct --offset-ms` takes it."""
    from edge_runtime.calibration import (
        TemporalSettings,
        calibrate_offset,
        image_motion,
        pose_motion,
        read_recorded_poses,
    )
    from edge_runtime.errors import SourceFormatError
    from edge_runtime.sources.tracked import read_sequence

    _check_files(None, plot)
    settings = TemporalSettings(max_offset_ms=max_offset_ms)
    images = read_sequence(video)
    if images.frames is None or images.times_ns is None:
        raise SourceFormatError(f"{video} needs images and timestamps; is it the tracker's recording?")
    poses, times = read_recorded_poses(tracker, transform)
    good = images.images_usable
    found = calibrate_offset(
        images.times_ns[good], image_motion(images.frames[good]), times, pose_motion(poses), settings
    )
    facts = {
        "schema": "edge-runtime.calibrate.temporal/1",
        "offset_ms": found.offset_ns / 1e6,
        "correlation": found.correlation,
        "residuals": _numbers(found.residuals),
    }
    _draw(plot, found.residuals, "Temporal calibration")
    lines = [f"the images' clock less the tracker's: {facts['offset_ms']:.2f} ms, correlation {found.correlation:.4f}"]
    _tell(as_json, facts, lines, None)


@guarded
def pivot(
    poses: Annotated[Path, typer.Argument(metavar="POSES", help="A tool turned about its tip: .igs.mha; or TUM.")],
    transform: Annotated[str, typer.Option(help="The tool's own frame to the world.")] = "StylusToReference",
    out: Out = None,
    plot: Plot = None,
    as_json: Json = False,
) -> None:
    """Find the tip of a tracked tool from poses taken while it turned about the tip."""
    import numpy as np

    from edge_runtime.calibration import calibrate_pivot, read_recorded_poses, write_calibration
    from edge_runtime.sources.tracked import split_name

    _check_files(out, plot)
    tool = split_name(transform)[0]
    found = calibrate_pivot(read_recorded_poses(poses, transform)[0])
    T = np.eye(4)
    T[:3, 3] = found.tip_tool
    facts = {
        "schema": "edge-runtime.calibrate.pivot/1",
        "transform": f"{tool}TipTo{tool}",
        "tip_mm": found.tip_tool.tolist(),
        "pivot_mm": found.pivot_tracker.tolist(),
        "residuals": _numbers(found.residuals),
    }
    if out is not None:
        write_calibration(out, facts["transform"], T, error_mm=found.residuals.rms)
    _draw(plot, found.residuals, "Pivot calibration")
    tip = ", ".join(f"{n:.3f}" for n in found.tip_tool)
    _tell(as_json, facts, [f"the tip lies at ({tip}) mm in {tool}"], out)


def _is_xml(path: Path) -> bool:
    return path.suffix.lower() == ".xml"


def _points(path: Path, phantom: WirePhantom, part: str) -> WirePoints:
    """Wire crossings out of fCal results, or found in the images of a recording."""
    from edge_runtime.calibration import read_wire_points, wire_points
    from edge_runtime.sources.tracked import read_sequence

    if _is_xml(path):
        return read_wire_points(path, phantom, "validation" if part == "validation" else "calibration")
    return wire_points(read_sequence(path), phantom)


def _numbers(residuals: Residuals) -> dict[str, Any]:
    names = ("unit", "n", "rejected", "mean", "rms", "p95", "worst", "condition")
    return {name: getattr(residuals, name) for name in names}


def _validation(errors: npt.NDArray[np.float64]) -> dict[str, float | int]:
    import numpy as np

    ordered = np.sort(errors[np.isfinite(errors)])
    kept = ordered[: int(np.ceil((1 - WORST_SHARE) * len(ordered)))]
    return {
        "n": len(ordered),
        "mean": float(ordered.mean()),
        "mean_of_95": float(kept.mean()),
        "worst": float(ordered[-1]),
    }


def _check_files(out: Path | None, plot: Path | None) -> None:
    check_out(out, (".xml",), "a transform")
    check_out(plot, (".png",), "a picture")
    if out is not None and out == plot:
        raise ConfigError(f"{out} is named twice; name a file each for --out and --plot")
    if plot is not None:
        require("cv2", "to draw residuals")


def _draw(plot: Path | None, residuals: Residuals, title: str) -> None:
    from edge_runtime.calibration import draw_residuals

    if plot is not None:
        draw_residuals(residuals, plot, title=title)


def _tell(as_json: bool, facts: dict[str, Any], lines: list[str], out: Path | None) -> None:
    if as_json:
        emit_json({**facts, "out": None if out is None else str(out)})
        return
    found = facts["residuals"]
    lines.append(
        f"residuals: mean {found['mean']:.3f}, rms {found['rms']:.3f}, p95 {found['p95']:.3f}, worst "
        f"{found['worst']:.3f} {found['unit']}; n {found['n']}, rejected {found['rejected']}, "
        f"condition {found['condition']:.3g}"
    )
    if out is not None:
        lines.append(f"written to {out}")
    typer.echo("\n".join(lines))
