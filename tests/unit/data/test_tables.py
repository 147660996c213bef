"""Records out of files as people have them: each odd form gives the records of the plain one, or one line that names it."""

from __future__ import annotations

import csv
import decimal
import gzip
import io
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from cartlm.data import tables
from cartlm.errors import UserError

CROATIAN = {
    "catalog": "Čaj od šipka\nĐumbir 50 g",
    "message": "dodaj još dvije vrećice čaja, molim",
    "action": "add",
    "product": "Čaj od šipka",
    "quantity": "2",
    "language": "croatian",
}
SPANISH = {
    "catalog": "Piña 1 kg\nLeche",
    "message": "¿me añades “dos” piñas más?",
    "action": "add",
    "product": "Piña 1 kg",
    "quantity": "2",
    "language": "spanish",
}
ENGLISH = {
    "catalog": 'Milk\nTea 20" | x;y\tz, w',
    "message": 'two milks, "please"',
    "action": "add",
    "product": "Milk",
    "quantity": "2",
    "language": "english",
}
HEADER = ",".join(tables.OURS)
NOT_UTF8 = "not UTF-8; fix these bytes, or save the file as UTF-8"


def as_csv(rows: Sequence[dict[str, str]], delimiter: str = ",", end: str = "\r\n", **how: Any) -> str:
    text = io.StringIO(newline="")
    if end == "\r":  # the writer would leave \n within a cell bare
        how["quoting"] = csv.QUOTE_ALL
    writer = csv.DictWriter(text, tables.OURS, delimiter=delimiter, lineterminator=end, **how)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def read(folder: Path, name: str, data: bytes | str) -> tables.Table:
    path = folder / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return tables.read_table(path)


def records(table: tables.Table) -> list[dict[str, Any] | str]:
    return [record for _, record in table.records]


def the_problem(table: tables.Table) -> str:
    [(_, record)] = table.records
    assert isinstance(record, str)
    assert "\n" not in record
    return record


@pytest.mark.parametrize("name", ["rows.csv", "rows.CSV", "rows.tsv"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_delimiters_and_line_ends(tmp_path: Path, name: str, delimiter: str, end: str) -> None:
    rows = [CROATIAN, SPANISH, ENGLISH]
    table = read(tmp_path, name, as_csv(rows, delimiter, end))
    assert table.records == [(2, CROATIAN), (4, SPANISH), (6, ENGLISH)]
    usual = "\t" if name == "rows.tsv" else ","
    assert table.notes == ([] if delimiter == usual else [f"cells separated by {delimiter!r}"])


@pytest.mark.parametrize(
    ("line", "delimiter"),
    [("sep=;", ";"), ("SEP=,", ","), ('"sep=;"', ";"), ("sep=\t", "\t"), ("sep=^;;;", "^")],
)
def test_the_line_that_names_the_delimiter(tmp_path: Path, line: str, delimiter: str) -> None:
    table = read(tmp_path, "rows.csv", "\ufeff" + line + "\r\n" + as_csv([ENGLISH, SPANISH], delimiter))
    assert table.records == [(3, ENGLISH), (5, SPANISH)]
    assert any(line.strip() in note for note in table.notes)


def test_of_two_delimiters_that_fit_the_one_with_fewer_columns_is_taken(tmp_path: Path) -> None:
    header = "\t" + "\t;\t".join(tables.OURS) + "\t"
    table = read(tmp_path, "rows.csv", header + "\nMilk;two;add;Milk;2;english\n")
    assert table.notes == ["cells separated by ';'"]
    assert records(table)[0] == dict(
        zip(tables.OURS, ["Milk", "two", "add", "Milk", "2", "english"], strict=True)
    )


@pytest.mark.parametrize(
    ("codec", "name"),
    [
        ("utf-8", ""),
        ("utf-8-sig", "UTF-8 with BOM"),
        ("utf-16", "UTF-16 LE with BOM"),
        ("utf-16-le", "UTF-16 LE without BOM"),
        ("utf-16-be", "UTF-16 BE without BOM"),
        ("utf-32", "UTF-32 LE with BOM"),
        ("utf-32-be", "UTF-32 BE without BOM"),
    ],
)
@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_encodings_that_hold_every_sign(tmp_path: Path, codec: str, name: str, suffix: str) -> None:
    rows = [CROATIAN, SPANISH, {**ENGLISH, "message": "a \U0001fa77 \u2028 b"}]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\r\n" for row in rows)
    table = read(tmp_path, "rows" + suffix, (as_csv(rows) if suffix == ".csv" else lines).encode(codec))
    assert records(table) == rows
    assert table.notes == ([f"read as {name}"] if name else [])


def test_utf_16_be_with_bom(tmp_path: Path) -> None:
    table = read(tmp_path, "rows.csv", b"\xfe\xff" + as_csv([CROATIAN], "\t").encode("utf-16-be"))
    assert records(table) == [CROATIAN]
    assert table.notes == ["read as UTF-16 BE with BOM", "cells separated by '\\t'"]


@pytest.mark.parametrize(
    ("codec", "row", "name"),
    [
        ("cp1250", CROATIAN, "WINDOWS-1250"),
        ("iso8859_2", CROATIAN, "ISO-8859-2"),
        ("cp1252", SPANISH, "WINDOWS-1252"),
        ("cp1252", {**SPANISH, "message": "añade café Gösser a la crème"}, "WINDOWS-1252"),
        ("latin-1", {**SPANISH, "message": "¿una piña?"}, "WINDOWS-1252"),
        ("cp1252", {**ENGLISH, "message": "a café au lait, “please” – €2"}, "WINDOWS-1252"),
        ("cp1250", {**ENGLISH, "message": "a café au lait, “please” – €2"}, "WINDOWS-1252"),  # the same bytes
    ],
)
@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_encodings_with_one_byte_a_sign(
    tmp_path: Path, codec: str, row: dict[str, str], name: str, suffix: str
) -> None:
    rows = [ENGLISH, row]
    text = (
        as_csv(rows, ";")
        if suffix == ".csv"
        else "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    )
    table = read(tmp_path, "rows" + suffix, text.encode(codec))
    assert records(table) == rows
    assert table.notes[0] == f"read as {name}"


@pytest.mark.parametrize(
    ("codec", "message", "language", "told"),
    [
        ("cp1252", "una crème", "croatian", "WINDOWS-1250"),  # or č, as in "krčma"
        ("cp1250", "još čaja", "croatian", "WINDOWS-1250"),  # or "još èaja"
        ("cp1250", "jedna krčma", "croatian", "WINDOWS-1252"),
        ("cp1252", "žlica Læsø", "croatian", "WINDOWS-1252"),  # or "žlica Lćsř"
        ("cp1252", "Smørrebrød og fløde", "croatian", "WINDOWS-1252"),
        ("cp852", "dvije vrećice čaja", "croatian", "CP852"),
        ("cp850", "añade más piñas", "spanish", "CP850"),
        ("cp850", "a ½ of milk", "english", "CP850"),  # or a quote that is never closed
        ("mac_roman", "añade más piñas", "spanish", "MACINTOSH"),
        ("cp1254", "Şiş kebap ığdır", "english", "UTF-8"),
        ("cp1252", "Smørrebrød på dansk, crème brûlée à la carte", "spanish", "neither UTF-8"),
        ("cp1251", "еда на чай", "english", "UTF-8"),
        ("cp1253", "καφές", "english", "UTF-8"),
        ("gbk", "牛奶两盒", "english", "UTF-8"),
        ("shift_jis", "牛乳を二つ追加", "english", "UTF-8"),
    ],
)
def test_an_unclear_encoding_is_named(
    tmp_path: Path, codec: str, message: str, language: str, told: str
) -> None:
    row = {**ENGLISH, "message": message, "language": language}
    table = read(tmp_path, "rows.csv", as_csv([row], ";").encode(codec))
    what = the_problem(table) if len(table.records) == 1 else str(table.records)
    assert told in what
    assert "save" in what


def test_broken_bytes_among_utf_8_are_named_by_line(tmp_path: Path) -> None:
    lines = as_csv([CROATIAN, SPANISH, CROATIAN]).encode().split(b"\r\n")
    lines[2] = lines[2].replace("ñ".encode(), b"\xf1")
    table = read(tmp_path, "rows.csv", b"\r\n".join(lines))
    assert table.records == [(2, CROATIAN), (4, NOT_UTF8), (6, CROATIAN)]
    lines = [json.dumps(row, ensure_ascii=False).encode() for row in (CROATIAN, SPANISH)]
    assert records(read(tmp_path, "rows.jsonl", lines[0] + b"\n" + lines[1][:30] + b"\xff")) == [
        CROATIAN,
        NOT_UTF8,
    ]


def test_a_file_cut_within_a_sign_is_utf_8(tmp_path: Path) -> None:
    data = (HEADER + "\nTea,dodaj č").encode()[:-1]
    assert records(read(tmp_path, "rows.csv", data)) == [NOT_UTF8]


@pytest.mark.parametrize("sign", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x1f"])
@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".json"])
def test_only_three_signs_end_a_line(tmp_path: Path, sign: str, suffix: str) -> None:
    row = {**ENGLISH, "catalog": f"Mi{sign}lk\nTea", "message": f"one{sign}two"}
    raw = ord(sign) < 0x20  # JSON escapes these
    lines = [json.dumps(one, ensure_ascii=raw) for one in (row, ENGLISH)]
    text = {".csv": as_csv([row, ENGLISH]), ".jsonl": "\r".join(lines), ".json": f"[{','.join(lines)}]"}[
        suffix
    ]
    assert records(read(tmp_path, "rows" + suffix, text)) == [row, ENGLISH]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".json", ".parquet"])
def test_a_line_end_within_a_cell_is_one_newline_and_elsewhere_stays(
    tmp_path: Path, end: str, suffix: str
) -> None:
    row = {**ENGLISH, "catalog": f"Milk{end}Tea", "message": f"one{end}{end}two"}
    if suffix == ".parquet":
        table = parquet(tmp_path, {name: [value] for name, value in row.items()})
    else:
        text = as_csv([row]) if suffix == ".csv" else json.dumps(row)
        table = read(tmp_path, "rows" + suffix, text)
    cells = {**ENGLISH, "catalog": "Milk\nTea", "message": "one\n\ntwo"}
    assert records(table) == [cells if suffix == ".csv" else row]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_count_as_an_editor_counts_them(tmp_path: Path, end: str) -> None:
    good = json.dumps(ENGLISH)
    text = end.join(["", good, "", "{", good, "7"])
    assert [line for line, _ in read(tmp_path, "rows.jsonl", text).records] == [2, 4, 5, 6]
    text = end.join(["[", good + ",", "", " " + good + ",", "7", "]"])
    assert [line for line, _ in read(tmp_path, "rows.json", text).records] == [2, 4, 5]
    text = as_csv([ENGLISH, CROATIAN], end=end) + end.join(["x", "", '"', "open", "on"])
    assert [line for line, _ in read(tmp_path, "rows.csv", end + text).records] == [3, 5, 7, 9]


@pytest.mark.parametrize(
    ("header", "told"),
    [
        (HEADER + ",message", "'message' occurs twice"),
        (HEADER + ", Message ", "' Message ' occurs twice"),
        (HEADER + ",note,note", "'note' occurs twice"),
        (HEADER + ",caf\u00e9,cafe\u0301", "occurs twice"),
        (HEADER.replace("message", "text"), "not message"),
        ("prompt;completion", "separated by ';'), and not language"),
        ("a\tb", "and not catalog, message"),
        (HEADER + ',"open', "a quote is not closed"),
    ],
)
def test_a_header_that_will_not_do(tmp_path: Path, header: str, told: str) -> None:
    assert told in the_problem(read(tmp_path, "rows.csv", header + "\n1,2,3,4,5,6,7,8\n"))


@pytest.mark.parametrize(
    "header",
    [
        " catalog , message, action ,product,quantity,language ",
        "\ufeff\ufeff" + ",".join(f'"{name}"' for name in tables.OURS),
        HEADER.upper(),
        HEADER + ",",
        HEADER + ",,note,",
        "\n \n,,,\n" + HEADER,
    ],
)
def test_a_header_that_will_do(tmp_path: Path, header: str) -> None:
    width = header.split("\n")[-1].count(",") + 1
    table = read(tmp_path, "rows.csv", header + "\r\nMilk,two,add,Milk,2,english" + "," * (width - 6))
    [record] = records(table)
    assert isinstance(record, dict)
    assert {name: record[name] for name in tables.OURS} == {
        "catalog": "Milk", "message": "two", "action": "add", "product": "Milk", "quantity": "2", "language": "english"
    }  # fmt: skip


def test_blanks_before_quotes(tmp_path: Path) -> None:
    text = (
        ", ".join(f'"{name}"' for name in tables.OURS)
        + '\n"Milk", "one, two", "add", "Milk", "2", "english"\n'
    )
    [record] = records(read(tmp_path, "rows.csv", text))
    assert isinstance(record, dict)
    assert (record["message"], record["language"]) == ("one, two", "english")
    told = the_problem(read(tmp_path, "rows.csv", HEADER + '\nMilk, "two",add,Milk,2,english\n'))
    assert "has a blank before its quote" in told


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("Milk,two,add,Milk,2", "5 cells, where the header has 6"),
        ("Milk,two, please,add,Milk,2,english", "7 cells, where the header has 6"),
        ('Milk,"two,add,Milk,2,english', "a quote is not closed"),
        ('Milk,"two" of it,add,Milk,2,english', "not CSV"),
        ('Milk,"two,add,Milk,2,english\nMilk,12",add,Milk,2,english', "is a quote not closed?"),
        ('"Milk,two,add,Milk,2,english\n12",two,add,Milk,2,english', "is a quote not closed?"),
        ("Milk," + "x" * (tables.MAX_CELL_CHARS + 1) + ",add,Milk,2,english", "field larger than"),
    ],
    ids=range(7),
)
def test_a_row_that_is_broken(tmp_path: Path, row: str, told: str) -> None:
    table = read(tmp_path, "rows.csv", f"{HEADER}\nTea,one,add,Tea,1,english\n{row}\n")
    assert [line for line, _ in table.records] == [2, 3]
    assert told in str(table.records[1][1])


def test_what_stands_under_no_name_is_named(tmp_path: Path) -> None:
    text = "catalog,action,product,quantity,language,message,\nMilk,add,Milk,2,english,two, please\n"
    assert "' please' is in a column without a name" in the_problem(read(tmp_path, "rows.csv", text))


def test_a_long_cell_is_read(tmp_path: Path) -> None:
    row = {**ENGLISH, "catalog": "\n".join(f"Milk {i}" for i in range(50_000))}
    assert records(read(tmp_path, "rows.csv", as_csv([row]))) == [row]
    assert csv.field_size_limit() == 131072


def test_empty_rows_are_left_out_and_told(tmp_path: Path) -> None:
    lines = as_csv([{**ENGLISH, "catalog": "Milk"}] * 2, ";").split("\r\n")
    text = "\r\n".join([lines[0], ";;;;;", lines[1], "", ' ; ;"";;;', lines[2], ";;;;;;;", "", "  "])
    table = read(tmp_path, "rows.csv", text)
    assert [line for line, _ in table.records] == [3, 6]
    assert "6 empty rows left out" in table.notes


@pytest.mark.parametrize(
    "data", [b"", b"\n\n", b"\xef\xbb\xbf", b"\xff\xfe", HEADER.encode(), b"[]", b" [ ]\n", b"sep=;\n"]
)
@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".json"])
def test_a_file_without_rows_has_no_records(tmp_path: Path, data: bytes, suffix: str) -> None:
    table = read(tmp_path, "rows" + suffix, data)
    assert not any(isinstance(record, dict) for record in records(table))
    assert len(table.records) <= 1


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"PAR1xxPAR1", "Parquet"),
        (b"PK\x03\x04xx", "spreadsheet"),
        (gzip.compress(b"x", mtime=0), "gunzip"),
        (os.urandom(0) + bytes(range(128, 256)) * 9, "UTF-8"),
    ],
)
@pytest.mark.parametrize("suffix", [".csv", ".json"])
def test_what_is_no_text_is_one_line(tmp_path: Path, data: bytes, told: str, suffix: str) -> None:
    assert told in the_problem(read(tmp_path, "rows" + suffix, data))


def test_nuls_are_one_line(tmp_path: Path) -> None:
    table = read(tmp_path, "rows.csv", as_csv([ENGLISH]).encode() + b"\0" * 100)
    assert records(table)[0] == ENGLISH
    assert isinstance(records(table)[1], str)
    assert "not catalog" in the_problem(read(tmp_path, "rows.csv", b"\0" * 100))


@pytest.mark.parametrize("name", ["none.jsonl", "folder.csv", "folder.parquet", "none.parquet"])
def test_what_cannot_be_opened_is_one_line(tmp_path: Path, name: str) -> None:
    if name.startswith("folder"):
        (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=name) as caught:
        tables.read_table(tmp_path / name)
    assert ".parquet" in caught.value.hint
    assert "Errno" not in caught.value.message


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"a": 1, "a": 2}', "'a' occurs twice"),
        ('{"a": 1, " A ": 2}', "occurs twice"),
        ('{"caf\\u00e9": 1, "cafe\\u0301": 2}', "occurs twice"),
        ('{"a": {"b": [{"c": 1, "c": 1}]}}', "'c' occurs twice"),
        ('{"a": "\\ud83d"}', "U+D83D"),
        ('{"\\udc00": 1}', "U+DC00"),
        ('{"a": [{"b": "\\udc80"}]}', "U+DC80"),
        ("[" * 100_000, "nested too deep"),
        ('{"a":' * 100_000, "nested too deep"),
        ('{"a": ' + "9" * 5000 + "}", "not JSON"),
        ("7", "int, not a JSON object"),
        ('"text"', "str, not a JSON object"),
        ("null", "NoneType, not a JSON object"),
        ("{'a': 1}", "not JSON"),
        ('{"a": "b\x1cc"}', "not JSON"),
        ('{"a": 1} {"a": 2}', "not JSON"),
    ],
    ids=range(16),
)
def test_json_that_is_broken(tmp_path: Path, text: str, told: str) -> None:
    good = json.dumps(ENGLISH)
    table = read(tmp_path, "rows.jsonl", f"{good}\n{text}\n{good}")
    assert (records(table)[0], records(table)[2]) == (ENGLISH, ENGLISH)
    assert told in str(records(table)[1])
    table = read(tmp_path, "rows.json", f"[{good},\n{text},\n{good}]")
    assert records(table)[0] == ENGLISH
    assert any(isinstance(record, str) for record in records(table))


def test_numbers_of_json_stay_and_null_is_absent(tmp_path: Path) -> None:
    table = read(
        tmp_path,
        "rows.jsonl",
        '{"a": 2.0, "b": null, "c": NaN, "d": [1, true], "Quantity": 2, "e": Infinity}',
    )
    [record] = records(table)
    assert record == {"a": 2.0, "d": [1, True], "quantity": 2, "e": float("inf")}
    assert isinstance(record, dict)
    assert type(record["a"]) is float


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl", "rows.NDJSON"])
@pytest.mark.parametrize(
    "written",
    [
        lambda rows: json.dumps(rows),
        lambda rows: json.dumps(rows, indent=2) + "\n",
        lambda rows: "\n".join(json.dumps(row) for row in rows),
        lambda rows: "\n".join(json.dumps(row, indent=1) for row in rows),
        lambda rows: ",\n".join(json.dumps(row) for row in rows),
        lambda rows: "\ufeff" + "\r\n\r\n".join(" " + json.dumps(row) + " " for row in rows),
        lambda rows: "[" + ",".join(json.dumps(row) for row in rows) + ",]",
    ],
)
def test_objects_in_an_array_or_one_after_the_other(
    tmp_path: Path, name: str, written: Callable[[list[dict[str, str]]], str]
) -> None:
    rows = [ENGLISH, CROATIAN, SPANISH]
    assert records(read(tmp_path, name, written(rows))) == rows


@pytest.mark.parametrize(
    "text", ["[{}", '[{"a": 1},', '[{"a": 1}] x', '[{"a": 1} {"b": 2}]', '[{"a": 1}, {"b"', "["]
)
def test_a_broken_array_is_named(tmp_path: Path, text: str) -> None:
    table = read(tmp_path, "rows.json", text)
    assert isinstance(records(table)[-1], str)
    assert "not JSON" in str(records(table)[-1])


def parquet(folder: Path, columns: Any, **how: Any) -> tables.Table:
    import pyarrow
    from pyarrow import parquet as files

    files.write_table(
        columns if isinstance(columns, pyarrow.Table) else pyarrow.table(columns),
        folder / "rows.Parquet",
        **how,
    )
    return tables.read_table(folder / "rows.Parquet")


def test_parquet_gives_plain_values(tmp_path: Path) -> None:
    import pyarrow as pa

    count = 2500
    table = parquet(
        tmp_path,
        {
            "Catalog": pa.array([["Čaj", "Tea"]] * count, pa.list_(pa.string())),
            "message": pa.array(["dva \U0001fa77"] * count).dictionary_encode(),
            "action": pa.array([b"add"] * count, pa.binary()),
            "product": pa.array(["Tea", None] * (count // 2), pa.large_string()),
            "quantity": pa.array([2.0, float("nan")] * (count // 2)),
            "language": pa.array(["croatian"] * count),
            "price": pa.array([decimal.Decimal("2.00")] * count),
            "count": pa.array([3] * count, pa.int64()),
        },
    )
    assert len(table.records) == count
    common = {"catalog": ["Čaj", "Tea"], "message": "dva \U0001fa77", "action": "add", "language": "croatian"}
    assert table.records[:2] == [
        (1, {**common, "product": "Tea", "quantity": 2.0, "price": decimal.Decimal("2.00"), "count": 3}),
        (2, {**common, "price": decimal.Decimal("2.00"), "count": 3}),
    ]


def test_parquet_that_is_broken(tmp_path: Path) -> None:
    import pyarrow as pa

    good: dict[str, list[Any]] = {name: [value] for name, value in ENGLISH.items()}
    assert records(parquet(tmp_path, good)) == [ENGLISH]
    data = (tmp_path / "rows.Parquet").read_bytes()
    for broken in (
        b"",
        b"PAR1",
        data[:-20],
        data[: len(data) // 2],
        b"x" * 50,
        data[:40] + b"\xff" * 40 + data[80:],
    ):
        assert "not Parquet" in the_problem(read(tmp_path, "rows.parquet", broken))
    assert "'Message' occurs twice" in the_problem(parquet(tmp_path, {**good, "Message": ["x"]}))
    twice = pa.table([["x"], ["y"]], names=["note", "note"])
    assert "'note' occurs twice" in the_problem(parquet(tmp_path, twice))
    assert "not language" in the_problem(parquet(tmp_path, {name: good[name] for name in tables.OURS[:-1]}))
    assert the_problem(parquet(tmp_path, {**good, "message": [b"caf\xe9"]})) == NOT_UTF8


def test_parquet_without_pyarrow_names_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rows.parquet").touch()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match="pyarrow") as caught:
        tables.read_table(tmp_path / "rows.parquet")
    assert caught.value.hint == "pip install pyarrow"
