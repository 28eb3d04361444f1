"""Which loops agree with the odometry, and which with each other.

Gate: a loop's error against the chain of motions, in units of their joint covariance, under the 99 % quantile of
chi-square with 6 degrees of freedom. Pairs: Mangelson, Dominic, Eustice and Vasudevan, Pairwise consistent measurement
set maximization (ICRA 2018): two loops and the odometry between their ends make a circle that must close; the largest
set of loops of which all pairs do is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ConfigError
from edge_runtime.slam import se3

__all__ = ["CHI2_99_OF_6", "LoopFactor", "OdometryChain", "circle_errors", "consistent", "gate_error"]

F64 = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

CHI2_99_OF_6 = 16.8119  # quantile 0.99 of chi-square with 6 degrees of freedom
FIRST_ROOM = 64  # keyframes; doubled when full
EXACT_STEPS = 5_000  # of the search for the largest set; beyond them the largest found so far counts


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LoopFactor:
    """Keyframe `j` seen again from keyframe `i`: `T_i_j` (4, 4), mm, `covariance` (6, 6), right perturbation."""

    i: int
    j: int
    T_i_j: F64
    covariance: F64
    score: float = 1.0


class OdometryChain:
    """Motions from keyframe to keyframe, and the motion and its covariance between any two, in constant time.

    `scale_sigma`: standard deviation of the factor by which all elevational (z) translations may be wrong together, as
    those of speckle decorrelation are; it makes covariances grow with the square of the way.
    """

    def __init__(self, scale_sigma: float = 0.15) -> None:
        if not 0 <= scale_sigma < np.inf:
            raise ConfigError(f"scale_sigma is {scale_sigma}; a number from 0 on is needed")
        self._scale_sigma = scale_sigma
        self._count = 1
        self._T = np.tile(np.eye(4), (FIRST_ROOM, 1, 1))
        self._sum = np.zeros((FIRST_ROOM, 6, 6))  # of covariances, as left perturbations of the first keyframe
        self._lean = np.zeros((FIRST_ROOM, 6))  # the same of the shift along z per unit of scale

    def __len__(self) -> int:
        return self._count

    def append(self, T_prev_cur: F64, covariance: F64) -> None:
        """One more keyframe, at `T_prev_cur` (4, 4) from the last, known as `covariance` (6, 6) says.

        Raises `ConfigError` for another shape or numbers that are not finite.
        """
        if T_prev_cur.shape != (4, 4) or covariance.shape != (6, 6):
            raise ConfigError(
                f"T_prev_cur {T_prev_cur.shape}, covariance {covariance.shape}: (4, 4), (6, 6) are needed"
            )
        if not (np.isfinite(T_prev_cur).all() and np.isfinite(covariance).all()):
            raise ConfigError("T_prev_cur or covariance is not finite; leave the frame out")
        n = self._count
        if n == len(self._T):
            self._T, self._sum, self._lean = (
                np.concatenate([rows, np.zeros_like(rows)]) for rows in (self._T, self._sum, self._lean)
            )
        T = self._T[n - 1] @ T_prev_cur
        A = se3.adjoint(T)
        lean = np.zeros(6)
        lean[3:] = T_prev_cur[:3, :3].T[:, 2] * T_prev_cur[2, 3]
        self._T[n] = T
        self._sum[n] = self._sum[n - 1] + A @ covariance @ A.T
        self._lean[n] = self._lean[n - 1] + A @ lean
        self._count = n + 1

    def between(self, i: int | Ints, j: int | Ints) -> tuple[F64, F64]:
        """`T_i_j` (..., 4, 4) and its covariance (..., 6, 6), right perturbation, of one pair or of arrays of them.

        Raises `ConfigError` for a keyframe that is not there.
        """
        i, j = np.asarray(i), np.asarray(j)
        if not (np.minimum(i, j).min() >= 0 and np.maximum(i, j).max() < self._count):
            raise ConfigError(f"keyframes {i} and {j}: there are {self._count}, counted from 0")
        T = se3.inverse(self._T[i]) @ self._T[j]
        A = se3.adjoint(se3.inverse(self._T[j]))
        lean = (A @ (self._lean[j] - self._lean[i])[..., None])[..., 0]
        sign = np.where(i <= j, 1.0, -1.0)[..., None, None]
        spread = sign * (A @ (self._sum[j] - self._sum[i]) @ np.swapaxes(A, -1, -2))
        return T, spread + self._scale_sigma**2 * lean[..., :, None] * lean[..., None, :]


def gate_error(loop: LoopFactor, chain: OdometryChain) -> float:
    """Squared Mahalanobis distance of `loop` from the chain; `CHI2_99_OF_6` is the gate."""
    T, covariance = chain.between(loop.i, loop.j)
    return float(_mahalanobis(se3.log(se3.inverse(loop.T_i_j) @ T), covariance + _seen_from(loop, T)))


def _seen_from(loop: LoopFactor, T: F64) -> F64:
    """The loop's covariance as a right perturbation behind the error: of log(Z^-1 T), Z errs on the left of it."""
    E = se3.adjoint(se3.inverse(T) @ loop.T_i_j)
    return np.asarray(E @ loop.covariance @ E.T)


def circle_errors(a: LoopFactor, others: Sequence[LoopFactor], chain: OdometryChain) -> F64:
    """(N,) squared Mahalanobis distances from the identity, of the circles i_a, j_a, j_b, i_b (equation 2 there)."""
    if not others:
        return np.zeros(0)
    i, j = (np.array(ends) for ends in ([b.i for b in others], [b.j for b in others]))
    T_i_j, covariance_b = np.stack([b.T_i_j for b in others]), np.stack([b.covariance for b in others])
    T, covariance = a.T_i_j, a.covariance
    for step, doubt in (
        chain.between(np.full_like(j, a.j), j),
        (se3.inverse(T_i_j), se3.inverse_covariance(T_i_j, covariance_b)),
        chain.between(i, np.full_like(i, a.i)),
    ):
        covariance = se3.compose_covariance(covariance, step, doubt)
        T = T @ step
    return _mahalanobis(se3.log(T), covariance)


def _mahalanobis(error: F64, covariance: F64) -> F64:
    return np.asarray((error * np.linalg.solve(covariance, error[..., None])[..., 0]).sum(axis=-1))


def consistent(loops: Sequence[LoopFactor], chain: OdometryChain, limit: float = CHI2_99_OF_6) -> tuple[int, ...]:
    """Positions in `loops` of the largest set of which every pair closes its circle within `limit`.

    Of equally large sets the one with the higher sum of scores. Of one loop alone nothing can be said: it is kept.
    """
    friends = [0] * len(loops)
    for p, loop in enumerate(loops):
        for q in np.flatnonzero(circle_errors(loop, loops[p + 1 :], chain) <= limit) + p + 1:
            friends[p] |= 1 << int(q)
            friends[q] |= 1 << p
    return _largest_clique(friends, [loop.score for loop in loops])


def _largest_clique(friends: list[int], scores: list[float]) -> tuple[int, ...]:
    """Branch and bound over bit sets, best-connected first (Pattabiraman and others, Internet Mathematics 11, 2015)."""
    order = sorted(range(len(friends)), key=lambda p: (-friends[p].bit_count(), -scores[p], p))
    best: tuple[int, float, tuple[int, ...]] = (0, 0.0, ())
    steps = EXACT_STEPS

    def grow(chosen: tuple[int, ...], open_to: int) -> None:
        nonlocal best, steps
        steps -= 1
        found = (len(chosen), sum(scores[p] for p in chosen), tuple(sorted(chosen)))
        if found[:2] > best[:2]:
            best = found
        for p in order:
            if steps <= 0 or len(chosen) + open_to.bit_count() < best[0]:
                return
            if open_to >> p & 1:
                open_to &= ~(1 << p)
                grow((*chosen, p), open_to & friends[p])

    grow((), (1 << len(friends)) - 1)
    return best[2]
