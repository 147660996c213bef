"""Intervals of measured shares, and the paired comparison of two shares measured on the same rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

ALPHA = 0.05
"""Level of the tests; the intervals are at 1 - ALPHA."""


def wilson(successes: int, n: int) -> tuple[float, float]:
    """The Wilson score interval, 95 %, of the share `successes / n` (Wilson 1927; scipy).

    Raises ValueError unless 0 <= successes <= n and n >= 1.
    """
    from scipy.stats import binomtest

    interval = binomtest(successes, n).proportion_ci(confidence_level=1 - ALPHA, method="wilson")
    return float(interval.low), float(interval.high)


@dataclass(frozen=True)
class Pairs:
    """How often a first and a second measurement were right on the same rows, in rows."""

    both: int
    lost: int  # only the first was right
    won: int  # only the second was right
    neither: int

    @property
    def n(self) -> int:
        return self.both + self.lost + self.won + self.neither

    @property
    def difference(self) -> float:
        """The second share less the first: negative where the second is worse."""
        return (self.won - self.lost) / self.n


def mcnemar(pairs: Pairs) -> float:
    """The two-sided p-value of McNemar's exact test (McNemar 1947; scipy): are lost and won rows alike?"""
    from scipy.stats import binomtest

    discordant = pairs.lost + pairs.won
    return float(binomtest(pairs.lost, discordant).pvalue) if discordant else 1.0


def newcombe(pairs: Pairs) -> tuple[float, float]:
    """The 95 % interval of `pairs.difference`: Newcombe's square-and-add interval for paired shares.

    Method 10 of Newcombe, Statistics in Medicine 17 (1998) 2635-2650: the Wilson limits of both shares, joined
    through their correlation phi, whose numerator is lessened by n / 2 where it is positive. scipy lacks it. Raises
    ValueError without rows.
    """
    n, first, second = pairs.n, pairs.both + pairs.lost, pairs.both + pairs.won
    (low_1, high_1), (low_2, high_2) = wilson(first, n), wilson(second, n)
    spread = math.sqrt(first * (n - first) * second * (n - second))  # 0 where one of them never varies
    covariance = pairs.both * pairs.neither - pairs.lost * pairs.won
    phi = (max(covariance - n / 2, 0.0) if covariance > 0 else covariance) / spread if spread else 0.0

    def distance(a: float, b: float) -> float:
        return math.sqrt(max(0.0, a * a - 2 * phi * a * b + b * b))  # below 0 only by rounding

    below = distance(second / n - low_2, high_1 - first / n)
    above = distance(high_2 - second / n, first / n - low_1)
    return max(-1.0, pairs.difference - below), min(1.0, pairs.difference + above)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values, in their order, corrected for being several of one comparison (Holm 1979)."""
    import numpy as np

    n, order = len(p_values), np.argsort(p_values)
    stepped = np.asarray(p_values)[order] * np.arange(n, 0, -1)
    adjusted = np.empty(n)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(stepped))
    return [float(p) for p in adjusted]
