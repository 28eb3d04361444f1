"""The parts of `edge-runtime reconstruct`: what is opened, what is computed beside the volume, what is written."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

import numpy as np
import numpy.typing as npt

from edge_runtime.calibration import read_calibration
from edge_runtime.cli.checks import check_out, numbers
from edge_runtime.cli.outputs import Write
from edge_runtime.errors import ConfigError
from edge_runtime.frame import FrameGeometry, Rectangle, Sector
from edge_runtime.reconstruct import (
    VOLUME_SUFFIXES,
    Compounder,
    FillMethod,
    ReconstructSettings,
    RecordedSweep,
    Sweep,
    Volume,
    WeightedCompounder,
    clip_area,
    detect_area,
    draw_slices,
    draw_turntable,
    fill_holes,
    fuse_labels,
    measure_volume,
    open_frames,
    open_sweep,
    pose_uncertainty,
    segment,
    with_scan_area,
    write_turntable,
    write_values,
    write_volume,
)
from edge_runtime.reconstruct.labels import mask_classes
from edge_runtime.sinks import write_png
from edge_runtime.sources import open_source

if TYPE_CHECKING:
    from edge_runtime.loading import LoadedModel

__all__ = ["Given", "add_labels", "add_maps", "beside_bytes", "check", "confidence_of", "load_model", "open_given"]

Progress = Callable[[int, int], None] | None
FULL = 255  # the level of probability 1
UNITS = {"m": 1000.0, "mm": 1.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What the line names, as it stands there, by the names of its options."""

    sweep: Path | None
    frames: Path | None
    poses: Path | None
    pose_unit: str
    fps: float | None
    pixel_mm: str | None
    calibration: Path | None
    clip: str | None
    sector: str | None
    confidence: Path | None
    fill: str | None
    model: Path | None
    variant: str | None
    runner: str
    trust: tuple[Path, ...]
    pose_sigma: str | None
    out: Path
    out_labels: Path | None
    out_confidence: Path | None
    out_probability: Path | None
    out_weight: Path | None
    out_variance: Path | None
    out_uncertainty: Path | None
    slices: Path | None
    turntable: Path | None


def check(given: Given) -> FillMethod | None:
    """Refuse what cannot go together and files that could not be written, before the work; the way to fill holes."""
    if (given.sweep is None) == (given.frames is None):
        raise ConfigError("give a SWEEP, or --frames with --poses, and not both")
    if (given.frames is None) != (given.poses is None):
        raise ConfigError("--frames and --poses go together: images, and where each was taken")
    alone = {"--fps": given.fps, "--pixel-mm": given.pixel_mm}
    if given.frames is None and any(value is not None for value in alone.values()):
        named = ", ".join(name for name, value in alone.items() if value is not None)
        raise ConfigError(f"{named} goes with --frames; a tracked recording has its own times and calibration")
    if given.pose_unit not in UNITS:
        raise ConfigError(f"pose-unit {given.pose_unit!r}: m or mm is allowed")
    if given.fill is not None and given.fill not in get_args(FillMethod):
        raise ConfigError(f"fill {given.fill!r}: {', '.join(get_args(FillMethod))} are allowed")
    fused = (given.out_labels, given.out_confidence, given.out_probability)
    if (given.model is None) != all(path is None for path in fused):
        raise ConfigError(
            "--model goes with --out-labels, --out-confidence or --out-probability: the bundle whose masks are fused"
        )
    if (given.pose_sigma is None) != (given.out_uncertainty is None):
        raise ConfigError("--pose-sigma and --out-uncertainty go together: the doubt about poses, and about positions")
    if given.pose_sigma is not None:
        pose_sigma(given)
    volumes = [
        given.out,
        given.out_labels,
        given.out_confidence,
        given.out_weight,
        given.out_variance,
        given.out_uncertainty,
    ]
    for path in volumes:
        check_out(path, VOLUME_SUFFIXES, "a volume")
    check_out(given.slices, (".png",), "a picture")
    if given.turntable is not None:
        strip = given.turntable.suffix.lower() == ".png"
        check_out(given.turntable, (".png",) if strip else ("",), "a picture")
        if not strip and given.turntable.exists():
            raise ConfigError(f"{given.turntable} is there already; name a new folder, or a .png")
    named_paths = [path.resolve() for path in (*volumes, given.slices, given.turntable) if path is not None]
    if len(set(named_paths)) < len(named_paths):
        raise ConfigError("two outputs have the same name; name a file for each")
    return cast(FillMethod, given.fill) if given.fill is not None else None


def open_given(given: Given, settings: ReconstructSettings) -> RecordedSweep:
    """The sweep of the line, with the scan area of the line."""
    constants = None if given.calibration is None else {"ImageToProbe": read_calibration(given.calibration)}
    if given.sweep is not None:
        recorded = open_sweep(given.sweep, settings, constants=constants)
    else:
        assert given.frames is not None
        assert given.poses is not None
        size = numbers("pixel-mm", given.pixel_mm, 2, float)
        geometry = None
        if size is not None:
            geometry = FrameGeometry(row_mm=size[1], column_mm=size[0], origin="user", trusted=True, reason="")
        recorded = open_frames(
            given.frames,
            given.poses,
            settings,
            constants=constants,
            geometry=geometry,
            fps=given.fps,
            mm_per_unit=UNITS[given.pose_unit],
        )
    return replace(recorded, sweep=_with_area(recorded.sweep, given))


def _with_area(sweep: Sweep, given: Given) -> Sweep:
    if given.sector is not None:
        geometry = sweep.geometry_of(0)
        if given.sector == "detect":
            area = detect_area(sweep)
        else:
            found = numbers("sector", given.sector, 6, float)
            assert found is not None
            x, y, inner, outer, first, last = found
            if not (0 <= inner < outer and -180 <= first < last <= 180):
                raise ConfigError(
                    f"sector is {given.sector!r}: x,y,inner,outer,first,last with 0 <= inner < outer in rows and "
                    "-180 <= first < last <= 180 degrees is needed"
                )
            row_mm, column_mm = geometry.require_mm()
            area = Sector(
                apex_x=x, apex_y=y, radius_min=inner, radius_max=outer, angle_min=math.radians(first),
                angle_max=math.radians(last), aspect=row_mm / column_mm,
            )  # fmt: skip
        sweep = with_scan_area(sweep, area)
    corners = numbers("clip", given.clip, 4, float)
    if corners is not None:
        clip = Rectangle(x0=corners[0], y0=corners[1], x1=corners[2], y1=corners[3])
        sweep = with_scan_area(sweep, clip_area(sweep.geometry_of(0).scan_area, clip))
    return sweep


def confidence_of(given: Given, recorded: RecordedSweep) -> npt.NDArray[np.uint8] | None:
    """The confidence map of each frame that is used; the file has one for each record."""
    if given.confidence is None:
        return None
    with open_source(given.confidence) as source:
        maps = np.stack([frame.image for frame in source])
    count = len(recorded.kept) + sum(len(rows) for rows in recorded.dropped.values())
    if maps.ndim != 3 or len(maps) != count:
        raise ConfigError(
            f"{given.confidence} has shape {maps.shape}; a grey map for each of the {count} frames is needed"
        )
    return np.asarray(maps[recorded.kept])


def load_model(given: Given) -> LoadedModel | None:
    """The bundle of the line, ready to segment; `ConfigError` for one that makes no masks."""
    if given.model is None:
        return None
    from edge_runtime.loading import load

    model = load(given.model, variant=given.variant, runner=given.runner, trust=given.trust)
    mask_classes(model)
    return model


def beside_bytes(given: Given, model: LoadedModel | None) -> int:
    """Memory of a voxel for all that is asked for beside the volume: sums, and what is made of them."""
    taken = 2 * (1 + (model is not None)) if given.fill is not None else 0  # a copy, and the mark of what was filled
    if model is not None:
        taken += 4 * (len(mask_classes(model)) + 1) + 9  # votes; label, number of votes, share
    if given.out_probability is not None:
        taken += 16
    if given.out_variance is not None:
        taken += 40
    if given.out_uncertainty is not None:
        taken += 20
    return taken


def add_labels(
    given: Given, model: LoadedModel, sweep: Sweep, volume: Volume, facts: dict[str, Any], progress: Progress
) -> list[Write]:
    """Segment and fuse; `facts` gets the measures of each label, and what to write returns."""
    names = mask_classes(model)
    cap = volume.data.size * (len(names) + 1)  # whether they fit was decided before
    chances = None
    if given.out_probability is not None:
        chances = Compounder(volume.grid, kernel="nearest", max_voxels=volume.data.size)
    masks = segment(model, sweep, seen=None if chances is None else partial(_add_chance, chances, sweep))
    fused = fuse_labels(sweep, masks, volume.grid, classes=len(names), max_voxels=cap, progress=progress)
    labels = fused.volume if given.fill is None else fill_holes(fused.volume, "nearest")
    facts["model"] = {"name": model.manifest.name, "version": model.manifest.version, "sha256": model.sha256}
    facts["labels"] = [_measured(labels, k, name) for k, name in enumerate(names, start=1)]
    writes: list[Write] = []
    if given.out_labels is not None:
        writes.append((given.out_labels, lambda path: write_volume(path, labels)))
    if given.out_confidence is not None:
        writes.append((given.out_confidence, lambda path: write_values(path, fused.confidence, volume)))
    if given.out_probability is not None and chances is not None:
        mean = chances.mean() / FULL
        writes.append((given.out_probability, lambda path: write_values(path, mean, volume)))
    return writes


def _add_chance(target: Compounder, sweep: Sweep, k: int, probability: npt.NDArray[np.float32]) -> None:
    """Put the probabilities (H, W) of frame `k` into a mean, in steps of 1/255."""
    levels = np.rint(probability * FULL).astype(np.uint8)
    target.insert(levels, sweep.T_world_image[k], sweep.geometry_of(k))


def _measured(labels: Volume, label: int, name: str) -> dict[str, Any]:
    voxels = int(np.count_nonzero(labels.data == label))
    if voxels == 0:
        return {"label": label, "name": name, "voxels": 0}
    found = measure_volume(labels, label=label)
    return {
        "label": label,
        "name": name,
        "voxels": voxels,
        "volume_mm3": found.volume_mm3.value,
        "volume_mm3_sd": found.volume_mm3.sd,
        "surface_mm2": found.surface_mm2.value,
        "surface_mm2_sd": found.surface_mm2.sd,
        "open_share": found.open_share,
    }


def add_maps(given: Given, sweep: Sweep, volume: Volume) -> list[Write]:
    """The volume, the maps and pictures that are asked for, computed and ready to write."""
    writes: list[Write] = [(given.out, lambda path: write_volume(path, volume))]
    if given.out_weight is not None:
        writes.append((given.out_weight, lambda path: write_volume(path, volume, field="weight")))
    if given.out_variance is not None:
        target = WeightedCompounder(volume.grid, max_voxels=volume.data.size)
        for k in range(len(sweep)):
            target.insert(sweep.image(k), sweep.T_world_image[k], sweep.geometry_of(k))
        variance = target.variance()
        writes.append((given.out_variance, lambda path: write_values(path, variance, volume)))
    if given.out_uncertainty is not None:
        sigma = pose_sigma(given)
        covariance = np.diag([math.radians(sigma[0]) ** 2] * 3 + [sigma[1] ** 2] * 3)
        found = pose_uncertainty(sweep, covariance, volume.grid, max_voxels=volume.data.size)
        writes.append((given.out_uncertainty, lambda path: write_values(path, found, volume)))
    if given.slices is not None:
        slices = draw_slices(volume)
        writes.append((given.slices, lambda path: write_png(path, slices)))
    if given.turntable is not None:
        if given.turntable.suffix.lower() == ".png":
            strip = draw_turntable(volume)
            writes.append((given.turntable, lambda path: write_png(path, strip)))
        else:
            writes.append((given.turntable, lambda path: write_turntable(path, volume)))
    return writes


def pose_sigma(given: Given) -> tuple[float, float]:
    """The doubt about poses, degrees and mm; `ConfigError` when it is no two numbers of at least 0."""
    sigma = numbers("pose-sigma", given.pose_sigma, 2, float)
    assert sigma is not None
    if min(sigma) < 0:
        raise ConfigError(f"pose-sigma is {given.pose_sigma!r}; degrees and mm of at least 0 are needed")
    return sigma[0], sigma[1]
