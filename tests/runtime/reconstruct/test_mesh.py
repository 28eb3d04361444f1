from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.errors import ConfigError, ReconstructionError
from edge_runtime.reconstruct import Mesh, Volume, VolumeGrid, isosurface, mask_surface, write_mesh
from edge_runtime.reconstruct._cube_cases import case_triangles

SPACINGS = [(1.0, 1.0, 1.0), (1.3, 0.8, 1.0), (0.5, 0.5, 0.5)]


def distance(radius, spacing, centre=(0.13, 0.21, -0.17)):
    """(Z, Y, X) distance in mm of the lattice points from `centre` (z, y, x), lattice wide enough for `radius`."""
    half = [int(np.ceil(radius / s)) + 2 for s in spacing]
    axes = [np.arange(-h, h + 1) * s - c for h, s, c in zip(half, spacing, centre, strict=True)]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    return np.sqrt(z * z + y * y + x * x)


def volume_of(data, spacing=(1.0, 1.0, 1.0), T=None):
    return Volume(data=data, spacing_mm=spacing, T_world_volume=np.eye(4) if T is None else T)


def soft_ball(radius, spacing):
    return np.clip(127.5 + (radius - distance(radius, spacing)) * 40, 0, 255).round().astype(np.uint8)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_a_soft_sphere_has_the_area_and_volume_of_a_sphere(spacing, random_pose):
    T = random_pose(np.random.default_rng(1), angle=1.0, shift=50)
    mesh = isosurface(volume_of(soft_ball(10, spacing), spacing, T), 127.5)
    assert mesh.closed
    assert mesh.euler == 2
    assert mesh.area_mm2 == pytest.approx(4 * np.pi * 100, rel=0.01)
    assert mesh.volume_mm3 == pytest.approx(4 / 3 * np.pi * 1000, rel=0.01)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_a_mask_of_a_sphere_too(spacing):
    mask = distance(10, spacing) <= 10
    mesh = mask_surface(mask, volume_of(mask.astype(np.uint8), spacing).grid)
    assert mesh.closed
    assert mesh.euler == 2
    assert mesh.area_mm2 == pytest.approx(4 * np.pi * 100, rel=0.01)
    assert mesh.volume_mm3 == pytest.approx(4 / 3 * np.pi * 1000, rel=0.01)


def test_vertices_lie_in_the_world_on_the_sphere(random_pose):
    T = random_pose(np.random.default_rng(2), angle=1.0, shift=50)
    spacing = (1.3, 0.8, 1.0)
    volume = volume_of(soft_ball(8, spacing), spacing, T)
    half = (np.array(volume.data.shape) - 1) / 2
    centre = volume.to_world(half + np.array([0.13, 0.21, -0.17]) / spacing)
    away = np.linalg.norm(isosurface(volume, 127.5).vertices - centre, axis=1)
    np.testing.assert_allclose(away, 8, atol=0.06)  # the grey level is not linear between voxels


@pytest.mark.parametrize("spacing", SPACINGS)
def test_areas_and_volumes_agree_with_scikit_image(spacing):
    measure = pytest.importorskip("skimage.measure")
    rng = np.random.default_rng(5)
    coarse = rng.random((5, 6, 7)) * 255
    ndimage = pytest.importorskip("scipy.ndimage")
    data = np.pad(np.clip(ndimage.zoom(coarse, 5, order=3), 0, 255).astype(np.uint8), 1)
    mesh = isosurface(volume_of(data, spacing), 130.5)
    vertices, faces, _, _ = measure.marching_cubes(data.astype(np.float32), 130.5, spacing=spacing)
    assert mesh.closed
    assert mesh.area_mm2 == pytest.approx(measure.mesh_surface_area(vertices, faces), rel=0.005)
    peer = Mesh(vertices=vertices[:, ::-1].astype(float), faces=faces[:, ::-1].copy())
    assert mesh.volume_mm3 == pytest.approx(abs(peer.volume_mm3), rel=0.005)
    assert len(mesh.vertices) == pytest.approx(len(vertices), rel=0.01)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), share=st.floats(0.02, 0.98))
def test_any_mask_gives_a_closed_surface_of_the_right_topology(seed, share):
    """The Euler characteristic of a closed surface is twice that of the body, whose voxels touch by faces.

    Where a cube lacks two opposite corners only, the body has a tunnel that the surface does not: each adds one.
    """
    measure = pytest.importorskip("skimage.measure")
    mask = np.random.default_rng(seed).random((6, 5, 7)) < share
    if not mask.any():
        return
    mesh = isosurface(volume_of(mask.astype(np.uint8) * 255), 127.5)
    assert mesh.closed
    corners = [mask[z : z + 5, y : y + 4, x : x + 6] for z, y, x in np.ndindex(2, 2, 2)]
    six = sum(c.astype(int) for c in corners) == 6
    closed_tunnels = sum((six & ~corners[c] & ~corners[7 - c]).sum() for c in range(4))
    assert mesh.euler == 2 * (measure.euler_number(mask, connectivity=1) + closed_tunnels)
    assert mesh.volume_mm3 > 0


def test_one_voxel_and_a_ring_by_hand():
    one = isosurface(volume_of(np.full((1, 1, 1), 255, np.uint8)), 127.5)  # an octahedron, half a voxel to each side
    assert one.volume_mm3 == pytest.approx(4 / 3 * 0.5**3)
    assert one.area_mm2 == pytest.approx(8 * np.sqrt(3) / 4 * (np.sqrt(2) / 2) ** 2)
    ring = np.full((3, 3, 1), 255, np.uint8)
    ring[1, 1] = 0
    assert isosurface(volume_of(ring), 127.5).euler == 0


def test_the_cases_are_complete_and_mirror_images_are_cut_the_same_number_of_times():
    table = case_triangles()
    used = [(row >= 0).sum() // 3 for row in table]
    assert table[0, 0] == table[255, 0] == -1
    assert min(used[1:255]) == 1
    assert max(used) == 5
    flip = [sum((case >> (c ^ 1) & 1) << c for c in range(8)) for case in range(256)]
    assert used == [used[flip[case]] for case in range(256)]


def read_back(path):
    """Vertices of each face (F, 3, 3) by readers written from the formats."""
    raw = path.read_bytes()
    if path.suffix == ".stl":
        count = int.from_bytes(raw[80:84], "little")
        assert len(raw) == 84 + 50 * count
        floats = np.frombuffer(raw[84:], np.uint8).reshape(count, 50)[:, :48].copy().view("<f4").reshape(count, 4, 3)
        return floats[:, 1:], floats[:, 0]
    if path.suffix == ".ply":
        head, body = raw.split(b"end_header\n", 1)
        vertices, faces = (int(head.split(b"element " + k)[1].split()[0]) for k in (b"vertex", b"face"))
        points = np.frombuffer(body[: 12 * vertices], "<f4").reshape(-1, 3)
        rows = np.frombuffer(body[12 * vertices :], np.uint8).reshape(faces, 13)
        assert (rows[:, 0] == 3).all()
        return points[rows[:, 1:].copy().view("<i4")], None
    lines = [line.split() for line in raw.decode().splitlines()]
    points = np.array([line[1:] for line in lines if line[0] == "v"], float)
    return points[np.array([line[1:] for line in lines if line[0] == "f"], int) - 1], None


@pytest.mark.parametrize("suffix", [".ply", ".stl", ".obj", ".STL"])
def test_files_hold_the_same_triangles(tmp_path, suffix):
    mesh = isosurface(volume_of(soft_ball(5, (1.0, 0.8, 1.3)), (1.0, 0.8, 1.3)), 127.5)
    path = tmp_path / f"ball{suffix}"
    write_mesh(path, mesh)
    corners, normals = read_back(path.rename(path.with_suffix(suffix.lower())))
    np.testing.assert_allclose(corners, mesh.vertices[mesh.faces], atol=1e-5)
    if normals is not None:
        outward = mesh.vertices[mesh.faces].mean(axis=1) - mesh.vertices.mean(axis=0)
        assert ((normals * outward).sum(axis=1) > 0).all()
        np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-5)
    assert len(list(tmp_path.iterdir())) == 1


def test_bad_input_is_refused(tmp_path):
    dark = volume_of(np.full((2, 2, 2), 9, np.uint8))
    for level in (0, -1, 256, np.nan, np.inf):
        with pytest.raises(ConfigError, match="level"):
            isosurface(dark, level)
    with pytest.raises(ReconstructionError, match="brightest has 9"):
        isosurface(dark, 10)
    grid = VolumeGrid(shape=(2, 2, 2), spacing_mm=(1, 1, 1), T_world_volume=np.eye(4))
    with pytest.raises(ReconstructionError, match="empty"):
        mask_surface(np.zeros((2, 2, 2), bool), grid)
    with pytest.raises(ConfigError, match="bool is needed"):
        mask_surface(np.ones((2, 2, 3), bool), grid)
    mesh = isosurface(dark, 9)
    with pytest.raises(ConfigError, match=r"ball\.vtk: a mesh is written as \.obj, \.ply, \.stl"):
        write_mesh(tmp_path / "ball.vtk", mesh)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConfigError, match="name vertices up to 7"):
        Mesh(vertices=np.zeros((3, 3)), faces=np.array([[0, 1, 7]], np.int32))
    with pytest.raises(ConfigError, match="finite"):
        Mesh(vertices=np.full((3, 3), np.nan), faces=np.array([[0, 1, 2]], np.int32))
