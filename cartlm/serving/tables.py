"""Messages of a file: JSON Lines or an array, CSV of any delimiter, Parquet, with columns under any names.

Text is read as cartlm.data.tables reads rows, whose columns have names of their own. A text file is held in memory as
bytes, Parquet in parts; records are parsed as they are asked for.
"""

from __future__ import annotations

import csv
import unicodedata
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

from cartlm.data import charset, tables
from cartlm.data.tables import SUFFIXES
from cartlm.errors import UserError
from cartlm.files import sha256

CUT_SHORT = tables._REST  # how a problem ends after which nothing can be read


@lru_cache(1024)
def folded(name: str) -> str:
    """A column's name as it is matched: whatever its case, Unicode form and blanks."""
    return " ".join(unicodedata.normalize("NFC", name).replace("\ufeff", " ").split()).casefold()


@dataclass
class Source:
    """A file of records, each with its line (from 1 as in an editor, in Parquet the row); `open_source` makes it.

    `wanted` are the columns by which the delimiter of CSV is told. `notes` name what was detected, such as the encoding.
    """

    path: Path
    wanted: Sequence[str]
    encoding: charset.Charset | None = None  # None for Parquet
    data: bytes = b""
    notes: list[str] = field(default_factory=list)

    @property
    def suffix(self) -> str:
        return self.path.suffix.lower()

    def sha256(self) -> str:
        """The hash of the file's bytes, in hex."""
        return sha256(self.path)

    def records(self) -> tables.Records:
        """(line, record) of each row, its columns by `folded` names, or (line, problem)."""
        for line, record in self._raw():
            if isinstance(record, str):
                yield line, record
            else:
                yield line, {folded(name): value for name, value in record.items()}

    def _raw(self) -> tables.Records:
        if self.encoding is None:
            return _parquet(self.path, self.wanted)
        if self.path.suffix.lower() in (".csv", ".tsv"):
            return _csv(self.path, self.encoding, self.data, self.wanted)
        return tables._json(self.data, self.encoding)

    def survey(self) -> tuple[int, list[str]]:
        """How many rows there are, and all names of columns as the file has them.

        Raises UserError for a file without a sound row, and for one that cannot be read to its end.
        """
        rows, sound, first = 0, 0, ""
        names = dict.fromkeys(_schema_names(self.path) if self.encoding is None else ())
        for line, record in self._raw():
            rows += 1
            if isinstance(record, str):
                first = first or f"{self.path}:{line}: {record}"
                if record.endswith(CUT_SHORT):
                    raise UserError(f"{self.path}:{line}: {record}", "mend the file")
            else:
                sound += 1
                names |= dict.fromkeys(record)
        if not sound:
            raise UserError(first or f"{self.path} holds no rows", f"name a file: {', '.join(SUFFIXES)}")
        return rows, list(names)


def open_source(path: Path, wanted: Sequence[str]) -> Source:
    """The records of a file. Raises UserError for one that cannot be opened, or whose encoding is unclear."""
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(
            f"{path} is neither {' nor '.join(SUFFIXES)}", "name a file with one of these suffixes"
        )
    try:
        with path.open("rb") as file:
            if path.suffix.lower() == ".parquet":
                return Source(path, wanted)
            data = file.read()
        if kind := next((kind for magic, kind in tables.BINARY.items() if data.startswith(magic)), ""):
            raise ValueError(f"not text but {kind}")
        encoding = _encoding(data, path)
    except (OSError, ValueError) as error:
        what = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: {what}", f"name a file to read: {', '.join(SUFFIXES)}") from None
    notes = [f"{path}: read as {encoding.name}"] if encoding.name else []
    return Source(path, wanted, encoding, data, notes)


def _encoding(data: bytes, path: Path) -> charset.Charset:
    """Raises ValueError for CSV of unclear encoding. JSON is UTF-8, so other bytes are only their row's fault."""
    try:
        return charset.detect(data, path)
    except ValueError:
        if path.suffix.lower() in (".csv", ".tsv"):
            raise
        return charset.Charset("utf-8", "surrogateescape")


def _csv(path: Path, encoding: charset.Charset, data: bytes, wanted: Sequence[str]) -> tables.Records:
    limit = csv.field_size_limit(tables.MAX_CELL_CHARS)
    try:
        with encoding.open(data) as text:
            before, given, head = 0, "", ""
            for line in text:
                if not given and (match := tables._SEP.match(line)):
                    given = "\t" if match[1] == "\\t" else match[1]
                elif line.strip(tables._BLANK + tables.DELIMITERS + '"'):
                    head = line.lstrip("\ufeff")
                    break
                before += 1
            delimiter = _delimiter(head, given, "\t" if path.suffix.lower() == ".tsv" else ",", wanted)
            spaced = f'{delimiter} "' in head
            lines = chain([head] if head else [], text)
            reader = csv.reader(lines, delimiter=delimiter, strict=True, skipinitialspace=spaced)
            yield from _csv_rows(reader, before, path)
    finally:
        csv.field_size_limit(limit)


def _delimiter(head: str, given: str, usual: str, wanted: Sequence[str]) -> str:
    """The delimiter under which the header has all `wanted` columns, else the one with most cells."""

    def rank(delimiter: str) -> tuple[bool, bool, int]:
        cells: list[str] = []
        with suppress(csv.Error):
            cells = next(csv.reader([head], delimiter=delimiter, skipinitialspace=True), [])
        names = {folded(cell) for cell in cells}
        return all(folded(name) in names for name in wanted), delimiter == given, len(cells)

    return max(filter(None, [given, usual, *tables.DELIMITERS]), key=rank)


def _csv_rows(reader: Any, before: int, path: Path) -> tables.Records:
    names: list[str] = []
    start, delimiter = before + 1, reader.dialect.delimiter
    try:
        for cells in reader:
            line, start = start, before + reader.line_num + 1
            if not names:
                names = [" ".join(cell.split()) for cell in cells]
                if twice := tables.repeated_column(names):
                    raise UserError(f"{path}:{line}: the column {twice!r:.60} occurs twice", "rename one")
            elif not any(cell.strip() for cell in cells):
                continue
            elif problem := tables._row_problem(names, cells, delimiter):
                yield line, problem
            else:
                yield line, {name: cell for name, cell in zip(names, cells, strict=True) if name}
    except csv.Error as error:
        why = "a quote is not closed" if "unexpected end" in str(error) else str(error)
        yield start, f"not CSV ({why}); {CUT_SHORT}"


def _schema_names(path: Path) -> list[str]:
    """The columns of a Parquet file; none of a broken one, which reading its rows explains."""
    parquet = pyarrow_parquet(path)
    with suppress(Exception):  # each of Arrow's parts raises its own
        return list(parquet.read_schema(path).names)
    return []


def _parquet(path: Path, wanted: Sequence[str]) -> tables.Records:
    """The `wanted` columns of each row, or all where none of these is there."""
    parquet = pyarrow_parquet(path)
    keys, row = {folded(name) for name in wanted}, 1
    try:
        with parquet.ParquetFile(path) as table:
            chosen = [name for name in table.schema_arrow.names if folded(name) in keys]
            if twice := tables.repeated_column(chosen):
                raise UserError(f"{path}: the column {twice!r:.60} occurs twice", "rename one")
            for batch in table.iter_batches(tables.PARQUET_ROWS, columns=chosen or None):
                batch.validate(full=True)
                for record in batch.to_pylist():
                    yield row, tables._record(record)
                    row += 1
    except UserError:
        raise
    except Exception as error:  # as above
        yield row, f"not Parquet that can be read ({' '.join(str(error).split()):.120}); {CUT_SHORT}"


def pyarrow_parquet(path: Path) -> Any:
    """pyarrow.parquet; UserError with the command that installs it, where it is missing."""
    try:
        from pyarrow import parquet
    except ImportError:
        raise UserError(f"{path} needs the package pyarrow", "pip install pyarrow") from None
    return parquet
