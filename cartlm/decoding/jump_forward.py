"""Greedy decoding within a trie: one forward pass a decision, forced tokens ride along, and a draft saves passes.

Jump-forward: what no decision is needed for is read together with the tokens before the next decision. A draft, a whole
proposed answer, rides behind the prompt in the first pass, as in speculative decoding (arXiv 2211.17192): it is accepted
up to the first decision at which the model chooses otherwise. With a `margin` it is accepted whole where the model hardly
prefers another answer, which that paper calls lenience (its appendix A.5).
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

CLOSE = 1.2  # logits: a wider pass was seen to move one of Q4_K_M by 0.55, and two may move apart
CLEAR = 1 / (1 + math.exp(-CLOSE))
"""An answer with this probability has no decision within CLOSE: each is at least as probable as the whole answer."""


@dataclass(frozen=True)
class Decoded:
    """An answer and what it took.

    `token_ids` exclude EOS and are `decided` + `forced` tokens. `probability` is of this answer among the legal ones: the
    product, over the decisions, of the softmax over the tokens allowed there. The draft proposed `drafted` decisions, of which
    the model made the first `accepted` alike. `gap`: how far the draft's tokens are below the likeliest ones, in logits,
    summed over its decisions, and `draft_probability` as `probability`; None without a legal draft. `prefill_s`: seconds up to the first decision's logits, `decode_s`
    all after that.
    """

    intent: Intent
    token_ids: tuple[int, ...]
    decided: int
    forced: int
    forward_passes: int
    drafted: int
    accepted: int
    probability: float
    gap: float | None
    draft_probability: float | None
    prefill_s: float
    decode_s: float


@dataclass(frozen=True, slots=True)
class _Decision:
    """A node with several children, the place in a forward pass after which it is made, and what the draft proposes."""

    node: Node
    place: int
    proposed: int | None = None


class _Choice:
    """The children of a node by rising id, and how far each one's logit is below the likeliest. Raises UserError for NaN and
    infinity."""

    def __init__(self, node: Node, logits: Any) -> None:
        self.tokens = sorted(node.children)
        values = np.asarray(logits[self.tokens], dtype=np.float64)
        self.likeliest = self.tokens[int(values.argmax())]  # of equal ones that of the lowest id
        check_finite(values.max())
        self._below = values.max() - values

    def below(self, token: int) -> float:
        return float(self._below[self.tokens.index(token)])

    def log_probability(self, token: int) -> float:
        return -self.below(token) - float(np.log(np.exp(-self._below).sum()))


class _Walk:
    """The way through a trie so far."""

    def __init__(self, trie: Trie) -> None:
        self.node, self.ids, self.known = trie.root, list[int](), dict[str, Any]()
        self.decided, self.log_probability = 0, 0.0

    def step(self, token: int) -> None:
        self.node = self.node.children[token]
        self.ids.append(token)
        self.known |= self.node.known

    def decide(self, choice: _Choice, token: int) -> None:
        """Take one of several children."""
        self.log_probability += choice.log_probability(token)
        self.decided += 1
        self.step(token)

    def jump(self) -> list[int]:
        """Take the tokens up to the next decision or the end, and return them."""
        forced = []
        while len(self.node.children) == 1:
            (token,) = self.node.children
            self.step(token)
            forced.append(token)
        return forced


def decode(
    cache: Cache, pending: Sequence[int], trie: Trie, draft: Sequence[int] = (), margin: float | None = None
) -> Decoded:
    """The greedy legal answer after what `cache` holds and `pending`, at least one token.

    `draft` are the ids of a proposed answer, as `LegalAnswers.ids` gives them; what is not legal of it is ignored. The
    answer is the same with and without one, but for decisions so CLOSE that the rounding of a wider pass turns them; with a
    `margin` it is the draft wherever the `gap` is at most that.
    """
    if not pending:
        raise ValueError("nothing to read before the answer")
    walk, batch = _Walk(trie), list(pending)
    batch += walk.jump()
    draft = draft if list(draft[: len(walk.ids)]) == walk.ids else ()
    proposed, decisions, legal = _follow(walk.node, draft[len(walk.ids) :], len(batch) - 1)
    batch += proposed
    passes, accepted, drafted = 0, 0, sum(decision.proposed is not None for decision in decisions)
    gap, draft_probability, lenient = None, None, False
    started = prefilled = time.perf_counter()
    while walk.node.children:
        before = len(cache.ids)
        rows = cache.forward(batch, [decision.place for decision in decisions])
        passes += 1
        choices = [_Choice(decision.node, row) for decision, row in zip(decisions, rows, strict=True)]
        if passes == 1:
            prefilled = time.perf_counter()
            if legal:
                pairs = [(choice, one.proposed or 0) for choice, one in zip(choices, decisions, strict=True)]
                gap = sum(choice.below(token) for choice, token in pairs)
                draft_probability = math.exp(sum(choice.log_probability(token) for choice, token in pairs))
                lenient = margin is not None and gap <= margin
        for decision, choice in zip(decisions, choices, strict=True):
            token = choice.likeliest
            if lenient and decision.proposed is not None:
                token = decision.proposed
            walk.decide(choice, token)
            batch = [token, *walk.jump()]
            if token != decision.proposed:
                cache.keep(before + decision.place + 1)
                break
            accepted += 1
        decisions = [_Decision(walk.node, len(batch) - 1)]
    ended = time.perf_counter()
    ids = tuple(walk.ids[:-1])
    return Decoded(
        Intent(**walk.known), ids, walk.decided, len(ids) - walk.decided, passes, drafted, accepted,
        math.exp(walk.log_probability), gap, draft_probability, prefilled - started, ended - prefilled,
    )  # fmt: skip


def weigh(trie: Trie, draft: Sequence[int], rows: Sequence[Any]) -> tuple[float, float] | None:
    """The `gap` and `probability` of a draft (`Decoded`), given the logits before each of its tokens; None if it is not legal."""
    walk, gap = _Walk(trie), 0.0
    for token, row in zip(draft, rows, strict=True):
        if token not in walk.node.children:
            return None
        if len(walk.node.children) == 1:
            walk.step(token)
            continue
        choice = _Choice(walk.node, row)
        gap += choice.below(token)
        walk.decide(choice, token)
    return None if walk.node.children else (gap, math.exp(walk.log_probability))


def check_finite(logit: float) -> None:
    """Raise UserError for the NaN or infinity that a broken model computes."""
    if not math.isfinite(logit):
        raise UserError(f"the model computes {logit}", "take a variant of more bits, or bfloat16 for float16")


def _follow(node: Node, draft: Sequence[int], place: int) -> tuple[list[int], list[_Decision], bool]:
    """The draft's tokens from `node`, read after `place`, up to the last decision on its legal way; its decisions; and
    whether all of it is legal."""
    decisions, ends = [], 0
    for count, token in enumerate(draft):
        if len(node.children) > 1:
            decisions.append(_Decision(node, place + count, token if token in node.children else None))
            ends = count
        if token not in node.children:
            break
        node = node.children[token]
    legal = bool(draft) and not node.children
    return list(draft[:ends]), decisions or [_Decision(node, place)], legal
