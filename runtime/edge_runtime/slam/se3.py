"""Rigid motions and their uncertainty: exponential, logarithm, adjoint, Jacobians, covariances carried along.

A tangent vector is xi (..., 6) = (rotation x y z in rad, translation x y z in mm); `T Exp(xi)` perturbs on the right,
as the covariance of a `Pose` does. All functions work on any leading axes, in float64. Formulas: Barfoot, State
Estimation for Robotics (2017), chapter 7; Sola, Deray and Atchuthan, A micro Lie theory (arXiv 1812.01537).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = [
    "adjoint",
    "compose_covariance",
    "exp",
    "inverse",
    "inverse_covariance",
    "left_jacobian",
    "log",
    "right_jacobian",
    "right_jacobian_inverse",
    "skew",
]

Floats = npt.NDArray[np.float64]
_SMALL = 0.05  # rad; below it the formulas cancel, and the series are exact to 1e-13


def skew(v: npt.ArrayLike) -> Floats:
    """(..., 3, 3) with `skew(v) @ w = v x w`, of (..., 3)."""
    v = np.asarray(v, np.float64)
    out = np.zeros((*v.shape, 3))
    out[..., 0, 1], out[..., 0, 2], out[..., 1, 2] = -v[..., 2], v[..., 1], -v[..., 0]
    out[..., 1, 0], out[..., 2, 0], out[..., 2, 1] = v[..., 2], -v[..., 1], v[..., 0]
    return out


def _coefficients(angle: Floats) -> tuple[Floats, Floats, Floats]:
    """sin a / a, (1 - cos a) / a^2, (a - sin a) / a^3, each (..., 1, 1)."""
    a = np.asarray(angle)[..., None, None]
    square = a * a
    small = a < _SMALL
    safe = np.where(small, 1.0, a)
    sine = np.where(small, 1 - square / 6 + square**2 / 120 - square**3 / 5040, np.sin(safe) / safe)
    half = np.where(small, 1 / 2 - square / 24 + square**2 / 720, 2 * np.sin(safe / 2) ** 2 / safe**2)
    cubic = np.where(small, 1 / 6 - square / 120 + square**2 / 5040, (safe - np.sin(safe)) / safe**3)
    return sine, half, cubic


def exp(xi: npt.ArrayLike) -> Floats:
    """The motion (..., 4, 4) of a tangent vector (..., 6)."""
    xi = np.asarray(xi, np.float64)
    W = skew(xi[..., :3])
    sine, half, cubic = _coefficients(np.linalg.norm(xi[..., :3], axis=-1))
    WW = W @ W
    T = np.zeros((*xi.shape[:-1], 4, 4))
    T[..., :3, :3] = np.eye(3) + sine * W + half * WW
    T[..., :3, 3:] = (np.eye(3) + half * W + cubic * WW) @ xi[..., 3:, None]
    T[..., 3, 3] = 1
    return T


def log(T: Floats) -> Floats:
    """The tangent vector (..., 6) of a motion (..., 4, 4); the rotation's angle is at most pi."""
    T = np.asarray(T, np.float64)
    xi = np.empty((*T.shape[:-2], 6))
    xi[..., :3] = _rotation_vector(T[..., :3, :3])
    W = skew(xi[..., :3])
    rest = _rest(np.linalg.norm(xi[..., :3], axis=-1)[..., None, None])
    xi[..., 3:] = ((np.eye(3) - 0.5 * W + rest * (W @ W)) @ T[..., :3, 3:])[..., 0]
    return xi


def _rest(angle: Floats) -> Floats:
    """1 / a^2 - (1 + cos a) / (2 a sin a), of the square in an inverse Jacobian; it holds near pi."""
    small = angle < _SMALL
    safe = np.where(small, 1.0, angle)
    series = 1 / 12 + angle**2 / 720 + angle**4 / 30240
    return np.where(small, series, (1 - safe / (2 * np.tan(safe / 2))) / safe**2)


def _rotation_vector(R: Floats) -> Floats:
    """Axis times angle (..., 3), through the unit quaternion of the largest component (Shepperd, 1978)."""
    m00, m11, m22 = R[..., 0, 0], R[..., 1, 1], R[..., 2, 2]
    four = np.stack([1 + m00 + m11 + m22, 1 + m00 - m11 - m22, 1 - m00 + m11 - m22, 1 - m00 - m11 + m22], axis=-1)
    a, b, c = R[..., 2, 1] - R[..., 1, 2], R[..., 0, 2] - R[..., 2, 0], R[..., 1, 0] - R[..., 0, 1]
    d, e, f = R[..., 1, 0] + R[..., 0, 1], R[..., 0, 2] + R[..., 2, 0], R[..., 2, 1] + R[..., 1, 2]
    rows = np.stack(
        [
            np.stack([four[..., 0], a, b, c], axis=-1),
            np.stack([a, four[..., 1], d, e], axis=-1),
            np.stack([b, d, four[..., 2], f], axis=-1),
            np.stack([c, e, f, four[..., 3]], axis=-1),
        ],
        axis=-2,
    )
    largest = np.argmax(four, axis=-1)[..., None, None]
    q = np.take_along_axis(rows, largest, axis=-2)[..., 0, :]
    q = q / np.linalg.norm(q, axis=-1, keepdims=True)
    q = np.where(q[..., :1] < 0, -q, q)
    sine = np.linalg.norm(q[..., 1:], axis=-1, keepdims=True)
    angle = 2 * np.arctan2(sine, q[..., :1])
    return np.asarray(q[..., 1:] * np.where(sine < 1e-12, 2.0, angle / np.where(sine < 1e-12, 1.0, sine)))


def inverse(T: Floats) -> Floats:
    """`T_a_b` (..., 4, 4) of `T_b_a`, by transposition."""
    out = np.zeros_like(T)
    out[..., :3, :3] = np.swapaxes(T[..., :3, :3], -1, -2)
    out[..., :3, 3:] = -out[..., :3, :3] @ T[..., :3, 3:]
    out[..., 3, 3] = 1
    return out


def adjoint(T: Floats) -> Floats:
    """(..., 6, 6) with `T Exp(xi) T^-1 = Exp(adjoint(T) xi)`."""
    R = T[..., :3, :3]
    out = np.zeros((*T.shape[:-2], 6, 6))
    out[..., :3, :3] = out[..., 3:, 3:] = R
    out[..., 3:, :3] = skew(T[..., :3, 3]) @ R
    return out


def left_jacobian(xi: npt.ArrayLike) -> Floats:
    """(..., 6, 6) with `Exp(xi + d) = Exp(left_jacobian(xi) d) Exp(xi)` to first order in d."""
    xi = np.asarray(xi, np.float64)
    W, V = skew(xi[..., :3]), skew(xi[..., 3:])
    angle = np.linalg.norm(xi[..., :3], axis=-1)
    _, half, cubic = _coefficients(angle)
    J = np.eye(3) + half * W + cubic * (W @ W)
    out = np.zeros((*xi.shape[:-1], 6, 6))
    out[..., :3, :3] = out[..., 3:, 3:] = J
    out[..., 3:, :3] = _coupling(W, V, angle, cubic)
    return out


def _coupling(W: Floats, V: Floats, angle: Floats, cubic: Floats) -> Floats:
    """The block Q of the left Jacobian (Barfoot, equation 7.86)."""
    a = np.asarray(angle)[..., None, None]
    small = a < _SMALL
    safe, square = np.where(small, 1.0, a), a * a
    fourth = np.where(
        small, 1 / 24 - square / 720 + square**2 / 40320, (safe**2 + 2 * np.cos(safe) - 2) / (2 * safe**4)
    )
    fifth = np.where(
        small,
        1 / 120 - square / 2520 + square**2 / 120960,
        (2 * safe - 3 * np.sin(safe) + safe * np.cos(safe)) / (2 * safe**5),
    )
    WV, VW = W @ V, V @ W
    WVW = WV @ W
    Q = 0.5 * V + cubic * (WV + VW + WVW)
    Q = Q + fourth * (W @ WV + VW @ W - 3 * WVW)
    return np.asarray(Q + fifth * (WVW @ W + W @ WVW))


def right_jacobian(xi: npt.ArrayLike) -> Floats:
    """(..., 6, 6) with `Exp(xi + d) = Exp(xi) Exp(right_jacobian(xi) d)` to first order in d."""
    return left_jacobian(-np.asarray(xi, np.float64))


def right_jacobian_inverse(xi: npt.ArrayLike) -> Floats:
    """(..., 6, 6): `log(Exp(xi) Exp(d)) = xi + right_jacobian_inverse(xi) d` to first order in d, by 3x3 blocks."""
    W, V = -skew(np.asarray(xi)[..., :3]), -skew(np.asarray(xi)[..., 3:])
    angle = np.linalg.norm(np.asarray(xi, np.float64)[..., :3], axis=-1)
    inverse = np.eye(3) - 0.5 * W + _rest(angle[..., None, None]) * (W @ W)
    out = np.zeros((*angle.shape, 6, 6))
    out[..., :3, :3] = out[..., 3:, 3:] = inverse
    out[..., 3:, :3] = -inverse @ _coupling(W, V, angle, _coefficients(angle)[2]) @ inverse
    return out


def compose_covariance(covariance_a_b: Floats, T_b_c: Floats, covariance_b_c: Floats) -> Floats:
    """Covariance (..., 6, 6) of `T_a_b T_b_c`, whose factors err independently, to first order."""
    A = adjoint(inverse(T_b_c))
    return np.asarray(A @ covariance_a_b @ np.swapaxes(A, -1, -2) + covariance_b_c)


def inverse_covariance(T: Floats, covariance: Floats) -> Floats:
    """Covariance (..., 6, 6) of `inverse(T)` where that of `T` is `covariance`."""
    A = adjoint(T)
    return np.asarray(A @ covariance @ np.swapaxes(A, -1, -2))
