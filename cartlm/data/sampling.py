"""The splits of rows that somebody else made: a published dataset, or the user's files."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from cartlm.data import gates, pooled, sizes
from cartlm.data.config import Data
from cartlm.data.near_duplicates import Index
from cartlm.data.roles import TEST, TRAIN, VALIDATION
from cartlm.errors import UserError
from cartlm.task.rows import Row


@dataclass(frozen=True)
class Drawn:
    """The rows of each split, and how many were refused because another split has a near-duplicate of them."""

    splits: dict[str, list[Row]]
    leaked: int


@dataclass(frozen=True)
class Pool:
    """Rows to draw from: shuffled ones for training, those given for validation and test, the numbers of `free` ones.

    `free` are the rows without a near-duplicate among the others, `leaked` how many rows the test (or the validation) cost,
    `notes` lines that name them.
    """

    rows: list[Row]
    validation: list[Row]
    test: list[Row]
    free: list[int]
    leaked: int
    given: frozenset[str]
    notes: list[str] = field(default_factory=list)

    @property
    def counts(self) -> sizes.Pool:
        """How many there are."""
        validation, test = (
            len(rows) if role in self.given else None
            for role, rows in ((VALIDATION, self.validation), (TEST, self.test))
        )
        return sizes.Pool(len(self.rows), len(self.free), validation, test)


def tell(line: str) -> None:
    """One line on stderr: what was made of the rows."""
    print(line, file=sys.stderr, flush=True)


def pool(parts: Mapping[str, Sequence[Row]], params: Data) -> Pool:
    """What can be drawn from, once no row is like one that is evaluated.

    A test that somebody else made stays whole, so that it can be compared: rows of training and validation with a
    near-duplicate in it are left out, those of training with one in the validation too.
    """
    threshold = params.gates.near_duplicate
    given = frozenset(role for role in (VALIDATION, TEST) if parts.get(role))
    test, notes = list(parts.get(TEST, ())), list[str]()
    validation = without_leaks(parts.get(VALIDATION, ()), test, threshold, VALIDATION, notes)
    rows = without_leaks(parts.get(TRAIN, ()), [*test, *validation], threshold, TRAIN, notes)
    leaked = sum(len(parts.get(role, ())) for role in (TRAIN, VALIDATION)) - len(rows) - len(validation)
    random.Random(f"{params.seed}/hub").shuffle(rows)
    free = [] if VALIDATION in given else apart(rows, threshold)
    return Pool(rows, validation, test, free, leaked, given, notes)


def splits(parts: Mapping[str, Sequence[Row]], params: Data, name: str) -> Drawn:
    """All splits, drawn with `data.seed` from the rows of each role; what is given for a role is never trained on.

    Without a test, test is validation (the paper's own protocol); without a validation, it is drawn from the rows that have
    no near-duplicate. Where more are given than `data.test` or `data.validation`, languages and actions are drawn in turn.
    `name` is the source's, for the UserError where there are too few rows.
    """
    made = pool(parts, params)
    for note in made.notes:
        tell(note)
    if short := shortage(made, params, name):
        raise short
    if VALIDATION in made.given:
        validation, train = sample(made.validation, params.validation, params, VALIDATION), made.rows
    else:
        chosen = made.free[: params.validation]
        validation = [made.rows[index] for index in chosen]
        train = [row for index, row in enumerate(made.rows) if index not in set(chosen)]
    train = train[: params.train]
    return Drawn(
        {
            "train": train,
            "validation": validation,
            "test": sample(made.test, params.test, params, TEST) or list(validation),
            "calibration": balanced_subset(
                train, params.calibration, random.Random(f"{params.seed}/calibration")
            ),
        },
        made.leaked,
    )


def shortage(made: Pool, params: Data, name: str) -> UserError | None:
    """The error of too few rows, with sizes that fit all at once; none where those of `params` fit."""
    counts = made.counts
    lost = (
        f" ({made.leaked} more have a near-duplicate in the {' or '.join(sorted(made.given))})"
        if made.leaked
        else ""
    )
    told = f"{name} has {counts.rows} usable rows{lost} for training"
    fits = sizes.fitting(params, counts)
    if fits is not None:
        why = sizes.missing(params, counts)
        return UserError(f"{told}, {why}", f"set {fits.words()} in params.yaml") if why else None
    if counts.validation == 0:
        return UserError(
            f"{name}: every row for validation has a near-duplicate in the test",
            "give other rows for validation",
        )
    if counts.rows == 0 and made.given:
        others = (
            "that are not like those of validation and test" if made.leaked else "such as a file train.jsonl"
        )
        return UserError(
            f"{told}, and {' and '.join(sorted(made.given))} alone train nothing",
            f"add rows for training {others}",
        )
    if counts.rows < 2:
        return UserError(f"{told}; one to train on and one to validate on is the least", "add rows")
    return UserError(
        f"{told}, each with a near-duplicate among the others: none can be held out for validation",
        "add rows that are unlike each other, or rows for validation such as a file validation.jsonl",
    )


def sample(rows: list[Row], count: int, params: Data, role: str) -> list[Row]:
    """All rows, or `count` of them with languages and actions in turn, in the order given; that is told."""
    if len(rows) <= count:
        return rows
    rng = random.Random(f"{params.seed}/{role}/sample")
    chosen = {
        row.id for row in balanced_subset(rows, count, rng, lambda row: f"{row.language} {row.intent.action}")
    }
    tell(
        f"{role}: {count:,} of {len(rows):,} given rows, languages and actions in turn (data.{role} in params.yaml)"
    )
    return [row for row in rows if row.id in chosen]


def without_leaks(
    rows: Sequence[Row], others: Sequence[Row], threshold: float, role: str, notes: list[str]
) -> list[Row]:
    """The rows that are neither the same as one of `others` nor its near-duplicate; a note counts those left out."""
    if not others or not rows:
        return list(rows)
    same = {pooled.key(row): row for row in others}
    best, where = gates.nearest(rows, others, threshold)
    leaks = {
        row.id: same.get(pooled.key(row), others[at])
        for row, score, at in zip(rows, best, where, strict=True)
        if score >= threshold or pooled.key(row) in same
    }
    if leaks:
        first = next(iter(leaks))
        notes.append(
            f"{role}: {len(leaks)} left out, like rows that are held out for evaluation; the first: {first} is like "
            f"{leaks[first].id}"
        )
    return [row for row in rows if row.id not in leaks]


def apart(rows: Sequence[Row], threshold: float) -> list[int]:
    """Numbers of the rows that have no near-duplicate among the others."""
    texts = [gates.comparable(row) for row in rows]
    best, _ = Index(texts, threshold).best(texts, range(len(texts)))
    free: list[int] = np.flatnonzero(best < threshold).tolist()
    return free


def balanced_subset(
    rows: Sequence[Row], count: int, rng: random.Random, kind: Callable[[Row], str] = lambda row: row.language
) -> list[Row]:
    """`count` rows, their kinds (languages) in turn. Raises UserError if there are not so many."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(kind(row), []).append(row)
    if count > len(rows):
        raise UserError(
            f"data.calibration={count} is more than the {len(rows)} training rows",
            f"set data.calibration to {len(rows)} in params.yaml",
        )
    for group in groups.values():
        rng.shuffle(group)
    chosen: list[Row] = []
    while len(chosen) < count:
        for name in sorted(groups):
            if groups[name] and len(chosen) < count:
                chosen.append(groups[name].pop())
    return chosen
