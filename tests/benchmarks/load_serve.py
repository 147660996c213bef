"""Ask a running service at a fixed rate, whatever it answers, and print what came of it as JSON.

    cartlm serve q4_k_m --port 8000 &
    python -m tests.benchmarks.load_serve http://127.0.0.1:8000 --rate 200 --seconds 30 --model q4_k_m

The messages are the rows of data/test.jsonl (or of --rows). Requests leave by the clock (open loop), so that a slow service gets no
fewer of them. Each 200 is compared with the answer of a reader of our own, of which the time is not taken. Latencies are from
the moment that a request was due, in milliseconds. The key of the service is read from CARTLM_API_KEY.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
import httpx2
import numpy as np

import cartlm
from cartlm import command
from cartlm.task import rows as row_files
from cartlm.task.rows import Row


class Outcome(NamedTuple):
    """Of the request about a row: the status or the error's name, milliseconds since it was due, of which it left `late_ms` late."""

    row: int
    status: int | str
    ms: float
    late_ms: float
    intent: Any


def client(url: str) -> httpx2.AsyncClient:
    """As many connections as there are requests, with the key in CARTLM_API_KEY."""
    key = os.environ.get("CARTLM_API_KEY")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=200)
    return httpx2.AsyncClient(base_url=url, headers=headers, limits=limits, timeout=120, trust_env=False)


async def ask_all(
    url: str, rows: Sequence[Row], rate: float, seconds: float, variant: str | None
) -> list[Outcome]:
    """The outcome of each request, sent at `rate` a second for so many `seconds`."""
    async with client(url) as asking:
        start = time.perf_counter()

        async def ask(number: int) -> Outcome:
            due, row = start + number / rate, rows[number % len(rows)]
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            sent = time.perf_counter()
            body = {"message": row.message, "catalog": row.catalog, "variant": variant}
            status: int | str
            intent = None
            try:
                answer = await asking.post("/v1/intents", json=body)
                status = answer.status_code
                intent = answer.json()["intent"] if status == 200 else None
            except httpx2.HTTPError as error:
                status = type(error).__name__
            ms, late_ms = 1000 * (time.perf_counter() - due), 1000 * (sent - due)
            return Outcome(number % len(rows), status, ms, late_ms, intent)

        return await asyncio.gather(*(ask(number) for number in range(int(rate * seconds))))


def wrong_answers(outcomes: Sequence[Outcome], rows: Sequence[Row], reader: cartlm.Reader) -> int:
    """How many answers are not those of the reader."""
    answered = [each for each in outcomes if each.status == 200]
    ours = {
        number: reader.predict(rows[number].catalog, rows[number].message).intent.canonical()
        for number in {each.row for each in answered}
    }
    return sum(json.dumps(each.intent, ensure_ascii=False) != ours[each.row] for each in answered)


@click.command(cls=command.Guard)
@click.argument("url")
@click.option("--rate", type=float, default=50.0, show_default=True, help="Requests a second.")
@click.option("--seconds", type=float, default=30.0, show_default=True)
@click.option("--rows", "path", type=click.Path(path_type=Path), default="data/test.jsonl", show_default=True)
@click.option("--variant", help="By default the service's default one.")
@click.option("--model", help="Compare with this variant or model, loaded here afterwards.")
def main(url: str, rate: float, seconds: float, path: Path, variant: str | None, model: str | None) -> None:
    """Load a service and print what came of it."""
    rows = row_files.read(path)
    begun = time.perf_counter()
    outcomes = asyncio.run(ask_all(url, rows, rate, seconds, variant))
    took = time.perf_counter() - begun
    counts = Counter(str(each.status) for each in outcomes)
    accepted = [each.ms for each in outcomes if each.status == 200]
    result: dict[str, Any] = {
        "asked": len(outcomes), "asked_per_s": rate, "answered_per_s": round(len(accepted) / took, 1),
        "statuses": dict(sorted(counts.items())), "share_429": round(counts["429"] / max(1, len(outcomes)), 4),
    }  # fmt: skip
    if accepted:
        p50, p99 = np.percentile(accepted, (50, 99))
        result |= {"latency_ms_p50": round(float(p50), 1), "latency_ms_p99": round(float(p99), 1)}
    if model:
        with cartlm.load(model) as reader:
            result["wrong"] = wrong_answers(outcomes, rows, reader)
    command.done(result)


if __name__ == "__main__":
    main()
