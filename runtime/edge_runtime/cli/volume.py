"""What is done with a volume: `edge-runtime mesh`, `measure`, `slices`, `turntable` and `compare`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args

import typer

from edge_runtime.cli.checks import check_out
from edge_runtime.cli.guard import Json, emit_json, guarded
from edge_runtime.errors import ConfigError

if TYPE_CHECKING:
    from edge_runtime.reconstruct import Volume

__all__ = ["register"]

VolumeFile = Annotated[Path, typer.Argument(metavar="VOLUME", help="uint8 volume: .nrrd, .mha, .nii, .nii.gz.")]
PICTURES = (".png",)


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    for command in (mesh, measure, slices, turntable, compare):
        app.command()(command)


@guarded
def mesh(
    volume: VolumeFile,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Mesh to write: .stl, .ply or .obj; mm, LPS.")],
    level: Annotated[float, typer.Option(help="Grey level of the surface, above 0 to 255.")] = 128.0,
    mask: Annotated[bool, typer.Option(help="The volume is a mask: smooth its steps.")] = False,
    as_json: Json = False,
) -> None:
    """Write the surface around the voxels of at least a level."""
    from edge_runtime.reconstruct import MESH_SUFFIXES, isosurface, mask_surface, read_volume, write_mesh

    check_out(out, MESH_SUFFIXES, "a mesh")
    _check_level(level)
    found = read_volume(volume)
    surface = mask_surface(found.data >= level, found.grid) if mask else isosurface(found, level)
    write_mesh(out, surface)
    facts = {
        "schema": "edge-runtime.mesh/1",
        "out": str(out),
        "level": level,
        "vertices": len(surface.vertices),
        "faces": len(surface.faces),
        "surface_mm2": surface.area_mm2,
        "volume_mm3": surface.volume_mm3,
        "closed": surface.closed,
    }
    text = f"{out}: {len(surface.faces)} triangles, {surface.area_mm2:.1f} mm^2 around {surface.volume_mm3:.1f} mm^3"
    _tell(as_json, facts, text)


@guarded
def measure(
    volume: VolumeFile,
    level: Annotated[float, typer.Option(help="Voxels of at least this grey level are inside.")] = 128.0,
    label: Annotated[int | None, typer.Option(help="Voxels that equal this label, instead.")] = None,
    as_json: Json = False,
) -> None:
    """Volume, surface and diameters of a mask, or of the voxels of at least a level, in mm."""
    from edge_runtime.reconstruct import measure_volume, read_volume

    found = measure_volume(read_volume(volume), level=level, label=label)
    facts = {
        "schema": "edge-runtime.measure/1",
        "volume": str(volume),
        "voxels": found.voxels,
        "volume_mm3": asdict(found.volume_mm3),
        "mesh_volume_mm3": asdict(found.mesh_volume_mm3),
        "surface_mm2": asdict(found.surface_mm2),
        "diameters_mm": [asdict(one) for one in found.diameters_mm],
        "axes": found.axes.tolist(),
        "ends_mm": found.ends.tolist(),
        "open_share": found.open_share,
        "pose_origin": found.pose_origin,
    }
    lines = [
        f"volume     {found.volume_mm3.value:.1f} mm^3 (sd of the lattice {found.volume_mm3.sd:.1f})",
        f"surface    {found.surface_mm2.value:.1f} mm^2 (sd {found.surface_mm2.sd:.1f})",
        "diameters  " + " x ".join(f"{one.value:.2f}" for one in found.diameters_mm) + " mm",
        f"poses      {found.pose_origin}",
    ]
    if found.open_share:
        lines.append(f"open       {100 * found.open_share:.1f} % of its border lies at the end of what was seen")
    _tell(as_json, facts, "\n".join(lines))


@guarded
def slices(
    volume: VolumeFile,
    out: Annotated[Path, typer.Option(metavar="PNG", help="Picture to write.")],
    center: Annotated[str | None, typer.Option(help="x,y,z in mm, world; the middle without.")] = None,
) -> None:
    """Draw three orthogonal slices."""
    from edge_runtime.reconstruct import draw_slices, read_volume
    from edge_runtime.sinks import write_png

    check_out(out, PICTURES, "a picture")
    at = _point(center)
    write_png(out, draw_slices(read_volume(volume), center=at))


@guarded
def turntable(
    volume: VolumeFile,
    out: Annotated[Path, typer.Option(metavar="DIR", help="New folder for the views; or one .png with a strip.")],
    views: Annotated[int, typer.Option(help="Views of a full turn.")] = 36,
    axis: Annotated[str, typer.Option(help="Axis of the volume to turn about: x, y or z.")] = "z",
) -> None:
    """Project the brightest voxels (maximum intensity), the volume turned by a full turn."""
    from edge_runtime.reconstruct import TurnAxis, draw_turntable, read_volume, write_turntable
    from edge_runtime.sinks import write_png

    if axis not in get_args(TurnAxis):
        raise ConfigError(f"axis {axis!r}: {', '.join(get_args(TurnAxis))} are allowed")
    about = cast(TurnAxis, axis)
    if out.suffix.lower() in PICTURES:
        check_out(out, PICTURES, "a picture")
        write_png(out, draw_turntable(read_volume(volume), views=min(views, 8), axis=about))
    else:
        write_turntable(out, read_volume(volume), views=views, axis=about)


@guarded
def compare(
    volume: VolumeFile,
    reference: Annotated[Path, typer.Argument(metavar="REFERENCE", help="The volume to compare with.")],
    shared: Annotated[bool, typer.Option(help="Only the voxels that both have, when extents differ.")] = False,
    error_map: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the absolute error as a volume.")
    ] = None,
    picture: Annotated[Path | None, typer.Option(metavar="PNG", help="Draw both, and the signed error.")] = None,
    min_equal_pct: Annotated[float | None, typer.Option(help="Exit 1 when fewer voxels than this are equal.")] = None,
    as_json: Json = False,
) -> None:
    """Say how far VOLUME is from REFERENCE on the same lattice: equal voxels, bias, errors in grey levels."""
    from edge_runtime.errors import ThresholdError
    from edge_runtime.reconstruct import VOLUME_SUFFIXES, parity, read_volume, shared_part
    from edge_runtime.reconstruct import compare as error_of

    check_out(error_map, VOLUME_SUFFIXES, "a volume")
    check_out(picture, PICTURES, "a picture")
    if min_equal_pct is not None and not 0 <= min_equal_pct <= 100:
        raise ConfigError(f"min-equal-pct is {min_equal_pct}; 0 to 100 is allowed")
    ours, theirs = read_volume(volume), read_volume(reference)
    if shared:
        ours, theirs = shared_part(ours, theirs)
    error, alike = error_of(ours, theirs), parity(ours.data, theirs.data)
    _write_error(ours, theirs, error_map, picture)
    facts = {
        "schema": "edge-runtime.compare/1",
        "volume": str(volume),
        "reference": str(reference),
        "shape_zyx": list(ours.data.shape),
        "parity": asdict(alike),
        "error": asdict(error),
    }
    lines = [
        f"not black in either: {alike.voxels} voxels; {100 * alike.equal:.3f} % equal, "
        f"{100 * alike.within_2:.3f} % within 2 grey levels, worst {alike.worst}",
        f"all {error.voxels} voxels: bias {error.bias:+.4f}, mean absolute {error.mean_absolute:.4f}, "
        f"rms {error.rms:.4f}",
    ]
    _tell(as_json, facts, "\n".join(lines))
    if min_equal_pct is not None and 100 * alike.equal < min_equal_pct:
        raise ThresholdError(
            f"{100 * alike.equal:.3f} % of the voxels are equal; at least {min_equal_pct:g} % was asked"
        )


def _write_error(ours: Volume, theirs: Volume, error_map: Path | None, picture: Path | None) -> None:
    from dataclasses import replace

    import numpy as np

    from edge_runtime.reconstruct import draw_slices, write_volume
    from edge_runtime.reconstruct import error_map as signed
    from edge_runtime.sinks import write_png

    drawn = None if picture is None else draw_slices(ours, theirs)
    if error_map is not None:
        write_volume(error_map, replace(ours, data=np.abs(signed(ours, theirs)).astype(np.uint8)))
    if picture is not None and drawn is not None:
        write_png(picture, drawn)


def _check_level(level: float) -> None:
    if not 0 < level <= 255:
        raise ConfigError(f"level {level}: above 0 to 255 is allowed")


def _point(text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        values = tuple(float(word) for word in text.split(","))
    except ValueError as error:
        raise ConfigError(f"center is {text!r}: {error}; x,y,z in mm is needed") from error
    if len(values) != 3:
        raise ConfigError(f"center is {text!r}: {len(values)} numbers; x,y,z in mm is needed")
    return values


def _tell(as_json: bool, facts: dict[str, Any], text: str) -> None:
    if as_json:
        emit_json(facts)
    else:
        typer.echo(text)
