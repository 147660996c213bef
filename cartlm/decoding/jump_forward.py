"""Greedy decoding within a trie: one forward pass a decision, forced tokens ride along, and a draft saves passes.

Jump-forward: what no decision is needed for is read together with the tokens before the next decision. A draft, a whole
proposed answer, rides behind the prompt in the first pass, as in speculative decoding (arXiv 2211.17192): it is accepted
up to the first decision at which the model chooses otherwise.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cartlm.decoding.cache import Cache
from cartlm.decoding.trie import Node, Trie
from cartlm.errors import UserError
from cartlm.task.intent import Intent


@dataclass(frozen=True)
class Decoded:
    """An answer and what it took.

    `token_ids` exclude EOS and are `decided` + `forced` tokens. `probability` is of this answer among the legal ones: the
    product, over the decisions, of the softmax over the tokens allowed there. The draft proposed `drafted` decisions, of which
    the model made the first `accepted` alike. `prefill_s`: seconds up to
    the first decision's logits, `decode_s` all after that.
    """

    intent: Intent
    token_ids: tuple[int, ...]
    decided: int
    forced: int
    forward_passes: int
    drafted: int
    accepted: int
    probability: float
    prefill_s: float
    decode_s: float


@dataclass(frozen=True, slots=True)
class _Decision:
    """A node with several children, the place in a forward pass after which it is made, and what the draft proposes."""

    node: Node
    place: int
    proposed: int | None = None


class _Walk:
    """The way through a trie so far."""

    def __init__(self, trie: Trie) -> None:
        self.node, self.ids, self.known = trie.root, list[int](), dict[str, Any]()
        self.decided, self.log_probability = 0, 0.0

    def step(self, token: int) -> None:
        self.node = self.node.children[token]
        self.ids.append(token)
        self.known |= self.node.known

    def decide(self, logits: Any) -> int:
        """Take the likeliest child, of equal ones the one of the lowest id. Raises UserError for NaN and infinity."""
        tokens = sorted(self.node.children)
        values = np.asarray(logits[tokens], dtype=np.float64)
        best = int(values.argmax())
        if not math.isfinite(values[best]):
            raise UserError(
                f"the model computes {values[best]}", "take a variant of more bits, or bfloat16 for float16"
            )
        self.log_probability -= float(np.log(np.exp(values - values[best]).sum()))
        self.decided += 1
        self.step(tokens[best])
        return tokens[best]

    def jump(self) -> list[int]:
        """Take the tokens up to the next decision or the end, and return them."""
        forced = []
        while len(self.node.children) == 1:
            (token,) = self.node.children
            self.step(token)
            forced.append(token)
        return forced


def decode(cache: Cache, pending: Sequence[int], trie: Trie, draft: Sequence[int] = ()) -> Decoded:
    """The greedy legal answer after what `cache` holds and `pending`, at least one token.

    `draft` are the ids of a proposed answer, as `LegalAnswers.ids` gives them; what is not legal of it is ignored. The
    answer is the same with and without one, but for decisions so close that the rounding of a wider pass turns them.
    """
    if not pending:
        raise ValueError("nothing to read before the answer")
    walk, batch = _Walk(trie), list(pending)
    batch += walk.jump()
    draft = draft if list(draft[: len(walk.ids)]) == walk.ids else ()
    proposed, decisions = _follow(walk.node, draft[len(walk.ids) :], len(batch) - 1)
    batch += proposed
    passes, accepted, drafted = 0, 0, sum(decision.proposed is not None for decision in decisions)
    started = prefilled = time.perf_counter()
    while walk.node.children:
        before = len(cache.ids)
        rows = cache.forward(batch, [decision.place for decision in decisions])
        passes += 1
        if passes == 1:
            prefilled = time.perf_counter()
        for decision, row in zip(decisions, rows, strict=True):
            chosen = walk.decide(row)
            batch = [chosen, *walk.jump()]
            if chosen != decision.proposed:
                cache.keep(before + decision.place + 1)
                break
            accepted += 1
        decisions = [_Decision(walk.node, len(batch) - 1)]
    ended = time.perf_counter()
    ids = tuple(walk.ids[:-1])
    return Decoded(
        Intent(**walk.known), ids, walk.decided, len(ids) - walk.decided, passes, drafted, accepted,
        math.exp(walk.log_probability), prefilled - started, ended - prefilled,
    )  # fmt: skip


def _follow(node: Node, draft: Sequence[int], place: int) -> tuple[list[int], list[_Decision]]:
    """The draft's tokens from `node`, read after `place`, up to the last decision on its legal way; and its decisions."""
    decisions, ends = [], 0
    for count, token in enumerate(draft):
        if len(node.children) > 1:
            decisions.append(_Decision(node, place + count, token))
            ends = count
        if token not in node.children:
            break
        node = node.children[token]
    return list(draft[:ends]), decisions or [_Decision(node, place)]
