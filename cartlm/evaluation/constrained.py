"""Rows answered within the legal answers of their catalogs, given the answers of free decoding.

A free answer that is legal is the constrained one too: each of its tokens was the likeliest of all, so also of the legal
ones. Only the other rows are decoded again.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from cartlm.decoding.config import Decoding
from cartlm.decoding.constrained import Constrained, TooLong
from cartlm.decoding.trie import LegalAnswers
from cartlm.engines.answer import Answer
from cartlm.evaluation.answers import rows_hash
from cartlm.evaluation.scoring import score, summarize, summarize_slices
from cartlm.files import write_text
from cartlm.task.intent import parse_intent
from cartlm.task.prompt import PromptBuilder
from cartlm.task.rows import Row

ENGINES = ("llama.cpp", "transformers")


class Constrainer:
    """Decodes rows within their catalogs, as many at a time as there are `decoders`; made by `open_constrainer`."""

    def __init__(self, decoders: Sequence[Constrained], legal: LegalAnswers) -> None:
        self._decoders, self._legal = decoders, legal

    def sections(
        self, answered: Mapping[str, tuple[Sequence[Row], Sequence[Answer]]], raw: Path
    ) -> dict[str, dict[str, Any]]:
        """Sections of a metrics file: `constrained` with its slices of the rows "free", NAME_constrained of the others.

        `answered` has rows with their free answers. `decoded_again` is the share of rows whose free answer was not legal, and
        `refused`, where there are any, of those too long to be decoded again: they keep their free answer. What was decoded
        again goes to `raw` (JSONL).
        """
        found: dict[str, dict[str, Any]] = {}
        lines: list[dict[str, Any]] = []
        for name, (rows, free) in answered.items():
            section = "constrained" if name == "free" else f"{name}_constrained"
            again, refused = self.decode_again(rows, free, section)
            answers = [again.get(index, answer) for index, answer in enumerate(free)]
            scores = [score(row, answer) for row, answer in zip(rows, answers, strict=True)]
            found[section] = {**summarize(scores), "decoded_again": len(again) / len(rows)}
            if refused:
                found[section]["refused"] = refused / len(rows)
            if name == "free":
                found["constrained_slices"] = summarize_slices(rows, scores)
            else:
                found[section]["rows"] = rows_hash(rows)
            lines += [
                {
                    "set": section,
                    "id": rows[index].id,
                    "outcome": scores[index].outcome,
                    "answer": asdict(answer),
                }
                for index, answer in again.items()
            ]
        write_text(raw, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
        return found

    def decode_again(
        self, rows: Sequence[Row], free: Sequence[Answer], label: str = "constrained"
    ) -> tuple[dict[int, Answer], int]:
        """The answers to the rows whose free answer is not legal, by their places; and how many of these are too long.

        Progress and what cannot be right go to stderr.
        """
        from tqdm import tqdm

        bound = self._legal.max_quantity
        if over := [row.id for row in rows if row.intent.quantity > bound]:
            what = f"{label}: {len(over)} rows ask for more than decoding.max_quantity={bound}, such as {over[0]}"
            print(what, file=sys.stderr, flush=True)
        again = [index for index, row in enumerate(rows) if not is_legal(self._legal, row, free[index])]
        idle: SimpleQueue[Constrained] = SimpleQueue()
        for decoder in self._decoders:
            idle.put(decoder)

        def decode(index: int) -> Answer | None:
            decoder = idle.get()
            try:
                return decoder.answer(rows[index].catalog, rows[index].message).answer()
            except TooLong as error:
                print(f"{label}: row {rows[index].id}: {error.message}", file=sys.stderr, flush=True)
                return None
            finally:
                idle.put(decoder)

        with ThreadPoolExecutor(len(self._decoders)) as pool:
            answers = [*tqdm(pool.map(decode, again), label, len(again), unit="row", file=sys.stderr)]
        found = {index: one for index, one in zip(again, answers, strict=True) if one is not None}
        return found, len(again) - len(found)


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
