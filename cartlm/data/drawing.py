"""Training and validation rows drawn from rows that somebody else made: a published dataset, or the user's file."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cartlm.data import gates
from cartlm.data.near_duplicates import Index
from cartlm.data.rows import Row
from cartlm.errors import UserError
from cartlm.params import Data


@dataclass(frozen=True)
class Drawn:
    """The rows of each split, and how many were refused because another split has a near-duplicate of them."""

    splits: dict[str, list[Row]]
    leaked: int


def splits(rows: list[Row], test: Sequence[Row], params: Data, name: str) -> Drawn:
    """All splits, drawn with `data.seed`; without `test`, test is validation (the paper's own protocol).

    A test that somebody else made stays whole, so that it can be compared: rows with a near-duplicate in it are refused.
    A row with a near-duplicate anywhere is never drawn for validation. `name` is the source's, for the UserError where
    there are too few rows.
    """
    test = list(test)[: params.test]
    rows, given = without_leaks(rows, test, params.gates.near_duplicate), len(rows)
    leaked, wanted = given - len(rows), params.train + params.validation
    if len(rows) < wanted:
        refused = f" ({leaked} more have a near-duplicate in the test)" if leaked else ""
        raise UserError(
            f"{name} has {len(rows)} usable rows{refused}, fewer than data.train + data.validation = {wanted}",
            f"set data.train to {max(1, len(rows) - params.validation)} in params.yaml",
        )
    random.Random(f"{params.seed}/hub").shuffle(rows)
    chosen = apart(rows, params.validation, params.gates.near_duplicate)
    validation = [rows[index] for index in chosen]
    train = [row for index, row in enumerate(rows) if index not in set(chosen)][: params.train]
    made = {
        "train": train,
        "validation": validation,
        "test": test or list(validation),
        "calibration": balanced_subset(
            train, params.calibration, random.Random(f"{params.seed}/calibration")
        ),
    }
    return Drawn(made, leaked)


def without_leaks(rows: list[Row], test: Sequence[Row], threshold: float) -> list[Row]:
    """The rows that have no near-duplicate in `test`."""
    if not test:
        return rows
    best, _ = gates.nearest(rows, test, threshold)
    return [row for row, score in zip(rows, best, strict=True) if score < threshold]


def apart(rows: Sequence[Row], count: int, threshold: float) -> list[int]:
    """Numbers of the first `count` rows that have no near-duplicate among the others. Raises UserError."""
    texts = [gates.comparable(row) for row in rows]
    best, _ = Index(texts, threshold).best(texts, range(len(texts)))
    chosen: list[int] = np.flatnonzero(best < threshold).tolist()
    if len(chosen) >= count:
        return chosen[:count]
    raise UserError(
        f"only {len(chosen)} rows have no near-duplicate, fewer than data.validation={count}",
        "lower data.validation or raise data.gates.near_duplicate in params.yaml",
    )


def balanced_subset(rows: Sequence[Row], count: int, rng: random.Random) -> list[Row]:
    """`count` rows, languages in turn, for calibration. Raises UserError if there are not so many."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.language, []).append(row)
    if count > len(rows):
        raise UserError(
            f"data.calibration={count} is more than the {len(rows)} training rows", "edit params.yaml"
        )
    for group in groups.values():
        rng.shuffle(group)
    chosen: list[Row] = []
    while len(chosen) < count:
        for language in sorted(groups):
            if groups[language] and len(chosen) < count:
                chosen.append(groups[language].pop())
    return chosen
