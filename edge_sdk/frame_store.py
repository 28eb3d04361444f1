"""Labelled frames of one size in one `.npz` file, with their geometry, without pickle."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edge_runtime.atomic import replacing
from edge_runtime.errors import ConfigError
from edge_runtime.frame import FrameGeometry, Rectangle, ScanArea, Sector
from edge_sdk.frames import LabelledFrames

__all__ = ["load_labelled", "save_labelled"]

_AREAS: dict[str, type[Rectangle] | type[Sector]] = {"rectangle": Rectangle, "sector": Sector}


def save_labelled(path: Path, labelled: LabelledFrames) -> None:
    """Write `labelled` to `path` (`.npz`) atomically; raises `ConfigError` unless all frames have one shape."""
    shapes = {frame.image.shape for frame in labelled.frames}
    if len(shapes) != 1:
        raise ConfigError(f"frames have the shapes {sorted(shapes)}; one shape is needed in one file")
    geometries = msgspec.json.encode([_encode(frame.geometry) for frame in labelled.frames])
    with replacing(path) as temporary:
        np.savez(
            temporary,
            images=np.stack([frame.image for frame in labelled.frames]),
            masks=np.stack(labelled.masks),
            geometries=np.frombuffer(geometries, np.uint8),
        )


def load_labelled(path: Path) -> LabelledFrames:
    """What `save_labelled` wrote."""
    with np.load(path, allow_pickle=False) as stored:
        geometries = [_decode(item) for item in msgspec.json.decode(stored["geometries"].tobytes())]
        return LabelledFrames.from_arrays(stored["images"], stored["masks"], geometries)


def _encode(geometry: FrameGeometry) -> dict[str, Any]:
    fields = asdict(geometry)
    if geometry.scan_area is not None:
        fields["scan_area"]["kind"] = type(geometry.scan_area).__name__.lower()
    return fields


def _decode(fields: dict[str, Any]) -> FrameGeometry:
    area: ScanArea | None = None
    if fields["scan_area"] is not None:
        kind = _AREAS[fields["scan_area"].pop("kind")]
        area = kind(**fields["scan_area"])
    return FrameGeometry(**{**fields, "scan_area": area})
