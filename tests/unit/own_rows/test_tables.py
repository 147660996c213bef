"""Files with columns of any name: every format, what is detected, and faults by line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cartlm.errors import UserError
from cartlm.own_rows import tables

WANTED = ("Text", "Artikel")


def write(folder: Path, name: str, content: bytes | str) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_a_csv_is_split_where_its_header_has_the_wanted_columns(tmp_path: Path, delimiter: str) -> None:
    lines = [["Nr", "Text", "Artikel"], ["1", "milk, bread; tea | eggs\t", "Milk"]]
    text = "".join(delimiter.join(f'"{cell}"' for cell in line) + "\n" for line in lines)
    found = tables.read(write(tmp_path, "logs.csv", text), WANTED)
    assert found.columns == lines[0]
    assert found.records == [(2, dict(zip(*lines, strict=True)))]


def test_wanted_columns_weigh_more_than_many_cells(tmp_path: Path) -> None:
    text = "Text;Artikel;a,b,c,d\nmilk;Milk;1\n"
    found = tables.read(write(tmp_path, "logs.csv", text), WANTED)
    assert found.records == [(2, {"Text": "milk", "Artikel": "Milk", "a,b,c,d": "1"})]


def test_lines_are_those_of_an_editor(tmp_path: Path) -> None:
    text = '\nText,Artikel\r\n"two\r\nlines",Tea\r\n,\r\nmilk\u2028,Milk\r\n'
    found = tables.read(write(tmp_path, "logs.csv", text), WANTED)
    wanted = [{"Text": "two\nlines", "Artikel": "Tea"}, {"Text": "milk\u2028", "Artikel": "Milk"}]
    assert found.records == [(3, wanted[0]), (6, wanted[1])]


@pytest.mark.parametrize("codec", ["utf-8-sig", "utf-16", "cp1250"])
def test_encodings_are_told(tmp_path: Path, codec: str) -> None:
    text = "Text;Artikel\ndvije čokolade i đumbir, šalica, žarulja;Čokolada\n"
    found = tables.read(write(tmp_path, "logs.csv", text.encode(codec)), WANTED)
    assert found.columns == ["Text", "Artikel"]
    assert found.records[0][1] == {"Text": "dvije čokolade i đumbir, šalica, žarulja", "Artikel": "Čokolada"}
    assert "read as" in found.notes[0]


def test_excels_first_line_names_the_delimiter(tmp_path: Path) -> None:
    found = tables.read(write(tmp_path, "logs.csv", "sep=^\nText^Artikel\nmilk^Milk\n"), WANTED)
    assert found.records == [(3, {"Text": "milk", "Artikel": "Milk"})]


def test_json_lines_and_arrays_have_the_columns_of_any_record(tmp_path: Path) -> None:
    records = [{"Text": "milk"}, {"Text": "tea", "Haus": "A"}]
    lines = "".join(json.dumps(each) + "\n" for each in records)
    for name, content in (("logs.jsonl", lines), ("logs.json", json.dumps(records, indent=1))):
        found = tables.read(write(tmp_path, name, content), WANTED)
        assert found.columns == ["Text", "Haus"]
        assert [record for _, record in found.records] == records


def test_parquet_rows_lack_what_is_null(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = pyarrow.table(
        {"Text": ["milk", None], "Menge": [1.0, float("nan")], "Karte": [["a", "b"], ["c"]]}
    )
    parquet.write_table(table, tmp_path / "logs.parquet")
    found = tables.read(tmp_path / "logs.parquet", WANTED)
    assert found.columns == ["Text", "Menge", "Karte"]
    assert found.records == [(1, {"Text": "milk", "Menge": 1.0, "Karte": ["a", "b"]}), (2, {"Karte": ["c"]})]


def test_broken_rows_are_named_and_the_others_read(tmp_path: Path) -> None:
    content = b'Text,Artikel\nmilk\ncaf\xe9 \xc4\x8daj,Tea\n"a",b\n"open,tea\n1,2\n'
    found = tables.read(write(tmp_path, "logs.csv", content), WANTED)
    wanted = [
        (2, "1 cells, where the header has 2"),
        (3, "not UTF-8"),
        (4, "{"),
        (5, "unexpected end of data"),
    ]
    assert [line for line, _ in found.records] == [line for line, _ in wanted]
    for (_, record), (_, words) in zip(found.records, wanted, strict=True):
        assert words in str(record)


def test_a_quote_that_swallows_a_row_is_named(tmp_path: Path) -> None:
    text = 'Nr,Text,Artikel\n0,eggs,Eggs\n1,"milk,Milk\n2,tea",Tea\n'
    found = tables.read(write(tmp_path, "logs.csv", text), WANTED)
    assert found.records[1][0] == 3
    assert "runs into the next row" in str(found.records[1][1])


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("logs.xlsx", b"", "neither .jsonl"),
        ("logs.csv", b"PK\x03\x04", "a spreadsheet"),
        ("logs.csv", b"", "holds no rows"),
        ("logs.csv", b"Text,Artikel\n", "holds no rows"),
        ("logs.csv", b"Text,text\nmilk,tea\n", "occurs twice"),
        ("logs.jsonl", b"{milk\n", ":1: not JSON"),
        ("logs.parquet", b"no", "not Parquet"),
    ],
)
def test_a_file_without_rows_is_one_line(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    with pytest.raises(UserError, match=words):
        tables.read(write(tmp_path, name, content), WANTED)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        tables.read(tmp_path / "logs.csv", WANTED)
