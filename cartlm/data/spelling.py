"""Catalogs that write names in their own way: capitals inside words, joined or split words, one case throughout, signs."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

from cartlm.data.lexicon import Line, all_distinct

SHARE = 0.6  # of the names of a catalog with odd names, or with signs where they fit
AND = {"english": " and ", "spanish": " y ", "croatian": " i "}


def join(name: str, rng: random.Random) -> str:
    """Two neighbouring words as one with a capital inside: "Chicken Wrap" becomes "ChickenWrap"."""
    words = name.split(" ")
    places = [
        i for i, (one, other) in enumerate(pairwise(words)) if one[-1:].isalpha() and other[:1].isalpha()
    ]
    if not places:
        return capital(name, rng)
    at = rng.choice(places)
    second = words[at + 1][:1].upper() + words[at + 1][1:]
    return " ".join([*words[:at], words[at] + rng.choice(("", "", "-")) + second, *words[at + 2 :]])


def capital(name: str, rng: random.Random) -> str:
    """One or two letters inside the name as capitals: "BaCon", "BbQ"."""
    places = [i for i, letter in enumerate(name) if letter.islower() and i and name[i - 1].isalpha()]
    for at in rng.sample(places, min(len(places), rng.choice((1, 1, 2)))):
        name = name[:at] + name[at].upper() + name[at + 1 :]
    return name


def split(name: str, rng: random.Random) -> str:
    """A long word as two, or a word in capitals: "Cheese Cake", "BIG burger"."""
    words = name.split(" ")
    places = [i for i, word in enumerate(words) if len(word) >= 8 and word.isalpha()]
    at = rng.choice(places or [rng.randrange(len(words))])
    if not places or rng.random() < 0.3:
        words[at] = words[at].upper()
    else:
        cut = rng.randint(3, len(words[at]) - 3)
        words[at] = f"{words[at][:cut]}{rng.choice((' ', '-'))}{words[at][cut:]}"
    return " ".join(words)


def as_written(catalog: Sequence[Line], names: Mapping[str, str]) -> list[Line]:
    """The same lines with other names, given by the keys of their products."""
    return [replace(line, spelled=names[line.product.key]) for line in catalog]


def respell(catalog: Sequence[Line], rng: random.Random) -> list[Line]:
    """The same lines, their names written in one odd way or another; twins alike. No two lines become the same."""
    kind = rng.choices(("upper", "lower", "odd"), (0.15, 0.25, 0.6))[0]
    spelled: dict[str, str] = {}
    for line in catalog:
        name = line.name
        if kind == "odd":
            if rng.random() < SHARE:
                name = rng.choice((join, join, capital, capital, split))(name, rng)
        else:
            name = name.upper() if kind == "upper" else name.lower()
        spelled.setdefault(line.product.key, name)
    lines = as_written(catalog, spelled)
    return lines if all_distinct(lines) else list(catalog)


def sign(name: str, language: str, rng: random.Random) -> str:
    """A name with a sign for "and", or between its first two words of three or more: "Spicy & Avocado Burger", "Salt 'n Pepper"."""
    mark = rng.choice((" & ", " & ", " & ", " + ", " 'n " if language == "english" else " & "))
    if AND[language] in name:
        return name.replace(AND[language], mark, 1)
    words = name.split(" ")
    if len(words) < 3 or not all(word.isalpha() and len(word) > 4 for word in words[:2]):
        return name
    return f"{words[0]}{mark}{' '.join(words[1:])}"


def with_signs(catalog: Sequence[Line], rng: random.Random) -> list[Line]:
    """The same lines, some names with a sign for a word that no message says; twins alike."""
    spelled: dict[str, str] = {}
    for line in catalog:
        name = sign(line.name, line.product.language, rng) if rng.random() < SHARE else line.name
        spelled.setdefault(line.product.key, name)
    return as_written(catalog, spelled)
