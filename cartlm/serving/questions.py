"""What is asked in each row of a file: its columns under the user's names, and what is wrong with a row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cartlm.data.tables import Records, Source, folded
from cartlm.errors import UserError
from cartlm.serving.catalogs import cell_lines
from cartlm.serving.columns import lacks, match_columns

COLUMNS = ("message", "catalog", "id")


@dataclass(frozen=True)
class Question:
    """A row: its line, the user's id or else its number, and what is asked, or the `problem` with it."""

    line: int
    id: int | str
    catalog: Sequence[str] = ()
    message: str = ""
    problem: str = ""


def open_input(path: Path, given: Mapping[str, str], shared: bool) -> tuple[Source, dict[str, str], int]:
    """A file, the columns of it that are asked (ours -> the file's), and how many rows it has; reads it once.

    By default columns have our names. `shared`: one catalog for all rows, so none is read from the file. Raises UserError
    naming a column that is missing and those that are there, and for a file that cannot be read to its end.
    """
    source = Source(path, [given.get(name, name) for name in _asked(given, shared)])
    rows, cut = source.survey()
    if cut:
        raise UserError(cut, "fix the file")
    return source, find_columns(source, given, shared), rows


def _asked(given: Mapping[str, str], shared: bool) -> list[str]:
    if shared and "catalog" in given:
        raise UserError("the catalog is given twice, as --catalog and as a column", "leave one out")
    return [name for name in COLUMNS if name != "catalog" or not shared]


def find_columns(source: Source, given: Mapping[str, str], shared: bool) -> dict[str, str]:
    """The columns of a source whose own are known, as `open_input`. Raises UserError for a missing one."""
    asked = _asked(given, shared)
    columns = match_columns(source, given, asked)
    if missing := [name for name in asked if name not in columns and name != "id"]:
        raise lacks(source, missing[:1])
    return columns


def questions(
    records: Records, columns: Mapping[str, str], catalog: Sequence[str] | None, first: int = 1
) -> Iterator[Question]:
    """The rows of an input by its `columns`; without one for it all have `catalog`, and their number from `first` as id."""
    message = folded(columns["message"])
    menu, name = (folded(columns[ours]) if ours in columns else None for ours in ("catalog", "id"))
    for number, (line, record) in enumerate(records, first):
        if isinstance(record, str):
            yield Question(line, number, problem=record)
            continue
        id: int | str = number
        try:
            if name is not None:
                id = _id(_present(record.get(name), columns["id"]), columns["id"])
            text = _present(record.get(message), columns["message"])
            if not isinstance(text, str):
                raise ValueError(f"{columns['message']} is {text!r:.60}, not text")
            lines = catalog if menu is None else cell_lines(_present(record.get(menu), columns["catalog"]))
            yield Question(line, id, lines or (), text)
        except ValueError as error:
            yield Question(line, id, problem=str(error))


def _present(value: Any, column: str) -> Any:
    if value is None or value == "":
        raise ValueError(f"nothing in {column}")
    return value


def _id(value: Any, column: str) -> int | str:
    if isinstance(value, float) and value.is_integer():  # numbers with gaps become floats in many tools
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"{column} is {value!r:.60}, not a number or text")
    return value
