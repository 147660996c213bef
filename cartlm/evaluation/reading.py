"""A loaded model as an engine that answers each prompt twice over one prefill: freely, and among the legal answers of its
catalog. Its answers are collected and kept on disk as those of any engine (cartlm.engines.collect).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from cartlm import decoding
from cartlm.baseline import engine as rules
from cartlm.baseline import reader
from cartlm.decoding import free
from cartlm.decoding.cache import Cache
from cartlm.decoding.jump_forward import CLEAR, Decoded, decode, weigh
from cartlm.decoding.trie import LegalAnswers, Trie
from cartlm.engines.answer import Answer, Legal
from cartlm.engines.collect import Job, file_digest
from cartlm.evaluation.answers import draft_and_verify_job, open_engine, plain_job
from cartlm.task.intent import Intent, parse_intent
from cartlm.task.prompt import PromptBuilder
from cartlm.task.rows import Row

ENGINES = ("llama.cpp", "transformers")
Propose = Callable[[Sequence[str], str], Intent]


class Reading:
    """`open_reading` makes it, with a KV cache for each replica of the engine."""

    def __init__(
        self, engine: Any, cache: Cache, legal: LegalAnswers, builder: PromptBuilder, about: Mapping[str, str | int],
        propose: Propose | None,
    ) -> None:  # fmt: skip
        self.engine, self.builder = engine, builder
        self._cache, self._legal = cache, legal
        self._rows: dict[tuple[int, ...], Row] = {}
        self._about, self._propose = about, propose
        self.replicas: Sequence[Reading] = [self]

    @property
    def stopped(self) -> bool:
        """Whether nobody waits for the answers any more."""
        return bool(self.engine.stopped)

    @stopped.setter
    def stopped(self, value: bool) -> None:
        self.engine.stopped = value

    def expect(self, rows: Iterable[Row]) -> None:
        """Let it be asked the prompts of `rows`. Raises UserError for one with a special token."""
        self._rows |= {tuple(self.builder.prompt_ids(row.prompt)): row for row in rows}
        for replica in self.replicas:
            replica._rows = self._rows

    def verify_draft(self, prompt_ids: list[int], max_new_tokens: int, draft: Sequence[int]) -> Answer:
        """The free answer, of which `draft` is a guess, with its `legal` one, None where the prompt leaves no room for that.

        Raises UserError for NaN and infinity.
        """
        row = self._rows[tuple(prompt_ids)]
        trie = self._legal.trie(row.catalog)
        fits = len(prompt_ids) + trie.longest <= self._cache.max_tokens
        self._cache.reserve(len(prompt_ids) + max(max_new_tokens, trie.longest if fits else 0))
        proposed = self._propose(row.catalog, row.message) if self._propose and fits else None
        ids = (
            () if proposed is None else self._legal.ids(proposed.action, proposed.product, proposed.quantity)
        )
        weighed: list[tuple[float, float] | None] = []

        def look(rows: Sequence[Any]) -> None:
            """Weigh the proposal by the same pass if that is the guess."""
            if ids[:-1] == tuple(draft) and len(rows) == len(ids):
                weighed.append(weigh(trie, ids, rows))

        end_ids = self.engine.end_ids
        found = free.complete(self._cache, prompt_ids, max_new_tokens, end_ids, draft, look if ids else None)
        answer = Answer(
            self.engine.decode(list(found.token_ids)), found.token_ids, found.finish_reason, len(prompt_ids),
            len(found.token_ids), 0, found.prefill_s, found.decode_s,
        )  # fmt: skip
        if not fits:
            return answer
        known = weighed[0] if weighed else None
        return replace(answer, legal=self._constrain(row, prompt_ids, trie, answer, proposed, ids, known))

    def answer(self, prompt_ids: list[int], max_new_tokens: int) -> Answer:
        """The same without a guess."""
        return self.verify_draft(prompt_ids, max_new_tokens, ())

    def _constrain(
        self, row: Row, prompt_ids: list[int], trie: Trie, answer: Answer, proposed: Intent | None, draft: tuple[int, ...],
        known: tuple[float, float] | None,
    ) -> Legal:  # fmt: skip
        """The legal answer, after the free one; `known` are gap and probability of the proposal where the pass for that showed them.

        A free answer that is legal is the constrained one too: each of its tokens was the likeliest of all, so also of
        the legal ones.
        """
        legal = is_legal(self._legal, row, answer)
        if known is not None and known[0] == 0 and proposed is not None and (legal or known[1] >= CLEAR):
            same = proposed.canonical()
            text, ids = (answer.text, answer.token_ids) if legal else (same, draft[:-1])
            return Legal(text, ids, known[1], same, known[1], 0.0)
        found = self._decode(prompt_ids, trie, draft)
        gap, probability = found.gap, found.draft_probability
        text, ids = answer.text, answer.token_ids
        if not legal:
            if found.drafted and found.probability < CLEAR:  # the pass over a draft rounds otherwise
                found = self._decode(prompt_ids, trie, ())
            text, ids = found.intent.canonical(), found.token_ids
        if proposed is None or gap is None or probability is None:
            return Legal(text, ids, found.probability)
        return Legal(text, ids, found.probability, proposed.canonical(), probability, gap)

    def _decode(self, prompt_ids: list[int], trie: Trie, draft: Sequence[int]) -> Decoded:
        self._cache.keep(len(prompt_ids) - 1)
        return decode(self._cache, prompt_ids[-1:], trie, draft)

    def describe(self) -> dict[str, str | int]:
        """That of the engine, and what else the answers depend on."""
        return {**self.engine.describe(), **self._about}


def is_legal(legal: LegalAnswers, row: Row, answer: Answer) -> bool:
    """Whether an answer ended by itself, is legal in the row's catalog, and has the tokens that training would give it."""
    if answer.finish_reason != "stop":
        return False
    try:
        intent = parse_intent(answer.text)
    except ValueError:
        return False
    if not legal.allows(intent, row.catalog):
        return False
    return legal.ids(intent.action, intent.product, intent.quantity)[:-1] == tuple(answer.token_ids)


def open_cache(kind: str, replica: Any) -> Any:
    """A KV cache of its own over the weights of a replica of llama.cpp or transformers."""
    if kind == "transformers":
        from cartlm.decoding.transformers_cache import TransformersCache

        return TransformersCache(replica)
    from cartlm.decoding.llama_cpp_cache import LlamaCppCache

    return LlamaCppCache(replica)


@contextmanager
def open_reading(
    kind: str,
    path: Path,
    separator: str,
    max_quantity: int,
    baseline: Path | None,
    threads: int,
    none: bool = False,
) -> Iterator[Reading]:
    """The reading of a model, by an engine whose name `kind` is in ENGINES; `baseline` is the fitted one that proposes answers.
    `none` makes "no order" a legal answer.

    Raises UserError as the engine's `load`.
    """
    code = file_digest(Path(decoding.__file__).parent)
    about: dict[str, str | int] = {"decoding": code, "max_quantity": max_quantity}
    if none:
        about["none"] = True
    propose: Propose | None = None
    if baseline is not None:
        propose = partial(reader.read, reader.load(baseline))
        about["baseline"] = rules.identity(baseline)
    with ExitStack() as stack:
        engine = stack.enter_context(open_engine(kind, path, threads))
        builder = engine.prompt_builder(separator)
        legal = [LegalAnswers(builder, max_quantity, none) for _ in engine.replicas]
        every = [
            Reading(replica, stack.enter_context(open_cache(kind, replica)), own, builder, about, propose)
            for replica, own in zip(engine.replicas, legal, strict=True)
        ]
        every[0].replicas = every
        yield every[0]


@dataclass(frozen=True)
class Within:
    """How rows are answered within their catalogs, too: legal quantities are 1 to `max_quantity`, `baseline` proposes answers,
    and `none` makes "no order" a legal answer."""

    max_quantity: int
    baseline: Path | None
    none: bool = False


def inputs(model: str, separator: str, within: Within) -> dict[str, str | int | bool]:
    """What a margin or a calibration holds for: it says nothing of another model, baseline or way of asking.

    `model` is a digest (`file_digest`). Raises UserError for a baseline that does not exist.
    """
    baseline = "" if within.baseline is None else rules.identity(within.baseline)
    legal = {"max_quantity": within.max_quantity, "none": within.none}
    return {"model": model, "baseline": baseline, "separator": separator, **legal}


@dataclass(frozen=True)
class Asked:
    """An open engine, the digest of its model, the prompt builder of its tokenizer, what describes it, and the job that rows become."""

    engine: Any
    model: str
    builder: PromptBuilder
    about: dict[str, str | int]
    job: Callable[[Sequence[Row]], Job]


@contextmanager
def open_asked(
    kind: str, path: Path, separator: str, max_new_tokens: int, threads: int, within: Within | None, batch_size: int = 1
) -> Iterator[Asked]:  # fmt: skip
    """A model that answers rows freely in batches of `batch_size`, or one at a time and also `within` their catalogs.

    `kind` is in ENGINES for the latter. Raises UserError as the engine's `load`.
    """
    model = file_digest(path)
    if within is None:
        with open_engine(kind, path, threads) as engine:
            builder = engine.prompt_builder(separator)

            def once(rows: Sequence[Row]) -> Job:
                return plain_job(model, rows, builder, max_new_tokens, batch_size)

            yield Asked(engine, model, builder, engine.describe(), once)
        return
    legal = within.max_quantity, within.baseline, threads, within.none
    with open_reading(kind, path, separator, *legal) as reading:

        def twice(rows: Sequence[Row]) -> Job:
            reading.expect(rows)
            return draft_and_verify_job(model, rows, reading.builder, max_new_tokens)

        yield Asked(reading, model, reading.builder, reading.engine.describe(), twice)
