"""Calibrations as files: a matrix as text, or the XML of PLUS (device sets, fCal results), read and written.

https://plustoolkit.github.io: `CoordinateDefinitions/Transform` with `From`, `To` and 16 numbers row by row;
`PhantomDefinition/Geometry/Pattern/Wire`; and, of fCal, `Frame/SegmentedPoints/Point` with the poses of each image.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from edge_runtime.atomic import write_bytes
from edge_runtime.calibration.spatial import NWire
from edge_runtime.calibration.wire_images import find_wires
from edge_runtime.errors import ConfigError, GeometryError, SourceFormatError
from edge_runtime.geometry import is_rigid
from edge_runtime.sources.tracked import TrackedSequence, TransformGraph, split_name

__all__ = [
    "WirePhantom",
    "WirePoints",
    "read_calibration",
    "read_phantom",
    "read_wire_points",
    "wire_points",
    "write_calibration",
]

MAX_CALIBRATION_BYTES = 1 << 23
MAX_POINTS_BYTES = 1 << 26
RIGID = 1e-3  # files keep six digits

F64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WirePhantom:
    """N-wire patterns with the names of their wires (left, middle, right), and where the phantom stands.

    `T_reference_phantom` (4, 4) rigid, mm; None when the file does not say (`Transform From="Phantom" To="Reference"`).
    """

    names: tuple[tuple[str, str, str], ...]
    wires: tuple[NWire, ...]
    T_reference_phantom: F64 | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WirePoints:
    """`pixels` (F, P, 3, 2), where F images show P patterns, and `T_phantom_probe` (F, 4, 4): see `calibrate_image`."""

    pixels: F64
    T_phantom_probe: F64


def read_calibration(path: str | Path, name: str = "ImageToProbe") -> F64:
    """The matrix (4, 4) in a file: 16 numbers row by row as text, or the `Transform` of that name in a PLUS XML file.

    Raises `ConfigError` when the file cannot be read, is larger than 8 MiB, or holds no such matrix.
    """
    path = Path(path)
    text = _text(path, MAX_CALIBRATION_BYTES)
    if "<" in text:
        start, end = split_name(name)
        found = _transforms(_root(path, text))
        if name not in found:
            raise ConfigError(f"{path} has no Transform From={start} To={end}; it has {sorted(found) or 'none'}")
        text = found[name]
    return _matrix(text, str(path))


def write_calibration(path: str | Path, name: str, matrix: F64, *, error_mm: float | None = None) -> None:
    """Write a transform (4, 4) as PLUS XML, atomically, every digit kept; `read_calibration` and PLUS read it.

    `error_mm` stands beside it as `Error`. Raises `ConfigError` for a name that is none or a matrix that is not finite.
    """
    start, end = split_name(name)
    matrix = np.asarray(matrix, np.float64)
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
        raise ConfigError(f"{name} has shape {matrix.shape}; a finite (4, 4) matrix is needed")
    root = ElementTree.Element("PlusConfiguration", version="2.1")
    rows = "  ".join(" ".join(repr(float(n)) for n in row) for row in matrix)
    place = ElementTree.SubElement(root, "CoordinateDefinitions")
    found = ElementTree.SubElement(place, "Transform", {"From": start, "To": end, "Matrix": rows})
    if error_mm is not None:
        found.set("Error", f"{error_mm:.6g}")
    ElementTree.indent(root)
    write_bytes(Path(path), ElementTree.tostring(root, encoding="utf-8", xml_declaration=True) + b"\n")


def read_phantom(path: str | Path) -> WirePhantom:
    """The N-wire patterns of a PLUS device set.

    Raises `ConfigError` when the file cannot be read, has no `Pattern Type="NWire"`, or a pattern is no N.
    """
    path = Path(path)
    root = _root(path, _text(path, MAX_CALIBRATION_BYTES))
    names, wires = [], []
    for pattern in root.iter("Pattern"):
        if pattern.get("Type") != "NWire":
            continue
        found = list(pattern.iter("Wire"))
        if len(found) != 3:
            raise ConfigError(f"{path}: a pattern has {len(found)} wires; an N has three: left, middle, right")
        names.append((found[0].get("Name", ""), found[1].get("Name", ""), found[2].get("Name", "")))
        left, middle, right = (_ends(wire, path) for wire in found)
        wires.append(NWire(left=left, middle=middle, right=right))
    if not wires:
        raise ConfigError(f'{path} has no Pattern Type="NWire"; a device set with a PhantomDefinition is needed')
    place = _transforms(root).get("PhantomToReference")
    T = None if place is None else _rigid(_matrix(place, f"{path}: PhantomToReference"), f"{path}: PhantomToReference")
    return WirePhantom(names=tuple(names), wires=tuple(wires), T_reference_phantom=T)


def read_wire_points(
    path: str | Path, phantom: WirePhantom, part: Literal["calibration", "validation"] = "calibration"
) -> WirePoints:
    """The wire crossings that fCal of PLUS found in its images, and where each image was taken.

    Of the images whose `SegmentationStatus` and transforms are `OK`. Raises `ConfigError` when the file cannot be read
    or has none, an image lacks a wire, or the phantom's place is not known.
    """
    path = Path(path)
    section = _root(path, _text(path, MAX_POINTS_BYTES)).find(f".//{part.capitalize()}Data")
    frames = [] if section is None else section.findall("Frame[@SegmentationStatus='OK']")
    pixels, poses = [], []
    for frame in frames:
        fields = {field.get("Name", ""): field.get("Value", "") for field in frame.iter("CustomFrameField")}
        if any(value != "OK" for name, value in fields.items() if name.endswith("ToTrackerTransformStatus")):
            continue
        name = f"{path}: frame {frame.get('Index')} of {part}"
        pixels.append(_crossings(frame, phantom.names, name))
        steps = {
            key.removesuffix("Transform"): _matrix(value, f"{name}, {key}")
            for key, value in fields.items()
            if key.endswith("Transform")
        }
        poses.append(_rigid(TransformGraph({**steps, **_placed(phantom)}).resolve("ProbeToPhantom"), name))
    if not poses:
        raise ConfigError(f"{path} has no segmented image in {part.capitalize()}Data; the results of fCal are needed")
    return WirePoints(pixels=np.array(pixels), T_phantom_probe=np.stack(poses))


def wire_points(sequence: TrackedSequence, phantom: WirePhantom) -> WirePoints:
    """The wire crossings found in the images of a recording (`find_wires`), and where each image was taken.

    Images whose status or tracking is not `OK`, or in which the wires are not found, are left out. Raises
    `SourceFormatError` for a recording without grey images or orientation, `GeometryError` when no image is left, and
    `ConfigError`, showing the graph, when the phantom's place is not among the transforms.
    """
    if sequence.frames is None or sequence.frames.ndim != 3:
        raise SourceFormatError("the recording has no grey images; wires are found in grey images")
    graph = TransformGraph({**sequence.transforms, **_placed(phantom)})
    kept = sequence.images_usable
    for step in graph.path("ProbeToPhantom"):
        if step.name in sequence.transforms:
            kept = kept & sequence.usable(step.name)
    frames = sequence.oriented("MF").frames
    assert frames is not None
    pixels = np.full((len(sequence), len(phantom.wires), 3, 2), np.nan)
    pixels[kept] = find_wires(frames[kept], phantom.wires)
    kept = kept & np.isfinite(pixels).all(axis=(1, 2, 3))
    if not kept.any():
        raise GeometryError(
            f"the wires of the phantom are found in none of {len(sequence)} images; is it this phantom?"
        )
    T = np.broadcast_to(graph.resolve("ProbeToPhantom"), (len(sequence), 4, 4))[kept]
    return WirePoints(pixels=pixels[kept], T_phantom_probe=_rigid(T, "ProbeToPhantom"))


def _placed(phantom: WirePhantom) -> dict[str, F64]:
    return {} if phantom.T_reference_phantom is None else {"PhantomToReference": phantom.T_reference_phantom}


def _crossings(frame: ElementTree.Element, names: Sequence[tuple[str, str, str]], name: str) -> list[list[list[float]]]:
    """x and y of the wires of each pattern."""
    points = {p.get("WireName", ""): p.get("Position", "").split()[:2] for p in frame.iter("Point")}
    wanted = {wire for pattern in names for wire in pattern}
    if missing := sorted(wanted - points.keys()):
        raise ConfigError(f"{name}: no point of wire {missing[0]}; the phantom and the points are of different sets")
    try:
        return [[[float(n) for n in points[wire]] for wire in pattern] for pattern in names]
    except ValueError as error:
        raise ConfigError(f"{name}: {error}; a position is two or three numbers") from error


def _text(path: Path, limit: int) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(limit + 1)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    if len(raw) > limit:
        raise ConfigError(f"{path} is larger than {limit} bytes; a calibration is one matrix or one PLUS XML file")
    return raw.decode("utf-8", "replace")


def _root(path: Path, text: str) -> ElementTree.Element:
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ConfigError(f"{path} declares a document type; a PLUS configuration has none")
    try:
        return ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise ConfigError(f"{path} is no XML: {error}") from error


def _transforms(root: ElementTree.Element) -> dict[str, str]:
    return {f"{t.get('From')}To{t.get('To')}": t.get("Matrix") or "" for t in root.iter("Transform")}


def _matrix(text: str, name: str) -> F64:
    try:
        numbers = [float(word) for word in text.replace(",", " ").split()]
    except ValueError as error:
        raise ConfigError(f"{name}: {error}; 16 numbers row by row, or a PLUS XML file, are needed") from error
    if len(numbers) != 16 or not np.isfinite(numbers).all():
        raise ConfigError(f"{name} holds {len(numbers)} numbers; 16 finite ones, row by row, are needed")
    return np.array(numbers).reshape(4, 4)


def _ends(wire: ElementTree.Element, path: Path) -> F64:
    """(2, 3) mm."""
    try:
        ends = np.array([[float(n) for n in wire.get(f"EndPoint{end}", "").split()] for end in ("Front", "Back")])
    except ValueError as error:
        raise ConfigError(f"{path}: wire {wire.get('Name')}: {error}; three numbers for each end are needed") from error
    if ends.shape != (2, 3):
        raise ConfigError(f"{path}: wire {wire.get('Name')} needs EndPointFront and EndPointBack, three numbers each")
    return ends


def _rigid(T: F64, name: str) -> F64:
    """The nearest rigid matrices to (4, 4) or (N, 4, 4); `ConfigError` where one is not rigid within 1e-3."""
    bad = [k for k, one in enumerate(T.reshape(-1, 4, 4)) if not is_rigid(one, RIGID)]
    if bad:
        raise ConfigError(f"{name}: transform {bad[0]} is not rigid; leave out where tracking failed")
    u, _, vt = np.linalg.svd(T[..., :3, :3])
    exact = T.copy()
    exact[..., :3, :3] = u @ vt
    return exact
