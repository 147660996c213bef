"""bench-decoding on a real model of random weights: every way answers, and its figures and table come out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from cartlm.bench import ways
from cartlm.metrics import read_metrics
from cartlm.report import decoding
from tests.fixtures.toy256 import one_line, set_params, stage

MODEL = "models/f16/model.gguf"
SETTINGS = {"variant": "f16", "seed": 7, "sessions": 3, "messages": 3}


@pytest.fixture
def few(repo: Path) -> Path:
    set_params(repo, bench_decoding=SETTINGS)
    return repo


@pytest.mark.slow
def test_every_way_is_measured_on_the_same_queries(few: Path) -> None:
    done = stage(few, "bench_decoding")
    assert done.returncode == 0, done.stderr
    last = json.loads(done.stdout.splitlines()[-1])
    assert last == {"file": "metrics/decoding.json", "sessions": 3, "queries": 9}
    found = read_metrics(few / "metrics/decoding.json")
    assert found.keys() == {"machine", "model", "engine", "workload", *decoding.WORDS}
    assert found["model"]["variant"] == "f16"
    for way in decoding.WORDS:
        assert found[way]["warm_ms_p50"] > 0
        assert found[way]["cold_ms_p50"] > 0
        rivals = [rival for rival in ways.RIVALS if rival != way]
        assert all(found[way][f"{heat}_to_{rival}"] > 0 for heat in ("cold", "warm") for rival in rivals)
    assert found["free"]["passes"] > found["jump_forward"]["passes"] > found["draft_accepted"]["passes"] >= 1
    assert found["floor"]["passes"] == 1
    assert found["draft_accepted"]["one_pass"] > 0.5 > found["jump_forward"]["one_pass"]
    (few / "metrics/decoding").mkdir()
    shutil.move(few / "metrics/decoding.json", few / "metrics/decoding/toy.json")
    table = decoding.document([], few / "metrics/decoding")
    assert "## toy" in table
    assert all(words in table for words in decoding.WORDS.values())


def test_what_cannot_be_measured_is_one_line(few: Path) -> None:
    def refused(*arguments: str) -> str:
        return one_line(stage(few, "bench_decoding", *arguments))

    assert "none.gguf is missing" in refused("--name", "toy", "--model", "none.gguf")
    assert "'a/b'" in refused("--name", "a/b", "--model", MODEL)
    assert "make bench-decoding NAME=" in refused("--name", "toy")
    set_params(few, bench_decoding={**SETTINGS, "messages": 30})
    assert "bench_decoding.messages" in refused()
    assert [path.name for path in (few / "metrics").iterdir()] == ["parity.json"]
