"""Test rows through a server with the OpenAI API: the requests, the answers kept for good, latency and cost.

Every answer that arrives whole becomes a line of its own file at once, under a key made of the request. A
re-run asks only for what is missing; a failure is never stored, and no line is ever rewritten.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cartlm.data.rows import Row
from cartlm.engines.openai import Client, Failed, Reply, Server
from cartlm.errors import UserError


@dataclass(frozen=True)
class Request:
    """What one row asks: `body` is sent as it is, `key` names it."""

    row: str
    body: dict[str, Any]
    key: str


def request(
    row: Row,
    *,
    base_url: str | None,
    model: str,
    api: str,
    instruction: str | None,
    separator: str,
    max_new_tokens: int,
) -> Request:
    """The request of a row, greedy: chat with `instruction` as system prompt, or the bare completion.

    A completion's prompt is the row's plus `separator`, as in fine-tuning; BOS is the server's to add. The
    server's URL is part of the key, so that no server gets another one's answers.
    """
    body: dict[str, Any] = {"model": model, "temperature": 0, "max_tokens": max_new_tokens}
    if api == "chat":
        system = [{"role": "system", "content": instruction}] if instruction else []
        body["messages"] = [*system, {"role": "user", "content": row.prompt}]
    else:
        body["prompt"] = row.prompt + separator
    key = hashlib.sha256(json.dumps([base_url, body], sort_keys=True).encode()).hexdigest()[:16]
    return Request(row.id, body, key)


def stored(path: Path) -> dict[str, Reply]:
    """The answers of a file by their key; a line cut by a kill, or none of ours, is passed over."""
    found: dict[str, Reply] = {}
    for line in path.read_bytes().split(b"\n") if path.exists() else ():
        try:
            value = json.loads(line)
            found.setdefault(value["key"], Reply(**value["reply"]))
        except (ValueError, TypeError, KeyError):
            continue
    return found


class _Keeper:
    """Appends answers to a file, each one whole and on the disk before the next."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._lock = path, threading.Lock()
        whole = not path.exists() or path.read_bytes()[-1:] in (b"", b"\n")
        self._start = b"" if whole else b"\n"  # an earlier run died within its last line

    def keep(self, asked: Request, reply: Reply) -> None:
        value = {"key": asked.key, "row": asked.row, "request": asked.body, "reply": reply.to_json()}
        line = json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"
        with self._lock:
            try:
                with self._path.open("ab") as file:
                    file.write(self._start + line)
                    file.flush()
                    os.fsync(file.fileno())
            except OSError as error:  # a failing write does not name its file
                self._start = b"\n"
                raise OSError(error.errno, error.strerror, str(self._path)) from None
            self._start = b""


def collect(asked: Sequence[Request], server: Server, path: Path, name: str) -> dict[str, Reply]:
    """The answer to each distinct request, in the order asked, by key; those in `path` are not asked again.

    With all of them there, neither network nor key is needed. The first request that fails for good stops the
    others: what is in flight is still kept, then UserError names the request, the failure and what to do.
    """
    wanted = {one.key: one for one in reversed(asked)}
    kept = stored(path)
    missing = [wanted[key] for key in dict.fromkeys(one.key for one in asked) if key not in kept]
    if missing:
        _ask(missing, len(wanted), server, path, name)
        kept = stored(path)
    return {one.key: kept[one.key] for one in asked}


def _ask(missing: Sequence[Request], total: int, server: Server, path: Path, name: str) -> None:
    from tqdm import tqdm

    keeper, stop = _Keeper(path), threading.Event()
    failures: list[tuple[Request, Failed]] = []

    def work(one: Request) -> None:
        if stop.is_set():
            return
        try:
            keeper.keep(one, client.ask(one.body))
            bar.update()
        except Failed as error:
            stop.set()
            failures.append((one, error))
        except BaseException:
            stop.set()
            raise

    done = total - len(missing)
    with (
        Client(server) as client,
        tqdm(total=total, initial=done, desc=name, unit="request", file=sys.stderr) as bar,
        ThreadPoolExecutor(server.concurrency) as pool,
    ):
        try:
            list(pool.map(work, missing))
        finally:  # Ctrl-C too: what is in flight ends and is kept, nothing more is sent
            stop.set()
    if failures:
        one, error = failures[0]
        kept = stored(path)
        left = sum(one.key not in kept for one in missing)
        hint = "make remote asks only for what is missing"
        raise UserError(
            f"{name}: the request of row {one.row} failed: {error.what}; {left} of {total} answers are missing",
            f"{error.hint}; {hint}" if error.hint else hint,
        )


def measured(
    replies: Sequence[Reply],
    input_price: float | None,
    output_price: float | None,
    price_source: str | None,
) -> dict[str, int | float | str]:
    """The `remote` section of a metrics file; what the server does not tell is absent.

    `latency_ms_*`: of one request, waits for a retry left out, with up to `concurrency` in flight; tokens are
    sums over the requests. Prices are US dollars per million tokens: the list price, no discount taken off.
    Raises ValueError without replies.
    """
    if not replies:
        raise ValueError("no replies")
    p50, p95, p99 = np.percentile([1000 * reply.latency_s for reply in replies], (50, 95, 99))
    section: dict[str, int | float | str] = {
        "requests": len(replies),
        "retries": sum(reply.retries for reply in replies),
        "concurrency": max(reply.concurrency for reply in replies),
        "latency_ms_p50": float(p50),
        "latency_ms_p95": float(p95),
        "latency_ms_p99": float(p99),
        "asked_from": min(reply.asked for reply in replies),
        "asked_to": max(reply.asked for reply in replies),
    }
    sums: dict[str, int] = {}
    for field in ("prompt_tokens", "completion_tokens"):
        counts = [getattr(reply, field) for reply in replies]
        if None not in counts:
            sums[field] = sum(counts)
    if len(sums) == 2 and input_price is not None and output_price is not None:
        cost = (sums["prompt_tokens"] * input_price + sums["completion_tokens"] * output_price) / 10**6
        section |= {"cost_usd": cost, "cost_usd_per_1000_queries": 1000 * cost / len(replies)}
        section["price_source"] = price_source or "unknown"
    return section | sums


def engine(replies: Sequence[Reply], api: str, model: str) -> Mapping[str, str]:
    """The `engine` section: the model asked for, and which model, server and client the answers name."""
    said = {
        field: ", ".join(sorted({getattr(reply, field) for reply in replies}))
        for field in ("client", "model", "server")
    }
    return {
        "name": "openai",
        "version": said["client"],
        "api": api,
        "model": model,
        "served_model": said["model"],
        "server": said["server"],
    }
