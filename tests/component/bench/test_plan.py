"""The benchmark: its plan and statistics on numbers known beforehand, its stage on real models."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from cartlm.bench import aggregate, energy, publish
from cartlm.bench import plan as bench
from cartlm.bench.latency import Query, rates
from cartlm.errors import UserError
from cartlm.metrics import read_metrics
from tests.fixtures.base_gguf import write_base_gguf
from tests.fixtures.toy256 import ROOT, one_line, set_params, stage

PLAN = bench.Plan(
    seed=7, rounds=5, warmups=4, queries=6, threads=1, max_new_tokens=8, context_tokens=512, separator="\n"
)
CONTRACT = [
    "size_mib", "load_s", "prefill_tokens_per_s", "decode_tokens_per_s", "latency_ms_p50", "latency_ms_p95",
    "queries_per_s", "peak_rss_mib", "load_rss_mib", "latency_ms_p99", "ttft_ms_p50", "load_peak_rss_mib", "run_peak_rss_mib",
]  # fmt: skip


def record(round: int, latencies: list[float], **more: Any) -> dict[str, Any]:
    queries = [
        {
            "latency_s": s,
            "ttft_s": s / 4,
            "prompt_tokens": 100,
            "decoded_tokens": 20,
            "stopped": True,
            "exact": True,
        }
        for s in latencies
    ]
    return {
        "what": "queries",
        "prefill_tokens_per_s": 100.0,
        "round": round,
        "load_s": 0.1 * (round + 1),
        "load1": 0.5,
        "wall_s": 2.0,
        "queries": queries,
        **more,
    }


def test_order_is_random_seeded_and_complete() -> None:
    names = ["f16", "q8_0", "q6_k", "q4_k_m"]
    orders = [PLAN.order(names, round) for round in range(PLAN.rounds)]
    assert all(sorted(order) == sorted(names) for order in orders)
    assert len({tuple(order) for order in orders}) > 2
    assert orders == [PLAN.order(names[::-1], round) for round in range(PLAN.rounds)]


def test_prompts_differ_between_rounds_only() -> None:
    prompts = [f"prompt {i}" for i in range(50)]
    drawn = [PLAN.draw(prompts, round) for round in range(PLAN.rounds)]
    assert all((len(warm), len(measured)) == (4, 6) for warm, measured in drawn)
    assert sorted(itertools.chain(*itertools.chain(*drawn))) == sorted(prompts)
    assert drawn == [PLAN.draw(prompts, round) for round in range(PLAN.rounds)]
    warm, measured = PLAN.draw(prompts[:3], 2)  # few prompts come again
    assert set(warm + measured) == set(prompts[:3])


def test_rates() -> None:
    made = [Query(1.0, 0.3, 100, 10, 0.2, 0.7, True, None), Query(3.0, 0.7, 300, 40, 0.6, 0.3, False, None)]
    assert rates(made) == {
        "prefill_tokens_per_s": 500.0,
        "decode_tokens_per_s": 49.0,  # the answer that was cut had one pass fewer than tokens
        "queries_per_s": 0.5,
    }
    assert "decode_tokens_per_s" not in rates([Query(1.0, 0.3, 100, 0, 0.2, 0.0, True, None)])


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


def test_interval_covers_the_median() -> None:
    """About 94 % of such intervals hold the true value, of five rounds as of twelve (4,000 trials)."""
    rng, hits = np.random.default_rng(1), 0
    for seed in range(40):
        values = [[float(value)] for value in rng.normal(10, 1, size=5)]
        low, high = aggregate.interval(values, lambda picked: float(np.median(picked)), seed) or (0, 0)
        hits += low <= 10 <= high
    assert 34 <= hits <= 40


def rounds(speeds: list[float], **more: Any) -> list[dict[str, Any]]:
    return [record(i, [0.1] * 4, decode_tokens_per_s=s, **more) for i, s in enumerate(speeds)]


def test_spread_is_of_speeds_not_of_prompts() -> None:
    other_prompts = [record(i, [0.1 * (i + 1)] * 4, decode_tokens_per_s=50.0) for i in range(5)]
    assert aggregate.spread(other_prompts) == 0
    assert aggregate.spread(rounds([80, 90, 100, 110, 120])) == pytest.approx(0.2)
    of_one_token = [record(i, [0.1] * 4, prefill_tokens_per_s=1000.0) for i in range(2)]
    for each in of_one_token:
        each.pop("decode_tokens_per_s", None)
    mixed = rounds([100, 110, 120], prefill_tokens_per_s=1000.0) + of_one_token
    assert aggregate.spread(mixed) == 0  # one quantity, the one that all rounds have


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"throttled_s": 0.5, "other_cpus": 1.0}, "quota held it back for 2.5 s"),
        (
            {"other_cpus": 1.3, "stolen_cpus": 0.1, "throttled_s": 0.0},
            "other programs kept up to 1.2 CPUs busy",
        ),
        ({"other_cpus": 0.7, "stolen_cpus": 0.6}, "the hypervisor took up to 0.6 CPUs"),
        ({}, "no reason is visible"),
    ],
)
def test_an_unsteady_variant_is_refused_with_the_reason(
    more: dict[str, Any], words: str, tmp_path: Path
) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"x")
    models = {"f16": bench.Model(path)}
    engine = {"name": "llama.cpp"}
    steady = {"f16": rounds([99, 100, 101, 100, 100], engine=engine, **more)}
    unsteady = {"f16": rounds([60, 80, 100, 120, 140], engine=engine, **more)}
    assert publish.unsteady(steady, 0.3) == []
    assert publish.unsteady(unsteady, 0.3) == ["f16"]
    live, watts = {"name": "Toy", "hash": "aa"}, aggregate.Watts()
    assert publish.files(models, steady, live, 7, watts, 0.3)["f16"]["cpu"]["spread"] == pytest.approx(0.0)
    with pytest.raises(UserError, match=words) as error:
        publish.files(models, unsteady, live, 7, watts, 0.3)
    assert "spread by 40% of their median, more than max_spread = 0.3" in str(error.value)


def test_for_an_unsteady_variant_all_get_as_many_rounds_again(quantized: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    path = quantized / "models/f16/model.gguf"
    plan = replace(PLAN, rounds=2, queries=2)
    prompts = [("Catalog:\nTea\n\nUser:\nadd tea", None)]
    said: list[str] = []
    asked: list[dict[str, list[int]]] = []

    def more(records: Mapping[str, Sequence[dict[str, Any]]]) -> list[str]:
        asked.append({variant: [each["round"] for each in found] for variant, found in records.items()})
        return ["f16"]

    models = {"f16": bench.Model(path), "other": bench.Model(path)}
    found = bench.measure(models, prompts, plan, tmp_path / "raw", said.append, more=more)
    assert bench.measure(models, prompts, plan, tmp_path / "raw", said.append, more=more) == found
    # Killed within the additional rounds and called again, the first ones decide as before.
    assert asked == [{"f16": [0, 1], "other": [0, 1]}] * 2
    assert {variant: [r["round"] for r in records] for variant, records in found.items()} == {
        "f16": [0, 1, 2, 3],
        "other": [0, 1, 2, 3],
    }
    assert any("f16: the spread is too large; 2 more rounds" in line for line in said)


def test_energy_is_measured_or_estimated_or_absent() -> None:
    reading = {"joules": 30.0, "seconds": 2.0, "source": "RAPL package-0", "kind": "measured", "problem": ""}
    measured = [{**one, "energy": reading, "cpu_s": 0.4} for one in rounds([100, 100, 100])]
    found = aggregate.joules(measured, aggregate.Watts(measured_idle=5.0), 7)
    # 30 J less 5 W for 2 s, over four queries of 20 tokens
    assert found["energy_j_per_query"] == pytest.approx(5.0)
    assert found["energy_j_per_token"] == pytest.approx(0.25)
    assert found["energy_j_per_query_low"] == found["energy_j_per_query_high"] == pytest.approx(5.0)
    assert found["energy_kind"] == "measured"
    problem = "other programs kept 1.3 CPUs busy while the idle watts were measured"
    assert aggregate.joules(measured, aggregate.Watts(idle_problem=problem), 7) == {"energy_absent": problem}
    disturbed = [{**one, "other_cpus": 0.0, "other_cpus_host": 1.3} for one in measured]  # beside our cpuset
    absent = aggregate.joules(disturbed, aggregate.Watts(measured_idle=5.0), 7)
    assert absent == {"energy_absent": "other programs kept up to 1.3 CPUs busy"}
    plain = [{**one, "cpu_s": 0.4} for one in rounds([100, 100, 100])]
    assert aggregate.joules(plain, aggregate.Watts(measured_idle=5.0), 7) == {}
    given = aggregate.Watts(given_idle=10.0, given_load=30.0, cpus=2)
    found = aggregate.joules(plain, given, 7)
    # 0.4 CPU seconds of 2 CPUs in 0.4 s: half of the 20 W between idle and full, over four queries
    assert found["energy_j_per_query"] == pytest.approx(10 * 0.4 / 4)
    assert found["energy_kind"] == "estimated"
    assert "params.yaml" in found["energy_source"]
    assert energy.Reading(**reading).problem == ""


def test_disturbed() -> None:
    assert aggregate.disturbed([{"other_cpus": 0.1}, {}]) == ""
    assert "1.3 CPUs" in aggregate.disturbed([{"other_cpus": 0.1}, {"other_cpus": 1.3}])
    stolen = aggregate.disturbed([{"other_cpus": 0.7, "stolen_cpus": 0.6}])
    assert "the hypervisor took 0.6 CPUs" in stolen


def test_a_program_is_blamed_for_what_it_took_even_where_a_hypervisor_took_more_in_another_round() -> None:
    records = [{"other_cpus": 0.5, "stolen_cpus": 0.0}, {"other_cpus": 0.6, "stolen_cpus": 0.6}]
    assert "other programs kept up to 0.5 CPUs busy" in aggregate.reason(records)


def test_another_machine() -> None:
    live = {"name": "Toy x2", "hash": "aa"}
    assert publish.same_machine({}, live, strict=True) == ""
    assert publish.same_machine({"machine": {"name": "Toy x2", "hash": "aa"}}, live, strict=True) == ""
    other = {"machine": {"name": "Big x64", "hash": "bb"}}
    warning = publish.same_machine(other, live, strict=False)
    assert warning.count("\n") == 0
    assert "Toy x2 (aa)" in warning
    assert "Big x64 (bb)" in warning
    with pytest.raises(UserError, match="Big x64"):
        publish.same_machine(other, live, strict=True)


def test_committed_is_what_git_has(tmp_path: Path) -> None:
    """A run on another machine overwrites the file; the next one still has to warn."""
    path = tmp_path / "metrics/machine.json"
    assert publish.committed(path) == {}
    path.parent.mkdir()
    path.write_text('{"machine": {"hash": "here"}}')
    assert publish.committed(path)["machine"]["hash"] == "here"
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "x"]):
        subprocess.run([*git, *command], check=True)
    path.write_text('{"machine": {"hash": "now"}}')
    assert publish.committed(path)["machine"]["hash"] == "here"


@pytest.fixture
def quantized(repo: Path) -> Path:
    """The toy checkout with f16 and q4_k_m; for speed of the tests alone q4_k_m is a copy."""
    set_params(repo, gguf={"q4_k_m": {"type": "Q4_K_M", "imatrix": False}})
    shutil.copytree(repo / "models/f16", repo / "models/q4_k_m")
    return repo


def lines(repo: Path, variant: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (repo / f"runs/bench/cpu/{variant}.jsonl").read_text().splitlines()]


def test_stage(quantized: Path) -> None:
    folder = quantized / "metrics/bench/cpu"
    folder.mkdir(parents=True)
    (folder / "q9_k.json").write_text("{}")
    done = stage(quantized, "bench_cpu")
    assert done.returncode == 0, done.stderr
    assert "removed metrics/bench/cpu/q9_k.json" in done.stderr
    assert sorted(os.listdir(folder)) == ["f16.json", "machine.json", "q4_k_m.json"]
    for variant in ("f16", "q4_k_m"):
        found = read_metrics(folder / f"{variant}.json")
        assert list(found) == ["machine", "engine", "cpu", "served", "harness"]
        assert found["engine"]["name"] == "llama.cpp"
        assert found["engine"]["threads"] == 1
        speed = found["cpu"]
        for name in CONTRACT:
            assert speed[name] > 0
            if name != "size_mib":
                assert speed[f"{name}_low"] <= speed[name] <= speed[f"{name}_high"]
        assert speed["latency_ms_p50"] <= speed["latency_ms_p95"]
        assert speed["baseline_rss_mib"] < speed["load_rss_mib"] <= speed["peak_rss_mib"]
        assert (speed["n"], speed["queries"]) == (2, 6)
        size = (quantized / f"models/{variant}/model.gguf").stat().st_size
        assert speed["size_mib"] == pytest.approx(size / 2**20, rel=1e-3)
        assert speed["latency_ms_p95"] <= speed["latency_ms_p99"]
        assert speed["ttft_ms_p50"] < speed["latency_ms_p50"]
        assert speed["baseline_rss_mib"] < speed["load_peak_rss_mib"]
        assert max(speed["load_peak_rss_mib"], speed["run_peak_rss_mib"]) == pytest.approx(
            speed["peak_rss_mib"], rel=0.01
        )
        for count in (1, 2):
            assert found["served"][f"queries_per_s_in_flight_{count}"] > 0
        assert found["harness"]["decode_ratio"] > 0
        assert found["harness"]["prefill_ratio"] > 0
        assert len(lines(quantized, variant)) == 4
    kept = lines(quantized, "f16")[0]
    assert {"session", "variant", "round", "time", "load1", "queries"} <= kept.keys()
    assert len(kept["queries"]) == 3
    assert [line["what"] for line in lines(quantized, "f16")] == ["queries", "served", "harness", "queries"]
    about = read_metrics(folder / "machine.json")
    assert list(about) == ["machine", "engine", "details"]
    assert about["details"]["cores_logical"] >= 1
    # a meter, or why there is none
    assert {"energy_cpu", "energy_cpu_absent"} & about["details"].keys()

    # Measured again from the start, with the repetitions of before kept; on another machine only a warning.
    about["machine"] |= {"name": "Other", "hash": "0"}
    (folder / "machine.json").write_text(json.dumps(about))
    line = one_line(stage(quantized, "bench_cpu", CARTLM_BENCH_CHECK="1"))
    assert "the committed numbers are of Other (0)" in line
    assert len(lines(quantized, "f16")) == 4
    done = stage(quantized, "bench_cpu", CARTLM_BENCH_CHECK="")
    assert done.returncode == 0
    assert len([line for line in done.stderr.splitlines() if "numbers are of Other" in line]) == 1
    assert len(lines(quantized, "f16")) == len(lines(quantized, "q4_k_m")) == 8
    assert len({line["session"] for line in lines(quantized, "f16")}) == 2


def test_a_refused_run_measures_anew_the_next_time(quantized: Path) -> None:
    params = yaml.safe_load((quantized / "params.yaml").read_text(encoding="utf-8"))["bench_cpu"]
    few = {**params, "served_rounds": 0, "harness_rounds": 0}
    set_params(quantized, bench_cpu={**few, "max_spread": 1e-9})
    line = one_line(stage(quantized, "bench_cpu"))
    assert "more than max_spread = 1e-09, so nothing is published" in line
    assert line.endswith("then: dvc repro")
    assert not (quantized / "metrics/bench").exists()
    assert len(lines(quantized, "f16")) == 4  # two rounds, and two more
    one_line(stage(quantized, "bench_cpu"))
    assert len(lines(quantized, "f16")) == 8
    set_params(quantized, bench_cpu={**few, "max_spread": 99.0})
    assert stage(quantized, "bench_cpu").returncode == 0
    assert (quantized / "metrics/bench/cpu/f16.json").exists()


def test_the_server_gives_the_answers_of_our_engine(tmp_path: Path) -> None:
    """Greedy, over the same ids: else its speed would be that of other work."""
    from cartlm.bench import llama_server
    from cartlm.engines import llama_cpp

    model = write_base_gguf(tmp_path / "base.gguf")
    with llama_cpp.load(model, threads=1) as engine:
        builder = engine.prompt_builder("\n")
        prompts = [builder.prompt_ids(f"Catalog:\nTea\nJam\n\nUser:\nadd {n} jam") for n in range(2, 8)]
        ours = [engine.answer(ids, 24).text for ids in prompts]
    with llama_server.server(model, 2, 512, 1) as port:
        theirs = [llama_server.ask(port, ids, 24)[1] for ids in prompts]
        again = [llama_server.ask(port, ids, 24)[1] for ids in prompts]
    assert theirs == again
    assert (
        sum(a == b for a, b in zip(ours, theirs, strict=True)) >= len(prompts) - 1
    )  # ties may round differently


def test_a_killed_measurement_names_the_signal(quantized: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed = subprocess.CompletedProcess([], -signal.SIGKILL, "", "Loading weights: 42%")
    monkeypatch.setattr(bench.subprocess, "run", lambda *_, **__: killed)
    with pytest.raises(UserError, match="killed by SIGKILL: out of memory") as error:
        bench.work({"what": "served", "model": "models/x", "device": "cpu"})
    assert "run it again" in str(error.value)


def test_killed_run_goes_on(quantized: Path) -> None:
    running = subprocess.Popen(
        [sys.executable, "-m", "stages.bench_cpu"], cwd=quantized, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert running.stderr is not None
    first = next(line for line in running.stderr if line.startswith("1/8"))
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    assert not (quantized / "metrics/bench").exists()
    done_before = next((quantized / "runs/bench/cpu").glob("*.jsonl"))
    whole = done_before.read_text()
    assert done_before.stem in first
    with done_before.open("a") as file:
        file.write('{"session": "cut by the ki')
    done = stage(quantized, "bench_cpu")
    assert done.returncode == 0, done.stderr
    assert "going on after 1 of 8 measurements" in done.stderr
    assert done_before.read_text().startswith(whole)
    for variant in ("f16", "q4_k_m"):
        assert sorted(line["round"] for line in lines(quantized, variant)) == [0, 0, 0, 1]
        assert len({line["session"] for line in lines(quantized, variant)}) == 1


def test_mistakes(quantized: Path) -> None:
    path = quantized / "models/q4_k_m/model.gguf"
    path.write_bytes(path.read_bytes()[:99999])
    line = one_line(stage(quantized, "bench_cpu"))
    assert "models/q4_k_m/model.gguf does not load" in line
    assert not (quantized / "metrics/bench").exists()
    path.unlink()
    line = one_line(stage(quantized, "bench_cpu"))
    assert "models/q4_k_m/model.gguf is missing; dvc repro quantize-gguf@q4_k_m" in line
    (quantized / "data/test.jsonl").unlink()
    assert "data/test.jsonl is missing; dvc repro data" in one_line(stage(quantized, "bench_cpu"))
