"""What `edge-runtime reconstruct` and `edge-runtime warmup` do."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args

import typer

from edge_runtime.cli.guard import Json, emit_json, guarded
from edge_runtime.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["read_calibration", "register"]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command()(reconstruct)
    app.command()(warmup)


def read_calibration(path: Path, name: str = "ImageToProbe") -> npt.NDArray[np.float64]:
    """`edge_runtime.calibration.read_calibration`."""
    from edge_runtime.calibration import read_calibration as read

    return read(path, name)


def _numbers(name: str, text: str | None, count: int, kind: Callable[[str], Any]) -> tuple[Any, ...] | None:
    """`count` numbers out of `1,2,3`; None for None."""
    if text is None:
        return None
    try:
        values = tuple(kind(word) for word in text.split(","))
    except ValueError as error:
        raise ConfigError(f"{name} is {text!r}: {error}; {count} numbers with commas between are needed") from error
    if len(values) != count:
        raise ConfigError(f"{name} is {text!r}: {len(values)} numbers; {count} with commas between are needed")
    return values


@guarded
def reconstruct(
    sweep: Annotated[Path, typer.Argument(metavar="SWEEP", help="Tracked recording, .igs.mha or .seq.nrrd.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Volume to write: .nrrd, .mha, .nii, .nii.gz.")],
    calibration: Annotated[
        Path | None, typer.Option(metavar="FILE", help="ImageToProbe: 16 numbers, or a PLUS XML file.")
    ] = None,
    transform: Annotated[str, typer.Option(help="Pixels to the world.")] = "ImageToReference",
    spacing: Annotated[str, typer.Option(help="mm: one number, or x,y,z.")] = "0.5",
    origin: Annotated[str | None, typer.Option(help="x,y,z in mm of voxel (0, 0, 0); kept as it is.")] = None,
    shape: Annotated[str | None, typer.Option(help="x,y,z in voxels; kept as it is; needs --origin.")] = None,
    clip: Annotated[str | None, typer.Option(help="x0,y0,x1,y1: part of the image to use, in pixels.")] = None,
    mode: Annotated[str, typer.Option(help="mean, max or latest.")] = "mean",
    kernel: Annotated[str, typer.Option(help="nearest or linear.")] = "linear",
    fill: Annotated[str | None, typer.Option(help="Fill holes: gaussian, nearest and others.")] = None,
    invalid: Annotated[str, typer.Option(help="Records without a valid pose: drop or error.")] = "drop",
    repeated: Annotated[str, typer.Option(help="Records of the same time: keep, drop or error.")] = "keep",
    max_gap_ms: Annotated[float | None, typer.Option(help="Longest time between records; any without.")] = None,
    max_mib: Annotated[int, typer.Option(help="Memory for sums and volume, MiB.")] = 2048,
    threads: Annotated[int, typer.Option(help="Threads; the volume does not depend on it.")] = 1,
    preview: Annotated[Path | None, typer.Option(metavar="PNG", help="Draw three slices.")] = None,
    quiet: Annotated[bool, typer.Option(help="No progress on stderr.")] = False,
    as_json: Json = False,
) -> None:
    """Compound a tracked sweep into a volume, in mm, LPS."""
    from edge_runtime.frame import Rectangle
    from edge_runtime.reconstruct import ReconstructSettings, fill_holes, holes
    from edge_runtime.reconstruct import reconstruct as run
    from edge_runtime.reconstruct.volume_files import write_volume
    from edge_runtime.settings_file import to_struct

    if fill is not None and fill not in get_args(holes.FillMethod):
        raise ConfigError(f"fill {fill!r}: {', '.join(get_args(holes.FillMethod))} are allowed")
    _check_out(out)
    steps = _numbers("spacing", spacing, 1 if "," not in spacing else 3, float)
    assert steps is not None
    start, sides = _numbers("origin", origin, 3, float), _numbers("shape", shape, 3, int)
    given = {
        "transform": transform, "spacing_mm": (steps * 3 if len(steps) == 1 else steps)[::-1], "origin_mm": start,
        "shape": None if sides is None else sides[::-1], "mode": mode, "kernel": kernel, "invalid": invalid,
        "repeated": repeated, "max_gap_ms": max_gap_ms, "max_mib": max_mib, "threads": threads,
    }  # fmt: skip
    settings = to_struct(given, ReconstructSettings, "options")
    corners = _numbers("clip", clip, 4, float)
    area = None if corners is None else Rectangle(x0=corners[0], y0=corners[1], x1=corners[2], y1=corners[3])
    constants = None if calibration is None else {"ImageToProbe": read_calibration(calibration)}
    began = time.perf_counter()
    made = run(sweep, settings, constants=constants, scan_area=area, progress=None if quiet else _progress())
    volume = made.volume if fill is None else fill_holes(made.volume, cast(holes.FillMethod, fill))
    made = replace(made, volume=volume)
    write_volume(out, volume)
    if preview is not None:
        _draw(preview, volume)
    facts = {**made.to_dict(), "out": str(out), "seconds": round(time.perf_counter() - began, 3)}
    if as_json:
        emit_json(facts)
    else:
        typer.echo(_text(facts), nl=False)


@guarded
def warmup(as_json: Json = False) -> None:
    """Compile what reconstruction runs, ahead of its first use; the code is kept on disk."""
    from edge_runtime.reconstruct import CompoundKernel, CompoundMode, warm_up

    seconds: dict[str, float] = {}
    for kernel in get_args(CompoundKernel):
        for mode in get_args(CompoundMode):
            began = time.perf_counter()
            warm_up(mode, kernel)
            seconds[f"{kernel} {mode}"] = round(time.perf_counter() - began, 3)
    if as_json:
        emit_json({"schema": "edge-runtime.warmup/1", "seconds": seconds})
        return
    for name, spent in seconds.items():
        typer.echo(f"{name:16}{spent:7.2f} s")


def _check_out(out: Path) -> None:
    """Refuse a file that could not be written, before the work."""
    from edge_runtime.reconstruct.volume_files import VOLUME_SUFFIXES

    if not out.name.lower().endswith(VOLUME_SUFFIXES):
        raise ConfigError(f"{out}: volumes are written as {', '.join(VOLUME_SUFFIXES)}; name one of these")
    if not out.parent.is_dir():
        raise ConfigError(f"{out} cannot be written: there is no folder {out.parent}; make it first")


def _progress() -> Callable[[int, int], None]:
    """Tell stderr each full tenth."""

    def told(done: int, count: int) -> None:
        if done == count or done * 10 // count > (done - 1) * 10 // count:
            typer.echo(f"{done} of {count} frames", err=True)

    return told


def _draw(path: Path, volume: Any) -> None:
    from edge_runtime.reconstruct import draw_slices
    from edge_runtime.sinks import write_png

    write_png(path, draw_slices(volume))


def _text(facts: dict[str, Any]) -> str:
    z, y, x = facts["shape_zyx"]
    dz, dy, dx = facts["spacing_mm_zyx"]
    dropped = ", ".join(f"{len(rows)} {reason}" for reason, rows in facts["dropped"].items()) or "none"
    origin = ", ".join(f"{n:.3f}" for n in facts["origin_mm_xyz"])
    share = 100 * facts["seen_voxels"] / facts["voxels"]
    return (
        f"{facts['out']}: {x} x {y} x {z} voxels of {dx:g} x {dy:g} x {dz:g} mm, origin ({origin}) mm\n"
        f"{facts['frames']} frames (left out: {dropped}); {share:.1f} % of the voxels seen; {facts['seconds']:.2f} s\n"
    )
