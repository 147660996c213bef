"""The benchmark's stage on real models: what it publishes, how it resumes, and what it refuses."""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from cartlm.bench import publish, reference, runner
from cartlm.bench.plan import Model, Plan
from cartlm.errors import UserError
from cartlm.metrics import read_metrics
from tests.fixtures.base_gguf import write_base_gguf
from tests.fixtures.toy256 import ROOT, one_line, set_params, stage

PLAN = Plan(
    seed=7, rounds=5, warmups=4, queries=6, threads=1, max_new_tokens=8, context_tokens=512, separator="\n"
)
CONTRACT = [
    "size_mib", "load_s", "prefill_tokens_per_s", "decode_tokens_per_s", "latency_ms_p50", "latency_ms_p95",
    "queries_per_s", "peak_rss_mib", "load_rss_mib", "latency_ms_p99", "ttft_ms_p50", "load_peak_rss_mib", "run_peak_rss_mib",
]  # fmt: skip


@pytest.fixture
def quantized(repo: Path) -> Path:
    """The toy checkout with f16 and q4_k_m; for speed of the tests alone q4_k_m is a copy."""
    set_params(repo, gguf={"q4_k_m": {"type": "Q4_K_M", "imatrix": False}})
    shutil.copytree(repo / "models/f16", repo / "models/q4_k_m")
    return repo


def lines(repo: Path, variant: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (repo / f"runs/bench/cpu/{variant}.jsonl").read_text().splitlines()]


def check_reference(folder: Path) -> None:
    """The reference is measured in every round as the variants are; its answers never end."""
    found = read_metrics(folder / "reference.json")
    assert list(found) == ["machine", "engine", "cpu", "reference"]
    assert (found["cpu"]["n"], found["cpu"]["stopped"]) == (2, 0)
    assert (
        found["cpu"]["decoded_tokens_per_query"] == found["reference"]["new_tokens"] == reference.NEW_TOKENS
    )
    rounds = list(csv.DictReader((folder / "rounds.csv").open(newline="")))
    keys = [(row["round"], row["variant"], row["metric"]) for row in rounds]
    assert keys == sorted(keys)
    for variant in ("f16", "q4_k_m", "reference"):
        for metric in (
            "load_s",
            "prefill_tokens_per_s",
            "decode_tokens_per_s",
            "latency_ms_p95",
            "peak_rss_mib",
        ):
            values = [
                float(row["value"])
                for row in rounds
                if row["variant"] == variant and row["metric"] == f"cpu.{metric}"
            ]
            assert len(values) == 2
            assert all(value > 0 for value in values)


def check_baseline(folder: Path) -> None:
    """It is measured in the same rounds, and what it has not is absent from all files: speeds in tokens, other kinds."""
    found = read_metrics(folder / "baseline.json")
    assert {"machine", "engine", "cpu"} <= found.keys() <= {"machine", "engine", "cpu", "energy"}
    assert (found["engine"]["name"], found["engine"]["threads"]) == ("rules", 1)
    assert (found["cpu"]["n"], found["cpu"]["queries"], found["cpu"]["stopped"]) == (2, 6, 1)
    for name in ("size_mib", "queries_per_s", "latency_ms_p50", "latency_ms_p95", "peak_rss_mib"):
        left_out = read_metrics(folder / "machine.json")["details"].get("left_out", "")
        assert found["cpu"].get(name, 0) > 0 or f"baseline cpu.{name}" in left_out
    with (folder / "rounds.csv").open(newline="") as file:
        measured = {
            (row["round"], row["metric"]) for row in csv.DictReader(file) if row["variant"] == "baseline"
        }
    measured = {each for each in measured if each[1].startswith("cpu.")}
    metrics = ("load_s", "latency_ms_p50", "latency_ms_p95", "queries_per_s", "peak_rss_mib")
    assert measured == {(round, f"cpu.{metric}") for round in "01" for metric in metrics}
    assert not [name for name in found["cpu"] if "token" in name or "ttft" in name]


def test_stage(quantized: Path) -> None:
    folder = quantized / "metrics/bench/cpu"
    folder.mkdir(parents=True)
    (folder / "q9_k.json").write_text("{}")
    done = stage(quantized, "bench_cpu")
    assert done.returncode == 0, done.stderr
    assert sorted(os.listdir(folder)) == [
        "baseline.json", "f16.json", "machine.json", "q4_k_m.json", "reference.json", "rounds.csv",
    ]  # fmt: skip
    check_reference(folder)
    check_baseline(folder)
    # a busy machine may give figures whose interval is wider than themselves
    left_out = read_metrics(folder / "machine.json")["details"].get("left_out", "").split(", ")
    for variant in ("f16", "q4_k_m"):
        found = read_metrics(folder / f"{variant}.json")
        assert list(found) == ["machine", "engine", "cpu", "served", "harness"]
        assert found["engine"]["name"] == "llama.cpp"
        assert found["engine"]["threads"] == 1
        speed = found["cpu"]
        for name in CONTRACT:
            if f"{variant} cpu.{name}" in left_out:
                assert name not in speed
                speed[name] = speed[f"{name}_low"] = speed[f"{name}_high"] = math.nan
                continue
            assert speed[name] > 0
            if name != "size_mib":
                assert speed[f"{name}_low"] <= speed[name] <= speed[f"{name}_high"]
        assert not speed["latency_ms_p50"] > speed["latency_ms_p95"]
        assert speed["baseline_rss_mib"] < speed["load_rss_mib"] <= speed["peak_rss_mib"]
        assert (speed["n"], speed["queries"]) == (2, 6)
        size = (quantized / f"models/{variant}/model.gguf").stat().st_size
        assert speed["size_mib"] == pytest.approx(size / 2**20, rel=1e-3)
        assert not speed["latency_ms_p95"] > speed["latency_ms_p99"]
        assert not speed["ttft_ms_p50"] > speed["latency_ms_p50"]
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
    assert [line["kind"] for line in lines(quantized, "f16")] == ["queries", "served", "harness", "queries"]
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


def test_for_an_unsteady_variant_all_get_as_many_rounds_again(quantized: Path, tmp_path: Path) -> None:
    path = quantized / "models/f16/model.gguf"
    plan = replace(PLAN, rounds=2, queries=2)
    prompts = [("Catalog:\nTea\n\nUser:\nadd tea", None)]
    said: list[str] = []
    asked: list[dict[str, list[int]]] = []

    def more(records: Mapping[str, Sequence[dict[str, Any]]]) -> list[str]:
        asked.append({variant: [each["round"] for each in found] for variant, found in records.items()})
        return ["f16"]

    models = {"f16": Model(path), "other": Model(path)}
    found = runner.measure(models, prompts, plan, tmp_path / "raw", said.append, unsteady=more)
    assert runner.measure(models, prompts, plan, tmp_path / "raw", said.append, unsteady=more) == found
    # Killed within the additional rounds and called again, the first ones decide as before.
    assert asked == [{"f16": [0, 1], "other": [0, 1]}] * 2
    assert {variant: [r["round"] for r in records] for variant, records in found.items()} == {
        "f16": [0, 1, 2, 3],
        "other": [0, 1, 2, 3],
    }
    assert any("f16: the spread is too large; 2 more rounds" in line for line in said)


def test_a_refused_run_measures_anew_the_next_time(quantized: Path) -> None:
    params = yaml.safe_load((quantized / "params.yaml").read_text(encoding="utf-8"))["bench_cpu"]
    few = {**params, "served_rounds": 0, "harness_rounds": 0}
    set_params(quantized, bench_cpu={**few, "max_spread": 1e-9})
    line = one_line(stage(quantized, "bench_cpu"))
    assert "nothing is published; " in line
    assert "(max_spread = 1e-09)" in line
    assert line.endswith("then: dvc repro")
    assert not (quantized / "metrics/bench").exists()
    assert len(lines(quantized, "f16")) == 4  # two rounds, and two more
    set_params(quantized, bench_cpu={**few, "max_spread": 99.0})
    assert stage(quantized, "bench_cpu").returncode == 0
    assert len(lines(quantized, "f16")) == 6
    assert read_metrics(quantized / "metrics/bench/cpu/f16.json")["cpu"]["n"] == 2, (
        "those of before are left out"
    )


def test_the_reference_is_always_the_same(tmp_path: Path) -> None:
    first, second = (reference.gguf_model(tmp_path / name) for name in "ab")
    assert first.path.read_bytes() == second.path.read_bytes()
    assert first.prompts == second.prompts
    assert reference.identity(first) == reference.identity(second)
    before = first.path.stat().st_mtime_ns
    assert (
        reference.gguf_model(tmp_path / "a").path.stat().st_mtime_ns == before
    )  # else no run could be resumed


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


def test_the_server_gives_the_answers_of_our_engine(tmp_path: Path) -> None:
    """Greedy, over the same ids: else its speed would be that of other work."""
    from cartlm.bench import llama_tools
    from cartlm.engines import llama_cpp

    model = write_base_gguf(tmp_path / "base.gguf")
    with llama_cpp.load(model, threads=1) as engine:
        builder = engine.prompt_builder("\n")
        prompts = [builder.prompt_ids(f"Catalog:\nTea\nJam\n\nUser:\nadd {n} jam") for n in range(2, 8)]
        ours = [engine.answer(ids, 24).text for ids in prompts]
    with llama_tools.server(model, 2, 512, 1) as port:
        theirs = [llama_tools.complete(port, ids, 24)[1] for ids in prompts]
        again = [llama_tools.complete(port, ids, 24)[1] for ids in prompts]
    assert theirs == again
    assert (
        sum(a == b for a, b in zip(ours, theirs, strict=True)) >= len(prompts) - 1
    )  # ties may round differently


def test_a_killed_measurement_names_the_signal(quantized: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed = subprocess.CompletedProcess([], -signal.SIGKILL, "", "Loading weights: 42%")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: killed)
    with pytest.raises(UserError, match="killed by SIGKILL: out of memory") as error:
        runner.run_worker({"kind": "served", "model": "models/x", "device": "cpu"})
    assert "run it again" in str(error.value)


def test_killed_run_goes_on(quantized: Path) -> None:
    running = subprocess.Popen(
        [sys.executable, "-m", "stages.bench_cpu"], cwd=quantized, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert running.stderr is not None
    first = next(line for line in running.stderr if line.startswith("1/12"))
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
    assert "going on after 1 of 12 measurements" in done.stderr
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
