"""How echoes decorrelate when the slice moves by d across the plane: closed forms for a Gaussian slice.

The complex field of fully developed speckle is circular Gaussian. Scatterers are independent, so two fields of
elevational amplitude profiles `exp(-z^2 / 2 s^2)`, d apart, correlate as the overlap of the profiles:
`rho = exp(-d^2 / 4 s^2)` (Wagner, Insana and Smith, IEEE Trans. UFFC 35:34-44, 1988; Chen et al., IEEE Trans. UFFC
44:1277-1284, 1997). With r = rho^2, expansion of the joint density of two intensities in Laguerre polynomials (the
Hardy-Hille formula, weight r^n) gives the covariance of any g(I) as the sum over n >= 1 of r^n c_n^2, c_n being the
coefficient of g on L_n: 1 for n = 1 alone where g is I; -1/n where g is log I; those of 2F1(-1/2, -1/2; 1; r) pi / 4
where g is the envelope sqrt(I) (Middleton, Introduction to Statistical Communication Theory, 1960, 9.1).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.special import hyp2f1, spence

__all__ = ["envelope_correlation", "field_correlation", "intensity_correlation", "log_correlation"]

Floats = npt.NDArray[np.float64]


def field_correlation(distance_mm: npt.ArrayLike, sigma_mm: npt.ArrayLike) -> Floats:
    """Correlation of the complex field at elevational `distance_mm`, slice of amplitude sigma `sigma_mm`; broadcast."""
    return np.asarray(np.exp(-((np.asarray(distance_mm) / (2 * np.asarray(sigma_mm))) ** 2)), np.float64)


def intensity_correlation(rho: npt.ArrayLike) -> Floats:
    """Correlation of the intensities of fields that correlate by |rho| (Siegert's relation): |rho|^2."""
    return np.abs(np.asarray(rho, np.float64)) ** 2


def envelope_correlation(rho: npt.ArrayLike) -> Floats:
    """Correlation of the envelopes: pi / 4 (2F1(-1/2, -1/2; 1; |rho|^2) - 1) / (1 - pi / 4)."""
    return np.asarray(np.pi / 4 * (hyp2f1(-0.5, -0.5, 1, intensity_correlation(rho)) - 1) / (1 - np.pi / 4))


def log_correlation(rho: npt.ArrayLike) -> Floats:
    """Correlation of the log-compressed envelopes, unclipped: Li2(|rho|^2) / (pi^2 / 6), Li2 the dilogarithm."""
    return np.asarray(spence(1 - intensity_correlation(rho)) / (np.pi**2 / 6))
