"""Splits of the configured source: train, validation and test without leaks, and a calibration subset of train."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from cartlm.data import files, hub, near_duplicates, rules
from cartlm.data.config import Data
from cartlm.data.sampling import Drawn, balanced_subset
from cartlm.errors import UserError
from cartlm.task.rows import Row

_ATTEMPTS = 20


def make_splits(params: Data) -> Drawn:
    """Train, validation, test and calibration rows of any source but `openai` (cartlm.data.generated). Raises UserError."""
    return {"hub": hub.splits, "file": files.splits, "rules": from_rules}[params.source](params)


def from_rules(params: Data) -> Drawn:
    """All splits of the offline source; rows too close to one of another split are worded anew.

    Test, validation and train are drawn in this order, each with its own seed: a larger train leaves the test as it is.
    Raises UserError if rows stay near-duplicates.
    """
    novel = round(params.test * params.novel)
    test = _shuffled(rules.rows("test", params.test, novel, params, _rng(params, "test")), params, "test")
    validation, refused = _unlike("validation", params.validation, test, params)
    train, more = _unlike("train", params.train, [*test, *validation], params)
    calibration = balanced_subset(train, params.calibration, _rng(params, "calibration"))
    splits = {"train": train, "validation": validation, "test": test, "calibration": calibration}
    return Drawn(splits, refused + more)


def _rng(params: Data, name: str) -> random.Random:
    return random.Random(f"{params.seed}/{name}")


def _shuffled(rows: list[Row], params: Data, name: str) -> list[Row]:
    _rng(params, f"{name}/order").shuffle(rows)
    return [replace(row, id=f"{name}-{index:05d}") for index, row in enumerate(rows)]


def _unlike(name: str, count: int, others: Sequence[Row], params: Data) -> tuple[list[Row], int]:
    """`count` rows without a near-duplicate among `others`, and how many were refused."""
    rng, threshold = _rng(params, name), params.gates.near_duplicate
    rows = rules.rows(name, count, 0, params, rng)
    suspects, refused = list(range(len(rows))), 0
    for _ in range(_ATTEMPTS):
        best, _ = near_duplicates.nearest([rows[i] for i in suspects], others, threshold)
        suspects = [i for i, score in zip(suspects, best, strict=True) if score >= threshold]
        if not suspects:
            return _shuffled(rows, params, name), refused
        refused += len(suspects)
        for i in suspects:
            draft = rules.draft(rows[i].language, rows[i].intent.action, False, params, rng)
            rows[i] = rules.as_row(rows[i].id, draft)
    raise UserError(
        f"{name}: {len(suspects)} rows stay near-duplicates of another split after {_ATTEMPTS} attempts, "
        f"the first one {rows[suspects[0]].message!r}",
        "lower data.train or raise data.gates.near_duplicate in params.yaml",
    )
