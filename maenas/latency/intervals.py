"""Prediction intervals from few samples."""

from __future__ import annotations


def student_t95(freedom: int) -> float:
    """95 % quantile of Student's t, Cornish-Fisher expansion (Abramowitz and Stegun 26.7.5); 0.5 % off at 5."""
    z = 1.6448536
    first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    return z + first / freedom + second / freedom**2
