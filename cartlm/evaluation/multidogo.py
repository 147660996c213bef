"""The natural set: ordering turns that people typed (MultiDoGO), as rows of our contract. English, almost only `add`.

Source, licence and caveats are in natural_messages/SOURCE.md. `candidates` takes the turns that name exactly one line
of natural_messages/menu.yaml and no other food. Two readers, who saw message and catalog but not the label, wrote down
what a shop should do (readings_a.csv, readings_b.csv); a candidate becomes a row where both agree. Nothing here is ever
trained on. `cartlm data natural` writes natural_messages/rows.jsonl and agreement.json anew.
"""

from __future__ import annotations

import csv
import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from rapidfuzz import fuzz, process

from cartlm.task.intent import Intent
from cartlm.task.rows import Row, make

FOLDER = Path(__file__).with_name("natural_messages")
ROWS = FOLDER / "rows.jsonl"
AGREEMENT = FOLDER / "agreement.json"
READINGS = ("readings_a.csv", "readings_b.csv")
MOST_A_LINE = 6  # rows of one product: every sixteenth turn is about lemonade, and an answer costs time
MIN_LINES, MAX_LINES = 5, 20  # of a catalog, as in the published dataset
LONGEST = 6  # words of a name
TYPO_CHARS, TYPO_RATIO = 6, 86  # names of so many characters may be misspelt so far (rapidfuzz ratio)

NUMBERS = {
    "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10,
    "couple": 2, "dozen": 12, **{str(number): number for number in range(1, 100)},
}  # fmt: skip
GENERIC = {
    "drink", "drinks", "pizza", "pizzas", "salad", "salads", "dessert", "desserts", "burger", "burgers", "sandwich",
    "beverage", "side",
}  # fmt: skip
REMOVE = {"cancel", "remove", "delete"}
BEYOND_THE_MESSAGE = {
    "same", "another", "instead", "change", "changed", "replace", "above", "previous", "other", "both", "each", "half",
    "combo", "meal", "without", "extra", "with", "more", "no", "not", "dont", "don't", "nothing", "nope", "else", "that",
    "this", "it", "them", "what", "which", "how", "all", "any", "of",
}  # fmt: skip
"""Words that refer to the dialogue, or ask for what an intent cannot express."""


@cache
def menu() -> dict[str, Any]:
    return dict(yaml.safe_load((FOLDER / "menu.yaml").read_text(encoding="utf-8")))


@cache
def _names() -> dict[str, str]:
    """What people call a line -> the line."""
    return {name: line for line, (_, *names) in menu()["lines"].items() for name in (*names, line.lower())}


def turns() -> list[dict[str, Any]]:
    lines = (FOLDER / "turns.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@cache
def _named_line(words: tuple[str, ...]) -> str | None:
    """The line that consecutive words name, exactly or with a typo."""
    text = " ".join(words)
    if text in _names():
        return _names()[text]
    if len(text) < TYPO_CHARS or NUMBERS.keys() & set(words):
        return None
    near = [
        name
        for name in _names()
        if len(name) >= TYPO_CHARS and name[0] == text[0] and name.count(" ") == len(words) - 1
    ]
    found = process.extractOne(text, near, scorer=fuzz.ratio, score_cutoff=TYPO_RATIO)
    return _names()[found[0]] if found else None


def _spans(words: Sequence[str]) -> list[tuple[int, int, str]]:
    """(start, end, line) of the names in a message; at each place the longest."""
    spans, start = [], 0
    while start < len(words):
        for end in range(min(len(words), start + LONGEST), start, -1):
            if line := _named_line(tuple(words[start:end])):
                spans.append((start, end, line))
                start = end - 1
                break
        start += 1
    return spans


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
    near = rng.sample(siblings, min(len(siblings), rng.choice((1, 2, 2))))
    near += rng.sample(group, min(len(group), rng.randint(1, 4)))
    rest = [other for other in lines if other != line and other not in near]
    size = rng.randint(max(MIN_LINES, len(near) + 2), MAX_LINES)
    chosen = [product, *near, *rng.sample(rest, size - len(near) - 1)]
    rng.shuffle(chosen)
    return chosen


def candidate(turn: Mapping[str, Any]) -> tuple[str, Row] | None:
    """(line, row with the converter's label) of a turn; None where it names no line or several, or what the contract has no place for."""
    words, slots = turn["text"].split(), turn["slots"].split()
    spans = _spans(words)
    if len(spans) != 1 or len(words) != len(slots):
        return None
    start, end, line = spans[0]
    others = words[:start] + words[end:]
    tagged = zip(others, slots[:start] + slots[end:], strict=True)
    food = [word for word, slot in tagged if slot not in ("O", "quantity", "size") and word not in GENERIC]
    numbers, sized = {NUMBERS[word] for word in others if word in NUMBERS} or {1}, _sized(line, others)
    if food or BEYOND_THE_MESSAGE & set(others) or len(numbers) > 1 or sized is None:
        return None
    identity = f"natural-{turn['conv']}-{turn['turn']:02d}"
    catalog = _catalog(line, *sized, random.Random(identity))
    intent = Intent("remove" if REMOVE & set(others) else "add", sized[0], numbers.pop())
    tags: dict[str, str | bool | int] = {"source": "multidogo", "catalog_lines": len(catalog)}
    return line, make(identity, "english", catalog, turn["text"], intent, tags)


@cache
def candidates() -> list[Row]:
    """At most MOST_A_LINE candidates a line, in the order of the source; equal messages count once."""
    pairs = [pair for turn in turns() if (pair := candidate(turn))]
    random.Random("natural").shuffle(pairs)
    counts: Counter[str] = Counter()
    kept: dict[str, Row] = {}
    for line, one in pairs:
        if counts[line] < MOST_A_LINE and one.message not in kept:
            counts[line] += 1
            kept[one.message] = one
    return sorted(kept.values(), key=lambda one: one.id)


def read_readings(name: str) -> dict[str, Intent | None]:
    """One reader's intents by id; None where the message has no single answer."""
    with (FOLDER / name).open(encoding="utf-8", newline="") as file:
        return {
            row["id"]: Intent(row["action"], row["product"], int(row["quantity"])) if row["action"] else None
            for row in csv.DictReader(file)
        }


def natural_rows() -> tuple[list[Row], dict[str, int | float]]:
    """The rows on whose label both readers agree, and the counts for agreement.json.

    `disagreed`: two readings differ; `unanswerable`: both find no single answer; `not_the_converter`: the agreed label
    of a row is not the converter's. Raises KeyError for a candidate without a reading.
    """
    first, second = (read_readings(name) for name in READINGS)
    agreed = [(one, first[one.id]) for one in candidates() if first[one.id] == second[one.id]]
    pairs = [(one, label) for one, label in agreed if label]
    rows = [make(one.id, one.language, one.catalog, one.message, label, one.tags) for one, label in pairs]
    n = len(candidates())
    return rows, {
        "candidates": n,
        "disagreed": n - len(agreed),
        "unanswerable": len(agreed) - len(rows),
        "kept": len(rows),
        "not_the_converter": sum(label != one.intent for one, label in pairs),
        "disagreement": (n - len(agreed)) / n,
    }
