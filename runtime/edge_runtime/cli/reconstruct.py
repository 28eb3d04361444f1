"""What `edge-runtime reconstruct` does."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edge_runtime.cli.guard import Json, emit_json, guarded

if TYPE_CHECKING:
    from edge_runtime.reconstruct import ReconstructSettings

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(reconstruct)


def _option(help: str, metavar: str | None = None, *names: str) -> Any:
    return typer.Option(*names, help=help, metavar=metavar)


File = Path | None
Text = str | None
Number = float | None


@guarded
def reconstruct(
    out: Annotated[Path, _option("Volume to write: .nrrd, .mha, .nii, .nii.gz.", "FILE")],
    sweep: Annotated[File, typer.Argument(metavar="[SWEEP]", help="Tracked recording, .igs.mha or .seq.nrrd.")] = None,
    frames: Annotated[File, _option("Frames instead: folder of images, DICOM, video, .npy.", "PATH")] = None,
    poses: Annotated[File, _option("Their poses: TUM or CSV (quaternion, or 16 numbers).", "FILE")] = None,
    pose_unit: Annotated[str, _option("Unit of these positions: m or mm.")] = "m",
    fps: Annotated[Number, _option("Rate of frames without times; without it, one pose each.")] = None,
    pixel_mm: Annotated[Text, _option("x,y: pixel size of frames without a calibration.")] = None,
    calibration: Annotated[File, _option("ImageToProbe: 16 numbers, or a PLUS XML file.", "FILE")] = None,
    transform: Annotated[str, _option("Pixels to the world.")] = "ImageToReference",
    spacing: Annotated[str, _option("mm: one number, or x,y,z.")] = "0.5",
    origin: Annotated[Text, _option("x,y,z in mm of voxel (0, 0, 0); kept as it is.")] = None,
    shape: Annotated[Text, _option("x,y,z in voxels; kept as it is; needs --origin.")] = None,
    clip: Annotated[Text, _option("x0,y0,x1,y1: part of the image to use, in pixels.")] = None,
    sector: Annotated[
        Text, _option("detect, or apex x,y, inner and outer radius in rows, angles from straight down in degrees.")
    ] = None,
    mode: Annotated[str, _option("mean, max or latest.")] = "mean",
    kernel: Annotated[str, _option("nearest or linear.")] = "linear",
    average: Annotated[int, _option("Average squares of so many pixels first: faster, less exact.")] = 1,
    depth_halving_mm: Annotated[Number, _option("Weights halve with each so many mm of depth.")] = None,
    incidence: Annotated[bool, _option("Weights fall with the angle of incidence.", None, "--incidence")] = False,
    confidence: Annotated[File, _option("Weights: a map for each frame, .npy or images.", "PATH")] = None,
    fill: Annotated[Text, _option("Fill holes: gaussian, nearest and others; labels always by the nearest.")] = None,
    invalid: Annotated[str, _option("Records without a valid pose or image: drop or error.")] = "drop",
    repeated: Annotated[str, _option("Records of the same time: keep, drop or error.")] = "keep",
    offset_ms: Annotated[float, _option("The image's clock less the tracker's.")] = 0.0,
    max_gap_ms: Annotated[Number, _option("Longest time between records; any without.")] = None,
    max_mib: Annotated[int, _option("Memory for sums and all volumes, MiB.")] = 2048,
    threads: Annotated[int, _option("Threads; the volume does not depend on it.")] = 1,
    model: Annotated[File, _option("Segment each frame with this bundle.", "FILE.edge")] = None,
    variant: Annotated[Text, _option("Only this variant of it.")] = None,
    runner: Annotated[str, _option("onnxruntime, openvino or tensorrt.")] = "onnxruntime",
    trust: Annotated[list[Path] | None, _option("Public key (PEM) to trust; may be repeated.", "KEY")] = None,
    out_labels: Annotated[File, _option("Write the fused labels, and measure them.", "FILE")] = None,
    out_confidence: Annotated[File, _option("Write the share of votes of each label, float.", "FILE")] = None,
    out_probability: Annotated[
        File, _option("Write the mean probability of being in any class, float.", "FILE")
    ] = None,
    out_weight: Annotated[File, _option("Write hits or summed weights, float.", "FILE")] = None,
    out_variance: Annotated[File, _option("Write the variance of the grey levels, float.", "FILE")] = None,
    pose_sigma: Annotated[Text, _option("deg,mm: doubt about the poses, 1 sigma on each axis.")] = None,
    out_uncertainty: Annotated[File, _option("Write the position error from it, mm, float.", "FILE")] = None,
    slices: Annotated[File, _option("Draw three slices.", "PNG", "--slices", "--preview")] = None,
    turntable: Annotated[File, _option("Draw the volume from all sides: PNG, or a new folder.", "PATH")] = None,
    quiet: Annotated[bool, _option("No progress on stderr.", None, "--quiet")] = False,
    as_json: Json = False,
) -> None:
    """Compound a tracked sweep into a volume, in mm, LPS; segment it, fuse the labels and measure them."""
    _run(dict(locals()))


def _settings(line: dict[str, Any]) -> ReconstructSettings:
    """The settings among the options, from x, y, z to z, y, x."""
    from edge_runtime.cli.checks import numbers
    from edge_runtime.reconstruct import ReconstructSettings
    from edge_runtime.settings_file import to_struct

    steps = numbers("spacing", line["spacing"], 1 if "," not in line["spacing"] else 3, float)
    assert steps is not None
    sides = numbers("shape", line["shape"], 3, int)
    values = {key: line[key] for key in ReconstructSettings.__struct_fields__ if key in line} | {
        "spacing_mm": (steps * 3 if len(steps) == 1 else steps)[::-1],
        "origin_mm": numbers("origin", line["origin"], 3, float),
        "shape": None if sides is None else sides[::-1],
    }
    return to_struct(values, ReconstructSettings, "options")


def _run(line: dict[str, Any]) -> None:
    from edge_runtime.cli import reconstruct_parts as parts
    from edge_runtime.cli.outputs import write_all
    from edge_runtime.reconstruct import fill_holes
    from edge_runtime.reconstruct import reconstruct as make

    def told(what: str) -> Any:
        return None if line["quiet"] else _progress(what)

    line["trust"] = tuple(line["trust"] or ())
    options = _settings(line)
    given = parts.Given(**{field.name: line[field.name] for field in fields(parts.Given)})
    fill = parts.check(given)
    began = time.perf_counter()
    model = parts.load_model(given)
    recorded = parts.open_given(given, options)
    maps, beside = parts.confidence_of(given, recorded), parts.beside_bytes(given, model)
    made = make(recorded, options, confidence=maps, reserved_bytes=beside, progress=told("frames"))
    if fill is not None:
        made = replace(made, volume=fill_holes(made.volume, fill))
    facts = made.to_dict()
    writes = parts.add_maps(given, recorded.sweep, made.volume)
    if model is not None:
        writes += parts.add_labels(given, model, recorded.sweep, made.volume, facts, told("masks"))
    write_all(writes)
    facts |= {"out": str(given.out), "seconds": round(time.perf_counter() - began, 3)}
    if line["as_json"]:
        emit_json(facts)
    else:
        typer.echo(_text(facts), nl=False)


def _progress(what: str) -> Callable[[int, int], None]:
    """Tell stderr each full tenth."""

    def told(done: int, count: int) -> None:
        if done == count or done * 10 // count > (done - 1) * 10 // count:
            typer.echo(f"{done} of {count} {what}", err=True)

    return told


def _text(facts: dict[str, Any]) -> str:
    z, y, x = facts["shape_zyx"]
    dz, dy, dx = facts["spacing_mm_zyx"]
    dropped = ", ".join(f"{len(rows)} {reason}" for reason, rows in facts["dropped"].items()) or "none"
    origin = ", ".join(f"{n:.3f}" for n in facts["origin_mm_xyz"])
    share = 100 * facts["seen_voxels"] / facts["voxels"]
    labels = "".join(_measures(found) for found in facts.get("labels", ()))
    return (
        f"{facts['out']}: {x} x {y} x {z} voxels of {dx:g} x {dy:g} x {dz:g} mm, origin ({origin}) mm\n"
        f"{facts['frames']} frames (left out: {dropped}); {share:.1f} % of the voxels seen; {facts['seconds']:.2f} s\n"
        f"{labels}"
    )


def _measures(found: dict[str, Any]) -> str:
    name = f"label {found['label']} ({found['name']})"
    if not found["voxels"]:
        return f"{name}: no voxel\n"
    return (
        f"{name}: volume {found['volume_mm3']:.1f} +- {found['volume_mm3_sd']:.1f} mm^3, surface "
        f"{found['surface_mm2']:.1f} +- {found['surface_mm2_sd']:.1f} mm^2; {100 * found['open_share']:.0f} % of its "
        "border was not seen\n"
    )
