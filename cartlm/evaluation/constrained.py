"""Rows answered within the legal answers of their catalogs, given the answers of free decoding.

A free answer that is legal is the constrained one too: each of its tokens was the likeliest of all, so also of the legal
ones. Only the other rows are decoded again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from queue import SimpleQueue
from typing import Any

from cartlm.decoding.config import Decoding
from cartlm.decoding.constrained import Constrained
from cartlm.decoding.trie import LegalAnswers
from cartlm.engines.answer import Answer
from cartlm.evaluation.scoring import score, summarize, summarize_slices
from cartlm.task.intent import parse_intent
from cartlm.task.prompt import PromptBuilder
from cartlm.task.rows import Row

ENGINES = ("llama.cpp", "transformers")


class Constrainer:
    """Decodes rows within their catalogs, as many at a time as there are `decoders`; made by `open_constrainer`."""

    def __init__(self, decoders: Sequence[Constrained], legal: LegalAnswers) -> None:
        self._decoders, self._legal = decoders, legal

    def sections(
        self, answered: Mapping[str, tuple[Sequence[Row], Sequence[Answer]]]
    ) -> dict[str, dict[str, Any]]:
        """Sections of a metrics file: `constrained` with its slices of the rows "free", NAME_constrained of the others.

        `answered` has rows with their free answers. `decoded_again` is the share of rows whose free answer was not legal.
        """
        found: dict[str, dict[str, Any]] = {}
        for name, (rows, free) in answered.items():
            answers, again = self.answers(rows, free)
            scores = [score(row, answer) for row, answer in zip(rows, answers, strict=True)]
            section = "constrained" if name == "free" else f"{name}_constrained"
            found[section] = {**summarize(scores), "decoded_again": again / len(rows)}
            if name == "free":
                found["constrained_slices"] = summarize_slices(rows, scores)
        return found

    def answers(self, rows: Sequence[Row], free: Sequence[Answer]) -> tuple[list[Answer], int]:
        """The constrained answers to `rows`, which free decoding answered with `free`, and how many were decoded again."""
        again = [index for index, row in enumerate(rows) if not is_legal(self._legal, row, free[index])]
        idle: SimpleQueue[Constrained] = SimpleQueue()
        for decoder in self._decoders:
            idle.put(decoder)

        def decode(index: int) -> Answer:
            decoder = idle.get()
            try:
                return decoder.answer(rows[index].catalog, rows[index].message).answer()
            finally:
                idle.put(decoder)

        with ThreadPoolExecutor(len(self._decoders)) as pool:
            found = dict(zip(again, pool.map(decode, again), strict=True))
        return [found.get(index, answer) for index, answer in enumerate(free)], len(found)


def is_legal(legal: LegalAnswers, row: Row, answer: Answer) -> bool:
    """Whether an answer ended by itself, names a line of the row's catalog, and has the tokens that training would give it."""
    if answer.finish_reason != "stop":
        return False
    try:
        intent = parse_intent(answer.text)
    except ValueError:
        return False
    if intent.product not in row.catalog or not 1 <= intent.quantity <= legal.max_quantity:
        return False
    return legal.ids(intent.action, intent.product, intent.quantity)[:-1] == tuple(answer.token_ids)


@contextmanager
def open_constrainer(
    kind: str, engine: Any, builder: PromptBuilder, decoding: Decoding
) -> Iterator[Constrainer]:
    """The constrainer of a loaded engine, whose name is in ENGINES, with a KV cache for each of its replicas."""
    cache: Any
    if kind == "transformers":
        from cartlm.decoding.transformers_cache import TransformersCache

        cache = TransformersCache
    else:
        from cartlm.decoding.llama_cpp_cache import LlamaCppCache

        cache = LlamaCppCache
    with ExitStack() as stack:
        caches = [stack.enter_context(cache(replica)) for replica in engine.replicas]
        decoders = [Constrained(each, builder, decoding.max_quantity) for each in caches]
        yield Constrainer(decoders, LegalAnswers(builder, decoding.max_quantity))
