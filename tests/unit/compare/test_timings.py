"""Two timings differ where their rounds cannot explain it, whatever their number, and however many are compared."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import pytest

from cartlm.bench import aggregate
from cartlm.compare import drift, judge, significance, timings
from cartlm.compare.load import Side
from cartlm.compare.timings import Timing
from tests.component.compare.test_judge import TOLERANCES

FOLDER = "metrics/bench/cpu"


def values(speed: float, error: float = 0.02, n: int = 10, **more: Any) -> dict[str, Any]:
    """A file with a decode speed whose interval is 1.96 standard errors, of `error` of the value each, to either side."""
    key = "cpu.decode_tokens_per_s"
    limits = {f"{key}_low": speed * math.exp(-1.96 * error), f"{key}_high": speed * math.exp(1.96 * error)}
    return {key: speed, "machine.hash": "m1", "cpu.n": n, **limits, **more}


def side(*files: dict[str, Any]) -> Side:
    return Side("side", {f"{FOLDER}/v{i}.json": each for i, each in enumerate(files)})


def verdicts(old: Side, new: Side) -> list[tuple[str, str]]:
    return [(each.verdict, each.why) for each in judge.compare(old, new, TOLERANCES).changes]


def test_the_p_value_is_that_of_welchs_test_on_logarithms() -> None:
    """t = ln 2 / sqrt(2 * 0.1 ** 2) = 4.90 at 18 degrees of freedom: p = 0.000115 two-sided, by a table."""
    first, second = (
        Timing(speed, speed * math.exp(-1.96 * 0.1), speed * math.exp(1.96 * 0.1), 10) for speed in (1.0, 2.0)
    )
    assert timings.welch(first, second) == pytest.approx(1.15e-4, rel=0.02)
    assert timings.welch(second, first) == timings.welch(first, second)
    few = [Timing(each.value, each.low, each.high, 2) for each in (first, second)]
    assert timings.welch(*few) == pytest.approx(0.039, abs=0.001)  # 2 degrees of freedom


def test_the_degrees_of_freedom_are_those_of_the_side_that_varies() -> None:
    """t = ln 2 / 0.1 = 6.93 at 2 degrees of freedom: p = 0.0202 two-sided, by a table, however many rounds vary less."""
    steady, varying = Timing(1, 1, 1, 20), Timing(2, 2 * math.exp(-0.196), 2 * math.exp(0.196), 3)
    assert timings.welch(steady, varying) == pytest.approx(0.0202, abs=0.0002)


@pytest.mark.parametrize("section", ["cpu", "gpu"])
def test_the_rounds_of_energy_are_those_of_the_speeds(section: str) -> None:
    key = "energy.energy_j_per_query"
    found = timings.of({key: 2.0, f"{key}_low": 1.0, f"{key}_high": 3.0, f"{section}.n": 7}, key)
    assert found == Timing(2.0, 1.0, 3.0, 7)


def test_no_error_at_all_decides_by_the_values() -> None:
    assert timings.welch(Timing(1, 1, 1, 5), Timing(2, 2, 2, 5)) == 0.0
    assert timings.welch(Timing(1, 1, 1, 5), Timing(1, 1, 1, 5)) == 1.0


def test_the_level_holds_with_the_intervals_that_five_rounds_give() -> None:
    """Both sides from one distribution, with the bootstrap of the benchmark."""
    rng = np.random.default_rng(7)

    def measured() -> Timing:
        rounds = [[speed] for speed in np.exp(0.15 * rng.standard_normal(5))]
        statistic = partial(aggregate._percentile, 50)
        limits = aggregate.interval(rounds, statistic, seed=7)
        assert limits is not None
        return Timing(statistic(rounds), *limits, 5)

    found = [timings.welch(measured(), measured()) for _ in range(80)]
    assert sum(p < 0.05 for p in found) / len(found) < 0.09
    assert (
        sum(p < 0.5 for p in found) / len(found) > 0.25
    )  # it is a test, and not a way never to find anything


@pytest.mark.parametrize(
    ("error", "n", "verdict"),
    [(0.06, 10, "worse"), (0.1, 3, "no change"), (0.15, 10, "no change"), (0.0, 3, "worse")],
)
def test_a_slow_down_counts_where_the_rounds_show_it(error: float, n: int, verdict: str) -> None:
    ((found, why),) = verdicts(side(values(100, error, n)), side(values(70, error, n)))
    assert found == verdict
    assert why.startswith("beyond 0.1, adjusted p " if found == "worse" else "not significant (adjusted p ")


def test_it_takes_more_where_more_variants_are_compared() -> None:
    """Holm over the variants of a target; what was not measured anew is not compared, another target not counted."""
    error = 0.1
    alone = significance.p_values(side(values(100, error)), side(values(70, error)), None)
    first = f"{FOLDER}/v0.json", "cpu.decode_tokens_per_s"
    assert alone == {first: pytest.approx(0.0211, abs=0.0005)}
    others = [values(100, error) for _ in range(5)]
    moved = [values(101, error) for _ in range(5)]
    old, new = side(values(100, error), *others), side(values(70, error), *moved)
    assert significance.p_values(old, new, None)[first] == pytest.approx(6 * alone[first])
    assert verdicts(old, new)[0][0] == "no change"
    same = significance.p_values(old, side(values(70, error), *others), None)
    assert same == alone
    old, new = side(values(100, error)), side(values(70, error))
    for each, given in ((old, others), (new, moved)):
        each.metrics.update({f"metrics/bench/t4/v{i}.json": file for i, file in enumerate(given)})
    assert significance.p_values(old, new, None)[first] == alone[first]


def test_the_timings_of_a_variant_count_together_and_then_each() -> None:
    """Together they take no more than one, beside other variants; among each other each is one of all."""

    def variant(factor: float, prefill: float) -> dict[str, Any]:
        found = values(100 * factor, 0.08)
        for name in ("queries_per_s", "latency_ms_p50", "latency_ms_p95", "ttft_ms_p50"):
            more = values(100 * factor, 0.08)
            found |= {key.replace("decode_tokens_per_s", name): value for key, value in more.items()}
        more = values(100 * prefill, 0.08)
        return found | {key.replace("decode", "prefill"): value for key, value in more.items()}

    found = significance.p_values(side(variant(1, 1)), side(variant(0.7, 0.97)), None)
    by_name = {key.partition(".")[2]: p for (_, key), p in found.items()}
    assert by_name["decode_tokens_per_s"] == pytest.approx(
        0.0055 * 6, rel=0.01
    )  # Holm: the smallest, times six
    assert by_name["prefill_tokens_per_s"] > 0.5
    others = [variant(1, 1)] * 3
    beside = significance.p_values(
        side(variant(1, 1), *others), side(variant(0.7, 0.97), *[variant(1.01, 1)] * 3), None
    )
    first = f"{FOLDER}/v0.json", "cpu.decode_tokens_per_s"
    assert beside[first] == pytest.approx(
        0.0055 * 6, rel=0.01
    )  # four variants take 4 * 0.0071, which is less


def test_a_change_of_one_timing_lets_no_other_of_its_variant_pass() -> None:
    """0.03 by itself would do; beside the load time that gave the variant away, it is one of eight."""

    def variant(load: float, others: float) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name in ("decode_tokens_per_s", *(f"step{i}_ms_p50" for i in range(7))):
            more = values(100 * others, 0.08)
            found |= {key.replace("decode_tokens_per_s", name): value for key, value in more.items()}
        more = values(load, 0.08)
        return found | {key.replace("decode_tokens_per_s", "load_s"): value for key, value in more.items()}

    found = significance.p_values(side(variant(1, 1)), side(variant(3, 0.77)), None)
    by_name = {key.partition(".")[2]: p for (_, key), p in found.items()}
    assert by_name["load_s"] < 0.001
    assert by_name["decode_tokens_per_s"] > 0.05


def test_one_p_value_for_several() -> None:
    assert timings.cauchy_combination([0.01] * 8) == pytest.approx(0.01)
    assert timings.cauchy_combination([1e-6, *[0.5] * 7]) == pytest.approx(8e-6)  # as Bonferroni's
    assert timings.cauchy_combination([1e-6, *[1.0] * 7]) == pytest.approx(
        8e-6
    )  # nor does one near 1 hide it
    assert timings.cauchy_combination([0.0, 1.0]) < 1e-200
    assert timings.cauchy_combination([1.0]) == pytest.approx(0.5)


@pytest.mark.parametrize(
    "changed",
    [
        {"cpu.n": None},
        {"cpu.n": 2},
        {"cpu.n": math.inf},
        {"cpu.n": math.nan},
        {"cpu.decode_tokens_per_s_low": math.nan},
        {"cpu.decode_tokens_per_s": math.nan},
        {"cpu.decode_tokens_per_s_high": math.inf},
        {"cpu.decode_tokens_per_s_high": 10**400},
        {"cpu.decode_tokens_per_s_low": 101.0},
        {"cpu.decode_tokens_per_s_low": "x"},
        {"cpu.decode_tokens_per_s_low": 0.0},
        {"cpu.n": "x"},
    ],
)
def test_without_rounds_or_limits_there_is_no_test(changed: dict[str, Any]) -> None:
    assert timings.of({**values(100), **changed}, "cpu.decode_tokens_per_s") is None
    assert timings.of(values(100), "cpu.decode_tokens_per_s") is not None


def test_a_section_without_rounds_has_those_of_its_file() -> None:
    energy = {
        f"energy.energy_j_per_query{end}": 1.0 + add for end, add in (("", 0), ("_low", -0.1), ("_high", 0.1))
    }
    found = timings.of({**values(100), **energy}, "energy.energy_j_per_query")
    assert found == Timing(1.0, 0.9, 1.1, 10)


def test_memory_and_another_machine_are_not_tested() -> None:
    memory = {f"cpu.peak_rss_mib{end}": 60.0 + add for end, add in (("", 0), ("_low", -1), ("_high", 1))}
    more = {name: value * 2 for name, value in memory.items()}
    keys = significance.p_values(side(values(100, **memory)), side(values(70, **more)), None)
    assert [key for _, key in keys] == ["cpu.decode_tokens_per_s"]
    other = {"machine.hash": "m2"}
    assert significance.p_values(side(values(100)), side({**values(70), **other}), None) == {}


def test_beside_controls_the_machines_share_is_taken_off() -> None:
    ratios = {f"v{i}": [drift.Ratio(0.7, 0.03)] for i in range(1, 5)}
    controls = drift.Drift({"cpu": {"decode_tokens_per_s": ratios}})
    old, new = side(values(100)), side(values(70))
    assert next(iter(significance.p_values(old, new, None).values())) < 1e-6
    assert next(iter(significance.p_values(old, new, controls).values())) > 0.4


def test_controls_that_lie_apart_are_less_sure_a_control() -> None:
    """ln of 0.8, 0.9, 1, 1.1 and 1.2 has a variance of 0.0257, of which their rounds explain 0.0009, or all of it."""
    ratios = {f"v{i}": [drift.Ratio(factor, 0.03)] for i, factor in enumerate((0.8, 0.9, 1.0, 1.1, 1.2), 1)}
    found = drift.shift(ratios)
    assert found is not None
    assert found.error == pytest.approx(math.sqrt(math.pi / 2 * 0.0257 / 5 + 0.0257 - 0.0009), rel=0.01)
    noisy = drift.shift({name: [drift.Ratio(each[0].factor, 0.2)] for name, each in ratios.items()})
    assert noisy is not None
    assert noisy.error == pytest.approx(math.sqrt(math.pi / 2 * 0.0257 / 5), rel=0.01)
    old, new = side(values(100)), side(values(70))
    for apart, below in ((ratios, False), ({name: [drift.Ratio(1.0, 0.03)] for name in ratios}, True)):
        controls = drift.Drift({"cpu": {"decode_tokens_per_s": apart}})
        p = next(iter(significance.p_values(old, new, controls).values()))
        assert (p < 0.05) == below
