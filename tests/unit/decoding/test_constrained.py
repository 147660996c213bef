"""From catalog and message to an intent of the catalog, whatever the message says."""

from __future__ import annotations

import random
from typing import NoReturn

import pytest

from cartlm.decoding.constrained import Constrained, Reply
from cartlm.decoding.prefix_cache import PrefixCache
from cartlm.errors import UserError
from cartlm.task.intent import Intent
from cartlm.task.prompt import PromptBuilder
from tests.fixtures.baseline import generated
from tests.fixtures.decoding import HARD, HOSTILE, FakeCache, base_builder

CATALOG = ["Milk 1 l", "Milk 2 l", "Čarape (par)"]


def outcome(reply: Reply) -> tuple[object, ...]:
    return (reply.intent, reply.decoded.token_ids, reply.decoded.probability, reply.prompt_tokens)


def test_no_answer_is_outside_of_the_catalog() -> None:
    random_ = random.Random(1)
    rows = generated("decoding", 60)
    cache = FakeCache()
    reader = Constrained(cache, base_builder())
    for turn in range(200):
        catalog = random_.choice(
            [random_.choice(rows).catalog, random_.sample(HARD, random_.randint(1, len(HARD)))]
        )
        message = random_.choice(
            [*HOSTILE, random_.choice(rows).message, "".join(random_.choices('añ€🧨"\\{}\n 0', k=30))]
        )
        cache.seed = turn
        reader.prefixes = PrefixCache(1)
        found = reader.answer(catalog, message).intent
        assert found.product in catalog
        assert 1 <= found.quantity <= 1000


def test_a_hit_changes_no_answer() -> None:
    rows = generated("decoding", 60)
    catalogs = [rows[number].catalog for number in range(8)]
    requests = [(catalogs[number % 8], row.message) for number, row in enumerate(rows)]
    fresh = [Constrained(FakeCache(), base_builder()).answer(*request) for request in requests]
    reader = Constrained(FakeCache(), base_builder(), prefixes=PrefixCache(4))
    kept = [reader.answer(*request) for request in requests]
    assert list(map(outcome, kept)) == list(map(outcome, fresh))
    assert reader.prefixes is not None
    assert (reader.prefixes.misses, reader.prefixes.hits) == (8, 52)
    assert [reply.cached_tokens > 0 for reply in kept] == [False] * 8 + [True] * 52
    for miss, hit, one in zip(kept[:8], kept[8:16], fresh, strict=False):
        assert miss.decoded.forward_passes == miss.decoded.decided + 1
        assert hit.decoded.forward_passes == hit.decoded.decided
        assert one.decoded.forward_passes == one.decoded.decided


def test_of_a_known_catalog_only_the_message_is_read() -> None:
    cache = FakeCache()
    reader = Constrained(cache, base_builder(), prefixes=PrefixCache(1))
    reader.answer(CATALOG, "one milk")
    cache.passes.clear()
    reply = reader.answer(CATALOG, "two milk")
    read = sum(len(ids) for ids, _ in cache.passes)
    assert reply.cached_tokens > 10
    assert read <= reply.prompt_tokens - reply.cached_tokens + len(reply.decoded.token_ids)


def test_a_bound_that_holds_no_catalog_only_misses() -> None:
    reader = Constrained(FakeCache(), base_builder(), prefixes=PrefixCache(0))
    first, second = (reader.answer(CATALOG, "one milk") for _ in range(2))
    assert outcome(first) == outcome(second)
    assert second.cached_tokens == 0
    assert reader.prefixes is not None
    assert (reader.prefixes.misses, len(reader.prefixes)) == (2, 0)


def test_drafts_save_passes_and_change_nothing() -> None:
    wanted = Constrained(FakeCache(), base_builder()).answer(CATALOG, "two milk")
    for proposed in (wanted.intent, Intent("add", "Milk 2 l", 5), Intent("add", "Bread", 2000)):
        reader = Constrained(FakeCache(), base_builder(), draft=lambda catalog, message, one=proposed: one)
        reply = reader.answer(CATALOG, "two milk")
        assert outcome(reply) == outcome(wanted)
        assert reply.draft == proposed
        assert (reply.decoded.forward_passes == 1) == (proposed == wanted.intent)


@pytest.mark.parametrize("message", HOSTILE)
def test_hostile_messages_get_legal_answers(message: str) -> None:
    assert Constrained(FakeCache(), base_builder()).answer(CATALOG, message).intent.product in CATALOG


def test_what_cannot_be_answered_is_refused() -> None:
    cache = FakeCache(max_tokens=400)
    reader = Constrained(cache, base_builder(), prefixes=PrefixCache(1))
    with pytest.raises(UserError, match="and 400 are allowed"):
        reader.answer(CATALOG, "x" * 10_000)
    with pytest.raises(UserError, match="and 400 are allowed"):
        reader.answer([f"Product {number}" for number in range(2000)], "one")
    with pytest.raises(UserError, match="half a character at place 1"):
        reader.answer(CATALOG, "a\ud800")
    with pytest.raises(UserError, match="half a character"):
        reader.answer(["\udfff"], "a")
    with pytest.raises(UserError, match="no lines"):
        reader.answer([], "a")
    assert cache.passes == []
    assert Constrained(cache, base_builder(), max_tokens=401).max_tokens == 401


def test_a_special_token_is_refused() -> None:
    base = base_builder()
    builder = PromptBuilder(lambda text: [2 if letter == "§" else 9 for letter in text], 1, 2, "\n")
    reader = Constrained(FakeCache(), base)
    reader._builder = builder
    with pytest.raises(UserError, match="special token"):
        reader.answer(CATALOG, "§")


def broken(*_: object) -> NoReturn:
    raise RuntimeError("broken")


def test_it_works_again_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = Constrained(FakeCache(), base_builder(), prefixes=PrefixCache(1))
    wanted = reader.answer(CATALOG, "two milk")
    with monkeypatch.context() as patch:
        patch.setattr(FakeCache, "logits", broken)
        with pytest.raises(RuntimeError, match="broken"):
            reader.answer(CATALOG, "one milk")
    assert outcome(reader.answer(CATALOG, "two milk")) == outcome(wanted)
