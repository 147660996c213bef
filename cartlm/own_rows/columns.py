"""Which of a file's columns is which of ours, and which of its words is which action."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cartlm.errors import UserError
from cartlm.own_rows.tables import Found, same
from cartlm.task.intent import ACTIONS
from cartlm.text import few

LABEL = ("action", "product", "quantity")
OURS = ("message", "catalog", *LABEL, "language", "prompt", "completion")
"""What is read of a row. A prompt holds catalog and message; a completion holds the label as JSON."""


@dataclass(frozen=True)
class Mapped:
    """What a user says of a file's columns.

    `columns`: ours -> theirs, where the names differ. `actions`: (ours, theirs), where the words do; one action may have
    several words. `slices`: columns by whose values accuracy is told apart.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    actions: Sequence[tuple[str, str]] = ()
    slices: Sequence[str] = ()

    @property
    def wanted(self) -> list[str]:
        """All names that the file may have for what is asked."""
        return [*OURS, *self.columns.values(), *self.slices]

    def action(self, value: Any) -> str:
        """The action that a cell means, whatever its case. Raises ValueError."""
        words = {same(theirs): ours for ours, theirs in [*zip(ACTIONS, ACTIONS, strict=True), *self.actions]}
        if (found := words.get(same(str(value)))) is None:
            raise ValueError(f"the action is {value!r:.60}, not one of: {', '.join(words)}")
        return found


def parse(columns: Iterable[str], actions: Iterable[str], slices: Iterable[str]) -> Mapped:
    """The mapping in the options --columns, --actions and --slice.

    Each value is one or more OURS=THEIRS with commas between them; CSV's quotes allow a comma in a name. Raises UserError.
    """
    named: dict[str, str] = {}
    for ours, theirs in _pairs(columns, "--columns", OURS):
        if named.setdefault(ours, theirs) != theirs:
            raise UserError(
                f"--columns gives {ours} twice: {named[ours]!r} and {theirs!r}", "name one column"
            )
    return Mapped(named, _pairs(actions, "--actions", ACTIONS), tuple(dict.fromkeys(slices)))


def _pairs(texts: Iterable[str], option: str, known: Sequence[str]) -> list[tuple[str, str]]:
    found = []
    for part in [cell for cells in csv.reader(texts, skipinitialspace=True) for cell in cells]:
        ours, sign, theirs = (each.strip() for each in part.partition("="))
        if not sign or ours not in known or not theirs:
            raise UserError(f"{option} {part!r} is not NAME=YOURS, with a NAME of {', '.join(known)}",
                            f"{option} {known[0]}=...,{known[1]}=...")  # fmt: skip
        found.append((ours, theirs))
    return found


def resolve(found: Found, mapped: Mapped, path: Path, has_catalog: bool) -> dict[str, str]:
    """Ours, and "slice NAME" of each slice -> the file's column. Names match whatever their case and blanks.

    Raises UserError naming the columns there are, where one that is named or necessary is missing. `has_catalog`: rows
    need none of their own.
    """
    there = {same(name): name for name in found.columns}
    given = {**mapped.columns, **{f"slice {name}": name for name in mapped.slices}}
    listed = f"its columns: {few(found.columns, 40)}"
    if unknown := [name for name in given.values() if same(name) not in there]:
        raise UserError(
            f"{path} has no column {', '.join(map(repr, unknown))}; {listed}", "name one of these"
        )
    fields = {ours: there[same(theirs)] for ours, theirs in given.items()}
    taken = {column for ours, column in fields.items() if ours in OURS}
    for ours in OURS:
        if ours not in fields and ours in there and there[ours] not in taken:
            fields[ours] = there[ours]
    if missing := _missing(fields, has_catalog):
        example = ",".join(f"{name}=..." for name in missing)
        raise UserError(f"{path} has no column for {', '.join(missing)}; {listed}", f"--columns {example}")
    return fields


def _missing(fields: Mapping[str, str], has_catalog: bool) -> list[str]:
    missing = [] if {"message", "prompt"} & fields.keys() else ["message"]
    if not has_catalog and not {"catalog", "prompt"} & fields.keys():
        missing.append("catalog")
    return missing + ([] if "completion" in fields else [name for name in LABEL if name not in fields])
