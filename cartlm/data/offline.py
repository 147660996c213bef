"""The offline source: classic messages (cartlm/data/rules.py) and everyday ones (cartlm/data/everyday.py) in one set of splits."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle, islice

from cartlm.data import everyday, near_duplicates, rules
from cartlm.data.config import Data
from cartlm.data.sampling import Drawn, make_in_turn, shuffled
from cartlm.errors import UserError
from cartlm.task.intent import ACTIONS
from cartlm.task.rows import Row

ATTEMPTS = 20  # at a row that is no near-duplicate


def draft(language: str, action: str, novel: bool, params: Data, rng: random.Random) -> rules.Draft:
    """One random labelled message, classic or everyday."""
    share = params.everyday.share
    make = everyday.draft if share and rng.random() < share else rules.draft
    return make(language, action, novel, params, rng)


def in_turn(languages: Sequence[str], count: int) -> Iterator[tuple[str, str]]:
    """`count` times a language and an action, in turn, so that both stay balanced."""
    return islice(cycle((language, action) for action in ACTIONS for language in languages), count)


def rows(name: str, count: int, novel_count: int, params: Data, rng: random.Random) -> list[Row]:
    """`count` rows, languages and actions in turn; the first ones are novel."""
    return [
        draft(language, action, index < novel_count, params, rng).row(f"{name}-{index:05d}")
        for index, (language, action) in enumerate(in_turn(params.languages_of(name), count))
    ]


def splits(params: Data) -> Drawn:
    """All splits of the offline source, each with its own seed; rows too close to one of another split are worded anew.

    Raises UserError if rows stay near-duplicates.
    """
    refused = 0

    def make(name: str, count: int, novel: int, others: Sequence[Row]) -> list[Row]:
        nonlocal refused
        rng = random.Random(f"{params.seed}/{name}")

        def again(row: Row) -> Row:
            return draft(row.language, row.intent.action, False, params, rng).row(row.id)

        made = rows(name, count, novel, params, rng)
        refused += set_apart(name, made, others, params.gates.near_duplicate, again)
        return shuffled(made, name, random.Random(f"{params.seed}/{name}/order"))

    return Drawn(make_in_turn(params, make, str(params.seed)), refused)


def set_apart(
    name: str, made: list[Row], others: Sequence[Row], threshold: float, again: Callable[[Row], Row]
) -> int:
    """Draw `again` the rows of a split that are near-duplicates of `others`, in place; how many were refused.

    Raises UserError if rows stay near-duplicates.
    """
    suspects, refused = list(range(len(made))), 0
    for _ in range(ATTEMPTS):
        best, _ = near_duplicates.nearest([made[i] for i in suspects], others, threshold)
        suspects = [i for i, score in zip(suspects, best, strict=True) if score >= threshold]
        if not suspects:
            return refused
        refused += len(suspects)
        for i in suspects:
            made[i] = again(made[i])
    what = f"{len(suspects)} rows stay near-duplicates of another split after {ATTEMPTS} attempts"
    raise UserError(
        f"{name}: {what}, the first one {made[suspects[0]].message!r}",
        "lower data.train or raise data.gates.near_duplicate in params.yaml",
    )
