"""Meshes as files: PLY and STL (both binary) and OBJ, written only, in mm and LPS."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edge_runtime.atomic import write_bytes
from edge_runtime.errors import ConfigError
from edge_runtime.reconstruct.mesh import Mesh

__all__ = ["MESH_SUFFIXES", "write_mesh"]

MESH_SUFFIXES = (".obj", ".ply", ".stl")

STL_FACE = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
PLY_FACE = np.dtype([("sides", "u1"), ("corners", "<i4", 3)])
PLY_HEAD = """ply
format binary_little_endian 1.0
comment millimetres, LPS
element vertex {vertices}
property float x
property float y
property float z
element face {faces}
property list uchar int vertex_indices
end_header
"""


def write_mesh(path: Path | str, mesh: Mesh) -> None:
    """Write `mesh` as `.ply` (little-endian binary), `.stl` (binary) or `.obj` (text), atomically.

    Coordinates are in single precision in PLY and STL and have nine digits in OBJ. STL repeats the corners of each
    face, so it does not keep which faces touch. Raises `ConfigError` for another ending.
    """
    path = Path(path)
    writers = {".obj": _obj, ".ply": _ply, ".stl": _stl}
    if path.suffix.lower() not in writers:
        raise ConfigError(f"{path.name}: a mesh is written as {', '.join(MESH_SUFFIXES)}")
    write_bytes(path, writers[path.suffix.lower()](mesh))


def _ply(mesh: Mesh) -> bytes:
    """The Stanford triangle format (Turk, 1994)."""
    faces = np.empty(len(mesh.faces), PLY_FACE)
    faces["sides"], faces["corners"] = 3, mesh.faces
    head = PLY_HEAD.format(vertices=len(mesh.vertices), faces=len(faces)).encode("ascii")
    return head + mesh.vertices.astype("<f4").tobytes() + faces.tobytes()


def _stl(mesh: Mesh) -> bytes:
    """The binary form of the StereoLithography interface specification (3D Systems, 1989)."""
    faces = np.zeros(len(mesh.faces), STL_FACE)
    corners = mesh.vertices[mesh.faces]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    length = np.linalg.norm(normal, axis=1, keepdims=True)
    faces["corners"], faces["normal"] = corners, normal / np.where(length > 0, length, 1)
    return b"millimetres, LPS".ljust(80) + len(faces).to_bytes(4, "little") + faces.tobytes()


def _obj(mesh: Mesh) -> bytes:
    """Wavefront OBJ: vertices, then faces that count from 1."""
    lines = ["# millimetres, LPS"]
    lines += [f"v {x:.9g} {y:.9g} {z:.9g}" for x, y, z in mesh.vertices.tolist()]
    lines += [f"f {a} {b} {c}" for a, b, c in (mesh.faces + 1).tolist()]
    return ("\n".join(lines) + "\n").encode("ascii")
