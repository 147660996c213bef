"""What a message wants done: words, neighbouring words and letter groups around product and quantity, for a linear classifier."""

from __future__ import annotations

from collections.abc import Sequence

from cartlm.baseline.matching import END, START, Features, Matcher, Mention
from cartlm.baseline.quantities import Number

PRODUCT, NUMBER = "<product>", "<number>"
LETTERS = (3, 4, 5)  # lengths of the letter groups, by which a misspelt word still counts


def frame_of(matcher: Matcher, mention: Mention, numbers: Sequence[Number]) -> list[str]:
    """The message with PRODUCT for words of the mention and for words that another line has, NUMBER for numbers, START and END.

    Neighbours become one: "remove 2 hand soaps" is `^ remove <product> $`.
    """
    named = {*matcher.content, *mention.indices}
    spoken = {index for each in numbers for index in range(each.start, each.end)}
    words = [START]
    for index, word in enumerate(matcher.words):
        shown = PRODUCT if index in named else NUMBER if index in spoken else word.text
        if words[-1] in (PRODUCT, NUMBER) and shown in (PRODUCT, NUMBER):
            words[-1] = PRODUCT if PRODUCT in (words[-1], shown) else NUMBER
        else:
            words.append(shown)
    return [*words, END]


def features(frame: Sequence[str]) -> Features:
    """1 for each word, each two and three neighbours, and each letter group within a word."""
    found = [" ".join(frame[at : at + count]) for count in (1, 2, 3) for at in range(len(frame) - count + 1)]
    for word in frame:
        if word.isalpha():
            edged = f"_{word}_"
            found += [f"~{edged[at : at + n]}" for n in LETTERS for at in range(len(edged) - n + 1)]
    return dict.fromkeys(found, 1.0)
