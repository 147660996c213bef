"""Messages and catalog lines as the reader compares them: words in lower case without diacritics, and how alike two are."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from rapidfuzz.distance import JaroWinkler

# Letters that Unicode does not decompose, and the apostrophe, which people leave out.
_LETTERS = str.maketrans({"đ": "d", "ł": "l", "ø": "o", "æ": "ae", "'": "", "’": "", "`": ""})
_WORD = re.compile(r"[^\W\d_]+|\d+(?:[.,]\d+)*|\.\.\.|(?<!\S)[+-]")
_SIZE = re.compile(r"\(([^()]*)\)\s*$")
CUTOFF = 0.7  # Jaro-Winkler similarity: below it two words have nothing in common
ALIKE = 0.85  # inflected forms and typing errors of one word


@dataclass(frozen=True, slots=True)
class Word:
    """A word, a number, `...`, or a sign before a blank; `glued`: no blank before it, as `ml` in `500ml`."""

    text: str
    glued: bool


@dataclass(frozen=True, slots=True)
class Line:
    """A catalog line: the words of its name, and those of its size (numbers, units, what stands in brackets)."""

    name: tuple[str, ...]
    size: tuple[str, ...]

    @property
    def words(self) -> tuple[str, ...]:
        return (*self.name, *self.size)


def fold(text: str) -> str:
    """Lower case, without diacritics and apostrophes; compatibility letters (`½`, `ﬁ`) in their plain form."""
    decomposed = unicodedata.normalize("NFKD", text.casefold().translate(_LETTERS))
    return "".join(letter for letter in decomposed if not unicodedata.combining(letter))


def split_words(text: str) -> list[Word]:
    """The words of a text that is folded already; decimal commas become points."""
    words, end = [], -1
    for match in _WORD.finditer(text):
        words.append(Word(match[0].replace(",", "."), match.start() == end))
        end = match.end()
    return words


def split_line(text: str) -> Line:
    """A catalog line in its words: `Hand Soap (500ml)` is named hand soap, and its size is 500 ml."""
    line = fold(text)
    bracketed = _SIZE.search(line)
    name: list[str] = []
    size: list[str] = []
    number = False
    for word in split_words(line[: bracketed.start()] if bracketed else line):
        number = word.text[0].isdigit() or (number and word.glued)
        (size if number else name).append(word.text)
    size += [word.text for word in split_words(bracketed[1])] if bracketed else []
    return Line(tuple(name), tuple(size))


def similarity(one: str, other: str) -> float:
    """How alike two words are: 1 for the same, 0 below CUTOFF; numbers and words of one or two letters are the same or not.

    Jaro-Winkler similarity (rapidfuzz), in which a common beginning counts for more, as it does for inflected words.
    """
    if one == other:
        return 1.0
    if min(len(one), len(other)) < 3 or one[0].isdigit() or other[0].isdigit():
        return 0.0
    return float(JaroWinkler.similarity(one, other, score_cutoff=CUTOFF))


def rescaled(alike: float) -> float:
    """A similarity, stretched so that CUTOFF becomes 0."""
    return max(0.0, (alike - CUTOFF) / (1 - CUTOFF))
