"""The worked examples of docs/contributing work."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from cartlm import params
from cartlm.data import rules
from cartlm.errors import UserError
from tests import ROOT
from tests.component.docs.examples import first_line_engine, sqlite_source

DATA = params.load(ROOT / "params.yaml").data
FEW = DATA.model_copy(update={"train": 30, "validation": 6, "test": 6, "calibration": 9})


@pytest.fixture
def orders(tmp_path: Path) -> Path:
    """A database of sixty generated rows."""
    import random

    path = tmp_path / "orders.db"
    rows = rules.rows("orders", 60, 0, FEW, random.Random(1))
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE orders (catalog, message, action, product, quantity, language)")
        database.executemany(
            "INSERT INTO orders VALUES (?, ?, ?, ?, ?, ?)",
            [
                (
                    json.dumps(row.catalog),
                    row.message,
                    row.intent.action,
                    row.intent.product,
                    row.intent.quantity,
                    row.language,
                )
                for row in rows
            ],
        )
    return path


def test_the_data_source_draws_its_splits(orders: Path) -> None:
    drawn = sqlite_source.splits(FEW.model_copy(update={"path": str(orders)}))
    assert {name: len(rows) for name, rows in drawn.splits.items()} == {
        "train": 30, "validation": 6, "test": 6, "calibration": 9
    }  # fmt: skip


def test_a_broken_row_of_the_data_source_is_named(orders: Path) -> None:
    with sqlite3.connect(orders) as database:
        database.execute("UPDATE orders SET quantity = 'many' WHERE rowid = 7")
    with pytest.raises(UserError, match="row 7"):
        sqlite_source.splits(FEW.model_copy(update={"path": str(orders)}))


def test_the_engine_answers_prompts_with_an_intent_of_the_catalog() -> None:
    import random

    engine = first_line_engine.load(ROOT / "base/model", threads=1)
    builder = engine.prompt_builder("\n")
    for row in rules.rows("some", 5, 0, FEW, random.Random(2)):
        ids = builder.prompt_ids(row.prompt)
        answer = engine.answer(ids, 96)
        assert json.loads(answer.text) == {"action": "add", "product": row.catalog[0], "quantity": 1}
        assert (answer.finish_reason, answer.prompt_tokens) == ("stop", len(ids))
    assert engine.answer(ids, 1).finish_reason == "length"
