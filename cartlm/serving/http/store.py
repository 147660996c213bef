"""Catalogs on disk: one SQLite file, whose writes are on the disk before they are acknowledged."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

from cartlm.errors import UserError
from cartlm.serving.http.failures import Refused
from cartlm.serving.http.limits import MAX_CATALOGS

APPLICATION_ID = 0x6361_7274  # "cart": the file is ours
TABLE = """CREATE TABLE IF NOT EXISTS catalogs (
    id TEXT PRIMARY KEY, lines TEXT NOT NULL, count INTEGER NOT NULL, updated TEXT NOT NULL
) WITHOUT ROWID"""
T = TypeVar("T")


@dataclass(frozen=True)
class Stored:
    """A catalog; `updated` is in UTC."""

    id: str
    lines: tuple[str, ...]
    updated: str


@dataclass(frozen=True)
class Summary:
    id: str
    count: int
    updated: str


class Store:
    """The catalogs of a file. One thread owns the connection; the methods are called in an event loop.

    Write-ahead logging with `synchronous=FULL`: a write survives the death of process or machine once it has returned.
    """

    def __init__(self, path: Path) -> None:
        """Opens the file or makes it, with its folders. Raises UserError for another file, OSError."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._thread = path, ThreadPoolExecutor(1, "catalogs")
        try:
            self._db = sqlite3.connect(path, timeout=5, isolation_level=None, check_same_thread=False)
            self._prepare()
        except sqlite3.Error as error:
            raise UserError(
                f"{path} cannot hold catalogs: {error}", "name another file: --catalogs PATH"
            ) from None

    def _prepare(self) -> None:
        owner, tables = (
            self._db.execute(query).fetchone()[0]
            for query in ("PRAGMA application_id", "SELECT count(*) FROM sqlite_master")
        )
        if tables and owner != APPLICATION_ID:
            raise sqlite3.DatabaseError("it is the database of another program")
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.execute(f"PRAGMA application_id={APPLICATION_ID}")
        self._db.execute(TABLE)

    async def put(self, id: str, lines: Sequence[str]) -> tuple[Summary, bool]:
        """Write a catalog; also whether it is new. Raises Refused (409) where there are too many."""
        return await self._run(partial(self._put, id, lines))

    def _put(self, id: str, lines: Sequence[str]) -> tuple[Summary, bool]:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        with _transaction(self._db):
            is_new = self._db.execute("SELECT 1 FROM catalogs WHERE id = ?", (id,)).fetchone() is None
            if is_new and self._db.execute("SELECT count(*) FROM catalogs").fetchone()[0] >= MAX_CATALOGS:
                raise Refused(409, f"{MAX_CATALOGS} catalogs are stored, and no more are allowed: delete one")
            values = (id, json.dumps(lines, ensure_ascii=False), len(lines), now)
            self._db.execute("INSERT OR REPLACE INTO catalogs VALUES (?, ?, ?, ?)", values)
        return Summary(id, len(lines), now), is_new

    async def get(self, id: str) -> Stored:
        """Raises Refused (404)."""
        return await self._run(partial(self._get, id))

    def _get(self, id: str) -> Stored:
        row = self._db.execute("SELECT lines, updated FROM catalogs WHERE id = ?", (id,)).fetchone()
        if row is None:
            raise _unknown(id)
        return Stored(id, tuple(json.loads(row[0])), row[1])

    async def delete(self, id: str) -> None:
        """Raises Refused (404)."""
        await self._run(partial(self._delete, id))

    def _delete(self, id: str) -> None:
        if not self._db.execute("DELETE FROM catalogs WHERE id = ?", (id,)).rowcount:
            raise _unknown(id)

    async def page(self, after: str, most: int) -> list[Summary]:
        """The first `most` catalogs whose ids are greater than `after`, by id."""
        return await self._run(partial(self._page, after, most))

    def _page(self, after: str, most: int) -> list[Summary]:
        query = "SELECT id, count, updated FROM catalogs WHERE id > ? ORDER BY id LIMIT ?"
        return [Summary(*row) for row in self._db.execute(query, (after, most))]

    async def _run(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except sqlite3.Error as error:
            raise Refused(503, f"the catalogs cannot be reached: {error}") from error

    def close(self) -> None:
        """After what was begun."""
        self._thread.shutdown()
        self._db.close()


@contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    """Begins with the lock for writing, so that what was read still holds."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _unknown(id: str) -> Refused:
    return Refused(404, f"there is no catalog {id!r}: PUT /v1/catalogs/{id} makes it")
