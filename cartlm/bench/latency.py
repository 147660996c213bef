"""How long queries take: one at a time, from the prompt's text to the answer's."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cartlm.engines.answer import Engine


@dataclass(frozen=True)
class Query:
    """One answered query. Seconds; `latency_s` is all of it: tokenizing, prefill, decode, detokenizing.

    `ttft_s` is the time to the first token: tokenizing and prefill.
    """

    latency_s: float
    ttft_s: float
    prompt_tokens: int
    decoded_tokens: int
    prefill_s: float
    decode_s: float
    stopped: bool  # at EOS, not at the cap
    exact: bool | None  # Answer.exact; None where none is known


def queries(
    engine: Engine,
    tokenize: Callable[[Any], list[int]],
    prompts: Sequence[tuple[Any, str | None]],
    max_new_tokens: int,
) -> list[Query]:
    """Answer (prompt, expected completion) pairs one after the other and time each; `tokenize` makes a prompt's ids."""
    made = []
    for prompt, expected in prompts:
        started = time.perf_counter()
        ids = tokenize(prompt)
        tokenized = time.perf_counter()
        answer = engine.answer(ids, max_new_tokens)
        ended = time.perf_counter()
        made.append(
            Query(
                latency_s=ended - started,
                ttft_s=tokenized - started + answer.prefill_s,
                prompt_tokens=answer.prompt_tokens,
                decoded_tokens=answer.decoded_tokens,
                prefill_s=answer.prefill_s,
                decode_s=answer.decode_s,
                stopped=answer.finish_reason == "stop",
                exact=None if expected is None else answer.exact(expected),
            )
        )
    return made


def rates(made: Sequence[Query]) -> dict[str, float]:
    """Speeds over the queries of one process; a rate that nothing was measured for is absent.

    prefill_tokens_per_s, decode_tokens_per_s: tokens over seconds of that phase, all queries together (so long
    prompts weigh more); queries_per_s: one query at a time, nothing batched. The first token of an answer comes out
    of the prefill, and EOS costs a pass like any other: an answer cut at the cap had one pass fewer than tokens.
    """
    passes = sum(q.decoded_tokens - (not q.stopped) for q in made)
    sums = {
        "prefill_tokens_per_s": (sum(q.prompt_tokens for q in made), sum(q.prefill_s for q in made)),
        "decode_tokens_per_s": (passes, sum(q.decode_s for q in made)),
        "queries_per_s": (len(made), sum(q.latency_s for q in made)),
    }
    return {name: count / seconds for name, (count, seconds) in sums.items() if count and seconds > 0}
