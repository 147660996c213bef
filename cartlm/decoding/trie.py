"""The legal answers of a catalog as a trie of token ids.

A legal answer is `{"action": A, "product": LINE, "quantity": n}`, and NO_ORDER where that is asked for, tokenized as in
training, so every path through the trie is a canonical tokenization. Two thousand lines have four million answers; they are not tokenized one by one.
`LegalAnswers` cuts an answer in three, front (action), middle (product) and tail (quantity), and tokenizes each line once.

Why the parts may be put together: a byte-pair encoding is the right one exactly if each pair of neighbouring tokens is
(https://github.com/github/rust-gems/tree/main/crates/bpe), and a pre-tokenizer's split depends only on the text around
it. So where two answers have the same token on a side of a cut, the other side of one fits the other. That is checked
for every line, each with another action and quantity; a line that fails is tokenized with all actions and quantities.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain, takewhile
from typing import Any

from cartlm.errors import UserError
from cartlm.task.intent import ACTIONS, NO_ORDER, Intent
from cartlm.task.prompt import PromptBuilder

REFERENCE = "a"  # a product whose answers are tokenized with every action and quantity
STRIDE = 7919  # a prime, so that the lines of a catalog are checked with quantities far apart

Ids = tuple[int, ...]


@dataclass(slots=True)
class Node:
    """`children` by token id, none after EOS; `known` is what is settled of the intent on arrival, such as its action.

    Branches are shared: all actions have the same products below them, all products the same quantities.
    """

    children: dict[int, Node] = field(default_factory=dict)
    known: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Trie:
    """`longest`: tokens of the longest legal answer, EOS included."""

    root: Node
    longest: int

    def intent(self, completion_ids: Iterable[int]) -> Intent:
        """The intent of a legal completion's ids, EOS included. Raises KeyError for any other ids."""
        node, known = self.root, dict[str, Any]()
        for token in completion_ids:
            node = node.children[token]
            known |= node.known
        if node.children:
            raise KeyError("the answer is not complete")
        return Intent(**known)


@dataclass(frozen=True, slots=True)
class _Cuts:
    """An answer is a front, a middle that begins with `first` and ends with `last`, and a tail."""

    fronts: Mapping[str, Ids]
    tails: tuple[Ids, ...]  # by quantity, from 1
    first: int
    last: int


class LegalAnswers:
    """Makes the tries of catalogs for one tokenizer; quantities go from 1 to `max_quantity`, and `none` adds NO_ORDER."""

    def __init__(self, builder: PromptBuilder, max_quantity: int = 1000, none: bool = False) -> None:
        if max_quantity < 1:
            raise ValueError(f"max_quantity is {max_quantity}, not at least 1")
        self._builder, self.max_quantity, self.none = builder, max_quantity, none
        self._cuts = self._find_cuts()
        self._quantities = Node()
        for quantity, tail in enumerate(self._cuts.tails if self._cuts else (), 1):
            _grow(self._quantities, tail).known = {"quantity": quantity}

    def ids(self, action: str, product: str, quantity: int) -> Ids:
        """The token ids of one answer, EOS included, as in training."""
        return tuple(self._builder.completion_ids(Intent(action, product, quantity).canonical()))

    def allows(self, intent: Intent, catalog: Sequence[str]) -> bool:
        """Whether an intent is one of the legal answers of a catalog."""
        if intent == NO_ORDER:
            return self.none
        return intent.product in catalog and 1 <= intent.quantity <= self.max_quantity

    def trie(self, catalog: Sequence[str]) -> Trie:
        """The trie of all answers about the lines of `catalog`.

        Of lines that the tokenizer's normalization makes equal, the first is meant. Raises UserError for a catalog
        without lines, or with an empty one.
        """
        lines = list(dict.fromkeys(catalog))
        if not lines or "" in lines:
            raise UserError(
                f"the catalog has {'an empty line' if lines else 'no lines'}", "name the products"
            )
        products, whole, longest = Node(), list[str](), 0
        for turn, line in enumerate(lines):
            middle = self._middle(line, turn)
            if middle is None:
                whole.append(line)
                continue
            end = _grow(products, middle)
            if not end.known:
                end.known, end.children = {"product": line}, self._quantities.children
            longest = max(longest, len(middle))
        root = Node()
        if self._cuts is not None:
            for action, front in self._cuts.fronts.items():
                end = _grow(root, front)
                end.known, end.children = {"action": action}, products.children
            longest += max(map(len, self._cuts.fronts.values())) + max(map(len, self._cuts.tails))
        for intent in chain(*map(self._all, whole), [NO_ORDER] if self.none else []):
            ids = self.ids(intent.action, intent.product, intent.quantity)
            _insert(root, ids, intent)
            longest = max(longest, len(ids))
        return Trie(root, longest)

    def _all(self, line: str) -> Iterable[Intent]:
        return (
            Intent(action, line, quantity)
            for action in ACTIONS
            for quantity in range(1, self.max_quantity + 1)
        )

    def _find_cuts(self) -> _Cuts | None:
        """Where the reference's answers differ by action and by quantity; None where the two cannot be told apart."""
        by_quantity = [self.ids(ACTIONS[0], REFERENCE, number + 1) for number in range(self.max_quantity)]
        # at least EOS belongs to the tail
        at = min(common_prefix(by_quantity), min(map(len, by_quantity)) - 1)
        by_action = [self.ids(action, REFERENCE, 1) for action in ACTIONS]
        behind = common_prefix([ids[::-1] for ids in by_action])
        fronts: dict[str, Ids] = {
            action: ids[: len(ids) - behind] for action, ids in zip(ACTIONS, by_action, strict=True)
        }
        begin = len(fronts[ACTIONS[0]])
        if not all(fronts.values()) or begin + 2 > at:
            return None
        tails = tuple(ids[at:] for ids in by_quantity)
        return _Cuts(fronts, tails, by_quantity[0][begin], by_quantity[0][at - 1])

    def _middle(self, line: str, turn: int) -> Ids | None:
        """The product's part of its answers; None where it is not shown to be the same in all of them."""
        if (cuts := self._cuts) is None:
            return None
        action, number = ACTIONS[turn % len(ACTIONS)], turn * STRIDE % self.max_quantity
        ids, front, tail = self.ids(action, line, number + 1), cuts.fronts[action], cuts.tails[number]
        middle = ids[len(front) : -len(tail)]
        whole = ids == (*front, *middle, *tail)
        return middle if whole and (middle[:1], middle[-1:]) == ((cuts.first,), (cuts.last,)) else None


def common_prefix(sequences: Sequence[Sequence[int]]) -> int:
    """How many items at their beginning all `sequences` (at least one) share."""
    return sum(1 for _ in takewhile(lambda items: len(set(items)) == 1, zip(*sequences, strict=False)))


def _grow(node: Node, ids: Iterable[int]) -> Node:
    """The node at the end of the path `ids`, which is made where it is missing."""
    for token in ids:
        node = node.children.setdefault(token, Node())
    return node


def _insert(root: Node, ids: Iterable[int], intent: Intent) -> None:
    """Add a path of its own: what it has in common with shared branches is copied."""
    node = root
    for token in ids:
        found = node.children.get(token, Node())
        node.children[token] = Node(dict(found.children), found.known)
        node = node.children[token]
    node.known = node.known or asdict(intent)
