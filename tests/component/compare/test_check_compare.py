"""The script behind `make check-compare` judges kept measurements; here they are copies of a planted one."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from click.testing import CliRunner

from cartlm.bench.rounds import REFERENCE, to_csv
from cartlm.compare.load import Side
from cartlm.files import write_text
from cartlm.metrics import Outcome, write_metrics
from cartlm.pipeline.dvc_lock import Stage
from tests.benchmarks import check_compare

ROWS, ROUNDS = 1000, 10
TIMINGS = {
    "load_s": 0.01, "prefill_tokens_per_s": 9000.0, "decode_tokens_per_s": 1000.0, "queries_per_s": 20.0,
    "latency_ms_p50": 40.0, "latency_ms_p95": 80.0, "ttft_ms_p50": 15.0, "peak_rss_mib": 66.0,
}  # fmt: skip
VARIANTS = ("f16", "q4_k_m")


def head() -> Side:
    """A checkout in which two variants were evaluated."""
    outcomes = [Outcome(f"test-{i:05}", "exact" if i % 10 else "wrong", "0" * 12) for i in range(ROWS)]
    free = {"free.n": ROWS, "free.exact_match": 0.9}
    stage = Stage({}, {"stages/evaluate.py": "a", "data/test.jsonl": "b"}, {}, {"models/q4_k_m": "c"})
    return Side(
        "workspace",
        {f"metrics/eval/{name}.json": free for name in VARIANTS},
        outcomes=dict.fromkeys(VARIANTS, outcomes),
        rows=dict.fromkeys(VARIANTS, "the same rows"),
        stages={f"eval@{name}": stage for name in VARIANTS},
    )


def write_bench(folder: Path) -> None:
    """Rounds that are up to 5 % apart, as bench-cpu writes them."""
    rng, rounds = random.Random(1), []
    for name in (*VARIANTS, REFERENCE):
        drawn = {
            key: [value * rng.uniform(0.975, 1.025) for _ in range(ROUNDS)] for key, value in TIMINGS.items()
        }
        rounds += [(i, name, f"cpu.{key}", each) for key in drawn for i, each in enumerate(drawn[key])]
        cpu = {"n": ROUNDS, "size_mib": 2.4}
        for key, values in drawn.items():
            cpu |= {key: sorted(values)[ROUNDS // 2], f"{key}_low": min(values), f"{key}_high": max(values)}
        write_metrics(
            folder / f"{name}.json", {"machine": {"name": "a toy CPU x2", "hash": "aa"}, "cpu": cpu}
        )
    write_text(folder / "rounds.csv", to_csv(rounds))


def test_copies_are_no_change_and_both_planted_changes_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check_compare, "KEPT", tmp_path)
    monkeypatch.setattr(check_compare, "load_side", lambda root, revision: head())
    for number in range(3):
        write_bench(tmp_path / str(number))
    done = CliRunner().invoke(check_compare.main, ["--judge"])
    assert done.exit_code == 0, done.output
    assert "no change in 2 of 2" in done.output
    assert done.output.count("is found in the last") == 2
