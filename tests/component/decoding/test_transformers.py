"""Constrained decoding through transformers, sliding windows among the models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cartlm.decoding.constrained import Constrained
from cartlm.decoding.prefix_cache import PrefixCache
from cartlm.decoding.transformers_cache import TransformersCache
from cartlm.decoding.trie import LegalAnswers
from cartlm.engines import transformers
from cartlm.engines.answer import Stopped
from cartlm.engines.transformers import Transformers
from tests.fixtures.baseline import generated
from tests.fixtures.decoding import HARD, HOSTILE, check_greedy, check_trie, outcome
from tests.fixtures.families import make_toy
from tests.fixtures.shared import made_once
from tests.fixtures.toy import TRAINED, toy_rows

ROWS = [*toy_rows()[::3], *generated("decoding transformers", 10)]
FAMILIES = ("llama", "gemma3", "smollm2", "mistral", "qwen3")


@pytest.fixture(scope="module", params=FAMILIES)
def engine(
    request: pytest.FixtureRequest, toy_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Transformers:
    """Toys of each family: Gemma 3's rows exceed its window of 48 tokens, Mistral's tokenizer puts a space in front."""
    name = str(request.param)
    if name == "llama":
        return transformers.load(toy_model, device="cpu", threads=1)
    folder = made_once(tmp_path_factory, f"decoding-{name}", lambda folder: make_toy(folder, name))
    return transformers.load(folder, device="cpu", threads=1)


def whole(engine: Transformers) -> Any:
    """Logits after ids by a forward pass without any cache."""

    @torch.inference_mode()
    def logits(ids: list[int]) -> Any:
        inputs = torch.tensor([ids])
        return engine.model(input_ids=inputs, use_cache=False, logits_to_keep=1).logits[0, -1].float().numpy()

    return logits


def test_it_is_greedy_among_the_legal_answers(engine: Transformers) -> None:
    check_greedy(TransformersCache(engine), engine.prompt_builder("\n"), ROWS[::4], whole(engine))


def test_right_free_answers_stay(engine: Transformers) -> None:
    builder = engine.prompt_builder("\n")
    reader, right = Constrained(TransformersCache(engine), builder), 0
    for row in toy_rows()[: TRAINED // 2]:
        free = engine.answer(builder.prompt_ids(row.prompt), 64)
        if free.exact(row.completion):
            reply = reader.answer(row.catalog, row.message)
            assert reply.intent.canonical() == row.completion
            assert reply.decoded.token_ids == free.token_ids
            right += 1
    assert right > 2


def test_neither_drafts_nor_hits_change_an_answer(engine: Transformers) -> None:
    builder = engine.prompt_builder("\n")
    rows = ROWS[-10:]
    requests = [(rows[number % 3].catalog, row.message) for number, row in enumerate(rows)]
    alone = [Constrained(TransformersCache(engine), builder).answer(*request) for request in requests]
    intents = [reply.intent for reply in alone]
    for turn in (0, 1):  # right drafts, and those of the next message
        proposed = iter([*intents[turn:], *intents[:turn]])
        reader = Constrained(
            TransformersCache(engine),
            builder,
            prefixes=PrefixCache(64),
            draft=lambda *_, of=proposed: next(of),
        )
        for request, wanted in zip(requests, alone, strict=True):
            reply = reader.answer(*request)
            assert outcome(reply) == outcome(wanted)
            if reply.draft == reply.intent:
                assert reply.decoded.forward_passes == 1 + (reply.cached_tokens == 0)
        assert reader.prefixes is not None
        assert (reader.prefixes.misses, reader.prefixes.hits) == (3, 7)


def test_a_hit_changes_no_probability(engine: Transformers) -> None:
    builder = engine.prompt_builder("\n")
    never, always = (
        Constrained(TransformersCache(engine), builder, prefixes=PrefixCache(mib)) for mib in (0, 64)
    )
    for message in ("two", "remove it", *HOSTILE[:4]):
        miss, hit = never.answer(ROWS[0].catalog, message), always.answer(ROWS[0].catalog, message)
        assert outcome(hit) == outcome(miss)
        assert hit.decoded.probability == miss.decoded.probability


def test_the_trie_holds_the_ids_of_the_tokenizer(engine: Transformers) -> None:
    check_trie(LegalAnswers(engine.prompt_builder("\n"), 12), HARD)


def test_cutting_back_leaves_what_a_fresh_pass_computes(engine: Transformers) -> None:
    ids = engine.prompt_builder("\n").prompt_ids(ROWS[-1].prompt)
    assert len(ids) > 60  # more than Gemma's window here
    cache, logits = TransformersCache(engine), whole(engine)
    places = [4, 55, len(ids) - 1]
    exact: dict[str, Any] = {"rtol": 1e-3, "atol": 1e-3}
    for place, row in zip(places, cache.forward(ids, places), strict=True):
        np.testing.assert_allclose(row, logits(ids[: place + 1]), **exact)
    cache.keep(20)
    assert cache.ids == ids[:20]
    state = cache.save()
    (again,) = cache.forward(ids[20:], [len(ids) - 21])
    np.testing.assert_allclose(again, logits(ids), **exact)
    assert cache.forward([7], []) == []
    cache.restore(state)
    assert cache.ids == ids[:20]
    np.testing.assert_array_equal(cache.forward(ids[20:], [len(ids) - 21])[0], again)
    assert state.ids == tuple(ids[:20])
    assert state.size == sum(keys.nbytes + values.nbytes for keys, values in state.data) > 1000


def test_a_stopped_engine_answers_no_more(engine: Transformers) -> None:
    reader = Constrained(TransformersCache(engine), engine.prompt_builder("\n"))
    engine.stopped = True
    with pytest.raises(Stopped):
        reader.answer(ROWS[0].catalog, "two")
    engine.stopped = False
    assert reader.answer(ROWS[0].catalog, "two").intent.product in ROWS[0].catalog


def test_after_an_interrupted_pass_answers_are_those_of_an_empty_cache(engine: Transformers) -> None:
    """The last layer fails when the others have read the tokens."""
    row, builder = toy_rows()[0], engine.prompt_builder("\n")
    with TransformersCache(engine) as cache:
        wanted = outcome(Constrained(cache, builder).answer(row.catalog, row.message))
        reader = Constrained(cache, builder, prefixes=PrefixCache(8))

        def fail(*_: object) -> None:
            raise KeyboardInterrupt

        hook = engine.model.model.layers[-1].register_forward_pre_hook(fail)
        with pytest.raises(KeyboardInterrupt):
            reader.answer(row.catalog, row.message)
        hook.remove()
        assert outcome(reader.answer(row.catalog, row.message)) == wanted
        assert outcome(reader.answer(row.catalog, row.message)) == wanted, "of a hit"
