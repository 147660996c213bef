"""docs/results.md and the README's table: generated from metrics/, and nothing outside the markers changes."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from cartlm import cli
from cartlm.bench.rounds import to_csv
from cartlm.errors import UserError
from cartlm.evaluation.statistics import wilson
from cartlm.files import write_text
from cartlm.metrics import Outcome, write_metrics, write_outcomes
from cartlm.report import results, summary, worth
from tests.fixtures import fixed_params

NAMES = ["base", "f16", "q8_0", "q2_k", "int8"]
FREE = {
    "n": 1000,
    "exact_match": 0.2,
    "exact_match_low": 0.1764,
    "exact_match_high": 0.2259,
    "unparseable": 0.4,
}


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


def test_messages_that_are_no_order_have_a_table_where_they_were_asked(metrics: Path) -> None:
    title = "## Messages that are no order"
    assert title not in results.document(metrics, NAMES)
    low, high = wilson(285, 300)
    share = {"n": 300, "recall": 0.95, "recall_low": low, "recall_high": high, "recall_chat": 0.991}
    share |= {"precision": 0.9, "false_none": 0.004, "recall_english": 0.5}
    both = {"none": share, "none_ensemble": {**share, "recall": 0.5}}
    write_metrics(metrics / "eval/q8_0.json", {"free": FREE, **both})
    text = results.document(metrics, NAMES).partition(title)[2].partition("##")[0]
    assert [line for line in text.splitlines() if line.startswith("|")] == [
        "| variant | decoding | recall [95 %] | chat | precision | orders lost |",
        "|---|---:|---:|---:|---:|---:|",
        "| q8_0 | free | 0.950 [0.919, 0.970] | 0.99 | 0.900 | 0.00400 |",
        "| q8_0 | ensemble | 0.500 [0.919, 0.970] | 0.99 | 0.900 | 0.00400 |",
    ]


def test_the_base_model_is_shown_with_its_format_header(metrics: Path) -> None:
    text = results.document(metrics, NAMES)
    assert list(rows(text))[1:3] == ["base", "base, with the format header"]
    assert "0.200 [0.176, 0.226]" in rows(text)["base"]
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
    for words in ("1,000 test rows", "364 messages"):
        assert words in text


def test_a_dequantized_base_model_is_told(metrics: Path) -> None:
    write_metrics(metrics / "merge.json", {"base": {"name": "some/model", "source": "package"}})
    assert "some/model" not in results.document(metrics, NAMES)
    write_metrics(metrics / "merge.json", {"base": {"name": "some/model", "dequantized_from": "Q4_1"}})
    assert "The base model `some/model` was dequantized from Q4_1" in results.document(metrics, NAMES)


def test_the_way_from_the_adapter_to_f16_is_one_table(metrics: Path) -> None:
    assert "From the adapter" not in results.document(metrics, NAMES), "no file of the merge"
    ways = {
        "adapter": FREE,
        "onto_16_bit": {**FREE, "agreement": 0.5},
        "onto_nf4": {**FREE, "agreement": 0.875},
    }
    write_metrics(metrics / "merge.json", {"agreement": 0.875, "n": 1000, "onto": "nf4", **ways})
    write_metrics(metrics / "eval/f16.json", {"free": {**FREE, "exact_match": 0.19}})
    found = results.merging(metrics)
    assert [row["model"] for row in found] == [
        "adapter",
        "merged onto 16 bits",
        "merged onto NF4, kept",
        "f16",
    ]
    assert [row.get("same answer", "")[:5] for row in found] == ["", "0.500", "0.875", "0.998"]
    assert found[-1]["exact_match"] == 0.19
    assert "| merged onto NF4, kept | 1,000 validation | 0.200 [0.176, 0.226] | 0.875 of the adapter's |" in (
        results.document(metrics, NAMES)
    )


def test_gains_are_paired_and_adjusted_together(metrics: Path) -> None:
    won = {"gain": 0.05, "gain_low": 0.021, "gain_high": 0.08, "gain_p": 0.001}
    lost = {"gain": -0.002, "gain_low": -0.01, "gain_high": 0.006, "gain_p": 0.5}
    write_metrics(
        metrics / "eval/f16.json",
        {"free": FREE, "constrained": {**FREE, **lost}, "ensemble": {**FREE, **won}},
    )
    write_metrics(
        metrics / "eval/q2_k.json",
        {"free": FREE, "constrained": {**FREE, **won}, "natural_constrained": {**FREE, **won}},
    )
    found = results.gains(metrics, NAMES)
    assert [(row["variant"], row["decoding"]) for row in found] == [
        ("f16", "constrained"), ("f16", "ensemble"), ("q2_k", "constrained")
    ]  # fmt: skip
    assert found[0]["test rows"] == "−0.2 [−1.0, +0.6]"
    assert found[2]["natural rows"] == "+5.0 [+2.1, +8.0]"
    assert [row["p, test"] for row in found] == ["0.50", "0.0040", "0.0040"]  # three of 0.001 and one of 0.5
    assert "What constrained decoding and the ensemble gain" in "".join(results.sections(metrics, NAMES))


def test_the_finding_names_what_is_lost(metrics: Path) -> None:
    block = results.readme_block(metrics, NAMES)
    assert "`q2_k` −30.0 [" in block
    assert "`q8_0` " not in block.partition("points")[2].partition(";")[0]


def test_a_decode_speed_that_differs_in_each_round_is_told_apart_although_the_intervals_overlap(
    metrics: Path,
) -> None:
    """Slow minutes move all variants of a round alike, so their intervals overlap and their ratios do not vary."""
    decode = "cpu.decode_tokens_per_s"
    lines = [
        (number, name, decode, (100 + 40 * (number % 3)) * factor * (1 + 0.01 * ((number * swing) % 7 - 3)))
        for number in range(10)
        for name, factor, swing in (("f16", 1, 1), ("q8_0", 1, 5), ("q2_k", 1.2, 3))
    ]
    assert results.decode_notes(metrics, NAMES) == []
    write_text(metrics / "bench/cpu/rounds.csv", to_csv(lines))
    faster, same = results.decode_notes(metrics, NAMES)
    assert "10 rounds: `q2_k` +2" in faster
    assert "`q8_0`" in same
    assert "`q2_k`" not in same
    write_text(metrics / "bench/cpu/rounds.csv", to_csv([line for line in lines if line[0] < 6]))
    assert results.decode_notes(metrics, NAMES) == [], "of six rounds, no p of two variants is below 0.05"


def test_limits_are_not_rounded_twice(tmp_path: Path) -> None:
    """Wilson's upper limit of 917 in 1,000 is 0.93254: 0.9325 in the file and 0.933, not 0.932, in the table."""
    low, high = wilson(917, 1000)
    free = {"n": 1000, "exact_match": 0.917, "exact_match_low": low, "exact_match_high": high}
    write_metrics(tmp_path / "eval/f16.json", {"free": free})
    assert "0.917 [0.898, 0.933]" in results.document(tmp_path, ["f16"])


def test_an_unsteady_baseline_is_told_with_its_reason(tmp_path: Path) -> None:
    write_metrics(tmp_path / "bench/cpu/machine.json", {"details": {"unsteady": "baseline: 50 % apart"}})
    notes = results.speed_notes(tmp_path, results.collect(tmp_path, ["baseline", "merged"]))
    assert any("unsteady: baseline: 50 % apart" in note for note in notes)
    (elsewhere,) = [note for note in notes if note.startswith("Not measured here")]
    assert "`merged`" in elsewhere
    assert "`baseline`" not in elsewhere


def test_only_the_block_changes(metrics: Path) -> None:
    text = f"# Title\n\nbefore\n\n{results.BEGIN}\nold\n{results.END}\n\nafter: 0.5\n"
    new = results.with_block(text, "| a |")
    assert new == f"# Title\n\nbefore\n\n{results.BEGIN}\n\n| a |\n\n{results.END}\n\nafter: 0.5\n"
    assert results.with_block(new, "| a |") == new


def test_a_block_with_nothing_to_say_is_empty() -> None:
    text = f"before\n{worth.BEGIN}\nold\n{worth.END}\nafter"
    new = results.with_block(text, "", (worth.BEGIN, worth.END))
    assert new == f"before\n{worth.BEGIN}\n{worth.END}\nafter"
    assert results.with_block(new, "", (worth.BEGIN, worth.END)) == new


def test_a_variant_without_tokens_has_its_latencies_and_empty_cells(metrics: Path) -> None:
    cpu = {
        "size_mib": 0.3,
        "latency_ms_p50": 2.0,
        "latency_ms_p95": 3.0,
        "queries_per_s": 450.0,
        "peak_rss_mib": 40.0,
    }
    write_metrics(metrics / "bench/cpu/baseline.json", {"machine": {"name": "a toy CPU x2"}, "cpu": cpu})
    names = ["baseline", *NAMES]
    speed = results.document(metrics, names).partition("## Speed")[2]
    assert rows(speed)["baseline"] == "| baseline | 0.300 |  |  | 2.00 | 3.00 | 450 | 40.0 |"
    assert "`baseline` has no tokens" in speed
    assert "Not measured here: `base`, `int8`" in speed
    assert "`baseline`" not in speed.partition("Not measured")[2]
    assert rows(results.readme_block(metrics, names))["baseline"].startswith("| baseline | 0.300 |")
    assert results.readme_block(metrics, names).endswith("Measured on a toy CPU x2.")
    assert summary.to_csv(summary.collect(metrics, names)).splitlines()[1].startswith("baseline,0.3,")


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
    fixed_params.write(Path())
    markers = (results.BEGIN, results.END, worth.BEGIN, worth.END)
    Path("README.md").write_text("".join(markers), encoding="utf-8")

    def exit_code(*arguments: str) -> int:
        return CliRunner().invoke(cli.main, ["readme-table", *arguments]).exit_code

    assert exit_code("--check") == 1
    assert not Path("docs").exists()
    assert exit_code() == 0
    assert exit_code("--check") == 0
    write_bench(metrics, "q8_0", 1.0)
    assert exit_code("--check") == 1
