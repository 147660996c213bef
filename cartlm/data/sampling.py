"""Splits drawn from rows that somebody else wrote: a published dataset, or the user's files."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

from cartlm.data import near_duplicates
from cartlm.data.config import Data
from cartlm.data.roles import TEST, TRAIN, VALIDATION
from cartlm.errors import UserError
from cartlm.task.rows import Row

SIZES = (TRAIN, VALIDATION, "calibration")
"""Splits that have to be as large as configured, unless the source gives them."""


@dataclass(frozen=True)
class Drawn:
    """The rows of each split, and how many were refused as near-duplicates of another split's rows."""

    splits: dict[str, list[Row]]
    leaked: int


@dataclass(frozen=True)
class Pool:
    """Rows to draw from: shuffled training rows, the roles that were given besides, and what was left out."""

    rows: Sequence[Row]
    free: Sequence[int]  # indices of the rows without a near-duplicate among the others
    given: Mapping[str, list[Row]]  # rows for validation and test, where the source has such
    leaked: int = 0
    notes: Sequence[str] = ()


def note(line: str) -> None:
    """One line on stderr."""
    print(line, file=sys.stderr, flush=True)


def make_pool(parts: Mapping[str, Sequence[Row]], params: Data) -> Pool:
    """The rows that can be drawn, without any that is like a row of the evaluation.

    A given test stays whole, so that results can be compared: training and validation rows like one of its rows are
    left out, then training rows like a validation row.
    """
    threshold = params.gates.near_duplicate
    kept: dict[str, list[Row]] = {}
    notes = list[str]()
    for role in (TEST, VALIDATION, TRAIN):
        held_out = [row for rows in kept.values() for row in rows]
        kept[role] = without_leaks(parts.get(role, ()), held_out, threshold, role, notes)
    leaked = sum(len(parts.get(role, ())) - len(rows) for role, rows in kept.items())
    given = {role: kept[role] for role in (TEST, VALIDATION) if parts.get(role)}
    random.Random(f"{params.seed}/hub").shuffle(kept[TRAIN])
    free = [] if VALIDATION in given else near_duplicates.unlike_others(kept[TRAIN], threshold)
    return Pool(kept[TRAIN], free, given, leaked, notes)


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
    held = {role: sample_evenly(rows, params, role) for role, rows in pool.given.items()}
    chosen = set() if VALIDATION in held else set(pool.free[: params.validation])
    validation = held.get(VALIDATION) or [pool.rows[index] for index in sorted(chosen)]
    train = [row for index, row in enumerate(pool.rows) if index not in chosen][: params.train]
    calibration = balanced_subset(train, params.calibration, random.Random(f"{params.seed}/calibration"))
    test = held.get(TEST, validation)
    return Drawn(
        {"train": train, "validation": validation, "test": test, "calibration": calibration}, pool.leaked
    )


def fitting_sizes(data: Data, pool: Pool) -> dict[str, int] | None:
    """The configured sizes, reduced to the rows there are; None where nothing is left to train or validate on.

    Where rows are too few for both, training and validation keep their configured ratio.
    """
    drawn = VALIDATION not in pool.given
    validation = min(data.validation, len(pool.free if drawn else pool.given[VALIDATION]))
    if drawn and data.train + validation > len(pool.rows):
        share = len(pool.rows) * data.validation // (data.train + data.validation)
        validation = min(validation, max(1, share))
    train = min(data.train, len(pool.rows) - validation * drawn)
    if train < 1 or validation < 1:
        return None
    test = min(data.test, len(pool.given[TEST])) if TEST in pool.given else validation
    calibration = min(data.calibration, train)
    return {"train": train, "validation": validation, "calibration": calibration, "test": test}


def shortage(pool: Pool, params: Data, name: str) -> UserError | None:
    """The error for too few rows, naming sizes that fit; None where the configured ones do."""
    count, given = len(pool.rows), sorted(pool.given)
    lost = f" ({pool.leaked} more have a near-duplicate in the {' or '.join(given)})" if pool.leaked else ""
    usable = f"{name} has {count} usable rows{lost} for training"
    if sizes := fitting_sizes(params, pool):
        asked = {split: getattr(params, split) for split in SIZES if split not in pool.given}
        if asked.items() <= sizes.items():
            return None
        alone = "" if VALIDATION in given else f", {len(pool.free)} of them unlike all others"
        too_many = ", ".join(f"data.{split}={size}" for split, size in asked.items())
        values = ", ".join(f"data.{split}: {size}" for split, size in sizes.items())
        return UserError(f"{usable}{alone}: {too_many} do not fit", f"set {values} in params.yaml")
    if pool.given.get(VALIDATION) == []:
        what = "every row for validation has a near-duplicate in the test"
        return UserError(f"{name}: {what}", "add other rows for validation")
    if count == 0 and given:
        which = "that are unlike those held out" if pool.leaked else "such as a file train.jsonl"
        return UserError(f"{usable}, only for {' and '.join(given)}", f"add rows for training {which}")
    return UserError(
        f"{usable}, {len(pool.free)} of them unlike all others; one to train on and one to validate on are needed",
        "add rows that are unlike each other, or rows for validation such as a file validation.jsonl",
    )


def sample_evenly(rows: list[Row], params: Data, role: str) -> list[Row]:
    """At most `data.{role}` of the rows, even over languages and actions, in their order; a note says so."""
    count = params.test if role == TEST else params.validation
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
    """The rows that are no near-duplicate of one of `others`; a note counts those left out."""
    best, where = near_duplicates.nearest(rows, others, threshold)
    leaks = {
        row.id: others[index]
        for row, score, index in zip(rows, best, where, strict=True)
        if others and score >= threshold
    }
    if leaks:
        example = next(f"{id} is like {other.id}" for id, other in leaks.items())
        notes.append(f"{role}: {len(leaks)} rows left out, like held-out rows; the first: {example}")
    return [row for row in rows if row.id not in leaks]


def shuffled(rows: Sequence[Row], name: str, rng: random.Random) -> list[Row]:
    """The rows of a split in random order, their ids in this order."""
    order = list(rows)
    rng.shuffle(order)
    return [replace(row, id=f"{name}-{index:05d}") for index, row in enumerate(order)]


def make_in_turn(
    params: Data, make: Callable[[str, int, int, Sequence[Row]], list[Row]], seed: str
) -> dict[str, list[Row]]:
    """All splits; `make(name, count, novel, others)` makes test, validation and train, unlike those before.

    In this order a larger train leaves the test as it is.
    """
    test = make("test", params.test, round(params.test * params.novel), [])
    validation = make("validation", params.validation, 0, test)
    train = make("train", params.train, 0, [*test, *validation])
    calibration = balanced_subset(train, params.calibration, random.Random(f"{seed}/calibration"))
    return {"train": train, "validation": validation, "test": test, "calibration": calibration}


def balanced_subset(
    rows: Sequence[Row], count: int, rng: random.Random, kind: Callable[[Row], str] = lambda row: row.language
) -> list[Row]:
    """`count` rows, even over their kinds (languages); all where there are fewer."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(kind(row), []).append(row)
    for group in groups.values():
        rng.shuffle(group)
    turns = zip_longest(*(reversed(groups[name]) for name in sorted(groups)))
    return [row for turn in turns for row in turn if row][:count]
