"""Messages that are no order: chat, questions, wishes for what the catalog does not have, mentions of what it has.

Their lines are in no_orders/<language>.yaml; a wish is a generated order over a catalog without the like of its product.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import cycle, islice
from typing import Any, Literal, get_args

from cartlm.data import everyday, gates, naming, noise, offline, rules
from cartlm.data.config import Data
from cartlm.data.lexicon import Line, read_yaml
from cartlm.data.messages import expand, of_novelty
from cartlm.data.sampling import balanced_subset
from cartlm.task.intent import ACTIONS, NO_ORDER
from cartlm.task.rows import Row, Tags

Kind = Literal["chat", "question", "absent", "mention"]
KINDS: tuple[Kind, ...] = get_args(Kind)
TEST, TEST_ROWS = "none", 300
"""The set that is evaluated apart, data/none.jsonl."""
OPENING, CLOSING = 0.3, 0.25
COUNTED = 0.2  # of the products that may be named with a number
OWN = 0.5  # of the wishes: over what is left of the product's own catalog
NAMED = ("full", "inflected", "short", "synonym", "some_words")
"""Name forms that name a product also where its catalog is not there: not "the bigger one"."""


def lines(language: str) -> dict[str, Any]:
    """The lines of a language by kind, their symbols, openings and closings."""
    return read_yaml(f"no_orders/{language}.yaml")


def _said(line: Line, catalog: Sequence[Line], slot: str, params: Data, rng: random.Random) -> str:
    """A line of the catalog in the form of a slot: np, def or nom."""
    language, rates = line.product.language, params.everyday
    named = everyday.call(line, catalog, rates, rng)
    while slot == "nom" and named.form not in NAMED:  # the other forms are whole phrases
        named = everyday.call(line, catalog, rates, rng)
    if slot == "nom":
        case = "nom" if language == "croatian" else "many" if line.product.plural_only else "one"
        return everyday.bare(line, named, case, rules.names(line, catalog).twin, rng)
    if slot == "np" and named.form in NAMED and rng.random() < COUNTED:
        quantity = rng.choices(list(everyday.QUANTITIES), list(everyday.QUANTITIES.values()))[0]
        return everyday.phrase(line, catalog, named, quantity, rng.choice(("digit", "word")), rng)
    if slot == "def" and named.form in ("inflected", "some_words", "synonym"):
        named = replace(named, definite=True)
    return everyday.phrase(line, catalog, named, 1, "none", rng)


def _worded(kind: Kind, language: str, novel: bool, params: Data, rng: random.Random) -> rules.Draft:
    """Chat, a question or a mention, over the catalog of a generated order."""
    order = offline.draft(language, rng.choice(ACTIONS), novel and kind != "chat", params, rng)
    while order.tags["switch"] == "frame":  # a catalog in the language of the message
        order = offline.draft(language, rng.choice(ACTIONS), novel and kind != "chat", params, rng)
    line = next(each for each in order.catalog if each.text == order.intent.product)
    listed = lines(language)
    template = rng.choice(of_novelty(listed[kind], novel))
    text = expand(language, template, rng, listed["symbols"])
    for slot in ("np", "def", "nom"):
        if f"{{{slot}}}" in text:
            text = text.replace(f"{{{slot}}}", _said(line, order.catalog, slot, params, rng))
    if rng.random() < OPENING:
        text = f"{rng.choice(listed['openings'])}{rng.choice((', ', ', ', '. ', ' ', '! ', '... '))}{text}"
    if kind == "question" and rng.random() < 0.5:
        text += "?"
    elif rng.random() < CLOSING:
        text += rng.choice(listed["closings"])
    clean = everyday.typed(text, language, params.everyday, rng)
    return _draft(kind, language, order.catalog, clean, f"{language}/{kind}/{template}", novel, params, rng)


def _absent(language: str, novel: bool, params: Data, rng: random.Random) -> rules.Draft:
    """An order for a product of which the catalog has not the like."""
    while True:
        wish, other = (
            offline.draft(language, rng.choice(ACTIONS), each, params, rng) for each in (novel, False)
        )
        line = next(each for each in wish.catalog if each.text == wish.intent.product)
        plain = wish.tags["switch"] == other.tags["switch"] == "none" and wish.tags["correction"] != "product"
        if not plain or wish.tags["name_form"] not in NAMED:
            continue
        own = rng.random() < OWN
        left = [
            each
            for each in (wish.catalog if own else other.catalog)
            if not naming.alike(line.product, each.product)
        ]
        if len(left) >= params.catalog.min_lines and (own or len(left) == len(other.catalog)):
            template = f"{language}/absent/{wish.tags['template']}"
            return _draft("absent", language, left, wish.clean, template, novel, params, rng)


def _draft(
    kind: Kind, language: str, catalog: list[Line], clean: str, template: str, novel: bool, params: Data, rng: random.Random
) -> rules.Draft:  # fmt: skip
    message, operators = noise.apply(clean, language, params.noise, rng)
    tags: Tags = {
        "kind": kind,
        "noise": "+".join(operators) or "clean",
        "template": template,
        "novel": novel,
        "catalog_lines": len(catalog),
    }
    return rules.Draft(language, catalog, NO_ORDER, message, tags, clean, "")


def draft(kind: str, language: str, novel: bool, params: Data, rng: random.Random) -> rules.Draft:
    """One random message that is no order; a novel one has a held-out line, and a held-out product if it names one."""
    if kind == "absent":
        return _absent(language, novel, params, rng)
    return _worded(kind, language, novel, params, rng)  # type: ignore[arg-type]


def count(orders: int, share: float) -> int:
    """How many rows beside so many orders make up this share of all."""
    return round(orders * share / (1 - share))


def splits(params: Data) -> tuple[dict[str, list[Row]], gates.Section]:
    """The rows beside the orders of train, validation and calibration, and those of TEST, with their figures; none at a share of 0.

    Each split is unlike the ones before it. Raises UserError if rows stay near-duplicates.
    """
    made: dict[str, list[Row]] = {TEST: [], "validation": [], "train": [], "calibration": []}
    if not params.none:
        return made, {}
    sizes = {name: count(getattr(params, name), params.none) for name in ("validation", "train")}
    refused = 0
    for name, size in ((TEST, TEST_ROWS), *sizes.items()):
        rng = random.Random(f"{params.seed}/none/{name}")
        novel = round(size * params.novel) if name == TEST else 0
        languages = params.languages if name == TEST else params.languages_of(name)
        own = [
            draft(kind, language, at < novel, params, rng).row(f"{name}-none-{at:05d}")
            for at, (kind, language) in enumerate(_in_turn(languages, size))
        ]

        def again(row: Row, rng: random.Random = rng) -> Row:
            novel = bool(row.tags["novel"])
            return draft(str(row.tags["kind"]), row.language, novel, params, rng).row(row.id)

        refused += offline.set_apart(
            name, own, [row for part in made.values() for row in part], params.gates.near_duplicate, again
        )
        made[name] = own
    subset = count(params.calibration, params.none)
    made["calibration"] = balanced_subset(
        made["train"], subset, random.Random(f"{params.seed}/none/calibration"), lambda row: f"{row.language}/{row.tags['kind']}"
    )  # fmt: skip
    return made, {**_figures(made), "refused": refused}


def _in_turn(languages: Sequence[str], size: int) -> Iterator[tuple[Kind, str]]:
    return islice(cycle((kind, language) for kind in KINDS for language in languages), size)


def _figures(made: Mapping[str, Sequence[Row]]) -> gates.Section:
    """Rows of each split, and how varied those of train are."""
    train = made["train"]
    templates = Counter(row.tags["template"] for row in train)
    return {
        **{f"{name}_n": len(rows) for name, rows in made.items() if name != TEST},
        "test_n": len(made[TEST]),
        "templates": len(templates),
        "distinct_messages": len({row.message for row in train}),
        "distinct_2": gates.distinct_n((row.message for row in train), 2),
    }


def mixed(orders: Sequence[Row], others: Sequence[Row], seed: str) -> list[Row]:
    """The orders in their order, with the others at random places between them."""
    turns = [True] * len(orders) + [False] * len(others)
    random.Random(seed).shuffle(turns)
    left, right = iter(orders), iter(others)
    return [next(left) if is_order else next(right) for is_order in turns]
