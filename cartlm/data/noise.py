"""Noise operators: how people really type. Each is a pure function of its text and random generator.

Kinds and rates follow the measured edits of real chat text (MultiLexNorm 2: English and Spanish changed 7-8 % of tokens,
dropped letters before replaced ones, diacritics dropped by whole messages).
"""

from __future__ import annotations

import random
import re
from functools import cache
from typing import Any

from cartlm.data.config import Noise
from cartlm.data.lexicon import read_yaml

_WORD = re.compile(r"[^\W\d_]{4,}")


def words(language: str) -> dict[str, Any]:
    """Keyboard rows, chat words and diacritics of a language."""
    return read_yaml(f"noise_words/{language}.yaml")


@cache
def neighbours(language: str) -> dict[str, str]:
    """The letters beside and diagonally below or above each letter of the language's keyboard."""
    rows = ["", *words(language)["keyboard"], ""]
    return {
        letter: row[max(0, x - 1) : x] + row[x + 1 : x + 2] + above[x : x + 2] + below[max(0, x - 1) : x + 1]
        for above, row, below in zip(rows, rows[1:], rows[2:], strict=False)
        for x, letter in enumerate(row)
    }


def typo(text: str, language: str, rng: random.Random) -> str:
    """One slip inside a word of at least four letters: dropped, neighbouring, doubled or swapped letter."""
    places = [match.span() for match in _WORD.finditer(text)]
    if not places:
        return text
    start, end = rng.choice(places)
    at = rng.randrange(start + 1, end)
    kind = rng.choices(("drop", "neighbour", "double", "swap"), (0.45, 0.3, 0.15, 0.1))[0]
    letter = text[at]
    if kind == "drop":
        return text[:at] + text[at + 1 :]
    if kind == "double":
        return text[:at] + letter + text[at:]
    if kind == "swap" and at + 1 < end:
        return text[:at] + text[at + 1] + letter + text[at + 2 :]
    near = neighbours(language).get(letter.lower(), "")
    return text[:at] + (rng.choice(near) if near else letter * 2) + text[at + 1 :]


def slang(text: str, language: str, rng: random.Random) -> str:
    """Up to two words of the message become chat words."""
    table = words(language)["slang"]

    def pattern(word: str) -> re.Pattern[str]:
        return re.compile(rf"(?<!\w){re.escape(word)}(?!\w)", re.IGNORECASE)

    lowered = text.lower()
    present = [word for word in table if pattern(word.lower()).search(lowered)]
    rng.shuffle(present)
    for word in present[: rng.choice((1, 2, 2))]:
        chosen = rng.choice(table[word])
        text = pattern(word).sub(chosen.replace("\\", r"\\"), text, count=1)
    return text


def drop_diacritics(text: str, language: str, share: float, rng: random.Random) -> str:
    """Type a share of the marked letters without their mark; đ becomes dj or d."""
    table = words(language)["diacritics"]
    longest = 1 if rng.random() < 0.3 else 2
    return "".join(
        table[letter][:longest] if letter in table and rng.random() < share else letter for letter in text
    )


def join_words(text: str, rng: random.Random) -> str:
    """Leave out one blank between two words; never beside a digit, where it would change a number."""
    places = [match.start() for match in re.finditer(r"(?<=[^\W\d_]) (?=[^\W\d_])", text)]
    if not places:
        return text
    at = rng.choice(places)
    return text[:at] + text[at + 1 :]


def apply(text: str, language: str, rates: Noise, rng: random.Random) -> tuple[str, list[str]]:
    """A noisy message and the operators that changed it."""
    if rng.random() < rates.clean:
        return text, []
    clean, done = text, list[str]()

    def step(name: str, changed: str) -> None:
        nonlocal text
        if changed != text:
            done.append(name)
            text = changed

    # an operator may find nothing to change: draw again until one did, so that `clean` is the clean share
    for _ in range(20):
        if rng.random() < rates.slang:
            step("slang", slang(text, language, rng))
        if rng.random() < rates.lower_case:
            step("lower_case", text.lower())
        if rng.random() < rates.typo:
            for _ in range(rng.randint(1, rates.max_typos)):
                step("typo", typo(text, language, rng))
        if rng.random() < rates.joined_words:
            step("joined_words", join_words(text, rng))
        if words(language)["diacritics"]:
            draw = rng.random()
            if draw < rates.diacritics_all:
                step("diacritics", drop_diacritics(text, language, 1.0, rng))
            elif draw < rates.diacritics_all + rates.diacritics_mixed:
                step("diacritics_mixed", drop_diacritics(text, language, 0.5, rng))
        if done:
            break
    # two slips can undo each other: a message that reads as before is clean
    return text, list(dict.fromkeys(done)) if text != clean else []
