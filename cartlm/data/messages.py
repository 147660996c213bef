"""Messages: a phrase in a frame of the grammar, by style."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cartlm.data.wording import grammar

NOVEL_EVERY = 6  # every sixth frame of a list is kept from training for the novel slice
_SYMBOL = re.compile(r"<(\w+)>")
_OPTIONAL = re.compile(r"\s*\[([^\]]*)\]")


@dataclass(frozen=True)
class Frame:
    """A sentence of the grammar with a slot for the product: `{np}` or `{def}`."""

    id: str
    text: str
    opener: str
    tail: str
    style: str

    @property
    def definite(self) -> bool:
        return "{def}" in self.text


def expand(
    language: str, text: str, rng: random.Random, more: Mapping[str, Sequence[str]] | None = None
) -> str:
    """Replace the optional parts and symbols of a grammar line until none is left; `more` are symbols besides the grammar's."""
    symbols = {**grammar(language)["symbols"], **(more or {})}
    text = _OPTIONAL.sub(lambda match: f" {match[1]}" if rng.random() < 0.5 else "", text)
    used: set[str] = set()
    while (match := _SYMBOL.search(text)) is not None:
        # a symbol gives another line the second time: not "guests are coming and guests are coming"
        line = rng.choice([line for line in symbols[match[1]] if line not in used] or symbols[match[1]])
        used.add(line)
        text = text[: match.start()] + line + text[match.end() :]
    return text


def of_novelty(lines: Sequence[str], novel: bool) -> list[str]:
    """The lines of a list that are kept for the novel slice, or all others."""
    return [text for i, text in enumerate(lines) if (i % NOVEL_EVERY == NOVEL_EVERY - 1) == novel]


def cores(language: str, action: str, kind: str, novel: bool) -> list[tuple[str, str]]:
    """`(template id, text)` of the frames of one kind (terse, full): the novel ones, or all others."""
    return [
        (f"{language}/{action}/{kind}/{text}", text)
        for text in of_novelty(grammar(language)[action][kind], novel)
    ]


def random_frame(
    language: str, action: str, style: str, novel: bool, rng: random.Random, texts: Sequence[str] = ()
) -> Frame:
    """A random frame; all but terse ones may get an opener and a tail. `texts` replace the grammar's own frames."""
    kind = "terse" if style == "terse" or (style == "correcting" and rng.random() < 0.5) else "full"
    others = [(f"{language}/{action}/other/{text}", text) for text in texts]
    template, text = rng.choice(others or cores(language, action, kind, novel))
    lines = grammar(language)
    opener = tail = ""
    if style == "rambling":
        opener = expand(language, rng.choice(lines[f"ramble_{action}"]), rng)
    elif rng.random() < (0.15 if kind == "terse" else 0.4):
        opener = expand(language, rng.choice(lines["opener"]), rng)
    if style != "correcting" and rng.random() < (0.1 if kind == "terse" else 0.4):
        tail = expand(language, rng.choice(lines["tail"]), rng)
    return Frame(template, expand(language, text, rng), opener, tail, style)


def assemble(frame: Frame, phrase: str, correction: str, rng: random.Random) -> str:
    """The message before noise: opener, frame with its phrase, correction, tail, punctuation."""
    text = frame.text.replace("{np}", phrase).replace("{def}", phrase)
    text = f"{frame.opener} {text}{correction}{frame.tail}".strip()
    if frame.style != "terse" and rng.random() < 0.6:
        text = text[:1].upper() + text[1:]
    if text[-1] not in ".!?)" and frame.style != "terse" and rng.random() < 0.35:
        text += "?" if frame.text.endswith("?") else "."
    return text
