"""Records of a file as people have it: JSON Lines or an array, CSV of any delimiter, Parquet.

Only \\n, \\r\\n and \\r end a line; within a cell of CSV each of them becomes \\n. Columns, ours or others that are wanted,
match whatever their case, Unicode form and surrounding blanks. Null and NaN are absent.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import IO, Any

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
_HINT = f"name a file to read: {', '.join(SUFFIXES)}"

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
    source = Source(path)
    return Table([*source.records()], source.notes)


@dataclass
class Source:
    """A file of records, which each call of `records` reads anew and parses as they are asked for.

    `wanted` are columns of any names: they tell the delimiter of CSV, and of Parquet only those of them that are there are
    read. Without them the columns are ours, and a header that lacks one is a problem. `columns` (as they are matched -> as
    the file has them) and `notes` are whole at the end of `records`. Text is held in memory as bytes, Parquet in parts.
    """

    path: Path
    wanted: Sequence[str] = ()
    columns: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def _suffix(self) -> str:
        return self.path.suffix.lower()

    def survey(self) -> tuple[int, str]:
        """How many rows there are, and the problem after which no more can be read, empty for none; reads the file once.

        Raises UserError for another suffix, for a file that cannot be opened, and for one without a sound row.
        """
        if self._suffix not in SUFFIXES:
            what = f"{self.path} is neither {' nor '.join(SUFFIXES)}"
            raise UserError(what, "name a file with one of these suffixes")
        rows, sound, first, last = 0, False, "", ""
        for line, record in self.records():
            rows += 1
            if isinstance(record, str):
                last = f"{self.path}:{line}: {record}"
                first = first or last
            else:
                sound = True
        if not sound:
            raise UserError(first or f"{self.path} holds no rows", _HINT)
        return rows, last if last.endswith(_REST) else ""

    def records(self) -> Records:
        """(line, record) of each row, or (line, problem), as in `Table`; the keys are `folded` if columns are wanted.

        Raises UserError where the file cannot be opened.
        """
        self.columns.clear()
        self.notes.clear()
        try:
            with self.path.open("rb") as file:
                if self._suffix == ".parquet":
                    yield from self._parquet(file)
                    return
                data = file.read()
        except OSError as error:
            raise UserError(f"{self.path}: {error.strerror}", _HINT) from None
        is_csv = self._suffix in (".csv", ".tsv")
        if kind := next((kind for magic, kind in BINARY.items() if data.startswith(magic)), ""):
            yield 1, f"not text but {kind}"
            return
        try:
            encoding = charset.detect(data, self.path)
        except ValueError as error:
            if is_csv or not self.wanted:
                yield 1, str(error)
                return
            # JSON is UTF-8, so other bytes are only their row's fault
            encoding = charset.Charset("utf-8", "surrogateescape")
        if encoding.name:
            self.notes.append(f"read as {encoding.name}")
        limit = csv.field_size_limit(MAX_CELL_CHARS)
        try:
            yield from self._csv(data, encoding) if is_csv else self._json(data, encoding)
        finally:
            csv.field_size_limit(limit)

    def _wanted(self) -> set[str]:
        return {folded(name) for name in self.wanted}

    def _keys(self, names: Collection[str]) -> list[str]:
        """The keys of columns in records; how the file has them goes into `columns`."""
        keys = [folded(name) if self.wanted else _column(name) for name in names]
        for key, name in zip(keys, names, strict=True):
            if key and key not in self.columns:
                self.columns[key] = _bare(name)
        return keys

    def _header_problem(self, names: Sequence[str], delimiter: str = "") -> str:
        if twice := repeated_column(names):
            return f"the column {twice!r:.60} occurs twice"
        columns = [name for name in map(_column, names) if name]
        if not self.wanted and (lacking := missing_columns(columns)):
            separated = f" (separated by {delimiter!r})" if delimiter else ""
            return f"the header has {', '.join(columns)[:150] or 'nothing'}{separated}, and not {', '.join(lacking)}"
        return ""

    def _record(self, value: Any) -> dict[str, Any] | str:
        """A record of a parsed value, or what is wrong with it."""
        try:
            value = _plain(value)
            if not isinstance(value, dict):
                return f"{type(value).__name__}, not a JSON object"
            if twice := repeated_column(list(value)):
                return f"the key {twice!r:.60} occurs twice"
            keys = self._keys(value)
            return {key: item for key, item in zip(keys, value.values(), strict=True) if item is not None}
        except UnicodeDecodeError:
            return _NOT_UTF8
        except ValueError as error:
            return str(error)
        except RecursionError:
            return "nested too deep"

    def _json(self, data: bytes, encoding: charset.Charset) -> Records:
        """One object a line, or an array of objects, or objects over several lines; the start of the file decides."""
        with encoding.open(data) as text:
            lines = iter(lambda: text.readline(MAX_HEAD_CHARS), "")
            head = next((line for line in lines if line.strip(_BLANK)), "").strip(_BLANK)
        if head.startswith("[") or head == "{" or (head.startswith("{") and head.endswith(",")):
            yield from self._json_values(data.decode(encoding.codec, encoding.errors))
            return
        with encoding.open(data) as text:
            for number, line in enumerate(text, 1):
                if _BYTES.search(line):
                    yield number, _NOT_UTF8
                elif line := line.strip(_BLANK):
                    try:
                        yield number, self._record(_DECODER.decode(line))
                    except (ValueError, RecursionError) as error:
                        yield number, _not_json(error)

    def _json_values(self, text: str) -> Records:
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
            yield line(), _NOT_UTF8 if _BYTES.search(text, at, end) else self._record(value)
            comma, at = _gap(text, end, ",")
            if array and not comma and text[at : at + 1] not in ("", "]"):
                yield line(), f"not JSON (no comma before it); {_REST}"
                return
        if array and (at == len(text) or text[at + 1 :].strip(f"{_BLANK}\r")):
            yield line(), f"not JSON (the array is not closed, or more follows it); {_REST}"

    def _csv(self, data: bytes, encoding: charset.Charset) -> Records:
        with encoding.open(data) as text:
            given, before, head = "", 0, list[str]()
            for line in text:
                if not given and (match := _SEP.match(line)):
                    given = "\t" if match[1] == "\\t" else match[1]
                    self.notes.append(f"the line {line.strip()} is left out")
                elif line.strip(_BLANK + DELIMITERS + '"'):
                    head = [line.lstrip("\ufeff")]
                    break
                before += 1
            while "".join(head).count('"') % 2 and len(head) < MAX_HEADER_LINES and (line := next(text, "")):
                head.append(line)
            usual = "\t" if self._suffix == ".tsv" else ","
            delimiter = self._delimiter("".join(head), given, usual)
            if head and delimiter != usual:
                self.notes.append(f"cells separated by {delimiter!r}")
            spaced = f'{delimiter} "' in "".join(head)
            reader = csv.reader(chain(head, text), delimiter=delimiter, strict=True, skipinitialspace=spaced)
            yield from self._csv_rows(reader, before)

    def _delimiter(self, head: str, given: str, usual: str) -> str:
        """The delimiter under which the header has all columns: the given one, else the one with fewest; else the likeliest."""
        wanted = self._wanted()
        known = wanted or _KNOWN

        def rank(delimiter: str) -> tuple[bool, bool, int, int]:
            cells: list[str] = []
            with suppress(csv.Error):
                cells = next(csv.reader(io.StringIO(head), delimiter=delimiter, skipinitialspace=True), [])
            names = [folded(cell) for cell in cells]
            fits = wanted <= {*names} if wanted else not missing_columns(names)
            return fits, delimiter == given, -len(names) if fits else len(known & {*names}), len(names)

        return max(filter(None, [given, usual, *DELIMITERS]), key=rank)

    def _csv_rows(self, reader: Any, before: int) -> Records:
        names: list[str] = []
        start, empty, delimiter = before + 1, 0, reader.dialect.delimiter
        try:
            for cells in reader:
                line, start = start, before + reader.line_num + 1
                if not names:
                    names = self._keys(cells)
                    if problem := self._header_problem(cells, delimiter):
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
            self.notes.append(f"{empty} empty row{'' if empty == 1 else 's'} left out")

    def _parquet(self, file: IO[bytes]) -> Records:
        parquet, row = pyarrow_parquet(self.path), 1
        try:
            table = parquet.ParquetFile(file)
            names, wanted = table.schema_arrow.names, self._wanted()
            self._keys(names)
            chosen = [name for name in names if folded(name) in wanted]
            if problem := self._header_problem(chosen or names):
                yield row, problem
                return
            for batch in table.iter_batches(PARQUET_ROWS, columns=chosen or None):
                batch.validate(full=True)
                for record in batch.to_pylist():
                    yield row, self._record(record)
                    row += 1
        except Exception as error:  # each of Arrow's parts raises its own
            yield row, f"not Parquet that can be read ({' '.join(str(error).split()):.120}); {_REST}"


@lru_cache(1024)
def folded(name: str) -> str:
    """A column's name as it is matched: whatever its case, Unicode form and blanks."""
    return _bare(name).casefold()


def _bare(name: str) -> str:
    return " ".join(unicodedata.normalize("NFC", name).replace("\ufeff", " ").split())


def _column(name: str) -> str:
    """The key of a column where ours are read: a known one as we write it, another as it stands."""
    return folded(name) if folded(name) in _KNOWN else _bare(name)


def missing_columns(names: Iterable[str]) -> list[str]:
    """The required columns that `names` lacks: the published layout's where it has a prompt and no message, else ours."""
    have = set(names)
    layout = PUBLISHED if "prompt" in have and "message" not in have else OURS
    return [name for name in layout if name not in have]


def repeated_column(names: Sequence[str]) -> str:
    """A name that occurs twice, as columns are matched and in any case; empty for none."""
    columns = [folded(name) for name in names]
    twice = [
        name for name, column in zip(names, columns, strict=True) if column and columns.count(column) > 1
    ]
    return twice[-1] if twice else ""


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


_DECODER = json.JSONDecoder(object_pairs_hook=no_duplicates)


def _gap(text: str, at: int, sign: str) -> tuple[bool, int]:
    """Whether blanks with one `sign` among them begin at a position, and where they end."""
    at = _BLANKS.match(text, at).end()  # type: ignore[union-attr]
    found = text.startswith(sign, at)
    return found, _BLANKS.match(text, at + found).end()  # type: ignore[union-attr]


def _not_json(error: Exception) -> str:
    return f"not JSON ({'nested too deep' if isinstance(error, RecursionError) else getattr(error, 'msg', error)})"


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


def pyarrow_parquet(path: Path) -> Any:
    """pyarrow.parquet; UserError with the command that installs it, where it is missing."""
    try:
        from pyarrow import parquet
    except ImportError:
        raise UserError(f"{path} needs the package pyarrow", "pip install pyarrow") from None
    return parquet
