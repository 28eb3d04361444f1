"""Each recorded sweep written and read again, and what a volume asks of its pixels."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.errors import SourceFormatError
from edge_runtime.reconstruct import sweep_of_sequence
from edge_runtime.sources.tracked import ORIENTATIONS, TrackedSequence, read_sequence, write_sequence

FILES = (
    "plus_bone/BoneUltrasound_L14",
    "plus_calibration/fCal_Test_Calibration_3NWires_fCal2.0",
    "plus_calibration/fCal_Test_Validation_3NWires_fCal2.0",
    "plus_nwire/NwirePhantomFreehand",
    "plus_spine/SpinePhantomFreehand",
    "plus_temporal/WaterTankBottomTranslationTrackerBuffer-trimmed",
    "plus_temporal/WaterTankBottomTranslationVideoBuffer",
    "plus_trus/USTC_FrameGrabber_ProbeRotationData",
    "plus_trus/USTC_FrameGrabber_ProbeTranslationData",
    "ultranerf_liver/l2",
    "ultranerf_liver/r2",
)


def assert_same(a, b):
    assert (a.frames is None) == (b.frames is None)
    if a.frames is not None:
        assert np.array_equal(a.frames, b.frames)
    assert a.orientation == b.orientation
    assert (a.times_ns is None) == (b.times_ns is None)
    assert a.times_ns is None or np.array_equal(a.times_ns, b.times_ns)
    assert dict(a.statuses) == dict(b.statuses)
    assert a.image_statuses == b.image_statuses
    assert dict(a.fields) == dict(b.fields)
    assert dict(a.frame_fields) == dict(b.frame_fields)
    assert a.transforms.keys() == b.transforms.keys()
    assert all(np.array_equal(T, b.transforms[name], equal_nan=True) for name, T in a.transforms.items())


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(("suffix", "list_axis"), [(".igs.mha", "last"), (".seq.nrrd", "last"), (".seq.nrrd", "first")])
def test_a_recorded_sweep_is_written_and_read_again(tmp_path, name, suffix, list_axis):
    data = os.environ.get("POCUS_DATA")
    if not data or not Path(data, "sweeps").is_dir():
        pytest.skip("POCUS_DATA does not name the folder of real data")
    sequence = read_sequence(Path(data, "sweeps", f"{name}.igs.mha"))
    if sequence.frames is None and suffix != ".igs.mha":
        pytest.skip("NRRD cannot be without pixels")
    write_sequence(tmp_path / f"s{suffix}", sequence, compress=False, list_axis=list_axis)
    assert_same(sequence, read_sequence(tmp_path / f"s{suffix}"))


def recording(frames, orientation="MF"):
    T = np.tile(np.eye(4), (len(frames), 1, 1))
    T[:, 2, 3] = np.arange(len(frames))
    return TrackedSequence(frames=frames, orientation=orientation, transforms={"ImageToReference": T})


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_every_orientation_gives_the_same_sweep(tmp_path, orientation):
    frames = np.random.default_rng(0).integers(0, 255, (3, 5, 7), np.uint8)
    expected = sweep_of_sequence(recording(frames)).sweep
    turned = recording(frames).oriented(orientation)
    for name in ("s.igs.mha", "s.seq.nrrd"):
        write_sequence(tmp_path / name, turned)
        sweep = sweep_of_sequence(read_sequence(tmp_path / name)).sweep
        assert np.array_equal(sweep.frames, expected.frames)
        assert np.array_equal(sweep.T_world_image, expected.T_world_image)


def test_more_than_eight_bits_are_refused_with_the_next_step(tmp_path):
    write_sequence(tmp_path / "s.igs.mha", recording(np.zeros((2, 4, 4), np.uint8)), compress=False)
    write_sequence(tmp_path / "s.seq.nrrd", recording(np.zeros((2, 4, 4), np.uint8)), compress=False)
    for name, old, new in (
        ("s.igs.mha", b"MET_UCHAR", b"MET_USHORT"),
        ("s.igs.mha", b"MET_USHORT", b"MET_SHORT"),
        ("s.seq.nrrd", b"type: uint8", b"type: uint16"),
        ("s.seq.nrrd", b"type: uint16", b"type: float"),
    ):
        raw = (tmp_path / name).read_bytes()
        assert old in raw
        (tmp_path / name).write_bytes(raw.replace(old, new, 1))
        with pytest.raises(SourceFormatError, match=r"is read|are read.*8 bits first"):
            read_sequence(tmp_path / name)


def test_a_recording_that_does_not_say_how_it_lies_is_not_guessed():
    with pytest.raises(SourceFormatError, match="does not say how its images lie"):
        sweep_of_sequence(replace(recording(np.zeros((2, 4, 4), np.uint8)), orientation="XX"))
