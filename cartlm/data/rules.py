"""The offline source: the label is sampled first, the grammar words it, the operators make it noisy."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

from cartlm.data import noise
from cartlm.data.config import Catalog, Data
from cartlm.data.lexicon import LANGUAGES, Line, Product, is_novel, load
from cartlm.data.messages import assemble, frame
from cartlm.data.wording import Phrase, grammar, noun_phrase, number
from cartlm.task.intent import ACTIONS, Intent
from cartlm.task.rows import Row, make

# shoppers mostly want one or a few
_QUANTITIES = {
    1: 35,
    2: 20,
    3: 12,
    4: 8,
    5: 6,
    6: 5,
    7: 1.5,
    8: 2,
    9: 1,
    10: 3,
    11: 0.5,
    12: 2.5,
    13: 0.3,
    14: 0.3,
}
_QUANTITIES |= {15: 0.8, 16: 0.3, 18: 0.4, 20: 0.8, 24: 0.7, 25: 0.4, 30: 0.4, 36: 0.1, 48: 0.1, 50: 0.3}


@cache
def products(language: str, novel: bool) -> tuple[Product, ...]:
    """Products of a language that are kept for the novel slice, or all others."""
    return tuple(product for product in load(language) if is_novel(product.key) == novel)


@cache
def _by_head(language: str, novel: bool) -> dict[str, tuple[Product, ...]]:
    groups: dict[str, list[Product]] = {}
    for product in products(language, novel):
        groups.setdefault(product.name.split(" ")[product.head], []).append(product)
    return {head: tuple(group) for head, group in groups.items() if len(group) > 1}


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


def sample_catalog(
    target: Line, params: Catalog, rng: random.Random, pool: tuple[Product, ...] = ()
) -> list[Line]:
    """A shuffled catalog that holds `target`, its twins and lines of `pool` (default: what training may see)."""
    size = rng.randint(params.min_lines, params.max_lines)
    language = target.product.language
    pool = pool or products(language, False)
    lines = [target]
    if rng.random() < params.twins:
        if target.product.variants and rng.random() < 0.8:
            lines += _siblings(target, rng.choice((1, 1, 2, 3)), rng)
        heads = _by_head(language, False)
        head = target.product.name.split(" ")[target.product.head]
        group = heads.get(head) or heads[rng.choice(sorted(heads))]
        lines += [sample_line(p, rng) for p in rng.sample(group, min(len(group), rng.choice((1, 2, 2, 3))))]
    if rng.random() < 0.5:
        domain = [product for product in pool if product.domain == target.product.domain]
        pool = tuple(domain) if len(domain) > 2 * params.max_lines else pool
    chosen: list[Line] = []

    def take(line: Line) -> None:
        # two units of one size, or a product listed twice without a size to name, would be ambiguous
        clash = any(
            other.text.lower() == line.text.lower()
            or (
                other.product.key == line.product.key and (not other.variant or other.variant == line.variant)
            )
            for other in chosen
        )
        if not clash and len(chosen) < size:
            chosen.append(line)

    for line in lines:
        take(line)
    for _ in range(20 * size):  # a small pool may hold fewer lines than asked for
        if len(chosen) == size:
            break
        line = sample_line(rng.choice(pool), rng)
        take(line)
        if line.variant and rng.random() < params.twins / 4:
            for sibling in _siblings(line, 1, rng):
                take(sibling)
    rng.shuffle(chosen)
    return chosen


def _words(line: Line) -> set[str]:
    return {word.lower() for word in line.product.name.split(" ")}


@dataclass(frozen=True)
class Names:
    """Which ways of naming a line are unambiguous among the other lines of its catalog."""

    twin: bool  # another size of the same product is there: the size has to be said
    inflected: bool
    short: bool
    part: bool


def names(line: Line, catalog: Sequence[Line]) -> Names:
    """Which ways of naming `line` point at it alone."""
    others = [other for other in catalog if other is not line]
    twin = any(other.product.key == line.product.key for other in others)
    mine = _words(line)
    rest = [other for other in others if other.product.key != line.product.key]
    inflected = not any(mine <= _words(other) for other in rest)
    head = line.product.name.split(" ")[line.product.head].lower()
    stem = head[: max(4, len(head) - 3)]
    short = inflected and len(mine) > 1 and not any(w.startswith(stem) for o in rest for w in _words(o))
    part = twin and bool(line.variant) and sum(other.variant == line.variant for other in catalog) == 1
    return Names(twin, inflected, short, part)


def _name_form(line: Line, catalog: Sequence[Line], params: Data, rng: random.Random) -> str:
    possible = names(line, catalog)
    draw = rng.random()
    if possible.part and rng.random() < params.wording.name_part:
        return "part"
    if not possible.inflected or draw < params.wording.name_full:
        return "full"
    if possible.short and draw < params.wording.name_full + params.wording.name_short:
        return "short"
    return "inflected"


def _quantity_form(quantity: int, product: Product, corrected: bool, params: Data, rng: random.Random) -> str:
    """How the quantity is said; a `corrected` one is a digit or a word: "two, no, make it three"."""
    wording = params.wording
    if quantity == 1 and rng.random() < wording.quantity_none and not corrected:
        return "none"
    rules = grammar(product.language)
    # no "pair of pairs of jeans"
    packed = quantity in rules["packs"] and not corrected and not (quantity == 2 and product.plural_only)
    if packed and rng.random() < wording.quantity_pack:
        return "pack"
    return "word" if quantity in rules["numbers"] and rng.random() < wording.quantity_word else "digit"


def _number_language(quantity: int, language: str, own: str, params: Data, rng: random.Random) -> str:
    """The language of a number word: the frame's where the product is in another one, else mostly `own`."""
    if language != own:
        return language
    others = [x for x in LANGUAGES if x != own and quantity in grammar(x)["numbers"]]
    return rng.choice(others) if others and rng.random() < params.wording.switch_number else own


def sample_quantity(rng: random.Random) -> int:
    return rng.choices(list(_QUANTITIES), list(_QUANTITIES.values()))[0]


def _style(params: Data, rng: random.Random) -> str:
    wording = params.wording
    weights = (wording.polite, wording.rambling, wording.correcting)
    return rng.choices(("polite", "rambling", "correcting", "terse"), (*weights, 1 - sum(weights)))[0]


@dataclass(frozen=True)
class Draft:
    """A worded message before and after noise, with its label and what was done.

    `clean` is the message before noise and `phrase` the words in it that name the product.
    """

    language: str
    catalog: list[Line]
    intent: Intent
    message: str
    tags: dict[str, str | bool | int]
    clean: str
    phrase: str


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

    `novel` picks the held-out frames; `frames` are used instead of the grammar's own (for pretraining).
    """
    style = _style(params, rng)
    quantity = sample_quantity(rng)
    foreign = line.product.language != language
    parts = frame(language, action, style, novel, rng, frames)
    possible = names(line, catalog)
    fix_kind = ""
    if style == "correcting":
        others = [other for other in catalog if other is not line]
        fix_kind = rng.choice(("quantity", "product")) if others else "quantity"
    quantity_form = _quantity_form(quantity, line.product, fix_kind == "quantity", params, rng)
    number_language = line.product.language
    if quantity_form == "word":
        number_language = _number_language(quantity, language, number_language, params, rng)
    name_form = _name_form(line, catalog, params, rng)

    def phrase(of: Line, count: int, form: str, name: str) -> tuple[str, str]:
        show = names(of, catalog).twin or (bool(of.variant) and rng.random() < 0.12)
        definite = parts.definite and not foreign
        return noun_phrase(of, Phrase(count, form, name, definite, show, number_language), rng)

    fix = named = ""
    if fix_kind == "quantity":
        wrong = rng.choice([n for n in range(1, 9) if n != quantity])
        text, gender = phrase(line, wrong, quantity_form, name_form)
        correction = rng.choice(grammar(language)["fix_quantity"])
        told = number(number_language, quantity, quantity_form, gender)
        said = number(number_language, wrong, quantity_form, gender)
        if line.product.language == "spanish" and quantity == 1 and told == "un":
            told = "uno"
        fix = correction.replace("{q}", told).replace("{wrong}", said)
    elif fix_kind == "product":
        other = rng.choice([o for o in catalog if o is not line])
        before = quantity if quantity_form == "none" else sample_quantity(rng)
        first_form = quantity_form if quantity_form in ("none", "digit") else "digit"
        other_form = _name_form(other, catalog, params, rng)
        wrong_text, _ = phrase(other, before, first_form, other_form if other_form != "part" else "full")
        text, _ = phrase(line, quantity, quantity_form, name_form)
        fix = rng.choice(grammar(language)["fix_product"]).replace("{np}", text)
        text, named = wrong_text, text
    else:
        text, _ = phrase(line, quantity, quantity_form, name_form)
    clean = assemble(parts, text, fix, rng)
    noisy, done = noise.apply(clean, language, params.noise, rng)
    tags: dict[str, str | bool | int] = {
        "style": style,
        "correction": fix_kind or "none",
        "quantity_form": quantity_form,
        "name_form": name_form,
        "twins": possible.twin,
        "noise": "+".join(done) or "clean",
        "switch": "frame" if foreign else "number" if number_language != language else "none",
        "template": parts.id,
        "novel": novel,
    }
    return Draft(language, catalog, Intent(action, line.text, quantity), noisy, tags, clean, named or text)


def draft(language: str, action: str, novel: bool, params: Data, rng: random.Random) -> Draft:
    """One random labelled message; a novel one has a held-out product and a held-out frame."""
    source = language
    if rng.random() < params.wording.switch_frame:
        source = rng.choice([other for other in params.languages if other != language] or [language])
    line = sample_line(rng.choice(products(source, novel)), rng)
    catalog = sample_catalog(line, params.catalog, rng)
    return word(language, action, line, catalog, novel, params, rng)


def as_row(id: str, drafted: Draft) -> Row:
    """The row of a draft."""
    texts = [line.text for line in drafted.catalog]
    tags = {**drafted.tags, "catalog_lines": len(texts)}
    return make(id, drafted.language, texts, drafted.message, drafted.intent, tags)


def rows(name: str, count: int, novel_count: int, params: Data, rng: random.Random) -> list[Row]:
    """`count` rows, languages and actions in turn so that both stay balanced; the first ones are novel."""
    made = []
    for index in range(count):
        language = params.languages[index % len(params.languages)]
        action = ACTIONS[(index // len(params.languages)) % len(ACTIONS)]
        row = draft(language, action, index < novel_count, params, rng)
        made.append(as_row(f"{name}-{index:05d}", row))
    return made
