"""Rows on disk: what is broken is named by file and line."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from cartlm.errors import UserError
from cartlm.task import rows
from cartlm.task.intent import NO_ORDER, Intent

GOOD = rows.make("a", "spanish", ["Sal (1kg)", "Té"], "añade té", Intent("add", "Té", 1), {"novel": False})


def test_rows_survive_a_round_trip_byte_for_byte(tmp_path: Path) -> None:
    odd = rows.make("b", "english", ["X\u2028Y"], "add \x85 \U0001f600", Intent("add", "X\u2028Y", 3), {})
    chat = rows.make("c", "croatian", ["Čaj"], "bok", NO_ORDER, {})
    rows.write(tmp_path / "rows.jsonl", [GOOD, odd, chat])
    assert rows.read(tmp_path / "rows.jsonl") == [GOOD, odd, chat]
    assert [row.is_order for row in (GOOD, odd, chat)] == [True, True, False]
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"completion": "{"}, "completion '{'"),
        ({"completion": '{"action": "buy", "product": "Té", "quantity": 1}'}, "action is 'buy'"),
        ({"completion": '{"action": "add", "product": "Pan", "quantity": 1}'}, "'Pan' is not a catalog line"),
        ({"completion": '{"action": "add", "product": "Té", "quantity": true}'}, "quantity is True"),
        ({"catalog": "Té"}, "catalog = 'Té': Input should be a valid array"),
        ({"message": 3}, "message = 3: Input should be a valid string"),
        ({"prompt": "Catalog:"}, "the prompt is not its catalog and message"),
        ({"extra": 1}, "extra = 1: Unexpected keyword argument"),
    ],
)
def test_a_broken_row_is_named(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    path = tmp_path / "rows.jsonl"
    lines = [asdict(GOOD), asdict(GOOD) | change]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(UserError, match=r"rows\.jsonl:2") as caught:
        rows.read(path)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "holds no rows"),
        (b"\n\xff\xfe", ":2: .*Invalid JSON"),
        (b"nope\n", r":1: \(top level\) = b'nope': Invalid JSON"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    with pytest.raises(UserError, match=says):
        rows.read(path)


def test_a_missing_file_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is missing; dvc repro data"):
        rows.read(tmp_path / "rows.jsonl")
