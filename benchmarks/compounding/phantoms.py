"""`geometry`: wires of a real phantom where they are known to be, and simulated spheres of known size."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from benchmarks.compounding.cases import nwire_pixels, sweep_of, sweeps
from benchmarks.figures import Figure, judged
from edge_runtime.frame import FrameGeometry, Rectangle
from edge_runtime.geometry import vector_to_rotation
from edge_runtime.reconstruct import Sweep, Volume, compound, grid_of_sweep, locate_wire

__all__ = ["measure_geometry"]

CLIP = Rectangle(x0=167, y0=62, x1=662, y1=550)
CONFIG = "PlusDeviceSet_NwirePhantomFreehand_vtkVolumeReconstructorTest2.xml"
RADII_MM = (6.0, 8.0, 10.0)
LEVEL = 200

F64 = npt.NDArray[np.float64]


def _wires() -> tuple[list[str], F64]:
    """Names and ends (W, 2, 3) mm of the wires in the reference frame, by the registration stored with them."""
    root = ElementTree.parse(sweeps() / "plus_nwire" / CONFIG).getroot()
    place = root.find(".//Registration")
    assert place is not None
    T = np.array(place.attrib["MatrixValue"].split(), float).reshape(4, 4)
    found = list(root.iter("Wire"))
    ends = np.array([[w.attrib[f"EndPoint{e}"].split() for e in ("Front", "Back")] for w in found], float)
    return [w.attrib["Name"] for w in found], ends @ T[:3, :3].T + T[:3, 3]


def _nwire_volume() -> tuple[Volume, F64]:
    """The N-wire sweep at 0.5 mm, and the origin of its volume in the reference frame."""
    pixels = nwire_pixels()
    origin, shape = pixels.extent((167, 62, 495, 488))
    sweep, grid = sweep_of(pixels.frames, pixels.to_voxels(origin), shape)
    geometry = [replace(sweep.geometry_of(k), scan_area=CLIP) for k in range(len(sweep))]
    return compound(replace(sweep, geometry=geometry), mode="mean", kernel="linear", grid=grid), origin


def _off(points: F64, ends: F64) -> F64:
    """(N, 3) from the nearest points of the line through `ends` (2, 3) to `points`."""
    along = (ends[1] - ends[0]) / np.linalg.norm(ends[1] - ends[0])
    off = points - ends[0]
    return np.asarray(off - (off @ along)[:, None] * along)


def _placed_best(points: list[F64], wires: F64) -> list[F64]:
    """The points moved rigidly, all together, so that they lie nearest to their wires (Gauss-Newton)."""
    for _ in range(20):
        rows, rest = [], []
        for at, ends in zip(points, wires, strict=True):
            along = (ends[1] - ends[0]) / np.linalg.norm(ends[1] - ends[0])
            across = np.eye(3) - np.outer(along, along)
            turn = np.cross(np.eye(3)[None], at[:, None]).transpose(0, 2, 1)
            rows.append(
                np.concatenate([across @ turn, np.broadcast_to(across, (len(at), 3, 3))], axis=2).reshape(-1, 6)
            )
            rest.append(-_off(at, ends).reshape(-1))
        step, *_ = np.linalg.lstsq(np.concatenate(rows), np.concatenate(rest), rcond=None)
        points = [at @ vector_to_rotation(step[:3]).T + step[3:] for at in points]
    return points


def _wire_figures() -> list[Figure]:
    volume, origin = _nwire_volume()
    names, wires = _wires()
    points = [locate_wire(volume, *(ends - origin)) + origin for ends in wires]
    figures = []
    for name, found in (
        ("wires, phantom placed by the stored registration", points),
        ("wires, phantom placed best (one rigid motion)", _placed_best(points, wires)),
    ):
        size = [np.linalg.norm(_off(at, ends), axis=1) for at, ends in zip(found, wires, strict=True)]
        each = [float(s.mean()) for s in size]
        figures.append(
            judged(
                name=f"{name}: mean position error of the worst wire",
                value=max(each),
                goal="<= 0.5 mm",
                unit="mm",
                n=sum(len(s) for s in size),
                spread=", ".join(f"{n} {e:.2f}" for n, e in zip(names, each, strict=True))
                + f"; worst slice {max(float(s.max()) for s in size):.2f}",
            )
        )
    return figures


def _sphere(radius_mm: float, spacing_mm: float) -> float:
    """Volume, in percent of the truth, of a bright sphere swept by a tilting hand and cut at half its level."""
    rng = np.random.default_rng(round(10 * radius_mm))
    geometry = FrameGeometry(row_mm=0.1, column_mm=0.1, origin="user", trusted=True)
    reach = radius_mm + 4
    side = round(2 * reach / 0.1)
    y, x = np.mgrid[:side, :side] * 0.1
    frames, poses = [], []
    for z in np.arange(-reach, reach, 0.25):
        T = np.eye(4)
        T[:3, :3] = vector_to_rotation(rng.normal(0, 0.02, 3))
        T[:3, 3] = np.array([-reach, -reach, z]) + rng.normal(0, 0.1, 3)
        at = x[..., None] * T[:3, 0] + y[..., None] * T[:3, 1] + T[:3, 3]
        soft = np.clip((radius_mm - np.linalg.norm(at, axis=-1)) / 0.2 + 0.5, 0, 1)
        frames.append(np.rint(LEVEL * soft).astype(np.uint8))
        poses.append(T)
    sweep = Sweep(frames=np.stack(frames), T_world_image=np.stack(poses), geometry=geometry)
    volume = compound(sweep, mode="mean", kernel="linear", grid=grid_of_sweep(sweep, spacing_mm))
    inside = int((volume.data >= LEVEL // 2).sum()) * spacing_mm**3
    return 100 * inside / (4 / 3 * np.pi * radius_mm**3)


def measure_geometry() -> list[Figure]:
    """Wires of the N-wire phantom, and spheres of 6 to 10 mm."""
    shares = [_sphere(radius, 0.5) for radius in RADII_MM]
    worst = max(abs(share - 100) for share in shares)
    spheres = judged(
        name="volume of simulated spheres, worst deviation",
        value=worst,
        goal="<= 2 %",
        unit="%",
        n=len(shares),
        spread=", ".join(f"{r:g} mm radius {s:.2f} %" for r, s in zip(RADII_MM, shares, strict=True)),
    )
    return [*_wire_figures(), spheres]
