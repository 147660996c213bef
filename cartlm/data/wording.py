"""Noun phrases: a catalog line with its quantity, in the grammar of its language."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import Any

from cartlm.data.lexicon import Line, read_yaml

SIZE = re.compile(r"(X{0,3}S|M|X{0,3}L|S/M|M/L|L/XL|\dXL|EU \S+|W\d+.*|UK \S+)")
_VOWEL_SOUND = re.compile(
    r"(?!usb|uni|eu|one|uk)[aeiou]|(led|hdmi|lcd|sd|ssd|mp|xl|m |s |l |8|11\b|18\b)", re.IGNORECASE
)


def grammar(language: str) -> dict[str, Any]:
    """The phrase grammar file of a language."""
    return read_yaml(f"grammars/{language}.yaml")


@dataclass(frozen=True)
class Phrase:
    """How one message names product and quantity.

    `quantity_form`: digit, word, pack ("a dozen") or none (only for 1). `name_form`: full (the catalog
    line), inflected (the whole name in the grammar of the message), short (its head noun) or part (the
    size alone: "the 64GB one"). `number_language` may differ from the product's (code-switching).
    """

    quantity: int
    quantity_form: str
    name_form: str
    definite: bool
    show_variant: bool
    number_language: str


def agrees(quantity: int) -> str:
    """Croatian agreement of a counted noun: `one` (1, 21), `paucal` (2-4, 22-24) or `many`."""
    if quantity % 10 == 1 and quantity % 100 != 11:
        return "one"
    return "paucal" if quantity % 10 in (2, 3, 4) and quantity % 100 not in (12, 13, 14) else "many"


def number(language: str, quantity: int, form: str, gender: str = "m", animate: bool = False) -> str:
    """The quantity as digits or as a word that agrees in gender (m, f, n)."""
    words = grammar(language)["numbers"]
    if form == "digit" or quantity not in words:
        return str(quantity)
    word = words[quantity]
    if isinstance(word, list):
        word = "jednog" if animate and quantity == 1 else word["mfn".index(gender[0])]
    if language == "spanish" and quantity == 1:
        return "una" if gender.startswith("f") else "un"
    return str(word)


def _name(line: Line, form: str, short: bool) -> str:
    text = line.product.forms[form]
    return text.split(" ")[line.product.head] if short else text


def _noun(line: Line, phrase: Phrase, unit: str, unit_form: int, form: str, of: str) -> str:
    """The product's name in a form, or its container in one: "two bottles of milk"."""
    product, short = line.product, phrase.name_form == "short"
    if not unit:
        return _name(line, form, short)
    words = product.content.split(" ")
    content = words[product.head] if short and product.head < len(words) else product.content
    return " ".join(filter(None, (grammar(product.language)["units"][unit][unit_form], of, content)))


def _gender(line: Line, unit: str) -> str:
    """The gender of the container or the product; English has none."""
    if unit and line.product.language != "english":
        return str(grammar(line.product.language)["units"][unit][-1])
    return line.product.gender


def _mass(line: Line) -> bool:
    return line.product.content == line.product.forms["one"]


def _pack(language: str, quantity: int, rng: random.Random) -> str:
    return str(rng.choice(grammar(language)["packs"][quantity]))


def _english(line: Line, phrase: Phrase, unit: str, rng: random.Random) -> str:
    q, form, variant, product = phrase.quantity, phrase.quantity_form, line.variant, line.product
    size = SIZE.fullmatch(variant) is not None
    before = after = ""
    if phrase.show_variant and variant:
        before, after = ("", f" in size {variant}") if size else (f"{variant} ", "")
        if not size and rng.random() < 0.3:
            before, after = "", rng.choice([f" {variant}", f", {variant}", f" ({variant})"])
    count = number(phrase.number_language, q, form)
    pack = _pack("english", q, rng) if form == "pack" else ""
    if phrase.name_form == "part":
        which = f"size {variant}" if size else variant
        if form == "none":
            some = ["ones"] if product.plural_only else ["one", "one", _name(line, "one", True)]
            return f"the {which} {rng.choice(some) if len(some) > 1 else 'ones'}"
        return f"{pack.removesuffix(' of') or count} of the {which} ones"

    def noun(plural: bool) -> str:
        return f"{before}{_noun(line, phrase, unit, plural, 'many' if plural else 'one', 'of')}{after}"

    the, no_singular = "the " if phrase.definite else "", product.plural_only and not unit
    if form == "none":
        if phrase.definite or no_singular:
            return f"{the}{noun(no_singular)}"
        some_of_it = not unit and _mass(line) and rng.random() < 0.6
        return (
            noun(False) if some_of_it else f"{'an' if _VOWEL_SOUND.match(noun(False)) else 'a'} {noun(False)}"
        )
    if form == "pack":
        return (
            f"{pack.removesuffix(' of')} of the {noun(True)}" if phrase.definite else f"{pack} {noun(True)}"
        )
    if phrase.definite and rng.random() < 0.3 and q > 1:
        return f"{count} of the {noun(True)}"
    return f"{the}{count} {noun(q > 1 or no_singular)}"


def _spanish(line: Line, phrase: Phrase, unit: str, rng: random.Random) -> str:
    q, form = phrase.quantity, phrase.quantity_form
    gender = _gender(line, unit)
    feminine, plural = gender.startswith("f"), gender in ("mp", "fp") or q > 1
    noun = _noun(line, phrase, unit, q > 1, "many" if q > 1 else "one", "de")
    el_agua = noun.split(" ")[0] in ("agua", "hacha")  # feminine, with masculine articles
    los = "las" if feminine else "los"
    the = los if plural else "la" if feminine and not el_agua else "el"
    variant = f"talla {line.variant}" if SIZE.fullmatch(line.variant) else line.variant
    variant = f"de {variant}" if variant[:1].isdigit() else variant
    un_agua = q == 1 and noun.startswith(("agua ", "hacha"))
    count = number(phrase.number_language, q, form, "m" if un_agua else gender)
    pack = _pack("spanish", q, rng) if form == "pack" else ""
    if phrase.name_form == "part":
        part = f"de la {variant}" if variant.startswith("talla") else variant
        if form == "none":
            return f"{the} {part}"
        if form == "pack":
            return f"{pack} {los} {part}"
        if q == 1:
            one = ("una" if feminine else "uno") if form == "word" else count
            return f"{one} de {los} {part}"
        return f"{los} {count} {part}" if phrase.definite else f"{count} de {los} {part}"
    noun = f"{noun} {variant}" if phrase.show_variant else noun
    if form == "none" and not phrase.definite:
        some = "un" if el_agua else {"m": "un", "f": "una", "mp": "unos", "fp": "unas"}[gender]
        bare = not unit and (_mass(line) or plural) and rng.random() < 0.6
        return noun if bare else f"{some} {noun}"
    if form == "none":
        return f"{the} {noun}"
    if form == "pack":
        return f"{pack} {noun}"
    return f"{the} {count} {noun}" if phrase.definite and q > 1 else f"{count} {noun}"


_PRONOUNS = {"m": "onaj", "f": "onu", "n": "ono", "fp": "one", "np": "ona", "mp": "one"}
_CASES = {"one": "acc", "paucal": "paucal", "many": "gen_pl"}


def _croatian(line: Line, phrase: Phrase, unit: str, rng: random.Random) -> str:
    q, form, product = phrase.quantity, phrase.quantity_form, line.product
    gender = _gender(line, unit)
    animate = not unit and gender == "m" and product.forms["acc"] != product.forms["nom"]
    variant = f"veličine {line.variant}" if SIZE.fullmatch(line.variant) else line.variant
    variant = f"od {variant}" if variant[:1].isdigit() else variant
    count = number(phrase.number_language, q, form, gender, animate)
    pack = _pack("croatian", q, rng) if form == "pack" else ""
    agreement = "many" if form == "pack" else "one" if form == "none" else agrees(q)
    if phrase.name_form == "part":
        if form == "none":
            return f"{'onog' if animate else _PRONOUNS[gender]} {variant}"
        if form == "pack":
            return f"{pack} onih {variant}"
        counted = (
            f"{count} {grammar('croatian')['units'][unit][list(_CASES).index(agreement)]}" if unit else count
        )
        return f"{counted} {variant}"
    noun = _noun(line, phrase, unit, list(_CASES).index(agreement), _CASES[agreement], "")
    noun = f"{noun} {variant}" if phrase.show_variant else noun
    return noun if form == "none" else f"{pack or count} {noun}"


_REALIZERS = {"english": _english, "spanish": _spanish, "croatian": _croatian}


def noun_phrase(line: Line, phrase: Phrase, rng: random.Random) -> tuple[str, str]:
    """The words for product and quantity, and the gender that a later number has to agree with."""
    product, language = line.product, line.product.language
    if phrase.name_form == "full":
        return _catalog_line(line, phrase, rng), product.gender or "m"
    units = (line.unit,) if line.unit else product.units
    unit, part = "", phrase.name_form == "part"
    if units and not (part and not product.plural_only):
        forced = product.plural_only and phrase.quantity_form != "none"
        if language == "croatian" and product.plural_only and "par" in product.units:
            units = ("par",)
        # half of the shoppers name the container, and "dva para" is the only way to count trousers
        unit = rng.choice(units) if forced or rng.random() < 0.5 else ""
    if part and language != "croatian":
        unit = ""
    return _REALIZERS[language](line, phrase, unit, rng), _gender(line, unit) or "m"


def _catalog_line(line: Line, phrase: Phrase, rng: random.Random) -> str:
    """The whole catalog line, nearly as it is written, with the quantity."""
    count, quantity = "", phrase.quantity
    if phrase.quantity_form == "pack":
        count = _pack(line.product.language, quantity, rng)
    elif phrase.quantity_form != "none":
        count = number(phrase.number_language, quantity, phrase.quantity_form, line.product.gender or "m")
    text = line.text
    if line.variant and rng.random() < 0.3:
        text = text.replace("(", "").replace(")", "")
    if rng.random() < 0.3:
        if line.product.language == "english":
            text = text.lower()
        elif text[1:2].islower():  # not "uSB"
            text = text[:1].lower() + text[1:]
    if phrase.quantity_form != "digit":
        return f"{count} {text}".strip()
    shown = f"{count} {text}"
    return rng.choice((shown, shown, f"{count}x {text}", f"{text} x{count}", f"{count} x {text}"))
