"""`make architecture` for real, on the toy shape: random weights, GGUF files, both engines, nothing downloaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.pipeline import toy_repo
from tests.pipeline.toy_repo import Repo

VARIANTS = {"f16", "q8_0", "transformers-float16", "transformers-float32"}
SMALL = {
    "name": "toy", "types": ["q8_0"], "dtypes": ["float16", "float32"], "rounds": 2, "queries": 1, "new_tokens": 3,
    "harness_rounds": 1, "harness_prompt": 8, "harness_new": 3, "max_spread": 99.0,
}  # fmt: skip

pytestmark = [pytest.mark.slow, pytest.mark.nightly]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Repo:
    repo = toy_repo.make(tmp_path_factory.mktemp("architecture") / "repo")
    repo.set(lambda params: params["architecture"].update(SMALL))
    repo.dvc("repro", "architecture/dvc.yaml")
    return repo


def metrics(repo: Repo) -> dict[str, Any]:
    folder = repo.path / "metrics/bench/cpu-toy"
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")}


def test_it_measures_every_type_and_dtype(measured: Repo) -> None:
    values = metrics(measured)
    assert set(values) == {*VARIANTS, "machine", "reference"}
    left_out = values["machine"]["details"].get("left_out", "")
    for variant in VARIANTS:
        speed = values[variant]["cpu"]
        for name in (
            "prefill_tokens_per_s",
            "decode_tokens_per_s",
            "latency_ms_p50",
            "peak_rss_mib",
            "size_mib",
        ):
            assert f"{variant} cpu.{name}" in left_out or speed[name] > 0, (variant, name)
        assert speed["decoded_tokens_per_query"] == 3
        assert speed["n"] == 2
    assert values["f16"]["engine"]["name"] == "llama.cpp"
    assert values["transformers-float16"]["engine"]["kernel"] == "float16 on cpu"
    assert values["q8_0"]["harness"]["n"] > 0
    assert "harness" not in values["transformers-float32"]
    assert values["q8_0"]["cpu"]["size_mib"] < values["f16"]["cpu"]["size_mib"] * 0.6


def test_only_the_test_rows_of_the_main_graph_are_made(measured: Repo) -> None:
    assert {path.name for path in (measured.path / "models").iterdir()} == {"architecture"}


def test_both_engines_read_the_same_prompt(measured: Repo) -> None:
    values = metrics(measured)
    lengths = {values[variant]["cpu"]["prompt_tokens_per_query"] for variant in VARIANTS}
    assert len(lengths) == 1


def test_a_second_call_does_nothing_and_a_bare_repro_leaves_it_out(measured: Repo) -> None:
    output = measured.dvc("repro", "architecture/dvc.yaml").stdout
    assert "Running stage" not in output
    # the main graph has not run here, so that a dry run ends early; tests/component/pipeline/test_graph.py walks all of it
    assert "architecture" not in measured.dvc("repro", "--dry", check=False).stdout


def test_a_type_more_makes_only_that_one(measured: Repo, tmp_path: Path) -> None:
    repo = toy_repo.copy(measured, tmp_path / "repo")
    repo.set(lambda params: params["architecture"].update(types=["q8_0", "q4_k_m"]))
    output = repo.dvc("repro", "--dry", "architecture/dvc.yaml").stdout
    stages = [line.split("'")[1] for line in output.splitlines() if "Running stage" in line]
    assert [name.split(":")[-1] for name in stages] == ["quantize@q4_k_m", "bench"]


def test_an_unknown_name_is_one_line(measured: Repo, tmp_path: Path) -> None:
    repo = toy_repo.copy(measured, tmp_path / "repo")
    repo.set(lambda params: params["architecture"].update(name="llama-9"))
    done = repo.run("python", "-m", "stages.random_weights", check=False)
    assert done.returncode == 2
    assert "architecture.name = 'llama-9'" in done.stderr
    assert "Traceback" not in done.stderr
