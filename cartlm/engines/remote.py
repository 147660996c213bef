"""Test rows through a server with the OpenAI API: the requests, the answers kept for good, latency and cost.

Every answer that arrives whole becomes a line of its own file at once, under a key made of the request. A
re-run asks only for what is missing; a failure is never stored, and no line is ever rewritten.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cartlm.engines.openai import RETRY_S, UNKNOWN, Batch, Client, Failed, Reply, Server
from cartlm.errors import UserError
from cartlm.task.rows import Row

BATCHES_IN_VAIN = 3


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
    temperature: float | None = 0,
    token_limit: str = "max_tokens",
) -> Request:
    """The request of a row, greedy at temperature 0: chat with `instruction` as system prompt, or the bare completion.

    `temperature` None leaves it to the server; `token_limit` names the field that holds `max_new_tokens`. A completion's prompt is the row's plus `separator`, as in fine-tuning; BOS is the server's to add. The
    server's URL is part of the key, so that no server gets another one's answers.
    """
    heat = 0 if temperature == 0 else temperature  # not 0.0: answers of older runs keep their key
    body = {"model": model, **sampling(heat, token_limit, max_new_tokens)}
    if api == "chat":
        system = [{"role": "system", "content": instruction}] if instruction else []
        body["messages"] = [*system, {"role": "user", "content": row.prompt}]
    else:
        body["prompt"] = row.prompt + separator
    key = hashlib.sha256(json.dumps([base_url, body], sort_keys=True).encode()).hexdigest()[:16]
    return Request(row.id, body, key)


def sampling(temperature: float | None, token_limit: str, tokens: int) -> dict[str, Any]:
    """The fields of a request that say how to sample; a `temperature` of None is not sent."""
    return {**({} if temperature is None else {"temperature": temperature}), token_limit: tokens}


def stored(path: Path) -> dict[str, Reply]:
    """The answers of a file by their key; a line cut by a kill, none of ours, or without an answer is passed over."""
    found: dict[str, Reply] = {}
    for line in path.read_bytes().split(b"\n") if path.exists() else ():
        try:
            value = json.loads(line)
            reply = Reply(**value["reply"])
            if not reply.is_empty("messages" in value["request"]):
                found.setdefault(value["key"], reply)
        except (ValueError, TypeError, KeyError):
            continue
    return found


class Budget:
    """What a run may spend on new requests: so many requests, and tokens as the server counts them. None: any number.

    Each try counts. It is let through only if what it may cost at most still fits (a token is taken for two bytes, which is
    less than it has on average), so that neither limit is passed. For several threads at once.
    """

    def __init__(self, requests: int | None, tokens: int | None) -> None:
        self._requests, self._tokens = requests, tokens
        self._lock = threading.Lock()
        self.requests = self.tokens = 0

    def take(self, body: Mapping[str, Any]) -> int:
        """Reserve for a request; returns the tokens reserved. Raises Failed where it does not fit."""
        most = len(json.dumps(body, ensure_ascii=False).encode("utf-8", "surrogatepass")) // 2 + (
            body.get("max_tokens") or body["max_completion_tokens"]
        )
        with self._lock:
            if self._requests is not None and self.requests >= self._requests:
                raise Failed(
                    f"max_requests={self._requests} new requests are used up", "raise it in params.yaml"
                )
            if self._tokens is not None and self.tokens + most > self._tokens:
                raise Failed(
                    f"{self.tokens} of max_total_tokens={self._tokens} are used up, and it may need {most}",
                    "raise it in params.yaml",
                )
            self.requests += 1
            self.tokens += most
        return most

    def settle(self, reserved: int, used: int | None) -> None:
        """Count the tokens that were used instead of those reserved; None where that is not known."""
        if used is not None:
            with self._lock:
                self.tokens += used - reserved


def _used(reply: Reply) -> int | None:
    counts = (reply.prompt_tokens, reply.completion_tokens)
    return None if None in counts else sum(count or 0 for count in counts)


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


def collect(
    asked: Sequence[Request],
    server: Server,
    path: Path,
    name: str,
    budget: Budget | None = None,
    retries: int = 0,
) -> dict[str, Reply]:
    """The answer to each distinct request, in the order asked, by key; those in `path` are not asked again.

    With `retries` (and none in `server`) each try is taken from the budget; waits are jittered and grow, Retry-After holds.
    With all of them there, neither network nor key is needed. The first request that fails for good stops the
    others: what is in flight is still kept, then UserError names the request, the failure and what to do.
    """
    wanted = {one.key: one for one in reversed(asked)}
    kept = stored(path)
    missing = [wanted[key] for key in dict.fromkeys(one.key for one in asked) if key not in kept]
    if missing:
        _ask(missing, len(wanted), server, path, name, budget or Budget(None, None), retries)
        kept = stored(path)
        unknown = sum(kept[one.key].finish_reason == UNKNOWN for one in missing)
        if unknown:
            print(
                f"{name}: {unknown} answers name no finish_reason; they are taken as complete",
                file=sys.stderr,
            )
    return {one.key: kept[one.key] for one in asked}


def _ask(
    missing: Sequence[Request],
    total: int,
    server: Server,
    path: Path,
    name: str,
    budget: Budget,
    retries: int,
) -> None:
    from tqdm import tqdm

    keeper, stop = _Keeper(path), threading.Event()
    failures: list[tuple[Request, Failed]] = []

    def work(one: Request) -> None:
        if stop.is_set():
            return
        try:
            keeper.keep(one, _answer(client, one, budget, retries, stop))
            bar.update()
        except Failed as error:
            failures.append((one, error))  # before others are woken and fail too
            stop.set()
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
        hint = f"{server.command} asks only for what is missing"
        raise UserError(
            f"{name}: the request of row {one.row} failed: {error.what}; {left} of {total} answers are missing",
            f"{error.hint}; {hint}" if error.hint else hint,
        )


def collect_batch(
    asked: Sequence[Request], server: Server, path: Path, name: str, budget: Budget, poll_s: float
) -> dict[str, Reply]:
    """The same through the Batch API: cheaper, within 24 hours. Chat requests only.

    A batch bears a mark made of what it asks for, so that a run that was killed finds it on the server and waits on.
    What a batch did not answer goes into another one, until BATCHES_IN_VAIN in a row bring nothing: then UserError.
    """
    kept, wanted = stored(path), {one.key: one for one in asked}
    if not all(key in kept for key in wanted):
        batches = _Batches(wanted, kept, server, path, name)
        try:
            with Client(server) as client:
                while batches.go_on(client, budget):
                    time.sleep(poll_s)
        except Failed as error:
            left = sum(key not in kept for key in wanted)
            raise UserError(
                f"{name}: {error.what}; {left} of {len(wanted)} answers are missing",
                "; ".join(filter(None, (error.hint, f"{server.command} goes on"))),
            ) from None
    return {one.key: kept[one.key] for one in asked}


class _Batches:
    """The batches of one set of requests; answers go to `path` and into `kept`."""

    def __init__(
        self, wanted: dict[str, Request], kept: dict[str, Reply], server: Server, path: Path, name: str
    ) -> None:
        self._wanted, self._kept, self._name, self._keeper = wanted, kept, name, _Keeper(path)
        self._mark = hashlib.sha256("".join(sorted(wanted)).encode()).hexdigest()[:32]
        self._read: set[str] = set()
        self._ours, self._vain = (
            "",
            0,
        )  # the batch that this run handed in last; how many in a row brought nothing
        self._reserved: dict[str, int] = {}

    def go_on(self, client: Client, budget: Budget) -> bool:
        """Read what has ended, hand in what is missing; False when nothing is. Raises Failed."""
        found = client.batches(self._mark, self._ours)
        for batch in found:
            if batch.ended and batch.id not in self._read:
                self._read.add(batch.id)
                new, failed = self._take(client, batch, budget)
                self._say(f"batch {batch.id} {batch.status}, {new} new answers")
                if batch.id == self._ours:
                    self._vain = 0 if new else self._vain + 1
                if self._vain == BATCHES_IN_VAIN:
                    raise Failed(failed or f"batch {batch.id} {batch.status}: {batch.error or 'no answer'}")
        missing = {key: one.body for key, one in self._wanted.items() if key not in self._kept}
        if missing and all(batch.ended for batch in found):
            part = self._affordable(missing, budget)
            self._ours = client.submit(part, self._mark)
            self._say(f"batch {self._ours} of {len(part)} requests handed in")
        return bool(missing)

    def _affordable(self, missing: dict[str, Any], budget: Budget) -> dict[str, Any]:
        """As many of the requests as the budget lets through. Raises Failed where that is none."""
        part: dict[str, Any] = {}
        for key, body in missing.items():
            try:
                self._reserved[key] = budget.take(body)
            except Failed:
                if not part:
                    raise
                break
            part[key] = body
        return part

    def _take(self, client: Client, batch: Batch, budget: Budget) -> tuple[int, str]:
        """Keep the new answers of a batch; returns how many, and its last failure."""
        new, failed = 0, ""
        for key, reply in client.results(batch, {key: one.body for key, one in self._wanted.items()}):
            if isinstance(reply, Failed):
                failed = reply.what
            elif key not in self._kept:
                self._keeper.keep(self._wanted[key], reply)
                self._kept[key] = reply
                if key in self._reserved:
                    budget.settle(self._reserved.pop(key), _used(reply))
                new += 1
        return new, failed

    def _say(self, words: str) -> None:
        print(f"{self._name}: {words}", file=sys.stderr, flush=True)


def _answer(client: Client, one: Request, budget: Budget, retries: int, stop: threading.Event) -> Reply:
    """A whole answer. Raises Failed for none, also of as many tries as are allowed or paid for."""
    for attempt in range(retries + 1):
        reserved = budget.take(one.body)
        try:
            reply = client.ask(one.body)
        except Failed as error:
            budget.settle(reserved, 0 if error.free else None)
            if not error.again or attempt == retries:
                raise
            wait = max(error.after_s, random.uniform(0.5, 1.0) * min(8.0, RETRY_S * 2**attempt))
            if stop.wait(wait):
                raise
        else:
            budget.settle(reserved, _used(reply))
            return reply
    raise AssertionError("unreachable")


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
