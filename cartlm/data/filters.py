"""Why a worded message is refused: it must word its label, in its language, and nothing else. Checked before noise.

The action is not checked: no list of verbs can tell "drop" from "drop in".
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import Any

from rapidfuzz import fuzz

from cartlm.data.lexicon import LANGUAGES, Line
from cartlm.data.wording import grammar

MAX_CHARS = 400
LEAK = re.compile(r'\{\s*"|"(action|product|quantity)"\s*:')
BAD_CATEGORIES = ("Cc", "Cs", "Co")  # control characters, halves of surrogate pairs, private ones
SPECIAL = re.compile(r"</?s>|<(?:bos|eos|pad|unk|mask)>|<\|[^|<>]*\|>|</?(?:start|end)_of_turn>")
"""Special tokens as tokenizers name them."""
_PAIR = re.compile(r"\b(?:pair|par)\b")
SURE = 0.8  # confidence that a message is in another language
MIN_WORDS = 3  # without the product's: fewer do not show a language
LONG, ALIKE = 6, 85  # words of so many letters match known forms by their rapidfuzz ratio
SMALL_WORDS = {
    "a", "an", "and", "the", "of", "for", "with", "in", "on", "to", "can", "day", "de", "del", "la", "el", "los", "las", "para",
    "con", "sin", "y", "o", "i", "u", "na", "za", "od", "s", "sa", "bez",
}  # fmt: skip
UNITS = {
    "l": r"(?:l|litres?|liters?|litra|litre|litara|litros?)",
    "ml": r"(?:ml|millilitres?|milliliters?|mililitr\w*)",
    "kg": r"(?:kg|kilos?|kila|kilograms?|kilogram\w*)",
    "g": r"(?:g|gr|grams?|grama|gramos?)",
    "kom": r"(?:kom|komada?)",
}
SIZED = r"(?:size|sizes|talla|tallas|velicin\w*|broj\w*|numero)"
SIZE_WEIGHT = 1.5  # a size counts as so many words of a name: "the 64GB one"


def fold(text: str) -> str:
    """Lower case without diacritics."""
    flat = unicodedata.normalize("NFD", text.lower().replace("đ", "d"))
    return "".join(sign for sign in flat if not unicodedata.combining(sign))


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", fold(text))


def bad_sign(text: str) -> str:
    """The first character that no message has, such as half of a surrogate pair or U+FFFD; empty for none.

    Line ends and tabs are allowed. Unassigned characters may be new emoji; noncharacters (the Unicode Standard, section 23.7) never become any.
    """
    for sign in text.replace("\n", "").replace("\t", ""):
        noncharacter = 0xFDD0 <= ord(sign) <= 0xFDEF or ord(sign) & 0xFFFE == 0xFFFE
        if noncharacter or sign == "\ufffd" or unicodedata.category(sign) in BAD_CATEGORIES:
            return sign
    return ""


def refusal(
    message: str, line: Line, catalog: Sequence[Line], quantity: int, language: str, languages: Sequence[str]
) -> str:
    """Why a clean message is refused, in one or two words; empty for a sound one."""
    faults = {
        "missing": not message,
        "too long": len(message) > MAX_CHARS,
        "control sign": bad_sign(message),
        "leak": LEAK.search(message),
        "special token": SPECIAL.search(message),
    }
    if reason := next((reason for reason, found in faults.items() if found), ""):
        return reason
    if problem := product_problem(message, line, catalog):
        return problem
    if not says_quantity(message, quantity, line, language):
        return "quantity"
    return "other language" if other_language(message, line, language, languages) else ""


@cache
def _size(variant: str) -> re.Pattern[str] | None:
    """Finds a size as people write it: "64 gb" for 64GB, "2 x 1,5 litres" for 1.5L, "size 38" for EU 38, "pack of 10" for
    10-pack; but not "25kg" for 5kg.
    """
    parts = re.findall(r"\d+(?:[.,]\d+)?|[^\W\d_]+", fold(variant))
    if not parts:
        return None
    patterns = [UNITS.get(part, re.sub(r"[.,]", "[.,]", part)) for part in parts]
    ways = [r"[ /x-]*".join(patterns)]
    if parts[0] == "eu":
        ways.append(rf"{SIZED}\s*{patterns[-1]}")
    if parts[-1] == "pack":
        ways.append(rf"pack(?:age)? of {patterns[0]}")
    return re.compile(rf"(?:(?<=\dx)|(?<![\w.,'’]))(?:{'|'.join(ways)})(?!\w)")


def _has_size(line: Line, message: str) -> bool:
    size = line.variant
    if len(size) == 1 and size.isalpha():  # "s" is a Croatian preposition: only S, or after "size"
        capital = re.search(rf"(?<![\w.,'’]){size.upper()}(?!\w)", message)
        return bool(capital or re.search(rf"{SIZED}\s*{size.lower()}(?!\w)", fold(message)))
    pattern = _size(size)
    return bool(pattern and pattern.search(fold(message)))


def _forms(line: Line) -> tuple[frozenset[str], ...]:
    """For each word of the name its known forms; small words are left out where there are others."""
    product = line.product
    return _columns((product.name, *product.forms.values(), product.content))


@cache
def _columns(texts: tuple[str, ...]) -> tuple[frozenset[str], ...]:
    split = [_words(text) for text in texts if text]
    columns = [frozenset(words[i] for words in split if i < len(words)) for i in range(len(split[0]))]
    long = tuple(forms for forms in columns if max(map(len, forms)) > 2 and not forms & SMALL_WORDS)
    return long or tuple(columns)


def _fit(line: Line, words: Sequence[str], message: str) -> tuple[float, float]:
    """How well a message fits a line: name words (a misspelt or unknown form counts half) plus size; share of name words."""

    def alike(word: str, form: str) -> bool:
        return min(len(word), len(form)) >= LONG and fuzz.ratio(word, form) >= ALIKE

    hits = [
        1.0 if forms & {*words} else 0.5 * any(alike(word, form) for word in words for form in forms)
        for forms in _forms(line)
    ]
    return sum(hits) + SIZE_WEIGHT * _has_size(line, message), sum(hits) / len(hits)


def product_problem(message: str, line: Line, catalog: Sequence[Line]) -> str:
    """`product` where the message does not name it, `ambiguous` where another line fits as well, else empty."""
    words = _words(message)
    fit = _fit(line, words, message)
    if fit[0] == 0:
        return "product"
    ambiguous = any(_fit(other, words, message) >= fit for other in catalog if other is not line)
    return "ambiguous" if ambiguous else ""


@cache
def _number_phrases(language: str) -> dict[str, int]:
    """Words of a number or pack -> the number, of a language and English; longer phrases first."""
    found: dict[str, int] = {}
    for name in dict.fromkeys((language, "english")):
        for quantity, forms in [*grammar(name)["numbers"].items(), *grammar(name)["packs"].items()]:
            for form in forms if isinstance(forms, list) else [forms]:
                found.setdefault(" ".join(_words(str(form))), quantity)
    return {phrase: found[phrase] for phrase in sorted(found, key=lambda phrase: -phrase.count(" "))}


def numbers(message: str, line: Line, language: str) -> set[int]:
    """All numbers in a message, digits and words, without those of the product's name and sizes."""
    text = fold(message)
    for part in (line.variant, line.product.name, *line.product.forms.values()):
        if pattern := _size(part):
            text = pattern.sub(" ", text)
    words = " ".join(re.findall(r"\d+|[^\W\d_]+", re.sub(r"\d+[.,]\d+", " ", text)))
    phrases = dict(_number_phrases(language))
    if line.product.plural_only or {"pair", "par"} & set(line.product.units):  # a pair of jeans is one
        phrases = {phrase: quantity for phrase, quantity in phrases.items() if not _PAIR.search(phrase)}
    found = re.findall(rf"(?<!\S)(?:\d+|{'|'.join(phrases)})(?!\S)", words)
    return {int(each[:9]) if each.isdecimal() else phrases[each] for each in found}


def says_quantity(message: str, quantity: int, line: Line, language: str) -> bool:
    """Whether the message has the quantity and no other number; 1 may be left out, and "one" may be the product."""
    return numbers(message, line, language) - {1} == {quantity} - {1}


@cache
def language_detector(languages: tuple[str, ...]) -> Any:
    """lingua's detector for these languages; for one alone, among all of ours."""
    from lingua import Language, LanguageDetectorBuilder

    chosen = [getattr(Language, name.upper()) for name in (languages if len(languages) > 1 else LANGUAGES)]
    return LanguageDetectorBuilder.from_languages(*chosen).build()


def other_language(message: str, line: Line, language: str, languages: Sequence[str]) -> bool:
    """Whether a message is surely in another one of the configured languages; the product's words do not count."""
    names = {word for forms in _forms(line) for word in forms} | set(_words(line.variant))
    rest = [word for word in message.split() if not set(_words(word)) & names]
    if len(rest) < MIN_WORDS:
        return False
    detector = language_detector(tuple(sorted(languages)))
    best = detector.compute_language_confidence_values(" ".join(rest))[0]
    return best.language.name.lower() != language and best.value >= SURE
