"""Splits: train, validation, test without leaks, and a calibration subset of train."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from cartlm.data import gates, rules
from cartlm.data.config import Data
from cartlm.data.near_duplicates import Index
from cartlm.data.sampling import Drawn, balanced_subset
from cartlm.errors import UserError
from cartlm.task.rows import Row

_ATTEMPTS = 20


def make(params: Data) -> Drawn:
    """Train, validation, test and calibration rows of the configured source. Raises UserError."""
    if params.source == "hub":
        from cartlm.data import hub

        return hub.splits(params)
    if params.source == "file":
        from cartlm.data import files

        return files.splits(params)
    return from_rules(params)


def from_rules(params: Data) -> Drawn:
    """All splits of the offline source; rows too close to one of another split are worded anew.

    The order of drawing is test, validation, train, each with its own seed: a larger train leaves the
    test as it is. Raises UserError if rows stay near-duplicates.
    """
    novel = round(params.test * params.novel)
    test = _shuffled(rules.rows("test", params.test, novel, params, _rng(params, "test")), params, "test")
    validation, again = _apart("validation", params.validation, test, params)
    train, more = _apart("train", params.train, [*test, *validation], params)
    made = {
        "train": train,
        "validation": validation,
        "test": test,
        "calibration": balanced_subset(train, params.calibration, _rng(params, "calibration")),
    }
    return Drawn(made, again + more)


def _rng(params: Data, name: str) -> random.Random:
    return random.Random(f"{params.seed}/{name}")


def _shuffled(rows: list[Row], params: Data, name: str) -> list[Row]:
    _rng(params, f"{name}/order").shuffle(rows)
    return [replace(row, id=f"{name}-{index:05d}") for index, row in enumerate(rows)]


def _apart(name: str, count: int, others: Sequence[Row], params: Data) -> tuple[list[Row], int]:
    """`count` rows without a near-duplicate among `others`, and how many were refused for one."""
    rng = _rng(params, name)
    rows = rules.rows(name, count, 0, params, rng)
    known = Index([gates.comparable(row) for row in others], params.gates.near_duplicate)
    suspects, refused = list(range(len(rows))), 0
    for _ in range(_ATTEMPTS):
        best, _ = known.best([gates.comparable(rows[i]) for i in suspects])
        suspects = [
            i for i, score in zip(suspects, best, strict=True) if score >= params.gates.near_duplicate
        ]
        if not suspects:
            return _shuffled(rows, params, name), refused
        refused += len(suspects)
        for i in suspects:
            fresh = rules.draft(rows[i].language, rows[i].intent.action, False, params, rng)
            rows[i] = rules.as_row(rows[i].id, fresh)
    raise UserError(
        f"{name}: {len(suspects)} rows stay near-duplicates of another split after {_ATTEMPTS} attempts, "
        f"the first one {rows[suspects[0]].message!r}",
        "lower data.train or raise data.gates.near_duplicate in params.yaml",
    )
