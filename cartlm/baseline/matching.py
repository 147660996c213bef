"""Which catalog line a message means: what a message and a line have in common, as features of a linear ranking."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from rapidfuzz import fuzz

from cartlm.baseline.text import ALIKE, Line, Word, fold, rescaled, similarity, split_line, split_words

Features = dict[str, float]
START, END = "^", "$"
NEAR = 3  # words of a mention are no further apart: "500ml bottles of shampoo"
AROUND = 2  # words before and after a mention that say whether it is meant: "no wait, ..."


@dataclass(frozen=True, slots=True)
class Mention:
    """Where a message names a line: indices of the words that do, in order; none where it does not."""

    indices: tuple[int, ...]

    @property
    def first(self) -> int | None:
        return self.indices[0] if self.indices else None

    @property
    def last(self) -> int | None:
        return self.indices[-1] if self.indices else None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A catalog line as what the message may mean."""

    line: Line
    mention: Mention
    features: Features


class Matcher:
    """A message against the lines of one catalog.

    `frame`: words that frame messages and name no product ("please", "cart"); a line has them only if it is written so.
    """

    def __init__(self, catalog: Sequence[str], message: str, frame: Collection[str]) -> None:
        self.text = fold(message)
        self.words: list[Word] = split_words(self.text)
        self.lines = [split_line(line) for line in catalog]
        self.texts = [fold(line) for line in catalog]
        self.frame = frame
        holding = Counter(word for line in self.lines for word in set(line.words))
        self._rarity = {word: math.log((len(catalog) + 1) / count) for word, count in holding.items()}
        self._alike = {word: [self._similar(word, other.text) for other in self.words] for word in holding}
        closest = [max(column, default=0.0) for column in zip(*self._alike.values(), strict=True)]
        self.content = [
            index
            for index, alike in enumerate(closest)
            if alike >= ALIKE and self.words[index].text not in frame
        ]  # of words that some line has

    def _similar(self, word: str, other: str) -> float:
        return float(word == other) if other in self.frame else similarity(word, other)

    def candidates(self) -> list[Candidate]:
        """The catalog's lines in their order, with their features."""
        return [self._candidate(place) for place in range(len(self.lines))]

    def _candidate(self, place: int) -> Candidate:
        line = self.lines[place]
        mention = self._mention(line)
        best = {word: max(self._alike[word], default=0.0) for word in line.words}
        name, size = (self._coverage(words, best) for words in (line.name, line.size))
        number = [index for index in self.content if self.words[index].text[0].isdigit()]
        title = self.texts[place].partition("(")[0].strip()
        features: Features = {
            "name": name,
            "name hits": mean(best[word] >= ALIKE for word in line.name),
            "first word": rescaled(best[line.name[0]]) if line.name else 0.0,
            "last word": rescaled(best[line.name[-1]]) if line.name else 0.0,
            "rarest word": max((self._rarity[word] * rescaled(best[word]) for word in line.name), default=0.0),
            "size": size,
            "size hits": mean(best[word] == 1 for word in line.size),
            "whole size": float(bool(line.size) and all(best[word] == 1 for word in line.size)),
            "no size": float(not line.size),
            "explains": mean(self._explains(line, index) for index in self.content),
            "explains numbers": mean(self._explains(line, index) for index in number),
            "title in message": fuzz.partial_ratio(title, self.text) / 100,
            "line in message": fuzz.partial_ratio(self.texts[place], self.text) / 100,
            "title's words": fuzz.token_set_ratio(title, self.text) / 100,
            "line's words": fuzz.token_set_ratio(self.texts[place], self.text) / 100,
        }  # fmt: skip
        return Candidate(line, mention, features | self._context(mention, max(name, size / 2)))

    def _coverage(self, words: Sequence[str], best: dict[str, float]) -> float:
        """The share of a line's words that the message has, rare ones of the catalog counting for more."""
        weight = sum(self._rarity[word] for word in words)
        return sum(self._rarity[word] * rescaled(best[word]) for word in words) / weight if weight else 0.0

    def _explains(self, line: Line, index: int) -> float:
        return rescaled(max((self._alike[word][index] for word in line.words), default=0.0))

    def _mention(self, line: Line) -> Mention:
        """Of the places that have words of a line, the one with most words of its name, then of its size; the last of equals."""
        named, sized = (
            {word: self._hits(word, least) for word in words}
            for words, least in ((line.name, ALIKE), (line.size, 1.0))
        )
        groups: list[list[int]] = []
        for index in sorted({index for hits in (*named.values(), *sized.values()) for index in hits}):
            if groups and index - groups[-1][-1] <= NEAR:
                groups[-1].append(index)
            else:
                groups.append([index])

        def words(group: list[int]) -> tuple[int, int]:
            """How many words of name and size stand there."""
            name, size = (sum(bool({*group} & {*hits}) for hits in each.values()) for each in (named, sized))
            return name, size

        best: list[int] = max(reversed(groups), key=words, default=[])
        return Mention(tuple(best))

    def _hits(self, word: str, least: float) -> list[int]:
        return [index for index, alike in enumerate(self._alike[word]) if alike >= least]

    def _context(self, mention: Mention, strength: float) -> Features:
        """How late a mention comes, and the frame words around it, each as strong as the mention is certain."""
        if mention.first is None or mention.last is None or not strength:
            return {}
        features = {"late": strength * (mention.last + 1) / len(self.words)}
        for side, indices in (
            ("before", range(mention.first - AROUND, mention.first)),
            ("after", range(mention.last + 1, mention.last + 1 + AROUND)),
        ):
            for index in indices:
                word = self.around(index)
                if word in self.frame or word in (START, END) or not word[0].isalnum():
                    features[f"{side} {word}"] = strength
        return features

    def around(self, index: int) -> str:
        """The word at an index, START before the first and END after the last."""
        return START if index < 0 else END if index >= len(self.words) else self.words[index].text


def mean(values: Iterable[float]) -> float:
    """The mean of truth values or shares; 0 of none."""
    listed = list(values)
    return sum(listed) / len(listed) if listed else 0.0


def best_of(candidates: Sequence[Candidate], weights: Mapping[str, float]) -> int:
    """The place of the line with the highest score; the first of equals."""
    scores = [score(each.features, weights) for each in candidates]
    return scores.index(max(scores))


def score(features: Features, weights: Mapping[str, float]) -> float:
    """The weighted sum; a feature that was never seen in fitting weighs nothing."""
    return sum(weights.get(name, 0.0) * value for name, value in features.items())
