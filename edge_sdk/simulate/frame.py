"""One B-mode frame: echoes on the beam grid, envelope, log compression, scan conversion, truth."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from edge_runtime.frame import FrameGeometry
from edge_sdk.simulate._checks import generator, require_shape
from edge_sdk.simulate._grid import BeamGrid, beam_grid
from edge_sdk.simulate._tissue import Points, coarse_places, scatterers, splat, transmission
from edge_sdk.simulate.probe import ProbeModel
from edge_sdk.simulate.scene import Scene
from edge_sdk.simulate.truth import InclusionTruth, inclusion_truth

__all__ = ["BeamData", "SimulatedFrame", "simulate_envelope", "simulate_frame"]

FloatArray = npt.NDArray[np.float32]
ComplexArray = npt.NDArray[np.complex64]
Places = Callable[[FloatArray, FloatArray], tuple[FloatArray, FloatArray]]

_SOUND_MM_PER_US = 1.54


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SimulatedFrame:
    """`image` (H, W) uint8 (0 outside the scan area), `mask` (H, W) uint8 (1 where a pixel's centre is anechoic).

    `geometry` is trusted, with the scan area; `truth` has one entry per inclusion of the scene, in its order;
    `time_ns` counts from the start of a cine.
    """

    image: npt.NDArray[np.uint8]
    mask: npt.NDArray[np.uint8]
    geometry: FrameGeometry
    truth: tuple[InclusionTruth, ...]
    index: int = 0
    time_ns: int = 0

    @property
    def anechoic_area_mm2(self) -> float:
        """Exact area of all anechoic regions within the scan area, mm^2."""
        return sum(t.area_mm2 for t in self.truth if t.kind == "anechoic")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BeamData:
    """Detected `envelope` (rows, beams) float32, linear, homogeneous tissue having mean square 1 before attenuation.

    `depth_mm` (rows,) along the beam; `lateral` (beams,) in mm (linear) or rad (sector).
    """

    envelope: FloatArray
    depth_mm: FloatArray
    lateral: FloatArray


def _complex_noise(rng: np.random.Generator, shape: tuple[int, ...]) -> ComplexArray:
    """Circular complex Gaussian noise of unit power."""
    pairs = rng.standard_normal((*shape, 2), dtype=np.float32)
    pairs *= np.float32(math.sqrt(0.5))
    return pairs.view(np.complex64)[..., 0]


def _clutter(grid: BeamGrid, rng: np.random.Generator) -> ComplexArray:
    """Reverberation at the face: mostly the same in all beams, fading with depth."""
    imaging = grid.probe.imaging
    fade = np.exp(-np.maximum(grid.depth, 0) / np.float32(imaging.clutter_depth_mm))
    level = (fade * np.float32(10 ** (imaging.clutter_db / 20) * grid.noise_scale))[:, None]
    noise = _complex_noise(rng, (grid.shape[0], 1)) + np.complex64(0.3) * _complex_noise(rng, grid.shape)
    return (level * noise).astype(np.complex64)


def _tgc_db(scene: Scene, probe: ProbeModel, depth: FloatArray) -> FloatArray:
    """Gain in dB by depth: what undoes the scene's mean attenuation, plus the errors of the sliders."""
    imaging = probe.imaging
    inside = np.clip(depth, 0, probe.depth_mm)
    gain = np.float32(imaging.tgc_fraction * 2 * probe.frequency_mhz * scene.attenuation / 10) * inside
    if imaging.tgc_error_db:
        sliders = np.linspace(0, probe.depth_mm, len(imaging.tgc_error_db))
        gain = gain + np.interp(inside, sliders, imaging.tgc_error_db)
    return gain.astype(np.float32)


def detect(
    scene: Scene,
    points: Points,
    grid: BeamGrid,
    rng: np.random.Generator,
    forward: Places | None = None,
    backward: Places | None = None,
) -> FloatArray:
    """Envelope (rows, columns) of the whole grid; moved tissue turns the phase of its echoes by 4 pi f dr / c."""
    x, z, amplitude = points.x, points.z, points.amplitude
    if forward is not None:
        rest = grid.probe.to_beam(x, z)[1][: points.diffuse]
        x, z = forward(x, z)
        moved = grid.probe.to_beam(x, z)[1][: points.diffuse] - rest
        turn = np.exp(np.complex64(-4j * math.pi * grid.probe.frequency_mhz / _SOUND_MM_PER_US) * moved)
        amplitude = np.concatenate([amplitude[: points.diffuse] * turn, amplitude[points.diffuse :]])
    lateral, depth = grid.probe.to_beam(x, z)
    field = splat(lateral, depth, amplitude, grid)
    places = coarse_places(grid)
    field *= transmission(scene, grid, *(places if backward is None else backward(*places)))
    field = grid.filter_lateral(field)
    field += _clutter(grid, rng)
    noise = np.float32(10 ** (grid.probe.imaging.noise_db / 20) * grid.noise_scale)
    field += noise * _complex_noise(rng, grid.shape)
    gain = np.exp(_tgc_db(scene, grid.probe, grid.depth) * np.float32(math.log(10) / 20))
    envelope: FloatArray = np.abs(grid.filter_axial(field)) * gain[:, None]
    return envelope


def compress(envelope: FloatArray, grid: BeamGrid, pixel_mm: float) -> FloatArray:
    """Grey levels 0 to 255 (rows, columns) float32 of an envelope, filtered for pixels of `pixel_mm`."""
    imaging, probe = grid.probe.imaging, grid.probe
    db = np.log10(np.maximum(envelope, 1e-6)) * np.float32(20)
    across = 1.0 if probe.kind == "linear" else probe.apex_radius_mm + 0.5 * probe.depth_mm
    sigmas = [
        math.hypot(imaging.smoothing_mm / step, 0.4 * max(pixel_mm / step - 1, 0))
        for step in (grid.d_lateral * across, grid.d_depth)
    ]
    if max(sigmas) > 0.2:
        blurred = cv2.GaussianBlur(db, (0, 0), sigmaX=max(sigmas[0], 0.05), sigmaY=max(sigmas[1], 0.05))
        db = np.asarray(blurred, np.float32)
    top = imaging.headroom_db - imaging.gain_db
    level = np.clip((db - np.float32(top)) / np.float32(imaging.dynamic_range_db) + 1, 0, 1)
    if imaging.gamma != 1:
        level **= np.float32(imaging.gamma)
    grey: FloatArray = level * np.float32(255)
    return grey


def scan_convert(
    grey: FloatArray, grid: BeamGrid, x: FloatArray, z: FloatArray, area: npt.NDArray[np.bool_]
) -> npt.NDArray[np.uint8]:
    """Grey levels of the grid at pixel centres (x, z) mm by bilinear interpolation, 0 outside `area`."""
    lateral, depth = grid.probe.to_beam(x, z)
    column = (lateral - np.float32(grid.lateral0)) * np.float32(1 / grid.d_lateral)
    row = (depth - np.float32(grid.depth0)) * np.float32(1 / grid.d_depth)
    image = cv2.remap(grey, column, row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    rounded: npt.NDArray[np.uint8] = np.where(area, np.rint(image), 0).astype(np.uint8)
    return rounded


def render(
    scene: Scene,
    points: Points,
    grid: BeamGrid,
    rng: np.random.Generator,
    shape: tuple[int, int],
    forward: Places | None = None,
    backward: Places | None = None,
    index: int = 0,
    time_ns: int = 0,
) -> SimulatedFrame:
    """The frame of `points`, moved by `forward` (its inverse is `backward`), or at rest."""
    probe = grid.probe
    geometry = probe.geometry(shape)
    assert geometry.scan_area is not None
    area = geometry.scan_area.mask(shape)
    x, z = probe.pixel_places(shape)
    grey = compress(detect(scene, points, grid, rng, forward, backward), grid, probe.pixel_mm(shape))
    image = scan_convert(grey, grid, x, z, area)
    mask = scene.anechoic_at(*((x, z) if backward is None else backward(x, z))) & area
    truth = tuple(inclusion_truth(scene, probe, i, forward, backward) for i in range(len(scene.inclusions)))
    return SimulatedFrame(
        image=image, mask=mask.astype(np.uint8), geometry=geometry, truth=truth, index=index, time_ns=time_ns
    )


def simulate_frame(
    scene: Scene, probe: ProbeModel, seed: int | np.random.Generator, shape: tuple[int, int] = (256, 256)
) -> SimulatedFrame:
    """A B-mode frame of `scene` with image, mask, geometry and truth; the same seed gives the same bits.

    Point scatterers of complex Gaussian strength at random places are convolved in baseband with the probe's
    depth-dependent PSF, so that the envelope of homogeneous tissue is fully developed speckle (Burckhardt, IEEE
    Trans. Sonics Ultrason. 25, 1978; Wagner et al., ibid. 30, 1983). Loss along each beam, noise, TGC, logarithm and
    scan conversion follow. Raises `ConfigError` for a bad shape or seed.
    """
    require_shape(shape)
    rng = generator(seed)
    grid = beam_grid(probe)
    return render(scene, scatterers(scene, grid, rng), grid, rng, shape)


def simulate_envelope(scene: Scene, probe: ProbeModel, seed: int | np.random.Generator) -> BeamData:
    """The detected envelope behind `simulate_frame` with the same arguments, before the logarithm."""
    rng = generator(seed)
    grid = beam_grid(probe)
    envelope = detect(scene, scatterers(scene, grid, rng), grid, rng)
    rows, columns = grid.inner
    return BeamData(envelope=envelope[rows, columns], depth_mm=grid.depth[rows], lateral=grid.lateral[columns])
