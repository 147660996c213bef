"""Latency of queries, one at a time, from the prompt's text to the answer's."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cartlm.engines.answer import Engine


@dataclass(frozen=True)
class Query:
    """One answered query. Seconds; `latency_s` is all of it: tokenizing, prefill, decode, detokenizing."""

    latency_s: float
    ttft_s: float  # to the first token: tokenizing and prefill
    prompt_tokens: int
    decoded_tokens: int
    prefill_s: float
    decode_s: float
    stopped: bool  # at EOS, not at the cap
    exact: bool | None  # Answer.exact; None where no completion is expected


def queries(
    engine: Engine,
    tokenize: Callable[[Any], list[int]],
    prompts: Sequence[tuple[Any, str | None]],
    max_new_tokens: int,
) -> list[Query]:
    """Answer (prompt, expected completion) pairs one after the other and time each; `tokenize` makes a prompt's ids."""
    answered = []
    for prompt, expected in prompts:
        started = time.perf_counter()
        ids = tokenize(prompt)
        tokenized = time.perf_counter()
        answer = engine.answer(ids, max_new_tokens)
        ended = time.perf_counter()
        query = Query(
            ended - started, tokenized - started + answer.prefill_s, answer.prompt_tokens, answer.decoded_tokens,
            answer.prefill_s, answer.decode_s, stopped=answer.finish_reason == "stop",
            exact=None if expected is None else answer.exact(expected),
        )  # fmt: skip
        answered.append(query)
    return answered


def rates(answered: Sequence[Query]) -> dict[str, float]:
    """Speeds over the queries of one process; a rate that nothing was measured for is absent.

    prefill_tokens_per_s, decode_tokens_per_s: tokens over seconds of that phase, all queries together (so long
    prompts weigh more); queries_per_s: one query at a time, nothing batched. The first token of an answer comes out
    of the prefill, and EOS costs a pass like any other: an answer cut at the cap had one pass fewer than tokens.
    """
    passes = sum(query.decoded_tokens - (not query.stopped) for query in answered)
    sums = {
        "prefill_tokens_per_s": (sum(q.prompt_tokens for q in answered), sum(q.prefill_s for q in answered)),
        "decode_tokens_per_s": (passes, sum(q.decode_s for q in answered)),
        "queries_per_s": (len(answered), sum(q.latency_s for q in answered)),
    }
    return {name: count / seconds for name, (count, seconds) in sums.items() if count and seconds > 0}
