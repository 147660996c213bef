"""What counts as a change: tolerance and interval for what is measured, a paired test for exact match."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest

from cartlm.compare import judge, report, rules
from cartlm.compare.comparison import Change, Comparison, as_json
from cartlm.compare.load import Side
from cartlm.errors import UserError
from cartlm.metrics import Outcome
from tests.unit.compare.planted import measured, rounds_of

TOLERANCES = {
    "accuracy": 0.005, "speed": 0.1, "latency": 0.1, "load": 0.5, "memory": 0.05, "energy": 0.1, "size": 0.01, "loss": 0.1,
}  # fmt: skip
BENCH = "metrics/bench/cpu/q8_0.json"
BENCH_MACHINE = "metrics/bench/cpu/machine.json"
EVAL = "metrics/eval/q8_0.json"


def bench(
    low: float, middle: float, high: float, name: str = "decode_tokens_per_s", **more: Any
) -> dict[str, Any]:
    key = f"cpu.{name}"
    values = {
        key: middle,
        f"{key}_low": low,
        f"{key}_high": high,
        "machine.hash": "m1",
        "machine.name": "a CPU",
    }
    return values | {key.replace("__", "."): value for key, value in more.items()}


def rows(exact: int, wrong: int, start: int = 0) -> list[Outcome]:
    names = ["exact"] * exact + ["wrong"] * wrong
    return [Outcome(f"test-{start + i}", name, "") for i, name in enumerate(names)]


def evaluated(outcomes: list[Outcome], name: str = "old", rows_hash: str = "r1", **more: Any) -> Side:
    share = sum(each.outcome == "exact" for each in outcomes) / len(outcomes)
    values = {"free.n": len(outcomes), "free.exact_match": share}
    values |= {key.replace("__", "."): value for key, value in more.items()}
    return Side(name, {EVAL: values}, {"q8_0": outcomes}, {"q8_0": rows_hash})


def one(old: dict[str, Any], new: dict[str, Any], file: str = BENCH) -> Change:
    found = judge.compare_sides(
        measured({file: old}, "old"), measured({file: new}, "new"), TOLERANCES
    ).changes
    assert len(found) == 1, found
    return found[0]


@pytest.mark.parametrize(
    ("new", "verdict"),
    [
        ((95, 100, 105), "no change"),
        ((88, 91, 93), "no change"),  # within the tolerance
        ((60, 70, 96), "no change"),  # the intervals overlap
        ((65, 70, 75), "better"),
        ((125, 130, 135), "worse"),
    ],
)
def test_memory_counts_beyond_tolerance_and_interval(new: tuple[float, float, float], verdict: str) -> None:
    name = "peak_rss_mib"
    tolerances = TOLERANCES | {"memory": 0.1}
    sides = [Side("", {BENCH: bench(low, middle, high, name)}) for low, middle, high in ((95, 100, 105), new)]
    (change,) = judge.compare_sides(sides[0], sides[1], tolerances).changes
    assert change.verdict == verdict
    assert change.change == pytest.approx((new[1] - 100) / 100)
    assert (change.target, change.variant, change.metric) == ("cpu", "q8_0", "peak_rss_mib")


@pytest.mark.parametrize(
    ("name", "kind", "more_is"),
    [
        ("decode_tokens_per_s", "speed", "better"),
        ("prefill_tokens_per_s", "speed", "better"),
        ("queries_per_s", "speed", "better"),
        ("latency_ms_p95", "latency", "worse"),
        ("first_token_ms_p50", "latency", "worse"),
        ("load_s", "load", "worse"),
        ("peak_rss_mib", "memory", "worse"),
        ("run_peak_rss_mib", "memory", "worse"),
        ("vram_reserved_mib", "memory", "worse"),
        ("energy_j_per_query", "energy", "worse"),
        ("size_mib", "size", "worse"),
    ],
)
def test_every_kind_has_its_direction(name: str, kind: str, more_is: str) -> None:
    change = one(bench(95, 100, 105, name), bench(195, 200, 205, name))
    assert (change.kind, change.verdict) == (kind, more_is)
    assert one(bench(195, 200, 205, name), bench(95, 100, 105, name)).verdict != more_is


@pytest.mark.parametrize(
    "name",
    [
        "latency_ms_p99",
        "latency_ms_p50_in_flight_4",
        "queries_per_s_in_flight_4",
        "run_peak_cgroup_mib",
        "baseline_rss_mib",
        "run_rss_anon_mib",
        "load1",
        "wall_s",
        "n",
        "other_cpus",
        "llama_bench_decode_tokens_per_s",
        "decode_ratio",
    ],
)
def test_what_is_no_quality_of_the_product_is_not_judged(name: str) -> None:
    sides = [Side("", {BENCH: bench(v, v, v, name)}) for v in (1.0, 9.0)]
    assert judge.compare_sides(sides[0], sides[1], TOLERANCES).changes == []


def test_every_kind_has_a_tolerance_in_params() -> None:
    from cartlm.compare.config import Compare

    assert {kind for _, kind, _ in rules.RULES} == set(Compare.model_fields)


def test_another_machine_does_not_compare_but_its_file_sizes_do() -> None:
    old = bench(95, 100, 105, cpu__size_mib=4.0)
    new = bench(65, 70, 75, cpu__size_mib=5.0, machine__hash="m2", machine__name="another")
    found = judge.compare_sides(Side("old", {BENCH: old}), Side("new", {BENCH: new}), TOLERANCES)
    assert {change.metric: change.verdict for change in found.changes} == {
        "decode_tokens_per_s": "not comparable",
        "size_mib": "worse",
    }
    assert any("another (m2): q8_0" in note for note in found.notes)
    assert one(bench(95, 100, 105), bench(65, 70, 75, machine__hash=None)).verdict == "not comparable"


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ({"instructions": "avx avx2"}, {"instructions": "avx avx_vnni"}, ", with avx_vnni; without avx2: q8_0."),
        ({"build": "native"}, {"build": "portable"}, ", build was native, is portable: q8_0."),
        ({"build_compiler": "c++ 12", "instructions": "avx"}, {"build_compiler": "c++ 14"}, ", build_compiler was "),
        ({"kernel": "6.1", "instructions": "avx"}, {"kernel": "6.2", "instructions": "avx"}, "(m2): q8_0."),
    ],
)  # fmt: skip
def test_what_the_names_of_two_machines_do_not_tell(
    before: dict[str, str], after: dict[str, str], words: str
) -> None:
    sides = []
    for number, (details, values) in enumerate(((before, "m1"), (after, "m2"))):
        described = {f"details.{name}": value for name, value in details.items()}
        metrics = {BENCH: bench(95, 100, 105, machine__hash=values), BENCH_MACHINE: described}
        sides.append(Side(str(number), metrics))
    (note,) = [
        each for each in judge.compare_sides(sides[0], sides[1], TOLERANCES).notes if "not comparable" in each
    ]
    assert words in note


@pytest.mark.parametrize(
    "file", ["metrics/parity.json", "metrics/merge.json", "metrics/bench/t4/merged.json"]
)
def test_what_has_no_outcomes_rests_on_the_same_test_rows(file: str) -> None:
    section = "kernel_marlin." if "t4" in file else ""
    name = f"{section}{'exact_match' if section else 'agreement'}"
    old, new = evaluated(rows(900, 100)), evaluated(rows(900, 100), "new")
    for side, share in ((old, 1.0), (new, 0.9)):
        side.metrics[file] = {name: share, "machine.hash": "m1"}

    def verdict() -> str:
        return next(
            each.verdict for each in judge.compare_sides(old, new, TOLERANCES).changes if each.metric == name
        )

    assert verdict() == "worse"
    new.rows["q8_0"] = "r2"
    assert verdict() == "not comparable"


def test_a_kernel_is_compared_by_its_interval_and_rows() -> None:
    card = "metrics/bench/t4/int4.json"

    def kernel(share: float, n: int = 1000) -> dict[str, Any]:
        key = "kernel_marlin.exact_match"
        limits = {f"{key}_low": share - 0.015, f"{key}_high": share + 0.015}
        return {key: share, **limits, "kernel_marlin.n_accuracy": n, "machine.hash": "m1"}

    def verdict(old: dict[str, Any], new: dict[str, Any]) -> str:
        return (
            judge.compare_sides(Side("", {card: old}), Side("", {card: new}), TOLERANCES).changes[0].verdict
        )

    assert verdict(kernel(0.94), kernel(0.934)) == "no change"
    assert verdict(kernel(0.94), kernel(0.8)) == "worse"
    assert verdict(kernel(0.94), kernel(0.8, n=500)) == "not comparable"


@pytest.mark.parametrize(
    "kind", ["energy.energy_j_per_query", "cpu.load_s", "cpu.latency_ms_p50", "cpu.peak_rss_mib"]
)
def test_whatever_a_machine_makes_is_not_compared_with_another(kind: str) -> None:
    old = {kind: 1.0, "machine.hash": "m1", "energy.energy_kind": "measured"}
    assert one(old, old | {kind: 9.0}).verdict == "worse"
    assert one(old, old | {kind: 9.0, "machine.hash": "m2"}).verdict == "not comparable"


@pytest.mark.parametrize("name", ["version", "kernel", "threads"])
def test_another_engine_is_told(name: str) -> None:
    sides = [Side("", {BENCH: bench(95, 100, 105) | {f"engine.{name}": value}}) for value in ("a", "b")]
    assert judge.compare_sides(sides[0], sides[1], TOLERANCES).notes == [
        f"cpu: engine.{name} was a, is b: q8_0."
    ]


def test_a_benchmark_beside_other_programs_is_noted() -> None:
    weak = bench(95, 100, 105) | {"cpu.other_cpus": 1.7}
    found = judge.compare_sides(
        Side("old", {BENCH: bench(95, 100, 105)}), Side("new", {BENCH: weak}), TOLERANCES
    )
    assert found.notes == [
        "cpu of new: measured while others kept more than 0.2 CPUs busy (other_cpus): q8_0."
    ]


def test_outcomes_of_the_same_rows_that_do_not_pair_are_broken() -> None:
    """Not `other rows`: a file with a row twice would hide any loss."""
    new = evaluated(rows(0, 1000), "new")
    new.outcomes["q8_0"].append(new.outcomes["q8_0"][0])
    old = evaluated(rows(900, 100))
    assert old.rows == new.rows == {"q8_0": "r1"}
    with pytest.raises(
        UserError, match=r"metrics/outcomes/q8_0.csv of old and new are of the same test rows"
    ):
        judge.compare_sides(old, new, TOLERANCES)


def test_removed_numbers_are_in_the_headline() -> None:
    found = judge.compare_sides(
        Side("old", {BENCH: bench(95, 100, 105)}), Side("new", {EVAL: {}}), TOLERANCES
    )
    assert report.headline(found).endswith("1 removed")


def test_a_measured_and_an_estimated_energy_do_not_compare() -> None:
    key = "energy.energy_j_per_query"
    old = {key: 1.0, "energy.energy_kind": "measured", "machine.hash": "m1"}
    assert one(old, old | {key: 2.0}).verdict == "worse"
    assert one(old, old | {key: 2.0, "energy.energy_kind": "estimated"}).verdict == "not comparable"


def test_a_paired_loss_is_worse_and_a_gain_better() -> None:
    loss = judge.compare_sides(
        evaluated(rows(900, 100)), evaluated(rows(870, 130), "new"), TOLERANCES
    ).changes[0]
    assert (loss.verdict, loss.metric) == ("worse", "free.exact_match")
    assert loss.change == pytest.approx(-0.03)
    assert loss.paired is not None
    assert (loss.paired.pairs.lost, loss.paired.pairs.won) == (30, 0)
    gain = judge.compare_sides(
        evaluated(rows(870, 130)), evaluated(rows(900, 100), "new"), TOLERANCES
    ).changes[0]
    assert gain.verdict == "better"


def test_the_same_loss_in_unpaired_noise_is_no_change() -> None:
    """900 and 880 of 1,000 right, but 110 rows lost and 90 won."""
    new = [
        Outcome(each.id, "exact" if i >= 110 and i < 990 else "wrong", "")
        for i, each in enumerate(rows(900, 100))
    ]
    found = judge.compare_sides(evaluated(rows(900, 100)), evaluated(new, "new"), TOLERANCES).changes[0]
    assert found.change == pytest.approx(-0.02)
    assert found.verdict == "no change"
    assert "not significant" in found.why


def test_a_significant_loss_within_the_tolerance_is_no_change() -> None:
    wide = TOLERANCES | {"accuracy": 0.05}
    assert (
        judge.compare_sides(evaluated(rows(900, 100)), evaluated(rows(870, 130)), wide).changes[0].verdict
        == "no change"
    )


def test_holm_runs_over_all_variants_of_the_comparison() -> None:
    """Seven lost rows and none won: p = 0.016, which is 0.05 or more as the least of four."""
    pairs = rows(900, 100), rows(893, 107)
    alone = judge.compare_sides(evaluated(pairs[0]), evaluated(pairs[1]), TOLERANCES).changes[0]
    assert alone.verdict == "worse"
    sides = []
    for mine in pairs:
        side = evaluated(mine)
        for name in ("a", "b", "c"):
            side.outcomes[name] = rows(900, 100)
            side.rows[name] = "r1"
        sides.append(side)
    among = judge.compare_sides(sides[0], sides[1], TOLERANCES).changes[0]
    assert among.paired is not None
    assert among.paired.p_adjusted == pytest.approx(4 * among.paired.p)
    assert among.verdict == "no change"


@pytest.mark.parametrize(
    "new",
    [
        evaluated(rows(500, 500), rows_hash="r2"),  # the same ids, other rows
        replace(evaluated(rows(500, 500, start=1)), rows={}),  # of a commit without a dvc.lock
        replace(evaluated(rows(500, 400)), rows={}),
    ],
)
def test_other_test_rows_are_not_paired_and_no_regression(new: Side) -> None:
    found = judge.compare_sides(evaluated(rows(900, 100), free__unparseable=0.0), new, TOLERANCES)
    assert {change.verdict for change in found.changes} <= {"not comparable", "removed"}
    assert any("the test rows differ" in note and "nothing is paired" in note for note in found.notes)


def test_shares_without_outcomes_are_judged_by_their_wilson_intervals() -> None:
    def side(share: float) -> dict[str, Any]:
        return {"header.exact_match": share, "header.n": 1000}

    assert one(side(0.90), side(0.88), EVAL).verdict == "no change"
    assert one(side(0.90), side(0.80), EVAL).verdict == "worse"
    parity = "metrics/parity.json"
    assert one({"agreement": 1.0, "n": 1000}, {"agreement": 0.9, "n": 1000}, parity).verdict == "worse"
    down = {"free.unparseable": 0.2, "free.n": 1000}
    assert one(down, down | {"free.unparseable": 0.01}, EVAL).verdict == "better"


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"natural.n": 100}, "another number of rows: 364, then 100"),
        ({"natural.rows": "bb"}, "other rows: aa, then bb"),
    ],
)
def test_sections_on_other_rows_do_not_compare(changed: dict[str, Any], why: str) -> None:
    before = {"natural.exact_match": 0.9, "natural.n": 364, "natural.rows": "aa"}
    found = one(before, {**before, "natural.exact_match": 0.5, **changed}, EVAL)
    assert (found.verdict, found.why) == ("not comparable", why)
    assert one(before, {**before, "natural.exact_match": 0.5}, EVAL).verdict == "worse"


def test_slices_are_not_judged_one_by_one() -> None:
    sides = [Side("", {EVAL: {"free_slices.exact_match": v, "free_slices.novel": v}}) for v in (0.9, 0.1)]
    assert judge.compare_sides(sides[0], sides[1], TOLERANCES).changes == []


def test_variants_that_came_and_went_are_named() -> None:
    other = BENCH.replace("q8_0", "q2_k")
    found = judge.compare_sides(
        Side("old", {BENCH: bench(9, 10, 11)}), Side("new", {other: bench(9, 10, 11)}), TOLERANCES
    )
    assert {change.variant: change.verdict for change in found.changes} == {
        "q8_0": "removed",
        "q2_k": "added",
    }
    assert any("no longer measured: q8_0" in note for note in found.notes)


@pytest.mark.parametrize(("listed", "lost"), [("q8_0", {"q8_0"}), ("q2_k", set())])
def test_numbers_of_a_variant_that_neither_side_lists_may_go(listed: str, lost: set[str]) -> None:
    """A variant left params.yaml in an earlier commit, whose `make repro` did not run: the next one removes its files."""
    params = {"params.yaml": {"gguf": {listed: {}}}}
    old = Side("old", {EVAL: {"free.exact_match": 0.9}, BENCH: bench(9, 10, 11)}, params=params)
    found = judge.compare_sides(old, Side("new", {}, params=params), TOLERANCES)
    assert {change.variant for change in found.lost} == lost


def test_a_new_engine_and_inconsistent_files_are_noted() -> None:
    old, new = evaluated(rows(9, 1), engine__version="1"), evaluated(rows(9, 1), engine__version="2")
    assert judge.compare_sides(old, new, TOLERANCES).notes == ["accuracy: engine.version was 1, is 2: q8_0."]
    inconsistent = evaluated(rows(900, 100), "new", free__exact_match=0.7)
    note = judge.compare_sides(evaluated(rows(900, 100)), inconsistent, TOLERANCES).notes[-1]
    assert note == "in new, metrics/eval/q8_0.json has 0.7 exact, its outcomes have 0.9."


def test_from_nothing_to_something_has_no_percentage() -> None:
    change = one(bench(0, 0, 0, "peak_rss_mib"), bench(1, 1, 1, "peak_rss_mib"))
    assert (change.change, change.verdict) == (None, "worse")
    assert json.dumps(as_json(judge.compare_sides(Side("", {}), Side("", {}), TOLERANCES)))


@pytest.mark.parametrize(
    "file",
    [
        "metrics.json",
        "metrics/summary.json",
        "x/y.json",
        BENCH_MACHINE,
        "metrics/data.json",
    ],
)
def test_other_files_are_not_judged(file: str) -> None:
    assert rules.target_and_variant(file)[0] == ""


def comparison() -> Comparison:
    old, new = evaluated(rows(900, 100)), evaluated(rows(870, 130), "new")
    for side, speed in ((old, 100), (new, 200)):
        side.metrics[BENCH] = bench(speed - 5, speed, speed + 5, cpu__peak_rss_mib=60.0)
        side.rounds.update(rounds_of(side.metrics))
        side.outcomes["f16"] = rows(900, 100)
        side.rows["f16"] = "r1"
        side.params["params.yaml"] = {"eval": {"batch_size": 32 if side is old else 8}}
    return judge.compare_sides(old, new, TOLERANCES)


def test_markdown_shows_what_changed_with_arrows_and_counts_the_rest() -> None:
    text = report.format_report(comparison())
    assert text.startswith("# old → new: 1 worse (accuracy q8_0); 1 better (cpu q8_0)\n")
    assert "| eval.batch_size | 32 | 8 |" in text
    assert "| q8_0 | free.exact_match | 0.9 | 0.87 | ↓ −3.0 [" in text
    assert "30 rows lost, 0 won of 1,000" in text
    assert re.search(
        r"\| q8_0 \| decode_tokens_per_s \| 100 \| 200 \| ↑ \+(9\d|10\d)\.\d % \| better \|", text
    )
    assert "Not shown: 1 no change." in text
    assert "peak_rss_mib" not in text
    assert "peak_rss_mib | 60 | 60 |" in report.format_report(comparison(), everything=True)
    assert "## Variants against f16, new" in text
    assert text.index("## Accuracy") < text.index("## Hardware target cpu")


def test_markdown_of_no_change_says_so() -> None:
    side = evaluated(rows(900, 100))
    side.metrics[BENCH] = bench(9, 10, 11)
    text = report.format_report(judge.compare_sides(side, side, TOLERANCES))
    assert text.startswith("# old → old: no change\n")
    assert "## Params\n\nNo change." in text
    assert text.count("No change (1 judged).") == 2


def test_the_headline_does_not_call_it_no_change_where_nothing_compares() -> None:
    sides = [Side("s", {BENCH: bench(9, 10, 11, machine__hash=mark)}) for mark in ("a", "b")]
    assert report.headline(judge.compare_sides(sides[0], sides[1], TOLERANCES)) == "nothing is comparable"
    sides[0].metrics[EVAL] = sides[1].metrics[EVAL] = {"header.exact_match": 0.5, "header.n": 10}
    assert (
        report.headline(judge.compare_sides(sides[0], sides[1], TOLERANCES)) == "no change; 1 not comparable"
    )


def test_variants_come_in_the_order_of_params_and_servers_are_no_variants() -> None:
    outcomes = {name: rows(900, 100) for name in ("f16", "q2_k", "q8_0", "gpt-4-1")}
    params: dict[str, Any] = {
        "params.yaml": {"reference": {"f16": {}}, "gguf": {"q8_0": {}, "q2_k": {}}, "remote": {"gpt-4-1": {}}}
    }
    side = Side("s", {}, outcomes, params=params)
    found = judge.compare_sides(side, side, TOLERANCES)
    assert [each.variant for each in found.against_f16] == ["q8_0", "q2_k"]


def test_json_has_everything() -> None:
    values = json.loads(json.dumps(as_json(comparison()), allow_nan=False))
    assert (values["worse"], values["better"]) == (1, 1)
    first = values["changes"][0]
    assert first["paired"]["lost"] == 30
    assert first["paired"]["p_adjusted"] < 1e-6
    assert values["params"] == [{"file": "params.yaml", "key": "eval.batch_size", "old": 32, "new": 8}]
    assert values["variants_against_f16"][0]["variant"] == "q8_0"


def test_energy_estimated_from_other_watts_does_not_compare() -> None:
    file = "metrics/bench/cpu/q8_0.json"

    def side(watts: str) -> Side:
        about = {"energy.energy_kind": "estimated", "energy.energy_source": watts, "machine.hash": "m"}
        return Side("", {file: about | {"energy.energy_j_per_query": float(watts.split()[0])}})

    (change,) = judge.compare_sides(side("9 W"), side("3 W"), TOLERANCES).changes
    assert change.verdict == "not comparable"


def test_a_loss_on_other_rows_does_not_compare() -> None:
    from cartlm.pipeline.dvc_lock import Stage

    def side(loss: float, md5: str) -> Side:
        file = "metrics/gptq/int8.json"
        stage = Stage({file: 1}, {"data/calibration.jsonl": md5}, {}, {})
        return Side("", {file: {"quantize.loss_mean": loss}}, stages={"quantize-gptq@int8": stage})

    for md5, verdict in (("a", "worse"), ("b", "not comparable")):
        (change,) = judge.compare_sides(side(1e-7, "a"), side(9e-7, md5), TOLERANCES).changes
        assert change.verdict == verdict


def test_the_merge_that_is_not_kept_and_the_adapter_are_not_judged() -> None:
    values = {
        "agreement": 0.9,
        "onto_nf4.agreement": 0.9,
        "onto_16_bit.exact_match": 0.9,
        "adapter.exact_match": 0.9,
    }
    assert [key for key, _, _ in rules.judged_metrics(values)] == ["agreement"]
