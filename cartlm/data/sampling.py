"""Splits drawn from rows that somebody else wrote: a published dataset, or the user's files."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from cartlm.data import near_duplicates, repeats
from cartlm.data.config import Data
from cartlm.data.roles import TEST, TRAIN, VALIDATION
from cartlm.errors import UserError
from cartlm.task.rows import Row


@dataclass(frozen=True)
class Drawn:
    """The rows of each split, and how many were refused as near-duplicates of another split's rows."""

    splits: dict[str, list[Row]]
    leaked: int


@dataclass(frozen=True)
class Counts:
    """How many rows there are to draw splits from."""

    rows: int  # without those like a row of the given test or validation
    free: int  # of these without a near-duplicate among the others
    validation: int | None = None  # None: drawn from `rows`
    test: int | None = None  # None: the validation rows


@dataclass(frozen=True)
class Pool:
    """Rows to draw from: shuffled training rows, given validation and test rows, and what was left out."""

    rows: list[Row]
    validation: list[Row]
    test: list[Row]
    free: list[int]  # indices of the rows without a near-duplicate among the others
    leaked: int
    given: frozenset[str]
    notes: list[str] = field(default_factory=list)

    @property
    def counts(self) -> Counts:
        validation = len(self.validation) if VALIDATION in self.given else None
        test = len(self.test) if TEST in self.given else None
        return Counts(len(self.rows), len(self.free), validation, test)


def note(line: str) -> None:
    """One line on stderr."""
    print(line, file=sys.stderr, flush=True)


def make_pool(parts: Mapping[str, Sequence[Row]], params: Data) -> Pool:
    """The rows that can be drawn, without any that is like a row of the evaluation.

    A given test stays whole, so that results can be compared: training and validation rows like one of its rows are
    left out, then training rows like a validation row.
    """
    threshold = params.gates.near_duplicate
    given = frozenset(role for role in (VALIDATION, TEST) if parts.get(role))
    test, notes = list(parts.get(TEST, ())), list[str]()
    validation = without_leaks(parts.get(VALIDATION, ()), test, threshold, VALIDATION, notes)
    rows = without_leaks(parts.get(TRAIN, ()), [*test, *validation], threshold, TRAIN, notes)
    leaked = sum(len(parts.get(role, ())) for role in (TRAIN, VALIDATION)) - len(rows) - len(validation)
    random.Random(f"{params.seed}/hub").shuffle(rows)
    free = [] if VALIDATION in given else near_duplicates.unlike_others(rows, threshold)
    return Pool(rows, validation, test, free, leaked, given, notes)


def draw_splits(parts: Mapping[str, Sequence[Row]], params: Data, name: str) -> Drawn:
    """All splits, drawn with `data.seed` from the rows of each role; given validation and test are never trained on.

    Without a test, test is validation (the paper's protocol). Without a validation, it is drawn from the rows that have no
    near-duplicate. Larger ones than `data.test` or `data.validation` are sampled evenly over languages and actions.
    Raises UserError naming the source `name` where there are too few rows.
    """
    pool = make_pool(parts, params)
    for line in pool.notes:
        note(line)
    if error := shortage(pool, params, name):
        raise error
    if VALIDATION in pool.given:
        validation, train = sample_evenly(pool.validation, params.validation, params, VALIDATION), pool.rows
    else:
        chosen = pool.free[: params.validation]
        validation = [pool.rows[index] for index in chosen]
        train = [row for index, row in enumerate(pool.rows) if index not in set(chosen)]
    train = train[: params.train]
    test = sample_evenly(pool.test, params.test, params, TEST) or list(validation)
    rng = random.Random(f"{params.seed}/calibration")
    calibration = balanced_subset(train, params.calibration, rng)
    splits = {"train": train, "validation": validation, "test": test, "calibration": calibration}
    return Drawn(splits, pool.leaked)


def fitting_sizes(data: Data, counts: Counts) -> dict[str, int] | None:
    """The configured sizes, reduced to the rows there are; None where nothing is left to train or validate on.

    Where rows are too few for both, training and validation keep their configured ratio.
    """
    drawn = counts.validation is None
    validation = min(data.validation, counts.free if drawn else counts.validation or 0)
    if drawn and data.train + validation > counts.rows:
        share = counts.rows * data.validation // (data.train + data.validation)
        validation = min(validation, max(1, share))
    train = min(data.train, counts.rows - (validation if drawn else 0))
    if train < 1 or validation < 1:
        return None
    test = validation if counts.test is None else min(data.test, counts.test)
    calibration = min(data.calibration, train)
    return {"train": train, "validation": validation, "calibration": calibration, "test": test}


def unfit_reason(data: Data, counts: Counts) -> str:
    """Why the configured sizes do not fit; empty where they do."""
    drawn = counts.validation is None
    needed = data.train + (data.validation if drawn else 0)
    if counts.rows < needed:
        sizes = f"data.train + data.validation = {needed}" if drawn else f"data.train={data.train}"
        return f"fewer than {sizes}"
    if drawn and counts.free < data.validation:
        few = f"but only {counts.free} without a near-duplicate among the others"
        return f"{few}, fewer than data.validation={data.validation}"
    if data.calibration > data.train:
        return f"but data.calibration={data.calibration} is more than data.train={data.train}"
    return ""


def shortage(pool: Pool, params: Data, name: str) -> UserError | None:
    """The error for too few rows, naming sizes that fit; None where the configured ones do."""
    counts, given = pool.counts, sorted(pool.given)
    lost = f" ({pool.leaked} more have a near-duplicate in the {' or '.join(given)})" if pool.leaked else ""
    usable = f"{name} has {counts.rows} usable rows{lost} for training"
    if sizes := fitting_sizes(params, counts):
        why = unfit_reason(params, counts)
        values = ", ".join(f"data.{split}: {count}" for split, count in sizes.items())
        return UserError(f"{usable}, {why}", f"set {values} in params.yaml") if why else None
    if counts.validation == 0:
        what = "every row for validation has a near-duplicate in the test"
        return UserError(f"{name}: {what}", "add other rows for validation")
    if counts.rows == 0 and given:
        which = "that are unlike those held out" if pool.leaked else "such as a file train.jsonl"
        return UserError(f"{usable}, only for {' and '.join(given)}", f"add rows for training {which}")
    if counts.rows < 2:
        return UserError(f"{usable}; at least one to train on and one to validate on are needed", "add rows")
    return UserError(
        f"{usable}, each with a near-duplicate among the others: none can be held out for validation",
        "add rows that are unlike each other, or rows for validation such as a file validation.jsonl",
    )


def sample_evenly(rows: list[Row], count: int, params: Data, role: str) -> list[Row]:
    """At most `count` of the rows, even over languages and actions, in their order; a note says so."""
    if len(rows) <= count:
        return rows
    rng = random.Random(f"{params.seed}/{role}/sample")
    subset = balanced_subset(rows, count, rng, lambda row: f"{row.language} {row.intent.action}")
    chosen = {row.id for row in subset}
    note(f"{role}: {count:,} of {len(rows):,} rows, even over languages and actions (data.{role})")
    return [row for row in rows if row.id in chosen]


def without_leaks(
    rows: Sequence[Row], others: Sequence[Row], threshold: float, role: str, notes: list[str]
) -> list[Row]:
    """The rows that neither repeat one of `others` nor are its near-duplicate; a note counts those left out."""
    same = {repeats.key(row): row for row in others}
    best, where = near_duplicates.nearest(rows, others, threshold)
    leaks = {
        row.id: same.get(repeats.key(row)) or others[index]
        for row, score, index in zip(rows, best, where, strict=True)
        if others and (score >= threshold or repeats.key(row) in same)
    }
    if leaks:
        example = next(f"{id} is like {other.id}" for id, other in leaks.items())
        notes.append(f"{role}: {len(leaks)} rows left out, like held-out rows; the first: {example}")
    return [row for row in rows if row.id not in leaks]


def balanced_subset(
    rows: Sequence[Row], count: int, rng: random.Random, kind: Callable[[Row], str] = lambda row: row.language
) -> list[Row]:
    """`count` rows, even over their kinds (languages). Raises UserError where there are fewer rows."""
    if count > len(rows):
        raise UserError(
            f"data.calibration={count} is more than the {len(rows)} training rows",
            f"set data.calibration to {len(rows)} in params.yaml",
        )
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(kind(row), []).append(row)
    for group in groups.values():
        rng.shuffle(group)
    chosen: list[Row] = []
    while len(chosen) < count:
        for name in sorted(groups):
            if groups[name] and len(chosen) < count:
                chosen.append(groups[name].pop())
    return chosen
