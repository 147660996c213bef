"""Whole files, written at random as people's programs write them: the rows of the plain file, or a problem, never other rows."""

from __future__ import annotations

import csv
import io
import json
import re
import tempfile
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cartlm.data import files, tables
from cartlm.errors import UserError
from cartlm.task import prompt as prompts
from cartlm.task.intent import Intent

LANGUAGES = ["english", "croatian", "spanish"]
CHECKS = settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck), derandomize=True)
LETTERS = {"english": "", "croatian": "čćđšžČĆĐŠŽ", "spanish": "áéíóúñüÁÉÍÓÚÑÜ¿¡ºª"}
BRANDS = "éèêëàâäåæçìîïòôöøùûýðþßœÿ€“”’–…©®°½×ńżąłőűřěţş"
CONTROLS = ["\x85", "\x0b", "\x0c", "\x1c", "\x1e", "\x00", "\x1a", "\ufffd"]  # in any row a problem
ODD = [
    *",;\t|\"'",
    ", ",
    '", "',
    '""',
    "\n",
    "\r\n",
    "\r",
    "\n\n",
    "\u2028",
    "\u2029",
    "\xa0",
    "\u200b",
    "\ufeff",
    "\U0001fa77",
    "\U0001f9c3",
    "e\u0301",
    "c\u030c",
    "еда",
    "牛奶",
    "=1+1",
    "#",
    "sep=;",
    "\\n",
    "\\",
    "null",
    "NaN",
    "2.0",
]
Row = dict[str, Any]


@st.composite
def phrases(draw: st.DrawFn, language: str) -> str:
    """Some words of a language, with what else gets into a cell."""
    letters = st.sampled_from("aeioudmnrst" + 2 * LETTERS[language])
    word = st.text(letters, min_size=1, max_size=6)
    odd = st.one_of(st.sampled_from(BRANDS), st.sampled_from(ODD), st.sampled_from(ODD))
    if draw(st.integers(0, 30)) == 0:
        odd = st.one_of(odd, st.sampled_from(CONTROLS), st.characters(codec="cp1252"))
    parts = draw(st.lists(draw(st.sampled_from([word, st.one_of(word, word, odd)])), min_size=1, max_size=6))
    return draw(st.sampled_from([" ", ""])).join(parts)


@st.composite
def clean_rows(draw: st.DrawFn) -> list[Row]:
    rows = []
    for _ in range(draw(st.integers(1, 4))):
        language = draw(st.sampled_from(LANGUAGES))
        line = phrases(language).map(lambda text: " ".join(re.split(r"[\r\n]+", text)).strip()).filter(bool)
        lines = draw(st.lists(line, min_size=1, max_size=4, unique=True))
        rows.append(
            {
                "catalog": lines,
                "message": draw(phrases(language)),
                "action": draw(st.sampled_from(["add", "remove"])),
                "product": draw(st.sampled_from(lines)),
                "quantity": draw(st.integers(1, 12)),
                "language": language,
            }
        )
    return rows


@dataclass(frozen=True)
class Written:
    name: str
    data: bytes


def as_text(row: Row, join: str) -> dict[str, str]:
    return {**row, "catalog": join.join(row["catalog"]), "quantity": str(row["quantity"])}


def published(row: Row) -> Row:
    intent = Intent(row["action"], row["product"], row["quantity"])
    prompt = prompts.render_prompt(row["catalog"], row["message"])
    return {"prompt": prompt, "completion": intent.canonical(), "language": row["language"]}


@st.composite
def csv_files(draw: st.DrawFn, rows: list[Row]) -> tuple[str, str]:
    delimiter = draw(st.sampled_from(",;\t|"))
    end = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    join = draw(st.sampled_from(["\n", "\r\n"]))
    texts: list[Row] = [as_text(row, join) for row in rows]
    if draw(st.integers(0, 4)) == 0:
        texts = [published(row) for row in rows]
    columns = draw(st.permutations(sorted(texts[0])))
    extra = draw(st.sampled_from([[], [], ["note"], [""], ["", ""], ["note", ""]]))
    quoting = draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC, -1]))
    text = io.StringIO(newline="")
    how = csv.QUOTE_MINIMAL if quoting == -1 else quoting
    writer = csv.writer(text, delimiter=delimiter, lineterminator=end, quoting=how)
    pad = draw(st.sampled_from(["", "", " ", "\t" if delimiter != "\t" else ""]))
    case = draw(st.sampled_from([str, str, str.upper, str.title]))
    if draw(st.integers(0, 3)) == 0:
        text.write(f"sep={delimiter}{end}")
    empty = st.sampled_from(
        ["", end, delimiter * (len(columns) + len(extra) - 1) + end, delimiter + end, f'""{end}']
    )
    text.write(draw(empty))
    writer.writerow([pad + case(name) + pad if name else "" for name in [*columns, *extra]])
    for cells in texts:
        values = [*(cells[name] for name in columns), *("x" if name else "" for name in extra)]
        if quoting == -1 and '"' not in "".join(values):  # by hand: few quotes, and not around a line end
            text.write(
                delimiter.join(f'"{value}"' if delimiter in value else value for value in values) + end
            )
        else:
            writer.writerow(values)
        text.write(draw(empty))
    name = draw(st.sampled_from(["rows.csv", "rows.CSV", "rows.tsv"]))
    return name, text.getvalue().removesuffix(draw(st.sampled_from(["", end])))


@st.composite
def json_files(draw: st.DrawFn, rows: list[Row]) -> tuple[str, str]:
    end = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    plain = draw(st.booleans())
    form = draw(
        st.sampled_from(
            [dict, published, lambda row: as_text(row, "\n"), lambda row: {**row, "tags": {"a": [1]}}]
        )
    )
    objects = [form(row) for row in rows]
    indent = draw(st.sampled_from([None, None, 0, 2]))
    if draw(st.booleans()):
        text = json.dumps(objects, ensure_ascii=plain, indent=indent).replace("\n", end)
    else:
        dumped = [json.dumps(one, ensure_ascii=plain, indent=indent).replace("\n", end) for one in objects]
        text = (end * draw(st.integers(1, 2))).join(dumped) + draw(st.sampled_from(["", end]))
    return draw(st.sampled_from(["rows.json", "rows.jsonl", "rows.ndjson", "rows.JSONL"])), text


def parquet_file(rows: list[Row], form: Any) -> Written:
    import pyarrow
    from pyarrow import parquet

    data = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist([form(row) for row in rows]), data)
    return Written("rows.parquet", data.getvalue())


@st.composite
def written_files(draw: st.DrawFn, rows: list[Row]) -> Written:
    if draw(st.integers(0, 9)) == 0:
        return parquet_file(rows, draw(st.sampled_from([dict, published, lambda row: as_text(row, "\r\n")])))
    name, text = draw(st.one_of(csv_files(rows), csv_files(rows), json_files(rows)))
    if draw(st.integers(0, 5)) == 0:
        text = unicodedata.normalize(draw(st.sampled_from(["NFC", "NFD"])), text)
    one_byte = [
        "cp1250",
        "cp1252",
        "iso8859_2",
        "latin-1",
        "iso8859_15",
        "cp852",
        "cp850",
        "cp437",
        "mac_roman",
    ]
    others = ["mac_latin2", "cp1254", "cp1251", "cp1257", "shift_jis", "gbk"]
    wide = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le"]
    fitting = [codec for codec in [*one_byte, *others] if fits(text, codec)]
    codec = draw(st.sampled_from(fitting if fitting and draw(st.booleans()) else wide))
    data = text.encode(codec)
    if codec == "utf-16-be" and draw(st.booleans()):
        data = b"\xfe\xff" + data
    return Written(name, data)


def fits(text: str, codec: str) -> bool:
    try:
        return text.encode(codec).decode(codec) == text and not text.isascii()
    except UnicodeError:
        return False


def outcome(folder: Path, name: str, data: bytes) -> tuple[list[tuple[str, ...]], list[str]]:
    """The rows without their ids, as they are compared, and what is wrong."""
    (folder / name).write_bytes(data)
    try:
        gathered = files.gather(folder / name, LANGUAGES)
    except UserError as error:
        return [], [error.message]
    assert all("\n" not in problem for problem in gathered.problems)
    rows = gathered.files[folder / name]
    return [(row.language, row.prompt, row.completion) for row in rows], gathered.problems


def plain_file(rows: list[Row]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def nfc(rows: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    return [tuple(unicodedata.normalize("NFC", part) for part in row) for row in rows]


@CHECKS
@given(st.data())
def test_the_rows_of_the_plain_file_or_a_problem(data: st.DataObject) -> None:
    rows = data.draw(clean_rows())
    written = data.draw(written_files(rows))
    with tempfile.TemporaryDirectory() as folder:
        found, problems = outcome(Path(folder), written.name, written.data)
        expected, _ = outcome(Path(folder), "plain.jsonl", plain_file(rows))
    assert problems or nfc(found) == nfc(expected)


@CHECKS
@given(st.data())
def test_a_damaged_file_loses_no_row_in_silence(data: st.DataObject) -> None:
    """Cut, with a byte changed, put in or left out: no other exception, and each row that is gone is told."""
    rows = data.draw(clean_rows())
    written = data.draw(written_files(rows))
    broken = bytearray(written.data)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(broken)))
        byte = data.draw(
            st.sampled_from([*b',;"\n\r\t\\{[]}\0', 0x80, 0xC3, 0xE9, 0xFF, data.draw(st.integers(0, 255))])
        )
        broken[at : at + data.draw(st.integers(0, 2))] = bytes([byte] * data.draw(st.integers(0, 2)))
    with tempfile.TemporaryDirectory() as folder:
        found, problems = outcome(Path(folder), written.name, bytes(broken))
        expected, before = outcome(Path(folder), written.name, written.data)
        notes = tables.read_table(Path(folder) / written.name).notes
    assert before or problems or notes or len(found) >= len(expected)


@CHECKS
@given(st.data())
def test_a_file_cut_short_has_the_first_rows(data: st.DataObject) -> None:
    """Cut at a line's end no file can tell; cut anywhere else the row is named, or its last text is shorter."""
    rows = data.draw(clean_rows())
    written = data.draw(written_files(rows))
    cut = data.draw(st.integers(0, len(written.data)))
    with tempfile.TemporaryDirectory() as folder:
        expected, before = outcome(Path(folder), written.name, written.data)
        found, problems = outcome(Path(folder), written.name, written.data[:cut])
    whole = found[:-1] == expected[: len(found) - 1] if found else True
    assert before or problems or whole
