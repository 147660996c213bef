"""The results block of the README, between its two markers: generated, never typed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cartlm.errors import UserError
from cartlm.evaluation import paired
from cartlm.files import write_text
from cartlm.metrics import read_metrics
from cartlm.report import architecture, cards
from cartlm.report.summary import HEADINGS, Value, collect, shown

BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"


def block(metrics: Path, variants: Sequence[str]) -> str:
    """What stands between the markers: the table, how and where it was measured, and measured architectures."""
    rows = collect(metrics, variants)
    measured = [architecture.block(folder) for folder in architecture.folders(metrics)] + cards.blocks(
        metrics
    )
    parts = [markdown(rows), *notes(metrics, variants), *against_f16(metrics, variants), *measured]
    return "\n\n".join(part for part in parts if part)


def markdown(rows: Sequence[Mapping[str, Value]]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| " + " | ".join(HEADINGS.values()) + " |",
        "|---|" + "---:|" * (len(HEADINGS) - 1),
    ]
    lines += ["| " + " | ".join(shown(row, column) for column in HEADINGS) + " |" for row in rows]
    return "\n".join(lines)


def notes(metrics: Path, variants: Sequence[str]) -> list[str]:
    """Sentences on what the table rests on; a file that is not there gives none."""
    found = []
    bench = [metrics / "bench" / "cpu" / f"{variant}.json" for variant in variants]
    evaluations = [_read(metrics / "eval" / f"{variant}.json") for variant in variants]
    counts = {file["free"]["n"] for file in evaluations if "free" in file}
    if counts:
        found.append(f"Accuracy: {' or '.join(f'{n:,}' for n in sorted(counts))} test rows, greedy decoding.")
    counts = {file["natural"]["n"] for file in evaluations if "natural" in file}
    if counts:
        found.append(
            f"Natural: {' or '.join(f'{n:,}' for n in sorted(counts))} messages that people typed to order fast food "
            "(MultiDoGO), in English and almost all of them `add`; in no other figure."
        )
    for variant, file in zip(variants, evaluations, strict=True):
        if "header" in file:
            share = f"{file['header']['exact_match']:.3f}"
            found.append(
                f"`{variant}` before fine-tuning, asked with the format header: {share} exact match."
            )
    for name, pair in (("merge", "Adapter and merged model"), ("parity", "Merged model and GGUF F16")):
        file = _read(metrics / f"{name}.json")
        if "agreement" in file:
            share = f"{100 * file['agreement']:.1f} %"
            found.append(f"{pair} give the same answer on {share} of {file['n']:,} rows.")
    machines = {file["machine"]["name"] for file in map(_read, bench) if "machine" in file}
    if machines:
        found.append(f"Speed and memory: {' and '.join(sorted(machines))}.")
    return ["\n".join(found)] if found else []


def against_f16(metrics: Path, variants: Sequence[str]) -> list[str]:
    """The quantized variants against F16 on the same rows."""
    found = paired.against_f16(paired.read_outcomes_of(metrics, variants))
    if not found:
        return []
    about = (
        "Each quantized variant against `f16`, row by row: Newcombe's interval of the difference in exact match, and "
        "McNemar's exact test, Holm-adjusted over these variants."
    )
    return [about, paired.difference_table(found)]


def _read(path: Path) -> Mapping[str, Any]:
    return read_metrics(path) if path.exists() else {}


def parts(text: str) -> tuple[str, str, str]:
    """What stands before the block (marker included), the block, and the rest. Raises UserError without markers."""
    head, begin, rest = text.partition(BEGIN)
    body, end, tail = rest.partition(END)
    if not begin or not end:
        raise UserError(f"README.md lacks {BEGIN} or {END}", "git checkout README.md")
    return head + begin, body.strip("\n"), end + tail


def update(path: Path, metrics: Path, variants: Sequence[str]) -> bool:
    """Rewrite the block of the README in place; True if it changed."""
    before = path.read_text(encoding="utf-8")
    head, body, tail = parts(before)
    new = block(metrics, variants)
    if body == new:
        return False
    write_text(path, f"{head}\n\n{new}\n\n{tail}")
    return True
