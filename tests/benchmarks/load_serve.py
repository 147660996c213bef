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
from typing import Any

import click
import httpx2
import numpy as np

import cartlm
from cartlm import command
from cartlm.task import rows as row_files
from cartlm.task.rows import Row

Outcome = tuple[int, int | str, float, Any]
"""Row, status or the error's name, milliseconds, intent."""


async def ask_all(
    url: str, rows: Sequence[Row], rate: float, seconds: float, variant: str | None
) -> list[Outcome]:
    """The outcome of each request, sent at `rate` a second for so many `seconds`."""
    key = os.environ.get("CARTLM_API_KEY")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=200)
    async with httpx2.AsyncClient(
        base_url=url, headers=headers, limits=limits, timeout=120, trust_env=False
    ) as client:
        start = time.perf_counter()

        async def ask(number: int) -> Outcome:
            due, row = start + number / rate, rows[number % len(rows)]
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            body = {"message": row.message, "catalog": row.catalog, "variant": variant}
            status: int | str
            intent = None
            try:
                answer = await client.post("/v1/intents", json=body)
                status = answer.status_code
                intent = answer.json()["intent"] if status == 200 else None
            except httpx2.HTTPError as error:
                status = type(error).__name__
            return number % len(rows), status, 1000 * (time.perf_counter() - due), intent

        return await asyncio.gather(*(ask(number) for number in range(int(rate * seconds))))


def wrong_answers(outcomes: Sequence[Outcome], rows: Sequence[Row], model: str) -> int:
    """How many answers are not those of a reader of our own."""
    with cartlm.load(model) as reader:
        asked = {number for number, status, _, _ in outcomes if status == 200}
        ours = {
            each: reader.predict(rows[each].catalog, rows[each].message).intent.canonical() for each in asked
        }
    return sum(
        json.dumps(intent, ensure_ascii=False) != ours[number]
        for number, status, _, intent in outcomes
        if status == 200
    )


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
    counts = Counter(str(status) for _, status, _, _ in outcomes)
    accepted = [ms for _, status, ms, _ in outcomes if status == 200]
    result: dict[str, Any] = {
        "asked": len(outcomes), "asked_per_s": rate, "answered_per_s": round(len(accepted) / took, 1),
        "statuses": dict(sorted(counts.items())), "share_429": round(counts["429"] / max(1, len(outcomes)), 4),
    }  # fmt: skip
    if accepted:
        p50, p99 = np.percentile(accepted, (50, 99))
        result |= {"latency_ms_p50": round(float(p50), 1), "latency_ms_p99": round(float(p99), 1)}
    if model:
        result["wrong"] = wrong_answers(outcomes, rows, model)
    command.done(result)


if __name__ == "__main__":
    main()
