"""Products in no lexicon: their names cannot be memorized, only copied from the catalog."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from cartlm.data import rules
from cartlm.data.lexicon import Line, Product, all_distinct

_ONSETS = [
    "b", "c", "d", "f", "g", "h", "j", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z", "st", "pr",
    "kr", "tr", "pl", "gr", "ch", "š", "č", "",
]  # fmt: skip
_NUCLEI = ["a", "e", "i", "o", "u", "a", "e", "i", "o", "ó", "ie", "ua"]
_CODAS = ["", "", "", "n", "r", "s", "l", "k", "t", "m"]
# noun and adjective endings: nominative, accusative, genitive, after 2-4, genitive plural
_NOUNS = {"f": ("a", "u", "e", "e", "a"), "m": ("", "", "a", "a", "ova"), "n": ("o", "o", "a", "a", "a")}
_ADJECTIVES = {
    "f": ("a", "u", "e", "e", "ih"),
    "m": ("i", "i", "og", "a", "ih"),
    "n": ("o", "o", "og", "a", "ih"),
}
_CASES = ("nom", "acc", "gen", "paucal", "gen_pl")


def _syllables(rng: random.Random, least: int = 1) -> str:
    count = rng.randint(least, 3)
    return "".join(rng.choice(_ONSETS) + rng.choice(_NUCLEI) + rng.choice(_CODAS) for _ in range(count))


def invented_product(language: str, rng: random.Random) -> Product:
    """A product of invented words with the endings of its language."""
    count = rng.choice((1, 2, 2, 3))
    gender = rng.choice("fmn" if language == "croatian" else "fm")
    stems = [_syllables(rng, 2 if count == 1 else 1) for _ in range(count)]
    if language == "croatian":
        head = count - 1
        forms = {
            case: " ".join(
                stem + (_NOUNS[gender][i] if position == head else _ADJECTIVES[gender][i])
                for position, stem in enumerate(stems)
            )
            for i, case in enumerate(_CASES)
        }
        name, content = forms["nom"], forms[rng.choice(("gen", "gen_pl"))]
    else:
        head = 0 if language == "spanish" else count - 1
        name = " ".join(stems)
        stems[head] += "s" if stems[head][-1] in "aeiouó" or language == "english" else "es"
        forms = {"one": name, "many": " ".join(stems)}
        content = rng.choice((name, forms["many"]))
    donor = rng.choice(rules.products(language, False))
    units = tuple(unit for unit in donor.units if unit not in ("pair", "par"))
    return Product(
        language, donor.domain, name, head, forms, gender if language != "english" else "", units,
        content if units else "", donor.variants,
    )  # fmt: skip


_VOWELS, _CONSONANTS = "aeiou", "bcdfghjklmnprstvz"


def other_letters(rng: random.Random) -> dict[int, int]:
    """A table for `str.translate` that exchanges vowels for vowels and consonants for consonants."""
    shuffled = (rng.sample(letters, len(letters)) for letters in (_VOWELS, _CONSONANTS))
    return str.maketrans(_VOWELS + _CONSONANTS, "".join(map("".join, shuffled)))


def with_letters(product: Product, table: Mapping[int, int], chosen: Callable[[int, str], bool]) -> Product:
    """A product with other letters in the stems of its words that are `chosen` (by place in the name, and stem).

    What changes from form to form (endings, and the letters that go with them) stays as it is in the language.
    """
    words = [form.split(" ") for form in product.forms.values() if form]
    new: dict[str, str] = {}
    for index, forms in enumerate(zip(*words, strict=True)):
        stem = len(os.path.commonprefix(forms)) - (len(set(forms)) == 1)  # noqa: RUF071 - words, not paths
        if len(forms[0]) < 4 or not chosen(index, forms[0][:stem]):
            continue
        for form in forms:
            new[form] = form[:stem].translate(table) + form[stem:]

    def spell(text: str) -> str:
        return " ".join(new.get(word, word) for word in text.split(" "))

    forms_ = {case: spell(form) for case, form in product.forms.items()}
    return replace(product, name=spell(product.name), forms=forms_, content=spell(product.content))


def respelled_product(language: str, rng: random.Random) -> Product:
    """A known product with other letters in some of its words."""
    product = rng.choice(rules.products(language, False))
    table = other_letters(rng)
    everything = rng.random() < 0.5
    only = rng.randrange(product.name.count(" ") + 1)
    return with_letters(product, table, lambda index, _: everything or index == only)


def respelled_catalog(catalog: Sequence[Line], rng: random.Random) -> list[Line]:
    """A catalog with other letters in some of its words, each word alike in all lines that have it."""
    table, share = other_letters(rng), rng.choice((0.3, 0.6, 1.0))
    stems: dict[str, bool] = {}

    def chosen(_: int, stem: str) -> bool:
        return stems.setdefault(stem.lower(), rng.random() < share)

    products = {line.product.key: line.product for line in catalog}
    new = {key: with_letters(product, table, chosen) for key, product in products.items()}
    lines = [replace(line, product=new[line.product.key]) for line in catalog]
    return lines if all_distinct(lines) else list(catalog)
