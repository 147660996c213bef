"""Noun phrases: a catalog line with its quantity, in the grammar of its language."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import yaml

from cartlm.data.lexicon import Line

_SIZE = re.compile(r"(X{0,3}S|M|X{0,3}L|S/M|M/L|L/XL|\dXL|EU \S+|W\d+.*|UK \S+)")
_VOWEL_SOUND = re.compile(
    r"(?!usb|uni|eu|one|uk)[aeiou]|(led|hdmi|lcd|sd|ssd|mp|xl|m |s |l |8|11\b|18\b)", re.IGNORECASE
)


@cache
def grammar(language: str) -> dict[str, Any]:
    """The phrase grammar file of a language."""
    text = (resources.files("cartlm.data") / "grammars" / f"{language}.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text)


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


def _content(line: Line, short: bool) -> str:
    words = line.product.content.split(" ")
    return words[line.product.head] if short and line.product.head < len(words) else line.product.content


def _mass(line: Line) -> bool:
    return line.product.content == line.product.forms["one"]


def _full(line: Line, phrase: Phrase, count: str, rng: random.Random) -> str:
    text = line.text
    if line.variant and rng.random() < 0.3:
        text = text.replace("(", "").replace(")", "")
    if rng.random() < 0.3:
        if line.product.language == "english":
            text = text.lower()
        elif text[1:2].islower():  # not "uSB"
            text = text[:1].lower() + text[1:]
    if not count:
        return text
    if phrase.quantity_form == "digit":
        return rng.choice(
            [
                f"{count} {text}",
                f"{count} {text}",
                f"{count}x {text}",
                f"{text} x{count}",
                f"{count} x {text}",
            ]
        )
    return f"{count} {text}"


def _pack(language: str, quantity: int, rng: random.Random, noun: str) -> str:
    return f"{rng.choice(grammar(language)['packs'][quantity])} {noun}"


def _article(word: str) -> str:
    return "an" if _VOWEL_SOUND.match(word) else "a"


def _english(line: Line, phrase: Phrase, unit: str, rng: random.Random) -> str:
    q, form, short = phrase.quantity, phrase.quantity_form, phrase.name_form == "short"
    size = _SIZE.fullmatch(line.variant) is not None
    variant = line.variant if phrase.show_variant else ""
    before = f"{variant} " if variant and not size else ""
    after = f" in size {variant}" if variant and size else ""
    if variant and not size and rng.random() < 0.3:
        before, after = "", rng.choice([f" {variant}", f", {variant}", f" ({variant})"])
    the = "the " if phrase.definite else ""
    count = number(phrase.number_language, q, form)
    if phrase.name_form == "part":
        one = f"size {line.variant}" if size else line.variant
        if form == "none":
            return (
                f"the {one} {rng.choice(['one', 'one', _name(line, 'one', True)])}"
                if not line.product.plural_only
                else f"the {one} ones"
            )
        amount = _pack("english", q, rng, "").strip().removesuffix(" of") if form == "pack" else count
        return f"{amount} of the {one} ones"
    plural = (
        f"{grammar('english')['units'][unit][1]} of {_content(line, short)}"
        if unit
        else _name(line, "many", short)
    )
    single = (
        f"{grammar('english')['units'][unit][0]} of {_content(line, short)}"
        if unit
        else _name(line, "one", short)
    )
    if form == "none":
        if line.product.plural_only and not unit:
            return f"{the}{before}{plural}{after}"
        bare = f"{before}{single}{after}"
        if phrase.definite:
            return f"the {bare}"
        return bare if not unit and _mass(line) and rng.random() < 0.6 else f"{_article(bare)} {bare}"
    if form == "pack":
        words = _pack("english", q, rng, "").strip()
        if phrase.definite:
            return f"{words.removesuffix(' of')} of the {before}{plural}{after}"
        return f"{words} {before}{plural}{after}"
    noun = single if q == 1 and not (line.product.plural_only and not unit) else plural
    if phrase.definite and rng.random() < 0.3 and q > 1:
        return f"{count} of the {before}{plural}{after}"
    return f"{the}{count} {before}{noun}{after}"


def _spanish_variant(variant: str) -> str:
    if _SIZE.fullmatch(variant):
        return f"talla {variant}"
    return f"de {variant}" if variant[:1].isdigit() else variant


def _spanish(line: Line, phrase: Phrase, unit: str, rng: random.Random) -> str:
    q, form, short = phrase.quantity, phrase.quantity_form, phrase.name_form == "short"
    units = grammar("spanish")["units"]
    gender = units[unit][2] if unit else line.product.gender
    plural = gender in ("mp", "fp") or q > 1
    noun = (
        f"{units[unit][1 if q > 1 else 0]} de {_content(line, short)}"
        if unit
        else _name(line, "many" if q > 1 else "one", short)
    )
    feminine = gender.startswith("f")
    article = {(False, False): "el", (True, False): "la", (False, True): "los", (True, True): "las"}[
        feminine, plural
    ]
    if not plural and noun.split(" ")[0] in ("agua", "hacha", "arpa"):
        article = "el"
    variant = f" {_spanish_variant(line.variant)}" if phrase.show_variant else ""
    count = number(
        phrase.number_language, q, form, "m" if noun.startswith(("agua ", "hacha")) and q == 1 else gender
    )
    if phrase.name_form == "part":
        part = _spanish_variant(line.variant)
        part = f"de la {part}" if part.startswith("talla") else part
        if form == "none":
            return f"{article} {part}"
        if form == "pack":
            words = _pack("spanish", q, rng, "").strip()
            return f"{words} {'las' if feminine else 'los'} {part}"
        many = "las" if feminine else "los"
        if q == 1:
            one = ("una" if feminine else "uno") if form == "word" else count
            return f"{one} de {many} {part}"
        return f"{many} {count} {part}" if phrase.definite else f"{count} de {many} {part}"
    if form == "none":
        if phrase.definite:
            return f"{article} {noun}{variant}"
        some = {"m": "un", "f": "una", "mp": "unos", "fp": "unas"}[gender]
        if noun.split(" ")[0] in ("agua", "hacha"):
            some = "un"
        bare = not unit and (_mass(line) or plural) and rng.random() < 0.6
        return f"{noun}{variant}" if bare else f"{some} {noun}{variant}"
    if form == "pack":
        return _pack("spanish", q, rng, f"{noun}{variant}")
    text = f"{count} {noun}{variant}"
    return f"{article} {text}" if phrase.definite and q > 1 else text


def _croatian_variant(variant: str) -> str:
    if _SIZE.fullmatch(variant):
        return f"veličine {variant}"
    return f"od {variant}" if variant[:1].isdigit() else variant


def _croatian(line: Line, phrase: Phrase, unit: str, rng: random.Random) -> str:
    q, form, short = phrase.quantity, phrase.quantity_form, phrase.name_form == "short"
    product = line.product
    units = grammar("croatian")["units"]
    gender = units[unit][3] if unit else product.gender
    animate = not unit and gender == "m" and product.forms["acc"] != product.forms["nom"]
    variant = f" {_croatian_variant(line.variant)}" if phrase.show_variant else ""

    def counted(kind: str) -> str:
        if unit:
            return f"{units[unit][('one', 'paucal', 'many').index(kind)]} {_content(line, short)}"
        return _name(line, {"one": "acc", "paucal": "paucal", "many": "gen_pl"}[kind], short)

    count = number(phrase.number_language, q, form, gender, animate)
    if phrase.name_form == "part":
        part = _croatian_variant(line.variant)
        if form == "none":
            pronoun = {
                "m": "onog" if animate else "onaj",
                "f": "onu",
                "n": "ono",
                "fp": "one",
                "np": "ona",
                "mp": "one",
            }
            return f"{pronoun[gender]} {part}"
        amount = f"{_pack('croatian', q, rng, '').strip()} onih" if form == "pack" else count
        if unit:
            amount = (
                f"{amount} {units[unit][('one', 'paucal', 'many').index(agrees(q))]}"
                if form != "pack"
                else amount
            )
        return f"{amount} {part}"
    if form == "none":
        return f"{counted('one')}{variant}"
    if form == "pack":
        return _pack("croatian", q, rng, f"{counted('many')}{variant}")
    return f"{count} {counted(agrees(q))}{variant}"


_REALIZERS = {"english": _english, "spanish": _spanish, "croatian": _croatian}


def noun_phrase(line: Line, phrase: Phrase, rng: random.Random) -> tuple[str, str]:
    """The words for product and quantity, and the gender that a later number has to agree with."""
    language = line.product.language
    if phrase.name_form == "full":
        packs = grammar(language)["packs"].get(phrase.quantity)
        if phrase.quantity_form == "none":
            count = ""
        elif phrase.quantity_form == "pack":
            count = rng.choice(packs)
        else:
            count = number(
                phrase.number_language, phrase.quantity, phrase.quantity_form, line.product.gender or "m"
            )
        return _full(line, phrase, count, rng), line.product.gender or "m"
    units = (line.unit,) if line.unit else line.product.units
    unit = ""
    if units and not (phrase.name_form == "part" and not line.product.plural_only):
        forced = line.product.plural_only and phrase.quantity_form != "none"
        if language == "croatian" and line.product.plural_only and "par" in line.product.units:
            units = ("par",)
        # half of the shoppers name the container, and "dva para" is the only way to count trousers
        unit = rng.choice(units) if forced or rng.random() < 0.5 else ""
    if phrase.name_form == "part" and language != "croatian":
        unit = ""
    gender = line.product.gender
    if unit and language != "english":
        gender = grammar(language)["units"][unit][-1]
    return _REALIZERS[language](line, phrase, unit, rng), gender or "m"
