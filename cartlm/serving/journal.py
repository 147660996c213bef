"""The answers of a run as they come, a line a row in the order of the rows: a killed run goes on where it stopped.

The file is beside the output and begins with what the answers depend on. A line that a kill cut is cut off.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from cartlm.errors import UserError

Line = dict[str, Any]
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)
"""The errno of a network disk that cannot lock."""


class Journal:
    """An open journal of `done` rows; `open_journal` makes it."""

    def __init__(self, path: Path, file: IO[bytes], done: int) -> None:
        self.path, self._file, self.done = path, file, done

    def add(self, line: Mapping[str, Any]) -> None:
        """Append the next row's line; it survives the death of this process, not of the machine."""
        self._file.write(_encoded({"row": self.done + 1, **line}))
        self._file.flush()
        self.done += 1

    def lines(self) -> Iterator[Line]:
        """All rows' lines."""
        with self.path.open("rb") as file:
            file.readline()
            yield from map(json.loads, file)


def journal_path(output: Path) -> Path:
    return output.with_name(f"{output.name}.part.jsonl")


@contextmanager
def open_journal(output: Path, key: Mapping[str, Any], anew: bool) -> Iterator[Journal]:
    """The journal of `output`, which no other process has open meanwhile.

    One of the same key goes on. One whose key differs is emptied with `anew`, or where it has no row; else it raises
    UserError, naming what differs, as where another process has it open. One that gets no row is removed.
    """
    path = journal_path(output)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _held(path, output) as file:
        file.seek(0)
        begun, end = _header(file.readline())
        done, end = _sound_rows(file, end) if begun is not None else (0, 0)
        if begun is not None and not (changed(begun, key) and (anew or not done)):
            check_key(output, begun, key)
            os.ftruncate(file.fileno(), end)
        else:
            os.ftruncate(file.fileno(), 0)
            file.write(_encoded({"key": key}))
            file.flush()
            done = 0
        journal = Journal(path, file, done)
        try:
            yield journal
        except BaseException:
            if not journal.done:  # such as a model that cannot be loaded
                path.unlink(missing_ok=True)
            raise


@contextmanager
def _held(path: Path, output: Path) -> Iterator[IO[bytes]]:
    """The file at `path`, locked; another process may remove it between opening and locking."""
    while True:
        with path.open("a+b") as file:
            hold(file, output)
            if _is_at(path, file):
                yield file
                return


def _is_at(path: Path, file: IO[bytes]) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def hold(file: IO[Any], output: Path | str) -> bool:
    """Lock `file` until it is closed; False on a disk without locks. Raises UserError where another process holds it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(f"another process is writing {output}", "wait for it, or end it") from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return False
    return True


def check_key(output: Path | str, begun: Mapping[str, Any], key: Mapping[str, Any]) -> None:
    """Raise UserError where the answers in `output` depend on something else, naming what."""
    if differs := changed(begun, key):
        what = f"{output} was made with another {', '.join(differs)}"
        raise UserError(what, "name another output, or add --anew to replace it")


def changed(begun: Mapping[str, Any], key: Mapping[str, Any]) -> list[str]:
    """What the answers depend on that differs, or that only one of them has."""
    return [name for name in {**key, **begun} if begun.get(name) != key.get(name)]


def _header(line: bytes) -> tuple[Line | None, int]:
    """The key of a journal and where its rows begin; None without a whole first line."""
    try:
        return dict(json.loads(line)["key"]), len(line)
    except (ValueError, TypeError, KeyError):
        return None, 0


def _sound_rows(file: IO[bytes], end: int) -> tuple[int, int]:
    """How many whole lines in the order of rows follow the header, and where the last one ends."""
    done = 0
    for line in file:
        try:
            if not line.endswith(b"\n") or json.loads(line)["row"] != done + 1:
                break
        except (ValueError, TypeError, KeyError):
            break
        done, end = done + 1, end + len(line)
    return done, end


def _encoded(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode() + b"\n"
