"""Documents as token ids, with their weights in the loss and the places where attention belongs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from base.pretraining.corpus import CATALOG, CHOICE, DECISION, Document
from base.pretraining.guidance import Places, Targets


@dataclass
class Encoded:
    """A document in ids: `weights[i]` is the loss weight of predicting `ids[i]`.

    The next four say where attention belongs, as (position that looks, positions any of which is right):
    `anchors`: from each token of a catalog line to the line's first one. `choices`: from the last tokens of a mention
    to the line that is meant. `recalls`: from before each copied token to the mention (before the first one: to its
    last tokens). `copies`: from there to the same token in all lines that begin alike; after the last one, to the
    line's end. `meant` and `begun`: the line's first token must be known at the last tokens of a mention and before an
    answer's first copied token.
    """

    ids: list[int]
    weights: list[float]
    anchors: Places = field(default_factory=list)
    choices: Places = field(default_factory=list)
    recalls: Places = field(default_factory=list)
    copies: Places = field(default_factory=list)
    meant: Targets = field(default_factory=list)
    begun: Targets = field(default_factory=list)


@dataclass(frozen=True)
class _Line:
    """A catalog line: its tokens, its tokens after a blank, and the position of its first token."""

    tokens: list[int]
    spaced: list[int]
    start: int

    @property
    def end(self) -> int:
        return self.start + len(self.tokens)


def _find(needle: list[int], hay: list[int], start: int) -> tuple[int, int]:
    """`(position, length)` of the longest beginning of `needle` in `hay` from `start` on."""
    for length in range(len(needle), 0, -1):
        for at in range(start, len(hay) - length + 1):
            if hay[at : at + length] == needle[:length]:
                return at, length
    return start, 0


def _copied(line: _Line, answer: list[int], start: int) -> list[tuple[int, int]]:
    """`(position in the answer, index in the line)` of the tokens of a line that an answer copies.

    After a blank, the line's first letters may be one token with it. Empty where the answer holds half of the line
    or less.
    """
    at, length = _find(line.tokens, answer, start)
    if 2 * length > len(line.tokens):
        return [(at + index, index) for index in range(length)]
    at, length = _find(line.spaced, answer, start)
    if 2 * length <= len(line.spaced):
        return []
    shift = len(line.tokens) - len(line.spaced)
    pairs = [(at + index, index + shift) for index in range(length) if index + shift >= 0]
    return [(at, index) for at, index in pairs if answer[at] == line.tokens[index]]


def _sources(lines: list[_Line], line: _Line, answer: list[int], start: int) -> Places:
    """For each token of `line` that an answer copies from `start` on: its place, and where it may come from.

    Any line that begins alike up to there is right; after the last token, the end of a line of the same words.
    """
    places: Places = []
    for place, index in _copied(line, answer, start):
        alike = [other for other in lines if other.tokens[: index + 1] == line.tokens[: index + 1]]
        places.append((place, [other.start + index for other in alike]))
        if index == len(line.tokens) - 1:
            ends = [other.end for other in alike if len(other.tokens) == len(line.tokens)]
            places.append((place + 1, ends))
    return places


def encode(
    spans: Document, tokenize: Callable[[str], list[int]], bos: int, eos: int, text_weight: float = 1.0
) -> Encoded:
    """The ids of a document; the prompt and answer parts are tokenized apart.

    `text_weight` scales the weights of all but answers. Where an answer takes one of several lines that began
    alike, that token weighs CHOICE times as much.
    """
    encoded = Encoded([bos], [0.0])
    ids, weights = encoded.ids, encoded.weights
    lines: list[_Line] = []
    mention: list[int] = []
    for span in spans:
        text, answer = span.text, span.ends and span.text.startswith("\n")
        if answer:  # the newline before an answer belongs to the question, as prompt.separator does
            ids += (newline := tokenize("\n"))
            weights += [0.0] * len(newline)
            text = text[1:]
        begin, part = len(ids), tokenize(text)
        ids += part
        weight = span.weight if answer else span.weight * text_weight
        weights += [weight] * len(part)
        if span.rival and span.rival != span.text:
            pairs = enumerate(zip(part, tokenize(span.rival[1:]), strict=False))
            weights[begin + next(at for at, (one, other) in pairs if one != other)] *= DECISION
        if span.ends:
            ids.append(eos)
            weights.append(weight)
        if text.startswith(CATALOG) and not lines:
            at = begin + len(tokenize(CATALOG))
            for words in text.split("\n")[1:]:
                line = _Line(tokenize(words), tokenize(" " + words), at)
                lines.append(line)
                encoded.anchors += [(place, [at]) for place in range(at + 1, line.end)]
                at = line.end + len(tokenize("\n"))
        elif span.mention != (0, 0):
            line = lines[span.lines[0]]
            # the blank before the mention is a part of its first piece
            before, until = text[: span.mention[0]].removesuffix(" "), text[: span.mention[1]]
            mention = list(range(begin + len(tokenize(before)), begin + len(tokenize(until))))
            encoded.choices += [(at, list(range(line.start, line.end))) for at in mention[-3:]]
            encoded.meant += [(at, line.tokens[0]) for at in mention[-3:]]
        elif answer:
            cursor = 0
            for index in span.lines:
                alike = len(lines)
                places = _sources(lines, lines[index], part, cursor)
                encoded.begun += [(begin + place - 1, part[place]) for place, _ in places[:1]]
                for number, (place, sources) in enumerate(places):
                    if len(sources) < alike:
                        weights[begin + place] *= CHOICE
                    alike = len(sources)
                    encoded.copies.append((begin + place - 1, sources))
                    if mention:  # only the last tokens of a mention know the line that is meant
                        encoded.recalls.append((begin + place - 1, mention[0 if number else -3 :]))
                    cursor = place
    return encoded
