"""Which of a file's columns is which of ours, and which of its words is which action."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cartlm.data.tables import Source, folded
from cartlm.errors import UserError
from cartlm.serving.columns import lacks, match_columns, parse_columns, parse_pairs
from cartlm.task.intent import ACTIONS, NONE

LABEL = ("action", "product", "quantity")
OURS = ("message", "catalog", *LABEL, "language", "prompt", "completion")
"""What is read of a row. A prompt holds catalog and message; a completion holds the label as JSON."""


@dataclass(frozen=True)
class Mapped:
    """What a user says of a file's columns.

    `columns`: ours -> theirs, where the names differ. `actions`: (ours, theirs), where the words do; one action may have
    several words. `slices`: columns by whose values accuracy is reported. `known`: our actions, with `none` where models
    answer so.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    actions: Sequence[tuple[str, str]] = ()
    slices: Sequence[str] = ()
    known: Sequence[str] = ACTIONS

    @property
    def wanted(self) -> list[str]:
        """All names that the file may have for what is asked."""
        return [*OURS, *self.columns.values(), *self.slices]

    def action(self, value: Any) -> str:
        """The action that a cell means, whatever its case. Raises ValueError."""
        words = {**{each: each for each in self.known}, **{folded(word): ours for ours, word in self.actions}}
        if (found := words.get(folded(str(value)))) is None:
            what = f"the action is {value!r:.60}, not one of: {', '.join(words)}"
            raise ValueError(f"{what}; --actions add=...,remove=... maps your words")
        return found


def parse(
    columns: Iterable[str], actions: Iterable[str], slices: Iterable[str], none: bool = False
) -> Mapped:
    """The mapping in the options --columns, --actions and --slice; `none`: rows may be no orders. Raises UserError."""
    known = (*ACTIONS, NONE) if none else ACTIONS
    named, words = parse_columns(columns, OURS), {str(action): str(action) for action in known}
    pairs = parse_pairs(actions, "--actions", known)
    for ours, theirs in pairs:
        if words.setdefault(folded(theirs), ours) != ours:
            what = f"--actions gives {theirs!r} two meanings: {words[folded(theirs)]} and {ours}"
            raise UserError(what, "give each word one action")
    return Mapped(named, pairs, tuple(dict.fromkeys(slices)), known)


def resolve(source: Source, mapped: Mapped, has_catalog: bool) -> dict[str, str]:
    """Ours, and "slice NAME" of each slice -> the file's column. Names match whatever their case and blanks.

    Raises UserError naming the columns there are, where one that is named or necessary is missing. `has_catalog`: rows
    need none of their own.
    """
    given = {**mapped.columns, **{f"slice {name}": name for name in mapped.slices}}
    fields = match_columns(source, given, OURS)
    if missing := _missing(fields, has_catalog):
        raise lacks(source, missing)
    return fields


def _missing(fields: Mapping[str, str], has_catalog: bool) -> list[str]:
    missing = [] if {"message", "prompt"} & fields.keys() else ["message"]
    if not has_catalog and not {"catalog", "prompt"} & fields.keys():
        missing.append("catalog")
    return missing + ([] if "completion" in fields else [name for name in LABEL if name not in fields])
