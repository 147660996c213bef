"""Requests to a server, and their replies on disk.

Every whole answer is appended to a file at once, under a key made of its request. A re-run asks only for what is
missing; failures are never stored, and no line is ever rewritten.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cartlm.engines.config import Server
from cartlm.engines.connection import RequestFailed
from cartlm.engines.openai import UNKNOWN, Budget, Client, Reply
from cartlm.errors import UserError

_APPENDING = threading.Lock()


@dataclass(frozen=True)
class Request:
    """The request for one row: `body` is sent as it is, `key` identifies it."""

    row: str
    body: dict[str, Any]
    key: str


@dataclass(frozen=True)
class Asking:
    """Whom to ask, and where the replies are kept.

    `key` is the server's key, `command` what a user types again after a failure, `label` the name in messages.
    """

    server: Server
    key: str | None = field(repr=False)
    path: Path
    command: str = "make remote"
    label: str = ""


def read_replies(path: Path) -> dict[str, Reply]:
    """The replies in a file by key; a line that is cut, not ours or without an answer is skipped."""
    replies: dict[str, Reply] = {}
    for line in path.read_bytes().split(b"\n") if path.exists() else ():
        try:
            value = json.loads(line)
            reply = Reply(**value["reply"])
            if not reply.is_empty("messages" in value["request"]):
                replies.setdefault(value["key"], reply)
        except (ValueError, TypeError, KeyError):
            continue
    return replies


def usage_section(replies: Collection[Reply], server: Server) -> dict[str, int | float | str]:
    """Sums of tokens where every reply has its counts, and with them the cost."""
    counts = {
        name: [getattr(reply, name) for reply in replies] for name in ("prompt_tokens", "completion_tokens")
    }
    sums = {name: sum(values) for name, values in counts.items() if None not in values}
    cost = server.cost_usd(**sums) if len(sums) == 2 else None
    price = {} if cost is None else {"cost_usd": cost, "price_source": str(server.price_source)}
    return {**price, **sums}


def append_reply(path: Path, request: Request, reply: Reply) -> None:
    """Append a reply to the file at `path`, whole and on the disk before the next. Thread-safe."""
    value = {"key": request.key, "row": request.row, "request": request.body, "reply": asdict(reply)}
    line = json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _APPENDING, path.open("a+b") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read() != b"\n":  # an earlier run died within its last line
                    line = b"\n" + line
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:  # a failing write does not name its file
        raise OSError(error.errno, error.strerror, str(path)) from None


def collect_replies(
    requests: Sequence[Request], asking: Asking, budget: Budget | None = None
) -> dict[str, Reply]:
    """The reply to each distinct request by key, in the order given; those on disk are not asked again.

    With all of them on disk, neither network nor key is needed. The first request that fails for good stops the
    others; what is in flight is still kept, then UserError names the request, the failure and the next step.
    """
    distinct = {request.key: request for request in requests}
    replies = read_replies(asking.path)
    missing = [request for key, request in distinct.items() if key not in replies]
    if missing:
        _ask(missing, len(distinct), asking, budget or Budget(None, None))
        replies = read_replies(asking.path)
        if unknown := sum(replies[request.key].finish_reason == UNKNOWN for request in missing):
            note = f"{unknown} answers have no finish_reason; they count as complete"
            print(f"{asking.label}: {note}", file=sys.stderr)
    return {request.key: replies[request.key] for request in requests}


def _ask(missing: Sequence[Request], total: int, asking: Asking, budget: Budget) -> None:
    """Ask for what is missing, `concurrency` requests at a time."""
    from tqdm import tqdm

    stop = threading.Event()
    failures: list[tuple[Request, RequestFailed]] = []

    def work(request: Request) -> None:
        if stop.is_set():
            return
        try:
            append_reply(asking.path, request, client.ask(request.body, budget, stop))
            bar.update()
        except RequestFailed as error:
            failures.append((request, error))  # before others are woken and fail too
            stop.set()
        except BaseException:
            stop.set()
            raise

    with (
        Client(asking.server, asking.key, asking.command) as client,
        tqdm(
            total=total, initial=total - len(missing), desc=asking.label, unit="request", file=sys.stderr
        ) as bar,
        ThreadPoolExecutor(asking.server.concurrency) as pool,
    ):
        try:
            list(pool.map(work, missing))
        finally:  # Ctrl-C too: what is in flight ends and is kept, nothing more is sent
            stop.set()
    if failures:
        request, error = failures[0]
        left = len({one.key for one in missing} - read_replies(asking.path).keys())
        raise UserError(
            f"{asking.label}: the request of row {request.row} failed: {error.what}; "
            f"{left} of {total} answers are missing",
            "; ".join(filter(None, (error.hint, f"{asking.command} asks only for what is missing"))),
        )
