"""metrics/summary.csv: one row a variant, from the files of evaluation and benchmark."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cartlm.errors import UserError
from cartlm.metrics import read_metrics
from cartlm.report import cells

COLUMNS: dict[str, tuple[str, str, str]] = {
    "size_mib": ("bench/cpu", "cpu", "size_mib"),  # of a GPTQ variant, which no CPU benchmark measures: gptq
    "exact_match": ("eval", "free", "exact_match"),
    "exact_match_low": ("eval", "free", "exact_match_low"),
    "exact_match_high": ("eval", "free", "exact_match_high"),
    "novel": ("eval", "free_slices", "novel"),
    "croatian": ("eval", "free_slices", "language_croatian"),
    "english": ("eval", "free_slices", "language_english"),
    "spanish": ("eval", "free_slices", "language_spanish"),
    "natural": ("eval", "natural", "exact_match"),
    "natural_low": ("eval", "natural", "exact_match_low"),
    "natural_high": ("eval", "natural", "exact_match_high"),
    "unparseable": ("eval", "free", "unparseable"),
    "truncated": ("eval", "free", "truncated"),
    "prefill_tokens_per_s": ("bench/cpu", "cpu", "prefill_tokens_per_s"),
    "decode_tokens_per_s": ("bench/cpu", "cpu", "decode_tokens_per_s"),
    "latency_ms_p50": ("bench/cpu", "cpu", "latency_ms_p50"),
    "latency_ms_p95": ("bench/cpu", "cpu", "latency_ms_p95"),
    "queries_per_s": ("bench/cpu", "cpu", "queries_per_s"),
    "peak_rss_mib": ("bench/cpu", "cpu", "peak_rss_mib"),
}
"""Column -> folder under metrics/, section and key of the variant's file there."""
HEADINGS = {
    "variant": "variant",
    "size_mib": "MiB",
    "exact_match": "exact match [95 %]",
    "natural": "natural [95 %]",
    "decode_tokens_per_s": "decode tokens/s [95 %]",
    "latency_ms_p50": "p50 ms [95 %]",
    "peak_rss_mib": "peak RSS MiB [95 %]",
}
"""Columns of `cartlm table`."""


def read_optional(path: Path) -> Mapping[str, Any]:
    """A metrics file; empty where it is not there."""
    return read_metrics(path) if path.exists() else {}


def collect(metrics: Path, variants: Iterable[str]) -> list[dict[str, Any]]:
    """One row a variant, in the order given: the columns, None for what was not measured, and the limits of each.

    `header` is the section of a base model that was also asked with the header that names the format.
    """
    rows = []
    for variant in variants:
        bench, evaluation, gptq = (
            read_optional(metrics / folder / f"{variant}.json") for folder in ("bench/cpu", "eval", "gptq")
        )
        row: dict[str, Any] = {"variant": variant, "header": evaluation.get("header")}
        row["machine"] = bench.get("machine", {}).get("name", "")
        for column, (folder, section, key) in COLUMNS.items():
            values = (evaluation if folder == "eval" else bench).get(section, {})
            row[column] = values.get(key)
            limits = {f"{column}_{limit}": values.get(f"{key}_{limit}") for limit in ("low", "high")}
            row |= {name: value for name, value in limits.items() if value is not None}
        if row["size_mib"] is None and gptq:
            row["size_mib"] = gptq["quantize"]["size_mib"]
        rows.append(row)
    return rows


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as CSV with a header line; None becomes an empty cell."""
    text = io.StringIO()
    writer = csv.DictWriter(text, ["variant", *COLUMNS], lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def with_header(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A further row for a base model that was also asked with the header that names the format."""
    header = row["header"]
    return [{**header, "variant": f"{row['variant']}, with the format header"}] if header else []


def table(metrics: Path, variants: Sequence[str]) -> str:
    """The variants as aligned text for a terminal."""
    if not variants:
        raise UserError("params.yaml lists no variant", "add one under gguf in params.yaml")
    rows = [each for row in collect(metrics, variants) for each in (row, *with_header(row))]
    return cells.aligned(HEADINGS, rows)
