"""Repeats, rows that ask the same over the same catalog, and near-duplicates.

Near-duplicates are rows whose message and product are alike by edit ratio (rapidfuzz), all pairs compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from rapidfuzz import fuzz, process

from cartlm.data.records import plain
from cartlm.data.roles import TEST, TRAIN, VALIDATION
from cartlm.task.intent import Intent
from cartlm.task.rows import Row

BLOCK = 500  # rows compared at a time with all others: bounds the memory


def comparable(row: Row) -> str:
    """The text by which rows are compared: the message together with the product it names."""
    return plain(f"{row.message.lower()} | {row.intent.product.lower()}")


def nearest(rows: Sequence[Row], others: Sequence[Row], threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """For each row the similarity of the nearest of `others` (0 to 1; 0 below `threshold`), and its index."""
    return nearest_texts([comparable(row) for row in rows], [comparable(row) for row in others], threshold)


def unlike_others(rows: Sequence[Row], threshold: float) -> list[int]:
    """Indices of the rows that have no near-duplicate among the others."""
    texts = [comparable(row) for row in rows]
    scores, _ = nearest_texts(texts, texts, threshold, skip_self=True)
    return np.flatnonzero(scores < threshold).tolist()


def nearest_texts(
    texts: Sequence[str], others: Sequence[str], threshold: float, skip_self: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """As `nearest`; `skip_self` is for texts compared with themselves."""
    best, where = np.zeros(len(texts)), np.zeros(len(texts), dtype=int)
    for start in range(0, len(texts) if others else 0, BLOCK):
        block = texts[start : start + BLOCK]
        scores = process.cdist(
            block, others, scorer=fuzz.ratio, score_cutoff=100 * threshold, dtype=np.float64, workers=-1
        )
        if skip_self:
            np.fill_diagonal(scores[:, start:], 0)
        best[start : start + BLOCK] = scores.max(axis=1) / 100
        where[start : start + BLOCK] = scores.argmax(axis=1)
    return best, where


@dataclass(frozen=True)
class Repeat:
    """A row and an earlier one of the same catalog and message."""

    row: Row
    first: Row
    role: str
    first_role: str

    @property
    def same_label(self) -> bool:
        def label(row: Row) -> tuple[str, Intent]:
            return row.language, replace(row.intent, product=plain(row.intent.product))

        return label(self.row) == label(self.first)


def key(row: Row) -> tuple[str, ...]:
    """Catalog and message in NFC, with blanks normalised."""
    return (*map(plain, row.catalog), plain(row.message))


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
