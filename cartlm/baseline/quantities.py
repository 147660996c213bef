"""Which number of a message is the quantity: digits and number words as candidates of a linear ranking, or none, which is 1."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from rapidfuzz.distance import OSA

from cartlm.baseline.matching import Candidate, Features, Matcher, score
from cartlm.baseline.text import Line, Word

LONGEST = 3  # words of a number word: "half a dozen"
MOST = 999  # a larger number is no quantity
MISSPELT = 4  # letters: a shorter word with a typing error may be any word
Numbers = Mapping[str, tuple[int, float]]
"""Words as they are spoken -> the quantity that they mean, and in what share of the rows that have them."""


@dataclass(frozen=True, slots=True)
class Number:
    """A number in a message: the words from `start` to before `end`; none for the quantity of a message without one."""

    value: int
    start: int
    end: int
    features: Features


@dataclass(frozen=True, slots=True)
class _Found:
    value: int
    start: int
    end: int
    kind: str  # digits, word, misspelt
    share: float


def phrases(texts: Sequence[str], start: int) -> list[tuple[int, str]]:
    """`(end, phrase)` of the phrases that begin at a word, the longest first."""
    ends = range(min(len(texts), start + LONGEST), start, -1)
    return [(end, " ".join(texts[start:end])) for end in ends]


def numbers(matcher: Matcher, chosen: Candidate, known: Numbers, common: Collection[str]) -> list[Number]:
    """The numbers of a message that means the line `chosen`, with their features; the last one stands for none at all.

    `common`: words that are seen often enough to tell something of the number beside them.
    """
    texts = [word.text for word in matcher.words]
    found: list[_Found] = []
    at = 0
    while at < len(texts):
        each = _number_at(texts, at, known, matcher.frame, chosen)
        found += [each] if each else []
        at = each.end if each else at + 1
    shown = [
        Number(one.value, one.start, one.end, _features(one, found, matcher, chosen, common)) for one in found
    ]
    return [*shown, Number(1, 0, 0, {"none": 1.0})]


def _number_at(
    texts: Sequence[str], at: int, known: Numbers, frame: Collection[str], chosen: Candidate
) -> _Found | None:
    """The number that begins at a word; a misspelt one only where the word is neither a frame's nor the product's."""
    for end, phrase in phrases(texts, at):
        if phrase in known:
            return _Found(known[phrase][0], at, end, "word", known[phrase][1])
    word = texts[at]
    if word.isdecimal() and word.isascii() and 0 < int(word) <= MOST:
        return _Found(int(word), at, at + 1, "digits", 1.0)
    if len(word) < MISSPELT or not word.isalpha() or word in frame or at in chosen.mention.indices:
        return None
    for other, (value, share) in known.items():
        if other[0] == word[0] and len(other) >= MISSPELT and OSA.distance(word, other, score_cutoff=1) <= 1:
            return _Found(value, at, at + 1, "misspelt", share)
    return None


def _features(
    one: _Found, found: Sequence[_Found], matcher: Matcher, chosen: Candidate, common: Collection[str]
) -> Features:
    words, mention = matcher.words, chosen.mention
    after = words[one.end] if one.end < len(words) else None
    times = (after is not None and after.text == "x" and after.glued) or (
        one.start > 0 and words[one.start - 1].text == "x" and words[one.start].glued
    )
    sizes = {word for line in matcher.lines for word in line.words}
    text = words[one.start].text
    features: Features = {
        one.kind: 1.0,
        "share": one.share,
        "times": float(times),
        "unit": float(after is not None and after.glued and not times and after.text.isalpha()),
        "of the product": float(text in chosen.line.words),
        "of a product": float(text in sizes),
        "with its unit": float(_beside(one, words, chosen.line)),
        "in mention": float(one.start in mention.indices),
        "first": float(one is found[0]),
        "last": float(one is found[-1]),
        "alone": float(len(found) == 1),
        "size": math.log10(one.value),
    }
    if mention.first is not None and mention.last is not None:
        inside = mention.first <= one.start <= mention.last
        apart = 0 if inside else min(abs(mention.first - one.end) + 1, abs(one.start - mention.last))
        features |= {
            "before the product": float(one.start < mention.first),
            "after the product": float(one.start > mention.last),
            "next to the product": float(apart == 1),
            "apart": min(apart, 10) / 10,
        }
    for side, index in (
        ("before", one.start - 1),
        ("before", one.start - 2),
        ("after", one.end),
        ("after", one.end + 1),
    ):
        word = matcher.around(index)
        if word in common or not word[0].isalnum():
            features[f"{side} {word}"] = 1.0
    if len(found) > 1:  # which of them counts is another question than whether the only one does
        features |= {f"several: {name}": value for name, value in features.items()}
    return features


def _beside(one: _Found, words: Sequence[Word], line: Line) -> bool:
    """Whether a number of the line stands beside the same word as there: `500 ml`, `size 4`."""
    text, size = words[one.start].text, line.words
    around = {words[at].text for at in (one.start - 1, one.end) if 0 <= at < len(words)}
    return any(
        size[at] == text and around & {*size[max(0, at - 1) : at], *size[at + 1 : at + 2]}
        for at in range(len(size))
    )


def best_number(candidates: Sequence[Number], weights: Mapping[str, float]) -> Number:
    """The number with the highest score; the first of equals."""
    return max(candidates, key=lambda each: score(each.features, weights))
