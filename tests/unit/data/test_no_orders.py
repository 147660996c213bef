"""Messages that are no order: beside the orders, varied, apart from those of the test, and wishes for what is not there."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from cartlm import params
from cartlm.data import lexicon, naming, no_orders, offline
from cartlm.data.config import Data
from cartlm.data.lexicon import Product
from cartlm.data.messages import of_novelty
from cartlm.data.near_duplicates import nearest
from cartlm.errors import UserError
from cartlm.task.intent import NO_ORDER
from cartlm.task.rows import Row
from tests import ROOT
from tests.fixtures import fixed_params

SIZES = {"train": 450, "validation": 60, "test": 60, "calibration": 90}


@pytest.fixture(scope="module")
def data() -> Data:
    loaded = fixed_params.load().data
    return loaded.model_copy(update=SIZES | {"none": 0.4})


@pytest.fixture(scope="module")
def made(data: Data) -> dict[str, list[Row]]:
    return no_orders.splits(data)[0]


def test_a_share_of_0_makes_none(data: Data) -> None:
    found, figures = no_orders.splits(data.model_copy(update={"none": 0.0}))
    assert figures == {}
    assert not any(found.values())


def test_the_share_is_of_all_rows_and_the_orders_stay_as_they_are(
    data: Data, made: dict[str, list[Row]]
) -> None:
    orders = offline.splits(data).splits
    assert orders == offline.splits(data.model_copy(update={"none": 0.0})).splits
    for name in ("train", "validation", "calibration"):
        mixed = no_orders.mixed(orders[name], made[name], name)
        assert [row for row in mixed if row.is_order] == orders[name]
        assert len({row.id for row in mixed}) == len(mixed)
        share = sum(not row.is_order for row in mixed) / len(mixed)
        assert share == pytest.approx(0.4, abs=0.005)
        begin = mixed[: len(mixed) // 2]
        assert 0.25 < sum(not row.is_order for row in begin) / len(begin) < 0.55  # not all at one end


def test_the_labels_and_kinds_are_even_over_the_languages(made: dict[str, list[Row]]) -> None:
    assert {row.intent for part in made.values() for row in part} == {NO_ORDER}
    for name in ("train", no_orders.TEST):
        counts = Counter((row.tags["kind"], row.language) for row in made[name])
        assert len(counts) == len(no_orders.KINDS) * len(lexicon.LANGUAGES)
        assert max(counts.values()) - min(counts.values()) <= 1
    assert len(made[no_orders.TEST]) == no_orders.TEST_ROWS
    assert {row.id for row in made["calibration"]} < {row.id for row in made["train"]}


def test_the_test_is_unlike_training_and_its_novel_part_has_lines_of_its_own(
    data: Data, made: dict[str, list[Row]]
) -> None:
    seen = [*made["train"], *made["validation"]]
    best, _ = nearest(made[no_orders.TEST], seen, data.gates.near_duplicate)
    assert best.max() < data.gates.near_duplicate
    templates = {row.tags["template"] for row in seen}
    novel = [row for row in made[no_orders.TEST] if row.tags["novel"]]
    assert len(novel) == round(no_orders.TEST_ROWS * data.novel)
    assert templates.isdisjoint(row.tags["template"] for row in novel)
    assert not any(row.tags["novel"] for row in seen)


@pytest.mark.parametrize("language", lexicon.LANGUAGES)
def test_lines_are_many_and_each_expands(language: str, made: dict[str, list[Row]]) -> None:
    listed = no_orders.lines(language)
    for kind in ("chat", "question", "mention"):
        assert len(listed[kind]) > 50
        assert len(set(listed[kind])) == len(listed[kind])
        held = of_novelty(listed[kind], True)
        assert set(held).isdisjoint(of_novelty(listed[kind], False))
    own = [row for part in made.values() for row in part if row.language == language]
    assert not any(sign in row.message for row in own for sign in "<>[]{}")


def find(language: str, name: str) -> Product:
    return next(product for product in lexicon.load(language) if product.name == name)


def test_products_are_alike_by_a_word_or_a_synonym_in_common() -> None:
    assert naming.alike(find("english", "oat milk"), find("english", "almond milk"))
    assert naming.alike(find("croatian", "maslinovo ulje"), find("croatian", "sezamovo ulje"))
    assert naming.alike(find("spanish", "leche entera"), find("spanish", "leche desnatada"))
    assert not naming.alike(find("english", "oat milk"), find("english", "brown rice"))
    slip = find("english", "whole milk")  # "full-fat milk"
    assert {"full-fat", "whole", "milk"} <= naming.words_for(slip)


def test_a_wish_is_for_nothing_like_a_line_of_its_catalog(data: Data) -> None:
    rng = random.Random(3)
    for language in lexicon.LANGUAGES:
        for _ in range(12):
            made = no_orders.draft("absent", language, False, data, rng)
            assert len(made.catalog) >= data.catalog.min_lines
            said = made.clean.lower()
            for line in made.catalog:
                whole = line.product.name.lower()
                assert whole not in said, (made.clean, line.text)


def test_a_mention_names_a_line_of_its_catalog(made: dict[str, list[Row]]) -> None:
    """Some word of it, in the clean ones: else chat would be the same."""
    rows = [row for row in made["train"] if row.tags["kind"] == "mention" and row.tags["noise"] == "clean"]
    named = 0
    for row in rows:
        words = {word.lower()[:4] for line in row.catalog for word in line.split(" ") if len(word) >= 4}
        named += any(word[:4] in words for word in row.message.lower().split(" ") if len(word) >= 4)
    assert named > 0.9 * len(rows)


def test_other_sources_have_their_own_rows() -> None:
    values = fixed_params.load().model_dump()
    values["data"] |= {"source": "file", "path": "my-rows", "none": 0.1}
    with pytest.raises(UserError, match=r"none 0\.1 is for source rules; file has its own rows"):
        params.parse(values, "params.yaml")


def test_the_preset_trains_and_decodes_with_it() -> None:
    found = fixed_params.load(ROOT / "presets/none.yaml")
    assert found.data.none > 0
    assert found.decoding.none
