"""Classic messages: labels hold, naming is unambiguous, grammar agrees, the novel slice is apart."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cartlm.data import gates, lexicon, messages, offline, rules
from cartlm.data.config import Data
from cartlm.data.wording import Phrase, agrees, grammar, noun_phrase, number
from cartlm.task import prompt, rows
from cartlm.task.intent import ACTIONS
from tests.fixtures import fixed_params


@pytest.fixture(scope="module")
def data() -> Data:
    loaded = fixed_params.load().data
    sizes = {"train": 450, "validation": 60, "test": 150, "calibration": 90}
    return loaded.with_everyday(share=0.0).model_copy(update=sizes)


@pytest.fixture(scope="module")
def made(data: Data) -> dict[str, list[rows.Row]]:
    return offline.splits(data).splits


def find(language: str, name: str) -> lexicon.Product:
    return next(product for product in lexicon.load(language) if product.name == name)


@pytest.mark.parametrize("language", lexicon.LANGUAGES)
def test_all_forms_of_a_name_have_its_words_and_one_head(language: str) -> None:
    path = Path(lexicon.__file__).parent / f"lexicons/{language}.tsv"
    first, *lines = path.read_text(encoding="utf-8").splitlines()
    forms = [first.split("\t").index(column) for column in lexicon._FORMS[language].values()]
    for line in lines:
        texts = [line.split("\t")[index] for index in forms]
        assert texts[0].count("*") == 1, line
        assert len({text.count(" ") for text in texts if text}) == 1, line


@pytest.mark.parametrize("language", lexicon.LANGUAGES)
def test_lexicon_is_large_and_covers_the_domains(language: str) -> None:
    products = lexicon.load(language)
    assert len(products) >= 400
    assert len({product.key for product in products}) == len(products)
    domains = Counter(product.domain for product in products)
    assert set(domains) == {"groceries", "household", "clothing", "electronics", "beauty", "sport", "office"}
    assert min(domains.values()) >= 50
    known = set(grammar(language)["units"])
    assert {unit for product in products for unit in product.units} <= known
    assert not any(line in product.name for product in products for line in "()\n")


@pytest.mark.parametrize("language", lexicon.LANGUAGES)
@pytest.mark.parametrize("action", ACTIONS)
def test_every_frame_expands_and_both_classes_have_frames(language: str, action: str) -> None:
    for kind in ("terse", "full"):
        seen, held = (messages.cores(language, action, kind, novel) for novel in (False, True))
        assert len(held) >= 2
        assert len(seen) > 3 * len(held)
        for _, text in seen + held:
            expanded = messages.expand(language, text, random.Random(1))
            assert expanded.count("{np}") + expanded.count("{def}") == 1
            assert "<" not in expanded
            assert "[" not in expanded


@pytest.mark.parametrize(
    ("name", "quantity", "form", "expected"),
    [
        (
            "maslinovo ulje",
            2,
            "word",
            {"dva maslinova ulja", "dvije boce maslinovog ulja", "dvije limenke maslinovog ulja"},
        ),
        (
            "maslinovo ulje",
            5,
            "word",
            {"pet maslinovih ulja", "pet boca maslinovog ulja", "pet limenki maslinovog ulja"},
        ),
        ("kožne sandale", 2, "digit", {"2 para kožnih sandala"}),
        ("kožne sandale", 5, "digit", {"5 pari kožnih sandala"}),
        ("lagana vjetrovka", 1, "none", {"laganu vjetrovku"}),
        ("lagana vjetrovka", 2, "word", {"dvije lagane vjetrovke"}),
        ("lagana vjetrovka", 12, "word", {"dvanaest laganih vjetrovki"}),
        ("lagana vjetrovka", 24, "digit", {"24 lagane vjetrovke"}),
    ],
)
def test_croatian_agrees(name: str, quantity: int, form: str, expected: set[str]) -> None:
    line = lexicon.Line(find("croatian", name), "", "")
    phrase = Phrase(quantity, form, "inflected", False, False, "croatian")
    said = {noun_phrase(line, phrase, random.Random(seed))[0] for seed in range(40)}
    assert said == expected


def test_croatian_agreement_classes() -> None:
    kinds = {n: agrees(n) for n in (1, 2, 4, 5, 11, 12, 14, 20, 21, 22, 24, 25, 111, 112)}
    assert kinds == {
        1: "one", 2: "paucal", 4: "paucal", 5: "many", 11: "many", 12: "many", 14: "many", 20: "many",
        21: "one", 22: "paucal", 24: "paucal", 25: "many", 111: "many", 112: "many",
    }  # fmt: skip
    assert number("croatian", 2, "word", "f") == "dvije"
    assert number("croatian", 2, "word", "m") == "dva"


def test_spanish_agrees_in_gender_and_number() -> None:
    lamp = next(p for p in lexicon.load("spanish") if p.gender == "f" and not p.units and p.variants)
    phrase = Phrase(1, "word", "inflected", False, False, "spanish")
    line = lexicon.Line(lamp, lamp.variants[0], "")
    assert noun_phrase(line, phrase, random.Random(1))[0] == f"una {lamp.name}"
    several = Phrase(3, "word", "inflected", True, False, "spanish")
    assert noun_phrase(line, several, random.Random(1))[0] == f"las tres {lamp.forms['many']}"


def test_rows_hold_their_contract(made: dict[str, list[rows.Row]], data: Data) -> None:
    assert {name: len(part) for name, part in made.items()} == {
        "train": 450, "validation": 60, "test": 150, "calibration": 90,
    }  # fmt: skip
    for part in made.values():
        for row in part:
            assert row.prompt == prompt.render_prompt(row.catalog, row.message)
            assert prompt.split_prompt(row.prompt) == (row.catalog, row.message)
            assert row.intent.product in row.catalog
            assert row.intent.canonical() == row.completion
            assert data.catalog.min_lines <= len(row.catalog) <= data.catalog.max_lines
            assert len(set(row.catalog)) == len(row.catalog)


def test_novel_rows_share_neither_product_nor_frame_with_training(made: dict[str, list[rows.Row]]) -> None:
    seen = [*made["train"], *made["validation"]]
    assert sum(bool(row.tags["novel"]) for row in made["test"]) == round(0.334 * 150)
    gates.check_novel(seen, made["test"])
    trained = {
        product.name.lower() for language in lexicon.LANGUAGES for product in rules.products(language, False)
    }
    for row in seen:
        assert all(line.split(" (")[0].lower() in trained for line in row.catalog)


def test_the_same_seed_makes_the_same_rows_and_another_does_not(data: Data) -> None:
    small = data.model_copy(update={"train": 30, "validation": 10, "test": 20, "calibration": 6})
    assert offline.splits(small).splits == offline.splits(small).splits
    other = offline.splits(small.model_copy(update={"seed": data.seed + 1})).splits
    assert [row.message for row in other["test"]] != [
        row.message for row in offline.splits(small).splits["test"]
    ]


def test_a_larger_train_leaves_the_test_as_it_is(data: Data) -> None:
    small = data.model_copy(update={"train": 30, "validation": 10, "test": 20, "calibration": 6})
    larger = small.model_copy(update={"train": 90})
    assert offline.splits(small).splits["test"] == offline.splits(larger).splits["test"]


def test_calibration_is_a_balanced_part_of_train(made: dict[str, list[rows.Row]]) -> None:
    assert {row.id for row in made["calibration"]} <= {row.id for row in made["train"]}
    assert set(Counter(row.language for row in made["calibration"]).values()) == {30}


@given(seed=st.integers(0, 10_000))
@settings(max_examples=50, deadline=None)
def test_a_short_name_or_a_size_points_at_one_line(seed: int, data: Data) -> None:
    rng = random.Random(seed)
    line = rules.sample_line(rng.choice(rules.products(rng.choice(lexicon.LANGUAGES), False)), rng)
    catalog = rules.sample_catalog(line, data.catalog, rng)
    assert line in catalog
    possible = rules.names(line, catalog)
    if possible.part:
        assert sum(other.variant == line.variant for other in catalog) == 1
    if possible.short:
        head = line.product.name.split(" ")[line.product.head].lower()
        assert (
            sum(
                head in other.product.name.lower().split(" ")
                for other in catalog
                if other.product != line.product
            )
            == 0
        )
    same = [other for other in catalog if other.product == line.product]
    assert len({other.variant for other in same}) == len(same)


def test_what_was_done_is_tagged(made: dict[str, list[rows.Row]]) -> None:
    train = made["train"]
    assert 0.46 < sum(row.tags["noise"] == "clean" for row in train) / len(train) < 0.54
    croatian = [row for row in train if row.language == "croatian"]
    dropped = sum("diacritics" in str(row.tags["noise"]).split("+") for row in croatian) / len(croatian)
    assert 0.12 < dropped < 0.25
    kinds = Counter(str(row.tags["quantity_form"]) for row in train)
    assert set(kinds) == {"digit", "word", "pack", "none"}
    assert all(row.intent.quantity == 1 for row in train if row.tags["quantity_form"] == "none")
    assert {row.tags["name_form"] for row in train} == {"full", "inflected", "short", "part"}
    assert sum(map(gates.has_twins, train)) / len(train) >= 1 / 3
