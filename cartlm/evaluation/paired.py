"""Exact match of two variants or two commits on the same rows: difference, interval, adjusted p-value."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cartlm.evaluation.statistics import Pairs, count_pairs, holm, mcnemar, newcombe
from cartlm.metrics import Outcome, read_outcomes

F16 = "f16"
UNQUANTIZED = ("base", "merged", F16)


@dataclass(frozen=True)
class Difference:
    """The difference in exact match between two measurements of the same rows."""

    variant: str
    pairs: Pairs
    low: float
    high: float
    p: float
    p_adjusted: float  # Holm, over all differences of one comparison


def pair_outcomes(first: Iterable[Outcome], second: Iterable[Outcome]) -> Pairs:
    """Pair two lists of outcomes by row id; right is `exact`. Raises ValueError if ids differ or repeat."""
    firsts, seconds = list(first), list(second)
    right = {outcome.id: outcome.outcome == "exact" for outcome in seconds}
    ids = [outcome.id for outcome in firsts]
    if len(right) != len(seconds) or len(set(ids)) != len(ids):
        raise ValueError("a row id appears twice")
    if not ids or set(ids) != right.keys():
        raise ValueError(
            f"the rows differ: {len(ids)} and {len(right)}, {len(right.keys() & set(ids))} in both"
        )
    return count_pairs((outcome.outcome == "exact", right[outcome.id]) for outcome in firsts)


def mcnemar_differences(pairs: Mapping[str, Pairs]) -> list[Difference]:
    """McNemar's test of each variant's pairs, p-values Holm-adjusted over all of them."""
    p_values = [mcnemar(each) for each in pairs.values()]
    return [
        Difference(variant, each, *newcombe(each), p, adjusted)
        for (variant, each), p, adjusted in zip(pairs.items(), p_values, holm(p_values), strict=True)
    ]


def quantized_variants(variants: Iterable[str]) -> list[str]:
    """The variants that are compared with F16."""
    return [variant for variant in variants if variant not in UNQUANTIZED]


def against_f16(outcomes: Mapping[str, Sequence[Outcome]]) -> list[Difference]:
    """Each quantized variant against F16; variants whose rows differ from those of F16 are left out."""
    pairs: dict[str, Pairs] = {}
    for variant in quantized_variants(outcomes):
        try:
            pairs[variant] = pair_outcomes(outcomes.get(F16, []), outcomes[variant])
        except ValueError:
            continue
    return mcnemar_differences(pairs)


def read_outcomes_of(metrics: Path, variants: Sequence[str]) -> dict[str, list[Outcome]]:
    """The outcomes of the variants that have a file under metrics/outcomes/."""
    paths = {variant: metrics / "outcomes" / f"{variant}.csv" for variant in variants}
    return {variant: read_outcomes(path) for variant, path in paths.items() if path.exists()}


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
