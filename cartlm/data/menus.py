"""Menus: catalogs whose lines share most words, such as a restaurant's or a hardware shop's."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache
from typing import Any

from cartlm.data.config import Catalog
from cartlm.data.lexicon import Line, Product, is_novel, read_yaml

CASES = ("nom", "acc", "gen", "paucal", "gen_pl")
ENDINGS = {
    "m": ("i", "i", "og", "a", "ih"), "f": ("a", "u", "e", "e", "ih"), "n": ("o", "o", "og", "a", "ih"),
}  # fmt: skip
"""Croatian endings of adjectives by case and gender of the noun."""
SIZED = 0.45  # share of menus with sizes
OWN = 0.6  # least share of a menu's lines that are of one kind


def held_out(product: Product) -> bool:
    """Whether it is kept from training for the novel slice: as in the lexicons, but never a head alone ("pizza")."""
    return " " in product.name and is_novel(product.key)


def menus(language: str) -> dict[str, dict[str, Any]]:
    """The menus of a language: heads, words before and groups behind them, sizes."""
    return read_yaml(f"menus/{language}.yaml")


@cache
def product(language: str, menu: str, head: str, before: tuple[str, ...], behind: str) -> Product:
    """The product of a head with the words around it, in all its forms."""
    parts = menus(language)[menu]
    about = parts["heads"][head]

    def join(*words: str) -> str:
        return " ".join(filter(None, (*words, behind)))

    place, gender = " ".join((*before, "")).count(" "), ""
    if language == "english":
        forms = {"one": join(*before, head), "many": join(*before, about)}
        gender = "mp" if head == about else ""  # nuggets, noodles: no singular
    elif language == "spanish":
        place, (plural, gender) = 0, about
        adjectives = [parts["before"][word] for word in before]
        forms = {"one": join(head, *before), "many": join(plural, *adjectives)}
    else:
        *nouns, gender = about
        cases = zip(CASES, (head, *nouns), ENDINGS[gender], strict=True)
        forms = {case: join(*(stem + ending for stem in before), noun) for case, noun, ending in cases}
    name = next(iter(forms.values()))
    return Product(language, menu, name, place, forms, gender, (), "", tuple(map(str, parts["sizes"])))


def combine(
    language: str, menu: str, heads: Sequence[str], words: Sequence[str], groups: Sequence[str]
) -> list[Product]:
    """All products of these parts: up to two words before a head (one in Spanish and Croatian) or a group behind."""
    pairs = [pair for i, one in enumerate(words) for pair in ((one, other) for other in words[i + 1 :])]
    around: list[tuple[tuple[str, ...], str]] = [((), "")]
    around += [(front, group) for front in ((), *((word,) for word in words)) for group in groups]
    around += [((word,), "") for word in words]
    around += [(pair, "") for pair in pairs if language == "english"]
    made = [product(language, menu, head, *parts) for head in heads for parts in around]
    return [each for each in made if _is_sound(each)]


def _is_sound(product: Product) -> bool:
    """Whether no word stands twice in the name: no "chicken wrap with chicken"."""
    words = [word for word in product.name.split(" ") if len(word) > 3]
    return len(set(words)) == len(words)


def _some(language: str, menu: str, rng: random.Random) -> list[Product]:
    """Products with few words among them, in random order."""
    parts = menus(language)[menu]

    def draw(kind: str, least: int, most: int) -> list[str]:
        listed = list(parts[kind])
        return rng.sample(listed, min(len(listed), rng.randint(least, most)))

    made = combine(language, menu, draw("heads", 1, 3), draw("before", 2, 5), draw("behind", 0, 3))
    return rng.sample(made, len(made))


def sample(language: str, novel: bool, params: Catalog, rng: random.Random) -> tuple[Line, list[Line]]:
    """A line to ask for and its menu, shuffled; a novel one is held out from training, the lines around it are not."""
    size, names = rng.randint(params.min_lines, params.max_lines), sorted(menus(language))
    chosen: list[Product] = []
    while not any(held_out(each) == novel for each in chosen):
        chosen = _some(language, rng.choice(names), rng)
    target = next(each for each in chosen if held_out(each) == novel)
    sized = rng.random() < SIZED
    own = round(size * (1 if rng.random() < 0.4 else rng.uniform(OWN, 1)))
    catalog = [Line(target, rng.choice(target.variants) if sized else "", "")]
    line = catalog[0]

    def add(product: Product, limit: int) -> None:
        if len(catalog) < limit and not any(other.product.key == product.key for other in catalog):
            variants = product.variants if sized and rng.random() < 0.7 else ("",)
            count = rng.choice((1, 1, 2)) if rng.random() < params.twins else 1
            some = rng.sample(variants, min(count, len(variants), limit - len(catalog)))
            catalog.extend(Line(product, variant, "") for variant in some)

    if sized and rng.random() < params.twins:
        others = [variant for variant in target.variants if variant != line.variant]
        some = rng.sample(others, min(size - 1, len(others), rng.choice((1, 1, 2))))
        catalog.extend(Line(target, variant, "") for variant in some)
    for each in chosen:
        if not held_out(each):
            add(each, own)
    while len(catalog) < size:
        for each in _some(language, rng.choice(names), rng)[: rng.randint(2, 6)]:
            if not held_out(each):
                add(each, size)
    rng.shuffle(catalog)
    return line, catalog
