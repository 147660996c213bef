"""The natural set: what becomes a candidate, and that the committed rows are what the converter makes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cartlm.evaluation import multidogo
from cartlm.task import rows
from cartlm.task.intent import Intent


def turn(text: str, **slots: str) -> dict[str, Any]:
    tags = " ".join(slots.get(word, "O") for word in text.split())
    return {"conv": "c", "turn": 1, "text": text, "slots": tags}


@pytest.mark.parametrize(
    ("text", "intent"),
    [
        ("i need 2 green stripe pizza please", Intent("add", "Green Stripe Pizza", 2)),
        ("yes one diet coke", Intent("add", "Diet Coke", 1)),
        ("coke", Intent("add", "Coca-Cola", 1)),
        ("can i have a strawbery shake", Intent("add", "Strawberry Shake", 1)),  # a typo
        ("2 bacon smokehouse burger", Intent("add", "Bacon Smokehouse Burger", 2)),  # not the double one
        ("large fries and", Intent("add", "World Famous Fries (Large)", 1)),
        ("please cancel my big mac", Intent("remove", "Big Mac", 1)),
        ("couple of lemonade", None),  # "of" may begin anything
        ("lemonade couple", Intent("add", "Lemonade", 2)),
    ],
)
def test_turns_that_name_one_line(text: str, intent: Intent | None) -> None:
    found = multidogo.candidate(turn(text))
    assert (found[1].intent if found else None) == intent


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (turn("one soda and one lemonade"), "two lines"),
        (turn("something nice"), "none"),
        (turn("big mac 2 or 3"), "two numbers"),
        (turn("change it to a coke"), "only the dialogue explains it"),
        (turn("big mac with onions"), "an ingredient"),
        (turn("big mac onions", onions="excluded_ingredient"), "an ingredient, by its tag"),
        (turn("small medium coke"), "two sizes"),
        (turn("large big mac"), "no sizes of that line"),
        ({"conv": "c", "turn": 1, "text": "coke", "slots": "O O"}, "tags that do not fit the words"),
    ],
)
def test_turns_that_have_no_single_answer_or_none_of_ours(given: dict[str, Any], why: str) -> None:
    assert multidogo.candidate(given) is None, why


def test_catalogs_hold_the_line_once_with_near_ones() -> None:
    for one in multidogo.candidates():
        assert one.catalog.count(one.intent.product) == 1
        assert len(set(one.catalog)) == len(one.catalog)
        assert multidogo.MIN_LINES <= len(one.catalog) <= multidogo.MAX_LINES
    large = [one for one in multidogo.candidates() if one.intent.product.endswith("(Large)")]
    assert large
    for one in large:
        name = one.intent.product.removesuffix(" (Large)")
        assert any(f"{name} ({size})" in one.catalog for size in ("Medium", "Small"))
        assert name not in one.catalog  # a plain line beside the sizes would be ambiguous


def test_only_what_both_readers_read_alike_is_kept() -> None:
    made, agreement = multidogo.natural_rows()
    first, second = (multidogo.read_readings(name) for name in multidogo.READINGS)
    assert all(first[row.id] == second[row.id] == row.intent for row in made)
    assert agreement["candidates"] == len(multidogo.candidates())
    assert agreement["kept"] == len(made)
    assert agreement["disagreed"] + agreement["unanswerable"] + agreement["kept"] == agreement["candidates"]
    assert agreement["disagreed"] > 0  # readers who never differ did not read


def test_the_committed_rows_are_those_made_here() -> None:
    made, agreement = multidogo.natural_rows()
    assert rows.read(multidogo.ROWS) == made
    committed = json.loads(multidogo.AGREEMENT.read_text(encoding="utf-8"))["readings"]
    assert committed == pytest.approx(agreement, rel=1e-3)
    assert len(made) >= 300
    typed = {(one["conv"], f"{one['turn']:02d}"): one["text"] for one in multidogo.turns()}
    for row in made:
        _, conv, number = row.id.split("-")
        assert row.message == typed[conv, number]  # as it was typed
        assert row.language == "english"
