"""Rows of several files or splits side by side: the same message over the same catalog may stand there but once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cartlm.data.labels import plain
from cartlm.data.roles import TEST, TRAIN, VALIDATION
from cartlm.task.rows import Row

Key = tuple[str, ...]


@dataclass(frozen=True)
class Pair:
    """Two rows of the same catalog and message, the later one first; `alike`: with the same label and language."""

    row: Row
    other: Row
    role: str
    other_role: str

    @property
    def alike(self) -> bool:
        return same_label(self.row, self.other)


def key(row: Row) -> Key:
    """What two rows must share to ask the same: catalog and message in NFC, whatever their blanks."""
    return (*map(plain, row.catalog), plain(row.message))


def same_label(row: Row, other: Row) -> bool:
    """Whether two rows of the same key have the same label and language."""
    return label(row) == label(other)


def label(row: Row) -> tuple[str, str, int, str]:
    """What a row teaches: action, product (compared as `key` does), quantity, language."""
    return row.intent.action, plain(row.intent.product), row.intent.quantity, row.language


def pairs(parts: Mapping[str, Sequence[Row]]) -> list[Pair]:
    """Each row of a role's rows that asks what an earlier one asks; the test is the earliest, training the last."""
    first: dict[Key, tuple[str, Row]] = {}
    found = []
    for role in (TEST, VALIDATION, TRAIN):
        for row in parts.get(role, ()):
            other_role, other = first.setdefault(key(row), (role, row))
            if other is not row:
                found.append(Pair(row, other, role, other_role))
    return found


def contradicting(found: Iterable[Pair]) -> set[str]:
    """Ids of the rows that no one can learn or be tested by: both of a role's, of two roles' only the later one."""
    wrong = [pair for pair in found if not pair.alike]
    return {pair.row.id for pair in wrong} | {pair.other.id for pair in wrong if pair.role == pair.other_role}
