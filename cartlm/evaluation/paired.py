"""Variants of one commit against the unquantized F16, row by row: difference, interval, adjusted p-value."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cartlm.evaluation.statistics import Pairs, count_pairs, holm, mcnemar, newcombe, resolvable
from cartlm.metrics import Outcome, read_outcomes

REFERENCE = "f16"
UNQUANTIZED = ("base", "merged", REFERENCE)


@dataclass(frozen=True)
class Difference:
    """What a second measurement of a variant, or another variant, does to exact match on the same rows."""

    variant: str
    pairs: Pairs
    low: float
    high: float
    p: float
    p_adjusted: float  # Holm, over all differences of one comparison


def pair(first: Iterable[Outcome], second: Iterable[Outcome]) -> Pairs:
    """Pair two lists of outcomes by row id; right is `exact`. Raises ValueError where the ids differ or repeat."""
    firsts, seconds = list(first), list(second)
    right = {outcome.id: outcome.outcome == "exact" for outcome in seconds}
    ids = [outcome.id for outcome in firsts]
    if len(right) != len(seconds) or len(set(ids)) != len(ids):
        raise ValueError("a row id stands there twice")
    if not ids or set(ids) != right.keys():
        raise ValueError(
            f"the rows differ: {len(ids)} and {len(right)}, {len(right.keys() & set(ids))} in both"
        )
    return count_pairs((outcome.outcome == "exact", right[outcome.id]) for outcome in firsts)


def differences(pairs: Mapping[str, Pairs]) -> list[Difference]:
    """Test every variant's pairs, the p-values corrected over all of them."""
    p_values = [mcnemar(each) for each in pairs.values()]
    return [
        Difference(variant, each, *newcombe(each), p, adjusted)
        for (variant, each), p, adjusted in zip(pairs.items(), p_values, holm(p_values), strict=True)
    ]


def quantized(variants: Iterable[str]) -> list[str]:
    """The variants that are compared with F16."""
    return [variant for variant in variants if variant not in UNQUANTIZED]


def against_reference(outcomes: Mapping[str, Sequence[Outcome]]) -> list[Difference]:
    """Each quantized variant against F16; variants whose rows differ from those of F16 are left out."""
    found: dict[str, Pairs] = {}
    for variant in quantized(outcomes):
        try:
            found[variant] = pair(outcomes.get(REFERENCE, []), outcomes[variant])
        except ValueError:
            continue
    return differences(found)


def read(metrics: Path, variants: Sequence[str]) -> dict[str, list[Outcome]]:
    """The outcomes of the variants that have a file under metrics/outcomes/."""
    paths = {variant: metrics / "outcomes" / f"{variant}.csv" for variant in variants}
    return {variant: read_outcomes(path) for variant, path in paths.items() if path.exists()}


def table(found: Sequence[Difference]) -> str:
    """The differences as a Markdown table, in percentage points."""
    lines = [
        "| variant | difference to f16, points [95 %] | lost rows | won rows | p (Holm) |",
        "|---|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {each.variant} | {points(each)} | {each.pairs.lost} | {each.pairs.won} | {p_value(each.p_adjusted)} |"
        for each in found
    ]
    return "\n".join(lines)


def points(each: Difference) -> str:
    """The difference in percentage points with its interval."""
    return f"{signed(each.pairs.difference)} [{signed(each.low)}, {signed(each.high)}]"


def signed(share: float) -> str:
    """A share as signed percentage points with a true minus sign, 0.0 without a sign."""
    text = f"{100 * share:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")


def p_value(p: float) -> str:
    """A p-value for people."""
    return "<0.0001" if p < 0.0001 else f"{p:.4f}" if p < 0.01 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def resolution(found: Sequence[Difference]) -> str:
    """One sentence: the difference that these rows resolve, at the median share of rows on which two differ.

    Of two variants compared alone: a Holm-adjusted p-value of many has less power.
    """
    if not found:
        return ""
    import numpy as np

    n = min(each.pairs.n for each in found)
    discordant = float(np.median([each.pairs.discordant for each in found]))
    least = resolvable(n, discordant)
    on = f"between variants of which one is right and the other wrong on {100 * discordant:.1f} % of the rows"
    if least is None:
        return f"{n:,} rows are too few to show any difference {on} (the median here; power 80 %, level 5 % for one pair alone)."
    return f"{n:,} rows resolve a difference of {100 * least:.1f} points {on} (the median here; power 80 %, level 5 % for one pair alone)."
