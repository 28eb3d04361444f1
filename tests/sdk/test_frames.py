"""Frames and masks on their way to network size, and the record of what was trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge_runtime.errors import ConfigError
from edge_runtime.frame import Frame, FrameGeometry, Rectangle, Sector
from edge_runtime.preprocess import (
    CropToScanArea,
    Letterbox,
    Normalize,
    Preprocessor,
    PreprocessSpec,
    Resize,
    Stack,
    ToGray,
)
from edge_sdk.frame_store import load_labelled, save_labelled
from edge_sdk.frames import (
    LabelledFrames,
    UnlabelledFrames,
    frames_of,
    grey_scale,
    network_inputs,
    network_masks,
)

SPEC = PreprocessSpec(
    steps=(CropToScanArea(), ToGray(), Letterbox(height=32, width=32, fill=77), Normalize(mean=0.2, std=0.5))
)
AREA = FrameGeometry(scan_area=Rectangle(x0=10, y0=5, x1=50, y1=45))


def _labelled(n: int = 2, geometry: FrameGeometry = AREA) -> LabelledFrames:
    y, x = np.mgrid[:60, :80]
    mask = (((x - 30) ** 2 + (y - 25) ** 2) < 100).astype(np.uint8)
    mask[y > 30] *= 2
    images = np.where(mask == 1, np.uint8(200), np.uint8(0))
    return LabelledFrames.from_arrays(np.stack([images] * n), np.stack([mask] * n), [geometry] * n)


def test_inputs_are_the_device_s_own() -> None:
    labelled = _labelled()
    inputs = network_inputs(labelled.frames, SPEC)
    prepare = Preprocessor(SPEC)
    for k, frame in enumerate(labelled.frames):
        assert np.array_equal(inputs[k], prepare(frame).tensor[0])


def test_masks_take_the_way_of_the_frames() -> None:
    labelled = _labelled()
    masks = network_masks(labelled, SPEC, 2)
    inputs = network_inputs(labelled.frames, SPEC)[:, 0] * 0.5 + 0.2
    half = inputs > 100 / 255
    assert (half == (masks == 1)).mean() > 0.995
    assert masks.sum() > 0
    # the crop is square and fills the network image: 40 source pixels onto 32
    assert (masks == 1).sum(axis=(1, 2)) == pytest.approx([(labelled.masks[0] == 1).sum() * 0.64] * 2, rel=0.05)


def test_letterbox_borders_are_background_whatever_their_grey() -> None:
    labelled = LabelledFrames.from_arrays(np.zeros((1, 20, 40), np.uint8), np.ones((1, 20, 40), np.uint8))
    masks = network_masks(labelled, PreprocessSpec(steps=(Letterbox(height=32, width=32, fill=255), Normalize())), 1)
    assert masks[0, 8:24].all()
    assert not masks[0, :8].any()
    assert not masks[0, 24:].any()


def test_a_stack_of_frames_has_one_mask() -> None:
    spec = PreprocessSpec(steps=(Resize(height=30, width=40), Normalize(), Stack(n=3)))
    labelled = _labelled(4)
    assert network_inputs(labelled.frames, spec).shape == (4, 3, 30, 40)
    assert network_masks(labelled, spec, 2).shape == (4, 30, 40)


def test_labels_outside_the_classes_are_refused_by_name() -> None:
    labelled = LabelledFrames(frames=_labelled().frames, masks=_labelled().masks, names=("a.png", "b.png"))
    with pytest.raises(ConfigError, match=r"a\.png: the mask holds label 2; 0 to 1"):
        network_masks(labelled, SPEC, 1)


def test_pairs_that_do_not_fit_are_refused() -> None:
    frames = _labelled(2).frames
    with pytest.raises(ConfigError, match="2 frames and 1 masks"):
        LabelledFrames(frames=frames, masks=[np.zeros((60, 80), np.uint8)])
    with pytest.raises(ConfigError, match=r"x\.png: the mask is uint8 \(60, 81\)"):
        LabelledFrames(frames=frames[:1], masks=[np.zeros((60, 81), np.uint8)], names=("x.png",))
    with pytest.raises(ConfigError, match="float64"):
        LabelledFrames(frames=frames[:1], masks=[np.zeros((60, 80))])  # type: ignore[list-item]
    with pytest.raises(ConfigError, match="0 frames"):
        LabelledFrames(frames=[], masks=[])
    with pytest.raises(ConfigError, match="no frames"):
        UnlabelledFrames(source="x.dcm", frames=[])
    with pytest.raises(ConfigError, match="geometries"):
        frames_of(np.zeros((2, 4, 4), np.uint8), [FrameGeometry()])


def test_the_record_names_source_indices_and_pixels() -> None:
    images = np.random.default_rng(0).integers(0, 255, (5, 8, 8), np.uint8)
    frames = frames_of(images)
    record = UnlabelledFrames(source="cine.dcm", frames=frames[1::2]).record
    assert (record.source, record.indices) == ("cine.dcm", (1, 3))
    assert record.sha256 == UnlabelledFrames(source="other", frames=frames[1::2]).record.sha256
    images[3, 2, 2] ^= 1
    assert record.sha256 != UnlabelledFrames(source="cine.dcm", frames=frames_of(images)[1::2]).record.sha256


def test_grey_scale_inverts_the_normalization() -> None:
    frame = Frame(image=np.arange(256, dtype=np.uint8).reshape(16, 16), index=0, arrival_ns=0)
    spec = PreprocessSpec(steps=(Resize(height=16, width=16), Normalize(scale=128.0, mean=0.3, std=0.2)))
    mean, std = grey_scale(spec)
    assert np.allclose(network_inputs([frame], spec)[0, 0] * std + mean, frame.image / 255, atol=1e-6)
    with pytest.raises(ConfigError, match="normalize"):
        grey_scale(PreprocessSpec(steps=(Resize(height=16, width=16),)))


SECTOR = Sector(apex_x=40.0, apex_y=-5.0, radius_min=5.0, radius_max=60.0, angle_min=-0.5, angle_max=0.5)


@pytest.mark.parametrize(
    "geometry",
    [
        FrameGeometry(),
        AREA,
        FrameGeometry(row_mm=0.1, column_mm=0.2, scan_area=SECTOR, origin="user", trusted=True, reason=""),
    ],
)
def test_stored_frames_are_read_back_equal(tmp_path: Path, geometry: FrameGeometry) -> None:
    labelled = _labelled(3, geometry)
    save_labelled(tmp_path / "f.npz", labelled)
    again = load_labelled(tmp_path / "f.npz")
    for a, b in zip(labelled.frames, again.frames, strict=True):
        assert np.array_equal(a.image, b.image)
        assert a.geometry == b.geometry
    assert all(np.array_equal(a, b) for a, b in zip(labelled.masks, again.masks, strict=True))


def test_frames_of_several_sizes_do_not_go_into_one_file(tmp_path: Path) -> None:
    frames = [frames_of(np.zeros((1, 4, k), np.uint8))[0] for k in (4, 5)]
    masks = [np.zeros((4, k), np.uint8) for k in (4, 5)]
    with pytest.raises(ConfigError, match="one shape"):
        save_labelled(tmp_path / "f.npz", LabelledFrames(frames=frames, masks=masks))
    assert not list(tmp_path.iterdir())
