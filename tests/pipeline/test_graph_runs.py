"""The real graph on toy params in a repository of its own: from nothing, again, changed, and in a bare clone."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from cartlm import cli
from tests.pipeline import toy_repo
from tests.pipeline.conftest import Run
from tests.pipeline.toy_repo import Repo

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
VARIANTS = ["baseline", "base", "merged", "f16", "q8_0", "q4_k_m", "int4-g32"]
TABLE_ROWS = ["baseline", "base", *3 * ["base,"], *VARIANTS[2:]]
"""The base model with the format header, zero-shot and few-shot too."""


def cartlm(repo: Repo, *arguments: str) -> str:
    """The standard output of a command in the repository."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(repo.path)
        result = CliRunner().invoke(cli.main, arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_bare_repro_runs_to_the_end(first: Run) -> None:
    metrics = first.repo.path / "metrics"
    assert {path.stem for path in (metrics / "eval").iterdir()} == set(VARIANTS)
    assert {path.stem for path in (metrics / "outcomes").iterdir()} == set(VARIANTS)
    assert {path.stem for path in (metrics / "quantize").iterdir()} == {"q8_0", "q4_k_m"}
    assert {path.stem for path in (metrics / "gptq").iterdir()} == {"int4-g32"}
    assert {path.stem for path in (metrics / "bench/cpu").iterdir()} == {
        "machine", "rounds", "reference", "baseline", "f16", "q8_0", "q4_k_m",
    }  # fmt: skip
    for name in ("data.json", "finetune.csv", "merge.json", "parity.json", "summary.csv"):
        assert (metrics / name).stat().st_size > 0
    assert first.repo.json("metrics/parity.json")["agreement"] >= 0.995


def test_check_models_and_table_agree(first: Run) -> None:
    assert "all 8 models" in cartlm(first.repo, "check-models")
    table = cartlm(first.repo, "table")
    assert [line.split()[0] for line in table.splitlines()[1:]] == TABLE_ROWS


def test_the_summary_has_what_was_measured(first: Run) -> None:
    rows = {
        row["variant"]: row
        for row in csv.DictReader((first.repo.path / "metrics/summary.csv").read_text("utf-8").splitlines())
    }
    assert list(rows) == VARIANTS
    # figures of a busy machine whose interval is wider than themselves
    left_out = first.repo.json("metrics/bench/cpu/machine.json")["details"].get("left_out", "")
    for variant, row in rows.items():
        assert float(row["exact_match_low"]) <= float(row["exact_match"]) <= float(row["exact_match_high"])
        for column in ("novel", "croatian", "english", "spanish", "unparseable"):
            assert 0 <= float(row[column]) <= 1, f"{variant}: {column}"
        benched = variant not in ("base", "merged", "int4-g32")
        for column in (
            "size_mib", "prefill_tokens_per_s", "decode_tokens_per_s", "latency_ms_p50", "latency_ms_p95",
            "queries_per_s", "peak_rss_mib",
        ):  # fmt: skip
            if f"{variant} cpu.{column}" in left_out:
                continue
            measured = benched or (variant, column) == ("int4-g32", "size_mib")
            measured = measured and (variant, column[-12:]) != ("baseline", "tokens_per_s")
            assert (float(row[column]) > 0) if measured else (row[column] == ""), f"{variant}: {column}"
    assert (
        float(rows["q4_k_m"]["size_mib"]) < float(rows["q8_0"]["size_mib"]) < float(rows["f16"]["size_mib"])
    )


def test_the_results_have_every_variant(first: Run) -> None:
    text = (first.repo.path / "docs/results.md").read_text(encoding="utf-8")
    for variant in VARIANTS:
        assert f"| {variant} |" in text


def test_git_holds_numbers_and_no_models(first: Run) -> None:
    files = first.repo.run("git", "ls-files").stdout.split()
    assert "dvc.lock" in files
    assert "metrics/bench/cpu/machine.json" in files
    assert not [name for name in files if name.startswith(("data/", "models/", "runs/"))]
    assert first.repo.run("git", "status", "--porcelain").stdout == ""


def up_to_date(run: Run) -> bool:
    output = run.repo.dvc("repro").stdout
    clean = run.repo.run("git", "status", "--porcelain").stdout == ""
    return "Running stage" not in output and "up to date" in output and clean


def test_a_second_repro_is_up_to_date(first: Run) -> None:
    assert up_to_date(first)


def test_metrics_show_covers_every_file_and_no_outcomes(first: Run) -> None:
    shown = json.loads(first.repo.dvc("metrics", "show", "--json").stdout)[""]["data"]
    metrics = first.repo.path / "metrics"
    assert set(shown) == {path.relative_to(first.repo.path).as_posix() for path in metrics.rglob("*.json")}
    assert all("error" not in values for values in shown.values())


def make_repro(repo: Repo) -> str:
    """README's first command with the set-up taken as done; returns its standard output."""
    (repo.path / ".venv").symlink_to(sys.prefix)
    return repo.run("make", "-o", "setup", "repro").stdout


def test_make_repro_ends_with_the_table(first: Run, tmp_path: Path) -> None:
    output = make_repro(toy_repo.copy(first.repo, tmp_path / "again"))
    assert "up to date" in output
    assert [line.split()[0] for line in output.splitlines()[-len(TABLE_ROWS) :]] == TABLE_ROWS


@pytest.mark.nightly
class TestChangedAndRebuilt:
    def test_they_are_up_to_date_afterwards(self, changed: Run, rebuilt: Run) -> None:
        assert up_to_date(changed)
        assert up_to_date(rebuilt)

    def test_a_removed_cell_leaves_no_trace(self, first: Run, changed: Run) -> None:
        assert "eval@q4_k_m:" in first.lock
        assert "q4_k_m" not in changed.lock
        cells = {name for name in yaml.safe_load(changed.lock)["stages"] if "@" in name}
        assert cells == {
            "eval-reference@baseline", "eval-reference@base", "eval-reference@merged", "eval-reference@f16", "quantize-gguf@q8_0", "eval@q8_0",
            "quantize-gptq@int4-g32", "eval-gptq@int4-g32",
        }  # fmt: skip
        for folder in ("metrics", "models", "runs"):
            assert not list((changed.repo.path / folder).rglob("q4_k_m*"))
        assert "| q4_k_m |" not in (changed.repo.path / "docs/results.md").read_text(encoding="utf-8")

    def test_a_removed_cell_runs_nothing_but_benchmark_and_summary(self, changed: Run) -> None:
        lines = changed.output.splitlines()
        stages = {line.split("'")[1] for line in lines if line.startswith("Running stage")}
        assert stages == {"bench-cpu", "summarize"}

    def test_an_added_cell_makes_only_its_own_stages_and_the_benchmark_stale(
        self, changed: Run, tmp_path: Path
    ) -> None:
        repo = toy_repo.copy(changed.repo, tmp_path / "added")
        repo.set(lambda params: params["gguf"].update(q6_k={"type": "Q6_K", "imatrix": False}))
        stale = json.loads(repo.dvc("status", "--json").stdout)
        # the stages of other pipeline files are made by `make base`, `make architecture` and `make remote` only
        main = {name for name in stale if "/dvc.yaml:" not in name}
        assert main == {"quantize-gguf@q6_k", "eval@q6_k", "bench-cpu", "summarize"}

    def test_dvc_shows_the_difference_of_two_commits(self, first: Run, changed: Run) -> None:
        repo, commits = changed.repo, (first.commit, changed.commit)
        metrics = json.loads(repo.dvc("metrics", "diff", *commits, "--json").stdout)
        assert metrics["metrics/eval/q4_k_m.json"]["free.exact_match"]["new"] is None
        assert "metrics/bench/cpu/q8_0.json" in metrics
        params = json.loads(repo.dvc("params", "diff", *commits, "--json").stdout)
        assert any("q4_k_m" in key for key in params["params.yaml"])
        repo.dvc("plots", "diff", *commits, "-o", "runs/plots")
        html = (repo.path / "runs/plots/index.html").read_text(encoding="utf-8")
        for title in ("accuracy-against-size", "accuracy-against-speed", "finetune_csv", "exact_match"):
            assert title in html

    def test_a_clone_without_models_rebuilds_them(self, first: Run, rebuilt: Run) -> None:
        assert "all 8 models" in cartlm(rebuilt.repo, "check-models")
        assert yaml.safe_load(rebuilt.lock)["stages"].keys() == yaml.safe_load(first.lock)["stages"].keys()

    def test_make_repro_fetches_what_a_remote_holds(self, first: Run, tmp_path: Path) -> None:
        origin = toy_repo.copy(first.repo, tmp_path / "origin")
        origin.dvc("remote", "add", "-d", "shared", str(tmp_path / "remote"))
        origin.dvc("push")
        origin.commit("with a remote")
        first.repo.run("git", "clone", "-q", str(origin.path), str(tmp_path / "clone"))
        output = make_repro(Repo(tmp_path / "clone"))
        assert "Running stage" not in output
        assert "all 8 models" in output
