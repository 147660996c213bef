"""The rule: bounds, the choice among what fits, the nearest miss, the Pareto front and its knee."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cartlm.errors import UserError
from cartlm.evaluation.paired import BASELINE, F16, mcnemar_differences, pair_outcomes
from cartlm.evaluation.statistics import ALPHA, Pairs
from cartlm.metrics import Outcome
from cartlm.recommend.measured import ACCURACY, COSTS, NAMES, P95, SIZE, UNITS, Candidate, Decoding, Measured
from cartlm.report import cells
from cartlm.report.cells import Interval

RULE = (
    "of the variants that fit, those not measurably less accurate than the most accurate one; of these, those whose p95 "
    "interval overlaps the fastest one's; of these, the smallest file"
)
KNEE = (
    "the variant of the front nearest to the best of all four quantities, each scaled from 0 (best on the front) to 1 "
    "(worst), latency, memory and size by their logarithms"
)
OPTIONS = {
    ACCURACY: "--min-accuracy", P95: "--max-latency-ms-p95", "peak_rss_mib": "--max-rss-mib", SIZE: "--max-size-mib",
}  # fmt: skip
Bounds = Mapping[str, float]
"""Quantity -> its limit: the least exact match, the largest of the others."""


@dataclass(frozen=True)
class Gap:
    """How much more accurate a variant is than another, on the same rows."""

    name: str
    difference: Interval
    p: float | None  # McNemar's, Holm-adjusted; None where no rows are stored, and the intervals alone decide

    @property
    def close(self) -> bool:
        """Whether the difference is too small to be told from none: by the test, else by the interval."""
        return self.p >= ALPHA if self.p is not None else self.difference.low <= 0 <= self.difference.high

    @property
    def worse(self) -> bool:
        return not self.close and self.difference.value < 0

    @property
    def better(self) -> bool:
        return not self.close and self.difference.value > 0


@dataclass(frozen=True)
class Choice:
    """The variant to ship, and how it was found."""

    winner: Candidate
    top: Candidate  # the most accurate that fits
    fastest: Candidate  # of those not measurably less accurate
    fitting: Sequence[Candidate]
    gaps: Mapping[str, Gap]  # of each other that fits, to the winner
    dominated: Sequence[str]  # by the winner, of all that was measured


def misses(candidate: Candidate, bounds: Bounds) -> dict[str, float]:
    """The bounds that a variant misses by its values, and by what part of each bound."""
    off = {}
    for key, limit in bounds.items():
        value = candidate[key].value
        excess = limit - value if key == ACCURACY else value - limit
        if excess > 0:
            off[key] = excess / limit
    return off


def crossed(candidate: Candidate, bounds: Bounds) -> list[str]:
    """The bounds that lie inside a variant's interval: either side may be true."""
    return [key for key, limit in bounds.items() if candidate[key].low < limit < candidate[key].high]


def gaps(
    outcomes: Mapping[str, Sequence[Outcome]], reference: Candidate, others: Sequence[Candidate]
) -> dict[str, Gap]:
    """Each other variant's exact match less that of `reference`, by McNemar's exact test where both have `outcomes` by row.

    Holm-adjusted over these. Without rows the interval is Newcombe's from both Wilson intervals, as if the rows had been
    different ones (Statistics in Medicine 17 (1998) 873-890, method 10): wider than the true one.
    """
    pairs, found = dict[str, Pairs](), dict[str, Gap]()
    for each in others:
        first, second = outcomes.get(reference.name), outcomes.get(each.name)
        try:
            pairs[each.name] = pair_outcomes(first or [], second or [])
        except ValueError:  # not stored, or not the same rows
            found[each.name] = Gap(each.name, unpaired(reference[ACCURACY], each[ACCURACY]), None)
    for one in mcnemar_differences(pairs) if pairs else []:
        found[one.variant] = Gap(
            one.variant, Interval(one.pairs.difference, one.low, one.high), one.p_adjusted
        )
    return {each.name: found[each.name] for each in others}


def unpaired(first: Interval, second: Interval) -> Interval:
    """The second share less the first, from their intervals alone."""
    difference = second.value - first.value
    below = math.hypot(second.value - second.low, first.high - first.value)
    above = math.hypot(second.high - second.value, first.value - first.low)
    return Interval(difference, difference - below, difference + above)


def choose(measured: Measured, bounds: Bounds) -> Choice:
    """The choice by RULE. Raises UserError with the nearest miss if nothing fits."""
    fitting = [each for each in measured.candidates if not misses(each, bounds)]
    if not fitting:
        raise nearest(measured.candidates, bounds)
    top = min(fitting, key=lambda each: (*each.losses, each.name))
    to_top = gaps(measured.outcomes, top, [each for each in fitting if each is not top])
    level = [each for each in fitting if each is top or not to_top[each.name].worse]
    fastest = min(level, key=lambda each: (each[P95].value, each.name))
    quick = [each for each in level if each[P95].low <= fastest[P95].high]
    winner = min(quick, key=lambda each: (each[SIZE].value, each[P95].value, *each.losses, each.name))
    others = [each for each in fitting if each is not winner]
    dominated = [each.name for each in measured.candidates if winner.dominates(each)]
    return Choice(winner, top, fastest, fitting, gaps(measured.outcomes, winner, others), dominated)


@dataclass(frozen=True)
class Elsewhere:
    """What the rule chooses by another way of decoding, measurably more accurate than a variant by this one."""

    decoding: Decoding
    winner: Candidate
    gap: Gap


def elsewhere(
    found: Measured, chosen: Candidate, others: Sequence[Measured], bounds: Bounds
) -> Elsewhere | None:
    """The best of the other ways within the same bounds; None where none is measurably more accurate than `chosen`.

    p is Holm-adjusted over the ways. The baseline answers alike by all of them.
    """
    winners = dict[Decoding, Candidate]()
    for other in others:
        if any(not misses(each, bounds) for each in other.candidates):
            winner = choose(other, bounds).winner
            if winner.name != BASELINE:
                winners[other.decoding] = winner
    outcomes: dict[str, Sequence[Outcome]] = {found.decoding: found.outcomes.get(chosen.name, [])}
    for other in others:
        if other.decoding in winners:
            outcomes[other.decoding] = other.outcomes.get(winners[other.decoding].name, [])
    # named by way: the same variant may be on both sides
    ours = Candidate(found.decoding, chosen.values)
    compared = gaps(outcomes, ours, [Candidate(way, each.values) for way, each in winners.items()])
    better = [Elsewhere(way, each, compared[way]) for way, each in winners.items() if compared[way].better]
    return max(better, key=lambda each: each.gap.difference.value, default=None)


def against_f16(found: Measured, chosen: Candidate) -> Gap | None:
    """How much more accurate than F16 by the same way of decoding; None for F16 itself, and where that does not compete.

    p is Holm-adjusted over all that compete, since the chosen one was chosen among these.
    """
    f16 = next((each for each in found.candidates if each.name == F16), None)
    if f16 is None or chosen is f16:
        return None
    return gaps(found.outcomes, f16, [each for each in found.candidates if each is not f16])[chosen.name]


def nearest(candidates: Sequence[Candidate], bounds: Bounds) -> UserError:
    """The variant whose worst miss is the smallest part of its bound, and the bounds that it would fit."""
    best = min(candidates, key=lambda each: (max(misses(each, bounds).values()), *each.losses, each.name))
    off = misses(best, bounds)
    told = []
    for key, part in off.items():
        value, side = best[key].value, "below" if key == ACCURACY else "above"
        told.append(
            f"{NAMES[key]} {value:g}{UNITS[key]} is {abs(value - bounds[key]):.3g} {side} {bounds[key]:g} ({cells.number(100 * part)} %)"
        )
    loosened = {key: best[key].value if key in off else limit for key, limit in bounds.items()}
    options = " ".join(f"{OPTIONS[key]} {limit:g}" for key, limit in loosened.items())
    return UserError(f"no variant fits; the nearest is {best.name}: {', '.join(told)}", f"it fits {options}")


def front(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The variants that no other dominates, the most accurate first."""
    kept = [each for each in candidates if not any(other.dominates(each) for other in candidates)]
    return sorted(kept, key=lambda each: (*each.losses, each.name))


def knee(on_front: Sequence[Candidate]) -> Candidate:
    """The front's compromise by KNEE."""

    def scaled(each: Candidate, key: str) -> float:
        values = [
            math.log(other[key].value) if key in COSTS else -other[key].value for other in (each, *on_front)
        ]
        best, worst = min(values), max(values)
        return (values[0] - best) / (worst - best) if worst > best else 0.0

    return min(
        on_front,
        key=lambda each: (
            math.hypot(*(scaled(each, key) for key in (ACCURACY, *COSTS))),
            *each.losses,
            each.name,
        ),
    )
