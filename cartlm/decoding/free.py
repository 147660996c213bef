"""Greedy decoding without constraints over a KV cache, faster where a draft guesses the answer.

One forward pass over prompt and draft shows how much of the draft greedy decoding would choose (speculative decoding,
arXiv 2211.17192); from there it goes on token by token. A draft is nothing but a guess: it cannot make an answer right.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import numpy as np

from cartlm.decoding.cache import Cache
from cartlm.decoding.jump_forward import CLOSE, check_finite
from cartlm.engines.answer import FinishReason


@dataclass(frozen=True)
class Completed:
    """Tokens without the one that ended them; `prefill_s` are the seconds of the pass over prompt and draft."""

    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    prefill_s: float
    decode_s: float


def complete(
    cache: Cache, prompt_ids: Sequence[int], most: int, end_ids: Container[int], draft: Sequence[int] = (),
    look: Callable[[Sequence[Any]], None] | None = None,
) -> Completed:  # fmt: skip
    """The greedy completion of `prompt_ids` alone, up to one of `end_ids` or `most` tokens.

    `cache` is emptied first and must have room for both; it holds the prompt afterwards and some of the answer. A token of the
    draft that is CLOSE to another is decided in a pass of its own, as it would be without a draft. `look` gets the logits of
    the pass over prompt and draft, [vocabulary] after the prompt and after each token of the draft, which are valid during the
    call. Raises UserError for NaN and infinity.
    """
    draft = [*takewhile(lambda token: token not in end_ids, draft[:most])]
    cache.keep(0)
    started = time.perf_counter()
    last = len(prompt_ids) - 1
    rows = cache.forward([*prompt_ids, *draft], range(last, last + 1 + len(draft)))
    chosen = [_likeliest(row) for row in rows]
    close = [bool(draft) and is_close(row, token) for row, token in zip(rows, chosen, strict=True)]
    if look is not None:
        look(rows)
    every = [*prompt_ids, *draft]
    accepted = 0
    while True:
        if close[accepted]:
            chosen[accepted] = _likeliest(_alone(cache, every[: last + 1 + accepted], last))
        if accepted == len(draft) or chosen[accepted] != draft[accepted]:
            break
        accepted += 1
    prefilled = time.perf_counter()
    ids, token = draft[:accepted], chosen[accepted]
    reason: FinishReason = "length"
    while len(ids) < most:
        if token in end_ids:
            reason = "stop"
            break
        ids.append(token)
        if len(ids) < most:
            token = _likeliest(_alone(cache, [*prompt_ids, *ids], last))
    return Completed(tuple(ids), reason, prefilled - started, time.perf_counter() - prefilled)


def _alone(cache: Cache, ids: Sequence[int], last: int) -> Any:
    """Logits after `ids` by a pass over the last of them alone, or over the whole prompt if they are that, up to place `last`.

    The cache's own tokens are the beginning of `ids`, or `ids` are theirs.
    """
    begin = 0 if len(ids) == last + 1 else len(ids) - 1
    cache.keep(begin)
    if (held := len(cache.ids)) < begin:
        cache.forward(ids[held:begin], [])
    (logits,) = cache.forward(ids[begin:], [len(ids) - begin - 1])
    return logits


def _likeliest(logits: Any) -> int:
    token = int(np.argmax(logits))
    check_finite(float(logits[token]))
    return token


def is_close(logits: Any, token: int) -> bool:
    """Whether another token is so CLOSE to the likeliest that a batch's rounding might change the order."""
    return int(np.count_nonzero(logits >= logits[token] - CLOSE)) > 1
