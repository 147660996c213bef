"""The natural set: ordering turns that people typed (MultiDoGO), as rows of our contract. English, almost only `add`.

Source, licence and caveats stand in natural_messages/SOURCE.md. `candidates` takes the turns that name exactly one line
of natural_messages/menu.yaml and nothing else to eat; two readers who saw message and catalog, not the label, wrote
down what a shop should do (readings_a.csv, readings_b.csv); a candidate becomes a row where both agree. Nothing here is
ever trained on. `cartlm data natural` makes natural_messages/rows.jsonl and agreement.json anew.
"""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from rapidfuzz import fuzz

from cartlm.task.intent import Intent
from cartlm.task.rows import Row, make

FOLDER = Path(__file__).with_name("natural_messages")
ROWS = FOLDER / "rows.jsonl"
AGREEMENT = FOLDER / "agreement.json"
READINGS = ("readings_a.csv", "readings_b.csv")
COLUMNS = ("id", "action", "product", "quantity")
MOST_A_LINE = 6  # rows of one product: every sixteenth turn is about lemonade, and an answer costs time
MIN_LINES, MAX_LINES = 5, 20  # of a catalog, as in the published dataset
LONGEST = 6  # words of a name
TYPO_CHARS, TYPO_RATIO = 6, 86  # names of so many characters may be misspelt so far (rapidfuzz ratio)

NUMBERS = {
    word: i
    for i, word in enumerate(
        ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"], 1
    )
}
NUMBERS |= {"couple": 2, "dozen": 12} | {str(i): i for i in range(1, 100)}
GENERIC = {
    "drink",
    "drinks",
    "pizza",
    "pizzas",
    "salad",
    "salads",
    "dessert",
    "desserts",
    "burger",
    "burgers",
    "sandwich",
    "beverage",
    "side",
}
REMOVE = {"cancel", "remove", "delete"}
ELSEWHERE = {
    "same",
    "another",
    "instead",
    "change",
    "changed",
    "replace",
    "above",
    "previous",
    "other",
    "both",
    "each",
    "half",
    "combo",
    "meal",
    "without",
    "extra",
    "with",
    "more",
    "no",
    "not",
    "dont",
    "don't",
    "nothing",
    "nope",
    "else",
    "that",
    "this",
    "it",
    "them",
    "what",
    "which",
    "how",
    "all",
    "any",
    "of",
}


@dataclass(frozen=True)
class Candidate:
    """A turn that names one line: its catalog, and the label that the converter reads from it."""

    id: str
    message: str
    catalog: list[str]
    intent: Intent


@cache
def menu() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((FOLDER / "menu.yaml").read_text(encoding="utf-8"))
    return found


@cache
def _names() -> dict[str, str]:
    """What people call a line -> the line."""
    return {name: line for line, (_, *names) in menu()["lines"].items() for name in (*names, line.lower())}


def turns() -> list[dict[str, Any]]:
    lines = (FOLDER / "turns.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def _named(words: Sequence[str]) -> str | None:
    """The line that a window of words names, exactly or with a typo."""
    text = " ".join(words)
    if text in _names():
        return _names()[text]
    if len(text) < TYPO_CHARS or NUMBERS.keys() & set(words):
        return None
    near = [
        (fuzz.ratio(text, name), name)
        for name in _names()
        if len(name) >= TYPO_CHARS and name[0] == text[0] and name.count(" ") == len(words) - 1
    ]
    score, name = max(near, default=(0, ""))
    return _names()[name] if score >= TYPO_RATIO else None


def _spans(words: Sequence[str]) -> list[tuple[int, int, str]]:
    """(start, end, line) of the names in a message, the longest first to be taken at each place."""
    found, start = [], 0
    while start < len(words):
        for end in range(min(len(words), start + LONGEST), start, -1):
            if line := _named(words[start:end]):
                found.append((start, end, line))
                start = end - 1
                break
        start += 1
    return found


def _quantity(words: Sequence[str]) -> int | None:
    """The one number among the words, 1 for none, None for several."""
    found = {NUMBERS[word] for word in words if word in NUMBERS}
    return found.pop() if len(found) == 1 else None if found else 1


def _sized(line: str, words: Sequence[str]) -> tuple[str, list[str]] | None:
    """The line in the size that the words name, and its other sizes; None where that does not fit."""
    sizes = [size for size in menu()["sizes"] if size.lower() in words]
    if not sizes:
        return line, []
    if len(sizes) > 1 or menu()["lines"][line][0] not in menu()["sized"]:
        return None
    return f"{line} ({sizes[0]})", [f"{line} ({size})" for size in menu()["sizes"] if size not in sizes]


def _catalog(line: str, product: str, siblings: Sequence[str], rng: random.Random) -> list[str]:
    """The product among other sizes, lines of its group, and others of the menu, shuffled."""
    lines = menu()["lines"]
    group = [other for other, (kind, *_) in lines.items() if kind == lines[line][0] and other != line]
    near = [
        *rng.sample(siblings, min(len(siblings), rng.choice((1, 2, 2)))),
        *rng.sample(group, min(len(group), rng.randint(1, 4))),
    ]
    rest = [other for other in lines if other != line and other not in near]
    size = rng.randint(max(MIN_LINES, len(near) + 2), MAX_LINES)
    chosen = [product, *near, *rng.sample(rest, size - len(near) - 1)]
    rng.shuffle(chosen)
    return chosen


def candidate(turn: Mapping[str, Any]) -> tuple[str, Candidate] | None:
    """(line, candidate) of a turn; None where it names no line or several, or what the contract has no place for."""
    words, slots = turn["text"].split(), turn["slots"].split()
    spans = _spans(words)
    if len(spans) != 1 or len(words) != len(slots):
        return None
    start, end, line = spans[0]
    rest = [
        (word, slot) for i, (word, slot) in enumerate(zip(words, slots, strict=True)) if not start <= i < end
    ]
    others = [word for word, _ in rest]
    food = [word for word, slot in rest if slot not in ("O", "quantity", "size") and word not in GENERIC]
    quantity, sized = _quantity(others), _sized(line, others)
    if food or ELSEWHERE & set(others) or quantity is None or sized is None:
        return None
    identity = f"natural-{turn['conv']}-{turn['turn']:02d}"
    catalog = _catalog(line, *sized, random.Random(identity))
    action = "remove" if REMOVE & set(others) else "add"
    return line, Candidate(identity, turn["text"], catalog, Intent(action, sized[0], quantity))


def candidates() -> list[Candidate]:
    """At most MOST_A_LINE candidates a line, in the order of the source; two of the same message are one."""
    found = [one for turn in turns() if (one := candidate(turn))]
    random.Random("natural").shuffle(found)
    counts: dict[str, int] = {}
    kept: dict[str, Candidate] = {}
    for line, made in found:
        if counts.get(line, 0) < MOST_A_LINE and made.message not in kept:
            counts[line] = counts.get(line, 0) + 1
            kept[made.message] = made
    return sorted(kept.values(), key=lambda made: made.id)


def readings(name: str) -> dict[str, Intent | None]:
    """What one reader wrote down, by id; None where the message has no single answer."""
    with (FOLDER / name).open(encoding="utf-8", newline="") as file:
        return {
            row["id"]: Intent(row["action"], row["product"], int(row["quantity"])) if row["action"] else None
            for row in csv.DictReader(file)
        }


@dataclass(frozen=True)
class Agreement:
    """How far the readers agree with each other, and both with the converter."""

    candidates: int
    disagreed: int  # two readings that differ, one "no single answer" included
    unanswerable: int  # both say that there is no single answer
    kept: int
    not_the_converter: int  # kept rows whose agreed label is another one than the converter's

    def metrics(self) -> dict[str, int | float]:
        return {**vars(self), "disagreement": self.disagreed / self.candidates}


def rows() -> tuple[list[Row], Agreement]:
    """The rows on whose label both readers agree. Raises KeyError for a candidate that one of them did not read."""
    first, second = (readings(name) for name in READINGS)
    made, every = [], candidates()
    disagreed = unanswerable = other = 0
    for one in every:
        label, again = first[one.id], second[one.id]
        if label != again:
            disagreed += 1
        elif label is None:
            unanswerable += 1
        else:
            other += label != one.intent
            tags: dict[str, str | bool | int] = {"source": "multidogo", "catalog_lines": len(one.catalog)}
            made.append(make(one.id, "english", one.catalog, one.message, label, tags))
    return made, Agreement(len(every), disagreed, unanswerable, len(made), other)
