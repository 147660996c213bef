"""Messages worded as people type orders: frames of everyday/<language>.yaml, numbers in any place, lines meant in any way."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import replace

from cartlm.data import menus, naming, noise, rules, spelling
from cartlm.data.config import Data, Everyday
from cartlm.data.lexicon import Line
from cartlm.data.messages import expand, of_novelty
from cartlm.data.naming import Named, everyday
from cartlm.data.wording import SIZE, Phrase, noun_phrase, number
from cartlm.task.intent import Intent
from cartlm.task.rows import Tags

QUANTITIES = {
    1: 55, 2: 20, 3: 9, 4: 6, 5: 4, 6: 3, 7: 1, 8: 1.5, 9: 0.7, 10: 3, 12: 2, 15: 1, 20: 1.2, 24: 0.6, 30: 0.6, 36: 0.2, 50: 0.4,
}  # fmt: skip
"""Quantities and their weights: a typed order is mostly for one."""
HEAD = 0.5  # of names in a few words: with the head noun among them, where that is enough
PLAIN = 0.4  # of bare messages: nothing but the phrase
OPENING, CLOSING = 0.3, 0.2
APOSTROPHES, CAPITALS = 0.35, 0.02  # of messages in lower case: "id like"; of the others: "2 TEAS PLEASE"


def frames(language: str, action: str, style: str, novel: bool) -> list[str]:
    """The frames of a style: those held out for the novel slice, or all others."""
    return of_novelty(everyday(language)[action][style], novel)


def _countable(line: Line) -> bool:
    """Whether it can be counted without a container; a pair of trousers is one thing."""
    return not (line.product.plural_only and line.product.units)


def call(line: Line, catalog: Sequence[Line], rates: Everyday, rng: random.Random) -> Named:
    """What to call a line: by a property, an everyday word or some of its words where these point at it alone."""
    described = [*naming.by_size(line, catalog), *naming.by_part(line, catalog, rng)]
    described += naming.by_twin(line, catalog, rng)
    ways = (
        (rates.described, described),
        (rates.synonym, naming.synonyms(line, catalog)),
        (rates.some_words, naming.some_words(line, catalog)),
    )
    for rate, ways_to_say in ways:
        if ways_to_say and rng.random() < rate:
            with_head = [way for way in ways_to_say if line.product.head_noun in way.product.name.split(" ")]
            return rng.choice(with_head if with_head and rng.random() < HEAD else ways_to_say)
    if rng.random() < rates.name_full or not rules.names(line, catalog).inflected:
        return Named("full", line.product)
    return Named("inflected", line.product)


def quantity_form(
    quantity: int, line: Line, named: Named, action: str, params: Data, rng: random.Random
) -> str:
    """How a quantity is said: not at all (1), before or behind the name, as a set, about, as more, as a word or digits."""
    rates, lists = params.everyday, everyday(line.product.language)
    if quantity == 1 and rng.random() < rates.quantity_none:
        return "none"
    described = named.definite or named.tail or named.one
    if not described and rng.random() < rates.behind:
        return "behind"
    if not described and named.form != "full" and _countable(line):
        if quantity in lists["collective"] and rng.random() < rates.collective:
            return "collective"
        if quantity > 2 and rng.random() < rates.approximate:
            return "approximate"
        if action == "add" and rng.random() < rates.more:
            return "more"
    return "word" if rng.random() < params.wording.quantity_word else "digit"


def _with_size(text: str, line: Line, rng: random.Random) -> str:
    """A name with its size, as people type it: behind it, in English also before it."""
    size, language = line.variant, line.product.language
    size = size.replace("-", " ") if rng.random() < 0.5 else size  # "6 piece"
    if SIZE.fullmatch(size):
        word = {"english": "size", "spanish": "talla", "croatian": "veličina"}[language]
        return f"{text} {word} {size}" if rng.random() < 0.4 else f"{text} {size}"
    if language == "english" and rng.random() < 0.6:
        return f"{size} {text}"
    of = {"english": ", ", "spanish": " de ", "croatian": " od "}[language]
    return f"{text}{of}{size}" if rng.random() < 0.4 else f"{text} {size}"


def bare(line: Line, named: Named, case: str, show: bool, rng: random.Random) -> str:
    """The name without article or number."""
    if named.form == "full":
        text = line.text.lower() if rng.random() < 0.4 else line.text
        return text if rng.random() < 0.4 else text.replace("(", "").replace(")", "")
    text = named.product.forms[case] or next(iter(named.product.forms.values()))
    return _with_size(text, line, rng) if show else text


def phrase(
    line: Line, catalog: Sequence[Line], named: Named, quantity: int, form: str, rng: random.Random
) -> str:
    """The words for product and quantity."""
    language, product = line.product.language, named.product
    lists, ending = everyday(language), "a" if product.gender.startswith("f") else "o"
    twin = rules.names(line, catalog).twin
    show = named.sized and bool(line.variant) and (twin or rng.random() < 0.15)
    one, many = ("nom", "gen_pl") if language == "croatian" else ("one", "many")
    said = Line(product, line.variant, line.unit if product.units else "", line.spelled)

    def counted(form: str) -> str:
        kind = "full" if named.form == "full" else "inflected"
        return noun_phrase(said, Phrase(quantity, form, kind, named.definite, show, language), rng)[0]

    def digits_or_word(share: float = 0.3) -> str:
        return number(language, quantity, "word" if rng.random() < share else "digit", product.gender or "m")

    if form == "none":
        if named.one:
            return named.one
        if named.definite or rng.random() < 0.5:
            return counted("none") + named.tail
        case = (
            rng.choice(("nom", "acc")) if language == "croatian" else "many" if product.plural_only else "one"
        )
        return bare(line, named, case, show, rng) + named.tail
    if form == "behind":
        name = bare(line, named, rng.choice((one, many)) if language != "croatian" else one, show, rng)
        # "size 4 2" would be read as one number, "12 uds" as a size
        counters = {variant.split(" ")[-1] for variant in product.variants if " " in variant}
        patterns = [
            each
            for each in lists["behind"]
            if not (name[-1].isdigit() and each.startswith("{name} {q}"))
            and not counters & {*each.split(" ")}
        ]
        pattern = rng.choice(patterns)
        count = digits_or_word(0.0 if "x{q}" in pattern else 0.2)
        return pattern.replace("{q}", count).replace("{name}", name)
    if form == "collective":
        return f"{rng.choice(lists['collective'][quantity])} {bare(line, named, many, show, rng)}"
    if form == "approximate":
        word = lists["approximate"]["words"].get(quantity)
        if word and rng.random() < 0.5:
            return f"{word} {bare(line, named, many, show, rng)}"
        return f"{rng.choice(lists['approximate']['before'])} {counted('digit')}"
    if form == "more":
        if quantity == 1 and lists["one_more"] and not product.plural_only:
            return f"{rng.choice(lists['one_more'])} {bare(line, named, one, show, rng)}".replace(
                "{o}", ending
            )
        return f"{rng.choice(lists['more'])} {counted(rng.choice(('digit', 'word')))}".replace("{o}", ending)
    if named.many:
        return named.many.replace("{q}", digits_or_word())
    return counted(form) + named.tail


def typed(text: str, language: str, rates: Everyday, rng: random.Random) -> str:
    """The message as it is typed: in lower case without punctuation, or with a capital at the start and a full stop."""
    if rng.random() < rates.lower_case:
        text = text.lower()
        if rng.random() < APOSTROPHES:
            text = text.replace("'", "")
        return text + (rng.choice((".", "!", "..", "?")) if rng.random() < 0.1 else "")
    if rng.random() < CAPITALS:
        return text.upper()
    if language == "english":
        text = re.sub(r"\bi\b", "I", text)
    # each sentence begins with a capital
    text = re.sub(r"(^|[.!?] )(\w)", lambda match: match[1] + match[2].upper(), text)
    return text + ("." if rng.random() < 0.4 and text[-1].isalnum() else "")


def assemble(frame: str, said: str, language: str, rates: Everyday, rng: random.Random) -> str:
    """The message before noise: an opening, the frame with its phrase, a closing."""
    lists = everyday(language)
    text = expand(language, frame, rng).replace("{np}", said).replace("{def}", said)
    if rng.random() < OPENING:
        text = f"{rng.choice(lists['openings'])}{rng.choice((', ', ', ', '. ', ' ', '! ', '... '))}{text}"
    if rng.random() < CLOSING:
        text += rng.choice(lists["closings"])
    return typed(text, language, rates, rng)


def word(
    language: str, action: str, line: Line, catalog: list[Line], novel: bool, params: Data, rng: random.Random
) -> rules.Draft:
    """Word one label; `novel` picks the held-out frames."""
    rates = params.everyday
    style = "aside" if rng.random() < rates.aside else "order"
    if action == "add" and rng.random() < rates.bare:
        style = "bare"  # nobody takes something out by its name alone
    choices = frames(language, action, style, novel)
    frame = choices[0] if style == "bare" and not novel and rng.random() < PLAIN else rng.choice(choices)
    named = call(line, catalog, rates, rng)
    changed = named.form in ("some_words", "synonym", "property", "comparison")
    if (named.one and not named.many) or (changed and not _countable(line)):
        quantity, form = 1, "none"
    else:
        quantity = rng.choices(list(QUANTITIES), list(QUANTITIES.values()))[0]
        form = quantity_form(quantity, line, named, action, params, rng)
    if "{def}" in frame and named.form in ("inflected", "some_words", "synonym"):
        named = replace(named, definite=form in ("none", "digit", "word"))
    said = phrase(line, catalog, named, quantity, form, rng)
    clean = assemble(frame, said, language, rates, rng)
    message, operators = noise.apply(clean, language, params.noise, rng)
    template = f"{language}/{action}/{style}/{frame}"
    tags: Tags = {
        "phrasing": "everyday",
        "style": style,
        "correction": "none",
        "quantity_form": form,
        "name_form": named.form,
        "twins": rules.names(line, catalog).twin,
        "noise": "+".join(operators) or "clean",
        "switch": "none",
        "template": f"{template} {form}" if style == "bare" else template,
        "novel": novel,
        "catalog_lines": len(catalog),
    }
    return rules.Draft(language, catalog, Intent(action, line.text, quantity), message, tags, clean, said)


def draft(language: str, action: str, novel: bool, params: Data, rng: random.Random) -> rules.Draft:
    """One random labelled message; a novel one has a held-out product and a held-out frame."""
    rates, is_menu = params.everyday, rng.random() < params.everyday.menus
    if is_menu:
        line, catalog = menus.sample(language, novel, params.catalog, rng)
    else:
        line = rules.sample_line(rng.choice(rules.products(language, novel)), rng)
        catalog = rules.sample_catalog(line, params.catalog, rng)
    if is_spelled := rng.random() < rates.spelled:
        at = next(i for i, other in enumerate(catalog) if other is line)
        catalog = spelling.respell(catalog, rng)
        line = catalog[at]
    has_signs = not is_spelled and rates.signs > 0 and rng.random() < rates.signs
    if has_signs:
        at = next(i for i, other in enumerate(catalog) if other is line)
        plain, catalog = line.text, spelling.with_signs(catalog, rng)
        line = catalog[at]
        has_signs = line.text != plain  # other lines' signs are nothing that the row asks for
    made = word(language, action, line, catalog, novel, params, rng)
    made.tags.update(
        lines="menu" if is_menu else "shop",
        spelling="own" if is_spelled else "signs" if has_signs else "plain",
    )
    return made
