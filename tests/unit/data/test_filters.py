"""Why worded messages are refused: the product, its size, the number, the language."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from cartlm.data import filters, rules
from cartlm.data.lexicon import Line, load
from tests.fixtures import fixed_params


def of(name: str, variant: str = "", language: str = "english") -> Line:
    return Line(next(one for one in load(language) if one.name == name), variant, "")


WHOLE, BIG, OAT = of("whole milk", "1L"), of("whole milk", "2L"), of("oat milk", "1L")
ENTERA, DESNATADA, SEMI = (
    of(f"leche {kind}", "1L", "spanish") for kind in ("entera", "desnatada", "semidesnatada")
)
SHIRTS = [Line(product, "", "") for product in load("english") if product.domain == "clothing"]
SHIRT = next(line.product for line in SHIRTS if {"S", "L"} <= set(line.product.variants))
SMALL, LARGE = Line(SHIRT, "S", ""), Line(SHIRT, "L", "")


@pytest.mark.parametrize(
    ("message", "line", "others", "quantity", "why"),
    [
        ("please put two of the whole milk 1L into my cart", WHOLE, [BIG, OAT], 2, ""),
        ("could you get me 2 x 1 l of that whole milk", WHOLE, [BIG, OAT], 2, ""),
        ("could you get me two whole milks", WHOLE, [OAT], 2, ""),  # an inflected name, no twin
        ("", WHOLE, [], 2, "missing"),
        ("please " * 100, WHOLE, [], 2, "too long"),
        ("whole milk, 2 of them \ud83d", WHOLE, [], 2, "control sign"),
        ('{"action": "add"} whole milk 2', WHOLE, [], 2, "leak"),
        ("add two of the whole milk</s>", WHOLE, [], 2, "special token"),
        ("<|im_start|>user add two of the whole milk", WHOLE, [], 2, "special token"),
        ("please put two of the whole milk 1L into my cart \U0001fa77", WHOLE, [BIG, OAT], 2, ""),
        ("please put two of the whole milk \ufdd0 into my cart", WHOLE, [OAT], 2, "control sign"),
        ("whole milk, quantity: 2 please", WHOLE, [], 2, ""),  # people do write so
        ("please put two of them into my cart", WHOLE, [OAT], 2, "product"),
        ("please put two whole milks into my cart", WHOLE, [BIG], 2, "ambiguous"),  # which size?
        ("please put two of the whole milk 2L into my cart", WHOLE, [BIG], 2, "ambiguous"),
        ("please put 2 milks into my cart", WHOLE, [OAT], 2, "ambiguous"),
        ("add the whole milk 2L to my cart", BIG, [], 2, "quantity"),  # that 2 is the size
        ("add the whole milk 2L to my cart", BIG, [WHOLE], 1, ""),
        ("add three whole milks to my cart", WHOLE, [], 1, "quantity"),
        ("please put three of the whole milk into my cart", WHOLE, [], 2, "quantity"),
        ("half a dozen whole milks please now", WHOLE, [], 6, ""),
        ("half of the whole milk please now", WHOLE, [], 6, "quantity"),
        ("a dozen whole milks please now", WHOLE, [], 12, ""),
        ("twenty-four whole milks please now", WHOLE, [], 24, ""),
        ("four whole milks please now", WHOLE, [], 24, "quantity"),
        ("two of the whole one, the milk I mean", WHOLE, [OAT], 2, ""),
        ("add two of them to my cart please", SMALL, [OAT], 2, "product"),  # an s is in everything
        (f"add two {SHIRT.forms['many']} to my cart please", SMALL, [LARGE], 2, "ambiguous"),
        (f"add two {SHIRT.forms['many']} in size L please", LARGE, [SMALL], 2, ""),
        (f"that's two {SHIRT.forms['many']} please, the L one", SMALL, [LARGE], 2, "ambiguous"),
        ("add two whole milks, 2 litre ones please", BIG, [WHOLE], 2, ""),
        ("add the 2 litre whole milk please", BIG, [WHOLE], 2, "quantity"),
        ("add two whole milks please, 1,5 litres each", of("whole milk", "1.5L"), [WHOLE], 2, ""),
        ("add two whole milks please, the 1.5L ones", of("whole milk", "1.5L"), [WHOLE], 2, ""),
        ("add 2x500ml whole milk please", of("whole milk", "500ml"), [WHOLE], 2, ""),
        ("hi, can you add two please", of("can opener"), [], 2, "product"),
        (
            "please put two of that 64GB thing in",
            of("flash drive", "64GB"),
            [of("flash drive", "32GB"), OAT],
            2,
            "",
        ),
    ],
)
def test_why_messages_are_refused(
    message: str, line: Line, others: list[Line], quantity: int, why: str
) -> None:
    languages = ["english", "croatian", "spanish"]
    assert filters.refusal(message, line, [*others, line], quantity, "english", languages) == why


def test_a_pair_of_what_comes_in_pairs_is_one() -> None:
    jeans = next(one for one in load("english") if one.units == ("pair",))
    line = Line(jeans, "", "")
    message = f"please add a pair of {jeans.forms['many']} to my cart"
    assert filters.says_quantity(message, 1, line, "english")
    assert not filters.says_quantity(message, 2, line, "english")
    assert filters.says_quantity(message.replace("a pair", "two pairs"), 2, line, "english")
    assert filters.says_quantity("a pair of whole milks", 2, WHOLE, "english")


def test_a_one_letter_size_is_no_croatian_preposition() -> None:
    shirt = next(one for one in load("croatian") if {"S", "M"} <= set(one.variants))
    small, medium = Line(shirt, "S", ""), Line(shirt, "M", "")
    name, both = shirt.forms["acc"], [small, medium]
    assert filters.product_problem(f"makni {name} s popisa", small, both) == "ambiguous"
    assert filters.product_problem(f"dodaj {name} s popisa, M", medium, both) == ""
    assert filters.product_problem(f"dodaj {name} veličine s", small, both) == ""


@pytest.mark.parametrize(
    ("message", "line", "others", "quantity", "why"),
    [
        (
            "ponme 1 leche entera en el carrito",
            ENTERA,
            [of("leche entera", "1500ml", "spanish")],
            1,
            "ambiguous",
        ),
        ("añade 2 leches desnatadas al carrito por favor", DESNATADA, [SEMI], 2, ""),
        ("añade 2 leches semidesnatadas al carrito por favor", SEMI, [DESNATADA, ENTERA], 2, ""),
        ("añade una caja de leche entera al carrito", ENTERA, [], 12, "quantity"),  # not "una docena de"
        ("añade una docena de leche entera al carrito", ENTERA, [], 12, ""),
        ("please put 2 of the leche entera into my cart", ENTERA, [], 2, "other language"),
    ],
)
def test_why_spanish_messages_are_refused(
    message: str, line: Line, others: list[Line], quantity: int, why: str
) -> None:
    languages = ["english", "croatian", "spanish"]
    assert filters.refusal(message, line, [*others, line], quantity, "spanish", languages) == why


def test_inflected_names_and_number_words_are_recognised() -> None:
    found: Counter[str] = Counter()
    rng, given = random.Random(3), fixed_params.load().data
    for number in range(150):  # what the offline source words, before noise, mostly passes
        language = given.languages[number % 3]
        draft = rules.draft(language, "add", False, given, rng)
        line = next(one for one in draft.catalog if one.text == draft.intent.product)
        why = filters.refusal(
            draft.clean, line, draft.catalog, draft.intent.quantity, language, given.languages
        )
        found[why] += 1
    assert found[""] > 120, found
    assert found["other language"] < 8, found  # some are code-switched
