"""Scores, slices and pairs of planted answers, and how they are told."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest

from cartlm.engines.answer import Answer
from cartlm.errors import UserError
from cartlm.evaluation.statistics import wilson
from cartlm.own_rows import report, results
from cartlm.own_rows.answering import Answered
from cartlm.own_rows.labelled import Labelled, OwnRows
from cartlm.task.intent import Intent
from cartlm.task.rows import make

CATALOG = ["Tea", "Milk 1L", "Milk 2L"]
OWN = [
    Labelled(
        2 * at + 3,
        make(f"logs.csv:{at}", "unknown", CATALOG, f"message {at}", Intent("add", "Tea", 1 + at), {}),
        {"Haus": "AB"[at % 2], "action": "add"},
    )
    for at in range(6)
]


def answer(text: str, reason: str = "stop") -> Answer:
    return Answer(text, (), reason, 9, 9, 0, 0.0, 0.0)  # type: ignore[arg-type]


def right(at: int) -> Answer:
    return answer(OWN[at].row.completion)


OUTSIDE = answer(Intent("add", "Unicorn\x1b[2J", 1).canonical())
OTHER_BYTES = answer(OWN[1].row.completion.replace(": ", ":"))
FIRST = [right(0), OTHER_BYTES, OUTSIDE, answer("no"), answer("{", "length"), right(5)]
SECOND = [right(0), right(1), right(2), right(3), answer(OWN[3].row.completion), answer("no")]
READ = OwnRows(Path("logs.csv"), OWN, [(9, "blank")])


@pytest.fixture
def found() -> results.Evaluation:
    latency = [float(ms) for ms in range(1, 101)]
    one = Answered("q4_k_m", FIRST, latency, {"name": "llama.cpp"}, [])
    return results.evaluate(OWN, [one, Answered("baseline", SECOND, [], {"name": "rules"}, ["a note"])])


def test_each_outcome_is_counted_once(found: results.Evaluation) -> None:
    section = found.variants[0].section()
    assert section == {
        "n": 6, "exact_match": 2 / 6, "exact_match_low": wilson(2, 6)[0], "exact_match_high": wilson(2, 6)[1],
        "parsed_equal": 3 / 6, "wrong": 1 / 6, "unparseable": 1 / 6, "truncated": 1 / 6, "action": 4 / 6,
        "product": 3 / 6, "quantity": 3 / 6, "outside_catalog": 1 / 6, "latency_ms_p50": 50.5,
        "latency_ms_p95": pytest.approx(95.05), "latency_n": 100,
    }  # fmt: skip
    assert "latency_ms_p50" not in found.variants[1].section()


def test_variants_are_paired_row_by_row(found: results.Evaluation) -> None:
    (difference,) = found.differences
    pairs = difference.pairs
    assert (difference.variant, pairs.both, pairs.lost, pairs.won, pairs.neither) == ("baseline", 1, 1, 3, 1)


def test_rows_on_one_line_are_paired_too() -> None:
    """All rows of a JSON array that is one line have the same id."""
    alike = [replace(own, line=1, row=replace(own.row, id="logs.json:1")) for own in OWN]
    one, other = (Answered(name, texts, [], {}, []) for name, texts in (("f16", FIRST), ("baseline", SECOND)))
    (difference,) = results.evaluate(alike, [one, other]).differences
    assert (difference.pairs.lost, difference.pairs.won) == (1, 3)


def test_slices_are_those_of_the_rows(found: results.Evaluation) -> None:
    exact = {
        (each.kind, each.value): [section["exact_match"] for section in each.sections]
        for each in found.slices
    }
    assert exact == {
        ("Haus", "A"): [1 / 3, 2 / 3], ("Haus", "B"): [1 / 3, 2 / 3], ("action", "add"): [2 / 6, 4 / 6],
    }  # fmt: skip


def test_the_text_has_tables_pairs_and_wrong_answers(found: results.Evaluation) -> None:
    text = report.text(READ, found, 3)
    assert text.startswith("logs.csv: 6 rows, 1 broken and left out\n")
    assert "baseline against q4_k_m: +33.3 [" in text
    assert "3 rows won, 1 lost" in text
    assert "Not answered exactly, 3 of 5 rows:" in text
    lines = text.splitlines()
    assert [line.split()[:3] for line in lines if line.startswith("Haus")] == [
        ["Haus", "A", "3"],
        ["Haus", "B", "3"],
    ]
    assert not any(line.startswith("action add") for line in lines), "a slice of all rows repeats the table"
    table = lines[-3:]
    assert table[0].split("  ")[:1] == ["5"]
    assert "(in other bytes)" in table[0]
    assert table[0].endswith("right")
    assert "add 3 Tea" in table[1]
    assert "\x1b" not in text
    assert "Not answered" not in report.text(READ, found, 0)


def test_the_json_has_everything_but_the_wrong_answers(found: results.Evaluation) -> None:
    values = json.loads(json.dumps(report.as_json(READ, found, {"name": "here"}), allow_nan=False))
    assert values["rows"] == 6
    assert values["broken"] == [{"line": 9, "reason": "blank"}]
    assert values["variants"]["q4_k_m"]["slices"]["Haus"]["A"]["n"] == 3
    assert values["variants"]["q4_k_m"]["exact_match"] == 0.3333
    assert values["variants"]["baseline"]["notes"] == ["a note"]
    assert {key: values["paired"][0][key] for key in ("first", "second", "won", "lost")} == {
        "first": "q4_k_m", "second": "baseline", "won": 3, "lost": 1,
    }  # fmt: skip


def test_the_file_of_wrong_answers_has_label_and_all_answers(
    found: results.Evaluation, tmp_path: Path
) -> None:
    assert report.write_wrong(tmp_path / "wrong.jsonl", found) == 5
    assert report.write_wrong(tmp_path / "wrong.csv", found) == 5
    values = [json.loads(line) for line in (tmp_path / "wrong.jsonl").read_text("utf-8").splitlines()]
    assert values[0] == {
        "line": 5, "message": "message 1", "label": {"action": "add", "product": "Tea", "quantity": 2},
        "answers": {
            "q4_k_m": {"answer": OTHER_BYTES.text, "outcome": "parsed_equal"},
            "baseline": {"answer": SECOND[1].text, "outcome": "exact"},
        },
    }  # fmt: skip
    with (tmp_path / "wrong.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["line"] for row in rows] == ["5", "7", "9", "11", "13"]
    assert rows[-1]["baseline outcome"] == "unparseable"
    assert rows[-1]["q4_k_m answer"] == right(5).text
    with pytest.raises(UserError, match="ends neither in"):
        report.write_wrong(tmp_path / "wrong.xlsx", found)
