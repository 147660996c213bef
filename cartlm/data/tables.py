"""Records of a file as people have it: JSON Lines or an array, CSV of any delimiter, Parquet; what was taken is said.

Only \\n, \\r\\n and \\r end a line, and within a text each of them becomes \\n, in every format. Columns are found by their
names without blanks around them, in NFC and in any case. Null and NaN are absent.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

from cartlm.data import charset
from cartlm.errors import UserError

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
"""What is read; compared in lower case."""
OURS = ("catalog", "message", "action", "product", "quantity", "language")
PUBLISHED = ("prompt", "completion", "language")
DELIMITERS = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a bar"}
BINARY = {
    b"PAR1": "Parquet, without the suffix .parquet",
    b"PK\x03\x04": "a zip archive or a spreadsheet; save it as CSV UTF-8",
    b"\xd0\xcf\x11\xe0": "an old Excel file; save it as CSV UTF-8",
    b"\x1f\x8b": "gzip; rename it to .gz and run gunzip on it",
    b"BZh": "bzip2; rename it to .bz2 and run bunzip2 on it",
    b"\x28\xb5\x2f\xfd": "zstd; rename it to .zst and run unzstd on it",
    b"\xfd7zXZ": "xz; rename it to .xz and run unxz on it",
}
MOST_CHARS = 1 << 24  # of a cell; a quote that is never closed would take the whole file
MOST_HEADER_LINES = 100
CHARS_OF_A_HEAD = 10_000
PARQUET_ROWS = 1000  # at a time
_KNOWN = {*OURS, *PUBLISHED}
_BYTES = re.compile("[\udc80-\udcff]")  # what Charset.open makes of bytes that are not UTF-8
_HALF = re.compile("[\ud800-\udfff]")
_SEP = re.compile(r'\ufeff*"?sep=(\\t|\t|[^"\w\s])[",;|\t ]*\n?$', re.IGNORECASE)
_BLANK = " \t\n\ufeff"
_BLANKS = re.compile(rf"[{_BLANK}\r]*")
_NOT_UTF8 = "not UTF-8; mend these bytes, or save the file as UTF-8"
_REST = "the rows after it are not read"

Numbered = Iterator[tuple[int, dict[str, Any] | str]]


@dataclass
class Table:
    """(line, record) of each row, from 1 as an editor counts lines (in Parquet: rows); a text instead of a record says
    what is broken. `notes` say what was detected and taken.
    """

    records: list[tuple[int, dict[str, Any] | str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Twice:
    """Stands for a JSON object that has a key twice."""

    key: str


def read(path: Path) -> Table:
    """All records of a file whose suffix is one of SUFFIXES. Raises UserError where it cannot be opened."""
    suffix = path.suffix.lower()
    table = Table()
    try:
        if suffix == ".parquet":
            table.records.extend(_parquet(path))
            return table
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}", f"name a file to read: {', '.join(SUFFIXES)}") from None
    if what := next((what for magic, what in BINARY.items() if data.startswith(magic)), ""):
        table.records.append((1, f"not text but {what}"))
        return table
    csv_like = suffix in (".csv", ".tsv")
    try:
        found = charset.detect(data, path)
    except ValueError as error:
        head = data[: 1 << 16].decode("latin-1").partition("\n")[0]
        apart = f"; cells apart by {_name(_delimiter(head, '', suffix))}" if csv_like else ""
        table.records.append((1, f"{error}{apart}"))
        return table
    if found.name:
        table.notes.append(f"read as {found.name}")
    limit = csv.field_size_limit(MOST_CHARS)
    try:
        table.records.extend(_csv(data, found, suffix, table.notes) if csv_like else _json(data, found))
    finally:
        csv.field_size_limit(limit)
    return table


def missing(names: Iterable[str]) -> list[str]:
    """The columns that none of `names` is: of the published layout where it has a prompt and no message, else of ours."""
    have = set(names)
    return [
        name
        for name in (PUBLISHED if "prompt" in have and "message" not in have else OURS)
        if name not in have
    ]


@lru_cache(1024)
def _column(name: str) -> str:
    """A column as it is matched: a known one by its own name, others as they are, without blanks and a BOM."""
    bare = " ".join(unicodedata.normalize("NFC", name).replace("\ufeff", " ").split())
    return bare.casefold() if bare.casefold() in _KNOWN else bare


def _twice(names: Sequence[str]) -> str:
    """A name that occurs twice, as columns are matched, in any case; empty for none."""
    seen: set[str] = set()
    for name in names:
        key = _column(name).casefold()
        if key in seen:
            return name
        if key:
            seen.add(key)
    return ""


def _header(names: Sequence[str], apart: str = "") -> str:
    """What is wrong with a header; empty if nothing is."""
    if twice := _twice(names):
        return f"the column {twice!r:.60} occurs twice"
    columns = [name for name in map(_column, names) if name]
    if lacking := missing(columns):
        return f"the header has {', '.join(columns)[:150] or 'nothing'}{apart}, and not {', '.join(lacking)}"
    return ""


def _plain(value: Any) -> Any:
    """A value as the other formats have it. Raises ValueError naming a key that occurs twice, or half of a sign."""
    if isinstance(value, bytes):
        value = value.decode("utf-8")
    if isinstance(value, str):
        if half := _HALF.search(value):
            raise ValueError(f"{value!r:.60} holds U+{ord(half[0]):04X}, which is half of a sign")
        return value.replace("\r\n", "\n").replace("\r", "\n") if "\r" in value else value
    if isinstance(value, _Twice):
        raise ValueError(f"the key {value.key!r:.60} occurs twice")
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _record(value: Any) -> dict[str, Any] | str:
    """A record of a parsed value, or what is broken."""
    try:
        value = _plain(value)
        if not isinstance(value, dict):
            return f"{type(value).__name__}, not a JSON object"
        if twice := _twice(list(value)):
            return f"the key {twice!r:.60} occurs twice"
        return {_column(key): item for key, item in value.items() if item is not None}
    except UnicodeDecodeError:
        return _NOT_UTF8
    except ValueError as error:
        return str(error)
    except RecursionError:
        return "nested too deep"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any] | _Twice:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    seen: set[str] = set()
    return _Twice(next(key for key, _ in pairs if key in seen or seen.add(key)))  # type: ignore[func-returns-value]


_DECODER = json.JSONDecoder(object_pairs_hook=_object)


def _json(data: bytes, found: charset.Charset) -> Numbered:
    """One object a line; or an array of objects, or objects over several lines, told by how the file begins."""
    with found.open(data) as text:
        lines = iter(
            lambda: text.readline(CHARS_OF_A_HEAD), ""
        )  # an array may be one line of some hundred MB
        head = next((line for line in lines if line.strip(_BLANK)), "").strip(_BLANK)
    if head.startswith("[") or head == "{" or (head.startswith("{") and head.endswith(",")):
        yield from _values(data.decode(found.codec, found.errors))
        return
    with found.open(data) as text:
        for number, line in enumerate(text, 1):
            if _BYTES.search(line):
                yield number, _NOT_UTF8
            elif line := line.strip(_BLANK):
                try:
                    value = _DECODER.decode(line)
                except (ValueError, RecursionError) as error:
                    yield number, _not_json(error)
                    continue
                yield number, _record(value)


def _values(text: str) -> Numbered:
    """The values of an array, or values that follow one another, with commas between them or not."""
    line, at, array, comma_due = 1, 0, False, False
    while True:
        start = _gap(text, at)
        line, at = line + _line_ends(text, at, start), start
        sign = text[at : at + 1]
        if not sign:
            if array:
                yield line, "not JSON (the array is not closed)"
            return
        if array and sign == "]":
            if _gap(text, at + 1) < len(text):
                yield line, f"not JSON (more follows after the array); {_REST}"
            return
        if sign == "," and comma_due:
            at, comma_due = at + 1, False
            continue
        if sign == "[" and not array and not comma_due:
            at, array = at + 1, True
            continue
        try:
            if comma_due and array:
                raise ValueError("no comma before it")
            value, end = _DECODER.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            yield line, f"{_not_json(error)}; {_REST}"
            return
        yield line, _NOT_UTF8 if _BYTES.search(text, at, end) else _record(value)
        line, at, comma_due = line + _line_ends(text, at, end), end, True


def _line_ends(text: str, at: int, to: int) -> int:
    return text.count("\n", at, to) + text.count("\r", at, to) - text.count("\r\n", at, to)


def _gap(text: str, at: int) -> int:
    """Where the blanks end that begin at a place."""
    match = _BLANKS.match(text, at)
    return match.end() if match else at


def _not_json(error: Exception) -> str:
    return f"not JSON ({'nested too deep' if isinstance(error, RecursionError) else getattr(error, 'msg', error)})"


def _csv(data: bytes, found: charset.Charset, suffix: str, notes: list[str]) -> Numbered:
    with found.open(data) as text:
        given, before, head = "", 0, list[str]()
        for line in text:
            if not given and (match := _SEP.match(line)):
                given = "\t" if match[1] == "\\t" else match[1]
                notes.append(f"the line {line.strip()} is left out")
            elif line.strip(_BLANK + "".join(DELIMITERS) + '"'):
                head = [line.lstrip("\ufeff")]
                break
            before += 1
        while "".join(head).count('"') % 2 and len(head) < MOST_HEADER_LINES and (line := next(text, "")):
            head.append(line)
        delimiter = _delimiter("".join(head), given, suffix)
        if head and delimiter != _usual(suffix):
            notes.append(f"cells apart by {_name(delimiter)}")
        spaced = f'{delimiter} "' in "".join(head)
        reader = csv.reader(chain(head, text), delimiter=delimiter, strict=True, skipinitialspace=spaced)
        yield from _rows(reader, before, notes)


def _usual(suffix: str) -> str:
    return "\t" if suffix == ".tsv" else ","


def _name(delimiter: str) -> str:
    return DELIMITERS.get(delimiter, repr(delimiter))


def _cells(head: str, delimiter: str) -> list[str]:
    """The header's columns under a delimiter; none where it does not parse."""
    try:
        cells = next(csv.reader(io.StringIO(head), delimiter=delimiter, skipinitialspace=True), [])
    except csv.Error:
        return []
    return [_column(cell) for cell in cells]


def _delimiter(head: str, given: str, suffix: str) -> str:
    """The delimiter under which the header has what it needs: the given one, the suffix's, another; else the likeliest."""
    candidates = list(dict.fromkeys([given or _usual(suffix), _usual(suffix), *DELIMITERS]))
    names = {delimiter: _cells(head, delimiter) for delimiter in candidates}
    if fit := [delimiter for delimiter in candidates if not missing(names[delimiter])]:
        return given if given in fit else min(fit, key=lambda one: len(names[one]))
    return given or max(candidates, key=lambda one: (len(_KNOWN & {*names[one]}), len(names[one])))


def _rows(reader: Any, before: int, notes: list[str]) -> Numbered:
    names: list[str] = []
    start, empty, delimiter = before + 1, 0, reader.dialect.delimiter
    try:
        for cells in reader:
            line, start = start, before + reader.line_num + 1
            if not names:
                names = [_column(cell) for cell in cells]
                if what := _header(cells, f" (apart by {_name(delimiter)})"):
                    yield line, what
                    return
            elif not any(cell.strip() for cell in cells):
                empty += 1
            elif what := _broken(names, cells, delimiter):
                yield line, what
            else:
                yield line, {name: cell for name, cell in zip(names, cells, strict=True) if name}
    except csv.Error as error:
        why = "a quote is not closed" if "unexpected end" in str(error) else str(error)
        yield start, f"not CSV ({why}); {_REST}"
    if empty:
        notes.append(f"{empty} empty row{'' if empty == 1 else 's'} left out")


def _broken(names: Sequence[str], cells: Sequence[str], delimiter: str) -> str:
    """What is wrong with the cells of a row; empty if nothing is."""
    if any(_BYTES.search(cell) for cell in cells):
        return _NOT_UTF8
    if len(cells) != len(names):
        return f"{len(cells)} cells, where the header has {len(names)}"
    for at, (name, cell) in enumerate(zip(names, cells, strict=True)):
        if not name and cell.strip():
            return f"{cell!r:.60} stands under no name"
        if cell[:1].isspace() and cell.lstrip().startswith('"'):
            return f"{cell!r:.60} has a blank before its quote"
        lines = [part.count(delimiter) for part in cell.split("\n")]
        # The end of one row and the beginning of another: what stands between two quotes that were not closed.
        if len(lines) > 1 and (lines[0], lines[-1]) == (len(names) - 1 - at, at):
            return f"{name} {cell!r:.60} runs into the next row; is a quote not closed?"
    return ""


def _parquet(path: Path) -> Numbered:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise UserError(f"{path} needs the package pyarrow", "pip install pyarrow") from None
    row = 1
    with path.open("rb") as file:
        try:
            with parquet.ParquetFile(file) as table:
                names = table.schema_arrow.names
                if what := _header(names):
                    yield row, what
                    return
                for batch in table.iter_batches(PARQUET_ROWS):
                    batch.validate(full=True)
                    columns = [column.to_pylist() for column in batch.columns]
                    for values in zip(*columns, strict=True):
                        yield row, _record(dict(zip(names, values, strict=True)))
                        row += 1
        except (ArrowException, OSError, ValueError, TypeError, OverflowError) as error:
            yield row, f"not Parquet that can be read ({' '.join(str(error).split()):.120}); {_REST}"
