"""Classic messages: the label is sampled first, the grammar words it, the operators make it noisy."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

from cartlm.data import noise
from cartlm.data.config import Catalog, Data
from cartlm.data.lexicon import LANGUAGES, Line, Product, is_novel, load
from cartlm.data.messages import assemble, random_frame
from cartlm.data.wording import Phrase, grammar, noun_phrase, number
from cartlm.task.intent import Intent
from cartlm.task.rows import Row, Tags, make

QUANTITIES = {
    1: 35, 2: 20, 3: 12, 4: 8, 5: 6, 6: 5, 7: 1.5, 8: 2, 9: 1, 10: 3, 11: 0.5, 12: 2.5, 13: 0.3, 14: 0.3,
    15: 0.8, 16: 0.3, 18: 0.4, 20: 0.8, 24: 0.7, 25: 0.4, 30: 0.4, 36: 0.1, 48: 0.1, 50: 0.3,
}  # fmt: skip
"""Quantities and their weights: shoppers mostly want one or a few."""


@cache
def products(language: str, novel: bool) -> tuple[Product, ...]:
    """Products of a language that are kept for the novel slice, or all others."""
    return tuple(product for product in load(language) if is_novel(product.key) == novel)


@cache
def _by_head(language: str) -> dict[str, list[Product]]:
    """Products for training that share their head noun."""
    groups: dict[str, list[Product]] = {}
    for product in products(language, False):
        groups.setdefault(product.head_noun, []).append(product)
    return {head: group for head, group in groups.items() if len(group) > 1}


def sample_quantity(rng: random.Random) -> int:
    return rng.choices(list(QUANTITIES), list(QUANTITIES.values()))[0]


def sample_line(product: Product, rng: random.Random) -> Line:
    """A product as a shop would list it: with one of its sizes, sometimes with its container."""
    if not product.variants:
        return Line(product, "", "")
    usable = [unit for unit in product.units if unit not in ("pair", "par")]
    unit = rng.choice(usable) if usable and rng.random() < 0.4 else ""
    return Line(product, rng.choice(product.variants), unit)


def _siblings(line: Line, count: int, rng: random.Random) -> list[Line]:
    """Near-twins: the same product in other sizes."""
    others = [variant for variant in line.product.variants if variant != line.variant]
    return [replace(line, variant=variant) for variant in rng.sample(others, min(count, len(others)))]


def _clash(line: Line, other: Line) -> bool:
    """Whether two lines would be ambiguous: two units of one size, or a product twice without a size to name."""
    same_size = not other.variant or other.variant == line.variant
    return other.text.lower() == line.text.lower() or (other.product.key == line.product.key and same_size)


def sample_catalog(
    target: Line, params: Catalog, rng: random.Random, pool: tuple[Product, ...] = ()
) -> list[Line]:
    """A shuffled catalog of `target`, its twins and lines of `pool` (default: the products for training)."""
    size = rng.randint(params.min_lines, params.max_lines)
    language = target.product.language
    pool = pool or products(language, False)
    lines = [target]
    if rng.random() < params.twins:
        if target.product.variants and rng.random() < 0.8:
            lines += _siblings(target, rng.choice((1, 1, 2, 3)), rng)
        heads = _by_head(language)
        group = heads.get(target.product.head_noun) or heads[rng.choice(sorted(heads))]
        lines += [sample_line(p, rng) for p in rng.sample(group, min(len(group), rng.choice((1, 2, 2, 3))))]
    if rng.random() < 0.5:
        domain = tuple(product for product in pool if product.domain == target.product.domain)
        pool = domain if len(domain) > 2 * params.max_lines else pool
    catalog: list[Line] = []

    def add(*lines: Line) -> None:
        for line in lines:
            if len(catalog) < size and not any(_clash(line, other) for other in catalog):
                catalog.append(line)

    add(*lines)
    for _ in range(20 * size):  # a small pool may hold fewer lines than needed
        if len(catalog) == size:
            break
        line = sample_line(rng.choice(pool), rng)
        add(line)
        if line.variant and rng.random() < params.twins / 4:
            add(*_siblings(line, 1, rng))
    rng.shuffle(catalog)
    return catalog


@dataclass(frozen=True)
class Names:
    """Which ways of naming a line are unambiguous among the other lines of its catalog."""

    twin: bool  # another size of the same product is there: the size has to be said
    inflected: bool
    short: bool
    part: bool


def names(line: Line, catalog: Sequence[Line]) -> Names:
    """Which ways of naming `line` point at it alone."""
    twin = any(other is not line and other.product.key == line.product.key for other in catalog)
    others = [
        set(other.product.name.lower().split(" "))
        for other in catalog
        if other.product.key != line.product.key
    ]
    words = set(line.product.name.lower().split(" "))
    inflected = not any(words <= other for other in others)
    head = line.product.head_noun.lower()
    stem = head[: max(4, len(head) - 3)]
    short = (
        inflected and len(words) > 1 and not any(word.startswith(stem) for other in others for word in other)
    )
    part = twin and bool(line.variant) and sum(other.variant == line.variant for other in catalog) == 1
    return Names(twin, inflected, short, part)


def _name_form(line: Line, catalog: Sequence[Line], params: Data, rng: random.Random) -> str:
    possible, rates = names(line, catalog), params.wording
    draw = rng.random()
    if possible.part and rng.random() < rates.name_part:
        return "part"
    if not possible.inflected or draw < rates.name_full:
        return "full"
    return "short" if possible.short and draw < rates.name_full + rates.name_short else "inflected"


def _quantity_form(quantity: int, product: Product, corrected: bool, params: Data, rng: random.Random) -> str:
    """How the quantity is worded; a `corrected` one is a digit or a word: "two, no, make it three"."""
    rates, words = params.wording, grammar(product.language)
    if quantity == 1 and rng.random() < rates.quantity_none and not corrected:
        return "none"
    # no "pair of pairs of jeans"
    packed = quantity in words["packs"] and not corrected and not (quantity == 2 and product.plural_only)
    if packed and rng.random() < rates.quantity_pack:
        return "pack"
    return "word" if quantity in words["numbers"] and rng.random() < rates.quantity_word else "digit"


def _number_language(quantity: int, language: str, own: str, params: Data, rng: random.Random) -> str:
    """The language of a number word: the frame's where the product is in another one, else mostly `own`."""
    if language != own:
        return language
    others = [x for x in LANGUAGES if x != own and quantity in grammar(x)["numbers"]]
    return rng.choice(others) if others and rng.random() < params.wording.switch_number else own


@dataclass(frozen=True)
class Draft:
    """A message with its label; `clean` is the message before noise, `phrase` the words that name the product."""

    language: str
    catalog: list[Line]
    intent: Intent
    message: str
    tags: Tags
    clean: str
    phrase: str

    def row(self, id: str) -> Row:
        catalog = [line.text for line in self.catalog]
        return make(id, self.language, catalog, self.message, self.intent, self.tags)


def word(
    language: str,
    action: str,
    line: Line,
    catalog: list[Line],
    novel: bool,
    params: Data,
    rng: random.Random,
    frames: Sequence[str] = (),
) -> Draft:
    """Word one label: quantity, name form, style, code-switching, noise.

    `novel` picks the held-out frames; `frames` replace the grammar's own (for pretraining).
    """
    rates = params.wording
    weights = (rates.polite, rates.rambling, rates.correcting)
    style = rng.choices(("polite", "rambling", "correcting", "terse"), (*weights, 1 - sum(weights)))[0]
    quantity = sample_quantity(rng)
    own = line.product.language
    frame = random_frame(language, action, style, novel, rng, frames)
    others = [other for other in catalog if other is not line]
    correction = "quantity" if style == "correcting" else "none"
    if style == "correcting" and others:
        correction = rng.choice(("quantity", "product"))
    form = _quantity_form(quantity, line.product, correction == "quantity", params, rng)
    number_language = _number_language(quantity, language, own, params, rng) if form == "word" else own
    name_form = _name_form(line, catalog, params, rng)

    def phrase(of: Line, count: int, quantity_form: str, name: str) -> tuple[str, str]:
        show = names(of, catalog).twin or (bool(of.variant) and rng.random() < 0.12)
        definite = frame.definite and own == language
        return noun_phrase(of, Phrase(count, quantity_form, name, definite, show, number_language), rng)

    fix = ""
    if correction == "quantity":
        wrong = rng.choice([n for n in range(1, 9) if n != quantity])
        text, gender = phrase(line, wrong, form, name_form)
        named, fix = text, rng.choice(grammar(language)["fix_quantity"])
        right = number(number_language, quantity, form, gender)
        right = "uno" if own == "spanish" and quantity == 1 and right == "un" else right
        fix = fix.replace("{q}", right).replace("{wrong}", number(number_language, wrong, form, gender))
    elif correction == "product":
        other = rng.choice(others)
        before = quantity if form == "none" else sample_quantity(rng)
        other_form = _name_form(other, catalog, params, rng)
        other_form = "full" if other_form == "part" else other_form
        text, _ = phrase(other, before, form if form == "none" else "digit", other_form)
        named, _ = phrase(line, quantity, form, name_form)
        fix = rng.choice(grammar(language)["fix_product"]).replace("{np}", named)
    else:
        named = text = phrase(line, quantity, form, name_form)[0]
    clean = assemble(frame, text, fix, rng)
    message, operators = noise.apply(clean, language, params.noise, rng)
    tags: Tags = {
        "phrasing": "classic",
        "lines": "shop",
        "spelling": "plain",
        "style": style,
        "correction": correction,
        "quantity_form": form,
        "name_form": name_form,
        "twins": names(line, catalog).twin,
        "noise": "+".join(operators) or "clean",
        "switch": "frame" if own != language else "number" if number_language != language else "none",
        "template": frame.id,
        "novel": novel,
        "catalog_lines": len(catalog),
    }
    return Draft(language, catalog, Intent(action, line.text, quantity), message, tags, clean, named)


def draft(language: str, action: str, novel: bool, params: Data, rng: random.Random) -> Draft:
    """One random labelled message; a novel one has a held-out product and a held-out frame."""
    source = language
    if rng.random() < params.wording.switch_frame:
        source = rng.choice([other for other in params.languages if other != language] or [language])
    line = sample_line(rng.choice(products(source, novel)), rng)
    catalog = sample_catalog(line, params.catalog, rng)
    return word(language, action, line, catalog, novel, params, rng)
