"""Fused labels against closed forms and counts written out, and masks of a bundle."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from edge_runtime.errors import ConfigError, ReconstructionError
from edge_runtime.frame import FrameGeometry
from edge_runtime.reconstruct import (
    LabelCompounder,
    Sweep,
    VolumeGrid,
    compound,
    fill_holes,
    fuse_labels,
    grid_of_sweep,
    measure_volume,
    segment,
)
from edge_runtime.reconstruct.labels import mask_classes

pytest.importorskip("numba")

GEOMETRY = FrameGeometry(row_mm=0.3, column_mm=0.25, origin="simulated", trusted=True)
RADIUS, CENTRE = 7.0, np.array([1.3, -0.4, 2.1])


def spheres(rng, n=500, shape=(80, 96)):
    """Masks of a sphere (label 2) with a core of half the radius (label 1) in planes at random through its box."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    plane = np.stack([x * GEOMETRY.column_mm, y * GEOMETRY.row_mm, 0 * x], -1)
    poses, masks = np.tile(np.eye(4), (n, 1, 1)), np.zeros((n, *shape), np.uint8)
    for k in range(n):
        q, r = np.linalg.qr(rng.normal(size=(3, 3)))
        q = q * np.sign(np.diag(r))
        poses[k, :3, :3] = q if np.linalg.det(q) > 0 else -q
        through = CENTRE + rng.uniform(-RADIUS, RADIUS, 3)
        poses[k, :3, 3] = through - poses[k, :3, :3] @ plane[40, 48]
        away = np.linalg.norm(plane @ poses[k, :3, :3].T + poses[k, :3, 3] - CENTRE, axis=-1)
        masks[k] = np.where(away < RADIUS / 2, 1, np.where(away < RADIUS, 2, 0))
    return Sweep(frames=np.zeros_like(masks), T_world_image=poses, geometry=GEOMETRY), masks


def test_spheres_from_random_planes_have_their_volume_and_surface():
    sweep, masks = spheres(np.random.default_rng(5))
    T = np.eye(4)
    T[:3, 3] = CENTRE - 9.2
    grid = VolumeGrid(shape=(46,) * 3, spacing_mm=(0.4,) * 3, T_world_volume=T)
    fused = fuse_labels(sweep, iter(masks), grid, classes=2)
    filled = fill_holes(fused.volume, "nearest")
    core, whole = measure_volume(filled, label=1), measure_volume(filled, level=1)
    assert core.volume_mm3.value == pytest.approx(4 / 3 * np.pi * (RADIUS / 2) ** 3, rel=0.02)
    assert whole.volume_mm3.value == pytest.approx(4 / 3 * np.pi * RADIUS**3, rel=0.02)
    assert whole.surface_mm2.value == pytest.approx(4 * np.pi * RADIUS**2, rel=0.05)
    inside = np.linalg.norm(grid.to_world(np.argwhere(fused.volume.data == 2)) - CENTRE, axis=1)
    assert inside.max() < RADIUS + 0.4


def test_votes_equal_counts_written_out(noise_sweep):
    rng = np.random.default_rng(2)
    masks = rng.integers(0, 4, (12, 40, 48), np.uint8)
    grid = grid_of_sweep(noise_sweep, 0.9)
    target, truth = LabelCompounder(grid, 3), np.zeros((*grid.shape, 4), int)
    g = noise_sweep.geometry
    area = np.ones((40, 48), bool) if g.scan_area is None else g.scan_area.mask((40, 48))
    y, x = np.nonzero(area)
    mm = np.stack([x * g.column_mm + g.shear * y * g.row_mm, y * g.row_mm, 0 * x, 1 + 0 * x], -1)
    for k in rng.permutation(12):
        assert target.insert(masks[k], noise_sweep.T_world_image[k], g) == len(y)
        at = np.floor(grid.to_index((mm @ noise_sweep.T_world_image[k].T)[:, :3]) + 0.5).astype(int)
        np.add.at(truth, (*at.T, masks[k][y, x]), 1)
    np.testing.assert_array_equal(target.votes(), truth)
    fused = target.fused()
    seen = truth.sum(-1) > 0
    np.testing.assert_array_equal(fused.volume.data, truth.argmax(-1))  # the lowest of equals
    np.testing.assert_array_equal(fused.volume.weight, truth.sum(-1))
    np.testing.assert_allclose(fused.confidence[seen], (truth.max(-1) / np.maximum(truth.sum(-1), 1))[seen], rtol=1e-6)
    assert not fused.confidence[~seen].any()
    assert (fuse_labels(noise_sweep, masks, grid, classes=3).volume.data == fused.volume.data).all()
    moved = noise_sweep.T_world_image[4] @ noise_sweep.T_world_image[2]
    target.move(masks[4], noise_sweep.T_world_image[4], moved, g)
    target.move(masks[4], moved, noise_sweep.T_world_image[4], g)
    np.testing.assert_array_equal(target.votes(), truth)
    for k in range(12):
        target.remove(masks[k], noise_sweep.T_world_image[k], g)
    assert not target.votes().any()


def test_maps_of_probability_are_compounded_as_images():
    """Two frames at one place: the mean of their maps."""
    sweep, _ = spheres(np.random.default_rng(1), n=1)
    twice = Sweep(frames=np.zeros((2, 80, 96), np.uint8), T_world_image=sweep.T_world_image[[0, 0]], geometry=GEOMETRY)
    maps = np.stack([np.full((80, 96), 51, np.uint8), np.full((80, 96), 204, np.uint8)])  # 0.2 and 0.8
    volume = compound(replace(twice, frames=maps), 0.5)
    assert set(np.unique(volume.data[volume.swept])) == {128}  # 0.5 of 255, half up


def test_bad_masks_are_refused(noise_sweep):
    grid = grid_of_sweep(noise_sweep, 1.0)
    masks = np.ones((12, 40, 48), np.uint8)
    with pytest.raises(ConfigError, match="11 masks for 12 frames"):
        fuse_labels(noise_sweep, masks[:11], grid, classes=1)
    with pytest.raises(ConfigError, match="more masks than the 12"):
        fuse_labels(noise_sweep, [*masks, masks[0]], grid, classes=1)
    with pytest.raises(ConfigError, match="source pixels"):
        fuse_labels(noise_sweep, masks[:, ::2], grid, classes=1)
    with pytest.raises(ConfigError, match="holds label 9; 0 to 1"):
        fuse_labels(noise_sweep, masks * 9, grid, classes=1)
    with pytest.raises(ConfigError, match="classes 0"):
        LabelCompounder(grid, 0)
    with pytest.raises(ReconstructionError, match="the cap is 100"):
        LabelCompounder(grid, 1, max_voxels=100)
    far = np.eye(4)
    far[:3, 3] = 1e4
    with pytest.raises(ReconstructionError, match="none of the 12 masks meets"):
        fuse_labels(
            noise_sweep, masks, VolumeGrid(shape=(3,) * 3, spacing_mm=(1.0,) * 3, T_world_volume=far), classes=1
        )
    target = LabelCompounder(grid, 1)
    target.remove(masks[0], noise_sweep.T_world_image[0], noise_sweep.geometry)
    with pytest.raises(ReconstructionError, match="not in the volume"):
        target.fused()


def test_a_bundle_segments_each_frame():
    for package in ("onnxruntime", "cv2", "cryptography"):
        pytest.importorskip(package)
    from edge_runtime.loading import load

    images = np.zeros((3, 32, 32), np.uint8)
    images[1, 8:24, 8:24] = images[2] = 255
    sweep = Sweep(frames=images, T_world_image=np.tile(np.eye(4), (3, 1, 1)), geometry=GEOMETRY)
    model = load(Path(__file__).parents[2] / "data" / "v1.edge", variant="fp32")
    chances = []
    masks = segment(model, sweep, seen=lambda k, chance: chances.append((k, float(chance.mean()))))
    areas = [int(mask.sum()) for mask in masks]
    assert [k for k, _ in chances] == [0, 1, 2]
    assert 0 <= chances[0][1] < chances[1][1] < chances[2][1] <= 1
    assert len(areas) == 3
    assert areas[0] < areas[1] < areas[2]


def test_the_background_of_a_bundle_is_no_label():
    def model(*outputs):
        made = [SimpleNamespace(kind=kind, classes=classes) for kind, classes in outputs]
        return SimpleNamespace(manifest=SimpleNamespace(name="m", outputs=made))

    assert mask_classes(model(("class_logits", ("x", "y")), ("mask_logits", ("liver",)))) == ("liver",)
    assert mask_classes(model(("mask_logits", ("background", "liver", "vessel")))) == ("liver", "vessel")
    with pytest.raises(ConfigError, match="bundle m makes boxes; labels"):
        mask_classes(model(("boxes", ("liver",))))
