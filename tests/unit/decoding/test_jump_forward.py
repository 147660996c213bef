"""Jump-forward finds the greedy legal answer, with and without a draft, and counts what it took."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest

from cartlm.decoding.jump_forward import Decoded, decode, weigh
from cartlm.decoding.trie import LegalAnswers, Node, Trie
from cartlm.errors import UserError
from cartlm.task.intent import NO_ORDER, Intent
from tests.fixtures.decoding import FakeCache, base_builder, byte_level_builder, every_answer, greedy

CATALOG = ["Milk 1 l", "Milk 2 l", "Milk", "Čarape (par)", 'Screen 24"']
PROMPT = [1, 17, 18, 19, 20]
BUILDERS = {"SentencePiece": base_builder, "byte-level": lambda: byte_level_builder("llama3")}


@pytest.fixture(params=product(BUILDERS, (False, True)), ids=str)
def legal(request: pytest.FixtureRequest) -> LegalAnswers:
    """With "no order" among the answers, and without."""
    name, none = request.param
    return LegalAnswers(BUILDERS[name](), 30, none)


def run(
    trie: Trie,
    seed: int = 0,
    draft: Sequence[int] = (),
    likes: Sequence[int] = (),
    margin: float | None = None,
) -> tuple[Decoded, FakeCache]:
    cache = FakeCache(seed=seed, likes=likes)
    cache.reserve(len(PROMPT) + trie.longest)
    return decode(cache, PROMPT, trie, draft, margin), cache


def answer(found: Decoded) -> tuple[object, ...]:
    return (found.intent, found.token_ids, found.decided, found.forced, found.probability)


def test_it_is_greedy_among_the_legal_answers(legal: LegalAnswers) -> None:
    trie, answers = legal.trie(CATALOG), every_answer(legal, CATALOG)
    seen = set()
    for seed in range(40):
        found, cache = run(trie, seed)
        wanted = greedy(answers, PROMPT, cache.logits)
        assert (*found.token_ids, 2) == wanted
        assert found.intent == answers[wanted]
        seen.add(found.intent)
    assert len(seen) > 20
    assert (NO_ORDER in seen) == legal.none


def test_a_draft_changes_no_answer(legal: LegalAnswers) -> None:
    trie = legal.trie(CATALOG)
    drafts = [
        legal.ids(action, line, n) for action in ("add", "remove") for line in CATALOG for n in (1, 7, 12)
    ]
    partly = 0
    for seed in range(12):
        alone, _ = run(trie, seed)
        for draft in drafts:
            found, cache = run(trie, seed, draft)
            assert answer(found) == answer(alone)
            assert found.forward_passes == alone.forward_passes - found.accepted + (
                found.accepted == alone.decided
            )
            assert cache.ids[: len(PROMPT)] == PROMPT
            assert found.token_ids[: len(cache.ids) - len(PROMPT)] == tuple(cache.ids[len(PROMPT) :])
            partly += 0 < found.accepted < found.drafted
        right, _ = run(trie, seed, (*alone.token_ids, 2))
        assert answer(right) == answer(alone)
        assert (right.forward_passes, right.accepted, right.drafted) == (1, alone.decided, alone.decided)
    assert partly > 20


def test_what_is_not_legal_of_a_draft_is_ignored(legal: LegalAnswers) -> None:
    trie = legal.trie(CATALOG)
    alone, _ = run(trie)
    ids = (*alone.token_ids, 2)
    at = next(place for place in range(1, len(ids)) if ids[:place] != legal.ids("add", "Tea", 1)[:place])
    for draft in (
        legal.ids("add", "Bread", 3),
        [9] * 40,
        ids[:at],
        ids[:-4],
        (*ids[:at], 9, 9),
        (*ids, *ids),
        [2],
    ):
        found, _ = run(trie, draft=draft)
        assert answer(found) == answer(alone)


def test_one_pass_a_decision_and_forced_tokens_ride_along(legal: LegalAnswers) -> None:
    trie = legal.trie(CATALOG)
    for seed in range(10):
        found, cache = run(trie, seed)
        assert found.forward_passes == found.decided == len(cache.passes)
        assert found.decided + found.forced == len(found.token_ids)
        assert found.forced > found.decided
        first, *later = cache.passes
        assert first[0][: len(PROMPT)] == PROMPT
        assert len(first[0]) > len(PROMPT)
        # logits are asked for after the last token of a pass alone, and each token is read once
        assert all(wanted == [len(ids) - 1] for ids, wanted in cache.passes)
        assert sum(len(ids) for ids, _ in [first, *later]) == len(cache.ids)


def test_a_right_draft_needs_one_pass_over_its_decisions(legal: LegalAnswers) -> None:
    trie, likes = legal.trie(CATALOG), legal.ids("remove", "Milk 2 l", 12)
    found, cache = run(trie, draft=likes, likes=likes)
    assert found.intent == Intent("remove", "Milk 2 l", 12)
    ((ids, wanted),) = cache.passes
    assert len(wanted) == found.decided
    assert wanted[-1] == len(ids) - 1


def test_the_probabilities_of_all_legal_answers_are_one(legal: LegalAnswers) -> None:
    """Over the trie: each answer's is the product of what its decisions give it, and the greedy one's is found."""
    trie = LegalAnswers(legal._builder, 12, legal.none).trie(CATALOG[:3])
    found, cache = run(trie, seed=5)
    total, chosen = 0.0, 0.0

    def visit(node: Node, ids: list[int], probability: float) -> None:
        nonlocal total, chosen
        if not node.children:
            total += probability
            chosen += probability if ids[:-1] == list(found.token_ids) else 0
            return
        tokens = list(node.children)
        weights = np.exp(cache.logits([*PROMPT, *ids])[tokens])
        for token, weight in zip(tokens, weights, strict=True):
            share = weight / weights.sum() if len(tokens) > 1 else 1.0
            visit(node.children[token], [*ids, token], probability * share)

    visit(trie.root, [], 1.0)
    assert total == pytest.approx(1)
    assert found.probability == pytest.approx(chosen)
    assert 0 < chosen < 1


def test_a_sure_model_is_sure(legal: LegalAnswers) -> None:
    found, _ = run(legal.trie(CATALOG), likes=legal.ids("add", "Milk", 3))
    assert found.intent == Intent("add", "Milk", 3)
    assert found.probability == pytest.approx(1)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nan_and_infinity_are_refused(
    legal: LegalAnswers, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeCache, "logits", lambda self, context: np.full(self.vocabulary, value))
    with pytest.raises(UserError, match=f"computes {value}"):
        run(legal.trie(CATALOG))


def test_of_equal_tokens_the_lowest_id_is_taken(legal: LegalAnswers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeCache, "logits", lambda self, context: np.zeros(self.vocabulary))
    trie, answers = legal.trie(CATALOG), every_answer(legal, CATALOG)
    found, cache = run(trie)
    assert (*found.token_ids, 2) == greedy(answers, PROMPT, cache.logits)


def test_something_is_read_before_the_answer(legal: LegalAnswers) -> None:
    with pytest.raises(ValueError, match="nothing to read"):
        decode(FakeCache(), [], legal.trie(CATALOG))


def test_with_a_margin_the_draft_is_taken_where_the_model_hardly_prefers_another(legal: LegalAnswers) -> None:
    trie = legal.trie(CATALOG)
    drafts = [legal.ids(action, line, n) for action in ("add", "remove") for line in CATALOG for n in (1, 12)]
    for seed in range(8):
        alone, _ = run(trie, seed)
        for draft in drafts:
            strict, _ = run(trie, seed, draft)
            assert strict.gap is not None
            assert (strict.gap == 0) == ((*strict.token_ids, 2) == draft)
            taken, cache = run(trie, seed, draft, margin=strict.gap)
            assert (*taken.token_ids, 2) == draft
            assert taken.intent == trie.intent(draft)
            assert taken.probability == pytest.approx(strict.draft_probability)
            assert (taken.forward_passes, taken.accepted, taken.drafted) == (1, taken.decided, taken.decided)
            assert cache.ids[: len(PROMPT)] == PROMPT
            if strict.gap:
                left, _ = run(trie, seed, draft, margin=strict.gap * 0.999)
                assert answer(left) == answer(alone)


def test_a_draft_is_weighed_by_the_logits_before_its_tokens(legal: LegalAnswers) -> None:
    trie = legal.trie(CATALOG)
    for draft in (legal.ids("add", "Milk", 12), legal.ids("remove", "Čarape (par)", 1)):
        found, cache = run(trie, 4, draft)
        rows = [cache.logits([*PROMPT, *draft[:place]]) for place in range(len(draft))]
        assert weigh(trie, draft, rows) == (found.gap, pytest.approx(found.draft_probability))
    rows = [cache.logits(PROMPT)] * 60
    for wrong in (legal.ids("add", "Bread", 3), legal.ids("add", "Milk", 3)[:-1]):
        assert weigh(trie, wrong, rows[: len(wrong)]) is None


def test_an_illegal_draft_has_no_gap(legal: LegalAnswers) -> None:
    trie = legal.trie(CATALOG)
    for draft in (
        (),
        legal.ids("add", "Bread", 3),
        legal.ids("add", "Milk", 31),
        legal.ids("add", "Milk", 3)[:-1],
    ):
        found, _ = run(trie, 3, draft, margin=1000.0)
        assert (found.gap, found.draft_probability) == (None, None)
        assert answer(found) == answer(run(trie, 3)[0])
