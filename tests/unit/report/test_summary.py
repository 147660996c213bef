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
    "exact_match_low": 0.913585,
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
        "variant": "q8_0", "size_mib": 12.34, "exact_match": 0.9312, "exact_match_low": 0.913585,
        "exact_match_high": 0.945116, "novel": 0.91, "croatian": 0.9, "english": 0.95, "spanish": 0.94,
        "natural": 0.61, "natural_low": 0.558883, "natural_high": 0.658602, "unparseable": 0.001,
        "constrained": None, "constrained_low": None, "constrained_high": None, "natural_constrained": None,
        "natural_constrained_low": None, "natural_constrained_high": None,
        **dict.fromkeys(f"{name}{end}" for name in ("ensemble", "natural_ensemble") for end in ("", "_low", "_high")),
        "truncated": None, "prefill_tokens_per_s": 1234.0, "decode_tokens_per_s": 210.5,
        "latency_ms_p50": 140.2, "latency_ms_p95": 201.0, "queries_per_s": 6.98, "peak_rss_mib": 55.5, "machine": "",
        "asked": {},
    }  # fmt: skip


def test_what_was_not_measured_is_an_empty_cell(metrics: Path) -> None:
    rows = summary.collect(metrics, ["merged", "q2_k"])
    assert rows[0]["exact_match"] == 0.9312
    assert rows[0]["size_mib"] is None
    assert all(rows[1][column] is None for column in summary.COLUMNS)
    lines = list(csv.DictReader(summary.to_csv(rows).splitlines()))
    assert lines[0]["decode_tokens_per_s"] == ""
    assert lines[1]["exact_match"] == ""
    assert "0.0" not in summary.to_csv(rows[1:])


def test_csv_keeps_every_digit_of_the_metrics(metrics: Path) -> None:
    text = summary.to_csv(summary.collect(metrics, ["q8_0"]))
    assert next(csv.DictReader(text.splitlines()))["latency_ms_p50"] == "140.2"


def test_table_is_aligned(metrics: Path) -> None:
    lines = summary.table(metrics, ["merged", "q8_0", "q2_k"]).splitlines()
    assert [line.split()[0] for line in lines] == ["variant", "merged", "q8_0", "q2_k"]
    assert "0.931 [0.914, 0.945]" in lines[2]
    assert lines[2].endswith("55.5")
    assert len(lines[2]) == len(lines[0])


def test_the_base_model_s_row_with_the_format_header_follows_it(metrics: Path) -> None:
    write_metrics(metrics / "eval" / "base.json", {"free": {**FREE, "exact_match": 0.0}, "header": FREE})
    lines = summary.table(metrics, ["base", "q8_0"]).splitlines()
    assert lines[2].startswith("base, with the format header")
    assert "0.931" in lines[2]


def test_no_variant_is_a_users_mistake(metrics: Path) -> None:
    with pytest.raises(UserError, match="no variant"):
        summary.table(metrics, [])
