"""Constrained decoding from catalog and message to an intent of the catalog: what a caller uses."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from threading import Lock

from cartlm.decoding import prefix_cache
from cartlm.decoding.cache import Cache
from cartlm.decoding.jump_forward import Decoded, decode
from cartlm.decoding.prefix_cache import PrefixCache
from cartlm.decoding.trie import LegalAnswers, Trie
from cartlm.errors import UserError
from cartlm.task.intent import Intent
from cartlm.task.prompt import PromptBuilder, render_prompt

CATALOGS = 16  # whose tries are kept: one of 2,000 lines takes some MB


@dataclass(frozen=True)
class Reply:
    """An intent of the catalog, and what it took.

    `cached_tokens` of the prompt came out of the prefix cache. `draft` is the proposed intent, None without one. Where the
    catalog was read for the prefix cache, that forward pass and its seconds are counted in `decoded`.
    """

    intent: Intent
    prompt_tokens: int
    cached_tokens: int
    draft: Intent | None
    decoded: Decoded


class TooLong(UserError):
    """A prompt that does not fit with its answer."""


class Constrained:
    """Answers one message at a time, greedily among the legal answers of its catalog.

    `cache` is of the model (`LlamaCppCache`, `TransformersCache`), `builder` of its tokenizer. With `prefixes` catalogs
    are kept between messages; `draft` proposes the intent of a catalog and a message, such as
    `partial(reader.read, weights)` of cartlm.baseline. With a `margin` the draft is the answer wherever its `gap`
    (cartlm.decoding.jump_forward) is at most that. `none` makes "no order" a legal answer. `max_tokens` bounds prompt and answer; by default it is what the model
    was made to read.
    """

    def __init__(
        self, cache: Cache, builder: PromptBuilder, max_quantity: int = 1000, prefixes: PrefixCache | None = None,
        draft: Callable[[Sequence[str], str], Intent] | None = None, max_tokens: int | None = None,
        margin: float | None = None, none: bool = False,
    ) -> None:  # fmt: skip
        self._cache, self._builder, self.prefixes, self._draft = cache, builder, prefixes, draft
        self.max_tokens, self.margin = max_tokens or cache.max_tokens, margin
        self.legal = LegalAnswers(builder, max_quantity, none)
        self._prepared = lru_cache(CATALOGS)(self._prepare)
        self._busy = Lock()

    def answer(self, catalog: Sequence[str], message: str) -> Reply:
        """The intent of `message`, whatever the message says.

        Raises UserError for a catalog that has no or an empty line, for text that is not Unicode or contains a special
        token; TooLong for a prompt that leaves no room for an answer.
        """
        check_unicode([*catalog, message])
        ids = self._builder.prompt_ids(render_prompt(catalog, message))
        if len(ids) > self.max_tokens:
            raise self._too_long(len(ids))
        trie, shared = self._prepared(tuple(catalog))
        if len(ids) + trie.longest > self.max_tokens:
            raise self._too_long(len(ids) + trie.longest)
        proposed = self._draft(catalog, message) if self._draft else None
        draft = (
            () if proposed is None else self.legal.ids(proposed.action, proposed.product, proposed.quantity)
        )
        with self._busy:
            self._cache.reserve(len(ids) + trie.longest)
            started = time.perf_counter()
            cached, passes = self._begin(ids, shared)
            began = time.perf_counter() - started
            decoded = decode(self._cache, ids[len(self._cache.ids) :], trie, draft, self.margin)
        decoded = replace(
            decoded, forward_passes=passes + decoded.forward_passes, prefill_s=began + decoded.prefill_s
        )
        return Reply(decoded.intent, len(ids), cached, proposed, decoded)

    def _prepare(self, catalog: tuple[str, ...]) -> tuple[Trie, tuple[int, ...]]:
        shared = prefix_cache.catalog_ids(self._builder, catalog) if self.prefixes is not None else ()
        return self.legal.trie(catalog), shared

    def _begin(self, ids: list[int], shared: tuple[int, ...]) -> tuple[int, int]:
        """Let the cache hold the catalog or nothing; how many tokens of it were cached, and how many passes it took."""
        if self.prefixes is None or tuple(ids[: len(shared)]) != shared or len(shared) in (0, len(ids)):
            self._cache.keep(0)
            return 0, 0
        if (state := self.prefixes.get(shared)) is not None:
            self._cache.restore(state)
            return len(shared), 0
        self._cache.keep(0)
        self._cache.forward(shared, [])
        self.prefixes.put(self._cache.save())
        return 0, 1

    def _too_long(self, tokens: int) -> TooLong:
        what = f"prompt and answer take {tokens} tokens, and {self.max_tokens} are allowed"
        return TooLong(what, "send a shorter catalog or message")


def check_unicode(texts: Sequence[str]) -> None:
    """Raise UserError for a text with half a surrogate pair, which no tokenizer reads."""
    for text in texts:
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            what = f"{text[:40]!a}... has half a character at place {error.start}"
            raise UserError(what, "decode the text as UTF-8") from None
