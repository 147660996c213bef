"""A loaded model that answers prompts within the catalogs of their rows, as an engine whose answers are kept on disk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from cartlm import decoding
from cartlm.decoding.constrained import Constrained, TooLong
from cartlm.decoding.trie import LegalAnswers
from cartlm.engines.answer import Answer
from cartlm.engines.collect import file_digest
from cartlm.serving.reader import open_cache
from cartlm.task.prompt import PromptBuilder
from cartlm.task.rows import Row

NOTHING = Answer("", (), "stop", 0, 0, 0, 0.0, 0.0)
"""The answer to a row that could not be asked."""


class WithinCatalogs:
    """An engine for `cartlm.engines.collect.collect_answers`; `open_within` makes it. Its prompts are those of `rows`."""

    def __init__(self, engine: Any, decoder: Constrained, rows: Mapping[tuple[int, ...], Row]) -> None:
        self._engine, self._decoder, self._rows = engine, decoder, rows
        self.replicas: Sequence[WithinCatalogs] = [self]

    @property
    def legal(self) -> LegalAnswers:
        return self._decoder.legal

    @property
    def stopped(self) -> bool:
        """Whether nobody waits for the answers any more."""
        return bool(self._engine.stopped)

    @stopped.setter
    def stopped(self, value: bool) -> None:
        self._engine.stopped = value

    def answer(self, prompt_ids: list[int], max_new_tokens: int) -> Answer:
        """The legal answer, however long; NOTHING where the prompt leaves no room for one."""
        row = self._rows[tuple(prompt_ids)]
        try:
            return self._decoder.answer(row.catalog, row.message).answer()
        except TooLong:
            return NOTHING

    def describe(self) -> dict[str, str | int]:
        """That of the engine, with the code and bound of decoding: answers under others are asked again."""
        code = file_digest(Path(decoding.__file__).parent)
        return {**self._engine.describe(), "code": code, "max_quantity": self.legal.max_quantity}


@contextmanager
def open_within(
    kind: str, engine: Any, builder: PromptBuilder, max_quantity: int, rows: Mapping[tuple[int, ...], Row]
) -> Iterator[WithinCatalogs]:
    """The engine within catalogs of a loaded one of llama.cpp or transformers, with a KV cache for each replica.

    `rows`: by the ids of their prompts.
    """
    with ExitStack() as stack:
        caches = [stack.enter_context(open_cache(kind, replica)) for replica in engine.replicas]
        every = [
            WithinCatalogs(replica, Constrained(each, builder, max_quantity), rows)
            for replica, each in zip(engine.replicas, caches, strict=True)
        ]
        every[0].replicas = every
        yield every[0]
