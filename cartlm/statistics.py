"""Intervals of measured shares."""

from __future__ import annotations


def wilson(successes: int, n: int) -> tuple[float, float]:
    """The Wilson score interval, 95 %, of the share `successes / n` (Wilson 1927; scipy).

    Raises ValueError unless 0 <= successes <= n and n >= 1.
    """
    from scipy.stats import binomtest

    interval = binomtest(successes, n).proportion_ci(confidence_level=0.95, method="wilson")
    return float(interval.low), float(interval.high)
