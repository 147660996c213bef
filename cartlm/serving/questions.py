"""What is asked in each row of a file: its columns under the user's names, and what is wrong with a row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cartlm.errors import UserError
from cartlm.serving.catalogs import cell_lines
from cartlm.serving.tables import Source, folded
from cartlm.text import few

COLUMNS = ("message", "catalog", "id")


@dataclass(frozen=True)
class Question:
    """A row: its line, the user's id or else its number, and what is asked, or the `problem` with it."""

    line: int
    id: int | str
    catalog: Sequence[str] = ()
    message: str = ""
    problem: str = ""


def parse_columns(text: str, known: Sequence[str] = COLUMNS) -> dict[str, str]:
    """`message=text,catalog=menu` as a mapping from our names, the `known` ones, to the file's. Raises UserError."""
    found: dict[str, str] = {}
    for part in filter(None, text.split(",")):
        ours, equals, theirs = (each.strip() for each in part.partition("="))
        if ours in found:
            raise UserError(f"--columns names {ours} twice", "leave one out")
        if ours not in known or not equals or not theirs:
            ways = ", ".join(f"{name}=NAME" for name in known)
            raise UserError(f"--columns {part.strip()!r} is not one of {ways}", f"--columns {known[0]}=NAME")
        found[ours] = theirs
    return found


def choose_columns(source: Source, given: Mapping[str, str], shared: bool) -> tuple[dict[str, str], int]:
    """Our names to the file's, by default the same ones, and how many rows there are; reads the file once.

    `shared`: one catalog for all rows, so none is read from the file. Raises UserError naming a column that is missing
    and those that are there, and for a file that cannot be read.
    """
    if shared and "catalog" in given:
        raise UserError("the catalog is given twice, as --catalog and as a column", "leave one out")
    columns = {"message": "message", **({} if shared else {"catalog": "catalog"}), **given}
    rows, names = source.survey()
    have = {folded(name) for name in names}
    for ours, theirs in columns.items():
        if folded(theirs) not in have:
            ways = f"--columns {ours}=NAME{' or --catalog FILE' if ours == 'catalog' else ''}"
            raise UserError(
                f"{source.path} has no column {theirs!r}; it has: {few(names, 20)}", f"add {ways}"
            )
    if "id" in have:
        columns.setdefault("id", "id")
    return columns, rows


def questions(
    source: Source, columns: Mapping[str, str], catalog: Sequence[str] | None
) -> Iterator[Question]:
    """The rows of `source` by `choose_columns`; without a column for it all have `catalog`, and their number from 1 as id."""
    message = folded(columns["message"])
    menu, name = (folded(columns[ours]) if ours in columns else None for ours in ("catalog", "id"))
    for number, (line, record) in enumerate(source.records(), 1):
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
