"""The answers of one variant to a user's rows, asked for as the stage eval does, and kept on disk as they come."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from cartlm.engines.answer import Answer
from cartlm.engines.collect import collect_answers
from cartlm.errors import UserError
from cartlm.evaluation.answers import evenly_spaced
from cartlm.evaluation.constrained import constrained, ensemble
from cartlm.evaluation.reading import ENGINES, Within, open_asked
from cartlm.own_rows.variants import Served, Variant
from cartlm.params import Params
from cartlm.serving.models import Model
from cartlm.serving.reader import Mode, Unreadable, ensemble_margin, load
from cartlm.system import cpu_limits
from cartlm.task.prompt import PromptBuilder
from cartlm.task.rows import Row
from cartlm.text import counted, few

NOTHING = Answer("", (), "stop", 0, 0, 0, 0.0, 0.0)
"""The answer to a row that could not be asked."""


@dataclass(frozen=True)
class Order:
    """How variants are asked: with which params and decoding, where answers are kept, and how many rows are timed."""

    params: Params
    way: Mode
    store: Path
    timed: int = 50


@dataclass(frozen=True)
class Answered:
    """A variant's answers in the order of the rows, and notes on them.

    `latency_ms`: of a model, evenly spaced rows read once more, one at a time on all threads, as `cartlm.load` reads them; of a
    server, every row, from the request to the last byte, several at a time. `about`: engine and decoding.
    """

    name: str
    answers: list[Answer]
    latency_ms: list[float]
    about: dict[str, Any]
    notes: list[str]


def answer_rows(variant: Variant, rows: Sequence[Row], order: Order) -> Answered:
    """The answers of a variant to all `rows`; those that an earlier run left in `order.store` are not asked again.

    Servers and the baseline know no constrained decoding: `order.way` means nothing to them.
    """
    if isinstance(variant, Served):
        return _ask_server(variant, rows, order)
    model, params = variant.model, order.params
    twice, margin = model.engine in ENGINES, None
    if twice and order.way == "ensemble":
        margin = ensemble_margin(model)
    busy, latency = _busy(), _latency_ms(model, rows, order, margin)
    within = Within(params.decoding.max_quantity, model.baseline, params.decoding.none) if twice else None
    separator, limit = params.prompt.separator, params.eval.max_new_tokens
    with open_asked(model.engine, model.path, separator, limit, cpu_limits.threads(), within) as asked:
        places, notes = _askable(asked.builder, rows, params)
        notes += busy if latency else []
        kept = [rows[at] for at in places]
        job = asked.job(kept)
        order.store.mkdir(parents=True, exist_ok=True)
        part = order.store / f"{job.key(asked.engine)}.jsonl"
        answers = collect_answers(asked.engine, job, part, variant.name)
        about = {**asked.about, "decoding": order.way} if twice else asked.about
    if twice and order.way != "free":
        notes += _bounds(kept, answers, params)
        choose = constrained if margin is None else partial(ensemble, margin=margin)
        answers = [choose(answer) for answer in answers]
    found = dict(zip(places, answers, strict=True))
    return Answered(variant.name, [found.get(at, NOTHING) for at in range(len(rows))], latency, about, notes)


def _bounds(rows: Sequence[Row], answers: Sequence[Answer], params: Params) -> list[str]:
    """Notes on rows that constrained decoding cannot answer, or not rightly."""
    notes, bound = [], params.decoding.max_quantity
    if long := [row.id for row, answer in zip(rows, answers, strict=True) if answer.legal is None]:
        what = "do not fit into the model with their answers and keep their free ones"
        notes.append(f"{len(long)} rows {what}: {few(long, 4)}")
    if many := [row.id for row in rows if row.intent.quantity > bound]:
        what = f"rows ask for more than decoding.max_quantity={bound}, so that no legal answer is right"
        notes.append(f"{len(many)} {what}: {few(many, 4)}")
    return notes


def _askable(builder: PromptBuilder, rows: Sequence[Row], params: Params) -> tuple[list[int], list[str]]:
    """The places of the rows without a special token, and notes on the others and on rows longer than those of training."""
    asked, refused, long = [], [], []
    most = params.prompt.max_tokens
    for at, row in enumerate(rows):
        try:
            size = len(builder.prompt_ids(row.prompt))
        except UserError:
            refused.append(row.id)
            continue
        asked.append(at)
        if size > most:
            long.append(row.id)
    notes = []
    if refused:
        why = "hold a special token of the model and count as unparseable"
        notes.append(f"{len(refused)} rows {why}: {few(refused, 4)}")
    if long:
        what = f"prompts are longer than those of training (prompt.max_tokens={most})"
        notes.append(f"{len(long)} {what}: {few(long, 4)}")
    return asked, notes


def _busy() -> list[str]:
    """A note where more wants to run than there are CPUs: the threads of a model then wait for one another."""
    load, cpus = os.getloadavg()[0], os.cpu_count() or 1
    what = (
        f"the machine was busy (load average {load:.3g} on {counted(cpus, 'CPU')}), so latencies are too high"
    )
    return [what] if load > cpus else []


def _latency_ms(model: Model, rows: Sequence[Row], order: Order, margin: float | None) -> list[float]:
    """Milliseconds from message to intent of evenly spaced rows, read one at a time on all threads as `cartlm.load` reads them.

    Rows that it refuses are left out; an answer that is no intent took its time all the same.
    """
    if not (chosen := [rows[at] for at in evenly_spaced(len(rows), order.timed)]):
        return []
    params = order.params
    reader = load(
        model.path, decoding=order.way, margin=margin, separator=params.prompt.separator, max_tokens=params.prompt.max_tokens,
        max_new_tokens=params.eval.max_new_tokens, max_quantity=params.decoding.max_quantity, none=params.decoding.none,
    )  # fmt: skip

    def timed(catalog: Sequence[str], message: str) -> list[float]:
        started = time.perf_counter()
        try:
            reader.predict(catalog, message)
        except Unreadable as error:
            if error.answer is None:
                return []
        return [1000 * (time.perf_counter() - started)]

    with reader:
        # the first answer warms up; a catalog turned round is another one to the prefix cache
        any(timed(row.catalog[::-1], row.message) for row in chosen)
        return [each for row in chosen for each in timed(row.catalog, row.message)]


def _ask_server(variant: Served, rows: Sequence[Row], order: Order) -> Answered:
    from cartlm.engines.replies import Asking, collect_replies
    from cartlm.evaluation.remote import engine_section, row_request

    remote = variant.server
    requests = [row_request(row, remote, order.params.prompt.separator) for row in rows]
    digest = hashlib.sha256(repr([remote.base_url, remote.model]).encode()).hexdigest()[:16]
    path = order.store / f"{digest}.replies.jsonl"
    replies = collect_replies(requests, Asking(remote, variant.key, path, "the same command", variant.name))
    every = [replies[request.key] for request in requests]
    latency, answers = [1000 * reply.latency_s for reply in every], [reply.answer() for reply in every]
    return Answered(variant.name, answers, latency, dict(engine_section(every, remote)), [])
