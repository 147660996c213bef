"""Catalogs in a file of SQLite."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest

from cartlm.errors import UserError
from cartlm.serving.http import store
from cartlm.serving.http.failures import Refused
from cartlm.serving.http.store import Store


def refusal(work: object) -> int:
    with pytest.raises(Refused) as caught:
        asyncio.run(work)  # type: ignore[arg-type]
    return caught.value.status


def test_what_was_put_is_there_when_the_file_is_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "new/folder/catalogs.db"
    first = Store(path)
    lines = ["Čarape (par)", 'Tea "green"', "Cafe\u0301"]
    summary, is_new = asyncio.run(first.put("shop", lines))
    assert (summary.count, is_new) == (3, True)
    assert asyncio.run(first.put("shop", lines[:2]))[1] is False
    asyncio.run(first.put("gone", lines))
    asyncio.run(first.delete("gone"))
    # not closed, as after kill -9: the second one reads what the first one's log has
    second = Store(path)
    assert asyncio.run(second.get("shop")).lines == tuple(lines[:2])
    assert refusal(second.get("gone")) == 404
    assert refusal(second.delete("gone")) == 404
    first.close()
    second.close()


def test_a_write_is_on_the_disk_before_it_returns(tmp_path: Path) -> None:
    """SQLite syncs its log with each commit: what a power cut would leave behind cannot be tried here."""
    made = Store(tmp_path / "catalogs.db")
    assert made._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert made._db.execute("PRAGMA synchronous").fetchone() == (2,)
    made.close()


def test_pages_follow_each_other_by_id(tmp_path: Path) -> None:
    made = Store(tmp_path / "catalogs.db")
    ids = [f"shop-{number}" for number in range(7)]
    for id in reversed(ids):
        asyncio.run(made.put(id, ["Tea"]))
    found, after = [], ""
    while page := asyncio.run(made.page(after, 3)):
        assert len(page) <= 3
        found += [each.id for each in page]
        after = found[-1]
    assert found == ids
    made.close()


def test_there_is_room_for_so_many_and_replacing_needs_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "MAX_CATALOGS", 2)
    made = Store(tmp_path / "catalogs.db")
    for id in ("a", "b", "a"):
        asyncio.run(made.put(id, ["Tea"]))
    assert refusal(made.put("c", ["Tea"])) == 409
    asyncio.run(made.delete("a"))
    asyncio.run(made.put("c", ["Tea"]))
    made.close()


def test_a_failing_disk_is_a_refusal_and_leaves_what_was_there(tmp_path: Path) -> None:
    made = Store(tmp_path / "catalogs.db")
    asyncio.run(made.put("shop", ["Tea"]))
    made._db.execute("PRAGMA max_page_count=3")
    assert refusal(made.put("shop", ["x" * 300] * 2000)) == 503
    assert asyncio.run(made.get("shop")).lines == ("Tea",)
    made._db.execute("PRAGMA max_page_count=100000")
    asyncio.run(made.put("shop", ["Milk"]))
    assert asyncio.run(made.get("shop")).lines == ("Milk",)
    made.close()


def test_another_programs_file_is_refused_and_kept(tmp_path: Path) -> None:
    text, other = tmp_path / "notes.txt", tmp_path / "other.db"
    text.write_text("no database at all " * 99)
    with sqlite3.connect(other) as db:
        db.execute("CREATE TABLE theirs (id)")
    for path in (text, other, tmp_path):
        before = path.read_bytes() if path.is_file() else b""
        with pytest.raises(UserError, match="--catalogs") as caught:
            Store(path)
        assert str(path) in caught.value.message
        assert before == (path.read_bytes() if path.is_file() else b"")
