"""Records of a file whose columns have any names: JSON as cartlm.data.tables reads it, CSV and Parquet with any header.

cartlm.data.tables refuses a header without our columns, because what is trained on has them. Lines, encodings and faults
are told as there.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cartlm.data import charset
from cartlm.data.records import plain
from cartlm.data.tables import (
    BINARY,
    DELIMITERS,
    PARQUET_ROWS,
    SUFFIXES,
    _row_problem,
    read_table,
    repeated_column,
)
from cartlm.errors import UserError

HINT = f"name a file of rows: {', '.join(SUFFIXES)}"
_SEP = re.compile(r'"?sep=(\\t|\t|[^"\w\s])', re.IGNORECASE)  # Excel's first line
_LEFT_OUT = "the rows after it are not read"

Record = dict[str, Any] | str


@dataclass(frozen=True)
class Found:
    """The file's columns in their order, (line, record) or (line, problem) of each row, and what was detected.

    Lines count from 1 as in an editor, in Parquet rows do. A record lacks what is null.
    """

    columns: list[str]
    records: list[tuple[int, Record]]
    notes: list[str]


def same(name: str) -> str:
    """A column's name as names are compared: whatever their case, Unicode form and blanks."""
    return plain(name.replace("\ufeff", " ")).casefold()


def read(path: Path, wanted: Iterable[str]) -> Found:
    """All rows of a file; the `wanted` columns tell by which delimiter a CSV is separated.

    Raises UserError for a file that cannot be read, another suffix, a repeated column, or no row at all.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UserError(f"{path} is neither {' nor '.join(SUFFIXES)}", HINT)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}", HINT) from None
    if suffix == ".parquet":
        columns, records, notes = *_parquet(data, path), list[str]()
    elif suffix in (".csv", ".tsv"):
        columns, records, notes = _csv(data, path, {same(name) for name in wanted})
    else:
        table = read_table(path)
        columns = [*dict.fromkeys(name for _, one in table.records if isinstance(one, dict) for name in one)]
        records, notes = table.records, table.notes
    if twice := repeated_column(columns):
        raise UserError(
            f"{path}: the column {twice!r:.60} occurs twice", "give each column a name of its own"
        )
    if not any(isinstance(record, dict) for _, record in records):
        line, problem = records[0] if records else (1, "the file holds no rows")
        raise UserError(f"{path}:{line}: {problem}", "" if records else HINT)
    return Found(columns, records, notes)


def _csv(data: bytes, path: Path, wanted: set[str]) -> tuple[list[str], list[tuple[int, Record]], list[str]]:
    if kind := next((kind for magic, kind in BINARY.items() if data.startswith(magic)), ""):
        raise UserError(f"{path} is not text but {kind}", HINT)
    try:
        encoding = charset.detect(data, path)
    except ValueError as error:
        raise UserError(f"{path}: {error}", HINT) from None
    with encoding.open(data) as file:
        lines = [line.removeprefix("\ufeff") for line in file]
    notes = [f"read as {encoding.name}"] if encoding.name else []
    before = next((at for at, line in enumerate(lines) if line.strip(" \t\n,;|")), len(lines))
    given = ""
    if before < len(lines) and (match := _SEP.match(lines[before])):
        given, before = "\t" if match[1] == "\\t" else match[1], before + 1
    usual = "\t" if path.suffix.lower() == ".tsv" else ","
    delimiter, columns = _header(lines[before:], given, usual, wanted)
    if delimiter != usual:
        notes.append(f"cells separated by {delimiter!r}")
    return columns, list(_csv_rows(lines[before:], before, delimiter)), notes


def _header(lines: Sequence[str], given: str, usual: str, wanted: set[str]) -> tuple[str, list[str]]:
    """The delimiter that gives the first record most of the wanted columns, else most cells; and its columns."""
    found: dict[str, list[str]] = {}
    for delimiter in filter(None, (given, usual, *DELIMITERS)):
        with suppress(csv.Error, StopIteration):
            found.setdefault(delimiter, next(csv.reader(lines, delimiter=delimiter, skipinitialspace=True)))

    def rank(delimiter: str) -> tuple[int, bool, int]:
        cells = found[delimiter]
        return len(wanted & {same(cell) for cell in cells}), delimiter == given, len(cells)

    best = max(found, key=rank, default=usual)
    return best, [name.strip() for name in found.get(best, ()) if name.strip()]


def _csv_rows(lines: Sequence[str], before: int, delimiter: str) -> Iterator[tuple[int, Record]]:
    spaced = bool(lines) and f'{delimiter} "' in lines[0]
    reader = csv.reader(lines, delimiter=delimiter, strict=True, skipinitialspace=spaced)
    names: list[str] | None = None
    line = end = before + 1
    try:
        for cells in reader:
            line, end = end, before + reader.line_num + 1
            if names is None:
                names = [cell.strip() for cell in cells]
            elif any(cell.strip() for cell in cells):
                problem = _row_problem(names, cells, delimiter)
                yield line, problem or {name: cell for name, cell in zip(names, cells, strict=True) if name}
    except csv.Error as error:
        yield end, f"not CSV ({error}); {_LEFT_OUT}"


def _parquet(data: bytes, path: Path) -> tuple[list[str], list[tuple[int, Record]]]:
    try:
        from pyarrow import parquet
    except ImportError:
        raise UserError(f"{path} needs the package pyarrow", "pip install pyarrow") from None
    columns: list[str] = []
    records: list[tuple[int, Record]] = []
    try:
        file = parquet.ParquetFile(io.BytesIO(data))
        columns = list(file.schema_arrow.names)
        for batch in file.iter_batches(PARQUET_ROWS):
            batch.validate(full=True)
            rows = (
                {name: item for name, item in row.items() if not _absent(item)} for row in batch.to_pylist()
            )
            records += enumerate(rows, len(records) + 1)
    except Exception as error:  # each of Arrow's parts raises its own
        what = f"not Parquet that can be read ({' '.join(str(error).split()):.120}); {_LEFT_OUT}"
        records.append((len(records) + 1, what))
    return columns, records


def _absent(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))
