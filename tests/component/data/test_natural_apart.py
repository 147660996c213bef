"""Messages that people wrote are for evaluation alone: nothing of them is in what rows are made of."""

from __future__ import annotations

import re

from cartlm.data import lexicon, menus, naming
from cartlm.task import rows
from tests import ROOT

NATURAL = ROOT / "cartlm/evaluation/natural_messages/rows.jsonl"
N = 5  # words in a row that no frame may share with a message


def words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())


def grams(texts: list[str]) -> set[tuple[str, ...]]:
    split = [words(text) for text in texts]
    return {tuple(each[i : i + N]) for each in split for i in range(len(each) - N + 1)}


def texts_of(value: object) -> list[str]:
    """All texts of a grammar file, at any depth."""
    if isinstance(value, dict):
        return [text for each in value.values() for text in texts_of(each)]
    if isinstance(value, list):
        return [text for each in value for text in texts_of(each)]
    return [str(value)]


def test_no_natural_product_is_on_a_menu() -> None:
    natural = {" ".join(words(line.split(" (")[0])) for row in rows.read(NATURAL) for line in row.catalog}
    parts = menus.menus("english")
    ours = {
        " ".join(words(product.name))
        for menu, kinds in parts.items()
        for product in menus.combine(
            "english", menu, list(kinds["heads"]), list(kinds["before"]), kinds["behind"]
        )
        if " " in product.name  # a head alone, such as "burger", is everybody's
    }
    said = {" ".join(words(say.split("|")[0])) for say in texts_of(naming.everyday("english")["synonyms"])}
    assert natural & (ours | {each for each in said if " " in each}) == set()


def test_no_five_words_of_a_natural_message_are_in_a_frame() -> None:
    natural = grams([row.message for row in rows.read(NATURAL)])
    everyday = naming.everyday("english")
    texts = [part for text in texts_of(everyday) for part in re.split(r"\{\w+\}", text)]
    texts += texts_of(menus.menus("english")) + [product.name for product in lexicon.load("english")]
    assert natural & grams(texts) == set()
