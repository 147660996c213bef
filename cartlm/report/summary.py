"""metrics/summary.csv: one row a variant, from the files of evaluation and benchmark."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cartlm.errors import UserError
from cartlm.files import write_text
from cartlm.metrics import read_metrics

Value = float | int | str | None
"""None is what was not measured: an empty cell, never 0."""

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
    "prefill_tokens_per_s": ("bench/cpu", "cpu", "prefill_tokens_per_s"),
    "decode_tokens_per_s": ("bench/cpu", "cpu", "decode_tokens_per_s"),
    "latency_ms_p50": ("bench/cpu", "cpu", "latency_ms_p50"),
    "latency_ms_p95": ("bench/cpu", "cpu", "latency_ms_p95"),
    "queries_per_s": ("bench/cpu", "cpu", "queries_per_s"),
    "peak_rss_mib": ("bench/cpu", "cpu", "peak_rss_mib"),
}
"""Column -> folder under metrics/, section and key of the variant's file there."""


def collect(metrics: Path, variants: Iterable[str]) -> list[dict[str, Value]]:
    """One row a variant, in the order given; a file or key that is not there leaves an empty cell."""
    rows = []
    for variant in variants:
        files: dict[str, Mapping[str, Any]] = {}
        row: dict[str, Value] = {"variant": variant}
        for column, (folder, section, key) in COLUMNS.items():
            if folder not in files:
                path = metrics / folder / f"{variant}.json"
                files[folder] = read_metrics(path) if path.exists() else {}
            row[column] = files[folder].get(section, {}).get(key)
        made = metrics / "gptq" / f"{variant}.json"
        if row["size_mib"] is None and made.exists():
            row["size_mib"] = read_metrics(made)["quantize"]["size_mib"]
        rows.append(row)
    return rows


def to_csv(rows: Sequence[Mapping[str, Value]]) -> str:
    """The rows as CSV with a header line; None becomes an empty cell."""
    text = io.StringIO()
    writer = csv.DictWriter(text, ["variant", *COLUMNS], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def write(path: Path, rows: Sequence[Mapping[str, Value]]) -> None:
    """Write the CSV under a temporary name, then rename."""
    write_text(path, to_csv(rows))


def table(rows: Sequence[Mapping[str, Value]]) -> str:
    """The rows as aligned text for a terminal, numbers to the right."""
    if not rows:
        raise UserError("params.yaml lists no variant", "add one under gguf in params.yaml")
    cells = [list(HEADINGS.values())] + [[shown(row, column) for column in HEADINGS] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(HEADINGS))]
    lines = []
    for line in cells:
        padded = [line[0].ljust(widths[0])] + [
            cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)
        ]
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


HEADINGS = {
    "variant": "variant",
    "size_mib": "MiB",
    "exact_match": "exact match [95 %]",
    "novel": "novel",
    "croatian": "croatian",
    "english": "english",
    "spanish": "spanish",
    "natural": "natural (English, add)",
    "unparseable": "unparseable",
    "prefill_tokens_per_s": "prefill tok/s",
    "decode_tokens_per_s": "decode tok/s",
    "latency_ms_p50": "p50 ms",
    "latency_ms_p95": "p95 ms",
    "queries_per_s": "queries/s",
    "peak_rss_mib": "peak RSS MiB",
}
"""Columns shown to people, with their headings."""


def shown(row: Mapping[str, Value], column: str) -> str:
    """A cell for people: shares with three decimals and their interval, other numbers to three digits."""
    value = row[column]
    if value is None or isinstance(value, str):
        return value or ""
    if column in ("exact_match", "natural"):
        low, high = row[f"{column}_low"], row[f"{column}_high"]
        interval = f" [{low:.3f}, {high:.3f}]" if low is not None and high is not None else ""
        return f"{value:.3f}{interval}"
    if column in ("novel", "croatian", "english", "spanish", "unparseable"):
        return f"{value:.3f}"
    return number(value)


def number(value: float | None) -> str:
    """A measured number for people, to three digits; empty for what was not measured."""
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 99.95 else f"{value:#.3g}"
