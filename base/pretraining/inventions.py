"""Products in no lexicon: their names cannot be memorized, only copied from the catalog."""

from __future__ import annotations

import os
import random
from dataclasses import replace

from cartlm.data import rules
from cartlm.data.lexicon import Product

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


def respelled_product(language: str, rng: random.Random) -> Product:
    """A known product with letters exchanged for others in the stems of some of its words.

    What changes from form to form (endings, and the letters that go with them) stays as it is in the language.
    """
    product = rng.choice(rules.products(language, False))
    shuffled = (rng.sample(letters, len(letters)) for letters in (_VOWELS, _CONSONANTS))
    table = str.maketrans(_VOWELS + _CONSONANTS, "".join(map("".join, shuffled)))
    words = [form.split(" ") for form in product.forms.values() if form]
    new: dict[str, str] = {}
    everything = rng.random() < 0.5
    only = rng.randrange(len(words[0]))
    for index, forms in enumerate(zip(*words, strict=True)):
        stem = len(os.path.commonprefix(forms)) - (len(set(forms)) == 1)  # noqa: RUF071 - words, not paths
        if len(forms[0]) < 4 or not (everything or index == only):
            continue
        for form in forms:
            new[form] = form[:stem].translate(table) + form[stem:]

    def spell(text: str) -> str:
        return " ".join(new.get(word, word) for word in text.split(" "))

    forms_ = {case: spell(form) for case, form in product.forms.items()}
    return replace(product, name=spell(product.name), forms=forms_, content=spell(product.content))
