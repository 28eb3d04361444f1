"""`temporal_calibration` and `spatial_calibration` on real recordings."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.compounding.cases import sweeps
from benchmarks.figures import Figure, judged
from edge_runtime.calibration import (
    NWire,
    calibrate_image,
    calibrate_offset,
    image_motion,
    pose_motion,
    reprojection_error,
)
from edge_runtime.sources.tracked import read_sequence

__all__ = ["measure_spatial_calibration", "measure_temporal_calibration"]

CONFIDENCE = 0.95  # the reference states its mean without the worst 5 %
F64 = npt.NDArray[np.float64]

INJECTED_MS = (-200, -150, -100, -50, -10, 0, 10, 50, 100, 150, 200)


def measure_temporal_calibration() -> list[Figure]:
    """Offsets injected into the image times of the water tank recording, and its two halves."""
    folder = sweeps() / "plus_temporal"
    video = read_sequence(folder / "WaterTankBottomTranslationVideoBuffer.igs.mha")
    tracker = read_sequence(folder / "WaterTankBottomTranslationTrackerBuffer-trimmed.igs.mha")
    assert video.frames is not None
    assert video.times_ns is not None
    assert tracker.times_ns is not None
    good = tracker.usable("ProbeToTracker")
    image, pose = image_motion(video.frames), pose_motion(tracker.transforms["ProbeToTracker"][good])
    pose_times = tracker.times_ns[good]

    def offset(part: slice, injected_ms: int = 0) -> float:
        assert video.times_ns is not None
        found = calibrate_offset(video.times_ns[part] + injected_ms * 1_000_000, image[part], pose_times, pose)
        return found.offset_ns / 1e6 - injected_ms

    whole = calibrate_offset(video.times_ns, image, pose_times, pose)
    found = [offset(slice(None), ms) for ms in INJECTED_MS]
    half = len(image) // 2
    first, second = offset(slice(half)), offset(slice(half, None))
    return [
        judged(
            name="offsets of -200 to 200 ms injected, recovered within",
            value=np.ptp(found),
            goal="<= 5 ms of each other",
            unit="ms",
            n=len(found),
            spread=f"offset {np.mean(found):.2f} ms, correlation {whole.correlation:.4f}, residual "
            f"{whole.residuals.rms:.1f} rows of a motion of {np.ptp(image):.0f}, {whole.residuals.n} images",
        ),
        judged(
            name="the two halves of the recording differ by",
            value=abs(first - second),
            goal="<= 10 ms",
            unit="ms",
            n=2,
            spread=f"{first:.2f} and {second:.2f} ms",
        ),
    ]


def _matrix(text: str) -> F64:
    return np.array(text.split(), float).reshape(4, 4)


def _phantom(path: Path) -> tuple[list[list[str]], list[NWire], F64]:
    """Names of the wires of each pattern, the patterns, and the phantom's place in the reference frame."""
    root = ElementTree.parse(path).getroot()
    names, wires = [], []
    for pattern in root.iter("Pattern"):
        found = list(pattern.iter("Wire"))
        names.append([wire.attrib["Name"] for wire in found])
        left, middle, right = (
            np.array([wire.attrib[f"EndPoint{end}"].split() for end in ("Front", "Back")], float) for wire in found
        )
        wires.append(NWire(left=left, middle=middle, right=right))
    place = root.find(".//Transform[@From='Phantom'][@To='Reference']")
    assert place is not None
    return names, wires, _matrix(place.attrib["Matrix"])


def _segmented(root: ElementTree.Element, tag: str, names: list[list[str]], place: F64) -> tuple[F64, F64]:
    """Points (F, P, 3, 2) that the reference segmented, and T_phantom_probe (F, 4, 4), of its images."""
    pixels, poses = [], []
    for frame in root.findall(f".//{tag}/Frame[@SegmentationStatus='OK']"):
        points = {
            p.attrib["WireName"]: [float(n) for n in p.attrib["Position"].split()[:2]]
            for p in frame.findall("SegmentedPoints/Point")
        }
        fields = {f.attrib["Name"]: f.attrib["Value"] for f in frame.iter("CustomFrameField")}
        tracker_reference, tracker_probe = (_matrix(fields[f"{n}ToTrackerTransform"]) for n in ("Reference", "Probe"))
        pixels.append([[points[name] for name in pattern] for pattern in names])
        poses.append(np.linalg.inv(place) @ np.linalg.inv(tracker_reference) @ tracker_probe)
    T = np.stack(poses)
    u, _, vt = np.linalg.svd(T[:, :3, :3])  # six digits in the file: orthonormal to 1e-6 only
    T[:, :3, :3] = u @ vt
    return np.array(pixels), T


def _trimmed(error: F64) -> float:
    ordered = np.sort(error[np.isfinite(error)])
    return float(ordered[: int(np.ceil(CONFIDENCE * len(ordered)))].mean())


def measure_spatial_calibration() -> list[Figure]:
    """Calibration on 184 images, validation on 103 others, from the wire points that come with the recordings."""
    folder = sweeps() / "plus_calibration"
    names, wires, place = _phantom(folder / "PlusDeviceSet_fCal_Sim_SpatialCalibration_2.0.xml")
    root = ElementTree.parse(folder / "FreehandCalibration3NWires_fCal2.0.results.xml").getroot()
    pixels, poses = _segmented(root, "CalibrationData", names, place)
    found = calibrate_image(pixels, poses, wires)
    kept, kept_poses = _segmented(root, "ValidationData", names, place)
    error = reprojection_error(found.T_probe_image, kept, kept_poses, wires)
    theirs = root.find(".//CalibrationResults/Transform")
    assert theirs is not None
    peer = reprojection_error(_matrix(theirs.attrib["Matrix"]), kept, kept_poses, wires)
    residuals = found.residuals
    made = (
        f"calibration: mean {residuals.mean:.3f} mm, n {residuals.n}, rejected {residuals.rejected}, "
        f"condition {residuals.condition:.1f}"
    )
    return [
        judged(
            name="validation error, mean without the worst 5 % as the reference states it",
            value=_trimmed(error),
            goal="<= 0.540 mm",
            unit="mm",
            n=error.size,
            spread=f"the reference's own matrix {_trimmed(peer):.3f} mm; {made}",
        ),
        Figure(
            name="validation error, mean of all points",
            value=float(error.mean()),
            goal="stated, no goal",
            unit="mm",
            n=error.size,
            met=None,
            spread=f"the reference's own matrix {peer.mean():.3f} mm; sd {error.std():.3f}, worst {error.max():.3f}",
        ),
    ]
