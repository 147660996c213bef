"""Constrained decoding on real GGUF files through llama.cpp."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import llama_cpp as bindings
import numpy as np
import pytest

from cartlm.baseline.reader import read
from cartlm.decoding.constrained import Constrained
from cartlm.decoding.llama_cpp_cache import LlamaCppCache
from cartlm.decoding.prefix_cache import PrefixCache
from cartlm.decoding.trie import LegalAnswers
from cartlm.engines import llama_cpp
from cartlm.engines.answer import Stopped
from cartlm.engines.llama_cpp import LlamaCpp
from cartlm.errors import UserError
from cartlm.task.intent import Intent, parse_intent
from tests.fixtures.base_gguf import base_gguf
from tests.fixtures.baseline import WEIGHTS, generated
from tests.fixtures.decoding import HARD, HOSTILE, check_greedy, check_trie, outcome
from tests.fixtures.toy import TRAINED, toy_rows

__all__ = ["base_gguf"]
ROWS = [*toy_rows()[::2], *generated("decoding llama.cpp", 24)]


@pytest.fixture(scope="module", params=["toy", "base"])
def engine(request: pytest.FixtureRequest, toy_gguf: Path, base_gguf: Path) -> Iterator[LlamaCpp]:
    """The trained toy, and the embedded base model, which answers this task badly."""
    with llama_cpp.load(toy_gguf if request.param == "toy" else base_gguf, threads=1) as loaded:
        yield loaded


@pytest.fixture
def cache(engine: LlamaCpp) -> Iterator[LlamaCppCache]:
    with LlamaCppCache(engine, 64) as made:
        yield made


def token_by_token(engine: LlamaCpp) -> Any:
    """Logits after ids by the engine's own forward pass, from an empty cache."""

    def logits(ids: list[int]) -> Any:
        engine.reserve(len(ids))
        engine._clear()
        return engine._forward(ids).copy()

    return logits


def test_right_free_answers_stay_and_take_few_passes(toy_gguf: Path) -> None:
    with llama_cpp.load(toy_gguf, threads=1) as engine, LlamaCppCache(engine) as cache:
        builder = engine.prompt_builder("\n")
        reader = Constrained(cache, builder)
        for row in toy_rows()[:TRAINED]:
            free = engine.answer(builder.prompt_ids(row.prompt), 64)
            reply = reader.answer(row.catalog, row.message)
            assert reply.intent.canonical() == free.text == row.completion
            assert reply.decoded.token_ids == free.token_ids
            assert reply.decoded.forward_passes <= 8 < len(free.token_ids)
            assert reply.decoded.probability > 0.5


def test_it_is_greedy_among_the_legal_answers(engine: LlamaCpp, cache: LlamaCppCache) -> None:
    check_greedy(cache, engine.prompt_builder("\n"), ROWS[::9], token_by_token(engine))


def test_a_draft_changes_no_answer(engine: LlamaCpp, cache: LlamaCppCache) -> None:
    builder = engine.prompt_builder("\n")
    wanted = [Constrained(cache, builder).answer(row.catalog, row.message) for row in ROWS]
    intents = {"its own": wanted[0].intent}
    for draft in (
        partial(read, WEIGHTS),
        lambda catalog, message: intents["its own"],
        lambda catalog, message: Intent("add", catalog[-1], 17),
    ):
        reader, one_pass = Constrained(cache, builder, draft=draft), 0
        for row, alone in zip(ROWS, wanted, strict=True):
            intents["its own"] = alone.intent
            reply = reader.answer(row.catalog, row.message)
            assert outcome(reply) == outcome(alone)
            assert reply.decoded.probability == pytest.approx(alone.decoded.probability, rel=0.05)
            assert reply.decoded.forward_passes <= alone.decoded.forward_passes
            if reply.draft == alone.intent:
                assert reply.decoded.forward_passes == 1
                one_pass += 1
    assert one_pass < len(ROWS)


def test_a_hit_changes_no_answer_and_no_probability(engine: LlamaCpp, cache: LlamaCppCache) -> None:
    builder = engine.prompt_builder("\n")
    rows = generated("decoding llama.cpp", 30)
    requests = [(rows[number % 6].catalog, row.message) for number, row in enumerate(rows)]
    never, always = (Constrained(cache, builder, prefixes=PrefixCache(mib)) for mib in (0, 64))
    for number, request in enumerate(requests):
        miss, hit = never.answer(*request), always.answer(*request)
        assert outcome(hit) == outcome(miss)
        assert hit.decoded.probability == miss.decoded.probability
        assert (hit.cached_tokens > 0, miss.cached_tokens) == (number >= 6, 0)
    assert always.prefixes is not None
    assert (always.prefixes.misses, always.prefixes.hits) == (6, 24)


def test_hostile_messages_and_catalogs_get_legal_answers(engine: LlamaCpp, cache: LlamaCppCache) -> None:
    reader = Constrained(cache, engine.prompt_builder("\n"), prefixes=PrefixCache(8), max_tokens=4000)
    catalog = [line for line in HARD if line not in ("</s>", "<|endoftext|>")]
    for message in HOSTILE:
        for lines in (catalog, ROWS[0].catalog):
            reply = reader.answer(lines, message)
            assert parse_intent(reply.intent.canonical()) == reply.intent
            assert reply.intent.product in lines


def test_long_messages_are_answered_or_refused(engine: LlamaCpp, cache: LlamaCppCache) -> None:
    catalog, message = ROWS[0].catalog, "add two of it, please! " * 435
    assert len(message) > 10_000
    with pytest.raises(UserError, match="are allowed"):
        Constrained(cache, engine.prompt_builder("\n")).answer(catalog, message)
    reply = Constrained(cache, engine.prompt_builder("\n"), max_tokens=20_000).answer(catalog, message)
    assert reply.prompt_tokens > 1024
    assert reply.intent.product in catalog


def test_the_trie_holds_the_ids_of_the_files_tokenizer(engine: LlamaCpp) -> None:
    builder = engine.prompt_builder("\n")
    check_trie(LegalAnswers(builder, 30), HARD)
    legal = LegalAnswers(builder)
    for row in ROWS:
        assert legal.trie(row.catalog).intent(builder.completion_ids(row.completion)) == row.intent


def test_the_cache_gives_the_engines_logits(engine: LlamaCpp, cache: LlamaCppCache) -> None:
    ids = engine.prompt_builder("\n").prompt_ids(ROWS[0].prompt)[:40]
    logits = token_by_token(engine)
    rows = [row.copy() for row in cache.forward(ids, [4, 20, 39])]
    for place, row in zip((4, 20, 39), rows, strict=True):
        np.testing.assert_allclose(row, logits(ids[: place + 1]), atol=0.05)
    cache.keep(10)
    (again,) = cache.forward(ids[10:], [29])
    np.testing.assert_allclose(again, rows[-1], atol=0.05)
    cache.keep(10)
    (other,) = cache.forward(ids[20:30], [9])
    assert np.abs(other - logits([*ids[:10], *ids[20:30]])).max() < 0.05
    assert np.abs(other - rows[-1]).max() > 0.5


def test_a_saved_cache_is_restored_bit_by_bit(engine: LlamaCpp, cache: LlamaCppCache) -> None:
    ids = engine.prompt_builder("\n").prompt_ids(ROWS[0].prompt)[:40]
    cache.forward(ids[:30], [])
    state = cache.save()
    wanted = cache.forward(ids[30:], [9])[0].copy()
    cache.keep(0)
    cache.forward(ids[::-1], [])
    cache.reserve(600)  # a new context
    assert cache.ids == []
    cache.restore(state)
    assert cache.ids == ids[:30]
    np.testing.assert_array_equal(cache.forward(ids[30:], [9])[0], wanted)
    assert state.size > 1000


def test_too_many_tokens_are_refused(cache: LlamaCppCache) -> None:
    with pytest.raises(ValueError, match="257 tokens for a cache of 256"):
        cache.forward([5] * 257, [256])
    with pytest.raises(ValueError, match="0 tokens for a cache"):
        cache.forward([], [])


def test_the_engine_answers_beside_it_and_stops_it(toy_gguf: Path) -> None:
    row = toy_rows()[0]
    with llama_cpp.load(toy_gguf, threads=1) as engine, LlamaCppCache(engine) as cache:
        builder = engine.prompt_builder("\n")
        reader = Constrained(cache, builder, prefixes=PrefixCache(8))
        for _ in range(2):
            assert reader.answer(row.catalog, row.message).intent.canonical() == row.completion
            assert engine.answer(builder.prompt_ids(row.prompt), 64).text == row.completion
        engine.stopped = True
        with pytest.raises(Stopped):
            reader.answer(row.catalog, row.message)


def test_a_context_that_does_not_fit_is_refused(toy_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with llama_cpp.load(toy_gguf, threads=1) as engine:
        monkeypatch.setattr(llama_cpp.c, "llama_init_from_model", lambda *_: None)
        with pytest.raises(UserError, match="does not run with 512 tokens"):
            LlamaCppCache(engine, 512)


@pytest.mark.parametrize("read", [True, False])
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_after_an_interrupted_pass_answers_are_those_of_an_empty_cache(
    toy_gguf: Path, monkeypatch: pytest.MonkeyPatch, read: bool, error: type[BaseException]
) -> None:
    row, decode = toy_rows()[0], bindings.llama_decode

    def broken(*given: Any) -> int:
        if read:
            decode(*given)
        if error is RuntimeError:
            return 1
        raise error

    with llama_cpp.load(toy_gguf, threads=1) as engine, LlamaCppCache(engine) as cache:
        reader = Constrained(cache, engine.prompt_builder("\n"), prefixes=PrefixCache(8))
        wanted = outcome(reader.answer(row.catalog, row.message))
        for message in ("another", row.message):
            with monkeypatch.context() as context:
                context.setattr(bindings, "llama_decode", broken)
                with pytest.raises(error):
                    reader.answer(row.catalog, message)
            assert outcome(reader.answer(row.catalog, row.message)) == wanted
        fresh = Constrained(cache, engine.prompt_builder("\n"))
        assert outcome(fresh.answer(row.catalog, row.message)) == wanted
