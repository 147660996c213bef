"""metrics/summary.csv and the tables for people, from files as the stages write them."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from cartlm.errors import UserError
from cartlm.metrics import write_metrics
from cartlm.report import summary

FREE = {
    "n": 1000,
    "exact_match": 0.9312,
    "exact_match_low": 0.914,
    "exact_match_high": 0.9454,
    "unparseable": 0.001,
}
NATURAL = {"n": 364, "exact_match": 0.61, "exact_match_low": 0.56, "exact_match_high": 0.66}
SLICES = {"novel": 0.91, "language_croatian": 0.9, "language_english": 0.95, "language_spanish": 0.94}
CPU = {
    "size_mib": 12.34, "load_s": 0.1, "prefill_tokens_per_s": 1234.0, "decode_tokens_per_s": 210.5,
    "latency_ms_p50": 140.2, "latency_ms_p95": 201.0, "queries_per_s": 6.98, "peak_rss_mib": 55.5,
}  # fmt: skip


@pytest.fixture
def metrics(tmp_path: Path) -> Path:
    """Both files for q8_0, only the evaluation for merged."""
    for variant in ("q8_0", "merged"):
        write_metrics(
            tmp_path / "eval" / f"{variant}.json", {"free": FREE, "free_slices": SLICES, "natural": NATURAL}
        )
    write_metrics(tmp_path / "bench" / "cpu" / "q8_0.json", {"cpu": CPU})
    return tmp_path


def test_one_row_a_variant_in_order(metrics: Path) -> None:
    rows = summary.collect(metrics, ["merged", "q8_0", "q2_k"])
    assert [row["variant"] for row in rows] == ["merged", "q8_0", "q2_k"]
    assert rows[1] == {
        "variant": "q8_0", "size_mib": 12.34, "exact_match": 0.9312, "exact_match_low": 0.914,
        "exact_match_high": 0.9454, "novel": 0.91, "croatian": 0.9, "english": 0.95, "spanish": 0.94,
        "natural": 0.61, "natural_low": 0.56, "natural_high": 0.66, "unparseable": 0.001, "prefill_tokens_per_s": 1234.0, "decode_tokens_per_s": 210.5,
        "latency_ms_p50": 140.2, "latency_ms_p95": 201.0, "queries_per_s": 6.98, "peak_rss_mib": 55.5,
    }  # fmt: skip


def test_what_was_not_measured_is_an_empty_cell(metrics: Path) -> None:
    rows = summary.collect(metrics, ["merged", "q2_k"])
    assert rows[0]["exact_match"] == 0.9312
    assert rows[0]["size_mib"] is None
    assert all(value is None for column, value in rows[1].items() if column != "variant")
    lines = list(csv.DictReader(summary.to_csv(rows).splitlines()))
    assert lines[0]["decode_tokens_per_s"] == ""
    assert lines[1]["exact_match"] == ""
    assert "0.0" not in summary.to_csv(rows[1:])


def test_csv_keeps_every_digit_of_the_metrics(metrics: Path, tmp_path: Path) -> None:
    path = tmp_path / "out" / "summary.csv"
    summary.write(path, summary.collect(metrics, ["q8_0"]))
    assert next(csv.DictReader(path.open(encoding="utf-8")))["latency_ms_p50"] == "140.2"
    assert list(path.parent.iterdir()) == [path]


def test_table_is_aligned(metrics: Path) -> None:
    lines = summary.table(summary.collect(metrics, ["merged", "q8_0", "q2_k"])).splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("variant")
    assert "0.931 [0.914, 0.945]" in lines[2]
    assert "1,234" in lines[2]
    assert lines[3] == "q2_k"
    start = lines[0].index("peak RSS MiB") + len("peak RSS MiB")
    assert lines[2].endswith("55.5")
    assert len(lines[2]) == start


def test_no_variant_is_a_users_mistake() -> None:
    with pytest.raises(UserError, match="no variant"):
        summary.table([])


@pytest.mark.parametrize(
    ("value", "said"),
    [(65.0, "65.0"), (4.287, "4.29"), (99.96, "100"), (1684.0, "1,684"), (0.0471, "0.0471")],
)
def test_other_numbers_have_three_digits(value: float, said: str) -> None:
    assert summary.shown({"peak_rss_mib": value}, "peak_rss_mib") == said
