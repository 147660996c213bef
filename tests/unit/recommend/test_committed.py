"""`recommend` on this repository's own numbers against the rule written out a second time, from the files alone.

The bounds are ranks (the third most accurate, the second smallest), so the sets mean something whatever is measured next.
"""

from __future__ import annotations

import csv
import json
import math
from typing import Any

import pytest

from cartlm import params
from cartlm.errors import UserError
from cartlm.recommend import choice, measured
from cartlm.recommend.measured import Decoding, Rows
from tests import ROOT

METRICS = ROOT / "metrics"
COSTS = {"latency_ms_p95", "peak_rss_mib", "size_mib"}
NAMES = params.load(ROOT / "params.yaml").variants.names
SETS: list[tuple[Decoding, Rows, dict[str, int]]] = [
    ("free", "test", {"exact_match": 3}),
    ("free", "test", {"exact_match": 6, "latency_ms_p95": 7}),
    ("constrained", "test", {"exact_match": 4}),
    ("constrained", "natural", {"exact_match": 5, "size_mib": 4}),
    ("ensemble", "test", {"exact_match": 5, "peak_rss_mib": 6}),
    ("ensemble", "natural", {"exact_match": 2, "latency_ms_p95": 2}),
]


def load(decoding: str, rows: str) -> dict[str, dict[str, Any]]:
    """What competes, straight from the JSON files."""
    found = {}
    for name in NAMES:
        bench, evaluation = (METRICS / folder / f"{name}.json" for folder in ("bench/cpu", "eval"))
        if not bench.exists() or not evaluation.exists():
            continue
        way = "free" if name == "baseline" else decoding
        section = way if rows == "test" else "natural" if way == "free" else f"natural_{way}"
        scored, cpu = json.loads(evaluation.read_text()).get(section), json.loads(bench.read_text())["cpu"]
        if scored and cpu.keys() >= COSTS:  # a busy machine's wide ones are left out
            found[name] = {**cpu, "exact_match": scored["exact_match"], "n": scored["n"]}
    return found


def exact(name: str, decoding: str, rows: str) -> dict[str, bool]:
    way = "free" if name == "baseline" else decoding
    with (METRICS / "exact" / f"{name}.csv").open() as file:
        return {row["id"]: row[way] == "1" for row in csv.DictReader(file) if row["set"] == rows}


def p_value(ours: dict[str, bool], theirs: dict[str, bool]) -> float:
    lost, won = (sum(ours[row] is side and theirs[row] is not side for row in ours) for side in (True, False))
    n, least = lost + won, min(lost, won)
    return min(1.0, 2 * sum(math.comb(n, k) for k in range(least + 1)) / 2**n)


def level_with(
    top: str, others: list[str], all_of: dict[str, dict[str, Any]], decoding: str, rows: str
) -> set[str]:
    """The most accurate, and who is not measurably less accurate."""
    level, first = {top}, all_of[top]
    right = {name: exact(name, decoding, rows) for name in (top, *others)}
    p_values = sorted((p_value(right[top], right[name]), name) for name in others)
    for rank, (_, name) in enumerate(p_values):
        adjusted = max(min(1.0, (len(p_values) - i) * p) for i, (p, _) in enumerate(p_values[: rank + 1]))
        if adjusted >= 0.05 or all_of[name]["exact_match"] >= first["exact_match"]:
            level.add(name)
    return level


def bounds_of(all_of: dict[str, dict[str, Any]], ranks: dict[str, int]) -> dict[str, float]:
    return {
        key: sorted((each[key] for each in all_of.values()), reverse=key == "exact_match")[rank - 1]
        for key, rank in ranks.items()
    }


@pytest.mark.parametrize(("decoding", "rows", "ranks"), SETS)
def test_the_choice_is_that_of_the_rule_written_out_again(
    decoding: Decoding, rows: Rows, ranks: dict[str, int]
) -> None:
    all_of = load(decoding, rows)
    if len(all_of) < max(ranks.values()):
        pytest.skip("the repository has no such numbers now")
    bounds = bounds_of(all_of, ranks)
    found = measured.read(METRICS, NAMES, "cpu", decoding, rows)
    assert {each.name for each in found.candidates} == all_of.keys()
    fitting = [
        name
        for name, each in all_of.items()
        if all(
            each[key] >= limit if key == "exact_match" else each[key] <= limit
            for key, limit in bounds.items()
        )
    ]
    if not fitting:
        with pytest.raises(UserError, match="no variant fits; the nearest is"):
            choice.choose(found, bounds)
        return
    top = min(fitting, key=lambda name: (-all_of[name]["exact_match"], all_of[name]["latency_ms_p95"]))
    level = level_with(top, [name for name in fitting if name != top], all_of, decoding, rows)
    fastest = min(level, key=lambda name: all_of[name]["latency_ms_p95"])
    quick = [n for n in level if all_of[n]["latency_ms_p95_low"] <= all_of[fastest]["latency_ms_p95_high"]]
    expected = min(quick, key=lambda name: all_of[name]["size_mib"])

    chosen = choice.choose(found, bounds)
    assert {each.name for each in chosen.fitting} == set(fitting)
    assert (chosen.top.name, chosen.fastest.name, chosen.winner.name) == (top, fastest, expected)


@pytest.mark.parametrize("decoding", ["free", "constrained", "ensemble"])
def test_the_front_is_what_nothing_dominates(decoding: Decoding) -> None:
    all_of = load(decoding, "test")
    if not all_of:
        pytest.skip("the repository has no such numbers now")
    points = {
        name: (-each["exact_match"], each["latency_ms_p95"], each["peak_rss_mib"], each["size_mib"])
        for name, each in all_of.items()
    }
    undominated = {
        name
        for name, point in points.items()
        if not any(
            other != point and all(a <= b for a, b in zip(other, point, strict=True))
            for other in points.values()
        )
    }
    found = measured.read(METRICS, NAMES, "cpu", decoding, "test")
    assert {each.name for each in choice.front(found.candidates)} == undominated
