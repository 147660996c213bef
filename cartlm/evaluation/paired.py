"""Exact match of two variants or two commits on the same rows: difference, interval, adjusted p-value."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cartlm.evaluation.statistics import Pairs, holm, mcnemar, newcombe
from cartlm.metrics import Outcome, read_exact, read_outcomes

F16 = "f16"
BASELINE = "baseline"
UNQUANTIZED = (BASELINE, "base", "merged", F16)


@dataclass(frozen=True)
class Difference:
    """The difference in exact match between two measurements of the same rows."""

    variant: str
    pairs: Pairs
    low: float
    high: float
    p: float
    p_adjusted: float  # Holm, over all differences of one comparison


def pair_outcomes(first: Sequence[Outcome], second: Sequence[Outcome]) -> Pairs:
    """Pair two lists of outcomes by row id; right is `exact`. Raises ValueError if ids differ or repeat."""
    old, new = ({outcome.id: outcome.outcome == "exact" for outcome in side} for side in (first, second))
    if not old or old.keys() != new.keys() or not len(first) == len(second) == len(old):
        shared = len(old.keys() & new.keys())
        raise ValueError(f"the rows differ or repeat: {len(first)} and {len(second)}, {shared} in both")
    count = Counter((old[row], new[row]) for row in old)
    return Pairs(count[True, True], count[True, False], count[False, True], count[False, False])


def mcnemar_differences(pairs: Mapping[str, Pairs]) -> list[Difference]:
    """McNemar's test of each variant's pairs, p-values Holm-adjusted over all of them."""
    p_values = [mcnemar(each) for each in pairs.values()]
    return [
        Difference(variant, each, *newcombe(each), p, adjusted)
        for (variant, each), p, adjusted in zip(pairs.items(), p_values, holm(p_values), strict=True)
    ]


def against_f16(outcomes: Mapping[str, Sequence[Outcome]]) -> list[Difference]:
    """Each quantized variant against F16; variants whose rows differ from those of F16 are left out."""
    pairs: dict[str, Pairs] = {}
    for variant in [name for name in outcomes if name not in UNQUANTIZED]:
        with suppress(ValueError):
            pairs[variant] = pair_outcomes(outcomes.get(F16, []), outcomes[variant])
    return mcnemar_differences(pairs)


def read_outcomes_of(metrics: Path, variants: Sequence[str]) -> dict[str, list[Outcome]]:
    """The outcomes of the variants that have a file under metrics/outcomes/."""
    paths = {variant: metrics / "outcomes" / f"{variant}.csv" for variant in variants}
    return {variant: read_outcomes(path) for variant, path in paths.items() if path.exists()}


def read_exact_of(
    metrics: Path, variants: Sequence[str], rows: str, decoding: str
) -> dict[str, list[Outcome]]:
    """Whether each row of a set was answered exactly by a way of decoding, as outcomes without hashes; variants without these are left out."""
    found = {}
    for variant in variants:
        path = metrics / "exact" / f"{variant}.csv"
        every = [each for each in read_exact(path) if each.set == rows] if path.exists() else []
        marks = [getattr(each, decoding) for each in every]
        if every and all(marks):
            found[variant] = [
                Outcome(each.id, "exact" if mark == "1" else "wrong", "")
                for each, mark in zip(every, marks, strict=True)
            ]
    return found


def difference_table(differences: Sequence[Difference]) -> str:
    """The differences as a Markdown table, in percentage points."""
    lines = [
        "| variant | difference to f16, points [95 %] | lost rows | won rows | p (Holm) |",
        "|---|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {each.variant} | {format_points(each)} | {each.pairs.lost} | {each.pairs.won} | {format_p(each.p_adjusted)} |"
        for each in differences
    ]
    return "\n".join(lines)


def format_points(each: Difference) -> str:
    """The difference in percentage points with its interval."""
    return f"{signed_points(each.pairs.difference)} [{signed_points(each.low)}, {signed_points(each.high)}]"


def signed_points(share: float) -> str:
    """A share as signed percentage points with a true minus sign, 0.0 without a sign."""
    text = f"{100 * share:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")


def format_p(p: float) -> str:
    """A p-value rounded so that its side of 0.05 shows."""
    return "<0.0001" if p < 0.0001 else f"{p:.4f}" if p < 0.01 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"
