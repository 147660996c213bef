"""Two timings by their medians and intervals: whether they differ by more than their rounds do."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cartlm.evaluation.statistics import ALPHA

FEWEST_ROUNDS = 3
"""Fewer have next to no degrees of freedom: not even ten times slower would be found among fifty timings.

With three the level is above 5 %, as an interval of three rounds is too short, but below that of intervals which do not
overlap (docs/log.md).
"""


@dataclass(frozen=True)
class Timing:
    """A median over n rounds and its 95 % interval."""

    value: float
    low: float
    high: float
    n: int

    @property
    def error(self) -> float:
        """The standard error of the value's logarithm, read off the interval as 95 % of a normal distribution."""
        from scipy.stats import norm

        return math.log(self.high / self.low) / float(2 * norm.ppf(1 - ALPHA / 2))


def of(values: Mapping[str, Any], key: str) -> Timing | None:
    """A timing of a metrics file, with the rounds of its section or else of the file.

    None without rounds, with fewer than FEWEST_ROUNDS, and where value and interval are not finite, above 0 and in order.
    """
    section = key.rpartition(".")[0]
    names = (f"{section}.n" if section else "n", "cpu.n", "gpu.n")
    rounds = next((values[name] for name in names if name in values), None)
    given = (rounds, *(values.get(name) for name in (key, f"{key}_low", f"{key}_high")))
    numbers = [
        float(each) for each in given if isinstance(each, int | float) and abs(each) <= sys.float_info.max
    ]
    if len(numbers) < len(given):
        return None
    n, value, low, high = numbers
    return Timing(value, low, high, int(n)) if n >= FEWEST_ROUNDS and 0 < low <= value <= high else None


def welch(first: Timing, second: Timing, more: float = 0.0) -> float:
    """The two-sided p-value of Welch's t-test on the logarithms of two timings (Welch 1947; scipy).

    The degrees of freedom come from the rounds. `more` is a standard error of the logarithm that the second has beside
    its own (of the controls, see drift.shift); it counts as if the rounds had told it.
    """
    from scipy.stats import ttest_ind_from_stats

    if first.value == second.value:
        return 1.0
    errors = first.error, math.hypot(second.error, more)
    if not any(errors):
        return 0.0
    sides = [
        (math.log(each.value), error * math.sqrt(each.n), each.n)
        for each, error in zip((first, second), errors, strict=True)
    ]
    return float(ttest_ind_from_stats(*sides[0], *sides[1], equal_var=False).pvalue)


def cauchy_combination(p_values: Sequence[float]) -> float:
    """One p-value for several that depend on each other: the Cauchy combination (Liu and Xie, JASA 115 (2020) 393-402).

    Neither scipy nor statsmodels has it, and their other ways want independent tests. Those above 0.5 count as 0.5, or a
    p-value near 1 would hide one near 0; the price is a level of 6 to 7 % where 5 % is asked for and dozens of tests are
    independent, which timings of one measurement are not.
    """
    cotangents = [1 / math.tan(math.pi * min(max(p, 1e-300), 0.5)) for p in p_values]
    return math.atan2(1, sum(cotangents) / len(cotangents)) / math.pi
