"""An evaluation for people, for programs, and its wrong answers as a file."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any

from cartlm.engines.answer import Answer
from cartlm.errors import UserError
from cartlm.evaluation.paired import format_p, format_points
from cartlm.evaluation.scoring import FIELDS, Score
from cartlm.files import write_text
from cartlm.own_rows.labelled import OwnRows
from cartlm.own_rows.results import Evaluation, Slice, plain_section
from cartlm.report import cells
from cartlm.task.intent import NO_ORDER, Intent, parse_intent
from cartlm.text import counted

OUTPUTS = (".jsonl", ".csv")
"""Suffixes of the file of wrong answers."""
ALWAYS = ("exact_match", *FIELDS, "unparseable", "outside_catalog")
SOMETIMES = ("truncated", "latency_ms_p50", "latency_ms_p95")
"""Columns of the table of variants; the latter only where one variant has them."""
VALUES = 12  # of one kind of slices in the text
CELL = 48  # characters


def text(read: OwnRows, evaluation: Evaluation, show: int) -> str:
    """The tables for a terminal: variants, slices, pairs, and the first `show` rows that are not answered exactly."""
    wrong = evaluation.wrong()
    parts = [_variants(evaluation), _slices(evaluation), _differences(evaluation)]
    if shown := wrong[:show]:
        title = f"Not answered exactly, {len(shown)} of {counted(len(wrong), 'row')}:"
        parts.append(f"{title}\n{_wrong(evaluation, shown)}")
    broken = f", {len(read.broken)} broken and left out" if read.broken else ""
    ways = {
        str(one.answered.about["decoding"]) for one in evaluation.variants if "decoding" in one.answered.about
    }
    decoded = f", decoding {' and '.join(sorted(ways))}" if ways else ""
    return "\n\n".join(
        [f"{read.path}: {counted(len(read.rows), 'row')}{broken}{decoded}", *filter(None, parts)]
    )


def _variants(evaluation: Evaluation) -> str:
    rows = [{"variant": one.name, **one.section()} for one in evaluation.variants]
    keys = [*ALWAYS, *(key for key in SOMETIMES if any(row.get(key) for row in rows))]
    if any(row["parsed_equal"] != row["exact_match"] for row in rows):
        keys.insert(1, "parsed_equal")
    return cells.aligned(["variant", *keys], rows)


def _slices(evaluation: Evaluation) -> str:
    names = [f"{one.name}, exact" for one in evaluation.variants]
    rows: list[dict[str, Any]] = []
    for kind, group in groupby(evaluation.slices, lambda one: one.kind):
        members = [*group]
        if len(members) == 1 and members[0].n == len(evaluation.rows):
            continue  # it would repeat the table of variants
        rows += [_slice_row(one, names) for one in members[:VALUES]]
        if len(members) > VALUES:
            rows.append({"rows of": f"{kind}: {len(members) - VALUES} more values, in --json"})
    return cells.aligned(["rows of", "n", *names], rows) if rows else ""


def _slice_row(one: Slice, names: Sequence[str]) -> dict[str, Any]:
    row: dict[str, Any] = {"rows of": _short(f"{one.kind} {one.value}"), "n": str(one.n)}
    for name, section in zip(names, one.sections, strict=True):
        row |= {f"{name}{end}": section[f"exact_match{end}"] for end in ("", "_low", "_high")}
    return row


def _differences(evaluation: Evaluation) -> str:
    """Each variant against the first, by McNemar's test and Newcombe's interval."""
    first = evaluation.variants[0].name
    return "\n".join(
        f"{each.variant} against {first}: {format_points(each)} points of exact match, {counted(each.pairs.won, 'row')} won, "
        f"{each.pairs.lost} lost, p {format_p(each.p_adjusted)}"
        for each in evaluation.differences
    )


def _wrong(evaluation: Evaluation, places: Sequence[int]) -> str:
    lines = [["line", "message", "label", *(one.name for one in evaluation.variants)]]
    for at in places:
        own = evaluation.rows[at]
        answers = [_described(one.answered.answers[at], one.scores[at]) for one in evaluation.variants]
        lines.append([str(own.line), own.row.message, _intent(own.row.intent), *answers])
    short = [[_short(cell) for cell in line] for line in lines]
    widths = [max(map(len, column)) for column in zip(*short, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in short)


def _described(answer: Answer, score: Score) -> str:
    if score.outcome == "exact":
        return "right"
    try:
        return _intent(parse_intent(answer.text)) + (
            " (in other bytes)" if score.outcome == "parsed_equal" else ""
        )
    except ValueError:
        return f"{score.outcome}: {answer.text}"


def _intent(intent: Intent) -> str:
    return intent.action if intent == NO_ORDER else f"{intent.action} {intent.quantity} {intent.product}"


def _short(text: str) -> str:
    """A text on one line, in so many characters; nothing in it moves a terminal's cursor."""
    line = "".join(sign if sign.isprintable() else "\ufffd" for sign in " ".join(text.split()))
    return line if len(line) <= CELL else f"{line[: CELL - 1]}…"


def as_json(read: OwnRows, evaluation: Evaluation, machine: dict[str, str]) -> dict[str, Any]:
    """Everything but the wrong answers: what was read, each variant with its slices, and the pairs."""
    variants = {}
    for place, one in enumerate(evaluation.variants):
        slices: dict[str, dict[str, Any]] = {}
        for each in evaluation.slices:
            slices.setdefault(each.kind, {})[each.value] = plain_section(each.sections[place])
        about = {"engine": one.answered.about, "notes": one.answered.notes}
        variants[one.name] = {**plain_section(one.section()), "slices": slices, **about}
    first = evaluation.variants[0].name
    return {
        "file": str(read.path),
        "rows": len(read.rows),
        "broken": [{"line": line, "reason": reason} for line, reason in read.broken],
        "variants": variants,
        "paired": [
            {"first": first, "second": each.variant, **plain_section(
                {"difference": each.pairs.difference, "low": each.low, "high": each.high, "p": each.p_adjusted,
                 **asdict(each.pairs)})}
            for each in evaluation.differences
        ],
        "machine": machine,
    }  # fmt: skip


def check_output(path: Path) -> None:
    """Raise UserError for a file whose suffix is none of OUTPUTS."""
    if path.suffix.lower() not in OUTPUTS:
        raise UserError(f"--output {path} ends neither in {' nor in '.join(OUTPUTS)}", "--output wrong.csv")


def write_wrong(path: Path, evaluation: Evaluation) -> int:
    """Write every row that a variant did not answer exactly, with its label, all answers and outcomes; returns how many."""
    check_output(path)
    rows = [_record(evaluation, at) for at in evaluation.wrong()]
    write_text(path, _csv_text(evaluation, rows) if path.suffix.lower() == ".csv" else _lines(rows))
    return len(rows)


def _record(evaluation: Evaluation, at: int) -> dict[str, Any]:
    own = evaluation.rows[at]
    answers = {
        one.name: {"answer": one.answered.answers[at].text, "outcome": one.scores[at].outcome}
        for one in evaluation.variants
    }
    return {"line": own.line, "message": own.row.message, "label": asdict(own.row.intent), "answers": answers}


def _lines(rows: Iterable[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _csv_text(evaluation: Evaluation, rows: Iterable[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [f"{one.name} {what}" for one in evaluation.variants for what in ("answer", "outcome")]
    writer.writerow(["line", "message", *FIELDS, *names])
    for row in rows:
        answers = [value for each in row["answers"].values() for value in each.values()]
        writer.writerow([row["line"], row["message"], *row["label"].values(), *answers])
    return text.getvalue()
