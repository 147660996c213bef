"""Documents as token ids, with their weights in the loss and the places where attention belongs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from cartlm.pretraining.corpus import CATALOG, CHOICE, DECISION, Document
from cartlm.pretraining.guidance import Places, Targets


@dataclass
class Encoded:
    """A document in ids: `weights[i]` is the loss weight of predicting `ids[i]`.

    The others say where attention belongs, as (position that looks, positions any of which is right).
    `anchors`: from each token of a catalog line, the line's first one. `choices`: from the last tokens of a mention,
    the line that is meant. `recalls`: before each token that is copied from the catalog, the mention (before the first
    one, its last tokens). `copies`: likewise, the places where it stands after the same beginning of a line; behind the last one, the line's end.
    `meant` and `begun` say which token must be known where: at the last tokens of a mention and before an answer's
    first copied token, the one with which the line begins.
    """

    ids: list[int]
    weights: list[float]
    anchors: Places = field(default_factory=list)
    choices: Places = field(default_factory=list)
    recalls: Places = field(default_factory=list)
    copies: Places = field(default_factory=list)
    meant: Targets = field(default_factory=list)
    begun: Targets = field(default_factory=list)


def _find(needle: list[int], hay: list[int], start: int) -> tuple[int, int]:
    """`(position, length)` of the longest beginning of `needle` in `hay` from `start` on."""
    for length in range(len(needle), 0, -1):
        for at in range(start, len(hay) - length + 1):
            if hay[at : at + length] == needle[:length]:
                return at, length
    return start, 0


def _copied(line: list[int], spaced: list[int], answer: list[int], start: int) -> list[tuple[int, int]]:
    """`(position in the answer, index in the line)` of the tokens of a line that an answer copies.

    `spaced` are the tokens of the line after a blank, which may join its first letters; where the answer holds
    too little of either, nothing is returned.
    """
    at, length = _find(line, answer, start)
    if 2 * length > len(line):
        return [(at + index, index) for index in range(length)]
    at, length = _find(spaced, answer, start)
    shift = len(line) - len(spaced)
    pairs = [(at + index, index + shift) for index in range(length) if index + shift >= 0]
    return (
        [(at, index) for at, index in pairs if answer[at] == line[index]] if 2 * length > len(spaced) else []
    )


def _where(
    lines: list[list[int]], starts: list[int], at: int, spaced: list[int], answer: list[int], cursor: int
) -> Places:
    """For each token of line `at` that an answer copies from `cursor` on: its place, and where it may come from.

    Any line that begins alike up to there is right; behind the last token, the end of a line of the same words.
    """
    tokens, found = lines[at], []
    for place, index in _copied(tokens, spaced, answer, cursor):
        alike = [n for n, other in enumerate(lines) if other[: index + 1] == tokens[: index + 1]]
        found.append((place, [starts[n] + index for n in alike]))
        if index == len(tokens) - 1:
            ends = [starts[n] + len(tokens) for n in alike if len(lines[n]) == len(tokens)]
            found.append((place + 1, ends))
    return found


def encode(
    spans: Document, tokenize: Callable[[str], list[int]], bos: int, eos: int, text_weight: float = 1.0
) -> Encoded:
    """The ids of a document; the prompt and answer parts are tokenized apart.

    `text_weight` scales the weights of all but answers. Where an answer takes one of several lines that began
    alike, that token weighs CHOICE times as much.
    """
    made = Encoded([bos], [0.0])
    lines: list[list[int]] = []
    spaced: list[list[int]] = []
    starts: list[int] = []
    mention: list[int] = []
    for span in spans:
        text, answer = span.text, span.ends and span.text.startswith("\n")
        if answer:  # the newline before an answer belongs to the question, as prompt.separator does
            made.ids += (newline := tokenize("\n"))
            made.weights += [0.0] * len(newline)
            text = text[1:]
        begin, part = len(made.ids), tokenize(text)
        made.ids += part
        weight = span.weight if answer else span.weight * text_weight
        made.weights += [weight] * len(part)
        if span.rival and span.rival != span.text:
            both = zip(part, tokenize(span.rival[1:]), strict=False)
            decides = next(index for index, (one, other) in enumerate(both) if one != other)
            made.weights[begin + decides] *= DECISION
        if span.ends:
            made.ids.append(eos)
            made.weights.append(weight)
        if text.startswith(CATALOG) and not lines:
            at = begin + len(tokenize(CATALOG))
            for line in text.split("\n")[1:]:
                lines.append(tokenize(line))
                spaced.append(tokenize(" " + line))
                starts.append(at)
                made.anchors += [(at + index, [at]) for index in range(1, len(lines[-1]))]
                at += len(lines[-1]) + len(tokenize("\n"))
        elif span.mention != (0, 0):
            (line_at,) = span.lines
            # the blank before the mention is a part of its first piece
            before, until = text[: span.mention[0]].removesuffix(" "), text[: span.mention[1]]
            mention = list(range(begin + len(tokenize(before)), begin + len(tokenize(until))))
            whole = list(range(starts[line_at], starts[line_at] + len(lines[line_at])))
            made.choices += [(at, whole) for at in mention[-3:]]
            made.meant += [(at, lines[line_at][0]) for at in mention[-3:]]
        elif answer:
            cursor = 0
            for at in span.lines:
                alike = len(lines)
                places = _where(lines, starts, at, spaced[at], part, cursor)
                made.begun += [(begin + place - 1, part[place]) for place, _ in places[:1]]
                for number, (place, sources) in enumerate(places):
                    if len(sources) < alike:
                        made.weights[begin + place] *= CHOICE
                    alike = len(sources)
                    made.copies.append((begin + place - 1, sources))
                    if mention:  # only the last tokens of a mention know the line that is meant
                        made.recalls.append((begin + place - 1, mention[0 if number else -3 :]))
                    cursor = place
    return made
