"""Measures each way of decoding (cartlm.bench.ways) on one GGUF file."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import llama_cpp as library

from cartlm.bench import llama_tools
from cartlm.bench.config import BenchDecoding
from cartlm.bench.ways import (
    ACCEPTED,
    DRAFT,
    FLOOR,
    FREE,
    JUMP,
    LIBRARY,
    SERVER,
    Query,
    Took,
    schema,
    sections,
    sessions,
)  # fmt: skip
from cartlm.decoding.constrained import Constrained
from cartlm.decoding.llama_cpp_cache import LlamaCppCache
from cartlm.decoding.prefix_cache import PrefixCache
from cartlm.engines import llama_cpp
from cartlm.errors import UserError
from cartlm.task.intent import Intent
from cartlm.task.prompt import PromptBuilder, render_prompt
from cartlm.task.rows import Row

PRIME = "prime"  # finds the answers that others are held against, untimed
SPARE = 64  # tokens of the context for answers longer than their label
CACHE_MIB = 256.0
Draft = Callable[[Sequence[str], str], Intent]
Answer = Callable[[Query], Took]


@contextmanager
def open_ways(
    model: Path, separator: str, max_quantity: int, threads: int, context_tokens: int, draft: Draft
) -> Iterator[tuple[dict[str, Answer], llama_cpp.LlamaCpp]]:  # fmt: skip
    """Each way by its name, and the engine; `draft` is the reader that proposes answers."""
    with ExitStack() as stack:
        engine = stack.enter_context(llama_cpp.load(model, context_tokens, threads))
        builder = engine.prompt_builder(separator)
        known: dict[tuple[tuple[str, ...], str], Intent] = {}

        def ours(proposed: Draft | None) -> Answer:
            cache = stack.enter_context(LlamaCppCache(engine, context_tokens))
            shop = Constrained(cache, builder, max_quantity, PrefixCache(CACHE_MIB), proposed)
            return partial(_constrained, shop, known)

        running = llama_tools.server(model, 1, context_tokens, threads, keep_prompts=True)
        port = stack.enter_context(running)
        prime = Constrained(stack.enter_context(LlamaCppCache(engine, context_tokens)), builder, max_quantity)
        ways: dict[str, Answer] = {
            PRIME: partial(_constrained, prime, known),
            LIBRARY: _library(model, context_tokens, threads),
            SERVER: partial(_server, port),
            FREE: partial(_free, engine),
            JUMP: ours(None),
            DRAFT: ours(draft),
            ACCEPTED: ours(lambda catalog, message: known[tuple(catalog), message]),
            FLOOR: _Floor(stack.enter_context(LlamaCppCache(engine, context_tokens))),
        }  # fmt: skip
        yield ways, engine


def _library(model: Path, context_tokens: int, threads: int) -> Answer:
    """llama-cpp-python's high-level interface, which keeps the prefix that two prompts in a row share."""
    llama = library.Llama(
        str(model), n_ctx=context_tokens, n_batch=context_tokens, n_threads=threads, n_threads_batch=threads,
        verbose=False,
    )  # fmt: skip

    def answer(query: Query) -> Took:
        started = time.perf_counter()
        llama.create_completion(query.ids, max_tokens=query.most, temperature=0.0)
        return Took(time.perf_counter() - started)

    return answer


def _server(port: int, query: Query) -> Took:
    more = {"json_schema": schema(query.catalog), "cache_prompt": True}
    return Took(llama_tools.complete(port, query.ids, query.most, more)[0])


def _free(engine: llama_cpp.LlamaCpp, query: Query) -> Took:
    started = time.perf_counter()
    answer = engine.answer(query.ids, query.most)
    seconds = time.perf_counter() - started
    # the pass after the last token of an answer that was cut is not made
    return Took(seconds, answer.decoded_tokens + (answer.finish_reason == "stop"))


def _constrained(shop: Constrained, known: dict[Any, Intent], query: Query) -> Took:
    started = time.perf_counter()
    reply = shop.answer(query.catalog, query.message)
    seconds = time.perf_counter() - started
    same = known.setdefault((query.catalog, query.message), reply.intent) == reply.intent
    return Took(seconds, reply.decoded.forward_passes, same)


class _Floor:
    """One forward pass over what has to be read: no way that asks the model can be faster.

    The catalog's part of a prompt is what it shares with the prompt before; it is read untimed where the query is warm.
    """

    def __init__(self, cache: LlamaCppCache) -> None:
        self._cache, self._last = cache, Query((), "", [], 0)

    def __call__(self, query: Query) -> Took:
        shared = 0
        if query.catalog == self._last.catalog:
            pairs = zip(query.ids[:-1], self._last.ids, strict=False)
            shared = next((place for place, (a, b) in enumerate(pairs) if a != b), len(query.ids) - 1)
        self._last = query
        self._cache.reserve(len(query.ids) + query.most)
        self._cache.keep(0)
        if shared:
            self._cache.forward(query.ids[:shared], [])
        # an answer's tokens, whichever they are
        pending = query.ids[shared:] + query.ids[: query.most - 1]
        started = time.perf_counter()
        self._cache.forward(pending, [len(pending) - 1])
        return Took(time.perf_counter() - started, 1)


def measure(
    model: Path, rows: Sequence[Row], settings: BenchDecoding, separator: str, max_quantity: int, threads: int,
    draft: Draft, progress: Callable[[str], None],
) -> dict[str, dict[str, Any]]:  # fmt: skip
    """The sections of metrics/decoding/NAME.json: `engine`, `workload`, and one for each way.

    Raises UserError for too few rows, a model that does not load, and a llama-server that does not start.
    """
    chosen = sessions(rows, settings.sessions + 1, settings.messages, settings.seed)
    if len(chosen) < 3:
        what = (
            f"{len(rows)} test rows make {len(chosen)} sessions of {settings.messages} messages, 3 are needed"
        )
        raise UserError(what, "lower bench_decoding.messages in params.yaml")
    with llama_cpp.load_vocabulary(model) as vocabulary:
        builder = vocabulary.prompt_builder(separator)
        asked = [[_query(builder, session.catalog, row) for row in session.rows] for session in chosen]
    every = [query for queries in asked for query in queries]
    context_tokens = max(len(query.ids) + query.most for query in every) + SPARE
    took: dict[str, list[list[Took]]] = {}
    rng = random.Random(f"ways {settings.seed}")
    with open_ways(model, separator, max_quantity, threads, context_tokens, draft) as (ways, engine):
        prime = ways.pop(PRIME)
        for number, queries in enumerate(asked):
            for query in queries:
                prime(query)
            for name in rng.sample(sorted(ways), len(ways)):
                of_session = [ways[name](query) for query in queries]
                if number:  # the first session warms up
                    took.setdefault(name, []).append(of_session)
            progress(f"{number}/{len(asked) - 1} sessions")
        described = engine.describe()
    measured = every[len(asked[0]) :]
    workload = {
        "sessions": len(asked) - 1,
        "queries": len(measured),
        "prompt_tokens": fmean(len(query.ids) for query in measured),
        "answer_tokens": fmean(query.most for query in measured),
    }
    return {"engine": described, "workload": workload, **sections(took, settings.seed)}


def _query(builder: PromptBuilder, catalog: tuple[str, ...], row: Row) -> Query:
    ids = builder.prompt_ids(render_prompt(catalog, row.message))
    return Query(catalog, row.message, ids, len(builder.completion_ids(row.completion)))
