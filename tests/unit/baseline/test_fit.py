"""What is learned from rows, and what is chosen on the validation rows."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cartlm.baseline import fit
from cartlm.baseline.fit import Example, number_words, rank, threshold
from cartlm.baseline.matching import Matcher
from cartlm.task.intent import NO_ORDER, Intent
from cartlm.task.rows import Row, make
from tests.fixtures.baseline import generated


def row(message: str, quantity: int, action: str = "add", product: str = "Green Tea") -> Row:
    return make("r", "english", [product, "Jam"], message, Intent(action, product, quantity), {})


def examples(rows: list[Row]) -> list[Example]:
    found = []
    for each in rows:
        matcher = Matcher(each.catalog, each.message, frozenset())
        found.append(Example(each.catalog, each.intent, matcher, matcher.candidates()))
    return found


def test_messages_that_are_no_order_teach_it_nothing() -> None:
    train, held = generated("no orders", 60)[:40], generated("no orders", 60)[40:]
    chats = [make(f"none-{n}", "english", ["Tea"], "hello", NO_ORDER, {}) for n in range(9)]
    assert fit.fit([*chats, *train], [*held, *chats]) == fit.fit(train, held)


def test_number_words_are_learned_from_rows_without_digits() -> None:
    said = {"half a dozen": 6, "a dozen": 12, "two dozen": 24, "two": 2, "cuatro": 4, "dvije": 2}
    rows = [row(f"get {words} green teas", quantity) for words, quantity in said.items() for _ in range(12)]
    rows += [row("get green tea", 1) for _ in range(40)]
    rows += [row("get 5 green teas now", 5) for _ in range(40)]
    known = number_words(examples(rows), chance=1e-4)
    meant = {phrase: quantity for phrase, (quantity, _) in known.items()}
    assert (
        meant.items()
        >= {"half": 6, "a dozen": 12, "two dozen": 24, "two": 2, "cuatro": 4, "dvije": 2}.items()
    )
    assert not meant.keys() & {"get", "now", "a", "green", "teas"}
    assert known["cuatro"] == (4, 1.0)
    assert known["two"] == (2, 0.5)


def test_a_word_that_is_seldom_with_its_number_is_none() -> None:
    rows = [
        row(f"get {word} green teas", number) for word, number in (("two", 2), ("nine", 9)) for _ in range(10)
    ]
    rows += [row("get green tea", 1) for _ in range(80)]
    assert number_words(examples(rows), 1e-3).keys() >= {"two", "nine"}
    assert "nine" not in number_words(examples([*rows, *[row("get nine green teas", 1)] * 10]), 1e-3)
    assert "two" not in number_words(examples([rows[0], *rows[10:]]), 1e-3), "one row proves nothing"


def test_words_that_name_products_are_no_frame() -> None:
    rows = [
        row(f"please add {product.lower()}", 1, product=product)
        for product in ("Green Tea", "Jam Jar")
        for _ in "123456"
    ]
    assert fit.frame_words(rows) == {"please", "add"}


def test_of_thresholds_that_are_nearly_as_good_the_highest_is_chosen() -> None:
    scores = [-2.0, -1.0, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    remove = [False, False, False, True, True, True, True, True, True, True]
    assert threshold(scores, remove) == 0.75  # all right, so that no other is as good
    noisy = [False, False, True, True, True, True, True, True, True, True]
    noisy[3] = False
    assert threshold(scores, noisy) == 1.5  # 0.9 are right from -0.25 on, and from 1.5 on as well
    assert threshold([0.0, 0.0], [True, True]) < 0, "nothing is known but that all are removed"
    assert threshold([0.0, 1.0], [False, False]) >= 1


def test_ranking_prefers_what_the_right_ones_have() -> None:
    groups = [[{"good": 1.0, "both": 1.0}, {"bad": 1.0, "both": 1.0}] for _ in range(5)]
    found = list(rank(groups, [[True, False]] * 5))
    assert len(found) == len(fit.STRENGTHS)
    for weights in found:
        assert weights["good"] > 0 > weights["bad"]
        assert "both" not in weights
    assert list(rank(groups, [[True, True]] * 5)) == [{}]
    assert list(rank([], [])) == [{}]


@pytest.mark.parametrize("action", ["add", "remove"])
def test_rows_of_one_action_alone_teach_that_action(action: str) -> None:
    rows = [
        row(f"{words} {number} green teas", number, action)
        for words in ("get", "have")
        for number in range(1, 9)
    ]
    fitted = fit.fit(rows, rows)
    assert fitted.shares["action"] == 1.0


def test_labels_of_the_validation_rows_teach_nothing() -> None:
    """They choose between settings: with all of them wrong, the weights are still those of training."""
    train, validation = list(generated("train", 240)), list(generated("validation", 60))
    wrong = [
        make(one.id, one.language, one.catalog, one.message, replace(one.intent, quantity=77), {})
        for one in validation
    ]
    first, second = fit.fit(train, validation), fit.fit(train, wrong)
    assert second.shares["quantity"] == 0.0
    assert second.weights.product == first.weights.product
    assert not any(quantity == 77 for quantity, _ in second.weights.numbers.values())
