"""rounds.csv: each round's values, so that variants and commits are compared round by round."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence

from cartlm.errors import UserError

REFERENCE = "reference"
"""The name of the model that every round measures and no commit changes."""
COLUMNS = ["round", "variant", "metric", "value"]
Key = tuple[str, str]
"""Variant and metric."""
Rounds = dict[Key, dict[int, float]]
"""The value of each round's number."""


def to_csv(rounds: Sequence[tuple[int, str, str, float]]) -> str:
    """The text of rounds.csv: `round,variant,metric,value`, sorted, 4 significant digits."""
    lines = [f"{round},{name},{key},{float(f'{value:.4g}'):g}" for round, name, key, value in sorted(rounds)]
    return "\n".join([",".join(COLUMNS), *lines, ""])


def parse_rounds(text: str, name: str, next: str) -> Rounds:
    """The values of a rounds.csv. Raises UserError naming `name` and the `next` command for anything else."""
    rounds: Rounds = {}
    try:
        header, *lines = csv.reader(io.StringIO(text))
        for number, variant, metric, value in lines:
            rounds.setdefault((variant, metric), {})[int(number)] = float(value)
        if header != COLUMNS or not all(0 <= float(line[3]) < math.inf for line in lines):
            raise ValueError
    except ValueError:
        raise UserError(f"{name} does not have numbers in the columns {', '.join(COLUMNS)}", next) from None
    return rounds
