"""Against SciPy's matrix exponential and logarithm, differences, and Monte Carlo."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edge_runtime.slam import se3

linalg = pytest.importorskip("scipy.linalg")


def hat(xi):
    out = np.zeros((4, 4))
    out[:3, :3], out[:3, 3] = se3.skew(xi[:3]), xi[3:]
    return out


def tangents(angle):
    rotation = hnp.arrays(np.float64, 3, elements=st.floats(-1, 1)).map(
        lambda v: v / max(1e-12, np.linalg.norm(v)) if np.linalg.norm(v) > 1e-6 else np.zeros(3)
    )
    length = st.one_of(st.floats(0, angle), st.sampled_from([0.0, 1e-12, 1e-7, 1e-4, 0.0499999, 0.0500001, angle]))
    shift = hnp.arrays(np.float64, 3, elements=st.floats(-50, 50))
    return st.builds(lambda r, a, t: np.concatenate([r * a, t]), rotation, length, shift)


@given(tangents(3.1))
def test_exponential_is_that_of_the_matrix(xi):
    np.testing.assert_allclose(se3.exp(xi), linalg.expm(hat(xi)), atol=1e-11)


@given(tangents(3.1))
def test_logarithm_undoes_it(xi):
    np.testing.assert_allclose(se3.log(se3.exp(xi)), xi, atol=1e-10, rtol=1e-9)


def test_half_turns_have_a_logarithm():
    for axis in ((1, 0, 0), (0, 1, 0), (0, 0, 1), (0.6, 0.8, 0), (0.48, 0.6, 0.64)):
        xi = np.concatenate([np.pi * np.array(axis), [1.0, -2.0, 3.0]])
        T = se3.exp(xi)
        np.testing.assert_allclose(se3.exp(se3.log(T)), T, atol=1e-9)


@given(tangents(3.0), tangents(3.0))
def test_adjoint_inverse_and_leading_axes(a, b):
    T = se3.exp(a)
    np.testing.assert_allclose(T @ se3.exp(b) @ se3.inverse(T), linalg.expm(hat(se3.adjoint(T) @ b)), atol=1e-8)
    both = se3.exp(np.stack([[a, b], [b, a]]))
    np.testing.assert_array_equal(both[1, 1], T)
    np.testing.assert_allclose(se3.log(both)[0, 1], se3.log(se3.exp(b)), atol=0)


@settings(deadline=None)
@given(tangents(2.8), hnp.arrays(np.float64, 6, elements=st.floats(-1, 1)))
def test_jacobians_are_derivatives(xi, d):
    h = 1e-6
    for jacobian, changed in (
        (se3.right_jacobian, lambda s: se3.log(se3.inverse(se3.exp(xi)) @ se3.exp(xi + s * d))),
        (se3.left_jacobian, lambda s: se3.log(se3.exp(xi + s * d) @ se3.inverse(se3.exp(xi)))),
    ):
        slope = (changed(h) - changed(-h)) / (2 * h)
        np.testing.assert_allclose(jacobian(xi) @ d, slope, atol=2e-6, rtol=1e-6)
    np.testing.assert_allclose(se3.right_jacobian_inverse(xi) @ se3.right_jacobian(xi), np.eye(6), atol=1e-8)


def test_covariances_are_carried_as_samples_are():
    rng = np.random.default_rng(4)
    xa, xb = np.array([0.3, -0.2, 0.5, 3.0, -2.0, 1.0]), np.array([-0.1, 0.4, 0.2, -5.0, 1.0, 2.0])
    Ta, Tb = se3.exp(xa), se3.exp(xb)
    factors = [1e-2 * rng.normal(size=(6, 6)) for _ in range(2)]
    Ca, Cb = (f @ f.T for f in factors)
    errors = [rng.normal(size=(40_000, 6)) @ f.T for f in factors]
    product = Ta @ se3.exp(errors[0]) @ Tb @ se3.exp(errors[1])
    seen = np.cov(se3.log(se3.inverse(Ta @ Tb) @ product).T)
    wanted = se3.compose_covariance(Ca, Tb, Cb)
    np.testing.assert_allclose(seen, wanted, atol=0.03 * np.abs(wanted).max())
    seen = np.cov(se3.log(Ta @ se3.inverse(Ta @ se3.exp(errors[0]))).T)
    wanted = se3.inverse_covariance(Ta, Ca)
    np.testing.assert_allclose(seen, wanted, atol=0.03 * np.abs(wanted).max())
