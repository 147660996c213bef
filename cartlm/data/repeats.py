"""Rows that ask the same, the same message over the same catalog, within one role or across roles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cartlm.data.records import plain
from cartlm.data.roles import TEST, TRAIN, VALIDATION
from cartlm.task.rows import Row


@dataclass(frozen=True)
class Repeat:
    """A row and an earlier one of the same catalog and message."""

    row: Row
    first: Row
    role: str
    first_role: str

    @property
    def same_label(self) -> bool:
        return _label(self.row) == _label(self.first)


def key(row: Row) -> tuple[str, ...]:
    """Catalog and message in NFC, with blanks normalised."""
    return (*map(plain, row.catalog), plain(row.message))


def _label(row: Row) -> tuple[str, str, int, str]:
    return row.intent.action, plain(row.intent.product), row.intent.quantity, row.language


def repeats(parts: Mapping[str, Sequence[Row]]) -> list[Repeat]:
    """Every row that repeats an earlier one; test rows come first, then validation, then training."""
    first: dict[tuple[str, ...], tuple[str, Row]] = {}
    found = []
    for role in (TEST, VALIDATION, TRAIN):
        for row in parts.get(role, ()):
            first_role, other = first.setdefault(key(row), (role, row))
            if other is not row:
                found.append(Repeat(row, other, role, first_role))
    return found


def contradicting_ids(found: Sequence[Repeat]) -> set[str]:
    """Ids of rows with contradicting labels: both rows of one role, but only the later one of two roles."""
    wrong = [repeat for repeat in found if not repeat.same_label]
    return {repeat.row.id for repeat in wrong} | {
        repeat.first.id for repeat in wrong if repeat.role == repeat.first_role
    }
