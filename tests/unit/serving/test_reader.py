"""A reader over fake models: what it refuses, drafts that change no answer, threads, and closing."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cartlm
from cartlm.baseline.reader import read
from cartlm.decoding.confidence import Calibration, Signs
from cartlm.decoding.prefix_cache import PrefixCache
from cartlm.engines.answer import Answer, FinishReason
from cartlm.serving import decoders
from cartlm.serving.decoders import FreeDecoder, LegalDecoder
from cartlm.serving.models import Model, Settings
from cartlm.serving.reader import Reader, Unreadable
from cartlm.task.intent import NO_ORDER
from cartlm.task.prompt import PromptBuilder
from tests.fixtures.baseline import WEIGHTS, generated
from tests.fixtures.decoding import FakeCache, base_builder

CATALOG = ["Oat Milk 1 l", "Oat Milk 2 l", "Green Tea (20 bags)"]
MODEL = Model("llama.cpp", Path("model.gguf"), Settings(), None)


class Engine:
    """Answers everything with one text."""

    def __init__(self, text: str, reason: FinishReason = "stop") -> None:
        self.text, self.reason = text, reason

    def answer(self, ids: list[int], most: int) -> Answer:
        return Answer(self.text, (), self.reason, len(ids), 9, 0, 0.0, 0.0)


def free(engine: Any, settings: Settings = Settings(), limit: int = 2048) -> Reader:  # noqa: B008 - it is frozen
    builder = PromptBuilder(lambda text: [ord(char) + 3 for char in text], 1, 2, "\n")
    return Reader(MODEL, [FreeDecoder(engine, builder, settings, limit)])


FEW = Settings(max_quantity=30)


def legal(cache: FakeCache, drafts: bool = False, settings: Settings = FEW) -> Reader:
    decoder = LegalDecoder(cache, base_builder(), settings, PrefixCache(8), WEIGHTS if drafts else None)
    return Reader(MODEL, [decoder])


def test_the_package_has_the_readers_names_and_no_others() -> None:
    assert (cartlm.Reader, cartlm.Unreadable) == (Reader, Unreadable)
    assert not hasattr(cartlm, "no_such_name")


def test_the_intent_has_the_catalogs_own_bytes() -> None:
    """The catalog is in NFD, the model's answer in NFC."""
    engine = Engine('{"action": "add", "product": "Café", "quantity": 2}')
    found = free(engine).predict(["Cafe\u0301", "Tea"], "two")
    assert found.intent.product == "Cafe\u0301"
    assert (found.confidence, found.work.decoding, found.work.decided_tokens) == (None, "free", 9)


def test_no_order_is_an_answer_of_a_model_that_knows_it() -> None:
    ids = base_builder().completion_ids(NO_ORDER.canonical())
    known = Settings(max_quantity=30, none=True)
    for drafts in (False, True):
        found = legal(FakeCache(likes=ids), drafts, known).predict(CATALOG, "hello")
        assert found.intent == NO_ORDER
        assert found.confidence == pytest.approx(1)
        assert legal(FakeCache(likes=ids), drafts).predict(CATALOG, "hello").intent.product in CATALOG
    assert free(Engine(NO_ORDER.canonical()), known).predict(CATALOG, "hello").intent == NO_ORDER
    with pytest.raises(Unreadable, match="product '' is not a catalog line"):
        free(Engine(NO_ORDER.canonical())).predict(CATALOG, "hello")


@pytest.mark.parametrize(
    ("engine", "word"),
    [
        (Engine("{", "length"), "96 tokens"),
        (Engine("Sure!"), "no intent"),
        (Engine('{"action": "add", "product": "Beer", "quantity": 2}'), "Beer"),
    ],
)
def test_an_unusable_answer_is_shown(engine: Engine, word: str) -> None:
    with pytest.raises(Unreadable, match=word) as caught:
        free(engine).predict(["Tea"], "two teas")
    assert caught.value.answer == engine.text


@pytest.mark.parametrize(
    ("catalog", "message", "word"),
    [
        (["Tea"], " \n", "blank"),
        (["Tea"], "caf\ufffd", "U\\+FFFD"),
        (["Tea"], "a\x00b", "U\\+0000"),
        (["Tea"], "half \ud83d", "U\\+D83D"),
        (["Tea"], "tea " * 3000, "640 are allowed"),
        (["Tea"], "e" * 1_000_000, "more than 640 tokens have"),
        ([], "tea", "no lines"),
        (["Tea", ""], "tea", "is empty"),
        (["Tea "], "tea", "blanks"),
        (["Te\na"], "tea", "line break"),
        (["Tea", "Tea"], "tea", "twice"),
        ([f"Tea number {number}" for number in range(2000)], "tea", "640 are allowed"),
    ],
)
def test_what_cannot_be_asked_is_refused_with_the_reason(catalog: list[str], message: str, word: str) -> None:
    for reader in (free(Engine("{}")), legal(FakeCache())):
        with pytest.raises(Unreadable, match=word) as caught:
            reader.predict(catalog, message)
        assert caught.value.answer is None


def test_one_text_is_no_catalog() -> None:
    with pytest.raises(TypeError, match="splitlines"):
        free(Engine("{}")).predict("Tea\nMilk", "tea")


def test_line_ends_within_a_message_are_line_feeds() -> None:
    answers = [legal(FakeCache()).predict(CATALOG, f"two{end}oat milks") for end in ("\n", "\r\n", "\r")]
    assert len({(each.intent, each.confidence) for each in answers}) == 1


class RoundingCache(FakeCache):
    """Nearly even logits, moved by the width of the pass as rounding does, only more."""

    def forward(self, ids: Sequence[int], wanted: Sequence[int]) -> list[np.ndarray]:
        rows, width = super().forward(ids, wanted), np.random.default_rng(len(ids))
        return [1.1 * row + width.uniform(-0.55, 0.55, self.vocabulary) for row in rows]


def test_a_draft_changes_no_answer_even_where_rounding_would(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = generated("serving drafts", 12)
    wanted = [legal(RoundingCache()).predict(row.catalog, row.message) for row in rows]
    reader = legal(RoundingCache(), drafts=True)
    found = [reader.predict(row.catalog, row.message) for row in rows]
    assert [(each.intent, each.confidence) for each in found] == [
        (each.intent, each.confidence) for each in wanted
    ]
    assert sum(each.work.checked for each in found) > 8
    monkeypatch.setattr(decoders, "CLEAR", 0)
    careless = [reader.predict(row.catalog, row.message).intent for row in rows]
    assert careless != [each.intent for each in wanted]


def test_an_answer_that_is_clear_is_not_decoded_again() -> None:
    message = "add 3 green tea"
    proposed = read(WEIGHTS, CATALOG, message)
    cache = FakeCache(likes=base_builder().completion_ids(proposed.canonical()))
    found = legal(cache, drafts=True).predict(CATALOG, message)
    assert found.intent == proposed
    assert (found.confidence or 0) > 0.99
    assert found.work.accepted == found.work.drafted > 0
    assert (found.work.checked, found.work.forward_passes) == (False, 2)


def test_the_ensemble_takes_the_baselines_answer_within_the_margin_in_one_pass() -> None:
    rows = generated("serving ensemble", 12)
    alone = [legal(FakeCache()).predict(row.catalog, row.message) for row in rows]
    proposals = [read(WEIGHTS, row.catalog, row.message) for row in rows]
    assert sum(each.intent != one for each, one in zip(alone, proposals, strict=True)) > 6, (
        "nothing is tested"
    )
    for margin, wanted in ((1000.0, proposals), (0.0, [each.intent for each in alone])):
        decoder = LegalDecoder(FakeCache(), base_builder(), FEW, PrefixCache(0), WEIGHTS, margin)
        found = [Reader(MODEL, [decoder]).predict(row.catalog, row.message) for row in rows]
        assert [each.intent for each in found] == wanted
        if margin:
            assert all(each.work.forward_passes == 2 and not each.work.checked for each in found)
            assert all(each.work.accepted == each.work.drafted for each in found)


def test_a_calibration_makes_the_probability_a_confidence() -> None:
    message, calibration = "add 3 green tea", Calibration(-1.0, 0.5, 2.0, -0.3)
    proposed = read(WEIGHTS, CATALOG, message)
    for likes in ((), base_builder().completion_ids(proposed.canonical())):
        plain, sure = (
            LegalDecoder(FakeCache(likes=likes), base_builder(), FEW, PrefixCache(8), WEIGHTS, None, each)
            for each in (None, calibration)
        )
        raw, found = (Reader(MODEL, [each]).predict(CATALOG, message) for each in (plain, sure))
        assert found.intent == raw.intent
        assert (found.intent == proposed) == bool(likes)
        assert raw.confidence is not None
        assert found.confidence is not None
        if likes:
            wanted = calibration([Signs(raw.confidence, 0.0)])[0]
            assert found.confidence == pytest.approx(wanted)
        else:
            assert found.confidence < calibration([Signs(raw.confidence, 0.01)])[0], "the gap counts"
    without = LegalDecoder(FakeCache(), base_builder(), FEW, PrefixCache(8), None, None, calibration)
    assert Reader(MODEL, [without]).predict(CATALOG, message).confidence == pytest.approx(
        legal(FakeCache()).predict(CATALOG, message).confidence
    )


def test_settings_bound_the_prompt_and_the_model_bounds_them() -> None:
    for reader in (
        legal(FakeCache(), settings=Settings(max_tokens=60, max_quantity=30)),
        legal(FakeCache(max_tokens=60)),
    ):
        with pytest.raises(Unreadable, match="60 are allowed"):
            reader.predict([*CATALOG, *(f"Tea {number}" for number in range(9))], "two teas")


def test_free_decoding_has_the_model_read_no_more_than_it_was_made_for() -> None:
    asked = list[int]()

    class Counting(Engine):
        def answer(self, ids: list[int], most: int) -> Answer:
            asked.append(len(ids) + most)
            return super().answer(ids, most)

    engine = Counting('{"action": "add", "product": "Tea", "quantity": 1}')
    reader = free(engine, Settings(max_tokens=8192), limit=200)
    for letters in range(1, 200):
        with suppress(Unreadable):
            reader.predict(["Tea"], letters * "e")
    assert 100 < len(asked) < 199
    assert max(asked) == asked[-1] == 200, "the last prompt leaves room for one token"
    with pytest.raises(Unreadable, match="the prompt takes 200 tokens, and 199 are allowed"):
        reader.predict(["Tea"], (len(asked) + 1) * "e")


def test_closing_waits_for_the_message_being_read_and_frees_those_that_wait() -> None:
    """Six threads, one decoder: one is reading, five wait for it."""
    begun, go_on, ended = threading.Event(), threading.Event(), list[str]()

    class Slow(Engine):
        def answer(self, ids: list[int], most: int) -> Answer:
            begun.set()
            assert go_on.wait(10)
            return super().answer(ids, most)

    reader = free(Slow('{"action": "add", "product": "Tea", "quantity": 1}'))

    def ask() -> None:
        try:
            ended.append(reader.predict(["Tea"], "tea").intent.product)
        except ValueError as error:
            ended.append(str(error))

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    assert begun.wait(10)
    closing = threading.Thread(target=reader.close)
    closing.start()
    assert closing.is_alive()
    go_on.set()
    for thread in (*threads, closing):
        thread.join(10)
    assert not any(thread.is_alive() for thread in threads)
    assert set(ended) <= {"Tea", "the reader is closed"}
    assert "Tea" in ended
    reader.close()
    with pytest.raises(ValueError, match="closed"):
        reader.predict(["Tea"], "tea")


def test_a_failed_message_does_not_keep_its_decoder() -> None:
    with free(Engine("Sure!")) as reader:
        for _ in range(3):
            with pytest.raises(Unreadable):
                reader.predict(["Tea"], "tea")
