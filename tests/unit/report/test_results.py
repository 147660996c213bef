"""docs/results.md and the README's table: generated from metrics/, and nothing outside the markers changes."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from cartlm import cli, params
from cartlm.errors import UserError
from cartlm.metrics import Outcome, write_metrics, write_outcomes
from cartlm.report import results, summary
from tests import ROOT

NAMES = ["base", "f16", "q8_0", "q2_k", "int8"]
FREE = {"n": 1000, "exact_match": 0.2, "exact_match_low": 0.18, "exact_match_high": 0.22, "unparseable": 0.4}


def write_bench(metrics: Path, variant: str, decode: float) -> None:
    cpu = {
        "decode_tokens_per_s": decode,
        "decode_tokens_per_s_low": decode - 10,
        "decode_tokens_per_s_high": decode + 10,
    }
    write_metrics(metrics / f"bench/cpu/{variant}.json", {"machine": {"name": "a toy CPU x2"}, "cpu": cpu})


@pytest.fixture
def metrics(tmp_path: Path) -> Path:
    folder = tmp_path / "metrics"
    write_metrics(folder / "eval/base.json", {"free": FREE, "header": {"n": 1000, "exact_match": 0.7}})
    write_metrics(folder / "eval/q8_0.json", {"free": FREE, "natural": {**FREE, "n": 364}})
    write_metrics(folder / "parity.json", {"agreement": 0.998, "n": 1000})
    for variant, decode in (("f16", 100.0), ("q8_0", 115.0), ("q2_k", 200.0)):
        write_bench(folder, variant, decode)
    for variant, lost in (("f16", 0), ("q8_0", 0), ("q2_k", 30)):
        rows = [Outcome(str(i), "wrong" if i < lost else "exact", "") for i in range(100)]
        write_outcomes(folder / f"outcomes/{variant}.csv", rows)
    return folder


def rows(text: str) -> dict[str, str]:
    return {line.split(" | ")[0].strip("| "): line for line in text.splitlines() if line.startswith("| ")}


def test_the_base_model_is_shown_with_its_format_header(metrics: Path) -> None:
    text = results.document(metrics, NAMES)
    assert list(rows(text))[1:3] == ["base", "base, with the format header"]
    assert "0.200 [0.180, 0.220]" in rows(text)["base"]
    assert "0.700" in rows(text)["base, with the format header"]
    assert results.ABOUT["header"] in text
    assert list(rows(results.readme_block(metrics, NAMES)))[1] == "base, with the format header"


def test_what_was_not_measured_has_its_reason(metrics: Path) -> None:
    speed = results.document(metrics, NAMES).partition("## Speed")[2]
    assert list(rows(speed))[1:] == ["f16", "q8_0", "q2_k"]
    assert "Not measured here: `base`, `int8`" in speed
    assert "a toy CPU x2" in speed
    assert "wider" not in speed
    write_metrics(metrics / "bench/cpu/machine.json", {"details": {"left_out": "f16 cpu.latency_ms_p95"}})
    assert "wider than the value: f16 cpu.latency_ms_p95." in results.document(metrics, NAMES)


def test_the_notes_have_the_counts(metrics: Path) -> None:
    text = results.document(metrics, NAMES)
    for words in ("1,000 test rows", "364 messages", "99.8 % of 1,000 rows"):
        assert words in text


def test_the_finding_names_what_is_lost_and_what_is_as_fast(metrics: Path) -> None:
    block = results.readme_block(metrics, NAMES)
    assert "`q2_k` −30.0 [" in block
    assert "`q8_0` " not in block.partition("in points")[2].partition(";")[0]
    assert "`q2_k` decodes fastest" in block
    write_bench(metrics, "q8_0", 195.0)
    assert "`q8_0`, `q2_k` decode equally fast" in results.readme_block(metrics, NAMES)


def test_only_the_block_changes(metrics: Path) -> None:
    text = f"# Title\n\nbefore\n\n{results.BEGIN}\nold\n{results.END}\n\nafter: 0.5\n"
    new = results.with_block(text, "| a |")
    assert new == f"# Title\n\nbefore\n\n{results.BEGIN}\n\n| a |\n\n{results.END}\n\nafter: 0.5\n"
    assert results.with_block(new, "| a |") == new


def test_nothing_measured_gives_a_table_of_names(tmp_path: Path) -> None:
    block = results.readme_block(tmp_path, ["base"])
    assert block.splitlines()[-1].startswith("| base |")
    assert not any(digit in block.splitlines()[-1] for digit in "0123456789")
    assert "| base |" in results.document(tmp_path, ["base"])


@pytest.mark.parametrize("text", ["no markers", results.BEGIN, f"{results.END} {results.BEGIN}"])
def test_missing_markers_are_a_users_mistake(text: str) -> None:
    with pytest.raises(UserError, match=r"README\.md lacks"):
        results.with_block(text, "| a |")


def test_readme_table_writes_both_documents_and_checks_them(
    metrics: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(metrics.parent)
    Path("params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    Path("README.md").write_text(f"{results.BEGIN}{results.END}", encoding="utf-8")

    def exit_code(*arguments: str) -> int:
        return CliRunner().invoke(cli.main, ["readme-table", *arguments]).exit_code

    assert exit_code("--check") == 1
    assert not Path("docs").exists()
    assert exit_code() == 0
    assert exit_code("--check") == 0
    write_bench(metrics, "q8_0", 1.0)
    assert exit_code("--check") == 1


def test_the_tables_of_this_repository_are_what_metrics_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    names = params.load(ROOT / "params.yaml").variants.names
    assert CliRunner().invoke(cli.main, ["readme-table", "--check"]).exit_code == 0, "cartlm readme-table"
    document = results.document(ROOT / "metrics", names)
    assert (ROOT / "docs/results.md").read_text("utf-8") == document, "dvc repro summarize"
    csv = summary.to_csv(summary.collect(ROOT / "metrics", names))
    assert (ROOT / "metrics/summary.csv").read_text("utf-8") == csv, "dvc repro summarize"
