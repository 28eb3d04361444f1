"""`edge-runtime evaluate-sweep`: estimated poses against true ones, and the evaluation of the TUS-REC challenges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edge_runtime.cli.checks import check_out, numbers
from edge_runtime.cli.guard import Json, emit_json, guarded
from edge_runtime.errors import ConfigError, SourceError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from edge_runtime.metrics.trajectory_files import ChallengeCalibration
    from edge_runtime.metrics.trajectory_report import Evaluation, SweepTruth

__all__ = ["register"]

UNITS = {"m": 1000.0, "mm": 1.0}
RECORDINGS = (".mha", ".nrrd")
ESTIMATES = (".h5", ".txt", ".csv", ".tum")
CALIBRATION = "calib_matrix.csv"


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command(name="evaluate-sweep")(evaluate_sweep)


def _option(help: str, metavar: str | None = None) -> Any:
    return typer.Option(help=help, metavar=metavar)


@guarded
def evaluate_sweep(
    truth: Annotated[
        Path, typer.Argument(metavar="TRUTH", help="Recording, TUS-REC .h5 or folder, or text with poses of images.")
    ],
    estimates: Annotated[
        list[Path], typer.Argument(metavar="ESTIMATE", help="Estimated poses: text, .h5, or a folder like TRUTH's.")
    ],
    calibration: Annotated[
        Path | None, _option("calib_matrix.csv of the challenge, or ImageToProbe of a recording.", "FILE")
    ] = None,
    transform: Annotated[str, _option("Pixels to the world, in a recording.")] = "ImageToReference",
    landmarks: Annotated[Path | None, _option("Landmarks of the challenge, .h5.", "FILE")] = None,
    scan: Annotated[str | None, _option("The scan's name in that file; TRUTH's own without.")] = None,
    frames: Annotated[
        Path | None, _option("The .h5 with the images, when TRUTH holds the poses alone.", "FILE")
    ] = None,
    pixel_mm: Annotated[str | None, _option("x,y: pixel size, with TRUTH as text.")] = None,
    size: Annotated[str | None, _option("W,H: image in pixels, with TRUTH as text.")] = None,
    pose_unit: Annotated[str, _option("Unit of positions in text: m or mm.")] = "m",
    spacing: Annotated[
        float | None, _option("mm: compound both in voxels of this side; report correlation and overlap.")
    ] = None,
    picture: Annotated[Path | None, _option("Draw paths and drift, of one sweep.", "PNG")] = None,
    slices: Annotated[Path | None, _option("Draw the first estimate's volume beside the true one.", "PNG")] = None,
    as_json: Json = False,
) -> None:
    """Score estimated poses: GPE, GLE, LPE, LLE, drift, ATE and RPE, in mm.

    Text has lines `time tx ty tz qx qy qz qw`, or `time` and a matrix; the pose takes the image, its origin at the
    centre of the first pixel, to any world. Frames are matched in their order.
    """
    line = dict(locals())
    for file in (picture, slices):
        check_out(file, (".png",), "a picture")
    if slices is not None and spacing is None:
        raise ConfigError("--slices goes with --spacing: the side of the voxels of the volume it is drawn from")
    if pose_unit not in UNITS:
        raise ConfigError(f"pose-unit {pose_unit!r}: m or mm is allowed")
    names = [path.stem if path.suffix in ESTIMATES else path.name for path in estimates]
    if len(set(names)) < len(names):
        names = [str(path) for path in estimates]
    if len(set(names)) < len(names):
        raise ConfigError(f"an estimate is named twice: {', '.join(names)}")
    if truth.is_dir():
        _folder(line, names)
    else:
        _one(line, names)


def _one(line: Mapping[str, Any], names: Sequence[str]) -> None:
    from edge_runtime.metrics.trajectory_report import evaluate, table

    sweep, calibration = _truth(line)
    poses = [_estimate(path, calibration, len(sweep.T_world_image), line["pose_unit"]) for path in line["estimates"]]
    found = dict(zip(names, evaluate(sweep, poses), strict=True))
    volumes = _volumes(line, sweep, poses)
    if line["picture"] is not None:
        from edge_runtime.metrics.trajectory_pictures import draw_trajectories
        from edge_runtime.sinks import write_png

        drawn = draw_trajectories(
            sweep.T_world_image, dict(zip(names, poses, strict=True)), sweep.geometry, sweep.shape
        )
        write_png(line["picture"], drawn)
    if line["as_json"]:
        emit_json({"schema": "edge-runtime.evaluate-sweep/1", **_facts(str(line["truth"]), sweep, found, volumes)})
        return
    typer.echo(_title(str(line["truth"]), sweep))
    columns = {name: {**one.values, **more} for (name, one), more in zip(found.items(), volumes, strict=True)}
    typer.echo(table(columns))
    reasons = {why: None for one in found.values() for why in one.reasons.values()}
    for why in reasons:
        typer.echo(f"not reported: {why}")


def _volumes(
    line: Mapping[str, Any], truth: SweepTruth, poses: Sequence[npt.NDArray[np.float64]]
) -> list[dict[str, float]]:
    """Correlation and overlap of each estimate's volume with the true one, nothing without `--spacing`."""
    if line["spacing"] is None:
        return [{} for _ in poses]
    if truth.sweep is None:
        raise ConfigError(f"--spacing needs images, and {line['truth']} has none; give a recording or a scan")
    from edge_runtime.metrics.volume import paired_volumes, swept_overlap, volume_ncc
    from edge_runtime.reconstruct import draw_slices
    from edge_runtime.sinks import write_png

    found = []
    for k, T in enumerate(poses):
        ours, true = paired_volumes(truth.sweep, T, line["spacing"])
        found.append({"volume_ncc": volume_ncc(ours, true), "swept_overlap": swept_overlap(ours, true)})
        if k == 0 and line["slices"] is not None:
            write_png(line["slices"], draw_slices(ours, true))
    return found


def _folder(line: Mapping[str, Any], names: Sequence[str]) -> None:
    """Every scan of the challenge beneath TRUTH, then the mean over them."""
    from edge_runtime.metrics.trajectory_files import find_challenge_scans, read_challenge_calibration
    from edge_runtime.metrics.trajectory_report import evaluate, mean_of, table

    alone = ("landmarks", "scan", "frames", "pixel_mm", "size", "spacing", "picture", "slices")
    if wrong := [f"--{name.replace('_', '-')}" for name in alone if line[name] is not None]:
        raise ConfigError(f"{', '.join(wrong)} goes with one sweep, not with the folder {line['truth']}")
    root: Path = line["truth"]
    calibration = read_challenge_calibration(line["calibration"] or root / CALIBRATION)
    scans = find_challenge_scans(root)
    files = {scan.name: [_beneath(folder, scan.name) for folder in line["estimates"]] for scan in scans}
    results: dict[str, dict[str, Evaluation]] = {}
    facts = []
    for scan in scans:
        sweep = _challenge(scan.poses, calibration, scan.frames, scan.landmarks, scan.key)
        count = len(sweep.T_world_image)
        poses = [_estimate(path, calibration, count, line["pose_unit"]) for path in files[scan.name]]
        results[scan.name] = dict(zip(names, evaluate(sweep, poses), strict=True))
        facts.append(_facts(scan.name, sweep, results[scan.name], [{} for _ in names]))
        if not line["as_json"]:
            scored = ", ".join(_short(name, one) for name, one in results[scan.name].items())
            typer.echo(f"{_title(scan.name, sweep)}: {scored}")
    means = {name: mean_of([found[name] for found in results.values()]) for name in names}
    if line["as_json"]:
        emit_json({"schema": "edge-runtime.evaluate-sweep/1", "scans": facts, "mean": means})
    else:
        typer.echo(f"mean over {len(scans)} scans\n{table(means)}")


def _truth(line: Mapping[str, Any]) -> tuple[SweepTruth, ChallengeCalibration | None]:
    """The true sweep of the line, and the challenge's calibration where it is one of the challenge's."""
    from edge_runtime.metrics.trajectory_files import read_challenge_calibration

    path: Path = line["truth"]
    kind = path.suffix.lower()
    only = {".h5": ("landmarks", "scan", "frames", "calibration"), "text": ("pixel_mm", "size")}
    allowed = only.get(kind, ("calibration",) if kind in RECORDINGS else only["text"])
    given = [name for name in (*only[".h5"], *only["text"]) if line[name] is not None]
    if wrong := [f"--{name.replace('_', '-')}" for name in given if name not in allowed]:
        raise ConfigError(f"{', '.join(wrong)} does not go with {path.name}; see --help for what does")
    if kind == ".h5":
        if line["calibration"] is None:
            raise ConfigError(f"{path.name} holds poses of the tool: give --calibration {CALIBRATION} beside it")
        calibration = read_challenge_calibration(line["calibration"])
        scan = line["scan"] or path.stem
        return _challenge(path, calibration, line["frames"] or path, line["landmarks"], scan), calibration
    return (_recorded(line) if kind in RECORDINGS else _listed(line)), None


def _challenge(
    path: Path, calibration: ChallengeCalibration, frames: Path, landmarks: Path | None, key: str
) -> SweepTruth:
    from edge_runtime.metrics.trajectory_files import read_challenge_landmarks, read_challenge_sweep
    from edge_runtime.metrics.trajectory_report import SweepTruth

    sweep = read_challenge_sweep(path, calibration, frames=frames)
    height, width = sweep.image(0).shape
    marks = None if landmarks is None else read_challenge_landmarks(landmarks, key, (height, width))
    return SweepTruth(
        T_world_image=sweep.T_world_image,
        geometry=calibration.geometry,
        shape=(height, width),
        landmarks=marks,
        sweep=sweep,
    )


def _recorded(line: Mapping[str, Any]) -> SweepTruth:
    from edge_runtime.calibration import read_calibration
    from edge_runtime.metrics.trajectory_report import SweepTruth
    from edge_runtime.reconstruct import ReconstructSettings, open_sweep

    matrix = line["calibration"]
    constants = None if matrix is None else {"ImageToProbe": read_calibration(matrix)}
    sweep = open_sweep(line["truth"], ReconstructSettings(transform=line["transform"]), constants=constants).sweep
    height, width = sweep.image(0).shape
    return SweepTruth(
        T_world_image=sweep.T_world_image, geometry=sweep.geometry_of(0), shape=(height, width), sweep=sweep
    )


def _listed(line: Mapping[str, Any]) -> SweepTruth:
    import numpy as np

    from edge_runtime.frame import FrameGeometry
    from edge_runtime.metrics.trajectory_report import SweepTruth
    from edge_runtime.sources import read_tum

    step, size = numbers("pixel-mm", line["pixel_mm"], 2, float), numbers("size", line["size"], 2, int)
    if step is None or size is None:
        raise ConfigError(f"{line['truth']} has no images: give --pixel-mm x,y and --size W,H of those it is about")
    geometry = FrameGeometry(column_mm=step[0], row_mm=step[1], origin="user", trusted=True, reason="")
    T = np.stack([pose.T_world_image for pose in read_tum(line["truth"], mm_per_unit=UNITS[line["pose_unit"]])])
    return SweepTruth(T_world_image=T, geometry=geometry, shape=(size[1], size[0]))


def _estimate(path: Path, calibration: ChallengeCalibration | None, count: int, unit: str) -> npt.NDArray[np.float64]:
    """(N, 4, 4) estimated poses; those of an .h5 are of the tool, as the challenge's own are."""
    import numpy as np

    from edge_runtime.metrics.trajectory_files import read_challenge_poses
    from edge_runtime.sources import read_tum

    if path.suffix.lower() == ".h5":
        if calibration is None:
            raise ConfigError(f"{path.name} holds poses of the challenge's tool; the truth is none of the challenge's")
        T = read_challenge_poses(path, calibration)
    else:
        T = np.stack([pose.T_world_image for pose in read_tum(path, mm_per_unit=UNITS[unit])])
    if len(T) != count:
        raise SourceError(
            f"{path} has {len(T)} poses for the {count} frames of the truth; one each is needed, in order"
        )
    return T


def _beneath(folder: Path, name: str) -> Path:
    """The file of the estimates of a scan, `000/RH_rotation` and an ending."""
    found = [folder / f"{name}{suffix}" for suffix in ESTIMATES if (folder / f"{name}{suffix}").is_file()]
    if len(found) != 1:
        raise SourceError(
            f"{folder} has {len(found)} files {name} with one of the endings {', '.join(ESTIMATES)}; one for each scan "
            "is needed"
        )
    return found[0]


def _title(name: str, sweep: SweepTruth) -> str:
    (height, width), (row_mm, column_mm) = sweep.shape, sweep.geometry.require_mm()
    marks = 0 if sweep.landmarks is None else len(sweep.landmarks)
    return (
        f"{name}: {len(sweep.T_world_image)} frames, {width} x {height} pixels of {column_mm:.4f} x {row_mm:.4f} mm, "
        f"path {sweep.path_mm:.1f} mm, {marks} landmarks"
    )


def _short(name: str, found: Evaluation) -> str:
    score = "no score" if found.score is None else f"score {found.score.final:.3f}"
    return f"{name} GPE {found.errors.gpe:.3f} mm, {score}"


def _facts(
    name: str, sweep: SweepTruth, found: Mapping[str, Evaluation], volumes: Sequence[Mapping[str, float]]
) -> dict[str, Any]:
    return {
        "truth": name,
        "frames": len(sweep.T_world_image),
        "shape_yx": list(sweep.shape),
        "path_mm": sweep.path_mm,
        "landmarks": 0 if sweep.landmarks is None else len(sweep.landmarks),
        "estimates": {
            key: {
                **one.values,
                **more,
                "parts_2025": None if one.score is None else one.score.to_dict(),
                "not_reported": dict(one.reasons),
            }
            for (key, one), more in zip(found.items(), volumes, strict=True)
        },
    }
