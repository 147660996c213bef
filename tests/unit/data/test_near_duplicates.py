"""Near-duplicates: what is compared, and that blocks find what comparing one pair at a time finds."""

from __future__ import annotations

import random

import pytest
from rapidfuzz import fuzz

from cartlm.data import near_duplicates
from cartlm.data.near_duplicates import comparable, nearest, unlike_others
from cartlm.task.intent import Intent
from cartlm.task.rows import Row, make


def row(message: str, product: str = "Tea") -> Row:
    return make(message, "english", [product], message, Intent("add", product, 1), {})


def test_message_and_product_are_compared_in_nfc_and_lower_case() -> None:
    assert comparable(row("Two Cafe\u0301s", "Cafe\u0301")) == "two cafés | café"


@pytest.mark.parametrize("threshold", [0.75, 0.9, 0.95])
def test_blocks_find_what_comparing_pairs_finds(threshold: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_duplicates, "BLOCK", 7)
    rng = random.Random(3)
    others = [row("".join(rng.choices("abcdefgh ", k=30))) for _ in range(40)]
    rows = [row(other.message[: rng.randrange(15, 31)]) for other in others]
    scores, where = nearest(rows, others, threshold)
    for one, score, index in zip(rows, scores, where, strict=True):
        ratios = [fuzz.ratio(comparable(one), comparable(other)) / 100 for other in others]
        assert score == pytest.approx(max(ratios) if max(ratios) >= threshold else 0)
        assert score == 0 or index == ratios.index(max(ratios))
    assert 5 < (scores > 0).sum() < 40  # some are found, some are not


def test_a_row_is_not_its_own_duplicate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_duplicates, "BLOCK", 2)
    rows = [row("add two apples"), row("remove the milk"), row("add two apples!"), row("bread")]
    assert unlike_others(rows, 0.9) == [1, 3]


@pytest.mark.parametrize("message", ["", "a", "čaj", "🍎🍎🍎🍎"])
def test_short_and_odd_texts_find_themselves(message: str) -> None:
    scores, where = nearest([row(message)], [row("something else"), row(message)], 0.95)
    assert (scores[0], where[0]) == (1.0, 1)


def test_nothing_is_near_to_nothing() -> None:
    assert nearest([row("add two apples")], [], 0.95)[0].tolist() == [0.0]
    assert nearest([], [row("add two apples")], 0.95)[0].tolist() == []
    assert unlike_others([], 0.95) == []
