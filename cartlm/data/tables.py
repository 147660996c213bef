"""Records of a file as people have it: JSON Lines or an array, CSV of any delimiter, Parquet.

Only \\n, \\r\\n and \\r end a line; within a cell of CSV each of them becomes \\n. Columns match whatever their case, Unicode
form and surrounding blanks. Null and NaN are absent.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

from cartlm.data import charset
from cartlm.errors import UserError
from cartlm.task.intent import no_duplicates

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
"""Suffixes that are read, in any case."""
OURS = ("catalog", "message", "action", "product", "quantity", "language")
PUBLISHED = ("prompt", "completion", "language")
DELIMITERS = ",;\t|"
_PACKED = "compressed; unpack it first with gunzip, bunzip2, unzstd or unxz"
BINARY = {
    b"PAR1": "Parquet, without the suffix .parquet",
    b"PK\x03\x04": "a zip archive or a spreadsheet; save it as CSV UTF-8",
    b"\xd0\xcf\x11\xe0": "an old Excel file; save it as CSV UTF-8",
    **dict.fromkeys((b"\x1f\x8b", b"BZh", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ"), _PACKED),
}
MAX_CELL_CHARS = 1 << 24  # a quote that is never closed would take the whole file
MAX_HEADER_LINES = 100
MAX_HEAD_CHARS = 10_000  # an array may be one line of some hundred MB
PARQUET_ROWS = 1000  # at a time
_KNOWN = {*OURS, *PUBLISHED}
_BYTES = re.compile("[\udc80-\udcff]")  # what Charset.open makes of bytes that are not UTF-8
_HALF = re.compile("[\ud800-\udfff]")
_SEP = re.compile(r'\ufeff*"?sep=(\\t|\t|[^"\w\s])[",;|\t ]*\n?$', re.IGNORECASE)
_BLANK = " \t\n\ufeff"
_BLANKS = re.compile(rf"[{_BLANK}\r]*")
_NOT_UTF8 = "not UTF-8; fix these bytes, or save the file as UTF-8"
_REST = "the rows after it are not read"

Records = Iterator[tuple[int, dict[str, Any] | str]]


@dataclass
class Table:
    """(line, record) of each row, or (line, problem); lines count from 1 as in an editor, in Parquet rows do.

    `notes` name what was detected, such as the encoding.
    """

    records: list[tuple[int, dict[str, Any] | str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_table(path: Path) -> Table:
    """All records of a file whose suffix is one of SUFFIXES. Raises UserError where it cannot be opened."""
    suffix, table = path.suffix.lower(), Table()
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}", f"name a file to read: {', '.join(SUFFIXES)}") from None
    if suffix == ".parquet":
        table.records.extend(_parquet(data, path))
        return table
    if kind := next((kind for magic, kind in BINARY.items() if data.startswith(magic)), ""):
        table.records.append((1, f"not text but {kind}"))
        return table
    try:
        encoding = charset.detect(data, path)
    except ValueError as error:
        table.records.append((1, str(error)))
        return table
    if encoding.name:
        table.notes.append(f"read as {encoding.name}")
    limit = csv.field_size_limit(MAX_CELL_CHARS)
    try:
        is_csv = suffix in (".csv", ".tsv")
        table.records.extend(_csv(data, encoding, suffix, table.notes) if is_csv else _json(data, encoding))
    finally:
        csv.field_size_limit(limit)
    return table


def missing_columns(names: Iterable[str]) -> list[str]:
    """The required columns that `names` lacks: the published layout's where it has a prompt and no message, else ours."""
    have = set(names)
    layout = PUBLISHED if "prompt" in have and "message" not in have else OURS
    return [name for name in layout if name not in have]


@lru_cache(1024)
def _column(name: str) -> str:
    """A column as it is matched: in NFC without surrounding blanks, known ones in lower case."""
    bare = " ".join(unicodedata.normalize("NFC", name).replace("\ufeff", " ").split())
    return bare.casefold() if bare.casefold() in _KNOWN else bare


def repeated_column(names: Sequence[str]) -> str:
    """A name that occurs twice, as columns are matched and in any case; empty for none."""
    columns = [_column(name).casefold() for name in names]
    twice = [
        name for name, column in zip(names, columns, strict=True) if column and columns.count(column) > 1
    ]
    return twice[-1] if twice else ""


def _header_problem(names: Sequence[str], delimiter: str = "") -> str:
    if twice := repeated_column(names):
        return f"the column {twice!r:.60} occurs twice"
    columns = [name for name in map(_column, names) if name]
    if lacking := missing_columns(columns):
        separated = f" (separated by {delimiter!r})" if delimiter else ""
        return (
            f"the header has {', '.join(columns)[:150] or 'nothing'}{separated}, and not {', '.join(lacking)}"
        )
    return ""


def _plain(value: Any) -> Any:
    """A value as every format gives it. Raises ValueError naming half of a surrogate pair."""
    if isinstance(value, bytes):
        value = value.decode("utf-8")
    if isinstance(value, str):
        if half := _HALF.search(value):
            raise ValueError(f"{value!r:.60} holds U+{ord(half[0]):04X}, which is half of a character")
        return value
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _record(value: Any) -> dict[str, Any] | str:
    """A record of a parsed value, or what is wrong with it."""
    try:
        value = _plain(value)
        if not isinstance(value, dict):
            return f"{type(value).__name__}, not a JSON object"
        if twice := repeated_column(list(value)):
            return f"the key {twice!r:.60} occurs twice"
        return {_column(key): item for key, item in value.items() if item is not None}
    except UnicodeDecodeError:
        return _NOT_UTF8
    except ValueError as error:
        return str(error)
    except RecursionError:
        return "nested too deep"


_DECODER = json.JSONDecoder(object_pairs_hook=no_duplicates)


def _json(data: bytes, encoding: charset.Charset) -> Records:
    """One object a line, or an array of objects, or objects over several lines; the start of the file decides."""
    with encoding.open(data) as text:
        lines = iter(lambda: text.readline(MAX_HEAD_CHARS), "")
        head = next((line for line in lines if line.strip(_BLANK)), "").strip(_BLANK)
    if head.startswith("[") or head == "{" or (head.startswith("{") and head.endswith(",")):
        yield from _json_values(data.decode(encoding.codec, encoding.errors))
        return
    with encoding.open(data) as text:
        for number, line in enumerate(text, 1):
            if _BYTES.search(line):
                yield number, _NOT_UTF8
            elif line := line.strip(_BLANK):
                try:
                    yield number, _record(_DECODER.decode(line))
                except (ValueError, RecursionError) as error:
                    yield number, _not_json(error)


def _json_values(text: str) -> Records:
    """The values of an array, or values that follow one another, with commas between them or not."""
    line_ends = [match.end() for match in re.finditer(r"\r\n|\r|\n", text)]

    def line() -> int:
        return bisect_right(line_ends, at) + 1

    array, at = _gap(text, 0, "[")
    while at < len(text) and not (array and text[at] == "]"):
        try:
            value, end = _DECODER.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            yield line(), f"{_not_json(error)}; {_REST}"
            return
        yield line(), _NOT_UTF8 if _BYTES.search(text, at, end) else _record(value)
        comma, at = _gap(text, end, ",")
        if array and not comma and text[at : at + 1] not in ("", "]"):
            yield line(), f"not JSON (no comma before it); {_REST}"
            return
    if array and (at == len(text) or text[at + 1 :].strip(f"{_BLANK}\r")):
        yield line(), f"not JSON (the array is not closed, or more follows it); {_REST}"


def _gap(text: str, at: int, sign: str) -> tuple[bool, int]:
    """Whether blanks with one `sign` among them begin at a position, and where they end."""
    at = _BLANKS.match(text, at).end()  # type: ignore[union-attr]
    found = text.startswith(sign, at)
    return found, _BLANKS.match(text, at + found).end()  # type: ignore[union-attr]


def _not_json(error: Exception) -> str:
    return f"not JSON ({'nested too deep' if isinstance(error, RecursionError) else getattr(error, 'msg', error)})"


def _csv(data: bytes, encoding: charset.Charset, suffix: str, notes: list[str]) -> Records:
    with encoding.open(data) as text:
        given, before, head = "", 0, list[str]()
        for line in text:
            if not given and (match := _SEP.match(line)):
                given = "\t" if match[1] == "\\t" else match[1]
                notes.append(f"the line {line.strip()} is left out")
            elif line.strip(_BLANK + DELIMITERS + '"'):
                head = [line.lstrip("\ufeff")]
                break
            before += 1
        while "".join(head).count('"') % 2 and len(head) < MAX_HEADER_LINES and (line := next(text, "")):
            head.append(line)
        usual = "\t" if suffix == ".tsv" else ","
        delimiter = _delimiter("".join(head), given, usual)
        if head and delimiter != usual:
            notes.append(f"cells separated by {delimiter!r}")
        spaced = f'{delimiter} "' in "".join(head)
        reader = csv.reader(chain(head, text), delimiter=delimiter, strict=True, skipinitialspace=spaced)
        yield from _csv_rows(reader, before, notes)


def _delimiter(head: str, given: str, usual: str) -> str:
    """The delimiter under which the header has all columns: the given one, else the one with fewest; else the likeliest."""

    def rank(delimiter: str) -> tuple[bool, bool, int, int]:
        cells: list[str] = []
        with suppress(csv.Error):
            cells = next(csv.reader(io.StringIO(head), delimiter=delimiter, skipinitialspace=True), [])
        names = [_column(cell) for cell in cells]
        fits = not missing_columns(names)
        return fits, delimiter == given, -len(names) if fits else len(_KNOWN & {*names}), len(names)

    return max(filter(None, [given, usual, *DELIMITERS]), key=rank)


def _csv_rows(reader: Any, before: int, notes: list[str]) -> Records:
    names: list[str] = []
    start, empty, delimiter = before + 1, 0, reader.dialect.delimiter
    try:
        for cells in reader:
            line, start = start, before + reader.line_num + 1
            if not names:
                names = [_column(cell) for cell in cells]
                if problem := _header_problem(cells, delimiter):
                    yield line, problem
                    return
            elif not any(cell.strip() for cell in cells):
                empty += 1
            elif problem := _row_problem(names, cells, delimiter):
                yield line, problem
            else:
                yield line, {name: cell for name, cell in zip(names, cells, strict=True) if name}
    except csv.Error as error:
        why = "a quote is not closed" if "unexpected end" in str(error) else str(error)
        yield start, f"not CSV ({why}); {_REST}"
    if empty:
        notes.append(f"{empty} empty row{'' if empty == 1 else 's'} left out")


def _row_problem(names: Sequence[str], cells: Sequence[str], delimiter: str) -> str:
    if any(_BYTES.search(cell) for cell in cells):
        return _NOT_UTF8
    if len(cells) != len(names):
        return f"{len(cells)} cells, where the header has {len(names)}"
    for index, (name, cell) in enumerate(zip(names, cells, strict=True)):
        if not name and cell.strip():
            return f"{cell!r:.60} is in a column without a name"
        if cell[:1].isspace() and cell.lstrip().startswith('"'):
            return f"{cell!r:.60} has a blank before its quote"
        lines = [part.count(delimiter) for part in cell.split("\n")]
        # the end of one row and the beginning of another, between two quotes that were not closed
        if len(lines) > 1 and (lines[0], lines[-1]) == (len(names) - 1 - index, index):
            return f"{name} {cell!r:.60} runs into the next row; is a quote not closed?"
    return ""


def _parquet(data: bytes, path: Path) -> Records:
    try:
        from pyarrow import parquet
    except ImportError:
        raise UserError(f"{path} needs the package pyarrow", "pip install pyarrow") from None
    row = 1
    try:
        table = parquet.ParquetFile(io.BytesIO(data))
        if problem := _header_problem(table.schema_arrow.names):
            yield row, problem
            return
        for batch in table.iter_batches(PARQUET_ROWS):
            batch.validate(full=True)
            for record in batch.to_pylist():
                yield row, _record(record)
                row += 1
    except Exception as error:  # each of Arrow's parts raises its own
        yield row, f"not Parquet that can be read ({' '.join(str(error).split()):.120}); {_REST}"
