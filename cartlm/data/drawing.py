"""Training and validation rows drawn from rows that somebody else made: a published dataset, or the user's file."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
from rapidfuzz import fuzz, process

from cartlm.data import gates
from cartlm.data.rows import Row
from cartlm.data.splits import balanced_subset
from cartlm.errors import UserError
from cartlm.params import Data


def splits(rows: list[Row], test: Sequence[Row], params: Data, name: str) -> dict[str, list[Row]]:
    """All splits, drawn with `data.seed`; without `test`, test is validation (the paper's own protocol).

    A row with a near-duplicate anywhere is never drawn for validation. `name` is the source's, for the UserError
    where there are too few rows.
    """
    wanted = params.train + params.validation
    if len(rows) < wanted:
        raise UserError(
            f"{name} has {len(rows)} usable rows, fewer than data.train + data.validation = {wanted}",
            f"set data.train to {max(1, len(rows) - params.validation)} in params.yaml",
        )
    random.Random(f"{params.seed}/hub").shuffle(rows)
    chosen = apart(rows, params.validation, params.gates.near_duplicate)
    validation = [rows[index] for index in chosen]
    train = [row for index, row in enumerate(rows) if index not in set(chosen)][: params.train]
    return {
        "train": train,
        "validation": validation,
        "test": list(test)[: params.test] if test else list(validation),
        "calibration": balanced_subset(
            train, params.calibration, random.Random(f"{params.seed}/calibration")
        ),
    }


def apart(rows: Sequence[Row], count: int, threshold: float) -> list[int]:
    """Numbers of the first `count` rows that have no near-duplicate among the others. Raises UserError."""
    texts = [gates.comparable(row) for row in rows]
    chosen: list[int] = []
    for start in range(0, len(texts), 256):
        part = texts[start : start + 256]
        scores = process.cdist(part, texts, scorer=fuzz.ratio, score_cutoff=threshold * 100, workers=-1)
        scores[np.arange(len(part)), np.arange(start, start + len(part))] = 0
        chosen += (start + np.flatnonzero(scores.max(axis=1) < threshold * 100)).tolist()
        if len(chosen) >= count:
            return chosen[:count]
    raise UserError(
        f"only {len(chosen)} rows have no near-duplicate, fewer than data.validation={count}",
        "lower data.validation or raise data.gates.near_duplicate in params.yaml",
    )
