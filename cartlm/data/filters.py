"""Why a worded message is refused: what a model wrote has to say its label, in its language, and nothing else.

Read before noise. Whether the action is the right one is not checked: no list of verbs would tell "drop" from "drop in".
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import cache

from rapidfuzz import fuzz

from cartlm.data.lexicon import LANGUAGES, Line
from cartlm.data.wording import grammar

MOST_CHARS = 400
LEAK = re.compile(r'\{\s*"|"(action|product|quantity)"\s*:')
SIGNS = (
    "Cc",
    "Cs",
    "Co",
)  # control signs, halves of surrogate pairs, private ones: only their own font can tell
SPECIAL = re.compile(
    r"</?s>|<(?:bos|eos|pad|unk|mask)>|<\|[^|<>]*\|>|</?(?:start|end)_of_turn>"
)  # as tokenizers name them
SURE = 0.8  # of another language, out of 1
FEWEST_WORDS = 3  # without the product's: fewer tell no language
LONG, ALIKE = 6, 85  # words of so many letters may differ so far from a known form (rapidfuzz ratio)
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
"""How people say units."""
SIZED = r"(?:size|sizes|talla|tallas|velicin\w*|broj\w*|numero)"
SIZE_WEIGHT = 1.5  # words of a name that a size is worth: "the 64GB one"


def fold(text: str) -> str:
    """Lower case without diacritics."""
    flat = unicodedata.normalize("NFD", text.lower().replace("đ", "d"))
    return "".join(sign for sign in flat if not unicodedata.combining(sign))


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", fold(text))


def bad_sign(text: str) -> str:
    """The first sign that no message has, such as half of a surrogate pair or U+FFFD; empty for none.

    A sign that Python's tables do not know yet, such as a new emoji, is sound; a noncharacter never becomes one.
    """
    return next(
        (
            sign
            for sign in text
            if unicodedata.category(sign) in SIGNS or sign == "\ufffd" or is_noncharacter(sign)
        ),
        "",
    )


def is_noncharacter(sign: str) -> bool:
    """Whether Unicode assigns no character there, ever (the Unicode Standard, section 23.7)."""
    return 0xFDD0 <= ord(sign) <= 0xFDEF or ord(sign) & 0xFFFE == 0xFFFE


def refusal(
    message: str, line: Line, catalog: Sequence[Line], quantity: int, language: str, languages: Sequence[str]
) -> str:
    """Why a clean message is refused, in one or two words; empty for a sound one."""
    if not message:
        return "missing"
    if len(message) > MOST_CHARS:
        return "too long"
    if bad_sign(message):
        return "control sign"
    if LEAK.search(message):
        return "leak"
    if SPECIAL.search(message):
        return "special token"
    if found := product_problem(message, line, catalog):
        return found
    if not says_quantity(message, quantity, line, language):
        return "quantity"
    return "other language" if other_language(message, line, language, languages) else ""


@cache
def _size(variant: str) -> re.Pattern[str] | None:
    """Finds a size as a message may have it: "64 gb" for 64GB, "2 x 1,5 litres" for 1.5L, "size 38" for EU 38, "pack of 10"
    for 10-pack; but not "25kg" for 5kg.
    """
    parts = re.findall(r"\d+(?:[.,]\d+)?|[^\W\d_]+", fold(variant))
    if not parts:
        return None
    told = [UNITS.get(part, re.escape(part).replace(r"\.", "[.,]").replace(",", "[.,]")) for part in parts]
    ways = [rf"{r'[ /x-]*'.join(told)}"]
    if parts[0] == "eu":
        ways.append(rf"{SIZED}\s*{told[-1]}")
    if parts[-1] == "pack":
        ways.append(rf"pack(?:age)? of {told[0]}")
    return re.compile(rf"(?:(?<=\dx)|(?<![\w.,'’]))(?:{'|'.join(ways)})(?!\w)")


def _has_size(line: Line, message: str) -> bool:
    if (
        len(line.variant) == 1 and line.variant.isalpha()
    ):  # "s" is a Croatian preposition: only S, or after "size"
        letter = re.escape(line.variant)
        capital = rf"(?<![\w.,'’]){letter.upper()}(?!\w)"
        return bool(
            re.search(capital, message) or re.search(rf"{SIZED}\s*{letter.lower()}(?!\w)", fold(message))
        )
    pattern = _size(line.variant)
    return bool(pattern and pattern.search(fold(message)))


def _forms(line: Line) -> tuple[frozenset[str], ...]:
    """Of each word of the name its known forms; small words are left out where there are others."""
    product = line.product
    return _columns((product.name, *product.forms.values(), product.content))


@cache
def _columns(texts: tuple[str, ...]) -> tuple[frozenset[str], ...]:
    split = [_words(text) for text in texts if text]
    columns = [frozenset(words[i] for words in split if i < len(words)) for i in range(len(split[0]))]
    long = tuple(forms for forms in columns if max(map(len, forms)) > 2 and not forms & SMALL_WORDS)
    return long or tuple(columns)


def _fit(line: Line, tokens: Sequence[str], message: str) -> tuple[float, float]:
    """How well a message fits a line: words of the name that it has (a misspelt or unknown form counts half) and the size;
    then the share of the name's words.
    """
    hits = []
    for forms in _forms(line):
        if any(token in forms for token in tokens):
            hits.append(1.0)
        elif any(
            len(token) >= LONG and fuzz.ratio(token, form) >= ALIKE
            for token in tokens
            for form in forms
            if len(form) >= LONG
        ):
            hits.append(0.5)
        else:
            hits.append(0.0)
    return sum(hits) + SIZE_WEIGHT * _has_size(line, message), sum(hits) / len(hits)


def product_problem(message: str, line: Line, catalog: Sequence[Line]) -> str:
    """`product` where the message does not name it, `ambiguous` where another line fits as well, else empty."""
    tokens = _words(message)
    mine = _fit(line, tokens, message)
    if mine[0] == 0:
        return "product"
    if any(_fit(other, tokens, message) >= mine for other in catalog if other is not line):
        return "ambiguous"
    return ""


@cache
def _phrases(language: str) -> dict[tuple[str, ...], int]:
    """Words of a number or pack -> the number, of a language and English."""
    found: dict[tuple[str, ...], int] = {}
    for name in dict.fromkeys((language, "english")):
        rules = grammar(name)
        for quantity, said in [*rules["numbers"].items(), *rules["packs"].items()]:
            for form in said if isinstance(said, list) else [said]:
                found.setdefault(tuple(_words(str(form))), quantity)
    return found


def numbers(message: str, line: Line, language: str) -> set[int]:
    """All numbers that a message says, digits and words, those of the product's name and sizes left out."""
    text = fold(message)
    for part in (line.variant, line.product.name, *line.product.forms.values()):
        if part and (pattern := _size(part)):
            text = pattern.sub(" ", text)
    text = re.sub(r"\d+[.,]\d+", " ", text)
    found, words, phrases = set[int](), re.findall(r"\d+|[^\W\d_]+", text), _phrases(language)
    longest, at = max(map(len, phrases)), 0
    in_pairs = line.product.plural_only or bool({"pair", "par"} & set(line.product.units))
    while at < len(words):
        if words[at].isdecimal():
            found.add(int(words[at][:9]))
            at += 1
            continue
        for size in range(min(longest, len(words) - at), 0, -1):
            said = tuple(words[at : at + size])
            if (number := phrases.get(said)) is not None:
                if not (in_pairs and {"pair", "par"} & set(said)):  # a pair of jeans is one
                    found.add(number)
                at += size - 1
                break
        at += 1
    return found


def says_quantity(message: str, quantity: int, line: Line, language: str) -> bool:
    """Whether the message says the quantity and no other number; of 1 nothing needs to be said, and "one" may stand
    for the product ("two of the big one").
    """
    found = numbers(message, line, language) - {1}
    return found == ({quantity} if quantity > 1 else set())


@cache
def language_detector(languages: tuple[str, ...]):  # type: ignore[no-untyped-def]
    """lingua's detector for these languages; for one alone, among all of ours."""
    from lingua import Language, LanguageDetectorBuilder

    chosen = [getattr(Language, name.upper()) for name in (languages if len(languages) > 1 else LANGUAGES)]
    return LanguageDetectorBuilder.from_languages(*chosen).build()


def other_language(message: str, line: Line, language: str, languages: Sequence[str]) -> str:
    """The language, out of the configured ones, that a message surely is in instead of its own; empty for none.

    The product's words are left out: a name may come from anywhere.
    """
    names = {word for forms in _forms(line) for word in forms} | set(_words(line.variant))
    rest = [word for word in message.split() if not set(_words(word)) & names]
    if len(rest) < FEWEST_WORDS:
        return ""
    best = language_detector(tuple(sorted(languages))).compute_language_confidence_values(" ".join(rest))[0]
    name: str = best.language.name.lower()
    return name if name != language and best.value >= SURE else ""
