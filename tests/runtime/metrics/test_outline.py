"""Lengths, areas and their uncertainty against discs and ellipses in closed form, and drawn at random."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.errors import ConfigError
from edge_runtime.metrics.ellipse import Ellipse
from edge_runtime.metrics.outline import Uncertain, distance_mm, outline

pytest.importorskip("cv2")
Floats = npt.NDArray[np.float64]
SPACING = (0.2, 0.3)


def ellipse_map(
    a: float, b: float, *, sigma: float, spacing: tuple[float, float] = SPACING, angle: float = 0.0, margin: float = 4.0
) -> Floats:
    """P(inside) of an ellipse in the middle, semi-axes and width of the boundary in mm; discs are exact."""
    special = pytest.importorskip("scipy.special")
    reach = max(a, b) + margin
    rows, columns = (2 * math.ceil(reach / s) + 1 for s in spacing)
    y, x = np.mgrid[:rows, :columns]
    x, y = (x - columns // 2) * spacing[1], (y - rows // 2) * spacing[0]
    u, v = math.cos(angle) * x + math.sin(angle) * y, math.cos(angle) * y - math.sin(angle) * x
    radius = np.hypot(u / a, v / b)
    # distance to first order: (r - 1) / |grad r|; exact for a disc
    gradient = np.hypot(u / a**2, v / b**2) / np.maximum(radius, 1e-9)
    inside = special.ndtr((1 - radius) / np.maximum(gradient, 1e-9) / sigma)
    return np.asarray(inside, np.float64)


@settings(max_examples=25, deadline=None)
@given(st.floats(4, 12), st.floats(0.4, 1.0))
def test_a_disc(radius: float, sigma: float) -> None:
    found = outline(ellipse_map(radius, radius, sigma=sigma), SPACING)
    assert found is not None
    assert not found.cut
    assert found.area(0).value == pytest.approx(math.pi * radius**2, rel=0.01)
    assert found.perimeter(0).value == pytest.approx(2 * math.pi * radius, rel=0.005)
    assert found.diameter(0).value == pytest.approx(2 * radius, rel=0.005)
    assert found.mean_sigma == pytest.approx(sigma, rel=0.08)
    assert found.area(0).sigma == pytest.approx(2 * math.pi * radius * sigma, rel=0.08)
    assert found.perimeter(0).sigma == pytest.approx(2 * math.pi * sigma, rel=0.08)
    assert found.diameter(0).sigma == pytest.approx(2 * sigma, rel=0.08)


@pytest.mark.parametrize("angle", [0.0, 0.5, 1.2])
def test_an_ellipse(angle: float) -> None:
    found = outline(ellipse_map(10, 6, sigma=0.4, angle=angle), SPACING)
    assert found is not None
    fitted = found.ellipse()
    assert fitted is not None
    assert (fitted.a, fitted.b) == pytest.approx((10, 6), rel=0.005)
    true = Ellipse(x=0, y=0, a=10, b=6, angle=0)
    assert found.circumference(fitted, 0).value == pytest.approx(true.circumference, rel=0.004)
    assert found.perimeter(0).value == pytest.approx(true.circumference, rel=0.005)
    assert found.area(0).value == pytest.approx(true.area, rel=0.01)
    assert found.diameter(0).value == pytest.approx(20, rel=0.005)
    assert found.axis(fitted.b, 0.01).sigma == pytest.approx(math.hypot(0.12, 2 * found.mean_sigma), rel=1e-3)


def test_the_uncertainty_is_that_of_drawn_pixel_sizes_and_boundaries() -> None:
    """Monte Carlo (JCGM 101): the truth drawn from what is stated has the standard deviations that are propagated."""
    rng, rel, sigma, (a, b) = np.random.default_rng(5), 0.03, 0.5, (9.0, 6.0)
    found = outline(ellipse_map(a, b, sigma=sigma), SPACING)
    assert found is not None
    fitted = found.ellipse()
    assert fitted is not None
    scale, shift = 1 + rel * rng.standard_normal(40_000), sigma * rng.standard_normal(40_000)
    around = Ellipse(x=0, y=0, a=a, b=b, angle=0).circumference
    # a parallel curve at distance d: area A + P d + pi d^2, perimeter P + 2 pi d (Steiner)
    area = scale**2 * (math.pi * a * b + around * shift + math.pi * shift**2)
    for stated, drawn in (
        (found.area(rel), area),
        (found.perimeter(rel), scale * (around + 2 * math.pi * shift)),
        (found.diameter(rel), scale * 2 * (a + shift)),
        (found.axis(fitted.b, rel), scale * 2 * (b + shift)),
        (found.circumference(fitted, rel), scale * (around + 2 * math.pi * shift)),
    ):
        assert stated.sigma == pytest.approx(drawn.std(), rel=0.08)
        assert stated.value == pytest.approx(drawn.mean(), rel=0.02)


def test_a_boundary_that_moves_by_itself_everywhere_is_less_uncertain() -> None:
    """The stated area is the upper bound: with a correlation length of 3 mm the drawn spread is below it."""
    rng, radius, sigma, n = np.random.default_rng(6), 10.0, 0.5, 200
    turn = np.linspace(0, 2 * math.pi, n, endpoint=False)
    apart = radius * np.abs((turn[:, None] - turn + math.pi) % (2 * math.pi) - math.pi)
    draws = rng.multivariate_normal(np.zeros(n), sigma**2 * np.exp(-((apart / 3) ** 2)), 4000, method="eigh")
    drawn = ((radius + draws) ** 2 / 2).sum(axis=1) * (2 * math.pi / n)
    found = outline(ellipse_map(radius, radius, sigma=sigma), SPACING)
    assert found is not None
    assert 0.2 * found.area(0).sigma < drawn.std() < 0.6 * found.area(0).sigma


def test_the_pixel_size_scales_everything() -> None:
    plane = ellipse_map(6, 6, sigma=0.4)
    one, two = outline(plane, SPACING), outline(plane, (0.4, 0.6))
    assert one is not None
    assert two is not None
    assert two.area(0.01).value == pytest.approx(4 * one.area(0.01).value)
    assert two.area(0.01).sigma == pytest.approx(4 * one.area(0.01).sigma)
    assert two.perimeter(0.01).sigma == pytest.approx(2 * one.perimeter(0.01).sigma)
    assert one.area(0.02).sigma ** 2 - one.area(0).sigma ** 2 == pytest.approx((0.04 * one.area(0).value) ** 2)


def test_a_sheared_grid_is_straightened() -> None:
    """A disc drawn on a grid whose rows are displaced is a disc again in mm, with the same doubt at its edge."""
    special = pytest.importorskip("scipy.special")
    y, x = np.mgrid[:121, :161]
    down = (y - 60) * 0.2
    plane = special.ndtr((7 - np.hypot((x - 80) * 0.2 + 0.3 * down, down)) / 0.4)
    found = outline(plane, (0.2, 0.2), shear=0.3)
    assert found is not None
    assert found.perimeter(0).value == pytest.approx(14 * math.pi, rel=0.005)
    assert found.area(0).value == pytest.approx(49 * math.pi, rel=0.01)
    assert found.mean_sigma == pytest.approx(0.4, rel=0.1)


def test_the_peers_of_perimeter_and_area() -> None:
    measure = pytest.importorskip("skimage.measure", reason="scikit-image is the peer")
    plane = ellipse_map(10, 6, sigma=0.5, spacing=(0.25, 0.25), angle=0.7)
    (line,) = measure.find_contours(plane, 0.5)
    around = np.hypot(*np.diff(line, axis=0).T).sum() * 0.25
    x, y = line[:, 1], line[:, 0]
    inside = abs((x[:-1] * y[1:] - x[1:] * y[:-1]).sum()) / 2 * 0.25**2
    found = outline(plane, (0.25, 0.25))
    assert found is not None
    assert found.perimeter(0).value == pytest.approx(around, rel=1e-9)
    assert found.area(0).value == pytest.approx(inside, rel=1e-9)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_every_outline_is_closed_unless_it_is_cut(seed: int) -> None:
    """Saddles, holes and specks: each point is left as often as it is reached, and the area is positive."""
    rng = np.random.default_rng(seed)
    plane = rng.random((9, 11))
    plane[0] = plane[-1] = plane[:, 0] = plane[:, -1] = 0
    found = outline(plane, (1.0, 1.0), level=0.4)
    assert found is not None
    begins, ends = ({tuple(p): 0 for p in np.round(points, 9)} for points in (found.starts, found.ends))
    assert begins.keys() == ends.keys()
    (x0, y0), (x1, y1) = found.starts.T, found.ends.T
    assert (x0 * y1 - x1 * y0).sum() > 0


def test_holes_and_other_regions_do_not_count() -> None:
    plane = ellipse_map(6, 6, sigma=0.3)
    whole = outline(plane, SPACING)
    plane[plane.shape[0] // 2, plane.shape[1] // 2] = 0.0
    plane[1:3, 1:3] = 0.9
    again = outline(plane, SPACING)
    assert whole is not None
    assert again is not None
    assert again.area(0).value == pytest.approx(whole.area(0).value)


def test_nothing_and_cut_off() -> None:
    assert outline(np.zeros((9, 9)), SPACING) is None
    plane = ellipse_map(6, 6, sigma=0.3)
    found = outline(plane[: plane.shape[0] // 2 + 9], SPACING)
    assert found is not None
    assert found.cut
    fitted = found.ellipse()
    assert fitted is not None
    assert fitted.a == pytest.approx(6, rel=0.02)  # it goes on beyond the image
    everything = outline(np.ones((5, 5)), SPACING)
    assert everything is None or everything.cut


def test_a_distance_of_two_positions() -> None:
    found = distance_mm(Uncertain(value=2, sigma=0.3), Uncertain(value=12, sigma=0.4), 0.05)
    assert found.value == 10
    assert found.sigma == pytest.approx(math.sqrt(0.5**2 + 0.5**2))


@pytest.mark.parametrize(
    ("plane", "spacing"),
    [
        (np.zeros((3, 3, 3)), SPACING),
        (np.zeros((3, 3)), (0.0, 1.0)),
        (np.zeros((3, 3)), (1.0, math.nan)),
        (np.where(np.eye(5, dtype=bool), np.inf, 0.9), SPACING),
    ],
)
def test_what_cannot_be_measured(plane: Floats, spacing: tuple[float, float]) -> None:
    with pytest.raises(ConfigError):
        outline(plane, spacing)
