"""How long queries take: one at a time, from the prompt's text to the answer's."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from cartlm.engines.answer import Engine
from cartlm.prompt import PromptBuilder


@dataclass(frozen=True)
class Query:
    """One answered query. Seconds; `latency_s` is all of it: tokenizing, prefill, decode, detokenizing."""

    latency_s: float
    prompt_tokens: int
    decoded_tokens: int
    prefill_s: float
    decode_s: float
    stopped: bool  # at EOS, not at the cap


def queries(
    engine: Engine, builder: PromptBuilder, prompts: Sequence[str], max_new_tokens: int
) -> list[Query]:
    """Answer the prompts one after the other and time each."""
    made = []
    for prompt in prompts:
        started = time.perf_counter()
        answer = engine.answer(builder.prompt_ids(prompt), max_new_tokens)
        ended = time.perf_counter()
        made.append(
            Query(
                latency_s=ended - started,
                prompt_tokens=answer.prompt_tokens,
                decoded_tokens=answer.decoded_tokens,
                prefill_s=answer.prefill_s,
                decode_s=answer.decode_s,
                stopped=answer.finish_reason == "stop",
            )
        )
    return made


def rates(made: Sequence[Query]) -> dict[str, float]:
    """Speeds over the queries of one process; a rate that nothing was measured for is absent.

    prefill_tokens_per_s, decode_tokens_per_s: tokens over seconds of that phase, all queries together (so long
    prompts weigh more); queries_per_s: one query at a time, nothing batched.
    """
    sums = {
        "prefill_tokens_per_s": (sum(q.prompt_tokens for q in made), sum(q.prefill_s for q in made)),
        "decode_tokens_per_s": (sum(q.decoded_tokens for q in made), sum(q.decode_s for q in made)),
        "queries_per_s": (len(made), sum(q.latency_s for q in made)),
    }
    return {name: count / seconds for name, (count, seconds) in sums.items() if count and seconds > 0}
