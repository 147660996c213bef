"""Splits of the configured source: train, validation and test without leaks, and a calibration subset of train."""

from __future__ import annotations

import random
from collections.abc import Sequence

from cartlm.data import files, hub, near_duplicates, rules
from cartlm.data.config import Data
from cartlm.data.sampling import Drawn, make_in_turn, shuffled
from cartlm.errors import UserError
from cartlm.task.rows import Row

_ATTEMPTS = 20


def make_splits(params: Data) -> Drawn:
    """Train, validation, test and calibration rows of any source but `openai` (cartlm.data.generated). Raises UserError."""
    return {"hub": hub.splits, "file": files.splits, "rules": from_rules}[params.source](params)


def from_rules(params: Data) -> Drawn:
    """All splits of the offline source, each with its own seed; rows too close to one of another split are worded anew.

    Raises UserError if rows stay near-duplicates.
    """
    refused = 0

    def make(name: str, count: int, novel: int, others: Sequence[Row]) -> list[Row]:
        nonlocal refused
        rng, threshold = random.Random(f"{params.seed}/{name}"), params.gates.near_duplicate
        rows = rules.rows(name, count, novel, params, rng)
        suspects = list(range(count))
        for _ in range(_ATTEMPTS):
            best, _ = near_duplicates.nearest([rows[i] for i in suspects], others, threshold)
            suspects = [i for i, score in zip(suspects, best, strict=True) if score >= threshold]
            if not suspects:
                return shuffled(rows, name, random.Random(f"{params.seed}/{name}/order"))
            refused += len(suspects)
            for i in suspects:
                again = rules.draft(rows[i].language, rows[i].intent.action, False, params, rng)
                rows[i] = again.row(rows[i].id)
        what = f"{len(suspects)} rows stay near-duplicates of another split after {_ATTEMPTS} attempts"
        raise UserError(
            f"{name}: {what}, the first one {rows[suspects[0]].message!r}",
            "lower data.train or raise data.gates.near_duplicate in params.yaml",
        )

    splits = make_in_turn(params, make, str(params.seed))
    return Drawn(splits, refused)
