"""Files with columns of any name: what is wanted tells the delimiter, and what is read, refused and counted."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from cartlm.data.tables import Source, folded
from cartlm.errors import UserError

WANTED = ("Text", "Artikel")


def source(folder: Path, name: str, content: bytes | str) -> Source:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return Source(path, WANTED)


def records(found: Source) -> list[dict[str, Any] | str]:
    return [record for _, record in found.records()]


@pytest.mark.parametrize(
    "name", ["filiale süd", " Filiale  Süd\n", "FILIALE SÜD", "Filiale Su\u0308d", "\ufeffFiliale\xa0Süd"]
)
def test_a_name_is_matched_whatever_its_case_form_and_blanks(name: str) -> None:
    assert folded(name) == "filiale süd"


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("name", ["logs.csv", "logs.TSV"])
def test_a_csv_is_split_where_its_header_has_the_wanted_columns(
    tmp_path: Path, delimiter: str, name: str
) -> None:
    lines = [["Nr", "TEXT", "artikel"], ["1", "milk, bread; tea | eggs\t", "Milk"]]
    text = "".join(delimiter.join(f'"{cell}"' for cell in line) + "\n" for line in lines)
    found = source(tmp_path, name, text)
    assert [*found.records()] == [(2, {"nr": "1", "text": lines[1][1], "artikel": "Milk"})]
    assert found.columns == {"nr": "Nr", "text": "TEXT", "artikel": "artikel"}
    usual = "\t" if name == "logs.TSV" else ","
    assert found.notes == ([] if delimiter == usual else [f"cells separated by {delimiter!r}"])


@pytest.mark.parametrize("header", ["Text;Artikel;a,b,c,d", "Text;a,b,c,d"])
def test_wanted_columns_weigh_more_than_many_cells(tmp_path: Path, header: str) -> None:
    """All of them, and some of them."""
    found = source(tmp_path, "logs.csv", header + "\n" + ";".join("milk" for _ in header.split(";")) + "\n")
    assert records(found) == [{folded(name): "milk" for name in header.split(";")}]


def test_excels_first_line_names_the_delimiter(tmp_path: Path) -> None:
    """Unless another one gives the header all wanted columns."""
    for sign in "^;":
        found = source(tmp_path, "logs.csv", f"sep=^\nText{sign}Artikel\nmilk{sign}Milk\n")
        assert [*found.records()] == [(3, {"text": "milk", "artikel": "Milk"})]


def test_each_reading_is_the_same(tmp_path: Path) -> None:
    limit = csv.field_size_limit()
    found = source(tmp_path, "logs.csv", "Text;Artikel\ndvije šalice;Čaj\n;\n".encode("utf-16"))
    first = [*found.records()], {**found.columns}, [*found.notes]
    assert found.survey() == (1, "")
    assert ([*found.records()], found.columns, found.notes) == first
    assert first[2] == ["read as UTF-16 LE with BOM", "cells separated by ';'", "1 empty row left out"]
    assert csv.field_size_limit() == limit


def test_columns_of_json_are_those_of_any_record(tmp_path: Path) -> None:
    values = [{"Text": "milk"}, {"text": "tea", "Haus": None}]
    lines = "".join(json.dumps(each) + "\n" for each in values)
    for name, content in (("logs.jsonl", lines), ("logs.json", json.dumps(values, indent=1))):
        found = source(tmp_path, name, content)
        assert records(found) == [{"text": "milk"}, {"text": "tea"}]
        assert found.columns == {"text": "Text", "haus": "Haus"}


def test_json_in_no_clear_encoding_is_utf_8_with_broken_rows(tmp_path: Path) -> None:
    found = source(tmp_path, "logs.jsonl", b'{"Text": "tea"}\n{"Text": "caf\xe9"}\n')
    assert records(found)[0] == {"text": "tea"}
    assert "not UTF-8" in str(records(found)[1])
    assert [type(record) for record in records(Source(found.path))] == [str], "ours may not be guessed"


def test_of_parquet_what_is_wanted_is_read_or_else_all(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    columns = {"TEXT": ["milk", None], "Menge": [1.0, float("nan")], "broken": [b"a", b"\xff"]}
    path = tmp_path / "logs.parquet"
    parquet.write_table(pyarrow.table(columns), path)
    found = Source(path, ["text", "menge", "none"])
    assert [*found.records()] == [(1, {"text": "milk", "menge": 1.0}), (2, {})]
    assert found.columns == {"text": "TEXT", "menge": "Menge", "broken": "broken"}
    assert "not UTF-8" in str(records(Source(path, ["broken"]))[1])
    assert records(Source(path, ["none"]))[0] == {"text": "milk", "menge": 1.0, "broken": "a"}
    twice = pyarrow.table([["x"], ["y"], ["z"]], names=["text", "note", "note"])
    parquet.write_table(twice, path)
    assert records(Source(path, ["text"])) == [{"text": "x"}]
    assert records(Source(path, ["note"])) == ["the column 'note' occurs twice"]


def test_broken_rows_are_named_and_counted_and_the_others_read(tmp_path: Path) -> None:
    content = b'Text,Artikel\nmilk\ncaf\xe9 \xc4\x8daj,Tea\n"a",b\n"milk,Milk\n2",tea\n"open,tea\n1,2\n'
    found = source(tmp_path, "logs.csv", content)
    wanted = [
        (2, "1 cells, where the header has 2"),
        (3, "not UTF-8"),
        (4, "{'text': 'a'"),
        (5, "runs into the next row"),
        (7, "a quote is not closed"),
    ]
    assert [line for line, _ in found.records()] == [line for line, _ in wanted]
    for record, (_, words) in zip(records(found), wanted, strict=True):
        assert words in str(record)
    rows, cut = found.survey()
    assert rows == 5
    assert cut.startswith(f"{found.path}:7: not CSV")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("logs.xlsx", b"", "neither .jsonl"),
        ("logs.csv", b"PK\x03\x04", "a spreadsheet"),
        ("logs.csv", b"", "holds no rows"),
        ("logs.csv", b"Text,Artikel\n", "holds no rows"),
        ("logs.csv", b"Text,text\nmilk,tea\n", ":1: the column 'text' occurs twice"),
        ("logs.csv", "Text\nČaj\n".encode("cp1250"), "iconv"),
        ("logs.jsonl", b"{milk\n", ":1: not JSON"),
        ("logs.parquet", b"no", "not Parquet"),
        ("none/logs.csv", None, "No such file"),
    ],
)
def test_a_file_without_a_sound_row_is_one_line(
    tmp_path: Path, name: str, content: bytes | None, words: str
) -> None:
    found = Source(tmp_path / name, WANTED) if content is None else source(tmp_path, name, content)
    with pytest.raises(UserError, match=words) as caught:
        found.survey()
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)
