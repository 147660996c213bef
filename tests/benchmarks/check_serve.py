"""Does `cartlm serve` keep its promises under load? Run by `make check-serve`, not by pytest; its parts are (test_check_serve.py).

python -m tests.benchmarks.check_serve q4_k_m --times 4 --seconds 30

A reader in this process and a service in one of its own, with as many workers and threads, get the same rows in turn: one at a
time for what HTTP adds to a message, all at once for the rate. Then requests leave by the clock at several times the rate
that the service sustained, and each 200 is compared with the reader's answer. Every figure is compared with another one of the
same run. Exit code 1 where a promise is broken; wants a machine that does nothing else.
"""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any, TypeVar

import click
import httpx2
import numpy as np
import psutil

import cartlm
from cartlm import command
from cartlm.errors import UserError
from cartlm.serving.reader import load
from cartlm.system import processes
from cartlm.task import rows as row_files
from cartlm.task.rows import Row
from tests.benchmarks.load_serve import Outcome, ask_all, client, wrong_answers

BATCH = 32  # messages of a request
IN_FLIGHT = 4  # requests for each worker
SAMPLE_S = 0.1

MOST_OVERHEAD_MS, LEAST_RATE = 5.0, 0.9
MOST_WAIT = 2.5  # p99, in times that a full queue takes at the rate sustained without overload
LEAST_OVERLOADED = 0.5  # of that rate, under overload: refusing costs something too
MOST_GROWTH = 1.1  # memory in the last third of the overload, in times of that in the first

T = TypeVar("T")


@dataclass(frozen=True)
class Options:
    """Of the service, and of the reader beside it."""

    model: str
    workers: int
    threads: int
    queue: int = 256


@contextmanager
def service(options: Options) -> Iterator[tuple[str, psutil.Process]]:
    """The URL and the process of a service, which is ended by SIGTERM. Raises UserError if it does not start or end well."""
    command_line = [
        sys.executable, "-m", "cartlm.cli", "serve", options.model, "--port", "0",
        "--workers", str(options.workers), "--threads", str(options.threads), "--queue", str(options.queue),
    ]  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if name != "CARTLM_API_KEY"}
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "log").open("w+") as log:
        popen = subprocess.Popen(
            [*command_line, "--catalogs", f"{folder}/catalogs.db"], env=environment,
            stdout=subprocess.PIPE, stderr=log, text=True, preexec_fn=processes.die_with_parent,
        )  # fmt: skip
        try:
            assert popen.stdout
            url, answers, _ = popen.stdout.readline().partition(" answers with ")
            if not answers:
                log.seek(0)
                raise UserError(f"the service does not start: {log.read()[-300:].strip()}", "cartlm serve")
            yield url, psutil.Process(popen.pid)
            popen.send_signal(signal.SIGTERM)
            if code := popen.wait(90):
                raise UserError(f"the service ended with {processes.describe_exit(code)}", "cartlm serve")
        finally:
            popen.kill()
            popen.wait()


def overhead_ms(url: str, reader: cartlm.Reader, rows: Sequence[Row]) -> list[float]:
    """What HTTP adds to each row's message: one at a time, each with the reader and the service in turn."""

    def own(row: Row) -> object:
        return reader.predict(row.catalog, row.message)

    def served(row: Row) -> object:
        return asking.post("/v1/intents", json=_body(row)).raise_for_status()

    added = []
    with httpx2.Client(base_url=url, timeout=120, trust_env=False) as asking:
        for number, row in enumerate(rows):
            took = {each: _seconds(partial(each, row)) for each in _turned((own, served), number)}
            added.append(1000 * (took[served] - took[own]))
    return added


def rates(url: str, reader: cartlm.Reader, rows: Sequence[Row], rounds: int) -> dict[str, list[float]]:
    """Messages a second in each round, of the rows one a request and in batches of one catalog.

    `own` and `own_batch` are the reader's with all its workers busy, `served` and `served_batch` the service's.
    """
    batches = [
        (rows[at].catalog, [row.message for row in rows[at : at + BATCH]])
        for at in range(0, len(rows), BATCH)
    ]
    flat = [(catalog, message) for catalog, messages in batches for message in messages]
    at_once = IN_FLIGHT * reader.workers
    bodies = [{"catalog": catalog, "messages": messages} for catalog, messages in batches]
    with ThreadPoolExecutor(reader.workers) as pool:

        def own(asked: Sequence[tuple[Sequence[str], str]]) -> None:
            list(pool.map(lambda each: reader.predict(*each), asked))

        work: dict[str, Callable[[], object]] = {
            "own": lambda: own([(row.catalog, row.message) for row in rows]),
            "served": lambda: asyncio.run(
                _ask_closed(url, "/v1/intents", [_body(row) for row in rows], at_once)
            ),
            "own_batch": lambda: own(flat),
            "served_batch": lambda: asyncio.run(_ask_closed(url, "/v1/intents/batch", bodies, 2)),
        }
        found: dict[str, list[float]] = {name: [] for name in work}
        for number in range(rounds):
            for name in _turned(list(work), number):
                found[name].append(len(rows) / _seconds(work[name]))
    return found


async def _ask_closed(url: str, path: str, bodies: Sequence[dict[str, Any]], at_once: int) -> None:
    """Each body is answered, so many at a time."""
    left = iter(bodies)
    async with client(url) as asking:

        async def ask() -> None:
            for body in left:
                (await asking.post(path, json=body)).raise_for_status()

        await asyncio.gather(*(ask() for _ in range(at_once)))


def overload(
    url: str, process: psutil.Process, rows: Sequence[Row], rate: float, seconds: float
) -> tuple[list[Outcome], list[float]]:
    """What came of requests at `rate` a second, and the service's resident MiB as they were sent and answered."""
    ended, resident = Event(), list[float]()

    def watch() -> None:
        while not ended.wait(SAMPLE_S):
            resident.append(process.memory_info().rss / 2**20)

    with ThreadPoolExecutor(1) as pool:
        watching = pool.submit(watch)
        try:
            outcomes = asyncio.run(ask_all(url, rows, rate, seconds, None))
        finally:
            ended.set()
        watching.result()
    return outcomes, resident


def measure(
    options: Options, rows: Sequence[Row], times: float, seconds: float, rounds: int
) -> dict[str, Any]:
    """Every figure of a run."""
    workers, threads = options.workers, options.threads
    with load(options.model, workers=workers, threads=threads) as reader, service(options) as (url, process):
        overhead_ms(url, reader, rows[:BATCH])  # both warm up
        added = overhead_ms(url, reader, rows)
        by_round = rates(url, reader, rows, rounds)
        rate = {name: statistics.median(each) for name, each in by_round.items()}
        begun = time.perf_counter()
        outcomes, resident = overload(url, process, rows, times * rate["served"], seconds)
        took = time.perf_counter() - begun
        wrong = wrong_answers(outcomes, rows, reader)
    accepted = [each for each in outcomes if each.status == 200]
    p50, p99 = np.percentile([each.ms - each.late_ms for each in accepted] or [np.nan], (50, 99))
    third = max(1, len(resident) // 3)
    ratios = {
        name: statistics.median(a / b for a, b in zip(by_round[name], by_round[own], strict=True))
        for name, own in (("served", "own"), ("served_batch", "own_batch"))
    }
    found = {
        "rows": len(rows), "workers": workers, "threads": threads, "queue": options.queue,
        "overhead_ms_p50": statistics.median(added),
        "own_per_s": rate["own"], "served_per_s": rate["served"], "rate_ratio": ratios["served"],
        "own_batch_per_s": rate["own_batch"], "served_batch_per_s": rate["served_batch"],
        "batch_rate_ratio": ratios["served_batch"],
        "asked_per_s": times * rate["served"], "asked": len(outcomes), "answered_per_s": len(accepted) / took,
        "sent_late_ms_p99": float(np.percentile([each.late_ms for each in outcomes], 99)),
        "accepted_ms_p50": float(p50), "accepted_ms_p99": float(p99),
        "full_queue_ms": 1000 * (options.queue + workers) / rate["served"],
        "rss_mib_first": max(resident[:third], default=0.0), "rss_mib_last": max(resident[-third:], default=0.0),
    }  # fmt: skip
    counts = Counter(str(each.status) for each in outcomes)
    rounded = {
        name: float(f"{value:.4g}") if isinstance(value, float) else value for name, value in found.items()
    }
    return rounded | {"statuses": dict(sorted(counts.items())), "wrong": wrong}


def broken(found: dict[str, Any]) -> list[str]:
    """The promises that these figures break."""
    promises = {
        "the rest of an overload is refused with 429": set(found["statuses"]) == {"200", "429"},
        "no answer is another than the reader's": found["wrong"] == 0,
        "an accepted request waits no longer than a full queue": found["accepted_ms_p99"]
        <= MOST_WAIT * found["full_queue_ms"],
        "an overloaded service does not collapse": found["answered_per_s"]
        >= LEAST_OVERLOADED * found["served_per_s"],
        "memory does not grow": found["rss_mib_last"] <= MOST_GROWTH * found["rss_mib_first"],
        "batches have the reader's rate": found["batch_rate_ratio"] >= LEAST_RATE,
        "HTTP adds little to a message": found["overhead_ms_p50"] <= MOST_OVERHEAD_MS,
    }
    return [promise for promise, is_kept in promises.items() if not is_kept]


def _body(row: Row) -> dict[str, Any]:
    return {"message": row.message, "catalog": row.catalog}


def _turned(order: Sequence[T], number: int) -> Sequence[T]:
    """The other way round at each odd number: neither side is always the first."""
    return order[::-1] if number % 2 else order


def _seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


@click.command(cls=command.Guard)
@click.argument("model", default="q4_k_m")
@click.option("--times", type=float, default=4.0, show_default=True, help="Of the rate that was sustained.")
@click.option("--seconds", type=float, default=30.0, show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option("--workers", type=click.IntRange(1), default=2, show_default=True)
@click.option("--threads", type=click.IntRange(1), default=2, show_default=True)
@click.option("--queue", type=click.IntRange(2 * BATCH), default=256, show_default=True)
@click.option("--rows", "path", type=click.Path(path_type=Path), default="data/test.jsonl", show_default=True)
@click.option(
    "--most", type=click.IntRange(BATCH), default=320, show_default=True, help="The first rows, so many."
)
def main(
    model: str, times: float, seconds: float, rounds: int, workers: int, threads: int, queue: int, path: Path, most: int
) -> int:  # fmt: skip
    """Load a service, print what came of it as one JSON line, and the promises that it breaks."""
    rows = row_files.read(path)[:most]
    found = measure(Options(model, workers, threads, queue), rows, times, seconds, rounds)
    for promise in (left := broken(found)):
        command.progress(f"broken: {promise}")
    command.done(found)
    return int(bool(left))


if __name__ == "__main__":
    main()
