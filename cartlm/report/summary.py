"""metrics/summary.csv: one row a variant, from the files of evaluation and benchmark."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cartlm.errors import UserError
from cartlm.evaluation.statistics import wilson
from cartlm.metrics import read_metrics
from cartlm.report import cells

EXACT = ("exact_match", "exact_match_low", "exact_match_high")
LIMITS = ("_low", "_high")
SPEEDS = ("prefill_tokens_per_s", "decode_tokens_per_s", "latency_ms_p50", "latency_ms_p95", "queries_per_s")
COLUMNS: dict[str, tuple[str, str]] = {
    "size_mib": ("cpu", "size_mib"),  # of a GPTQ variant, which no CPU benchmark measures: gptq
    **{key: ("free", key) for key in EXACT},
    "novel": ("free_slices", "novel"),
    **{name: ("free_slices", f"language_{name}") for name in ("croatian", "english", "spanish")},
    **{
        key.replace("exact_match", section): (section, key)
        for section in ("constrained", "ensemble", "natural", "natural_constrained", "natural_ensemble")
        for key in EXACT
    },
    **{key: ("free", key) for key in ("unparseable", "truncated")},
    **{key: ("cpu", key) for key in (*SPEEDS, "peak_rss_mib")},
}
"""Column -> section and key in the variant's file below metrics/eval, or of `cpu` below metrics/bench/cpu."""
WAYS = {"header": "with the format header", "zero_shot": "zero-shot", "few_shot": "{}-shot"}
"""Section of metrics/eval/base.json -> what follows the variant's name."""
SHOWN = (
    "variant", "size_mib", "exact_match", "natural", "decode_tokens_per_s", "latency_ms_p50", "peak_rss_mib",
)  # fmt: skip
"""Columns of `cartlm table`."""


def read_optional(path: Path) -> Mapping[str, Any]:
    """A metrics file; empty where it is not there.

    The limits of `exact_match` are computed again: those of the file are rounded, and rounding them a second time for a
    table can move the last digit.
    """
    values = read_metrics(path) if path.exists() else {}
    for section in values.values():
        if isinstance(section, dict) and {"n", "exact_match", "exact_match_low"} <= section.keys():
            exact = round(section["n"] * section["exact_match"])
            limits = (round(limit, 6) for limit in wilson(exact, section["n"]))
            section["exact_match_low"], section["exact_match_high"] = limits
    return values


def read_base(metrics: Path) -> dict[str, Any]:
    """What metrics/merge.json says of the base model (cartlm.training.origin); empty for a file that says nothing."""
    return dict(read_optional(metrics / "merge.json").get("base", {}))


def collect(metrics: Path, variants: Iterable[str]) -> list[dict[str, Any]]:
    """One row a variant, in the order given: the columns, None for what was not measured, and the limits of each.

    `asked` has the sections of a base model that was also asked in other ways (WAYS).
    """
    rows = []
    for variant in variants:
        bench, evaluation, gptq = (
            read_optional(metrics / folder / f"{variant}.json") for folder in ("bench/cpu", "eval", "gptq")
        )
        asked = {name: evaluation[name] for name in WAYS if name in evaluation}
        row: dict[str, Any] = {"variant": variant, "asked": asked}
        row["machine"] = bench.get("machine", {}).get("name", "")
        for column, (section, key) in COLUMNS.items():
            values = (bench if section == "cpu" else evaluation).get(section, {})
            row[column] = values.get(key)
            row |= {f"{column}{end}": values[f"{key}{end}"] for end in LIMITS if f"{key}{end}" in values}
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


def otherwise_asked(row: Mapping[str, Any], ways: Iterable[str] = tuple(WAYS)) -> list[dict[str, Any]]:
    """A further row for each of these ways in which a base model was asked too."""
    found = []
    for name in [each for each in ways if each in row["asked"]]:
        section = row["asked"][name]
        found.append({**section, "variant": f"{row['variant']}, {WAYS[name].format(section.get('shots'))}"})
    return found


def table(metrics: Path, variants: Sequence[str]) -> str:
    """The variants as aligned text for a terminal."""
    if not variants:
        raise UserError("params.yaml lists no variant", "add one under gguf in params.yaml")
    rows = [each for row in collect(metrics, variants) for each in (row, *otherwise_asked(row))]
    return cells.aligned(SHOWN, rows)
