"""Whether timings changed: speeds, latencies, load times and energy of two commits, measured in rounds.

Every round also measures a reference model that no commit changes, and a timing is compared as its ratio to the
reference's in the same round, so that a slow minute of the machine divides out. A permutation test shuffles the rounds
between the two commits. p is the share of 5,000 shuffles in which at least one timing of that hardware has a t
statistic (of the log ratios) as large as this one's. Since any of the timings counts, p is already corrected for
testing many of them. A timing is worse or better if p is below 0.05 and its median ratio moved by more than the older
commit's tolerance. A new version, kernel or thread count of the engine would divide out too, so the reference's own
timings are then judged as they are; memory and sizes always are, and timings of other machines or without a reference
are not compared.

The correction is the single-step maxT of Westfall and Young, Resampling-Based Multiple Testing (1993): unlike Holm's, it
knows that the timings of a round move together, so it finds more.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from cartlm.bench.rounds import REFERENCE, Key, Rounds

NO_REFERENCE = "measured without a reference model"
OTHER_REFERENCE = "the reference model changed"
LOST = "no longer measured with the reference model"
FEWEST_ROUNDS = 4  # of three rounds a side, even a tenfold slow-down has p = 0.1
SHUFFLES = 5_000


@dataclass(frozen=True)
class TimingChange:
    """What a timing did relative to the reference model."""

    change: float  # of the median ratio, relative to the old one
    p: float  # adjusted for all timings of the target
    reference: float  # what the reference's own timing did


def reference_metric(rounds: Rounds, metric: str) -> str | None:
    """The reference's metric to divide by: the same, or the same of single queries for a batch or kernel; None if it has none."""
    own = [each for variant, each in rounds if variant == REFERENCE]
    if metric in own:
        return metric
    name = re.sub(r"^batch_\d+_", "", metric.rpartition(".")[2])
    return next((each for each in own if each.rpartition(".")[2] == name), None)


def log_ratios(rounds: Rounds, key: Key) -> list[float] | str:
    """A timing's logarithm less the reference's, by round, or why there is none. The reference's own is undivided."""
    variant, metric = key
    divisor = reference_metric(rounds, metric)
    if key not in rounds or divisor is None:
        return NO_REFERENCE
    values, reference = rounds[key], rounds[REFERENCE, divisor]
    numbers = sorted(
        {number for (name, _), measured in rounds.items() if name == REFERENCE for number in measured}
    )
    if len(numbers) < FEWEST_ROUNDS:
        return f"measured in fewer than {FEWEST_ROUNDS} rounds"
    if any(min(each.get(number, 0.0) for number in numbers) <= 0 for each in (values, reference)):
        return "not measured in every round"
    if variant == REFERENCE:
        return [math.log(values[number]) for number in numbers]
    return [math.log(values[number] / reference[number]) for number in numbers]


def compare_rounds(old: Rounds, new: Rounds, keys: Iterable[Key]) -> dict[Key, TimingChange | str]:
    """What each timing of one hardware target did, or why it is not comparable."""
    results: dict[Key, TimingChange | str] = {}
    measured: dict[Key, tuple[list[float], list[float]]] = {}
    for key in keys:
        before, after = log_ratios(old, key), log_ratios(new, key)
        if isinstance(before, str):
            results[key] = before
        elif isinstance(after, str):
            results[key] = LOST if after == NO_REFERENCE else after
        else:
            measured[key] = before, after
    p_values = permutation_test(*([each[i] for each in measured.values()] for i in (0, 1)))
    for (key, (first, second)), p in zip(measured.items(), p_values, strict=True):
        divisor = REFERENCE, reference_metric(old, key[1]) or ""
        reference = median(new[divisor].values()) / median(old[divisor].values()) - 1
        results[key] = TimingChange(math.exp(median(second) - median(first)) - 1, p, reference)
    return results


def permutation_test(before: Sequence[Sequence[float]], after: Sequence[Sequence[float]]) -> list[float]:
    """Two-sided p-values of several timings (rows) measured in the same rounds (columns), adjusted for their number."""
    import numpy as np
    from scipy.stats import permutation_test as shuffle_rounds

    def t_statistic(first: np.ndarray, second: np.ndarray, axis: int) -> np.ndarray:
        variance = sum(side.var(axis, ddof=1) / side.shape[axis] for side in (first, second))
        return np.abs(first.mean(axis) - second.mean(axis)) / np.sqrt(variance + 1e-12)

    if not before:
        return []
    shuffled = shuffle_rounds(
        (np.array(before), np.array(after)), t_statistic, axis=1, vectorized=True, n_resamples=SHUFFLES, batch=1000,
        alternative="greater", rng=np.random.default_rng(0),
    )  # fmt: skip
    largest = shuffled.null_distribution.max(axis=-1)
    as_large = [(largest >= observed - 1e-9).sum() for observed in shuffled.statistic]
    return [float((1 + count) / (1 + len(largest))) for count in as_large]
