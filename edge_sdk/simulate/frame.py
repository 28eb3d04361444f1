"""One B-mode frame with its mask, geometry and truth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_runtime.frame import FrameGeometry
from edge_sdk.simulate._checks import generator, require_shape
from edge_sdk.simulate._display import compress, scan_convert
from edge_sdk.simulate._echo import Setup, detect, prepare
from edge_sdk.simulate.motion import Deformation
from edge_sdk.simulate.probe import ProbeModel
from edge_sdk.simulate.scene import Scene
from edge_sdk.simulate.truth import InclusionTruth, inclusion_truth

__all__ = ["BeamData", "SimulatedFrame", "render", "simulate_envelope", "simulate_frame"]

FloatArray = npt.NDArray[np.float32]


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


def render(
    setup: Setup,
    rng: np.random.Generator,
    shape: tuple[int, int],
    moved: Deformation | None = None,
    index: int = 0,
    time_ns: int = 0,
) -> SimulatedFrame:
    """The frame of `setup`, its tissue where `moved` says, or at rest."""
    scene, grid = setup.scene, setup.grid
    geometry = grid.probe.geometry(shape)
    x, z = grid.probe.pixel_places(shape)
    area = grid.probe.inside(x, z) if geometry.scan_area is None else geometry.scan_area.mask(shape)
    grey = compress(detect(setup, rng, moved), grid, grid.probe.pixel_mm(shape))
    image = scan_convert(grey, grid, x, z, area)
    mask = scene.anechoic_at(*((x, z) if moved is None else moved.backward(x, z))) & area
    truth = tuple(inclusion_truth(scene, grid.probe, i, moved) for i in range(len(scene.inclusions)))
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
    return render(prepare(scene, probe, rng), rng, shape)


def simulate_envelope(scene: Scene, probe: ProbeModel, seed: int | np.random.Generator) -> BeamData:
    """The detected envelope behind `simulate_frame` with the same arguments, before the logarithm."""
    rng = generator(seed)
    setup = prepare(scene, probe, rng)
    envelope, grid = detect(setup, rng), setup.grid
    rows, columns = grid.inner
    return BeamData(envelope=envelope[rows, columns], depth_mm=grid.depth[rows], lateral=grid.lateral[columns])
