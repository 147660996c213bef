"""Statistics of a benchmark on numbers known beforehand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cartlm.bench import aggregate, publish
from cartlm.bench.energy import Watts
from cartlm.bench.plan import Model, Plan, Target
from cartlm.errors import UserError
from cartlm.metrics import read_metrics


def record(round: int, latencies: list[float], **more: Any) -> dict[str, Any]:
    queries = [
        {
            "latency_s": s,
            "ttft_s": s / 4,
            "prompt_tokens": 100,
            "decode_s": s * 0.6,
            "prefill_s": s * 0.2,
            "decoded_tokens": 20,
            "stopped": True,
            "exact": True,
        }
        for s in latencies
    ]
    return {
        "kind": "queries",
        "prefill_tokens_per_s": 100.0,
        "round": round,
        "load_s": 0.1 * (round + 1),
        "load1": 0.5,
        "wall_s": 2.0,
        "queries": queries,
        **more,
    }


def rounds(speeds: list[float], **more: Any) -> list[dict[str, Any]]:
    return [record(i, [0.1] * 4, decode_tokens_per_s=s, **more) for i, s in enumerate(speeds)]


def test_summary() -> None:
    records = [record(round, [0.01 * (i + 1 + round) for i in range(10)]) for round in range(5)]
    found = aggregate.queries(records, 3 * 2**20, seed=7)
    pooled = [1000 * query["latency_s"] for r in records for query in r["queries"]]
    assert found["n"] == 5
    assert found["queries"] == 50
    assert found["size_mib"] == 3
    assert found["load_s"] == pytest.approx(0.3)
    assert found["latency_ms_p50"] == pytest.approx(np.percentile(pooled, 50))
    assert found["latency_ms_p95"] == pytest.approx(np.percentile(pooled, 95))
    for name in ("load_s", "latency_ms_p50", "latency_ms_p95"):
        assert found[f"{name}_low"] < found[name] < found[f"{name}_high"]
    assert (found["load1"], found["stopped"], found["wall_s"]) == (0.5, 1, 10)
    assert (
        not {"decode_tokens_per_s", "peak_rss_mib", "throttled_s", "other_cpus"} & found.keys()
    )  # not measured
    assert found == aggregate.queries(records, 3 * 2**20, seed=7)
    more = [{**r, "throttled_s": 0.5, "throttled_periods": 2, "other_cpus": r["round"]} for r in records]
    found = aggregate.queries(more, 1, seed=7)
    assert (found["throttled_s"], found["throttled_periods"], found["other_cpus"]) == (2.5, 10, 2)


def test_one_round_has_no_interval() -> None:
    found = aggregate.queries([record(0, [0.1, 0.2])], 1, seed=7)
    assert found["load_s"] == pytest.approx(0.1)
    assert not [name for name in found if name.endswith(("_low", "_high"))]
    same = aggregate.queries([record(0, [0.1]), record(0, [0.1])], 1, seed=7)
    assert same["load_s_low"] == same["load_s_high"] == same["load_s"]


def test_interval_covers_the_median(monkeypatch: pytest.MonkeyPatch) -> None:
    """About 94 % of such intervals hold the true value, of five rounds as of twelve (4,000 trials)."""
    monkeypatch.setattr(aggregate, "RESAMPLES", 300)
    rng, hits = np.random.default_rng(1), 0
    for seed in range(40):
        values = [[float(value)] for value in rng.normal(10, 1, size=5)]
        found = aggregate.with_interval("x", values, seed)
        hits += found["x_low"] <= 10 <= found["x_high"]
    assert 34 <= hits <= 40


def test_spread_is_of_speeds_not_of_prompts() -> None:
    other_prompts = [record(i, [0.1 * (i + 1)] * 4, decode_tokens_per_s=50.0) for i in range(5)]
    assert aggregate.spreads(other_prompts)["spread"] == 0
    assert aggregate.spreads(rounds([80, 90, 100, 110, 120]))["spread"] == pytest.approx(0.2)
    of_one_token = [record(i, [0.1] * 4, prefill_tokens_per_s=1000.0) for i in range(2)]
    for each in of_one_token:
        each.pop("decode_tokens_per_s", None)
    mixed = rounds([100, 110, 120], prefill_tokens_per_s=1000.0) + of_one_token
    assert aggregate.spreads(mixed)["spread"] == 0  # one quantity, the one that all rounds have


def slow_query(records: list[dict[str, Any]], factor: float) -> None:
    """One query of 20 in every other round decodes slower."""
    for record in records[::2]:
        record["queries"] = record["queries"] * 5
        record["queries"][0] = {**record["queries"][0], "decode_s": record["queries"][0]["decode_s"] * factor}
        record["queries"][1] = record["queries"][0]


def test_a_slow_tail_counts_as_spread() -> None:
    steady = rounds([100] * 6)
    assert aggregate.spreads(steady)["spread_p95"] == 0
    slow_query(steady, 30.0)
    assert aggregate.spreads(steady)["spread"] == 0
    assert aggregate.spreads(steady)["spread_p95"] > 1
    slower = rounds([100] * 6)
    slow_query(slower, 1.6)
    assert aggregate.unsteady({"f16": slower}, 0.3) == {}, "tails may vary twice as much"
    assert "95th percentiles spread by" in aggregate.unsteady({"f16": steady}, 0.3)["f16"]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"throttled_s": 0.5, "other_cpus": 1.0}, "quota held it back for 2.5 s"),
        (
            {"other_cpus": 1.3, "stolen_cpus": 0.1, "throttled_s": 0.0},
            "other programs took up to 1.2 CPUs",
        ),
        ({"other_cpus": 0.7, "stolen_cpus": 0.6}, "the hypervisor took up to 0.6 CPUs"),
        ({}, "no reason is visible"),
    ],
)
def test_an_unsteady_variant_is_refused_with_the_reason(more: dict[str, Any], words: str) -> None:
    engine = {"name": "llama.cpp"}
    steady = {"f16": rounds([99, 100, 101, 100, 100], engine=engine, **more)}
    unsteady = {"f16": rounds([60, 80, 100, 120, 140], engine=engine, **more)}
    assert aggregate.unsteady(steady, 0.3) == {}
    why = aggregate.unsteady(unsteady, 0.3)["f16"]
    assert "decode speeds spread by 40% of their median, more than 30%" in why
    assert words in why


def test_a_figure_whose_interval_is_wider_than_itself_is_left_out() -> None:
    sections: dict[str, dict[str, Any]] = {
        "machine": {"name": "Toy"},
        "cpu": {
            "n": 3, "load_s": 1.0, "load_s_low": 0.4, "load_s_high": 1.5, "latency_ms_p50": 10.0,
            "latency_ms_p50_low": 5.0, "latency_ms_p50_high": 15.0, "throttled_s": 0.0,
        },
        "energy": {
            "energy_j_per_query": 2.0, "energy_j_per_query_low": 0.5, "energy_j_per_query_high": 3.0,
            "energy_j_per_token": 0.1, "idle_w": 5.0,
        },
        "accuracy": {"exact_match": 0.01, "exact_match_low": 0.0, "exact_match_high": 0.05},
    }  # fmt: skip
    assert aggregate.leave_out_wide(sections) == ["cpu.load_s", "energy.energy_j_per_query"]
    assert sections["cpu"].keys() == {
        "n", "latency_ms_p50", "latency_ms_p50_low", "latency_ms_p50_high", "throttled_s",
    }  # fmt: skip
    assert sections["energy"].keys() == {"idle_w", "energy_absent"}
    assert sections["accuracy"]["exact_match"] == 0.01


def test_the_figures_of_a_round() -> None:
    one = record(3, [0.1, 0.2, 0.3], decode_tokens_per_s=50.0, peak_rss_mib=64.0)
    level = {"queries_per_s": 20.0, "latencies_s": [0.1, 0.3]}
    served = {"kind": "served", "round": 3, "levels": {"2": level}}
    speeds = {"prefill_tokens_per_s": 1.0, "decode_tokens_per_s": 2.0}
    harness = {"kind": "harness", "round": 3, "ours": speeds, "llama_bench": speeds}
    sections = aggregate.sections([one, served, harness], 2**20, 7, Watts())
    figures = aggregate.round_metrics(sections)
    assert figures.keys() == {
        "cpu.load_s", "cpu.prefill_tokens_per_s", "cpu.decode_tokens_per_s", "cpu.peak_rss_mib", "cpu.latency_ms_p50",
        "cpu.latency_ms_p95", "cpu.ttft_ms_p50", "cpu.ttft_ms_p95", "served.queries_per_s_in_flight_2",
        "served.latency_ms_p50_in_flight_2",
    }  # fmt: skip
    assert figures["cpu.latency_ms_p50"] == pytest.approx(200)


def test_energy_is_measured_or_estimated_or_absent() -> None:
    reading = {"joules": 30.0, "seconds": 2.0, "source": "RAPL package-0", "kind": "measured", "problem": ""}
    measured = [{**one, "energy": reading, "cpu_s": 0.4} for one in rounds([100, 100, 100])]
    found = aggregate.joules(measured, Watts(5.0), 7)
    # 30 J less 5 W for 2 s, over four queries of 20 tokens
    assert found["energy_j_per_query"] == pytest.approx(5.0)
    assert found["energy_j_per_token"] == pytest.approx(0.25)
    assert found["energy_j_per_query_low"] == found["energy_j_per_query_high"] == pytest.approx(5.0)
    assert found["energy_kind"] == "measured"
    problem = "other programs kept 1.3 CPUs busy while the idle watts were measured"
    assert aggregate.joules(measured, Watts(problem=problem), 7) == {"energy_absent": problem}
    disturbed = [{**one, "other_cpus": 0.0, "other_cpus_host": 1.3} for one in measured]  # beside our cpuset
    absent = aggregate.joules(disturbed, Watts(5.0), 7)
    assert absent == {"energy_absent": "other programs kept up to 1.3 CPUs busy"}
    plain = [{**one, "cpu_s": 0.4} for one in rounds([100, 100, 100])]
    assert aggregate.joules(plain, Watts(5.0), 7) == {}
    given = Watts(10.0, load=30.0, cpus=2)
    found = aggregate.joules(plain, given, 7)
    # 0.4 CPU seconds of 2 CPUs in 0.4 s: half of the 20 W between idle and full, over four queries
    assert found["energy_j_per_query"] == pytest.approx(10 * 0.4 / 4)
    assert found["energy_kind"] == "estimated"
    assert "params.yaml" in found["energy_source"]


def test_disturbed() -> None:
    assert aggregate.disturbance([{"other_cpus": 0.1}, {}]) == ""
    assert "1.3 CPUs" in aggregate.disturbance([{"other_cpus": 0.1}, {"other_cpus": 1.3}])
    stolen = aggregate.disturbance([{"other_cpus": 0.7, "stolen_cpus": 0.6}])
    assert "the hypervisor took up to 0.6 CPUs" in stolen


def test_a_program_is_blamed_for_what_it_took_even_where_a_hypervisor_took_more_in_another_round() -> None:
    records = [{"other_cpus": 0.5, "stolen_cpus": 0.0}, {"other_cpus": 0.6, "stolen_cpus": 0.6}]
    assert "other programs took up to 0.5 CPUs" in aggregate.reason(records)


def test_another_machine() -> None:
    live = {"name": "Toy x2", "hash": "aa"}
    assert publish.compare_machine({}, live, strict=True) == ""
    assert publish.compare_machine({"machine": {"name": "Toy x2", "hash": "aa"}}, live, strict=True) == ""
    other = {"machine": {"name": "Big x64", "hash": "bb"}}
    warning = publish.compare_machine(other, live, strict=False)
    assert warning.count("\n") == 0
    assert "Toy x2 (aa)" in warning
    assert "Big x64 (bb)" in warning
    with pytest.raises(UserError, match="Big x64"):
        publish.compare_machine(other, live, strict=True)


def without_tokens(latencies: list[list[float]], in_proportion: bool = False) -> list[dict[str, Any]]:
    """Records of an engine that has no tokens, as cartlm.bench.worker writes them."""
    records = []
    for round, seconds in enumerate(latencies):
        one = record(round, seconds, queries_per_s=len(seconds) / sum(seconds), engine={"name": "rules"})
        del one["prefill_tokens_per_s"]
        for query in one["queries"]:
            query |= {"prompt_tokens": 0, "decoded_tokens": 0, "prefill_s": 0.0, "decode_s": 0.0}
            query["prompt_ids"] = int(1e6 * query["latency_s"]) if in_proportion else 400
        records.append(one)
    return records


def test_an_engine_without_tokens_has_latencies_and_no_speed_of_0() -> None:
    records = without_tokens([[0.001, 0.002, 0.003]] * 5)
    found = aggregate.sections(records, 2**20, 7, Watts())
    assert set(found) == {"cpu"}
    assert found["cpu"]["latency_ms_p50"] == pytest.approx(2.0)
    assert found["cpu"]["queries_per_s"] == pytest.approx(500)
    assert (found["cpu"]["load_s"], found["cpu"]["queries"], found["cpu"]["spread"]) == (
        pytest.approx(0.3),
        15,
        0,
    )
    assert not [name for name in found["cpu"] if "token" in name or "ttft" in name]
    assert aggregate.round_metrics(found).keys() == {
        "cpu.load_s", "cpu.queries_per_s", "cpu.latency_ms_p50", "cpu.latency_ms_p95",
    }  # fmt: skip


def test_rounds_without_tokens_are_refused_for_their_latencies() -> None:
    steady = without_tokens([[0.001 * factor] * 16 for factor in (0.95, 1, 1, 1.05, 1)])
    assert aggregate.unsteady({"baseline": steady}, 0.3) == {}
    apart = without_tokens([[0.001 * factor] * 16 for factor in (0.6, 0.8, 1, 1.2, 1.4)])
    assert aggregate.spreads(apart)["spread"] == pytest.approx(0.4)
    why = aggregate.unsteady({"baseline": apart}, 0.3)["baseline"]
    assert "the rounds' latencies spread by 40% of their median, more than 30%" in why
    longer = without_tokens([[0.001 * factor] * 16 for factor in (0.6, 0.8, 1, 1.2, 1.4)], in_proportion=True)
    assert aggregate.unsteady({"baseline": longer}, 0.3) == {}, "longer prompts take longer"
    tails = without_tokens([[0.001] * 15 + [0.001 * factor] for factor in (1, 30, 1, 30, 30)])
    assert aggregate.spreads(tails)["spread"] == 0
    assert "95th percentiles spread by" in aggregate.unsteady({"baseline": tails}, 0.3)["baseline"]


def publish_rounds(
    monkeypatch: pytest.MonkeyPatch, folder: Path, made: dict[str, Any]
) -> tuple[int, list[str]]:
    """The number of measurements that was published, and what was said."""
    (folder / "model").write_bytes(b"x")
    monkeypatch.setattr(publish.runner, "measure", lambda *_: dict(made))
    monkeypatch.setattr(publish, "idle_watts", lambda target: Watts())
    monkeypatch.setattr(publish, "committed", lambda path: {})
    lines: list[str] = []
    models = {name: Model(folder / "model") for name in made}
    target = Target("cpu", {"name": "Toy", "hash": "aa"}, None, {})
    plan = Plan(7, 5, 4, 4, 1, 8, 64, "\n")
    count = publish.run(
        folder / "metrics", folder / "raw", models, [], plan, target, max_spread=0.3, strict=False, progress=lines.append,
    )  # fmt: skip
    return count, lines


def test_an_unsteady_baseline_is_left_out_and_an_unsteady_model_stops_all(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It answers in a millisecond, of which one tick of the scheduler is much."""
    apart = without_tokens([[0.001 * factor] * 16 for factor in (0.6, 0.8, 1, 1.2, 1.4)])
    f16 = rounds([100] * 5, engine={"name": "llama.cpp"}, queries_per_s=10.0)
    count, lines = publish_rounds(monkeypatch, tmp_path, {"baseline": apart, "f16": f16})
    assert count == 10
    assert any("baseline" in line and "spread by 40%" in line for line in lines)
    assert {path.stem for path in (tmp_path / "metrics").glob("*.json")} == {"f16", "machine"}
    assert "spread by 40%" in read_metrics(tmp_path / "metrics/machine.json")["details"]["unsteady"]
    assert "baseline" not in (tmp_path / "metrics/rounds.csv").read_text()
    unsteady = rounds([60, 80, 100, 120, 140], engine={"name": "llama.cpp"}, queries_per_s=10.0)
    for wrong in ({"baseline": apart, "f16": unsteady}, {"baseline": apart}):
        with pytest.raises(UserError, match="nothing is published"):
            publish_rounds(monkeypatch, tmp_path, wrong)


def test_energy_without_tokens_is_of_queries_and_correct_answers() -> None:
    records = [{**one, "cpu_s": 0.4} for one in without_tokens([[0.1] * 4] * 3)]
    found = aggregate.joules(records, Watts(10.0, load=30.0, cpus=2), 7)
    assert found["energy_j_per_query"] > 0
    assert "energy_j_per_token" not in found
