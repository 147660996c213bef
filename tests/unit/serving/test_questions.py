"""What is asked in files of every format, with columns of any name, and rows with something wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from cartlm.errors import UserError
from cartlm.serving.questions import Question, open_input, questions

ROWS: list[dict[str, Any]] = [
    {"Ticket": 7, "Poruka": 'dva čaja, "molim"\nhvala', "Jelovnik": ["Čaj", "Kava; crna"]},
    {"Ticket": 9, "Poruka": "no tea", "Jelovnik": ["Tea", "Milk | oat"]},
]
COLUMNS = {"message": "Poruka", "catalog": "jelovnik", "id": "TICKET"}  # matched in any case
WANTED = [Question(line, row["Ticket"], row["Jelovnik"], row["Poruka"]) for line, row in enumerate(ROWS, 1)]


def csv_text(delimiter: str, ends: str = "\n") -> str:
    def cell(value: Any) -> str:
        text = "\n".join(value) if isinstance(value, list) else str(value)
        return '"' + text.replace('"', '""') + '"'

    lines = [delimiter.join(ROWS[0])] + [delimiter.join(map(cell, row.values())) for row in ROWS]
    return "".join(line + ends for line in lines)


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def asked(path: Path, columns: dict[str, str] = COLUMNS, catalog: list[str] | None = None) -> list[Question]:
    source, chosen, rows = open_input(path, columns, catalog is not None)
    found = list(questions(source.records(), chosen, catalog))
    assert len(found) == rows
    return found


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("rows.jsonl", "\n".join(json.dumps(row) for row in ROWS)),
        ("rows.ndjson", "\ufeff" + "\n\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS) + "\n"),
        ("rows.json", json.dumps(ROWS, indent=1)),
        ("rows.csv", csv_text(",")),
        ("rows.CSV", "\ufeffsep=;\n" + csv_text(";", "\r\n")),
        ("rows.csv", csv_text("\t").encode("utf-16")),
        ("rows.csv", csv_text("|")),
        ("rows.tsv", "\n" + csv_text("\t") + "\t\t\n"),
    ],
)
def test_rows_are_the_same_in_every_format(tmp_path: Path, name: str, text: str | bytes) -> None:
    found = asked(write(tmp_path / name, text))
    values = [(str(each.id), each.catalog, each.message, each.problem) for each in found]
    assert values == [(str(each.id), each.catalog, each.message, "") for each in WANTED]


def test_parquet_gives_the_same_rows_and_reads_only_what_is_asked(tmp_path: Path) -> None:
    table = pa.table({name: [row[name] for row in ROWS] for name in ROWS[0]} | {"unused": [b"\xff", b"\xfe"]})
    parquet.write_table(table, tmp_path / "rows.parquet")
    assert asked(tmp_path / "rows.parquet") == WANTED


def test_lines_are_those_of_an_editor(tmp_path: Path) -> None:
    text = 'id,message,catalog\na,"one\ntea",Tea\n\nb,,Tea\n'
    found = asked(write(tmp_path / "rows.csv", text), {})
    assert [(each.line, each.id, each.problem) for each in found] == [
        (2, "a", ""),
        (5, "b", "nothing in message"),
    ]


def test_one_catalog_serves_all_rows_and_a_number_is_the_id(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.csv", "text\ntwo teas\nno tea\n")
    found = asked(path, {"message": "text"}, ["Tea"])
    assert found == [Question(2, 1, ["Tea"], "two teas"), Question(3, 2, ["Tea"], "no tea")]


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ('{"message": "tea"', "not JSON"),
        ("[1]", "list, not a JSON object"),
        ('{"message": "te\\ud83d", "catalog": ["Tea"]}', "half of a character"),
        ('{"message": "", "catalog": ["Tea"]}', "nothing in message"),
        ('{"message": null, "catalog": ["Tea"]}', "nothing in message"),
        ('{"message": 5, "catalog": ["Tea"]}', "message is 5, not text"),
        ('{"message": "tea"}', "nothing in catalog"),
        ('{"message": "tea", "catalog": []}', "the catalog is empty"),
        ('{"message": "tea", "catalog": [1]}', "not a list of lines"),
        ('{"message": "tea", "catalog": ["Tea"], "id": ""}', "nothing in id"),
        ('{"message": "tea", "catalog": ["Tea"], "id": [1]}', "id is [1], not a number or text"),
        ('{"message": "tea", "catalog": ["Tea"], "id": true}', "id is True"),
        ('{"message": "tea", "message": "tee", "catalog": ["Tea"]}', "twice"),
    ],
)
def test_a_broken_row_is_named_and_the_others_are_read(tmp_path: Path, line: str, word: str) -> None:
    sound = '{"message": "tea", "catalog": ["Tea"], "id": 4.0}'
    line = line if '"id"' in line else line.replace("{", '{"id": 1, ', 1)
    found = asked(write(tmp_path / "rows.jsonl", f"{sound}\n{line}\n{sound}\n"), {})
    assert [(each.line, bool(each.problem)) for each in found] == [(1, False), (2, True), (3, False)]
    assert word in found[1].problem
    assert found[0].id == 4


def test_bytes_that_are_not_utf8_break_only_their_row(tmp_path: Path) -> None:
    for name, row in (("rows.csv", b"%b,Tea\n"), ("rows.jsonl", b'{"message": "%b", "catalog": ["Tea"]}\n')):
        head = b"message,catalog\n" if name == "rows.csv" else b""
        found = asked(
            write(tmp_path / name, head + row % "čaj".encode() + row % b"caf\xe9" + row % b"tea"), {}
        )
        assert ["UTF-8" in each.problem for each in found] == [False, True, False]


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl", "rows.parquet"])
def test_a_wrong_column_names_those_there_are(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "rows.parquet":
        parquet.write_table(pa.table({"Text": ["tea"], "menu": ["Tea"]}), path)
    else:
        write(path, "Text;menu\ntea;Tea\n" if name == "rows.csv" else '{"Text": "tea"}\n{"menu": "Tea"}\n')
    with pytest.raises(
        UserError, match=r"no column 'message'; it has: Text, menu; add --columns message=NAME"
    ):
        asked(path, {})
    with pytest.raises(UserError, match=r"no column 'catalog'; .* or --catalog FILE"):
        asked(path, {"message": "text"})
    with pytest.raises(UserError, match="no column 'ticket'"):
        asked(path, {"message": "text", "id": "ticket"}, ["Tea"])
    with pytest.raises(UserError, match="given twice"):
        asked(path, {"message": "text", "catalog": "menu"}, ["Tea"])


@pytest.mark.parametrize(
    ("name", "text", "word"),
    [
        ("rows.csv", 'message\ntea\n"tea\n', ":3: not CSV .a quote is not closed"),
        ("rows.json", '[{"message": "tea"}, {"message": "te', ":1: not JSON"),
    ],
)
def test_a_file_that_cannot_be_read_to_its_end_is_refused(
    tmp_path: Path, name: str, text: str, word: str
) -> None:
    with pytest.raises(UserError, match=word) as caught:
        asked(write(tmp_path / name, text), {}, ["Tea"])
    assert caught.value.hint == "fix the file"
