"""Which of a file's columns is which of ours: the option --columns, and what is told where one is missing."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence

from cartlm.data.tables import Source, folded
from cartlm.errors import UserError
from cartlm.text import few


def parse_columns(texts: Iterable[str], known: Sequence[str]) -> dict[str, str]:
    """The values of --columns as a mapping from our names, the `known` ones, to the file's. Raises UserError."""
    named: dict[str, str] = {}
    for ours, theirs in parse_pairs(texts, "--columns", known):
        if named.setdefault(ours, theirs) != theirs:
            what = f"--columns gives {ours} twice: {named[ours]!r} and {theirs!r}"
            raise UserError(what, "name one column")
    return named


def parse_pairs(texts: Iterable[str], option: str, known: Sequence[str]) -> list[tuple[str, str]]:
    """The (ours, theirs) of an option's values, each one or more OURS=THEIRS with commas between them.

    CSV's quotes allow a comma in a name. Raises UserError for another form, and for an OURS that is not `known`.
    """
    found = []
    for part in [cell for cells in csv.reader(texts, skipinitialspace=True) for cell in cells if cell]:
        ours, sign, theirs = (each.strip() for each in part.partition("="))
        if not sign or ours not in known or not theirs:
            what = f"{option} {part!r} is not NAME=YOURS, with a NAME of {', '.join(known)}"
            raise UserError(what, f"{option} {known[0]}=...,{known[1]}=...")
        found.append((ours, theirs))
    return found


def match_columns(source: Source, given: Mapping[str, str], known: Sequence[str]) -> dict[str, str]:
    """Ours -> the file's column, of what is `given` and of those `known` that the file has under our name.

    A column that is given as one of the `known` is no other. `source` has been surveyed. Raises UserError for a given
    column that is not there.
    """
    there = source.columns
    if unknown := [theirs for theirs in given.values() if folded(theirs) not in there]:
        raise _no_column(source, unknown, "name one of these")
    columns = {ours: there[folded(theirs)] for ours, theirs in given.items()}
    taken = {theirs for ours, theirs in columns.items() if ours in known}
    for ours in known:
        if ours not in columns and ours in there and there[ours] not in taken:
            columns[ours] = there[ours]
    return columns


def lacks(source: Source, missing: Sequence[str]) -> UserError:
    """The error of a file without these of ours."""
    ways = "add --columns " + ",".join(f"{name}=NAME" for name in missing)
    return _no_column(source, missing, f"{ways} or --catalog FILE" if "catalog" in missing else ways)


def _no_column(source: Source, names: Iterable[str], way: str) -> UserError:
    there = few([*source.columns.values()], 40)
    return UserError(f"{source.path} has no column {', '.join(map(repr, names))}; it has: {there}", way)
