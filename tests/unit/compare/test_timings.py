"""A timing changed if its ratio to the reference model did, round by round, by more than chance and tolerance."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from cartlm.bench.rounds import REFERENCE, Rounds
from cartlm.compare import judge, report, timings
from cartlm.compare.comparison import Change, as_json
from cartlm.compare.load import Side
from cartlm.compare.timings import TimingChange, compare_rounds
from tests.unit.compare.planted import Metrics, measured
from tests.unit.compare.test_judge import TOLERANCES

VARIANTS = ("f16", "q8_0", "q6_k", "q4_k_m")
FOLDER = "metrics/bench/cpu"
METRICS = ("cpu.decode_tokens_per_s", "cpu.prefill_tokens_per_s", "cpu.queries_per_s")


def files(machine: float = 1.0, **factors: float) -> Metrics:
    """A benchmark of all variants on a machine that is `machine` as fast, some of them `factors` as fast on top."""
    found: Metrics = {
        f"{FOLDER}/{REFERENCE}.json": {"machine.hash": "m1", "engine.version": "1", "reference.seed": 7}
    }
    for name in VARIANTS:
        speed = machine * factors.get(name, 1.0)
        found[f"{FOLDER}/{name}.json"] = {
            "machine.hash": "m1",
            "cpu.decode_tokens_per_s": 100 * speed,
            "cpu.ttft_ms_p95": 10 / speed,
            "cpu.peak_rss_mib": 60.0,
        }
    for name, key in (("decode_tokens_per_s", 100 * machine), ("ttft_ms_p95", 100 / machine)):
        found[f"{FOLDER}/{REFERENCE}.json"][f"cpu.{name}"] = key
    return found


def side(machine: float = 1.0, **factors: float) -> Side:
    return measured(files(machine, **factors), machine=machine)


def changed(old: Side, new: Side) -> dict[tuple[str, str], str]:
    changes = judge.compare_sides(old, new, TOLERANCES).changes
    return {(each.variant, each.metric): each.verdict for each in changes if each.verdict != "no change"}


def find(old: Side, new: Side, variant: str, metric: str = "decode_tokens_per_s") -> Change:
    changes = judge.compare_sides(old, new, TOLERANCES).changes
    return next(each for each in changes if (each.variant, each.metric) == (variant, metric))


@pytest.mark.parametrize("machine", [0.5, 1.7])
def test_a_slow_machine_is_no_change_and_is_noted_once(machine: float) -> None:
    comparison = judge.compare_sides(side(), side(machine), TOLERANCES)
    assert {each.verdict for each in comparison.changes} == {"no change"}
    assert {each.variant for each in comparison.changes} == set(VARIANTS)  # the reference is none
    assert len(comparison.notes) == 1
    assert comparison.notes[0].startswith("cpu: timings are relative to the reference model")
    assert "peak_rss_mib" not in comparison.notes[0]
    speed = next(each for each in as_json(comparison)["changes"] if each["metric"] == "decode_tokens_per_s")
    assert speed["reference"] == pytest.approx(machine - 1, abs=0.03)
    assert speed["change"] == pytest.approx(0, abs=0.05)


@pytest.mark.parametrize("machine", [0.6, 1.0, 1.4])
def test_a_variant_that_moved_relative_to_the_reference_changed(machine: float) -> None:
    """On a machine of 1.4, the published numbers of the variant look as before."""
    slower = side(machine, q4_k_m=0.7)
    assert changed(side(), slower) == {
        ("q4_k_m", "decode_tokens_per_s"): "worse",
        ("q4_k_m", "ttft_ms_p95"): "worse",
    }
    assert set(changed(slower, side()).values()) == {"better"}


def test_a_variant_without_tokens_is_judged_by_its_latencies() -> None:
    def with_baseline(slow: float) -> Side:
        cpu = {"cpu.latency_ms_p50": 2 * slow, "cpu.queries_per_s": 450 / slow, "cpu.peak_rss_mib": 40.0}
        return measured({**files(), f"{FOLDER}/baseline.json": {"machine.hash": "m1", **cpu}})

    old, new = with_baseline(1.0), with_baseline(1.6)
    assert changed(old, with_baseline(1.0)) == {}
    assert changed(old, new) == {
        ("baseline", "latency_ms_p50"): "worse",
        ("baseline", "queries_per_s"): "worse",
    }
    comparison = judge.compare_sides(old, new, TOLERANCES)
    assert not comparison.lost
    drawn = report.chart_values(comparison, "cpu", report.SPEED)
    assert {name for name, _, _ in drawn} == set(VARIANTS), "it has no bar of 0"


def test_all_variants_slower_than_the_reference_are_all_worse() -> None:
    """As after a fine-tuning that makes every model another one: no unchanged variant is needed."""
    found = changed(side(), side(0.8, **dict.fromkeys(VARIANTS, 0.7)))
    assert found == {
        (name, metric): "worse" for name in VARIANTS for metric in ("decode_tokens_per_s", "ttft_ms_p95")
    }


def test_memory_is_compared_without_the_reference() -> None:
    new = side()
    for values in new.metrics.values():
        values["cpu.peak_rss_mib"] = 90.0
    assert changed(side(), new) == {(name, "peak_rss_mib"): "worse" for name in VARIANTS}


def test_without_a_reference_timings_are_not_comparable() -> None:
    old = replace(side(), rounds={})
    comparison = judge.compare_sides(old, side(0.5), TOLERANCES)
    assert comparison.notes == [
        f"cpu: timings are not comparable, measured without a reference model: {', '.join(sorted(VARIANTS))}."
    ]
    assert find(old, side(0.5), "f16").verdict == "not comparable"
    assert find(old, replace(side(0.5), rounds={}), "f16").verdict == "not comparable"
    assert find(old, replace(side(), rounds={}), "f16").verdict == "no change"  # equal


@pytest.mark.parametrize("gone", ["rounds", "variant", "reference"])
def test_rounds_that_are_gone_count_as_lost(gone: str) -> None:
    """Else a commit could hide a slow-down by leaving out its rounds."""
    new = side(f16=0.5)
    rounds = {
        key: value for key, value in new.rounds["cpu"].items() if key[0] != {"variant": "f16"}.get(gone, gone)
    }
    new = replace(new, rounds={} if gone == "rounds" else {"cpu": rounds})
    comparison = judge.compare_sides(side(), new, TOLERANCES)
    assert comparison.regression
    assert ("f16", "decode_tokens_per_s") in {(each.variant, each.metric) for each in comparison.lost}


def test_a_reference_file_that_is_gone_is_lost() -> None:
    new = side()
    del new.metrics[f"{FOLDER}/{REFERENCE}.json"]
    assert {each.variant for each in judge.compare_sides(side(), new, TOLERANCES).lost} == {REFERENCE}


def test_another_reference_model_is_not_comparable() -> None:
    new = side(f16=0.5)
    new.metrics[f"{FOLDER}/{REFERENCE}.json"]["reference.seed"] = 8
    assert find(side(), new, "f16").why == "the reference model changed"


def test_another_machine_is_not_comparable() -> None:
    new = side(0.5)
    for values in new.metrics.values():
        values["machine.hash"] = "m2"
    assert set(changed(side(), new).values()) == {"not comparable"}


def test_another_engine_is_judged_by_the_reference_itself() -> None:
    """What slows every model alike divides out; only the reference's own timings show it."""
    new = side(0.5)
    for values in new.metrics.values():
        values["engine.version"] = "2"
    assert changed(side(), new) == {
        (REFERENCE, "decode_tokens_per_s"): "worse",
        (REFERENCE, "ttft_ms_p95"): "worse",
    }


def test_figures_left_out_as_too_noisy_are_not_lost() -> None:
    new = side()
    del new.metrics[f"{FOLDER}/f16.json"]["cpu.ttft_ms_p95"]
    new.metrics[f"{FOLDER}/machine.json"] = {"details.left_out": "q8_0 cpu.load_s, f16 cpu.ttft_ms_p95"}
    comparison = judge.compare_sides(side(), new, TOLERANCES)
    assert (comparison.having("removed")[0].variant, comparison.lost) == ("f16", [])


def test_a_variant_left_out_as_unsteady_is_not_lost() -> None:
    new = side()
    del new.metrics[f"{FOLDER}/f16.json"]
    new.metrics[f"{FOLDER}/machine.json"] = {
        "details.unsteady": "f16: the rounds' latencies spread by 50 %; idle?"
    }
    comparison = judge.compare_sides(side(), new, TOLERANCES)
    assert {change.variant for change in comparison.having("removed")} == {"f16"}
    assert comparison.lost == []
    new.metrics[f"{FOLDER}/machine.json"] = {"details.unsteady": "q8_0: the rounds' latencies spread by 50 %"}
    assert judge.compare_sides(side(), new, TOLERANCES).lost


def test_kernels_and_batches_are_divided_by_the_reference_s_single_queries() -> None:
    def card(kernel: float) -> Side:
        speeds = {"kernel_marlin.decode_tokens_per_s": 90 * kernel, "batch_8.decode_tokens_per_s": 300.0}
        return measured({"metrics/bench/t4/int8.json": {"machine.hash": "t4", **speeds}})

    assert changed(card(1.0), card(0.6)) == {("int8", "kernel_marlin.decode_tokens_per_s"): "worse"}


def noisy(seed: int, n: int = 10, slow: str = "", variants: int = 7) -> Rounds:
    """Rounds with slow minutes that all models share, and with slow processes of single ones."""
    draw = random.Random(seed)
    names = [REFERENCE, *(f"v{i}" for i in range(variants))]
    rounds: Rounds = {(name, metric): {} for name in names for metric in METRICS}
    session = draw.choice([1.0, 0.75])
    for i in range(n):
        minute = session * draw.gauss(1, 0.12)
        for name in names:
            own = draw.gauss(1, 0.05) * (draw.uniform(0.6, 0.9) if draw.random() < 0.15 else 1)
            for metric in METRICS:
                factor = minute * own * draw.gauss(1, 0.03) * (0.7 if name == slow else 1)
                rounds[name, metric][i] = 1000 * factor
    return rounds


def flagged(old: Rounds, new: Rounds) -> set[str]:
    """Variants of which a speed changed, beyond a tolerance of 15 %."""
    results = compare_rounds(old, new, [key for key in old if key[0] != REFERENCE])
    return {
        variant
        for (variant, _), result in results.items()
        if isinstance(result, TimingChange) and result.p < 0.05 and abs(result.change) > 0.15
    }


def test_shared_slow_minutes_give_no_false_alarm_and_a_planted_slow_down_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(timings, "SHUFFLES", 500)
    trials = 12
    assert [flagged(noisy(i), noisy(100 + i)) for i in range(trials)] == [set()] * trials
    found = [flagged(noisy(i), noisy(100 + i, slow="v3")) for i in range(trials)]
    assert found.count({"v3"}) >= trials - 2


def test_p_is_corrected_for_the_number_of_timings() -> None:
    draw = random.Random(3)
    before, after = ([[draw.gauss(0, 1) for _ in range(5)] for _ in range(40)] for _ in range(2))
    alone = min(timings.permutation_test(before[i : i + 1], after[i : i + 1])[0] for i in range(40))
    together = min(timings.permutation_test(before, after))
    assert alone < 0.05 < together
    assert timings.permutation_test([], []) == []


def test_three_rounds_show_nothing() -> None:
    def few(n: int) -> Change:
        return find(measured(files(), n=n), measured(files(f16=0.1), n=n), "f16")

    assert (few(3).verdict, few(4).verdict) == ("not comparable", "worse")


def test_a_round_without_a_value_is_not_comparable() -> None:
    new = side(f16=0.5)
    del new.rounds["cpu"]["f16", "cpu.decode_tokens_per_s"][2]
    assert find(side(), new, "f16").why == "not measured in every round"


def test_json_has_no_more_than_plain_values() -> None:
    values: dict[str, Any] = as_json(judge.compare_sides(side(), side(0.5), TOLERANCES))
    assert {type(each["change"]) for each in values["changes"]} <= {float, type(None)}


def test_a_published_speed_that_its_rounds_contradict_is_noted() -> None:
    new = side()
    new.metrics[f"{FOLDER}/f16.json"]["cpu.decode_tokens_per_s"] = 50.0
    notes = judge.compare_sides(side(), new, TOLERANCES).notes
    assert [note for note in notes if f"{FOLDER}/f16.json has cpu.decode_tokens_per_s 50" in note]
