"""Rows of a user's file: the same rows whatever the layout, broken ones by line and reason."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from cartlm.errors import UserError
from cartlm.own_rows import labelled
from cartlm.own_rows.columns import Mapped, parse
from cartlm.task import rows as row_files
from cartlm.task.intent import NO_ORDER
from cartlm.task.prompt import render_prompt
from tests.fixtures.toy import toy_rows
from tests.unit.data.own_rows import record

MAPPED = Mapped(
    {"message": "Text", "product": "Artikel", "action": "Aktion", "quantity": "Menge", "catalog": "Karte"},
    (("add", "Kaufen"), ("remove", "Weg")), ("Haus",),
)  # fmt: skip


def write_lines(path: Path, values: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(each) + "\n" for each in values), encoding="utf-8")
    return path


def write_foreign(path: Path, count: int = 24) -> Path:
    """The toy rows as another shop's CSV: other names and words, no language."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=";")
        writer.writerow(["Nr", "Text", "Artikel", "Aktion", "Menge", "Karte", "Haus"])
        for number, row in enumerate(toy_rows(count)):
            label, action = row.intent, {"add": "kaufen", "remove": "Weg"}[row.intent.action]
            cells = [
                row.message,
                label.product,
                action,
                label.quantity,
                "\n".join(row.catalog),
                "AB"[number % 2],
            ]
            writer.writerow([number, *cells])
    return path


def test_every_layout_gives_the_same_rows(tmp_path: Path) -> None:
    rows = toy_rows()
    row_files.write(tmp_path / "ours.jsonl", rows)
    files = [
        labelled.read(write_foreign(tmp_path / "foreign.csv"), MAPPED),
        labelled.read(tmp_path / "ours.jsonl", Mapped()),
        labelled.read(write_lines(tmp_path / "label.jsonl", [record(at) for at in range(24)]), Mapped()),
        labelled.read(
            write_lines(
                tmp_path / "published.jsonl",
                [{"prompt": row.prompt, "completion": row.completion} for row in rows],
            ),
            Mapped(),
        ),
    ]
    for each in files:
        assert each.broken == []
        assert [(own.row.prompt, own.row.completion) for own in each.rows] == [
            (row.prompt, row.completion) for row in rows
        ]
    assert {**files[0].rows[1].slices} == {"Haus": "B", "action": "remove", "catalog lines": "5 to 8"}
    assert files[1].rows[2].slices["language"] == "spanish"
    assert len({own.line for own in files[0].rows}) == 24


@pytest.mark.parametrize("words", [(), ("none=Kein",)])
def test_rows_that_are_no_order_are_read_where_models_answer_so(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    said = "Kein" if words else "None"
    path = tmp_path / "logs.csv"
    path.write_text(
        "message,catalog,action,product,quantity\n"
        f"hello,Tea | Milk,{said},,\nthanks,Tea | Milk,{said},,0\nbye,Tea | Milk,{said},Tea,1\ntea,Tea | Milk,add,Tea,\n"
    )
    read = labelled.read(path, parse([], words, [], none=True))
    assert [own.row.intent for own in read.rows] == [NO_ORDER, NO_ORDER]
    assert [own.slices["action"] for own in read.rows] == ["none", "none"]
    assert [reason for _, reason in read.broken] == [
        "none with product 'Tea' and quantity '1': leave both empty", "nothing in quantity",
    ]  # fmt: skip
    without = labelled.read(path, parse([], [], []))
    assert without.rows == []
    assert without.broken[0] == (
        2,
        f"the action is {said!r}, not one of: add, remove; --actions add=...,remove=... maps your words",
    )
    published = [{"prompt": render_prompt(["Tea"], "hello"), "completion": NO_ORDER.canonical()}]
    file = write_lines(tmp_path / "published.jsonl", published)
    (own,) = labelled.read(file, parse([], [], [], none=True)).rows
    assert own.row.completion == NO_ORDER.canonical()
    assert labelled.read(file, Mapped()).rows == []


def test_one_catalog_is_for_all_rows(tmp_path: Path) -> None:
    catalog = ["Tea", "Milk 1L"]
    values = [{"message": "milk", "action": "add", "product": "Milk 1L", "quantity": 1, "catalog": "Bread"}]
    (own,) = labelled.read(write_lines(tmp_path / "logs.jsonl", values), Mapped(), catalog).rows
    assert own.row.catalog == catalog


@pytest.mark.parametrize("cell", [["Tea", "Milk 1L"], '["Tea", "Milk 1L"]', "Tea\nMilk 1L", "Tea | Milk 1L"])
def test_a_catalog_of_its_own_is_a_list_or_text(tmp_path: Path, cell: Any) -> None:
    values = [{"message": "tea", "action": "add", "product": "Tea", "quantity": "2.0", "catalog": cell}]
    (own,) = labelled.read(write_lines(tmp_path / "logs.jsonl", values), Mapped()).rows
    assert (own.row.catalog, own.row.intent.quantity) == (["Tea", "Milk 1L"], 2)


def test_any_language_is_a_slice(tmp_path: Path) -> None:
    values = [
        record(0, language="klingon"),
        {key: item for key, item in record(1).items() if key != "language"},
    ]
    first, second = labelled.read(write_lines(tmp_path / "logs.jsonl", values), Mapped()).rows
    assert first.slices["language"] == "klingon"
    assert "language" not in second.slices


def test_broken_rows_have_line_and_reason(tmp_path: Path) -> None:
    wrong = [
        ({"Text": ""}, "nothing in 'Text' (message)"),
        ({"Artikel": "Unicorn"}, "product 'Unicorn' is not a catalog line"),
        ({"Menge": "many"}, "quantity is 'many'"),
        ({"Aktion": "kaputt"}, "the action is 'kaputt', not one of: add, remove, kaufen, weg; --actions"),
        ({"Karte": []}, "is not a catalog line"),
        ({"Text": "bell \x07"}, "U+0007"),
    ]
    names = MAPPED.columns
    sound = {names[key]: value for key, value in record(0, action="Kaufen").items() if key in names} | {
        "Haus": "A"
    }
    values = [{**sound, **change} for change, _ in wrong]
    read = labelled.read(write_lines(tmp_path / "logs.jsonl", [sound, *values, sound]), MAPPED)
    assert [own.line for own in read.rows] == [1, len(wrong) + 2]
    assert [line for line, _ in read.broken] == [*range(2, len(wrong) + 2)]
    for (_, reason), (_, words) in zip(read.broken, wrong, strict=True):
        assert words in reason


def test_a_file_that_cannot_be_read_to_its_end_is_refused(tmp_path: Path) -> None:
    """Its first rows would be scored as if they were all."""
    path, row = tmp_path / "logs.csv", "tea,Tea | Milk,add,Tea,1\n"
    path.write_text("message,catalog,action,product,quantity\n" + 3 * row + '"' + 9 * row)
    with pytest.raises(UserError, match=r"logs\.csv:5: .*a quote is not closed.*; fix the file"):
        labelled.read(path, Mapped())
    array = tmp_path / "logs.json"
    array.write_text(json.dumps([record(0), record(1)])[:-9])
    with pytest.raises(UserError, match=r"logs\.json:1: not JSON.*; fix the file"):
        labelled.read(array, Mapped())


def test_contradictions_and_training_rows_are_told(tmp_path: Path) -> None:
    values = [record(0), record(0, quantity=9), record(1)]
    read = labelled.read(write_lines(tmp_path / "logs.jsonl", values), Mapped())
    row_files.write(tmp_path / "train.jsonl", toy_rows(1))
    assert labelled.warnings(read, tmp_path / "train.jsonl") == [
        "1 rows repeat a message and its catalog with another label than before: logs.jsonl:2",
        f"2 of 3 rows are in {tmp_path / 'train.jsonl'} too: the model was trained on them",
    ]
    assert len(labelled.warnings(read, tmp_path / "none.jsonl")) == 1
