from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edge_runtime.errors import ConfigError, ReconstructionError
from edge_runtime.reconstruct import Volume, measure_volume

SPACINGS = [(0.5, 0.5, 0.5), (0.8, 0.4, 0.5)]


def body_volume(inside, spacing, T, half, value=255):
    """Volume (value inside) on a lattice that reaches `half` mm around the volume's middle."""
    axes = [np.arange(-np.ceil(half / s), np.ceil(half / s) + 1) * s for s in spacing]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    data = np.where(inside(z - 0.11, y + 0.07, x + 0.19), value, 0).astype(np.uint8)
    return Volume(data=data, spacing_mm=spacing, T_world_volume=T)


def ellipsoid(a, b, c):
    """Half axes (a, b, c) along (z, y, x)."""
    return lambda z, y, x: (z / a) ** 2 + (y / b) ** 2 + (x / c) ** 2 <= 1


@pytest.mark.parametrize("spacing", SPACINGS)
def test_an_ellipsoid_is_measured(spacing, random_pose):
    T = random_pose(np.random.default_rng(1), angle=1.0, shift=50)
    found = measure_volume(body_volume(ellipsoid(12, 8, 6), spacing, T, 14))
    truth = 4 / 3 * np.pi * 12 * 8 * 6
    p = 1.6075  # Knud Thomsen's formula, within 1.1 %
    surface = 4 * np.pi * (((12 * 8) ** p + (12 * 6) ** p + (8 * 6) ** p) / 3) ** (1 / p)
    assert found.volume_mm3.value == pytest.approx(truth, rel=0.01)
    assert found.mesh_volume_mm3.value == pytest.approx(truth, rel=0.01)
    assert found.surface_mm2.value == pytest.approx(surface, rel=0.02)
    for got, wanted in zip(found.diameters_mm, (24, 16, 12), strict=True):
        assert got.value == pytest.approx(wanted, abs=2 * got.sd)
    for axis, wanted in zip(found.axes, T[:3, [2, 1, 0]].T, strict=True):
        assert abs(axis @ wanted) > 0.98
    np.testing.assert_allclose(np.linalg.norm(found.ends[1] - found.ends[0]), found.diameters_mm[0].value)
    assert found.open_share == 0


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)])
def test_the_sphere_is_within_its_uncertainty_which_falls_with_the_spacing(spacing):
    found = measure_volume(body_volume(ellipsoid(6, 6, 6), spacing, np.eye(4), 8))
    truth = {"volume_mm3": 4 / 3 * np.pi * 216, "mesh_volume_mm3": 4 / 3 * np.pi * 216, "surface_mm2": 4 * np.pi * 36}
    for name, wanted in truth.items():
        got = getattr(found, name)
        assert abs(got.value - wanted) < 2 * got.sd
        assert 0.1 * spacing[0] < got.sd / wanted < 0.35 * spacing[0]
    assert found.surface_mm2.value == pytest.approx(truth["surface_mm2"], rel=0.01)


def test_the_largest_diameter_equals_brute_force():
    rng = np.random.default_rng(3)
    spacing = (0.8, 0.4, 0.5)
    blobs = rng.uniform(-4, 4, (5, 3))
    volume = body_volume(
        lambda z, y, x: np.any([(z - a) ** 2 + (y - b) ** 2 + (x - c) ** 2 <= 9 for a, b, c in blobs], axis=0),
        spacing, np.eye(4), 9,
    )  # fmt: skip
    from edge_runtime.reconstruct import mask_surface

    points = mask_surface(volume.data > 0, volume.grid).vertices
    largest = max(np.linalg.norm(points - p, axis=1).max() for p in points)
    assert largest * 0.999 <= measure_volume(volume).diameters_mm[0].value <= largest + 1e-9


def test_a_label_and_a_level():
    volume = body_volume(ellipsoid(5, 5, 5), (0.5, 0.5, 0.5), np.eye(4), 7, value=3)
    assert measure_volume(volume, label=3).voxels == measure_volume(volume, level=3).voxels == (volume.data == 3).sum()
    with pytest.raises(ReconstructionError, match="no voxel has label 2; the volume holds up to 3"):
        measure_volume(volume, label=2)
    with pytest.raises(ReconstructionError, match="no voxel reaches 128"):
        measure_volume(volume)


def test_a_body_that_may_go_on_is_told():
    volume = body_volume(ellipsoid(5, 5, 5), (0.5, 0.5, 0.5), np.eye(4), 7)
    weight = np.ones(volume.data.shape, np.float32)
    assert measure_volume(replace(volume, weight=weight)).open_share == 0
    middle = volume.data.shape[0] // 2
    weight[middle:] = 0
    half = replace(volume, data=np.where(weight > 0, volume.data, 0).astype(np.uint8), weight=weight)
    assert 0.15 < measure_volume(half).open_share < 0.4
    cut = replace(volume, data=volume.data[middle:].copy())
    assert 0.15 < measure_volume(cut).open_share < 0.4


def test_a_single_voxel_is_measured():
    volume = Volume(data=np.full((1, 1, 1), 255, np.uint8), spacing_mm=(1, 2, 3), T_world_volume=np.eye(4))
    found = measure_volume(volume)
    assert (found.voxels, found.volume_mm3.value, found.open_share) == (1, 6, 1)
    assert np.isfinite(found.surface_mm2.sd)


@pytest.mark.parametrize("bad", [{"level": 0}, {"level": np.nan}, {"level": 256}, {"label": 0}, {"label": 256}])
def test_bad_arguments_are_refused(bad):
    volume = body_volume(ellipsoid(2, 2, 2), (0.5, 0.5, 0.5), np.eye(4), 3)
    with pytest.raises(ConfigError, match="is allowed"):
        measure_volume(volume, **bad)
