"""Rows of the table `orders` in an SQLite database (docs/contributing/data-source.md)."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from cartlm.data import records, roles, sampling
from cartlm.data.config import Data
from cartlm.errors import UserError

QUERY = "SELECT catalog, message, action, product, quantity, language FROM orders ORDER BY rowid"


def splits(params: Data) -> sampling.Drawn:
    """All splits, drawn from the rows of `data.path`. Raises UserError naming the first broken row."""
    if params.path is None or not Path(params.path).is_file():
        raise UserError(f"data.path={params.path} is no database", "set data.path in params.yaml")
    rows = []
    with sqlite3.connect(params.path) as database:
        database.row_factory = sqlite3.Row
        for number, record in enumerate(database.execute(QUERY), start=1):
            try:
                rows.append(records.as_row(f"order-{number:05d}", dict(record), params.languages))
            except ValueError as error:
                raise UserError(f"{params.path}, row {number}: {error}", "correct that row") from None
    return sampling.draw_splits({roles.TRAIN: rows}, params, params.path)
