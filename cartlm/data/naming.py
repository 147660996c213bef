"""Ways to mean one line of a catalog other than by its whole name: some of its words, an everyday word for it, a property,
or what its twin is not. Each is offered only where no other line could be meant.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

from cartlm.data.lexicon import Line, Product, read_yaml
from cartlm.data.rules import names

PREPOSITIONS = {
    "english": {"with", "without", "on", "in", "for"},
    "spanish": {"con", "sin", "de", "para", "a", "en"},
    "croatian": {"s", "sa", "bez", "od", "za", "na", "u", "iz"},
}
_SMALL = {
    "english": PREPOSITIONS["english"] | {"and", "of", "to", "a", "the"},
    "spanish": PREPOSITIONS["spanish"] | {"y", "la", "el", "los", "las"},
    "croatian": PREPOSITIONS["croatian"] | {"i"},
}
_MEASURES = {
    "ml": ("volume", 0.001), "l": ("volume", 1.0), "g": ("mass", 0.001), "kg": ("mass", 1.0), "gb": ("storage", 1.0),
    "tb": ("storage", 1000.0), "oz": ("ounces", 1.0), "cm": ("centimetres", 1.0),
    **dict.fromkeys(("pack", "piece", "kom", "uds", "sheets", "hojas", "listova"), ("pieces", 1.0)),
    **dict.fromkeys(("in", "inch", "inča", "pulgadas"), ("inches", 1.0)),
}  # fmt: skip
_CLOTHES = ("XS", "S", "M", "L", "XL", "XXL")
_CUPS = ("small", "medium", "large")
_ARTICLES = {
    "spanish": {"m": ("el", "los"), "f": ("la", "las")},
    "croatian": {"m": ("onaj", "onih"), "f": ("onu", "onih"), "n": ("ono", "onih")},
}


def everyday(language: str) -> dict[str, Any]:
    """How people type orders in a language: frames, numbers, synonyms."""
    return read_yaml(f"everyday/{language}.yaml")


@dataclass(frozen=True)
class Named:
    """What a message calls a line.

    `form` is the row's tag. `product` has the words in all forms. `tail` follows them; `one` and `many` (with `{q}`) are whole
    phrases that are said instead. `sized` is whether a size may, or has to, be said besides.
    """

    form: str
    product: Product
    definite: bool = False
    sized: bool = True
    tail: str = ""
    one: str = ""
    many: str = ""


def _stem(word: str) -> str:
    return word[: max(4, len(word) - 3)]


def _has(words: Iterable[str], word: str) -> bool:
    """Whether one of the words is `word` or another form of it."""
    return any(other.startswith(_stem(word)) for other in words)


def _words(product: Product) -> list[str]:
    return product.name.lower().split(" ")


def _others(line: Line, catalog: Sequence[Line]) -> list[list[str]]:
    """The words of all other products of the catalog."""
    return [_words(other.product) for other in catalog if other.product.key != line.product.key]


def _reworded(product: Product, positions: Sequence[int]) -> Product:
    """The product called by the words at these positions of its name."""
    forms = {
        case: " ".join(form.split(" ")[i] for i in positions) if form else ""
        for case, form in product.forms.items()
    }
    head = positions.index(product.head) if product.head in positions else 0
    name = next(iter(forms.values()))
    return replace(product, name=name, head=head, forms=forms, units=(), content="")


def some_words(line: Line, catalog: Sequence[Line]) -> list[Named]:
    """The line called by a part of its words that no other line has all of, in their order."""
    words, others = _words(line.product), _others(line, catalog)
    content = [i for i, word in enumerate(words) if word not in _SMALL[line.product.language]]
    found = []
    for count in range(1, len(content)):
        for chosen in combinations(content, count):
            telling = max(len(words[i]) for i in chosen) > 2  # not "4K" or "WC" alone
            if not telling or any(all(_has(other, words[i]) for i in chosen) for other in others):
                continue
            span = range(chosen[0], chosen[-1] + 1)
            whole = all(i in chosen for i in span if i in content)  # with the small words between them
            found.append(Named("some_words", _reworded(line.product, span if whole else chosen)))
    return found


def _synonyms(language: str, words: list[str]) -> Iterator[tuple[int, int, list[str]]]:
    """Where a name has an everyday synonym: start, number of words, the forms of the synonym."""
    for key, says in everyday(language)["synonyms"].items():
        known = key.lower().split(" ")
        for at in range(len(words) - len(known) + 1):
            if words[at : at + len(known)] == known:
                yield from ((at, len(known), say.split("|")) for say in says)


def words_for(product: Product) -> set[str]:
    """The words by which people may call a product: of its name and of the synonyms in it, without prepositions and the like."""
    words = _words(product)
    said = [word for *_, forms in _synonyms(product.language, words) for word in forms[0].lower().split(" ")]
    return {*words, *said} - _SMALL[product.language]


def alike(one: Product, other: Product) -> bool:
    """Whether the two may be called by a word in common, in whatever form of it."""
    words, theirs = words_for(one), words_for(other)
    return any(_has(theirs, word) for word in words) or any(_has(words, word) for word in theirs)


def synonyms(line: Line, catalog: Sequence[Line]) -> list[Named]:
    """The line called by an everyday synonym of some of its words; none where another line could be called so."""
    product, language = line.product, line.product.language
    if not names(line, catalog).inflected:
        return []
    words, found = _words(product), []
    for at, count, said in _synonyms(language, words):
        of_head, gender = at <= product.head < at + count, product.gender
        new = [word for word in said[0].lower().split(" ") if word not in words]
        if any(
            any(_has((word for word in other if word not in words), each) for each in new)
            or any(
                theirs == said and other[i : i + n] != words[at : at + count]
                for i, n, theirs in _synonyms(language, other)
            )
            for other in _others(line, catalog)
        ):
            continue
        if language == "croatian":
            texts = said[:5] if of_head else [said[1]] * 5
            gender = said[5] if of_head and len(said) > 5 else gender
        else:
            texts = said[:2] if of_head else [said[0]] * 2
            gender = said[2] if of_head and len(said) > 2 else gender
        if gender != product.gender and at:
            continue  # an adjective before it would no longer agree
        forms = {}
        for (case, form), text in zip(product.forms.items(), texts, strict=True):
            parts = form.split(" ")
            forms[case] = " ".join([*parts[:at], text, *parts[at + count :]]) if form else ""
        name = next(iter(forms.values()))
        changed = replace(product, name=name, forms=forms, gender=gender, units=(), content="")
        found.append(Named("synonym", changed))
    return found


def measure(variant: str) -> tuple[str, float] | None:
    """What a size measures and how large it is: 330ml is ("volume", 0.33). None for what has no order."""
    if variant in _CLOTHES:
        return "clothes", _CLOTHES.index(variant)
    if variant in _CUPS:
        return "cups", _CUPS.index(variant)
    if found := re.fullmatch(r"EU (\d+)", variant):
        return "shoes", float(found[1])
    found = re.fullmatch(r"(\d+(?:[.,]\d+)?)[ -]?([^\W\d_]+)", variant)
    if not found or found[2].lower() not in _MEASURES:
        return None
    kind, factor = _MEASURES[found[2].lower()]
    return kind, float(found[1].replace(",", ".")) * factor


def by_size(line: Line, catalog: Sequence[Line]) -> list[Named]:
    """The largest or smallest of a product's lines: "the bigger oat milk"."""
    product, lists = line.product, everyday(line.product.language)
    twins = [other for other in catalog if other.product.key == product.key]
    sizes = [measure(other.variant) for other in twins]
    kinds = {size[0] if size else "" for size in sizes}
    values = [size[1] for size in sizes if size]
    if len(twins) < 2 or "" in kinds or len(kinds) > 1 or len(set(values)) < len(values):
        return []
    (mine,) = (value for other, value in zip(twins, values, strict=True) if other is line)
    if mine not in (min(values), max(values)) or not names(line, catalog).inflected:
        return []
    terms, most = lists["bigger" if mine == max(values) else "smaller"], len(twins) > 2
    if product.language == "croatian":
        if product.plural_only:
            return []
        words = [f"{'naj' if most else ''}{word}" for word in terms[product.gender]]
        pairs = zip(product.forms.items(), words, strict=True)
        changed = [{case: f"{word} {form}" for (case, form), word in pairs}]
    elif product.language == "spanish":
        ending = "a" if product.gender.startswith("f") else "o"
        one, many = terms[most].replace("{o}", ending).split("|")
        one = many if product.plural_only else one
        changed = [{"one": f"{product.forms['one']} {one}", "many": f"{product.forms['many']} {many}"}]
    else:
        changed = [{case: f"{word} {form}" for case, form in product.forms.items()} for word in terms[most]]
    called = [
        replace(product, name=next(iter(forms.values())), forms=forms, units=(), content="")
        for forms in changed
    ]
    return [Named("property", each, definite=True, sized=False) for each in called]


def by_part(line: Line, catalog: Sequence[Line], rng: random.Random) -> list[Named]:
    """The line that has what no other has: "the spicy one", "the one with olives"."""
    product, language = line.product, line.product.language
    if product.plural_only or names(line, catalog).twin:
        return []
    lists, words, others = everyday(language), _words(product), _others(line, catalog)
    starts = [i for i, word in enumerate(words) if i and word in PREPOSITIONS[language]]
    end = starts[0] if starts else len(words)
    the, those = _ARTICLES.get(language, {}).get(product.gender[:1], ("", ""))
    found = []

    def add(kind: str, positions: Sequence[int]) -> None:
        content = [words[i] for i in positions if words[i] not in _SMALL[language]]
        if not content or any(all(_has(other, word) for word in content) for other in others):
            return
        one, many = (product.forms[case].split(" ") for case in list(product.forms)[:2])
        many = many if language == "spanish" else one
        phrases = []
        for pattern, said in ((f"by_{kind}", one), (f"by_{kind}_many", many)):
            part = " ".join(said[i] for i in positions)
            listed = lists[pattern]
            text = rng.choice(listed) if listed else ""
            phrases.append(text.replace("{part}", part).replace("{the}", the).replace("{those}", those))
        found.append(Named("property", product, sized=False, one=phrases[0], many=phrases[1]))

    if starts:
        add("group", range(end, len(words)))
    before = range(product.head) if language != "spanish" else range(1, end)
    for i in before:
        add("word", [i])
    return found


def by_twin(line: Line, catalog: Sequence[Line], rng: random.Random) -> list[Named]:
    """The line by what it is not, where its product has one other: "oat milk, not the 1L one"."""
    twins = [other for other in catalog if other.product.key == line.product.key and other is not line]
    language = line.product.language
    if len(twins) != 1 or not line.variant or not names(line, catalog).inflected:
        return []
    other = twins[0].variant
    if not other or (language != "english" and not other[0].isdigit()):
        return []
    tail = rng.choice(everyday(language)["not_the_twin"]).replace("{other}", other)
    return [Named("comparison", replace(line.product, units=()), sized=False, tail=tail)]
