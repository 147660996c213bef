"""The answers of one variant to a user's rows, asked for as the stage eval does, and kept on disk as they come."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cartlm.engines.answer import Answer
from cartlm.engines.collect import Job, collect_answers, file_digest
from cartlm.errors import UserError
from cartlm.evaluation.answers import draft_and_verify_job, evenly_spaced, open_engine
from cartlm.evaluation.constrained import ENGINES, is_legal
from cartlm.own_rows.variants import Local, Served, Variant
from cartlm.own_rows.within import NOTHING, open_within
from cartlm.params import Params
from cartlm.serving.models import Model
from cartlm.serving.reader import Mode
from cartlm.system import cpu_limits
from cartlm.task.prompt import PromptBuilder
from cartlm.task.rows import Row
from cartlm.text import few


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

    `latency_ms`: of a model, evenly spaced rows asked once more, one at a time on all threads, from message to answer; of a
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
    model = variant.model
    constrained = order.way == "constrained" and model.engine in ENGINES
    latency = _latency_ms(model, rows, order, constrained)
    digest = file_digest(model.path)
    with open_engine(model.engine, model.path, cpu_limits.threads()) as engine:
        builder = engine.prompt_builder(order.params.prompt.separator)
        asked, notes = _askable(builder, rows, order.params)
        kept = [rows[at] for at in asked]
        answers = _free(variant, digest, engine, builder, kept, order)
        if constrained:
            answers, more = _constrained(variant, digest, engine, builder, kept, answers, order)
            notes += more
        about = {**engine.describe(), **({"decoding": order.way} if model.engine in ENGINES else {})}
    found = dict(zip(asked, answers, strict=True))
    return Answered(variant.name, [found.get(at, NOTHING) for at in range(len(rows))], latency, about, notes)


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


def _free(
    variant: Local, digest: str, engine: Any, builder: PromptBuilder, rows: Sequence[Row], order: Order
) -> list[Answer]:
    """Free answers; a right one is verified in one forward pass, as in the stage eval. `digest` is of the model."""
    limit = order.params.eval.max_new_tokens
    if hasattr(engine, "verify_draft"):
        job = draft_and_verify_job(digest, rows, builder, limit)
    else:
        job = Job(digest, [builder.prompt_ids(row.prompt) for row in rows], limit)
    free = f"{variant.name}, free" if variant.model.engine in ENGINES else variant.name
    return _collect(engine, job, order, free)


def _collect(engine: Any, job: Job, order: Order, label: str) -> list[Answer]:
    order.store.mkdir(parents=True, exist_ok=True)
    return collect_answers(engine, job, order.store / f"{job.key(engine)}.jsonl", label)


def _constrained(
    variant: Local, digest: str, engine: Any, builder: PromptBuilder, rows: Sequence[Row], free: list[Answer],
    order: Order,
) -> tuple[list[Answer], list[str]]:  # fmt: skip
    """The answers within the catalogs, given the free ones: a legal one stays (cartlm.evaluation.constrained)."""
    bound = order.params.decoding.max_quantity
    prompts = [builder.prompt_ids(row.prompt) for row in rows]
    by_ids = {tuple(ids): row for ids, row in zip(prompts, rows, strict=True)}
    with open_within(variant.model.engine, engine, builder, bound, by_ids) as within:
        every = enumerate(zip(rows, free, strict=True))
        again = [at for at, (row, answer) in every if not is_legal(within.legal, row, answer)]
        job = Job(digest, [prompts[at] for at in again], order.params.eval.max_new_tokens)
        found = dict(zip(again, _collect(within, job, order, f"{variant.name}, constrained"), strict=True))
    notes = []
    if long := [rows[at].id for at, answer in found.items() if answer == NOTHING]:
        what = "do not fit into the model with their answers and keep their free ones"
        notes.append(f"{len(long)} rows {what}: {few(long, 4)}")
    if many := [row.id for row in rows if row.intent.quantity > bound]:
        what = f"rows ask for more than decoding.max_quantity={bound}, so that no legal answer is right"
        notes.append(f"{len(many)} {what}: {few(many, 4)}")
    kept = {at: answer for at, answer in found.items() if answer != NOTHING}
    return [kept.get(at, answer) for at, answer in enumerate(free)], notes


def _latency_ms(model: Model, rows: Sequence[Row], order: Order, constrained: bool) -> list[float]:
    """Milliseconds from message to answer of evenly spaced rows, one at a time on all threads, after one that warms up.

    Apart from the answers that are scored, because drafts speed those up. Rows that cannot be asked are left out.
    """
    if not (chosen := [rows[at] for at in evenly_spaced(len(rows), order.timed)]):
        return []
    limit, seconds = order.params.eval.max_new_tokens, []
    with ExitStack() as stack:
        loaded = open_engine(model.engine, model.path, cpu_limits.threads(), replicas=1)
        engine: Any = stack.enter_context(loaded)
        builder = engine.prompt_builder(order.params.prompt.separator)
        asked, _ = _askable(builder, chosen, order.params)
        if constrained:
            ids = {tuple(builder.prompt_ids(chosen[at].prompt)): chosen[at] for at in asked}
            bound = order.params.decoding.max_quantity
            engine = stack.enter_context(open_within(model.engine, loaded, builder, bound, ids))
        for at in asked[:1] + asked:
            started = time.perf_counter()
            answer = engine.answer(builder.prompt_ids(chosen[at].prompt), limit)
            if answer != NOTHING:
                seconds.append(time.perf_counter() - started)
    return [1000 * each for each in seconds[1:]]


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
